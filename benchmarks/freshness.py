"""Freshness: how long after its commit a change is written to and readable in Milvus, at half load.

    python -m benchmarks.freshness

The flow runs as in production, in its own process: a real broker, real vectors, windows, checkpoints,
ledger and lease, and a Milvus Lite server, so that another process can read what it writes. First the
flow drains a backlog; the rows that it writes per second are its capacity. Then events come at half of
that rate, **open-loop**: a schedule fixes the moment of each event in advance, whether or not the
events before it are done. Latency counts from that moment, the commit, and not from the sending. So a
late event delays all that follow, and no latency is left out because the system was busy (no
coordinated omission). The latency ends

- `acknowledged`: when the request that wrote this version of the row, or a newer one, has returned;
- `visible`: when a Strong read by another process has returned it. The reader asks over and over, with
  a short pause, for all rows that are due and not seen yet; `poll_s` is the time between its answers,
  and so the most by which it sees a row too late.

Every event has a new text, and a row comes again only after all others, so each event costs an
embedding: no cache and no unchanged text saves any, and a window merges two changes only if the flow is
behind by as many events as there are rows. The texts of backlog and schedule differ only in a number. A
backlog is embedded in larger, cheaper batches than the events of one window, so half of this capacity
is more than half of what the flow can do in small windows.

The ratios are the 99th percentiles ÷ (window + one batch). One batch is the time that the flow took
during the schedule to embed and write one group of events: the median of all calls of the embedder plus
the median of all upserts. On a slow machine batches grow, and this time grows with them;
`texts_per_embed_p50` shows it.

PostgreSQL, Debezium, bursts (the schedule is even), a Milvus server and a network are left out. All
processes share the cores of one machine: `cores` says how much each used during the schedule. The
reader loads Milvus, which the backlog did not. The broker holds each fetch for 10 ms, because it does
not answer early when records arrive. At the end the collection must hold the last text of each row.
"""

import argparse
import math
import tempfile
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import orjson
from confluent_kafka import Producer

from benchmarks import corpus
from benchmarks.contracts import TABLE, TOPIC, real_contract
from benchmarks.envelopes import Change, change
from benchmarks.measuring import parser, print_result, progress
from benchmarks.over_kafka import fill
from benchmarks.processes import LIMIT_S, cpu_s, module, pid_of, tell, wait_for
from flows.embedded.broker import Broker
from flows.embedded.milvus_lite import MilvusLiteServer
from flows.embedded.process import Child
from operators.changes.version import offset_of
from operators.codec.row_keys import KeyMaker
from operators.contract.sections import Contract, MilvusSection
from operators.milvus.store import MilvusStore
from operators.store.protocol import Entity, entity_id

SHARE = 0.5
"""The rate of the schedule as a share of the capacity."""

_LOOK_S = 0.05
_SOON_S = 1.0
"""How long before its first event a schedule is published to the other processes."""


