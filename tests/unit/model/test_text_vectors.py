"""From rows to pieces with vectors: chunks, equal texts, the cache, and the embed step around them."""

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from operators.changes.events import KafkaPosition
from operators.changes.row_key import RowKey
from operators.changes.rows import PartialRow, Row
from operators.changes.text_hash import text_hash
from operators.changes.version import Version
from operators.contract.table import MAX_VARCHAR_BYTES, Chunks
from operators.errors import FatalError
from operators.model.protocol import Piece
from operators.model.text_vectors import Texts
from operators.stages.embed import EmbedStep
from operators.stages.window import Window
from operators.state.version_map import VersionMap
from operators.telemetry import Telemetry
from tests.fakes import HashEmbedder

SOON = 20.0  # timeout in seconds; a test that passes never waits that long
CHUNKS = {"docs": None, "pages": Chunks(max_tokens=8, overlap_tokens=2)}
WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def row(text: str, table: str = "docs", number: int = 1) -> Row:
    return Row(
        RowKey(f"{table}:{number}"),
        Version("0000.0000000000000000.0000000000000001"),
        KafkaPosition("topic", 0, 1),
        0,
        "u",
        table,
        text,
        text_hash(text),
        {},
    )


class Bench:
    """A `Texts` under test, and the metrics that it counted."""

    def __init__(self, cache_texts: int = 100, embedder: HashEmbedder | None = None) -> None:
        self.embedder = embedder or HashEmbedder()
        self._reader = InMemoryMetricReader()
        self.telemetry = Telemetry(meter_provider=MeterProvider(metric_readers=[self._reader]))
        self.texts = Texts(self.embedder, self.telemetry, CHUNKS, cache_texts)

    def counted(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for metric in resource.scope_metrics[0].metrics:
                if metric.name == "rowvec.texts":
                    for point in metric.data.data_points:
                        counts[point.attributes["rowvec.text"]] += point.value
        return counts

    def embed(self, *texts: str) -> list[np.ndarray]:
        return [pieces[0].vector for pieces in self.texts.pieces([row(text) for text in texts])]


def starts_and_texts(pieces: tuple[Piece, ...]) -> list[tuple[int, str]]:
    return [(piece.start, piece.text) for piece in pieces]


# --- the cuts --------------------------------------------------------------------------------


def test_a_table_without_chunks_keeps_its_texts_whole():
    bench = Bench()
    (pieces,) = bench.texts.pieces([row(WORDS)])
    assert starts_and_texts(pieces) == [(0, WORDS)]
    assert np.array_equal(pieces[0].vector, HashEmbedder().embed([WORDS])[0])


def test_a_table_with_chunks_has_a_piece_for_each():
    bench = Bench()
    (pieces,) = bench.texts.pieces([row(WORDS, "pages")])
    assert starts_and_texts(pieces) == [
        (0, "one two three four five six seven eight "),
        (28, "seven eight nine ten eleven twelve thirteen fourteen "),
        (63, "thirteen fourteen fifteen"),
    ]
    for piece in pieces:
        assert WORDS[piece.start :].startswith(piece.text)
        assert np.array_equal(piece.vector, HashEmbedder().embed([piece.text])[0])


def test_all_rows_of_a_call_are_embedded_together_and_stay_in_order():
    bench = Bench()
    rows = [row("a b c"), row(WORDS, "pages"), row("", "pages"), row("z")]
    made = bench.texts.pieces(rows)
    assert [len(pieces) for pieces in made] == [1, 3, 1, 1]
    assert starts_and_texts(made[2]) == [(0, "")]
    assert bench.embedder.calls == [6]
    assert bench.texts.pieces([]) == []
    assert bench.embedder.calls == [6]


@pytest.mark.parametrize("character", [" ", "x", "é", "🦆"])
def test_a_chunk_of_few_tokens_and_many_bytes_still_fits_the_store(character):
    text = "a few words " + character * 150_000
    (pieces,) = Bench().texts.pieces([row(text, "pages")])
    assert all(0 < len(piece.text.encode()) <= MAX_VARCHAR_BYTES for piece in pieces)
    assert "".join(piece.text for piece in pieces) == text
    assert all(text.startswith(piece.text, piece.start) for piece in pieces)


def test_a_chunk_that_just_fits_the_store_is_left_whole():
    text = "é" * (MAX_VARCHAR_BYTES // 2) + "e"
    assert len(text.encode()) == MAX_VARCHAR_BYTES
    (pieces,) = Bench().texts.pieces([row(text, "pages")])
    assert starts_and_texts(pieces) == [(0, text)]
    (pieces,) = Bench().texts.pieces([row(text + "e", "pages")])
    assert len(pieces) == 2


# --- equal texts -----------------------------------------------------------------------------


def test_equal_texts_of_a_call_are_embedded_once():
    bench = Bench()
    first, other, again = bench.embed("same", "other", "same")
    assert bench.embedder.calls == [2]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert bench.counted() == {"embedded": 2, "repeated": 1}


def test_a_text_that_comes_again_is_not_embedded():
    bench = Bench()
    before = bench.embed("same", "other")
    after = bench.embed("other", "same", "same")
    assert bench.embedder.calls == [2]
    assert np.array_equal(after, [before[1], before[0], before[0]])
    assert bench.counted() == {"embedded": 2, "cached": 2, "repeated": 1}
    bench.embed("new", "same")
    assert bench.embedder.calls == [2, 1]


def test_a_chunk_and_a_whole_text_that_are_equal_are_one_text():
    bench = Bench()
    bench.texts.pieces([row("a b c"), row("a b c", "pages")])
    assert bench.counted() == {"embedded": 1, "repeated": 1}


def test_the_text_that_was_not_used_for_longest_is_forgotten():
    bench = Bench(cache_texts=2)
    bench.embed("a", "b")
    bench.embed("a")
    bench.embed("c")  # drops b from the cache
    bench.embed("a", "c")
    assert bench.counted() == {"embedded": 3, "cached": 3}
    bench.embed("b")
    assert bench.counted() == {"embedded": 4, "cached": 3}


def test_without_a_cache_only_the_call_counts():
    bench = Bench(cache_texts=0)
    bench.embed("a", "a")
    bench.embed("a")
    assert bench.embedder.calls == [1, 1]
    assert bench.counted() == {"embedded": 2, "repeated": 1}


TEXTS = st.lists(st.text("ab🦆\ud800 \n", max_size=4), max_size=6)


@given(
    st.lists(st.tuples(st.sampled_from(["docs", "pages"]), TEXTS), max_size=6), st.integers(0, 4)
)
def test_a_vector_is_always_that_of_its_text(calls, cache_texts):
    bench = Bench(cache_texts)
    pieces_in_all = 0
    for table, texts in calls:
        rows = [row(text, table, number) for number, text in enumerate(texts)]
        for one, pieces in zip(rows, bench.texts.pieces(rows), strict=True):
            assert "".join(piece.text for piece in pieces) == one.text
            for piece in pieces:
                assert np.array_equal(piece.vector, HashEmbedder().embed([piece.text])[0])
            pieces_in_all += len(pieces)
    counted = bench.counted()
    assert counted.total() == pieces_in_all
    assert counted["embedded"] == sum(bench.embedder.calls)


def test_vectors_are_read_only_and_keep_nothing_else_in_memory():
    bench = Bench()
    bench.embed("a", "b", "c")
    cached, new = bench.embed("a", "new")
    assert cached.base is None  # a view would keep the whole batch in memory
    for vector in (cached, new):
        with pytest.raises(ValueError, match="read-only"):
            vector[0] = 0


# --- threads and failures --------------------------------------------------------------------


class Interrupted(HashEmbedder):
    """An embedder that lets another thread embed while it works."""

    def __init__(self, other) -> None:
        super().__init__()
        self.other = other

    def embed(self, texts):
        other, self.other = self.other, None
        if other is not None:
            thread = threading.Thread(target=other, daemon=True)
            thread.start()
            thread.join(SOON)
            assert not thread.is_alive(), "one thread's model kept the other waiting"
        return super().embed(texts)


def test_no_thread_waits_for_anothers_model():
    bench = Bench(embedder=Interrupted(lambda: bench.embed("theirs", "ours")))
    assert np.array_equal(bench.embed("ours"), HashEmbedder().embed(["ours"]))
    bench.embed("theirs", "ours")
    assert bench.counted() == {"embedded": 3, "cached": 2}


def test_many_threads_at_once():
    bench = Bench(cache_texts=5)
    wrong: list[str] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait(SOON)
        for turn in range(100):
            texts = [str((seed * 7 + turn * 3 + i) % 11) for i in range(4)]
            for text, vector in zip(texts, bench.embed(*texts), strict=True):
                if not np.array_equal(vector, HashEmbedder().embed([text])[0]):
                    wrong.append(text)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not wrong
    assert bench.counted().total() == 4 * 100 * 4


class Failing(HashEmbedder):
    def embed(self, texts):
        if self.calls == [1]:
            self.calls.append(0)
            raise FatalError(subject="model", cause="is gone")
        return super().embed(texts)


def test_what_failed_is_neither_counted_nor_kept():
    bench = Bench(embedder=Failing())
    bench.embed("a")
    with pytest.raises(FatalError):
        bench.embed("a", "b")
    assert bench.counted() == {"embedded": 1}
    bench.embed("a", "b")
    assert bench.counted() == {"embedded": 2, "cached": 1}


# --- the step --------------------------------------------------------------------------------


def window(*rows: Row | PartialRow, unchanged: set[RowKey] = frozenset()) -> Window:
    return Window(
        rows={one.row_key: one for one in rows},
        deletes={},
        dead=[],
        unchanged=set(unchanged),
        versions=VersionMap(whole=True, horizon_s=1, now=0),
        contexts=(),
    )


def partial(number: int) -> PartialRow:
    whole = row("", "docs", number)
    return PartialRow(*whole[:6], texts={}, columns={}, missing=("doc",))


def test_the_step_embeds_whole_rows_whose_text_is_new():
    bench = Bench()
    step = EmbedStep(bench.embedder, bench.texts, bench.telemetry)
    one = window(row("a", number=1), row("b", number=2), partial(3), unchanged={RowKey("docs:2")})
    two = window(row(WORDS, "pages"), row("a", number=4))
    items = [("000", one), ("001", two)]
    assert step(items) == items
    assert bench.embedder.calls == [4]
    assert {key: starts_and_texts(pieces) for key, pieces in one.vectors.items()} == {
        "docs:1": [(0, "a")]
    }
    assert list(two.vectors) == ["pages:1", "docs:4"]
    assert len(two.vectors[RowKey("pages:1")]) == 3


def test_the_step_asks_no_model_where_there_is_nothing_to_embed():
    bench = Bench()
    step = EmbedStep(bench.embedder, bench.texts, bench.telemetry)
    one = window(row("a"), partial(3), unchanged={RowKey("docs:1")})
    step([("000", one)])
    assert one.vectors == {}
    assert bench.embedder.calls == []
    assert bench.counted() == {}
