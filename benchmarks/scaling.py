"""Two processes of one flow against one: how much a second process on a second core adds.

    python -m benchmarks.scaling

The processes form a Bytewax cluster by addresses, as `rowvec run -i N -a …` does, with one recovery
directory, over a topic of four partitions; model and store do nothing. The same records go through one
process and through two, taking turns. First each process reads a part of the records, while its epochs
grow, and waits until they are committed; then all start the measured part at the same moment. It lasts
until the last write of any process is acknowledged.

- `kafka`: over a real broker, which runs on the same cores. `broker_cores` in the result is how much of
  a core the broker used and the flow could not. So by wall time, `kafka_two_over_one` is what a user of
  this machine gets; it could reach 2 only if the broker had its own cores. One process leaves the
  second core to librdkafka and the broker; two processes do not.
- `memory`: without Kafka: the records of a partition come from a list in the process that reads it.
  Half of all records are pickled and sent to the other process, and the processes wait for each other
  at checkpoints.
- `memory_apart`: two separate flows, each over half of the partitions. So `memory_apart_over_one` is
  how much a second process can add on this machine at all: 2 if its cores share nothing.
  `memory_two_over_apart` is what one flow loses by the exchange between its processes and by waiting.

By CPU time (`…_cpu`) the ratio is that of records per CPU second of all processes: 1 if a second
process makes no record more expensive. Waiting also costs CPU time, because a worker looks for work
every few milliseconds. Two hardware threads of one core make every record more expensive, which shows
in `memory_apart`.

The model, Milvus with the ledger and the lease, the growth of the first epochs, and the network between
machines are left out. It is checked that every record is read once and every row is written by one
process.
"""

import argparse
import gc
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from benchmarks.contracts import TABLE, TOPIC, idle_contract
from benchmarks.envelopes import Change, update
from benchmarks.measuring import Clocks, Rate, clocks, parser, print_result, progress, take_turns
from benchmarks.memory import MemoryReader, Timing, source_of, whole_flow
from benchmarks.over_kafka import fill, open_reader
from benchmarks.processes import LIMIT_S, cpu_s, module, pid_of, tell, wait_for
from flows.embedded.broker import Broker
from flows.embedded.process import Child, free_ports
from operators.contract.sections import Contract
from operators.kafka.log_reader import Bounds, LogReader, Record

PARTITIONS = 4
WARM_UP = 10_500
"""500 + 2,000 + 8,000: the records of a partition in its first three epochs."""

_LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class Job:
    """The work of one process.

    Attributes:
        servers: Addresses of the broker; "" for records from memory.
        records: Number of records per partition, including the warm-up.
        warm_up: How many of these are the warm-up.
        rows: Distinct primary keys in all partitions together.
        addresses: Addresses of all processes of its flow; empty if it is the only one.
        partitions: All partitions that its flow reads.
        recovery: The recovery directory of its flow.
        folder: Shared folder with the files by which the processes signal.
    """

    process: int
    addresses: list[str]
    partitions: list[int]
    recovery: str
    servers: str
    records: int
    warm_up: int
    rows: int
    epoch_s: float
    folder: str

    def path(self, name: str) -> Path:
        """A file that belongs to this process."""
        return Path(self.folder, f"{name}.{self.process}")

    @property
    def go(self) -> Path:
        """A file that exists once all processes have finished their warm-up."""
        return Path(self.folder, "go")


@dataclass(frozen=True, slots=True)
class Told:
    """The results of one process; clocks are those of `measuring.clocks`.

    Wall time is the machine's, so it can be compared between processes.
    """

    began: Clocks
    ended: Clocks
    records: int
    winners: int
    dead: int
    partitions: int
    ids: list[str]


@cache
def build_partition(partition: int, count: int, rows: int) -> list[Change]:
    """`count` versions of one partition's rows, drawn uniformly; partitions share no row."""
    draw = random.Random(partition).randrange
    return [
        update(TABLE, draw(partition, rows, PARTITIONS), number * PARTITIONS + partition + 1)
        for number in range(count)
    ]


