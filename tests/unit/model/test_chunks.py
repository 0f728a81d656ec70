"""Long texts are cut into chunks in time that grows with their length, whatever their letters are."""

from itertools import pairwise
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from operators.model import chunks
from operators.model.chunks import UNBROKEN_CHARACTERS, WINDOW_CHARACTERS, Chunker, storable

MOST, OVERLAP = 16, 2


def counter() -> Tokenizer:
    """Counts every letter."""
    made = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = Split(Regex("."), "isolated")
    return made


class Watched:
    """A splitter that notes how long the texts were that it was given."""

    def __init__(self, splitter: Any, lengths: list[int]) -> None:
        self._splitter = splitter
        self._lengths = lengths

    def chunk_indices(self, text: str) -> Any:
        self._lengths.append(len(text))
        return self._splitter.chunk_indices(text)


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    real = chunks.TextSplitter

    class Splitter:
        @staticmethod
        def from_huggingface_tokenizer(*given: Any, **named: Any) -> Watched:
            return Watched(real.from_huggingface_tokenizer(*given, **named), found)

    monkeypatch.setattr(chunks, "TextSplitter", Splitter)
    return found


UNBROKEN = {
    "han": "漢字数据库",
    "han with stops": "漢字。",
    "one letter": "a",
    "base64": "zk9xq2hr3v",
    "dots": "a.",
    "a blank at times": "漢" * 1_500 + " ",
}


@pytest.mark.parametrize("overlap", [0, OVERLAP])
@pytest.mark.parametrize("name", UNBROKEN)
def test_a_text_without_blanks_is_cut_a_window_at_a_time(name, overlap, lengths):
    text = (UNBROKEN[name] * 3_000)[:3_000]
    ranges = Chunker(counter()).split(text, MOST, overlap)
    assert max(lengths) <= WINDOW_CHARACTERS * MOST
    assert sum(lengths) < 3 * len(text)
    count = counter()
    assert all(len(count.encode(text[start:end]).ids) <= MOST for start, end in ranges)
    # Nothing is left out, and nothing comes twice but the overlap.
    assert (ranges[0][0], ranges[-1][1]) == (0, len(text))
    for (start, end), (after, beyond) in pairwise(ranges):
        assert start < after <= end < beyond
        assert end - after <= overlap * 2
    assert len(ranges) <= 3 * len(text) / MOST


@pytest.mark.parametrize("unit", ["word ", "a sentence. ", "漢字 数据库\n", "a" * 100 + " "])
def test_a_text_with_blanks_is_cut_as_a_whole(unit, lengths):
    text = (unit * 3_000)[: UNBROKEN_CHARACTERS * MOST * 2]
    Chunker(counter()).split(text, MOST, OVERLAP)
    assert lengths == [len(text)]


def test_a_short_text_is_one_chunk(lengths):
    assert Chunker(counter()).split("漢" * MOST, MOST, 0) == [(0, MOST)]
    assert lengths == []


def test_chunks_of_few_tokens_and_many_bytes_are_cut_again():
    text = "漢" * 100_000
    ranges = storable(text, [(0, len(text))])
    assert (ranges[0][0], ranges[-1][1]) == (0, len(text))
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert all(len(text[start:end].encode()) <= 65_535 for start, end in ranges)
