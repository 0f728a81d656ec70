"""Embedding: the protocol of a model, what it makes of a text, and batches by tokens."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from operators.changes.vector import Vector


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