@dataclass(slots=True)
class Start:
    """Holds the readers of one process back between the warm-up and the measured part."""

    job: Job
    timing: Timing
    checkpoints: int = 0
    gates: list["_Gate"] = field(default_factory=list)
    gone: bool = False

    def on_checkpoint(self) -> None:
        """A checkpoint of one partition."""
        self.checkpoints += 1

    def may_go(self) -> bool:
        """Whether the measured part has begun; called at every read that has to wait for it."""
        if self.gone:
            return True
        ready = self.job.path("ready")
        # When the second checkpoint after the last record begins, the record's epoch is committed.
        committed = all(
            gate.full_at is not None and self.checkpoints >= gate.full_at + 2 * len(self.gates)
            for gate in self.gates
        )
        if not committed:
            return False
        if not ready.exists():
            # A real process has no such lists, so keep the garbage collector from walking them.
            gc.collect()
            gc.freeze()
            ready.touch()
        if self.job.go.exists():
            self.gone = True
            self.timing.began = clocks()
        return self.gone


class _Gate:
    """A reader that returns the warm-up, waits for the start, and counts records."""

    def __init__(self, reader: LogReader, start: Start) -> None:
        self._reader = reader
        self._start = start
        self._room = start.job.warm_up
        self.full_at: int | None = None
        start.gates.append(self)

    def read(self, max_records: int) -> tuple[Sequence[Record], Sequence[Any]]:
        start = self._start
        if not start.gone:
            if not self._room and not start.may_go():
                return (), ()
            if not start.gone:
                max_records = min(max_records, self._room)
        records, contexts = self._reader.read(max_records)
        start.timing.records += len(records)
        if not start.gone:
            self._room -= len(records)
            if not self._room:
                self.full_at = start.checkpoints
        return records, contexts

    def at_end(self) -> bool:
        return self._reader.at_end()

    def lag(self) -> int | None:
        return self._reader.lag()

    def bounds(self) -> Bounds | None:
        return self._reader.bounds()

    def close(self) -> None:
        self._reader.close()


def run_process(job: Job) -> None:
    """Run one process of the flow to its last record; it signals by files."""
    contract = idle_contract(job.servers) if job.servers else idle_contract()
    timing = Timing(job.warm_up)
    start = Start(job, timing)

    def opened(partition: int, offset: int) -> LogReader:
        return _Gate(_open(job, contract, partition, offset), start)

    source = source_of(contract, job.partitions, opened, job.epoch_s, start.on_checkpoint)
    flow = whole_flow(contract, source, timing, partitions=job.partitions)
    recovery = RecoveryConfig(job.recovery, timedelta(0))  # type: ignore[no-untyped-call]
    try:
        cli_main(  # type: ignore[no-untyped-call]
            flow.dataflow,
            process_id=job.process if job.addresses else 0,
            addresses=job.addresses,
            epoch_interval=timedelta(seconds=job.epoch_s),
            recovery_config=recovery,
        )
    finally:
        flow.close()
    assert timing.began is not None, "it has read nothing"
    told = Told(
        timing.began,
        timing.ended,
        timing.records,
        timing.winners,
        timing.dead,
        len(start.gates),
        sorted(timing.ids),
    )
    tell(job.path("told"), told)


def _open(job: Job, contract: Contract, partition: int, offset: int) -> LogReader:
    if not job.servers:
        return MemoryReader(build_partition(partition, job.records, job.rows), offset)
    return open_reader(contract, partition, offset)


