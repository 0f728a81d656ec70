"""The whole flow on Bytewax, with one and two workers: the final collection, and restarts."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from operators.errors import FatalError, RecordError, RetriableError
from tests.changes import (
    PAIRS_TOPIC,
    TOPIC,
    LetterBox,
    Log,
    contract,
    envelope,
    gone,
    key,
    put,
    tombstone,
)
from tests.fakes import HashEmbedder, MemoryStore
from tests.flow.running import root_cause, run_flow, texts, total


def history(
    rows: int, changes: int, partitions: int, seed: int = 1
) -> tuple[list[Log], dict[str, str]]:
    """A random history over `partitions` logs, and the collection's contents at its end."""
    draw = random.Random(seed)
    logs = [Log() for _ in range(partitions)]
    final: dict[int, str] = {}
    for lsn in range(1, changes + 1):
        row = draw.randrange(rows)
        log = logs[row % partitions]
        if row in final and draw.random() < 0.2:
            del final[row]
            log.records += [gone(row, lsn), tombstone(row)]
        else:
            final[row] = f"text {draw.randrange(3)}"
            log.records.append(put(row, lsn, final[row]))
    return logs, {f"docs:{row}#0": f"doc {row}\n{text}" for row, text in final.items()}


def as_topic(logs: list[Log]) -> dict[tuple[str, int], Log]:
    return {(TOPIC, number): log for number, log in enumerate(logs)} | {(PAIRS_TOPIC, 0): Log()}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_collection_ends_as_the_table(workers: int, tmp_path: Path) -> None:
    logs, final = history(rows=300, changes=2_000, partitions=3)
    store = MemoryStore()
    receipts = run_flow(contract(), as_topic(logs), store, tmp_path / "r", workers=workers)
    assert texts(store, "docs") == final
    assert total(receipts).rows >= len(final)


def test_a_composite_key_in_a_second_table(tmp_path: Path) -> None:
    log = Log(
        [
            (
                key(left="a,b", right="c"),
                envelope("c", 1, {"left": "a,b", "right": "c", "note": "x"}),
            ),
            (
                key(left="a", right="b,c"),
                envelope("c", 2, {"left": "a", "right": "b,c", "note": "y"}),
            ),
            (
                key(left=1, right="'] or 1"),
                envelope("c", 3, {"left": 1, "right": "z", "note": "z"}),
            ),
        ]
    )
    store = MemoryStore()
    run_flow(contract(), {(TOPIC, 0): Log(), (PAIRS_TOPIC, 0): log}, store, tmp_path / "r")
    assert texts(store, "pairs") == {
        "pairs:a%2Cb,c#0": "x",
        "pairs:a,b%2Cc#0": "y",
        "pairs:1,%27%5D%20or%201#0": "z",
    }


def test_unchanged_text_is_not_embedded_again(tmp_path: Path) -> None:
    log = Log([put(i, i + 1) for i in range(20)])
    store, embedder = MemoryStore(), HashEmbedder()
    run_flow(contract(), as_topic([log]), store, tmp_path / "r", embedder=embedder)
    before = sum(embedder.calls)
    # Only the size changes, except in one row, whose text changes, too.
    for i in range(20):
        after = {"id": i, "name": f"doc {i}", "doc": "text", "kind": "page", "size": 2}
        log.records.append((key(id=i), envelope("u", 100 + i, after)))
    log.records.append(put(3, 200, "another"))
    run_flow(contract(), as_topic([log]), store, tmp_path / "r", embedder=embedder)
    assert sum(embedder.calls) - before == 1
    sizes = {row["id"]: row["size"] for row in store.scan("docs", ["size"])}
    assert sizes == {f"docs:{i}#0": 1 if i == 3 else 2 for i in range(20)}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_crashes_lose_nothing_and_turn_nothing_back(
    workers: int, seed: int, tmp_path: Path
) -> None:
    logs, final = history(rows=40, changes=1_500, partitions=2, seed=seed)
    draw = random.Random(seed)
    store = MemoryStore()
    crashes = 0
    while True:
        for log in logs:
            log.written = min(len(log.records), log.end() + 250) if crashes else 250
        store.fail_next(
            FatalError(subject="power", cause="cut"), "upsert", applied=draw.random() < 0.5
        )
        try:
            run_flow(contract(), as_topic(logs), store, tmp_path / "r", workers=workers)
        except Exception as error:
            assert str(root_cause(error)) == "power: cut."
            crashes += 1
        if all(log.end() == len(log.records) for log in logs) and crashes > 6:
            break
    store._failures.clear()
    run_flow(contract(), as_topic(logs), store, tmp_path / "r", workers=workers)
    assert texts(store, "docs") == final
    newest: dict[str, str] = {}
    for applied in store.history:
        if applied.op == "upsert":
            assert applied.version >= newest.get(applied.id, ""), f"{applied.id} went back"
            newest[applied.id] = applied.version


