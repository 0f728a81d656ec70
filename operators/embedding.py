"""Embedding: the protocol of a model, what it makes of a text, and batches by tokens."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from operators.store import Vector

BATCHES_PER_BUDGET = 16
"""A batch costs, whatever is in it, as much as this part of its budget of tokens."""


class Piece(NamedTuple):
    """What becomes one entity: a row's text or one chunk of it.

    Attributes:
        start: Where it begins in the row's text, in characters.
        text: What was embedded.
        vector: Of that text; read-only, because other rows may have the same.
    """

    start: int
    text: str
    vector: Vector


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
    def max_length(self) -> int:
        """Tokens of a text that are read; the rest is left out."""
        ...

    @property
    def max_batch_tokens(self) -> int:
        """Padded tokens that the device calculates at once."""
        ...

    @property
    def calls_at_once(self) -> int:
        """How many threads may well call `embed` at the same time.

        Two where a device calculates: while it does, the next texts are cut into tokens. One on a CPU,
        where a call takes all cores.
        """
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

    def chunks(self, text: str, max_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
        """Where to cut a long text: (start, end) of each chunk in characters.

        The chunks cover the whole text, each begins and ends behind the one before, and none leaves
        a gap. The same for the same arguments; an empty text gives [(0, 0)]. A text that fits is one
        chunk.

        Args:
            text: It may hold anything, lone surrogates too.
            max_tokens: Tokens of the model's own tokenizer, without special ones, that a chunk has
                at most; less where the model takes less. Only a chunk of one character may have
                more: of one whose normal form is a whole phrase.
            overlap_tokens: What two neighbours have in common, at most; less where that would cut
                a word or a sentence. At most half of `max_tokens`.
        """
        ...


def text_hash(text: str) -> str:
    """Hex digest of a text, 128 bits: equal hashes stand for equal texts."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def token_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Pack texts into batches that waste little padding and fit a budget.

    What a batch costs is its padded size, rows × longest row, and something for being a batch at all
    (`1 / BATCHES_PER_BUDGET` of the budget). Over the texts sorted by length, the cuts are those of
    the least cost in sum. The longest come first: if a device is too small for the budget, the first
    batch shows it.

    Args:
        lengths: Tokens of each text.
        max_batch_tokens: The padded size that no batch exceeds, save one text that does so alone.

    Returns:
        Batches of indices into `lengths`, every index once; the same for the same arguments.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    sizes = np.array([lengths[i] for i in order], np.int64)
    count = len(order)
    # least[i]: cost of the first i texts; came_from[i]: where the last of their batches begins.
    least = np.zeros(count + 1, np.int64)
    came_from = np.zeros(count + 1, np.int64)
    begins = np.arange(count)
    first = 0
    for end in range(1, count + 1):
        while first < end - 1 and (end - first) * sizes[first] > max_batch_tokens:
            first += 1
        cost = least[first:end] + (end - begins[first:end]) * sizes[first:end]
        best = int(cost.argmin())
        least[end] = cost[best] + max_batch_tokens // BATCHES_PER_BUDGET
        came_from[end] = first + best
    batches: list[list[int]] = []
    end = count
    while end:
        begin = int(came_from[end])
        batches.append(order[begin:end])
        end = begin
    return batches[::-1]


def even_batches(lengths: Sequence[int], max_batch_tokens: int, ways: int) -> list[list[int]]:
    """As `token_batches`, for a model that pads nothing, and so many batches at a time.

    Args:
        lengths: Tokens of each text.
        max_batch_tokens: What no batch exceeds by more than its last text.
        ways: How many batches are calculated at once.

    Returns:
        Batches of indices into `lengths`, every index once, the longest texts first. As few as fit, in
        a multiple of `ways` unless there are fewer texts, and all of about as many tokens.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    ends = np.cumsum([lengths[i] for i in order])
    total = sum(lengths)
    count = ways * max(1, -(-total // (max_batch_tokens * ways)))
    inner = 1 + np.searchsorted(ends, [total * part / count for part in range(1, count)])
    cuts = [0, *inner.tolist(), len(order)]
    return [batch for begin, end in pairwise(cuts) if (batch := order[begin:end])]