@dataclass(slots=True)
class Runs:
    """Runs the flow over the same records, and keeps the figures of each run.

    Attributes:
        records: Number of records per partition, including the warm-up.
        broker_cores: Contestant → the average number of cores that the broker used, for each run.
        flow_cores: The same for all processes of the flow together.
        apart_s: Time between the ends of the first and of the last process, for each run.
    """

    records: int
    warm_up: int
    rows: int
    epoch_s: float
    recovery_partitions: int
    broker_cores: dict[str, list[float]] = field(default_factory=dict)
    flow_cores: dict[str, list[float]] = field(default_factory=dict)
    apart_s: dict[str, list[float]] = field(default_factory=dict)

    def run(
        self,
        name: str,
        processes: int,
        servers: str = "",
        broker: int | None = None,
        *,
        apart: bool = False,
    ) -> Rate:
        """Records per second of all processes together, by wall time and by their total CPU time.

        Args:
            name: Name of the contestant.
            processes: Number of processes.
            servers: Addresses of the broker; "" for records from memory.
            broker: Process id of the broker.
            apart: Each process is a separate flow, over its share of the partitions.
        """
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            jobs = self._jobs(Path(folder), processes, servers, apart=apart)
            children = [_started(job, stack) for job in jobs]
            _wait(children, jobs, "ready")
            before = cpu_s(broker) if broker is not None else 0.0
            jobs[0].go.touch()
            _wait(children, jobs, "told")
            of_broker = cpu_s(broker) - before if broker is not None else 0.0
            for child in children:
                child.wait(LIMIT_S)
            all_told = [Told(**orjson.loads(job.path("told").read_bytes())) for job in jobs]
        self._check(all_told)
        wall_s = max(told.ended[0] for told in all_told) - min(told.began[0] for told in all_told)
        flow_s = sum(told.ended[1] - told.began[1] for told in all_told)
        ends = sorted(told.ended[0] for told in all_told)
        if broker is not None:
            self.broker_cores.setdefault(name, []).append(round(of_broker / wall_s, 2))
        self.flow_cores.setdefault(name, []).append(round(flow_s / wall_s, 2))
        self.apart_s.setdefault(name, []).append(round(ends[-1] - ends[0], 2))
        measured = PARTITIONS * (self.records - self.warm_up)
        return Rate(measured / wall_s, measured / flow_s)

    def _jobs(self, folder: Path, processes: int, servers: str, *, apart: bool) -> list[Job]:
        # A process that is alone in its flow gets no addresses, and so connects to no other.
        together = processes > 1 and not apart
        addresses = [f"127.0.0.1:{port}" for port in free_ports(processes)] if together else []
        jobs = []
        for number in range(processes):
            recovery = folder / f"recovery.{number if apart else 0}"
            if not recovery.exists():
                recovery.mkdir(mode=0o700)
                init_db_dir(recovery, self.recovery_partitions)  # type: ignore[no-untyped-call]
            first, step = (number, processes) if apart else (0, 1)
            jobs.append(
                Job(
                    process=number,
                    addresses=addresses,
                    partitions=list(range(first, PARTITIONS, step)),
                    recovery=str(recovery),
                    servers=servers,
                    records=self.records,
                    warm_up=self.warm_up,
                    rows=self.rows,
                    epoch_s=self.epoch_s,
                    folder=str(folder),
                )
            )
        return jobs

    def _check(self, all_told: Sequence[Told]) -> None:
        """Fail if any work was not done, or was done twice."""
        expected = PARTITIONS * self.records
        records = sum(told.records for told in all_told)
        assert records == expected, f"read {records} records of {expected}"
        each = [told.partitions for told in all_told]
        assert min(each) == max(each), f"partitions are not spread evenly: {each}"
        ids = [id_ for told in all_told for id_ in told.ids]
        rows = sum(len(set(part)) for part in map(self._keys, range(PARTITIONS)))
        assert len(ids) == len(set(ids)) == rows, f"wrote {len(ids)} rows of {rows}"
        assert not any(told.dead for told in all_told), "dead letters"

    def _keys(self, partition: int) -> list[bytes]:
        return [key for key, _ in build_partition(partition, self.records, self.rows)]