@dataclass(frozen=True, slots=True)
class Job:
    """The work of the processes of one round.

    Attributes:
        folder: Shared folder with the recovery directory and the files by which processes signal.
        rows: Event n changes row n modulo this number; n is its Kafka offset.
        pause_s: Pause of the reader after each answer.
    """

    servers: str
    milvus: str
    folder: str
    rows: int
    pause_s: float

    @property
    def calls(self) -> Path:
        """The file in which the flow notes its calls, one JSON line each."""
        return Path(self.folder, "calls.jsonl")

    @property
    def schedule(self) -> Path:
        """The file with the schedule; exists once the schedule is fixed."""
        return Path(self.folder, "schedule.json")

    @property
    def ready(self) -> Path:
        """A file that exists once the reader waits for the schedule."""
        return Path(self.folder, "ready")

    @property
    def reads(self) -> Path:
        """The file with the reader's results."""
        return Path(self.folder, "reads.json")

    def contract(self) -> Contract:
        """The contract of the flow."""
        return real_contract(self.servers, self.milvus, Path(self.folder, "recovery"), 10)

    def ids(self) -> list[str]:
        """The entity id of each row."""
        key = KeyMaker(self.contract().tables[0])
        return [entity_id(key({"id": row})) for row in range(self.rows)]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each event is due, by the machine's monotonic clock.

    Attributes:
        first: The first event of the schedule.
    """

    start: float
    per_s: float
    first: int
    count: int

    def due(self, event: int) -> float:
        """The moment at which an event is committed."""
        return self.start + (event - self.first) / self.per_s

    def events(self) -> range:
        """All events of the schedule."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the flow to the model or to Milvus.

    Attributes:
        what: "embed" or "write".
        texts: How many texts it embedded or wrote.
        events: For a write, the Kafka offsets of the versions that it wrote.
    """

    what: str
    began: float
    ended: float
    texts: int
    events: list[int]


@dataclass(frozen=True, slots=True)
class Reads:
    """The results of the reader.

    Attributes:
        visible: When each event of the schedule was seen, in the order of events.
        answers: When each answer came.
    """

    visible: list[float]
    answers: list[float]
    query_s: float
    cpu_s: float


def text_of(texts: Sequence[str], event: int) -> str:
    """The text of an event, which no other event has."""
    return f"{texts[event % len(texts)]} ({event})"


def changes_of(
    job: Job, texts: Sequence[str], events: range, committed_s: Callable[[int], float]
) -> list[Change]:
    """Events as Debezium would send them; `committed_s` gives the commit time, as Unix time."""
    made = []
    for event in events:
        row = {"id": event % job.rows, "name": "", "doc": text_of(texts, event), "size": event}
        op = "c" if event < job.rows else "u"
        key, value = change(TABLE, op, event + 1, {**row, "kind": "function"})
        envelope = orjson.loads(value)
        envelope["ts_ms"] = envelope["source"]["ts_ms"] = int(committed_s(event) * 1000)
        made.append((key, orjson.dumps(envelope)))
    return made


# --- The process of the flow ---


class _Notes:
    """Appends the flow's calls to a file, so that another process can follow them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(
        self, what: str, began: float, ended: float, texts: int, events: Sequence[int]
    ) -> None:
        """Write one line in one `write`, so that the lines of different threads do not mix."""
        line = orjson.dumps(Call(what, began, ended, texts, list(events)))
        self._file.write(line + b"\n")


class _NotingStore(MilvusStore):
    """A Milvus store that notes each upsert that has returned."""

    def __init__(self, section: MilvusSection, *, notes: _Notes) -> None:
        super().__init__(section)
        self._notes = notes

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        """See `VectorStore.upsert`."""
        began = time.monotonic()
        super().upsert(collection, entities)
        ended = time.monotonic()
        events = [offset_of(entity.version) for entity in entities]
        self._notes.note("write", began, ended, len(entities), events)


def run_flow(job: Job) -> None:
    """Run the flow until SIGTERM, as `rowvec run` does."""
    # Imported here, because they import torch, which the other processes do not need.
    from flows.process import preflight
    from flows.process.session import Cluster
    from flows.runtime import run
    from operators.model.transformer import TransformerEmbedder

    notes = _Notes(job.calls)

    class NotingEmbedder(TransformerEmbedder):
        def embed(self, texts: Sequence[str]) -> Any:
            began = time.monotonic()
            vectors = super().embed(texts)
            notes.note("embed", began, time.monotonic(), len(texts), ())
            return vectors

    # The flow opens model and store itself and has no parameter for them, so they are patched.
    with (
        mock.patch.object(preflight, "MilvusStore", partial(_NotingStore, notes=notes)),
        mock.patch.object(preflight, "load_embedder", lambda c: NotingEmbedder(c.embedding)),
    ):
        run(job.contract(), cluster=Cluster())


# --- The process of the reader ---


