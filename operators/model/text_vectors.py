"""From rows to vectors: texts are cut where their table says so, and each is embedded once.

The vectors of the last texts are kept, so that a text that comes again (another row's, or the same
row's as it was before) costs no model.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from operators.changes.rows import Row
from operators.changes.text_hash import text_hash
from operators.changes.vector import Vector
from operators.contract.table import MAX_VARCHAR_BYTES, Chunks
from operators.model.protocol import Embedder, Piece
from operators.telemetry import Telemetry

CHARACTERS_PER_TOKEN = 4
"""Of English; a language with fewer has more tokens than `Texts.estimate` says."""


class Texts:
    """What rows become when they are embedded. Any thread may call; none waits for another's model.

    Args:
        embedder: Makes the vectors.
        telemetry: Counts each text as embedded, repeated or cached.
        chunks: How each table's texts are cut, by the table's name; None: not at all.
        cache_texts: Texts whose vectors are kept, the last ones used; 0 keeps none.
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

        A piece fits into the store's field for texts, if its table has chunks at all. Texts that are
        equal, in one call or since a while, are embedded once; all that is left, in one call.

        Raises:
            FatalError: The device or the model is beyond use.
        """
        whole = [row for row in rows if self._chunks[row.table] is None]
        if len(whole) == len(rows):
            vectors = self._vectors([(row.text, row.text_hash) for row in rows])
            return [(Piece(0, row.text, vectors[row.text_hash]),) for row in rows]
        cut = [self._cut(row) for row in rows]
        vectors = self._vectors([(text, digest) for parts in cut for _, text, digest in parts])
        return [
            tuple(Piece(start, text, vectors[digest]) for start, text, digest in parts)
            for parts in cut
        ]

    def estimate(self, row: Row) -> int:
        """Tokens of a row's text, by its length alone."""
        tokens = len(row.text) // CHARACTERS_PER_TOKEN + 1
        whole = self._chunks[row.table] is None
        return min(tokens, self._embedder.max_length) if whole else tokens

    def _cut(self, row: Row) -> list[tuple[int, str, str]]:
        """(start, text, digest) of each piece."""
        text, chunks = row.text, self._chunks[row.table]
        if chunks is None:
            return [(0, text, row.text_hash)]
        ranges = _storable(
            text, self._embedder.chunks(text, chunks.max_tokens, chunks.overlap_tokens)
        )
        pieces = ((start, text[start:end]) for start, end in ranges)
        return [(start, piece, text_hash(piece)) for start, piece in pieces]

    def _vectors(self, texts: Sequence[tuple[str, str]]) -> dict[str, Vector]:
        """Vectors by digest, of (text, digest)."""
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
    """The vectors of the texts that were last used, by digest: a text may be long, or private."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._vectors: OrderedDict[str, Vector] = OrderedDict()

    def recall(self, digests: Iterable[str]) -> dict[str, Vector]:
        """The vectors that are known, by digest."""
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
        """Remember vectors, and forget those that were not used for longest."""
        # Those that would be forgotten again at once are not worth the copy. It is one because a row
        # of what the model made would keep all of that in memory.
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


def _storable(text: str, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same chunks if each fits into the store's field, else others that do, without overlap.

    Few tokens can have many bytes: to some tokenizers blanks are nothing, and a word of more than a
    hundred letters is one token, the unknown one.
    """
    if all(_fits(text[start:end]) for start, end in ranges):
        return ranges
    edges = [0, *(end for _, end in ranges)]
    return [half for start, end in pairwise(edges) for half in _halved(text, start, end)]


def _halved(text: str, start: int, end: int) -> list[tuple[int, int]]:
    if _fits(text[start:end]):
        return [(start, end)]
    middle = (start + end) // 2
    return [*_halved(text, start, middle), *_halved(text, middle, end)]


def _fits(text: str) -> bool:
    if len(text) * 4 <= MAX_VARCHAR_BYTES or text.isascii():
        return len(text) <= MAX_VARCHAR_BYTES
    return len(text.encode("utf-8", "surrogatepass")) <= MAX_VARCHAR_BYTES