def test_a_clean_stop_replays_nothing(tmp_path: Path) -> None:
    logs, final = history(rows=100, changes=600, partitions=2)
    store, stop = MemoryStore(), threading.Event()

    def stop_once_written() -> None:
        while store.count("docs") < len(final):
            stop.wait(0.01)
        stop.set()

    watcher = threading.Thread(target=lambda: _ignoring_absence(stop_once_written))
    watcher.start()
    run_flow(contract(), as_topic(logs), store, tmp_path / "r", stop=stop)
    watcher.join()
    written = len(store.history)
    assert texts(store, "docs") == final
    run_flow(contract(), as_topic(logs), store, tmp_path / "r")
    assert len(store.history) == written


def _ignoring_absence(function: object) -> None:
    while True:
        try:
            return function()  # type: ignore[operator]
        except FatalError:
            continue


def test_bad_records_become_dead_letters_and_the_rest_goes_on(tmp_path: Path) -> None:
    huge = "x" * 10_000_000
    log = Log(
        [
            put(1, 1),
            (key(id=2), b"not json"),
            (b"\xff", envelope("c", 2, {"id": 2})),
            (None, envelope("c", 3, {"id": 2})),
            (key(id=3), envelope("c", 4, {"id": 3, "name": "no doc"})),
            (
                key(id=4),
                envelope("c", 5, {"id": 4, "name": "n", "doc": huge, "kind": "k", "size": 1}),
            ),
            (
                key(id=5),
                envelope("c", 6, {"id": 5, "name": "n", "doc": "d", "kind": "k", "size": "?"}),
            ),
            (key(id=6), envelope("x", 7, None)),
            put(7, 8),
        ]
    )
    store, letters = MemoryStore(), LetterBox()
    run_flow(contract(), as_topic([log]), store, tmp_path / "r", letters=letters)
    assert set(texts(store, "docs")) == {"docs:1#0", "docs:7#0"}
    assert sorted(letter.position.offset for letter in letters.letters) == [1, 2, 3, 4, 5, 6, 7]
    by_offset = {letter.position.offset: letter for letter in letters.letters}
    assert by_offset[1].value == b"not json"
    assert "no JSON" in by_offset[1].cause
    assert "'doc'" in by_offset[4].subject
    assert "bytes" in by_offset[5].cause
    assert by_offset[5].value is None
    assert "size" in by_offset[6].subject
    assert all(letter.hint for letter in letters.letters)


def test_a_bad_change_leaves_its_row_as_it_was(tmp_path: Path) -> None:
    def bad(id_: int, lsn: int) -> tuple[bytes, bytes]:
        after = {"id": id_, "name": "n", "doc": "d", "kind": "k", "size": "?"}
        return key(id=id_), envelope("u", lsn, after)

    # All records are in the first window.
    log = Log(
        [
            *(put(1, 1, "good"), bad(1, 2)),
            *(put(2, 3, "old"), bad(2, 4), put(2, 5, "new")),
            bad(3, 6),
            *(put(4, 7), gone(4, 8), bad(4, 9)),
            *(put(5, 10, "one"), bad(5, 11), bad(5, 12)),
        ]
    )
    store, letters = MemoryStore(), LetterBox()
    run_flow(contract(), as_topic([log]), store, tmp_path / "r", letters=letters)
    assert texts(store, "docs") == {
        "docs:1#0": "doc 1\ngood",
        "docs:2#0": "doc 2\nnew",
        "docs:5#0": "doc 5\none",
    }
    # The bad record that a good change superseded is no dead letter.
    assert sorted(letter.position.offset for letter in letters.letters) == [1, 5, 8, 10, 11]