def run_reader(job: Job) -> None:
    """Read the rows that are due and not seen yet, over and over, until all events were seen."""
    ids = job.ids()
    with closing(MilvusStore(job.contract().milvus)) as store:
        job.ready.touch()
        while not job.schedule.exists():
            time.sleep(_LOOK_S)
        schedule = Schedule(**orjson.loads(job.schedule.read_bytes()))
        time.sleep(max(0.0, schedule.start - time.monotonic()))
        cpu = time.process_time()
        visible: dict[int, float] = {}
        answers: list[float] = []
        queries: list[float] = []
        waiting: list[int] = []
        coming = iter(schedule.events())
        event = next(coming, None)
        while event is not None or waiting:
            now = time.monotonic()
            while event is not None and schedule.due(event) <= now:
                waiting.append(event)
                event = next(coming, None)
            if not waiting:
                assert event is not None
                time.sleep(max(0.0, schedule.due(event) - now))
                continue
            assert now < schedule.due(waiting[0]) + LIMIT_S, "a change is not to be seen"
            asked = list({ids[each % job.rows] for each in waiting})
            stored = store.stored(TABLE, asked)
            at = time.monotonic()
            answers.append(at)
            queries.append(at - now)
            still = []
            for each in waiting:
                found = stored.get(ids[each % job.rows])
                if found is not None and offset_of(found.version) >= each:
                    visible[each] = at
                else:
                    still.append(each)
            waiting = still
            time.sleep(job.pause_s)
        used = time.process_time() - cpu
    told = Reads([visible[each] for each in schedule.events()], answers, median(queries), used)
    tell(job.reads, told)


# --- The main process: plans, sends and checks ---


class Follower:
    """Reads the flow's notes while it writes them.

    Attributes:
        calls: The calls in the order of their ends.
        acknowledged: Event → when its write, or that of a newer event of the same row, returned.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self._read = 0
        self._rows = rows
        self._newest = [row - rows for row in range(rows)]
        self.calls: list[Call] = []
        self.acknowledged: dict[int, float] = {}

    def look(self) -> None:
        """Read the new notes."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                call = Call(**orjson.loads(line))
                self.calls.append(call)
                for event in call.events:
                    self._acknowledge(event, call.ended)

    def of(self, what: str, since: float = 0.0) -> list[Call]:
        """Calls of one kind that began at `since` or later."""
        return [call for call in self.calls if call.what == what and call.began >= since]

    def _acknowledge(self, event: int, at: float) -> None:
        row = event % self._rows
        older = range(self._newest[row] + self._rows, event + 1, self._rows)
        self.acknowledged.update(dict.fromkeys(older, at))
        self._newest[row] = max(self._newest[row], event)


@dataclass(frozen=True, slots=True)
class Round:
    """The size of a round.

    Attributes:
        backlog: Number of updates in the backlog; the inserts of all rows come before them.
        live_s: Duration of the schedule.
        pause_s: Pause of the reader.
    """

    rows: int
    backlog: int
    live_s: float
    pause_s: float
    texts: Sequence[str]


@dataclass(slots=True)
class Figures:
    """The figures: one value of each per round."""

    ratios: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rates: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))


