"""The protocol of an embedder, and the pieces that it turns texts into."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from operators.changes.vector import Vector


class Piece(NamedTuple):
    """A row's text, or one chunk of it, with its vector: becomes one entity.

    Attributes:
        start: Where it begins in the row's text, in characters.
        text: The embedded text.
        vector: Its vector; read-only, because rows with the same text share it.
    """

    start: int
    text: str
    vector: Vector


class Embedder(Protocol):
    """A text encoder. Several threads may call it; see `calls_at_once`."""

    @property
    def model(self) -> str:
        """Identity of the model and its settings: `name@revision`, the same on every machine."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def max_length(self) -> int:
        """The most tokens that are read of a text; the rest is ignored."""
        ...

    @property
    def max_batch_tokens(self) -> int:
        """The most tokens of a batch, padding included."""
        ...

    @property
    def calls_at_once(self) -> int:
        """How many threads should call `embed` at the same time.

        Two with a GPU: while it calculates, the CPU tokenises the next texts. One on a CPU, where a
        call uses all cores.
        """
        ...

    @property
    def tokens_total(self) -> int:
        """Tokens embedded since the start, without padding; for tracing."""
        ...

    @property
    def padded_tokens_total(self) -> int:
        """Tokens calculated since the start, with padding; for tracing."""
        ...

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of `texts`, float32 of shape (len(texts), dim), in the order of the texts.

        Identical texts of one call are embedded once; no texts give an array of shape (0, dim).

        Raises:
            FatalError: The device or the model has failed.
        """
        ...

    def chunks(self, text: str, max_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
        """Divide a long text: (start, end) of each chunk in characters.

        The chunks cover the whole text without gaps, and each begins and ends behind the one before.
        The result is always the same for the same arguments. A text that fits is one chunk; an empty
        text gives [(0, 0)].

        Args:
            text: Any text; it may contain lone surrogates.
            max_tokens: The most tokens of a chunk, by the model's own tokenizer, without special
                tokens; fewer if the model reads fewer. Only a single character may have more: one
                that normalisation expands into a phrase.
            overlap_tokens: The most tokens that two neighbours share, at most half of `max_tokens`;
                fewer where that would split a word or a sentence.
        """
        ...
