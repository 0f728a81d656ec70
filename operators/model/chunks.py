"""Cuts a long text into chunks: by tokens, at sentences where that is possible, and storable each."""

from itertools import pairwise

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from operators.contract.table import MAX_VARCHAR_BYTES

UNBROKEN_CHARACTERS = 64
"""Per token of a chunk: a text with a longer word is cut in windows. To the splitter, a run of letters
without blanks is one word (Han, base64), and it counts the tokens of the whole rest for each chunk."""

WINDOW_CHARACTERS = 16


class Chunker:
    """Cuts texts by the tokens of one tokenizer.

    Threads may share it: the tokenizer keeps nothing between calls, and two threads at the most make
    the same splitter twice.

    Args:
        counter: A tokenizer that neither truncates nor pads.
    """

    def __init__(self, counter: Tokenizer) -> None:
        self._counter = counter
        self._splitters: dict[tuple[int, int], TextSplitter] = {}

    def split(self, text: str, max_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
        """(start, end) of each chunk, in characters; see `Embedder.chunks`."""
        if self._count(text) <= max_tokens:
            return [(0, len(text))]
        splitter = self._splitters.get((max_tokens, overlap_tokens))
        if splitter is None:
            splitter = TextSplitter.from_huggingface_tokenizer(
                self._counter, max_tokens, overlap=overlap_tokens, trim=False
            )
            self._splitters[max_tokens, overlap_tokens] = splitter
        longest = max(map(len, text.split()), default=0)
        if longest > UNBROKEN_CHARACTERS * max_tokens:  # guard: chunks-in-windows
            ranges = _in_windows(splitter, text, WINDOW_CHARACTERS * max_tokens)
        else:
            ranges = _ranges(splitter, text, 0)
        # The splitter assumes that no word has more tokens than bytes. Some have: normalisation turns
        # U+FDFA into 18 letters.
        if all(self._count(text[start:end]) <= max_tokens for start, end in ranges):
            return ranges
        edges = [0, *(end for _, end in ranges)]
        return [
            half
            for start, end in pairwise(edges)
            for half in self._halved(text, start, end, max_tokens)
        ]

    def _count(self, text: str) -> int:
        return len(self._counter.encode(text, add_special_tokens=False))

    def _halved(self, text: str, start: int, end: int, max_tokens: int) -> list[tuple[int, int]]:
        if end - start < 2 or self._count(text[start:end]) <= max_tokens:
            return [(start, end)]
        middle = (start + end) // 2
        return [
            *self._halved(text, start, middle, max_tokens),
            *self._halved(text, middle, end, max_tokens),
        ]


def _ranges(splitter: TextSplitter, text: str, at: int) -> list[tuple[int, int]]:
    return [(at + start, at + start + len(part)) for start, part in splitter.chunk_indices(text)]


def _in_windows(splitter: TextSplitter, text: str, characters: int) -> list[tuple[int, int]]:
    """The chunks of a text, cut from one window of it after the other."""
    found: list[tuple[int, int]] = []
    start = 0
    while True:
        ranges = _ranges(splitter, text[start : start + characters], start)
        if start + characters >= len(text):
            return found + ranges
        # The end of the window cuts its last chunk, so that one is cut again from the next window.
        (*whole, last) = ranges
        found += whole or [last]
        start = last[0] if whole else last[1]


def storable(text: str, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same chunks if each fits into the store's text field; else smaller ones without overlap.

    A few tokens can have many bytes: some tokenizers ignore blanks, and read a word of more than a
    hundred letters as one unknown token.
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