def run_round(asked: Round, figures: Figures) -> None:
    """Start broker, Milvus and flow afresh, send a backlog and a schedule, and note the figures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker, milvus = Broker(folder / "broker"), MilvusLiteServer(folder / "milvus")
        pids = {}
        for name, server in (("broker", broker), ("milvus", milvus)):
            stack.callback(server.stop)
            pids[name] = pid_of(server.start)
        job = Job(broker.bootstrap_servers, milvus.uri, str(folder), asked.rows, asked.pause_s)
        broker.create_topic(TOPIC, 1)
        first = asked.rows + asked.backlog
        fill(job.servers, changes_of(job, asked.texts, range(first), lambda _: time.time()))
        flow, reader = _child("flow", job, stack), _child("reader", job, stack)
        reader.start()
        pids["flow"] = pid_of(flow.start)
        follower = Follower(job.calls, job.rows)
        capacity = _drain(follower, flow, job.rows, first)
        wait_for(job.ready, flow, reader)
        per_s = SHARE * capacity
        count = math.ceil(per_s * asked.live_s)
        progress(f"capacity {capacity:,.0f}/s; now {count:,} events, {per_s:,.1f}/s")
        schedule = Schedule(time.monotonic() + _SOON_S, per_s, first, count)
        used = _usage(pids)
        late = _send(job, asked.texts, schedule)
        wait_for(job.reads, flow, reader)
        wall_s = time.monotonic() - schedule.start
        reads = Reads(**orjson.loads(job.reads.read_bytes()))
        cores = {name: each - used[name] for name, each in _usage(pids).items()}
        cores["reader"] = reads.cpu_s
        reader.wait(LIMIT_S)
        flow.stop()
        follower.look()
        _check(job, asked.texts, first + count)
    _judge(job.contract().flow.window_ms / 1000, schedule, follower, reads, figures)
    figures.rates["capacity_events_per_s"].append(capacity)
    figures.rates["offered_events_per_s"].append(per_s)
    figures.counts["cores"].append({n: round(each / wall_s, 2) for n, each in cores.items()})
    figures.counts["sent_late_p99_s"].append(rank(late, 0.99))


def _child(name: str, job: Job, stack: ExitStack) -> Child:
    described = orjson.dumps(asdict(job)).decode()
    child = module(
        "benchmarks.freshness", Path(job.folder), f"--{name}", described, called=f"the-{name}"
    )
    stack.callback(child.stop)
    return child


def _drain(follower: Follower, flow: Child, rows: int, events: int) -> float:
    """Rows written per second, from when every row exists to the last acknowledgement of the backlog.

    Rows are counted, not events: an event that is superseded in its window costs nothing.
    """
    deadline = time.monotonic() + LIMIT_S
    while len(follower.acknowledged) < events:
        flow.check()
        assert time.monotonic() < deadline, "the backlog does not end"
        time.sleep(_LOOK_S)
        follower.look()
    writes = follower.of("write")
    totals = list(accumulate(call.texts for call in writes))
    warm = bisect_left(totals, rows)
    assert warm < len(writes) - 1, "the backlog was too short to measure anything"
    return (totals[-1] - totals[warm]) / (writes[-1].ended - writes[warm].ended)


def _send(job: Job, texts: Sequence[str], schedule: Schedule) -> list[float]:
    """Send each event when it is due; returns how late each was handed to the client."""
    since_1970 = time.time() - time.monotonic()
    changes = changes_of(job, texts, schedule.events(), lambda n: since_1970 + schedule.due(n))
    tell(job.schedule, schedule)
    # Debezium sends in batches, too. With one request per event, the embedded broker would use more
    # CPU than the flow. Latency counts from the commit, so it includes the time spent in `linger.ms`.
    producer = Producer({"bootstrap.servers": job.servers, "linger.ms": 10})
    producer.list_topics(TOPIC, timeout=10)  # Connect first: connecting is not measured.
    late: list[float] = []
    for event, (key, value) in zip(schedule.events(), changes, strict=True):
        due = schedule.due(event)
        producer.poll(max(0.0, due - time.monotonic()))
        # `poll` returns early when it has delivery reports.
        time.sleep(max(0.0, due - time.monotonic()))
        producer.produce(TOPIC, value, key, partition=0)
        late.append(time.monotonic() - due)
    assert not producer.flush(LIMIT_S), "events were not sent"
    return late


def _usage(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds of each process so far."""
    return {name: cpu_s(pid) for name, pid in pids.items()} | {"producer": time.process_time()}


