"""Attention over texts that are concatenated in one row, so that no padding and no mask is needed.

All other parts of a model treat each token by itself, so they need not know where a text ends.
Attention is calculated here, for texts of the same length together.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function

Tensor: TypeAlias = torch.Tensor

PACKED = "rowvec_packed"
"""The name under which transformers knows this attention."""

_HARMLESS = {"position_ids", "use_cache"}
"""Arguments that models pass to their attention and that have no effect here."""

_SHORT = 64
"""Up to this length, plain products are faster than PyTorch's fused attention."""


class Run(NamedTuple):
    """Neighbouring texts of the same length."""

    texts: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of all its texts."""
        return self.texts * self.length


def runs_of(lengths: Sequence[int]) -> list[Run]:
    """Group neighbouring texts of the same length."""
    return [Run(len(list(same)), length) for length, same in groupby(lengths)]


def register() -> None:
    """Register this attention with transformers; a second call changes nothing."""
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
    """Let each token attend to all tokens of its own text; the signature is that of transformers.

    Args:
        module: The attention layer.
        query: Shape (1, heads, tokens, size of a head).
        key: Same shape as `query`.
        value: Same shape as `query`.
        attention_mask: Must be None: nothing is padded.
        scaling: Factor of the scores.
        dropout: Must be 0: no training happens here.
        runs: The texts that the tokens belong to, in order.
        others: Arguments of other kinds of attention; those that have an effect are refused.

    Raises:
        ValueError: The model asks for a kind of attention that is not implemented.
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
    """`attend` for one run; shape (tokens, heads, size of a head)."""
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
