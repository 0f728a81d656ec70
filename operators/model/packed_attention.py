"""Texts one behind the other in a single row: nothing is padded, and nothing masked.

All of a model but its attention treats each token by itself, so it need not know where a text ends.
Attention is done here, for texts of the same length at a time.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function

Tensor: TypeAlias = torch.Tensor

PACKED = "rowvec_packed"
"""What transformers knows this attention by."""

_HARMLESS = {"position_ids", "use_cache"}
"""What models hand on to their attention and this one has no use for."""

_SHORT = 64
"""Up to this length, PyTorch's fused attention loses more by its small products than it saves."""


class Run(NamedTuple):
    """Texts of the same length that lie one behind the other."""

    texts: int
    length: int

    @property
    def tokens(self) -> int:
        """Of all of them."""
        return self.texts * self.length


def runs_of(lengths: Sequence[int]) -> list[Run]:
    """Neighbours of the same length, together."""
    return [Run(len(list(same)), length) for length, same in groupby(lengths)]


def register() -> None:
    """Tell transformers of this attention. Doing so again changes nothing."""
    AttentionInterface.register(PACKED, attend)
    AttentionMaskInterface.register(PACKED, _no_mask)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    runs: Sequence[Run],
    **others: object,
) -> tuple[Tensor, None]:
    """Each token attends to all tokens of its own text; as transformers wants it.

    Args:
        module: The layer.
        query: Of shape (1, heads, tokens, size of a head), like the other two.
        key: The same.
        value: The same.
        attention_mask: None: there is nothing to hide.
        scaling: Of the products.
        dropout: 0: nobody trains here.
        runs: What the tokens are, in their order.
        others: What only some kinds of attention have; none of it is implemented.

    Raises:
        ValueError: The model wants more than this.
    """
    wanted = {
        name for name, setting in others.items() if setting is not None and setting is not False
    }
    if (
        wanted - _HARMLESS  # guard: model-packing-kinds
        or attention_mask is not None
        or dropout
        or getattr(module, "is_causal", True)
        or not query.shape == key.shape == value.shape
    ):
        raise ValueError("this kind of attention is not implemented")
    # (heads, tokens, size of a head)
    every = [torch.split(each[0], [run.tokens for run in runs], 1) for each in (query, key, value)]
    parts = [_attend(run, *each, scaling=scaling) for run, *each in zip(runs, *every, strict=True)]
    return torch.cat(parts).unsqueeze(0), None


def _attend(run: Run, *states: Tensor, scaling: float) -> Tensor:
    """The same of one run; of shape (tokens, heads, size of a head)."""
    # (texts, heads, length, size of a head)
    query, key, value = (each.view(-1, *run, each.shape[2]).transpose(0, 1) for each in states)
    if run.length > _SHORT:
        made = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
    else:
        scores = (query @ key.transpose(-1, -2)).mul_(scaling)
        made = scores.softmax(-1) @ value
    return made.transpose(1, 2).flatten(0, 1)


def _no_mask(*, mask_function: object, **_: object) -> None:
    if mask_function is not bidirectional_mask_function:  # guard: model-packing-masks
        raise ValueError("this kind of mask is not implemented")
