"""Every kind of change event through the whole flow on Bytewax, with one worker and with two."""

import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from operators.contract.sections import Contract
from operators.contract.table import UNAVAILABLE
from operators.errors import FatalError
from operators.telemetry import Telemetry
from tests.changes import (
    TOPIC,
    LetterBox,
    Log,
    contract,
    doc,
    envelope,
    key,
    source,
    table,
    tombstone,
)
from tests.fakes import HashEmbedder, MemoryStore
from tests.flow.running import root_cause, run_flow, texts

Record = tuple[Any, ...]

WORKERS = pytest.mark.parametrize("workers", [1, 2])


def one_table(**changed: Any) -> Contract:
    """A contract with only the first table, with some of its settings changed."""
    sections = {name: changed.pop(name) for name in ("masking",) if name in changed}
    return contract(**sections).model_copy(update={"tables": (table(**changed),)})


def topic(*logs: Log) -> dict[tuple[str, int], Log]:
    return {(TOPIC, number): log for number, log in enumerate(logs)}


def change(row: int, lsn: int, text: str | None = "text", op: str = "u", **columns: Any) -> Record:
    return key(id=row), envelope(op, lsn, doc(row, text, **columns))  # type: ignore[arg-type]


def gone(row: int, lsn: int) -> list[Record]:
    return [(key(id=row), envelope("d", lsn, None)), tombstone(row)]


def moved(logs: list[Log], old: int, new: int, lsn: int) -> None:
    """Append a key change that leaves the text unchanged, to the partitions of both keys."""
    headers = [("__debezium.newkey", key(id=new))], [("__debezium.oldkey", key(id=old))]
    before, after = (logs[each % len(logs)].records for each in (old, new))
    before += [(key(id=old), envelope("d", lsn, None), headers[0]), tombstone(old)]
    after.append((key(id=new), envelope("c", lsn, doc(new, UNAVAILABLE)), headers[1]))


# TRUNCATE.


@WORKERS
def test_a_truncate_is_about_the_rows_of_all_partitions_and_of_no_later_time(
    workers: int, tmp_path: Path
) -> None:
    logs = [Log() for _ in range(3)]
    for row in range(300):
        logs[row % 3].records.append(change(row, row + 1, "before"))
    logs[1].records.append((None, envelope("t", 1_000, None)))
    for row in range(0, 300, 7):
        logs[row % 3].records.append(change(row, 2_000 + row, "after", op="c"))
    store = MemoryStore()
    run_flow(one_table(), topic(*logs), store, tmp_path / "r", workers=workers)
    assert texts(store, "docs") == {f"docs:{r}#0": f"doc {r}\nafter" for r in range(0, 300, 7)}


@WORKERS
@pytest.mark.parametrize("applied", [False, True])
def test_a_truncate_that_a_crash_has_torn(workers: int, applied: bool, tmp_path: Path) -> None:
    logs = [Log([change(row, row + 1) for row in range(part, 200, 2)]) for part in range(2)]
    store = MemoryStore()
    run_flow(one_table(), topic(*logs), store, tmp_path / "r", workers=workers)
    logs[0].records.append((None, envelope("t", 1_000, None)))
    logs[1].records.append(change(1, 2_000, "after", op="c"))
    error = FatalError(subject="power", cause="cut")
    store.fail_next(error, "delete_older", applied=applied)
    with pytest.raises(Exception, match=r"rowvec\.") as caught:
        run_flow(one_table(), topic(*logs), store, tmp_path / "r", workers=workers)
    assert root_cause(caught.value) == error
    run_flow(one_table(), topic(*logs), store, tmp_path / "r", workers=workers)
    assert texts(store, "docs") == {"docs:1#0": "doc 1\nafter"}


# Values that Debezium left out.