def test_a_row_that_the_store_refuses_is_found_by_halving(tmp_path: Path) -> None:
    log = Log([put(i, i + 1) for i in range(50)])
    store, letters = Picky(refused="docs:31#0"), LetterBox()
    run_flow(contract(), as_topic([log]), store, tmp_path / "r", letters=letters)
    assert set(texts(store, "docs")) == {f"docs:{i}#0" for i in range(50)} - {"docs:31#0"}
    assert [letter.position.offset for letter in letters.letters] == [31]


def test_a_store_that_is_down_for_a_while_is_tried_again(tmp_path: Path) -> None:
    store, letters = MemoryStore(), LetterBox()
    for _ in range(3):
        store.fail_next(RetriableError(subject="milvus", cause="down"), "upsert")
    run_flow(contract(), as_topic([Log([put(1, 1)])]), store, tmp_path / "r", letters=letters)
    assert set(texts(store, "docs")) == {"docs:1#0"}
    assert letters.letters == []


def test_a_store_that_stays_down_stops_the_flow_and_loses_nothing(tmp_path: Path) -> None:
    store, letters = MemoryStore(), LetterBox()
    for _ in range(1_000):
        store.fail_next(RetriableError(subject="milvus", cause="down"), "upsert")
    logs = as_topic([Log([put(1, 1)])])
    with pytest.raises(Exception, match=r"rowvec\.upsert") as caught:
        run_flow(contract(), logs, store, tmp_path / "r", letters=letters)
    assert "gave up" in str(root_cause(caught.value))
    assert letters.letters == []
    store._failures.clear()
    run_flow(contract(), logs, store, tmp_path / "r", letters=letters)
    assert set(texts(store, "docs")) == {"docs:1#0"}


@pytest.mark.timeout(60)
def test_a_model_that_fails_stops_the_flow_and_loses_nothing(tmp_path: Path) -> None:
    where: set[str] = set()

    class Failing(HashEmbedder):
        def embed(self, texts: Sequence[str]) -> Any:
            where.add(threading.current_thread().name.rstrip("_0123456789"))
            raise FatalError(subject="model", cause="is beyond use")

    store = MemoryStore()
    logs = as_topic([Log([put(row, row + 1) for row in range(50)])])
    with pytest.raises(Exception, match=r"rowvec\.upsert") as caught:
        run_flow(contract(), logs, store, tmp_path / "r", embedder=Failing())
    assert str(root_cause(caught.value)) == "model: is beyond use."
    assert where == {"rowvec-embed"}  # No lane has called the model.
    run_flow(contract(), logs, store, tmp_path / "r")
    assert set(texts(store, "docs")) == {f"docs:{row}#0" for row in range(50)}


@pytest.mark.parametrize(("writers", "lanes"), [(1, 1), (2, 2), (None, 4), (9, 4)])
def test_there_are_no_more_lanes_than_the_store_bears_writers(
    writers: int | None, lanes: int, tmp_path: Path
) -> None:
    threads: set[str] = set()

    class Telling(MemoryStore):
        def upsert(self, collection, entities) -> None:  # type: ignore[no-untyped-def]
            threads.add(threading.current_thread().name)
            super().upsert(collection, entities)

    log = Log([put(row, row + 1) for row in range(200)])
    section = {"uri": "memory", "write_lanes": 4}
    run_flow(contract(milvus=section), as_topic([log]), Telling(writers), tmp_path / "r")
    assert len(threads) == lanes


class Picky(MemoryStore):
    """Refuses each call with a certain entity in it."""

    def __init__(self, refused: str) -> None:
        super().__init__()
        self._refused = refused

    def upsert(self, collection, entities) -> None:  # type: ignore[no-untyped-def]
        if any(entity.id == self._refused for entity in entities):
            raise RecordError(subject="entity", cause="refused")
        super().upsert(collection, entities)
