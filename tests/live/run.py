"""The whole run: starts servers, makes changes, kills processes, and checks the result."""

import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from flows.embedded.connect import FAST_START, ConnectWorker
from flows.embedded.milvus_lite import MilvusLiteServer
from flows.embedded.stack import Stack
from flows.embedded.verify import compare
from flows.settings import load_contract
from operators.model.transformer import TransformerEmbedder
from tests.integration.running import Process, open_store, quiet, rowvec, write_contract
from tests.live import topics
from tests.live.changes import Generator
from tests.live.looking import Judgement, Poller, judge
from tests.live.model import make_model
from tests.live.tables import LOGS, OTHERS, PREFIX, TABLES, shortened

PARTITIONS = 3
EQUAL_S = 60.0
DEAD_LETTERS = f"{PREFIX}.dead"
NOTIFICATIONS = f"{PREFIX}.notifications"

SNAPSHOT_S = 90.0
"""Debezium has given up the snapshot if it does not end within this time after the last change."""
MARKER = f"{PREFIX}.public.marker"

_NAMES = [f"public.{table.name}" for table in TABLES] + ["public.marker"]
_CONNECTOR = {
    "signal.data.collection": "public.debezium_signal",
    "signal.enabled.channels": "source",
    "notification.enabled.channels": "sink",
    "notification.sink.topic.name": NOTIFICATIONS,
    "incremental.snapshot.chunk.size": "50",
    "publish.via.partition.root": "true",
    "heartbeat.interval.ms": "500",
}
# Each export writes all metrics to standard output, so a long run exports only once a second.
_METRICS = {"OTEL_METRIC_EXPORT_INTERVAL": "1000"}


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Attributes:
        changes: Least number of committed changes.
        seed: Seed of the SQL and of the moments of the kills.
        rows: Roughly how many rows each table holds.
        rate: Most changes per second; 0 for as many as PostgreSQL takes.
        dsn: Whether Rowvec may ask the database for values that Debezium left out. If not, a row whose
            key changed can become a dead letter when the flow is killed in the middle of that change.
        without: Kinds of change to leave out.
        model: Directory of a model; None makes a tiny one.
        directory: Keeps data and logs; None for a temporary one.
        patience_s: Time limit of each wait.
        say: Called with a line of progress.
    """

    changes: int = 200_000
    seed: int = 7
    rows: int = 1_000
    rate: float = 1_000.0
    dsn: bool = True
    without: tuple[str, ...] = ()
    model: Path | None = None
    directory: Path | None = None
    patience_s: float = 300.0
    say: Callable[[str], None] = lambda _line: None


class _At(NamedTuple):
    """An action at a certain change; with `here`, it runs in the thread that makes the changes.

    Actions that start a process need `here`: the kernel ends a child with the thread that started it.
    """

    change: int
    what: Callable[[], None]
    here: bool = False


@dataclass(slots=True)
class Outcome:
    """The results; the run was clean if `violations` is empty."""

    figures: dict[str, Any]
    violations: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The results as one line of JSON."""
        return json.dumps({**self.figures, "violations": self.violations[:20]}, ensure_ascii=False)


def run(settings: Settings) -> Outcome:
    """Start the servers, make the changes and kills, wait for the flow, and compare SQL with Milvus."""
    with ExitStack() as stack:
        if settings.directory is not None:
            settings.directory.mkdir(parents=True, exist_ok=True)
            directory = settings.directory
        else:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="rowvec-live-"))
            directory = Path(name)
        directory.chmod(0o711)
        if settings.directory is not None:
            # The stack removes a directory that it has made itself, so make it here.
            (directory / "stack").mkdir(mode=0o711)
        servers = stack.enter_context(Stack(directory / "stack"))
        milvus = MilvusLiteServer(directory / "milvus")
        stack.callback(milvus.stop)
        milvus.start()
        return _Live(settings, directory, servers, milvus.uri).run()


