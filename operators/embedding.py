"""Embedding: the protocol of a model, and batches by tokens."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Embedder(Protocol):
    """A text encoder: one of the two seams of Rowvec (the other is `VectorStore`)."""

    @property
    def model(self) -> str:
        """Identity of what makes the vectors: `name@revision`, the same on every machine."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def tokens_total(self) -> int:
        """Tokens embedded since the start, without padding; for tracing."""
        ...

    @property
    def padded_tokens_total(self) -> int:
        """The same with padding, which is what was calculated."""
        ...

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of `texts`, float32 of shape (len(texts), dim), in the order of the texts.

        Identical texts of one call are embedded once; no texts give an array of shape (0, dim).

        Raises:
            FatalError: The device or the model is beyond use.
        """
        ...


def token_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Pack texts into batches that waste little padding and fit a budget.

    What a batch costs is its padded size, rows × longest row, so texts of like length go together.
    The longest come first: if a device is too small for the budget, the first batch shows it.

    Args:
        lengths: Tokens of each text.
        max_batch_tokens: The padded size that no batch exceeds, save one text that does so alone.

    Returns:
        Batches of indices into `lengths`, every index once; the same for the same arguments.
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or width * (len(batches[-1]) + 1) > max_batch_tokens:
            batches.append([])
            width = lengths[index]
        batches[-1].append(index)
    return batches