@WORKERS
def test_left_out_texts_are_carried_forward(workers: int, tmp_path: Path) -> None:
    logs = [Log(), Log()]
    for row in range(100):
        logs[row % 2].records.append(change(row, row + 1, f"text {row}"))
    store, letters, embedder = MemoryStore(), LetterBox(), HashEmbedder()
    run_flow(one_table(), topic(*logs), store, tmp_path / "r", workers=workers, letters=letters)
    for row in range(100):
        # Every third row changes twice in a window, the others once.
        logs[row % 2].records.append(change(row, 1_000 + row, UNAVAILABLE, kind="leaf"))
        if row % 3 == 0:
            logs[row % 2].records.append(change(row, 2_000 + row, UNAVAILABLE, size=7))
    run_flow(
        one_table(),
        topic(*logs),
        store,
        tmp_path / "r",
        workers=workers,
        letters=letters,
        embedder=embedder,
    )
    assert texts(store, "docs") == {f"docs:{r}#0": f"doc {r}\ntext {r}" for r in range(100)}
    fields = {each["id"]: (each["kind"], each["size"]) for each in store.scan("docs")}
    assert fields == {f"docs:{r}#0": ("page", 7) if r % 3 == 0 else ("leaf", 1) for r in range(100)}
    assert letters.letters == []
    assert embedder.calls == []


@WORKERS
def test_many_keys_that_change_with_texts_left_out(workers: int, tmp_path: Path) -> None:
    logs = [Log() for _ in range(3)]
    for row in range(400):
        logs[row % 3].records.append(change(row, row + 1, f"text {row}", op="c"))
    for row in range(400):
        moved(logs, row, row + 1_000 + row % 2, 10_000 + row)
    store, letters = MemoryStore(), LetterBox()
    run_flow(one_table(), topic(*logs), store, tmp_path / "r", workers=workers, letters=letters)
    final = {r + 1_000 + r % 2: f"text {r}" for r in range(400)}
    assert letters.letters == []
    assert texts(store, "docs") == {f"docs:{n}#0": f"doc {n}\n{t}" for n, t in final.items()}