class _Live:
    """One run over servers that are up."""

    def __init__(self, settings: Settings, directory: Path, servers: Stack, milvus: str) -> None:
        self._settings = settings
        self._directory = directory
        self._servers = servers
        self._milvus = milvus
        self._brokers = servers.broker.bootstrap_servers
        self._draw = Random(f"{settings.seed} kills")
        self._kills: Counter[str] = Counter()
        self._consumed = self._written = 0.0
        self._started = time.monotonic()
        self._embedder: TransformerEmbedder | None = None
        self._worker: ConnectWorker
        self._flow: Process

    def run(self) -> Outcome:
        settings = self._settings
        with self._servers.postgres.connect() as sql:
            for table in TABLES:
                sql.execute(table.ddl)
            sql.execute(OTHERS)
        generator = Generator(
            self._servers.postgres.connect,
            seed=settings.seed,
            rows=settings.rows,
            without=settings.without,
            # Debezium gives up an incremental snapshot of a table whose columns change (DBZ-4350).
            quiet=range(int(settings.changes * 0.3), int(settings.changes * 0.7)),
        )
        with closing(generator):
            generator.fill()
            contract = self._prepare()
            self._flow = self._start_flow(contract)
            self._worker = self._start_debezium()
            try:
                with Poller(self._milvus) as poller:
                    self._wait(lambda: poller.states > 0, "the first row")
                    self._say("changes begin")
                    seconds = self._change(generator, contract)
                    self._drain(contract)
                    poller.stop()
                    self._say("drained")
                return self._found(generator, poller, contract, seconds)
            finally:
                if self._flow.code is None:
                    self._flow.kill()

    def _prepare(self) -> Path:
        settings = self._settings
        model = settings.model or make_model(self._directory / "model")
        for table in TABLES:
            self._servers.broker.create_topic(table.topic, PARTITIONS)
        for topic in (MARKER, NOTIFICATIONS):
            self._servers.broker.create_topic(topic, 1)
        source: dict[str, Any] = {}
        if settings.dsn:
            source = {"source": {"dsn": self._servers.postgres.dsn}}
        return write_contract(
            self._directory / "rowvec.toml",
            kafka={
                "bootstrap_servers": self._brokers,
                "dead_letter_topic": DEAD_LETTERS,
                "librdkafka": {"fetch.wait.max.ms": 10},
            },
            milvus={"uri": self._milvus},
            embedding={"model": str(model), "device": "cpu"},
            recovery={"directory": str(self._directory / "recovery"), "epoch_interval_s": 0.5},
            # Small windows: an old version that is visible for a moment stays long enough to be read.
            flow={"window_ms": 50, "max_epoch_records": 4_000},
            **source,
            tables=[table.section() for table in TABLES],
        )

    def _start_flow(self, contract: Path) -> Process:
        return rowvec(self._directory, "run", "-c", contract, env=_METRICS)

    def _start_debezium(self) -> ConnectWorker:
        return self._servers.start_connect(
            _NAMES,
            topic_prefix=PREFIX,
            partitions=PARTITIONS,
            schemas_enable=False,
            java_options=FAST_START,
            **_CONNECTOR,
        )

    def _change(self, generator: Generator, contract: Path) -> float:
        """Make the changes, with the snapshot and the kills in between; returns the seconds it took."""
        settings = self._settings
        plan = sorted(self._plan(contract), key=lambda each: each.change)
        started = time.monotonic()
        pending: list[Future[None]] = []
        with ThreadPoolExecutor(1, thread_name_prefix="trouble") as trouble:
            for done in generator.run(settings.changes):
                while plan and plan[0].change <= done:
                    next_ = plan.pop(0)
                    if next_.here:
                        next_.what()
                    else:
                        pending.append(trouble.submit(next_.what))
                for each in [each for each in pending if each.done()]:
                    pending.remove(each)
                    each.result()
                if settings.rate:
                    ahead = done / settings.rate - (time.monotonic() - started)
                    if ahead > 0.005:
                        time.sleep(ahead)
            seconds = time.monotonic() - started
            self._say(f"{generator.changes:,} changes are made")
            for each in pending:
                each.result()
        return seconds

    def _plan(self, contract: Path) -> Iterator[_At]:
        changes, draw = self._settings.changes, self._draw
        yield _At(int(changes * draw.uniform(0.15, 0.3)), self._restart_debezium)
        yield _At(int(changes * 0.42), self._start_snapshot)
        yield _At(int(changes * 0.42), self._restart_in_snapshot)
        yield _At(int(changes * draw.uniform(0.6, 0.8)), lambda: self._restart_flow(contract), True)

    def _start_snapshot(self) -> None:
        """Ask for an incremental snapshot of all tables but `logs`, which has no primary key."""
        names = [f"public.{table.name}" for table in TABLES if table is not LOGS]
        data = json.dumps({"data-collections": names, "type": "incremental"})
        with self._servers.postgres.connect() as sql:
            sql.execute(
                "insert into debezium_signal values ('again', 'execute-snapshot', %s)", (data,)
            )
        self._say("incremental snapshot asked for")

    def _restart_debezium(self) -> None:
        self._worker.kill()
        self._kills["debezium"] += 1
        self._say("Debezium killed")
        self._worker = self._start_debezium()
        self._say("Debezium is back")

    def _restart_in_snapshot(self) -> None:
        topics.wait_for(
            self._brokers,
            NOTIFICATIONS,
            lambda value: _is_about_snapshot(value, "STARTED"),
            self._debezium_alive,
            self._settings.patience_s,
        )
        time.sleep(self._draw.uniform(0.0, 0.7))
        self._restart_debezium()

    def _restart_flow(self, contract: Path) -> None:
        self._flow_alive()
        self._flow.kill()
        self._kills["rowvec"] += 1
        self._account()
        self._say("rowvec killed")
        self._flow = self._start_flow(contract)

    def _wait_for_snapshot(self, seconds: float) -> None:
        topics.wait_for(
            self._brokers,
            NOTIFICATIONS,
            lambda value: _is_about_snapshot(value, "COMPLETED"),
            self._alive,
            seconds,
        )

    def _drain(self, contract: Path) -> None:
        """Wait until the flow has applied everything that was committed."""
        patience = self._settings.patience_s
        try:
            self._wait_for_snapshot(SNAPSHOT_S)
        except AssertionError:
            # On a slow machine, columns changed during the snapshot after all, and Debezium gave up.
            self._start_snapshot()
            self._wait_for_snapshot(patience)
        self._say("incremental snapshot has ended")
        with self._servers.postgres.connect() as sql:
            sql.execute("insert into marker values (1)")
        topics.wait_for(self._brokers, MARKER, lambda _value: True, self._alive, patience)
        self._worker.stop()
        self._say("Debezium has sent everything")
        self._flow.wait_running()
        self._wait_equal(contract)
        self._flow.send(signal.SIGTERM)
        assert self._flow.wait(120) == 0, self._flow.stderr
        self._account()
        self._flow = rowvec(self._directory, "run", "-c", contract, "--exit-at-end", env=_METRICS)
        assert self._flow.wait(patience) == 0, self._flow.stderr
        self._account()

    def _wait_equal(self, contract: Path) -> None:
        """Wait, for a limited time, until Milvus equals SQL.

        A row whose key changed may wait for the values of its old key, for instance. A difference is
        no fault yet: the last comparison decides.
        """
        deadline = time.monotonic() + EQUAL_S
        while time.monotonic() < deadline:
            self._flow_alive()
            if not self._compared(contract, set(), vectors=0)[1]:
                return
            time.sleep(1)
        self._say(f"not equal within {EQUAL_S:g} s")

    def _account(self) -> None:
        """Add the flow's metrics to the totals, and check that its output holds no traceback."""
        quiet(self._flow)
        metrics = self._flow.metrics()
        self._consumed += metrics["rowvec.records.consumed"]
        self._written += metrics["rowvec.rows.written"]

    def _flow_alive(self) -> None:
        assert self._flow.code is None, f"rowvec ended with {self._flow.code}:\n{self._flow.stderr}"

    def _alive(self) -> None:
        self._flow_alive()
        self._debezium_alive()

    def _debezium_alive(self) -> None:
        for name, status in self._worker.status().items():
            assert not status.failed, f"connector {name}: {status.trace}"

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._settings.patience_s
        while not ready():
            self._alive()
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.05)

    def _say(self, line: str) -> None:
        self._settings.say(f"{time.monotonic() - self._started:7.1f} s  {line}")

    def _found(
        self, generator: Generator, poller: Poller, contract: Path, seconds: float
    ) -> Outcome:
        settings = self._settings
        records = topics.counted(self._brokers)
        reasons: Counter[str] = Counter()
        dead: set[str] = set()
        for letter in topics.everything(self._brokers, [DEAD_LETTERS]):
            headers: Any = letter.headers() or ()
            headers = {name: value.decode() for name, value in headers}
            reasons[f"{headers['rowvec.stage']}: {headers['rowvec.cause']}"] += 1
            dead.add(headers.get("rowvec.row_key", ""))
        excused = set() if settings.dsn else dead
        judged = judge(generator.history, poller.seen, reselects=settings.dsn, dead=excused)
        rows, different = self._compared(contract, excused)
        violations = [*poller.faults, *judged.faults, *different]
        if settings.dsn:
            violations += [f"dead letter: {reason}" for reason in reasons]
        violations += self._idle(records, poller)
        if violations and settings.directory is not None:
            self._keep_evidence(violations, generator, poller)
        figures = self._figures(generator, poller, judged, seconds, records, rows)
        figures |= {
            "differences": len(different),
            "dead_letters": reasons.total(),
            "dead_letters_by_reason": dict(reasons),
        }
        return Outcome(figures, violations)

    def _keep_evidence(
        self, violations: Sequence[str], generator: Generator, poller: Poller
    ) -> None:
        """Write everything known about the wrong rows to a file beside the logs."""
        lines = list(violations)
        named = {line.split(": ")[0].partition("#")[0] for line in violations}
        for table in TABLES:
            keys = {key for key in named if key.startswith(table.row_key_prefix)}
            for key in sorted(keys):
                lines.append(f"\n{key} was")
                lines += [
                    f"  {s.rev} {s.digest} {shortened(s.row)}" for s in generator.history[key]
                ]
                lines.append("and was seen as")
                lines += [f"  {seen}" for seen in poller.seen.get(key, ())]
            if keys:
                lines.append(f"\n{table.topic}")
                lines += topics.about(self._brokers, table, keys)
        (self._directory / "evidence.txt").write_text("\n".join(lines), "utf-8")

    def _idle(self, records: Counter[str], poller: Poller) -> Iterator[str]:
        """What should have happened and did not, so that the run proves nothing."""
        if self._kills != Counter(debezium=2, rowvec=1):
            yield f"kills: {dict(self._kills)}"
        if not records["incremental"]:
            yield "the incremental snapshot read no row"
        if poller.looks < 20:
            yield f"the poller looked {poller.looks} times only"

    def _figures(
        self,
        generator: Generator,
        poller: Poller,
        judged: Judgement,
        seconds: float,
        records: Counter[str],
        rows: int,
    ) -> dict[str, Any]:
        return {
            "seed": self._settings.seed,
            "dsn": self._settings.dsn,
            "changes": generator.changes,
            "changes_by_kind": dict(generator.counts.most_common()),
            "transactions": dict(generator.shapes.most_common()),
            "rolled_back_changes": generator.undone,
            "changing_s": round(seconds, 1),
            "changes_per_s": round(generator.changes / seconds),
            "duration_s": round(time.monotonic() - self._started, 1),
            "records_in_kafka": records.pop("records"),
            "records_by_kind": dict(records.most_common()),
            "records_consumed": round(self._consumed),
            "rows_written": round(self._written),
            "kills": dict(self._kills),
            "polls": poller.looks,
            "states_seen": poller.states,
            "texts_ahead": judged.ahead,
            "excused": judged.excused,
            "rows_compared": rows,
        }

    def _compared(
        self, contract: Path, excused: set[str], *, vectors: int = 64
    ) -> tuple[int, list[str]]:
        """How many rows SQL has for the collections, and every difference in Milvus."""
        loaded = load_contract(contract)
        if self._embedder is None:
            self._embedder = TransformerEmbedder(loaded.embedding)
        rows, different = 0, []
        with (
            closing(open_store(self._milvus)) as store,
            self._servers.postgres.connect() as sql,
        ):
            for table in loaded.tables:
                found = compare(sql, table, store, self._embedder, vectors=vectors)
                rows += found.rows
                for what in ("missing", "surplus", "different", "wrong_vectors"):
                    different += [
                        f"{id_}: {what}"
                        for id_ in getattr(found, what)
                        if id_.partition("#")[0] not in excused
                    ]
        return rows, different


def _is_about_snapshot(notification: Mapping[str, Any], what: str) -> bool:
    return (notification.get("aggregate_type"), notification.get("type")) == (
        "Incremental Snapshot",
        what,
    )
