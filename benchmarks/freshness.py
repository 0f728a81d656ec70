"""How long after its commit a change is in Milvus, and can be read there, at half of capacity.

    python -m benchmarks.freshness

The flow of Rowvec runs as in production, as a process of its own: a real broker, real vectors,
windows, checkpoints, ledger and lease; Milvus Lite behind its server, so that others can read what
it writes. First it drains a backlog; the rows that it writes per second are its capacity. Then events
come at half of that, **open-loop**: each at a moment that a schedule has fixed before, whether or not
those before it are through. A latency counts from that moment, the commit, and not from when the event
was sent: what is late makes everything behind it late, and nothing is left out because the system was
busy (no coordinated omission). It ends

- `acknowledged`, when the request that wrote this version of the row, or a newer one, has returned;
- `visible`, when a Strong read of another process has shown it. That one asks for all rows that are
  due and not seen yet, all the time, with a short pause; `poll_s` is how far apart its answers are,
  and so how much too late it may see a row.

Every event has a text that nobody has seen, and a row comes again only after all others, so each event
costs an embedding: no cache and no unchanged text saves any, and the window only where the flow is
behind by as much as all rows. Backlog and schedule have the same texts but for a number. A backlog is
embedded in larger batches than what comes in one window, which are cheaper: so half of this capacity
is more than half of what the flow can do in small windows.

The ratios are the 99th percentiles ÷ (window + one batch). One batch is what the flow itself took, on
the schedule, to embed what came together and to write it: the median of all calls of the embedder
plus the median of all upserts, by the clock around them. Where the machine is so slow that batches
grow, it grows with them; `texts_per_embed_p50` tells.

It leaves out PostgreSQL and Debezium, bursts (the schedule is even), a Milvus server and a network.
All processes share the cores of one machine: `cores` says what each took while the schedule ran. The
reader is a load on Milvus that the backlog did not have. The broker holds each fetch for 10 ms, as it
does not answer when something comes. In the end the collection must hold the last text of each row.
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
"""Of the capacity, how much comes on the schedule."""

_LOOK_S = 0.05
_SOON_S = 1.0
"""How long before its first event a schedule is told."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the processes of one round work on.

    Attributes:
        folder: What they share: the recovery directory, and files that tell how far each is.
        rows: Event n is about row n modulo this; n is its Kafka offset.
        pause_s: Of the reader, after each answer.
    """

    servers: str
    milvus: str
    folder: str
    rows: int
    pause_s: float

    @property
    def calls(self) -> Path:
        """Where the flow notes its calls, one JSON line for each."""
        return Path(self.folder, "calls.jsonl")

    @property
    def schedule(self) -> Path:
        """Is there once the schedule is known."""
        return Path(self.folder, "schedule.json")

    @property
    def ready(self) -> Path:
        """Is there once the reader waits for the schedule."""
        return Path(self.folder, "ready")

    @property
    def reads(self) -> Path:
        """What the reader tells in the end."""
        return Path(self.folder, "reads.json")

    def contract(self) -> Contract:
        """The flow's."""
        return real_contract(self.servers, self.milvus, Path(self.folder, "recovery"), 10)

    def ids(self) -> list[str]:
        """The entity of each row."""
        key = KeyMaker(self.contract().tables[0])
        return [entity_id(key({"id": row})) for row in range(self.rows)]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When which event is due; moments are of the machine's monotonic clock.

    Attributes:
        first: The first event on it.
    """

    start: float
    per_s: float
    first: int
    count: int

    def due(self, event: int) -> float:
        """The moment of commit of an event."""
        return self.start + (event - self.first) / self.per_s

    def events(self) -> range:
        """All of them."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the flow's to the model or to Milvus.

    Attributes:
        what: "embed" or "write".
        texts: How many it was about.
        events: Of a write: the versions it wrote, by Kafka offset.
    """

    what: str
    began: float
    ended: float
    texts: int
    events: list[int]


@dataclass(frozen=True, slots=True)
class Reads:
    """What the reader tells.

    Attributes:
        visible: When each event of the schedule was seen, in their order.
        answers: When each answer came.
    """

    visible: list[float]
    answers: list[float]
    query_s: float
    cpu_s: float


def text_of(texts: Sequence[str], event: int) -> str:
    """The text of an event: no other event has it."""
    return f"{texts[event % len(texts)]} ({event})"


def changes_of(
    job: Job, texts: Sequence[str], events: range, committed_s: Callable[[int], float]
) -> list[Change]:
    """Events as Debezium would send them, with their moments of commit (seconds since 1970)."""
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
    """Appends what the flow does to a file, so that another process can follow it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(
        self, what: str, began: float, ended: float, texts: int, events: Sequence[int]
    ) -> None:
        """One line, in one write: lanes and worker do not get into one another's."""
        line = orjson.dumps(Call(what, began, ended, texts, list(events)))
        self._file.write(line + b"\n")


