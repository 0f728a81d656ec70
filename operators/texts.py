"""From rows to vectors: texts are cut where their table says so, and each is embedded once.

The vectors of the last texts are kept, so that a text that comes again (another row's, or the same
row's as it was before) costs no model.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from operators.embedding import Embedder, Piece, text_hash
from operators.events import Row
from operators.store import Vector
from operators.table import MAX_VARCHAR_BYTES, Chunks
from operators.telemetry import Telemetry


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
        cut = [self._cut(row) for row in rows]
        vectors = self._vectors([text for parts in cut for _, text in parts])
        return [tuple(Piece(start, text, vectors[text]) for start, text in parts) for parts in cut]

    def _cut(self, row: Row) -> list[tuple[int, str]]:
        text, chunks = row.text, self._chunks[row.table]
        if chunks is None:
            return [(0, text)]
        ranges = self._embedder.chunks(text, chunks.max_tokens, chunks.overlap_tokens)
        return [(start, text[start:end]) for start, end in _storable(text, ranges)]

    def _vectors(self, texts: Sequence[str]) -> dict[str, Vector]:
        digests = {text: text_hash(text) for text in dict.fromkeys(texts)}
        vectors = self._cache.recall(digests)
        missing = [text for text in digests if text not in vectors]
        if missing:
            for text, made in zip(missing, self._embedder.embed(missing), strict=True):
                # A row of what the model made would keep all of it in memory: hence a copy.
                vectors[text] = made.copy()
                vectors[text].setflags(write=False)
            self._cache.keep((digests[text], vectors[text]) for text in missing)
        for what, count in (
            ("embedded", len(missing)),
            ("cached", len(digests) - len(missing)),
            ("repeated", len(texts) - len(digests)),
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

    def recall(self, digests: Mapping[str, str]) -> dict[str, Vector]:
        """The vectors that are known, by text; `digests` is by text as well."""
        found: dict[str, Vector] = {}
        with self._lock:
            for text, digest in digests.items():
                vector = self._vectors.get(digest)
                if vector is not None:
                    self._vectors.move_to_end(digest)
                    found[text] = vector
        return found

    def keep(self, vectors: Iterable[tuple[str, Vector]]) -> None:
        """Remember vectors, and forget those that were not used for longest."""
        with self._lock:
            self._vectors.update(vectors)
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
