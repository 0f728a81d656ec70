"""From rows to vectors: texts are split into chunks if their table says so, and each is embedded once.

A cache keeps the vectors of the texts used last, so that a repeated text (in another row, or in the
same row again) is not embedded again.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from operators.changes.rows import Row
from operators.changes.text_hash import text_hash
from operators.changes.vector import Vector
from operators.contract.table import Chunks
from operators.model.chunks import storable
from operators.model.protocol import Embedder, Piece
from operators.telemetry import Telemetry

CHARACTERS_PER_TOKEN = 4
"""Of English text; for languages with fewer, `Texts.estimate` is too low."""


class Texts:
    """Embeds the texts of rows.

    Threads of the embed step and lane threads share it. The cache has a lock of its own, which is not
    held while the model works.

    Args:
        embedder: Calculates the vectors.
        telemetry: Counts each text as embedded, repeated or cached.
        chunks: By table name, how texts are split into chunks; None if they are not.
        cache_texts: How many texts' vectors the cache keeps; 0 for none.
    """

    def __init__(
        self,
        embedder: Embedder,
        telemetry: Telemetry,
        chunks: Mapping[str, Chunks | None],
        cache_texts: int,
    ) -> None:
        self._embedder = embedder
        self._telemetry = telemetry
        self._chunks = chunks
        self._cache = _VectorCache(cache_texts)

    def pieces(self, rows: Sequence[Row]) -> list[tuple[Piece, ...]]:
        """The pieces of each row, in the order of its text: one, or one for each chunk.

        If a table has chunks, each piece fits into the store's text field. Texts that are repeated in
        this call or are in the cache are not embedded again; all others are embedded in one call.

        Raises:
            FatalError: The device or the model has failed.
        """
        if all(self._chunks[row.table] is None for row in rows):
            vectors = self._vectors([(row.text, row.text_hash) for row in rows])
            return [(Piece(0, row.text, vectors[row.text_hash]),) for row in rows]
        split = [self._chunks_of(row) for row in rows]
        vectors = self._vectors([(text, digest) for parts in split for _, text, digest in parts])
        return [
            tuple(Piece(start, text, vectors[digest]) for start, text, digest in parts)
            for parts in split
        ]

    def estimate(self, row: Row) -> int:
        """Estimate the tokens of a row's text from its length."""
        tokens = len(row.text) // CHARACTERS_PER_TOKEN + 1
        one_piece = self._chunks[row.table] is None
        return min(tokens, self._embedder.max_length) if one_piece else tokens

    def _chunks_of(self, row: Row) -> list[tuple[int, str, str]]:
        """(start, text, digest) of each piece."""
        text, chunks = row.text, self._chunks[row.table]
        if chunks is None:
            return [(0, text, row.text_hash)]
        ranges = storable(
            text, self._embedder.chunks(text, chunks.max_tokens, chunks.overlap_tokens)
        )
        pieces = ((start, text[start:end]) for start, end in ranges)
        return [(start, piece, text_hash(piece)) for start, piece in pieces]

    def _vectors(self, texts: Sequence[tuple[str, str]]) -> dict[str, Vector]:
        """Vectors by digest, for pairs of (text, digest)."""
        by_digest = {digest: text for text, digest in texts}
        vectors = self._cache.recall(by_digest)
        missing = [digest for digest in by_digest if digest not in vectors]
        if missing:
            made = self._embedder.embed([by_digest[digest] for digest in missing])
            made.setflags(write=False)
            vectors.update(zip(missing, made, strict=True))
            self._cache.keep(missing, vectors)
        for what, count in (
            ("embedded", len(missing)),
            ("cached", len(by_digest) - len(missing)),
            ("repeated", len(texts) - len(by_digest)),
        ):
            if count:
                self._telemetry.texts.add(count, {"rowvec.text": what})
        return vectors


class _VectorCache:
    """The vectors of the texts used last.

    Keyed by digest, because a text may be long or private. Threads may share it, under its lock.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._vectors: OrderedDict[str, Vector] = OrderedDict()

    def recall(self, digests: Iterable[str]) -> dict[str, Vector]:
        """The cached vectors, by digest."""
        found: dict[str, Vector] = {}
        with self._lock:
            known = self._vectors
            if known:
                for digest in digests:
                    vector = known.get(digest)
                    if vector is not None:
                        known.move_to_end(digest)
                        found[digest] = vector
        return found

    def keep(self, digests: Sequence[str], vectors: Mapping[str, Vector]) -> None:
        """Cache vectors, and drop those that were not used for longest."""
        # Copied, because a view would keep the model's whole batch in memory. Only the last `_size` are
        # copied: the others would be dropped at once.
        kept = (
            {digest: vectors[digest].copy() for digest in digests[-self._size :]}
            if self._size
            else {}
        )
        for vector in kept.values():
            vector.setflags(write=False)
        with self._lock:
            self._vectors.update(kept)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