class _NotingStore(MilvusStore):
    """Milvus, with a note of each upsert that has returned."""

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
    """The flow until SIGTERM, as `rowvec run` runs it."""
    # Only here: they import torch, which the other processes do without.
    from flows.process import preflight
    from flows.runtime import Cluster, run
    from operators.model.transformer import TransformerEmbedder

    notes = _Notes(job.calls)

    class NotingEmbedder(TransformerEmbedder):
        def embed(self, texts: Sequence[str]) -> Any:
            began = time.monotonic()
            vectors = super().embed(texts)
            notes.note("embed", began, time.monotonic(), len(texts), ())
            return vectors

    # The flow opens both itself, and offers no place to put others there.
    with (
        mock.patch.object(preflight, "MilvusStore", partial(_NotingStore, notes=notes)),
        mock.patch.object(preflight, "load_embedder", lambda c: NotingEmbedder(c.embedding)),
    ):
        run(job.contract(), cluster=Cluster())


# --- The process of the reader ---


def run_reader(job: Job) -> None:
    """Read what is due and not seen yet, over and over, until all of the schedule was seen."""
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


# --- The process that plans, sends and judges ---


class Follower:
    """Reads the flow's notes while it writes them.

    Attributes:
        calls: In the order of their ends.
        acknowledged: When each event was, or a newer one of its row; by event.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self._read = 0
        self._rows = rows
        self._newest = [row - rows for row in range(rows)]
        self.calls: list[Call] = []
        self.acknowledged: dict[int, float] = {}

    def look(self) -> None:
        """Take in what is new."""
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
        """Calls of one kind that began then or later."""
        return [call for call in self.calls if call.what == what and call.began >= since]

    def _acknowledge(self, event: int, at: float) -> None:
        row = event % self._rows
        older = range(self._newest[row] + self._rows, event + 1, self._rows)
        self.acknowledged.update(dict.fromkeys(older, at))
        self._newest[row] = max(self._newest[row], event)


@dataclass(frozen=True, slots=True)
class Round:
    """What a round is made of.

    Attributes:
        backlog: Updates; the inserts of all rows come before them.
        live_s: How long the schedule is.
        pause_s: Of the reader.
    """

    rows: int
    backlog: int
    live_s: float
    pause_s: float
    texts: Sequence[str]


@dataclass(slots=True)
class Figures:
    """What the rounds found: one value of each for every round."""

    ratios: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rates: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))


def run_round(asked: Round, figures: Figures) -> None:
    """Broker, Milvus and flow from nothing; a backlog, a schedule, and what came of it."""
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
    """Rows written per second once each is there, to the last acknowledgement of the backlog.

    Rows, not events: of those that wait, one may take another's place, and cost nothing.
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
    """Send each event when it is due, and tell how late each was handed to the client."""
    since_1970 = time.time() - time.monotonic()
    changes = changes_of(job, texts, schedule.events(), lambda n: since_1970 + schedule.due(n))
    tell(job.schedule, schedule)
    # Debezium sends what it has read in batches. With a request for each event, the embedded broker
    # would take more of the machine than the flow. An event counts from its commit, wait and all.
    producer = Producer({"bootstrap.servers": job.servers, "linger.ms": 10})
    producer.list_topics(TOPIC, timeout=10)  # connecting is not what is measured
    late: list[float] = []
    for event, (key, value) in zip(schedule.events(), changes, strict=True):
        due = schedule.due(event)
        producer.poll(max(0.0, due - time.monotonic()))
        # `poll` comes back early when it has something to tell.
        time.sleep(max(0.0, due - time.monotonic()))
        producer.produce(TOPIC, value, key, partition=0)
        late.append(time.monotonic() - due)
    assert not producer.flush(LIMIT_S), "events were not sent"
    return late


def _usage(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far, by process."""
    return {name: cpu_s(pid) for name, pid in pids.items()} | {"producer": time.process_time()}


def _check(job: Job, texts: Sequence[str], events: int) -> None:
    """Refuse figures of a collection that does not hold the last text of each row."""
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
    """What one round tells."""
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
    """The value that this share of all does not exceed: one of them, nothing in between."""
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