def _check(job: Job, texts: Sequence[str], events: int) -> None:
    """Fail if the collection does not hold the last text of each row."""
    last = range(events - job.rows, events)
    ids = job.ids()
    expected = {ids[event % job.rows]: text_of(texts, event) for event in last}
    with closing(MilvusStore(job.contract().milvus)) as store:
        found = {row["id"]: row["text"] for row in store.scan(TABLE, ["text"])}
    wrong = [id_ for id_, text in expected.items() if found.get(id_) != text]
    assert not wrong, f"{len(wrong)} rows are missing or wrong, like {wrong[0]}"
    assert len(found) == len(expected), f"{len(found)} entities, not {len(expected)}"


def _judge(
    window_s: float, schedule: Schedule, follower: Follower, reads: Reads, figures: Figures
) -> None:
    """Add the figures of one round."""
    embeds, writes = (follower.of(what, schedule.start) for what in ("embed", "write"))
    written = sum(call.texts for call in follower.of("write"))
    embedded = sum(call.texts for call in follower.of("embed"))
    assert embedded >= written, f"{written} rows were written, and {embedded} texts embedded"
    batch_s = median(_took(embeds)) + median(_took(writes))
    due = [schedule.due(event) for event in schedule.events()]
    moments = {
        "acknowledged": [follower.acknowledged[event] for event in schedule.events()],
        "visible": reads.visible,
    }
    for name, reached in moments.items():
        latencies = [at - was for at, was in zip(reached, due, strict=True)]
        for share in (0.5, 0.99, 0.999):
            figures.counts[f"{name}_p{100 * share:g}_s"].append(rank(latencies, share))
        ratio = rank(latencies, 0.99) / (window_s + batch_s)
        figures.ratios[f"{name}_p99_over_window_and_batch"].append(ratio)
    counts = figures.counts
    counts["events"].append(schedule.count)
    counts["window_and_batch_s"].append(round(window_s + batch_s, 4))
    for name, calls in (("embed", embeds), ("write", writes)):
        counts[f"{name}_p50_s"].append(rank(_took(calls), 0.5))
        counts[f"{name}_p99_s"].append(rank(_took(calls), 0.99))
    counts["texts_per_embed_p50"].append(median(call.texts for call in embeds))
    counts["poll_s"].append(rank([b - a for a, b in pairwise(reads.answers)], 0.5))
    counts["query_p50_s"].append(round(reads.query_s, 4))


def _took(calls: Sequence[Call]) -> list[float]:
    return [call.ended - call.began for call in calls]


def rank(values: Sequence[float], share: float) -> float:
    """The percentile of `values` at `share`; always one of the values, without interpolation."""
    return round(sorted(values)[max(0, math.ceil(share * len(values)) - 1)], 4)


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1_000)
    options.add_argument("--backlog", type=int, default=2_000, help="updates that are drained")
    options.add_argument("--seconds", type=float, default=60.0, help="of the schedule")
    options.add_argument("--pause-ms", type=float, default=10.0, help="of the reader")
    options.add_argument("--flow", help=argparse.SUPPRESS)
    options.add_argument("--reader", help=argparse.SUPPRESS)
    return options.parse_args()


def main() -> None:
    """Measure and print."""
    given = _arguments()
    if given.flow:
        run_flow(Job(**orjson.loads(given.flow)))
        return
    if given.reader:
        run_reader(Job(**orjson.loads(given.reader)))
        return
    rows, backlog, live_s = (
        (500, 200, 6.0) if given.quick else (given.rows, given.backlog, given.seconds)
    )
    rounds = given.rounds or (1 if given.quick else 2)
    asked = Round(rows, backlog, live_s, given.pause_ms / 1000, corpus.of_rows())
    figures = Figures()
    for number in range(1, rounds + 1):
        run_round(asked, figures)
        told = ", ".join(f"{name} {each[-1]:.2f}" for name, each in figures.ratios.items())
        progress(f"round {number}/{rounds}  {told}")
    print_result(
        "freshness",
        quick=given.quick,
        ratios=figures.ratios,
        rates=figures.rates,
        counts={
            "rows": rows,
            "backlog": backlog,
            "share_of_capacity": SHARE,
            "reader_pause_s": asked.pause_s,
            **figures.counts,
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    main()