def _started(job: Job, stack: ExitStack) -> Child:
    name = "benchmarks.scaling"
    arguments = ("--process", orjson.dumps(asdict(job)).decode())
    child = module(name, Path(job.folder), *arguments, called=f"process-{job.process}")
    stack.callback(child.stop)
    child.start()
    return child


def _wait(children: Sequence[Child], jobs: Sequence[Job], name: str) -> None:
    """Wait until each child has written its file of this name."""
    for child, job in zip(children, jobs, strict=True):
        wait_for(job.path(name), child, look_s=_LOOK_S)


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument(
        "--records", type=int, default=240_000, help="measured, in all partitions together"
    )
    options.add_argument("--rows", type=int, default=20_000, help="distinct primary keys")
    options.add_argument("--no-broker", action="store_true", help="in memory only")
    options.add_argument("--process", default="", help=argparse.SUPPRESS)
    return options.parse_args()


def main() -> None:
    """Measure and print."""
    given = _arguments()
    if given.process:
        run_process(Job(**orjson.loads(given.process)))
        return
    measured, rows = (8_000, 1_000) if given.quick else (given.records, given.rows)
    # Short epochs in a quick run, because the source waits for the end of each.
    warm_up, epoch_s = (500, 0.2) if given.quick else (WARM_UP, 1.0)
    rounds = given.rounds or (1 if given.quick else 3)
    runs = Runs(
        records=warm_up + measured // PARTITIONS,
        warm_up=warm_up,
        rows=rows,
        epoch_s=epoch_s,
        recovery_partitions=idle_contract().recovery.partitions,
    )
    progress(f"{PARTITIONS} partitions of {runs.records:,} records, {rows:,} rows")
    contestants: dict[str, Callable[[], Rate]] = {
        "memory_one": lambda: runs.run("memory_one", 1),
        "memory_apart": lambda: runs.run("memory_apart", 2, apart=True),
        "memory_two": lambda: runs.run("memory_two", 2),
    }
    with ExitStack() as stack:
        if not given.no_broker:
            contestants |= _over_kafka(runs, stack)
        turns = take_turns(rounds, contestants)
    ratios = turns.ratios("memory_two_over_one", "memory_two", "memory_one")
    ratios |= turns.ratios("memory_apart_over_one", "memory_apart", "memory_one")
    ratios |= turns.ratios("memory_two_over_apart", "memory_two", "memory_apart")
    if not given.no_broker:
        ratios |= turns.ratios("kafka_two_over_one", "kafka_two", "kafka_one")
    print_result(
        "scaling",
        quick=given.quick,
        ratios=ratios,
        rates=turns.per_second("records"),
        counts={
            "records": PARTITIONS * (runs.records - warm_up),
            "warm_up_records": PARTITIONS * warm_up,
            "rows": rows,
            "partitions": PARTITIONS,
            "broker_cores": runs.broker_cores,
            "flow_cores": runs.flow_cores,
            "last_after_first_s": runs.apart_s,
            "rounds": rounds,
        },
    )


def _over_kafka(runs: Runs, stack: ExitStack) -> Mapping[str, Callable[[], Rate]]:
    """The contestants over a broker that runs until `stack` closes."""
    broker = Broker(Path(stack.enter_context(tempfile.TemporaryDirectory())))
    stack.callback(broker.stop)
    pid = pid_of(broker.start)
    servers = broker.bootstrap_servers
    broker.create_topic(TOPIC, PARTITIONS)
    for number in range(PARTITIONS):
        fill(servers, build_partition(number, runs.records, runs.rows), number)
    return {
        "kafka_one": lambda: runs.run("kafka_one", 1, servers, pid),
        "kafka_two": lambda: runs.run("kafka_two", 2, servers, pid),
    }


if __name__ == "__main__":
    main()
