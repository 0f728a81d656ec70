"""What a loaded network is tried for before it may embed; a wrong vector looks like any other.

The measure is always a text alone, calculated by transformers' own code without padding.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from operators.model.files import model_error

Tensor: TypeAlias = torch.Tensor

_SAMPLE_LENGTHS = (70, 9, 5, 5, 2)
"""Lengths of the texts on which a model is tried: above and below the length from which
`packed_attention` calculates differently."""

_SAME_VECTOR = 0.9999
"""Cosine above which two readings of one text are the same but for rounding, in float32."""

_SAME_ROUNDED = 0.99
"""The same in types of two bytes."""


def sample(vocabulary: int, special: Sequence[int], limit: int) -> list[list[int]]:
    """Token ids of texts on which a model is tried.

    Args:
        vocabulary: How many tokens the model knows.
        special: Tokens that a model may treat in a special way; one text spells them out.
        limit: The most tokens of a text.
    """
    drawn = np.random.default_rng(0)
    lengths = [length for length in _SAMPLE_LENGTHS if length <= limit]
    # No two are alike: otherwise it would not show if one text attended to another.
    # guard: model-packing-sample
    rows = [drawn.integers(vocabulary, size=length).tolist() for length in lengths]
    spelled = rows[-1][:1]
    for token in special:
        spelled += [token, *drawn.integers(vocabulary, size=2).tolist()]
    return [*rows, *([spelled] if len(spelled) <= limit else [])]


def check_decoder(name: str, config: Any, pooling: str, *, allowed: bool) -> None:
    """Refuse a decoder that is not pooled at the end of a text, or that was trained as an encoder.

    Args:
        name: The model's.
        config: Its configuration, as transformers understands it.
        pooling: How it is pooled.
        allowed: Whether somebody has said how a decoder is pooled.

    Raises:
        FatalError: It must not be a decoder.
    """
    if pooling == "cls":
        raise model_error(
            name, "is a decoder: its first token knows nothing of the text", "Set pooling to last"
        )
    if getattr(config, "is_causal", None) is False:  # guard: model-causal
        raise model_error(
            name,
            "sets is_causal to false in config.json, but the code that transformers has for it is a "
            "decoder's",
            "Choose a model that transformers knows by itself",
        )
    if not allowed:
        raise model_error(
            name,
            "is a decoder, and does not say how to pool it",
            "Choose an encoder; or set pooling to last if the model was trained for that",
        )


def check_company(name: str, config: Any, alone: Tensor, together: Tensor) -> None:
    """Refuse a model in which a text's vector depends on the texts that share its batch.

    Args:
        name: The model's.
        config: Its configuration, as transformers understands it.
        alone: Vectors (texts, dim), each calculated by itself.
        together: Vectors of the same texts, calculated as one padded batch.

    Raises:
        FatalError: They differ.
    """
    least = torch.nn.functional.cosine_similarity(alone, together).min()
    exact = config.dtype == torch.float32
    if not least > (_SAME_VECTOR if exact else _SAME_ROUNDED):  # guard: model-company
        raise model_error(
            name,
            f"({config.model_type}) gives a text another vector where a longer text is in the same "
            f"batch (cosine {least:.3f})",
            "Choose a model whose layers leave out the padding",
        )


def check_words(name: str, one: Tensor, other: Tensor) -> None:
    """Refuse a model that gives two texts of different meanings the same vector.

    Raises:
        FatalError: The two vectors are the same.
    """
    if torch.allclose(one, other, rtol=1e-4, atol=1e-6):  # guard: model-words-differ
        raise model_error(
            name, "gives different texts the same vector", "Choose a model for text embeddings"
        )