@WORKERS
@pytest.mark.parametrize("seed", range(3))
def test_rows_that_change_places_over_clean_stops(workers: int, seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    logs = [Log(), Log()]
    final = {row: f"text {row}" for row in range(20)}
    for row, text in final.items():
        logs[row % 2].records.append(change(row, row + 1, text, op="c"))
    lsn = 1_000
    # Stop only between changes: a stop between the two records of a key change loses the old values.
    stops = [[len(log.records) for log in logs]]
    for _ in range(60):
        one, two = draw.sample(sorted(final), 2)
        for old, new in ((one, 99), (two, one), (99, two)):
            moved(logs, old, new, lsn)
            lsn += 1
        final[one], final[two] = final[two], final[one]
        stops.append([len(log.records) for log in logs])
    store, letters = MemoryStore(), LetterBox()
    for stop in (stops[7], stops[8], stops[30], stops[-1]):
        for log, end in zip(logs, stop, strict=True):
            log.written = end
        run_flow(one_table(), topic(*logs), store, tmp_path / "r", workers=workers, letters=letters)
    assert letters.letters == []
    assert texts(store, "docs") == {f"docs:{n}#0": f"doc {n}\n{t}" for n, t in final.items()}


# Filters and soft deletes.


@WORKERS
def test_rows_come_and_go_with_the_filter_and_the_mark(workers: int, tmp_path: Path) -> None:
    filtered = one_table(
        filter=[{"column": "kind", "equals": "page"}], soft_delete="deleted_at", unmirrored=["old"]
    )
    draw = random.Random(1)
    logs = [Log(), Log()]
    final: dict[int, str] = {}
    shown: dict[int, bool] = {}
    for lsn in range(1, 1_500):
        row = draw.randrange(60)
        kind = draw.choice(["page", "page", "draft"])
        marked = draw.choice([None, None, "2026-01-01T00:00:00Z"])
        text = draw.choice(["a", "b"])
        logs[row % 2].records.append(change(row, lsn, text, kind=kind, deleted_at=marked))
        shown[row] = kind == "page" and marked is None
        final.pop(row, None)
        if shown[row]:
            final[row] = text
    store, letters = MemoryStore(), LetterBox()
    for part in range(1, 4):
        for log in logs:
            log.written = len(log.records) * part // 3
        run_flow(filtered, topic(*logs), store, tmp_path / "r", workers=workers, letters=letters)
    assert 0 < len(final) < len(shown)
    assert texts(store, "docs") == {f"docs:{n}#0": f"doc {n}\n{t}" for n, t in final.items()}
    assert letters.letters == []


# Chunks.


@WORKERS
def test_chunks_come_and_go_with_the_text_over_crashes(workers: int, tmp_path: Path) -> None:
    cut = one_table(chunks={"max_tokens": 8, "overlap_tokens": 2})
    draw = random.Random(workers)
    logs = [Log(), Log()]
    final: dict[int, str] = {}
    for lsn in range(1, 800):
        row = draw.randrange(30)
        log = logs[row % 2]
        if row in final and draw.random() < 0.1:
            log.records += gone(row, lsn)
            del final[row]
        elif row in final and draw.random() < 0.3:
            log.records.append(change(row, lsn, UNAVAILABLE, size=lsn))
        else:
            final[row] = " ".join(f"{lsn}-{i}" for i in range(draw.choice([1, 5, 20, 60])))
            log.records.append(change(row, lsn, final[row]))
    store, letters = MemoryStore(), LetterBox()
    for part in range(1, 7):
        for log in logs:
            log.written = len(log.records) * part // 7
        error = FatalError(subject="power", cause="cut")
        store.fail_next(error, draw.choice(["upsert", "delete"]), applied=draw.random() < 0.5)
        with pytest.raises(Exception, match=r"rowvec\."):
            run_flow(cut, topic(*logs), store, tmp_path / "r", workers=workers, letters=letters)
    for log in logs:
        log.written = None
    run_flow(cut, topic(*logs), store, tmp_path / "r", workers=workers, letters=letters)
    expected: dict[str, str] = {}
    for row, text in final.items():
        whole = f"doc {row}\n{text}"
        ranges = HashEmbedder().chunks(whole, 8, 2)
        expected |= {f"docs:{row}#{i}": whole[a:b] for i, (a, b) in enumerate(ranges)}
    assert texts(store, "docs") == expected
    assert letters.letters == []


# Tables without a primary key, and messages without an envelope.


@WORKERS
def test_a_table_without_a_primary_key_whose_rows_change_what_identifies_them(
    workers: int, tmp_path: Path
) -> None:
    keyless = one_table(key=["id", "kind"], key_from="row")
    draw = random.Random(3)
    rows: dict[tuple[int, str], str] = {}
    log = Log()

    def send(lsn: int, op: str, before: Any, after: Any) -> None:
        value = {"before": before, "after": after, "source": source(lsn), "op": op}
        log.records.append((None, orjson.dumps(value)))

    def row(at: tuple[int, str], text: str) -> dict[str, Any]:
        return doc(at[0], text, kind=at[1])

    for lsn in range(1, 600):
        at = (draw.randrange(12), draw.choice("abc"))
        text = f"text {lsn}"
        if at not in rows:
            rows[at] = text
            send(lsn, "c", None, row(at, text))
        elif draw.random() < 0.2:
            send(lsn, "d", row(at, rows.pop(at)), None)
        else:
            new = (at[0], draw.choice("abc"))
            new = at if new in rows else new
            send(lsn, "u", row(at, rows.pop(at)), row(new, text))
            rows[new] = text
    store, letters = MemoryStore(), LetterBox()
    for part in (1, 2):
        log.written = len(log.records) * part // 2
        run_flow(keyless, topic(log), store, tmp_path / "r", workers=workers, letters=letters)
    assert texts(store, "docs") == {
        f"docs:{number},{kind}#0": f"doc {number}\n{text}" for (number, kind), text in rows.items()
    }
    assert letters.letters == []


def test_a_bad_record_without_a_key_is_in_one_dead_letter(tmp_path: Path) -> None:
    keyless = one_table(key=["id", "kind"], key_from="row")
    bad = {"before": doc(1, kind="a"), "after": doc(1, kind="b"), "source": source(1), "op": "x"}
    store, letters = MemoryStore(), LetterBox()
    log = Log([(None, orjson.dumps(bad)), (None, b"{")])
    run_flow(keyless, topic(log), store, tmp_path / "r", letters=letters)
    assert sorted(letter.position.offset for letter in letters.letters) == [0, 1]


@WORKERS
def test_unwrapped_rows_without_a_position_are_ordered_by_their_offsets(
    workers: int, tmp_path: Path
) -> None:
    unwrapped = one_table(shape="unwrapped")
    draw = random.Random(5)
    logs = [Log(), Log()]
    final: dict[int, str] = {}
    for number in range(1_000):
        row = draw.randrange(50)
        log = logs[row % 2]
        if row in final and draw.random() < 0.2:
            log.records.append((key(id=row), orjson.dumps({"id": row, "__deleted": "true"})))
            del final[row]
        else:
            final[row] = f"text {number}"
            after = doc(row, final[row])
            log.records.append((key(id=row), orjson.dumps({**after, "__deleted": "false"})))
    store, letters = MemoryStore(), LetterBox()
    for part in range(1, 4):
        for log in logs:
            log.written = len(log.records) * part // 3
        if part == 2:
            store.fail_next(FatalError(subject="power", cause="cut"), "upsert", applied=True)
            with pytest.raises(Exception, match=r"rowvec\."):
                run_flow(
                    unwrapped, topic(*logs), store, tmp_path / "r", workers=workers, letters=letters
                )
        run_flow(unwrapped, topic(*logs), store, tmp_path / "r", workers=workers, letters=letters)
    assert texts(store, "docs") == {f"docs:{n}#0": f"doc {n}\n{t}" for n, t in final.items()}
    assert letters.letters == []


# Masks.

SECRETS = ("hush-mail", "hush-number", "hush-note", "hush-dropped")


@WORKERS
def test_a_masked_value_is_nowhere(workers: int, tmp_path: Path) -> None:
    masked = one_table(
        text="{name}\n{doc}\n{mail}",
        columns={"kind": "varchar", "size": "int64", "number": "varchar"},
        masks={
            "mail": "hmac",
            "number": "hmac",
            "doc": {"redact": "hush-[a-z]+"},
            "dropped": "drop",
        },
        masking={"hmac_key": "0123456789abcdef0123456789abcdef"},
    )
    secret = {
        "mail": "hush-mail",
        "number": "hush-number",
        "dropped": "hush-dropped",
        "doc": "a hush-note b",
    }
    logs = [Log(), Log()]
    for row in range(60):
        lsn, log = 10 * row + 1, logs[row % 2]
        log.records += [
            (key(id=row), envelope("c", lsn, {**doc(row), **secret})),
            (key(id=row), envelope("u", lsn + 1, {**doc(row), **secret, "doc": UNAVAILABLE})),
        ]
        if row % 5 == 0:
            # Records that become dead letters for different reasons, each with the secret values.
            log.records += [
                (key(id=row), envelope("u", lsn + 2, {**doc(row), **secret, "size": "?"})),
                (key(id=row), envelope("x", lsn + 3, {**doc(row), **secret})),
                (key(id=row), b"{" + orjson.dumps(secret)),
                (key(id=row), envelope("u", lsn + 4, {**secret, "doc": UNAVAILABLE})),
                (orjson.dumps({"mail": "hush-mail"}), envelope("u", lsn + 5, secret)),
            ]
    spans = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    store, letters = MemoryStore(), LetterBox()
    recovery = tmp_path / "r"
    seen: list[bytes] = []
    for part in range(1, 4):
        for log in logs:
            log.written = len(log.records) * part // 3
        if part < 3:
            store.fail_next(FatalError(subject="power", cause="cut"), "upsert")
        try:
            run_flow(
                masked,
                topic(*logs),
                store,
                recovery,
                workers=workers,
                letters=letters,
                telemetry=Telemetry(tracer_provider=tracing),
            )
        except Exception as error:
            seen.append(repr(root_cause(error)).encode())
        seen += [path.read_bytes() for path in recovery.rglob("*") if path.is_file()]
    stored = list(store.scan("docs"))
    assert len(stored) == 60
    assert len(letters.letters) >= 12
    assert len(spans.get_finished_spans()) > 0
    seen += [repr(each).encode() for each in (*stored, *letters.letters)]
    seen += [span.to_json().encode() for span in spans.get_finished_spans()]
    for value in SECRETS:
        assert not any(value.encode() in each for each in seen), value
    # Equal values have equal masks, and the unmasked part of a text is kept.
    assert len({each["number"] for each in stored}) == 1
    assert all("\na █ b\n" in each["text"] for each in stored)
