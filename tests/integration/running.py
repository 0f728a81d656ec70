"""Runs Rowvec's commands as child processes, and reads what they write to Milvus and Kafka."""

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from bytewax.recovery import init_db_dir
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    Message,
    Producer,
    TopicPartition,
)

from flows.embedded import launcher
from flows.embedded.broker import Broker, DurableBroker
from operators.contract.sections import MilvusSection
from operators.errors import FatalError, RetriableError
from operators.milvus.store import MilvusStore
from tests.changes import doc, envelope, gone, key, tombstone
from tests.zygote import ROOT, Order, Zygote

PATIENCE_S = 300.0
"""How long anything that must happen may take; reached only where it never does.

On a machine that others use as well, everything can take ten times as long as on an idle one.
"""

ROWVEC = (sys.executable, "-m", "flows.cli")
BYTEWAX = (sys.executable, "-m", "bytewax.run", "flows.runtime:flow_from_env()")

Records = Iterable[tuple[int, bytes | None, bytes | None]]
"""(partition, key, value) of each record, in the order of sending."""


def write_contract(path: Path, **sections: Any) -> Path:
    """Write a contract as TOML; each value is the dict of a section, or the list of tables."""
    lines = (f"{name} = {_toml(value)}\n" for name, value in sections.items())
    path.write_text("".join(lines), "utf-8")
    return path


def docs_contract(
    directory: Path,
    broker: Broker | DurableBroker,
    milvus: str,
    model: Path | str,
    /,
    **changed: Any,
) -> Path:
    """Write a contract with one table of `tests.changes.doc` rows; sections can be overridden.

    The topic and the collection have the name of the directory.
    """
    name = re.sub(r"\W", "_", directory.name)
    sections: dict[str, Any] = {
        "kafka": {
            "bootstrap_servers": broker.bootstrap_servers,
            "dead_letter_topic": f"{name}.dead",
            "librdkafka": {"fetch.wait.max.ms": 10},
        },
        # Shorter than the default, since a new process waits for a part of the lease before it writes.
        "milvus": {"uri": milvus, "request_timeout_s": 10, "lease_s": 30},
        "embedding": {"model": str(model), "device": "cpu"},
        "recovery": {"directory": str(directory / "recovery"), "epoch_interval_s": 0.5},
    }
    table = {
        "topic": name,
        "collection": name,
        "name": "docs",
        "key": ["id"],
        "text": "{name}\n{doc}",
        "columns": {"kind": "varchar", "size": "int64"},
    }
    for section, values in changed.items():
        if section == "table":
            table |= values
        else:
            sections[section] = {**sections.get(section, {}), **values}
    return write_contract(directory / "rowvec.toml", **sections, tables=[table])


class Child(Protocol):
    """A process that a test started."""

    @property
    def pid(self) -> int: ...

    @property
    def code(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it; None while it runs."""

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for its end; returns whether it has ended."""

    def send(self, number: signal.Signals) -> None: ...


class Command:
    """A `Child` that is started as a new program, as a user would.

    Args:
        directory: Its working directory and HOME.
        argv: The program and its arguments.
        env: Environment variables, added to those that every program needs.
        stdout, stderr: Files for its output.
    """

    def __init__(
        self,
        directory: Path,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdout: Path,
        stderr: Path,
    ) -> None:
        # The launcher makes the kernel kill the process when the test ends, however it ends.
        launch = (sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), "keep")
        with stdout.open("wb") as out, stderr.open("wb") as err:
            self._popen = subprocess.Popen(
                [*launch, *argv],
                cwd=directory,
                env={
                    "PATH": os.defpath,
                    "HOME": str(directory),
                    "LC_ALL": "C.UTF-8",
                    "PYTHONPATH": str(ROOT),
                    "HF_HUB_OFFLINE": "1",
                    "COLUMNS": "400",
                    "OMP_WAIT_POLICY": "PASSIVE",  # see tests/conftest.py
                    **env,
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def code(self) -> int | None:
        return self._popen.poll()

    def wait(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        return self.code is not None

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)


class Process:
    """A child process with its output in files; the `with` kills it on exit if it still runs.

    Args:
        directory: Its working directory and HOME, also for the files of its output.
        argv: The program and its arguments; with a zygote, the arguments of `rowvec`.
        env: Environment variables, added to those that every program needs.
        zygote: Forks the process, which saves the seconds that the imports take.
    """

    def __init__(
        self,
        directory: Path,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        zygote: Zygote | None = None,
    ) -> None:
        number = len(list(directory.glob("*.stderr")))
        self._stdout = directory / f"{number}.stdout"
        self._stderr = directory / f"{number}.stderr"
        arguments, env = [str(each) for each in argv], dict(env or {})
        self._child: Child
        if zygote is None:
            self._child = Command(directory, arguments, env, self._stdout, self._stderr)
        else:
            for output in (self._stdout, self._stderr):
                output.touch()
            env = {"HOME": str(directory), **env}
            where = (str(directory), str(self._stdout), str(self._stderr))
            self._child = zygote.start(Order(arguments, env, *where))

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def stdout(self) -> str:
        return self._stdout.read_text("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self._stderr.read_text("utf-8", "replace")

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._child.code

    def wait(self, seconds: float = PATIENCE_S) -> int:
        ended = self._child.wait(seconds)
        assert ended, f"still running after {seconds} s:\n{self.stderr}"
        assert self.code is not None
        return self.code

    def wait_until(self, ready: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Wait until `ready` returns true; fail if the process ends before."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.code is None, f"it ended with {self.code}:\n{self.stderr}"
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.stderr}"
            time.sleep(0.02)

    def wait_running(self) -> None:
        """Wait until `rowvec run` has passed its checks at the start."""
        self.wait_until(lambda: " Running\n" in self.stderr)

    def send(self, number: signal.Signals) -> None:
        self._child.send(number)

    def kill(self) -> None:
        """Send SIGKILL, like the kernel's out-of-memory killer."""
        self._child.send(signal.SIGKILL)
        self.wait()

    def metrics(self) -> dict[str, float]:
        """The totals of the console exporter's last output; `rowvec.texts` by what was done."""
        last: dict[str, Any] = {}
        decoder, text, at = json.JSONDecoder(), self.stdout, 0
        with suppress(json.JSONDecodeError):  # A kill may have cut the last object short.
            while (at := text.find("{", at)) >= 0:
                last, at = decoder.raw_decode(text, at)
        totals: defaultdict[str, float] = defaultdict(float)
        for resource in last.get("resource_metrics", ()):
            for scope in resource["scope_metrics"]:
                for metric in scope["metrics"]:
                    for point in metric["data"]["data_points"]:
                        what = point["attributes"].get("rowvec.text", "")
                        totals[metric["name"] + (what and f".{what}")] += point.get("value", 0)
        return totals

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.code is None:
            self.kill()


_zygotes: list[Zygote] = []


@contextmanager
def prestarted(directory: Path) -> Iterator[None]:
    """Inside this `with`, `rowvec` forks from a zygote.

    Enter it in a thread that outlives the processes, since the kernel kills them when it ends.
    """
    with Zygote(directory) as zygote:
        _zygotes.append(zygote)
        yield
        _zygotes.remove(zygote)


METRICS = {"OTEL_METRICS_EXPORTER": "console", "OTEL_METRIC_EXPORT_INTERVAL": "200"}


def rowvec(
    directory: Path, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> Process:
    """Start the command `rowvec`; it exports its metrics to its standard output."""
    env = {**METRICS, **(env or {})}
    if _zygotes:
        return Process(directory, arguments, env, _zygotes[-1])
    return Process(directory, (*ROWVEC, *arguments), env)


def bytewax_env(contract: Path, *, recovery_files: int) -> dict[str, str]:
    """The variables for Bytewax's own command, with a new recovery directory beside the contract."""
    recovery = contract.parent / "recovery"
    recovery.mkdir(mode=0o700)
    init_db_dir(recovery, recovery_files)
    return {
        "ROWVEC_CONTRACT": str(contract),
        "BYTEWAX_RECOVERY_DIRECTORY": str(recovery),
        "BYTEWAX_SNAPSHOT_INTERVAL": "1",
        "BYTEWAX_RECOVERY_BACKUP_INTERVAL": "0",
    }


def run_to_end(
    directory: Path, seconds: float = PATIENCE_S, options: Sequence[str] = ()
) -> Process:
    """Run `rowvec run --exit-at-end` with the contract in `directory`; it must exit with 0."""
    contract = directory / "rowvec.toml"
    with rowvec(directory, "run", "-c", contract, "--exit-at-end", *options) as flow:
        assert flow.wait(seconds) == 0, flow.stderr
    quiet(flow)
    return flow


def quiet(process: Process) -> None:
    """Check that the output holds no traceback and no panic."""
    for sign in ("Traceback", "panicked"):
        assert sign not in process.stderr, process.stderr


def refused(
    directory: Path,
    code: int,
    *parts: str,
    commands: Sequence[str] = ("check", "run"),
    env: Mapping[str, str] | None = None,
) -> str:
    """Run `check` and `run`: both must exit with `code`, and tell the same message, with all `parts`.

    `run` ends at the first problem; `check` goes on, and tells that one first.

    Args:
        env: Environment variables for both.

    Returns:
        The message.
    """
    messages = {}
    for command in commands:
        with rowvec(directory, command, "-c", directory / "rowvec.toml", env=env) as process:
            assert process.wait() == code, process.stdout + process.stderr
        quiet(process)
        assert process.metrics()["rowvec.records.consumed"] == 0
        if command == "check" and "✗" in process.stdout:
            failed = [line for line in process.stdout.splitlines() if line.startswith("✗")]
            message = failed[0].split(maxsplit=2)[2]
        else:
            message = told(process, *parts)
        for part in parts:
            assert part.casefold() in " ".join(message.splitlines()).casefold()
        messages[command] = message
    assert len(set(messages.values())) == 1, messages
    return message


def told(process: Process, *parts: str) -> str:
    """Check that the output ends with a message of at most four lines that has all `parts` in it.

    Returns:
        The message.
    """
    _, begin, message = process.stderr.rpartition("rowvec: ")
    assert begin, process.stderr
    lines = message.splitlines()
    assert 1 <= len(lines) <= 4, process.stderr
    for part in parts:
        assert part.casefold() in " ".join(lines).casefold(), process.stderr
    return message.rstrip("\n")


def produce(servers: str, topic: str, records: Records) -> None:
    """Send the records, and wait until the broker has all; each partition keeps their order."""
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer(
        {
            "bootstrap.servers": servers,
            "message.max.bytes": 32_000_000,
            "max.in.flight": 1,
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for partition, key_, value in records:
        producer.produce(topic, value, key_, partition, on_delivery=delivered)
        producer.poll(0)
    assert producer.flush(PATIENCE_S) == 0
    assert not failed


def consume(servers: str, topic: str, count: int, seconds: float = PATIENCE_S) -> list[Message]:
    """The first `count` records of partition 0."""
    found: list[Message] = []
    settings = {"bootstrap.servers": servers, "group.id": "test", "fetch.wait.max.ms": 10}
    with closing(Consumer(settings)) as consumer:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        deadline = time.monotonic() + seconds
        while len(found) < count:
            assert time.monotonic() < deadline, f"only {len(found)} records in {topic}"
            message = consumer.poll(0.1)
            if message is not None:
                assert message.error() is None, message.error()
                found.append(message)
    return found


class History:
    """A seeded history of a table over 3 partitions, and the rows that it ends with.

    Rows are inserted and updated at random, a few of them far more often than the others. Two of three
    updates leave the text unchanged. A delete is followed by its tombstone, and the row may be inserted
    again.

    Attributes:
        records: The records, in the form that `produce` takes.
        final: Entity id → (source position, text, size) of the rows that exist at the end.
        deletes: Entity id → source positions of its deletes, rising.
        hot: Entity ids of the rows that change most.
    """

    PARTITIONS = 3
    HOT = 30

    def __init__(self, rows: int, changes: int, seed: int) -> None:
        draw = random.Random(seed)
        now: dict[int, tuple[int, dict[str, Any]]] = {}
        self.records: list[tuple[int, bytes | None, bytes | None]] = []
        self.deletes: defaultdict[str, list[int]] = defaultdict(list)
        self.hot = [f"docs:{id_}#0" for id_ in range(self.HOT)]
        for lsn in range(1, changes + 1):
            id_ = draw.randrange(self.HOT if draw.random() < 0.2 else rows)
            there = now.get(id_)
            if there is not None and draw.random() < 0.15:
                del now[id_]
                self.deletes[f"docs:{id_}#0"].append(lsn)
                self._add(id_, *gone(id_, lsn))
                self._add(id_, *tombstone(id_))
                continue
            row = doc(id_, f"version {lsn}", size=lsn)
            if there is not None and draw.random() < 2 / 3:
                row["doc"] = there[1]["doc"]
            now[id_] = lsn, row
            op = "u" if there is not None else "c"
            self._add(id_, key(id=id_), envelope(op, lsn, row))
        self.final = {
            f"docs:{id_}#0": (lsn, f"{row['name']}\n{row['doc']}", row["size"])
            for id_, (lsn, row) in now.items()
        }

    def _add(self, id_: int, key_: bytes, value: bytes | None) -> None:
        self.records.append((id_ % self.PARTITIONS, key_, value))


def open_store(uri: str) -> MilvusStore:
    """Open a connection for the test; its reads have Strong consistency."""
    return MilvusStore(MilvusSection(uri=uri))


def position_of(version: str) -> int:
    """The source position in a version."""
    return int(version.split(".")[2], 16)


def collection(uri: str, name: str) -> dict[str, tuple[int, str, int]]:
    """A full scan of a `docs` collection, in the form of `History.final`; fails on a duplicate."""
    with closing(open_store(uri)) as store:
        rows = list(store.scan(name, ["rv_version", "text", "size"]))
        assert store.count(name) == len(rows) == len({row["id"] for row in rows})
    return {row["id"]: (position_of(row["rv_version"]), row["text"], row["size"]) for row in rows}


def everything(uri: str, name: str) -> dict[str, dict[str, Any]]:
    """Every field but the vector of every entity, by id."""
    with closing(open_store(uri)) as store:
        return {row["id"]: row for row in store.scan(name)}


class Reader:
    """Reads a collection over and over, with Strong consistency, and notes rows that go back in time.

    Args:
        uri: Address of Milvus.
        name: The collection, which may not exist yet.
        history: The history that the flow writes.
        hot: Read only the hot rows, many times a second; else all rows.

    Attributes:
        seen: How many versions it has seen so far, which shows the flow's progress.
        looks: How many reads it made.
        faults: Versions that fell, and rows that came back after a delete.
    """

    def __init__(self, uri: str, name: str, history: History, *, hot: bool = False) -> None:
        self.seen = self.looks = 0
        self.faults: list[str] = []
        self._uri, self._name, self._deletes = uri, name, history.deletes
        self._hot = history.hot if hot else []
        self._ended = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._failed is not None and error is None:
            raise self._failed

    def _run(self) -> None:
        try:
            with closing(open_store(self._uri)) as store:
                while not store._client.has_collection(self._name):
                    if self._ended.wait(0.1):
                        return
                last: dict[str, str] = {}
                absent: set[str] = set()
                while True:
                    ended = self._ended.is_set()  # Read once more after the end.
                    with suppress(RetriableError, FatalError) if not self.looks else ExitStack():
                        self._look(store, last, absent)
                    if ended:
                        return
                    self._ended.wait(0.005 if self._hot else 0.1)
        except BaseException as error:
            self._failed = error

    def _look(self, store: MilvusStore, last: dict[str, str], absent: set[str]) -> None:
        now: dict[str, str]
        if self._hot:
            stored = store.stored(self._name, self._hot)
            now = {id_: one.version for id_, one in stored.items()}
        else:
            rows = store.scan(self._name, ["rv_version"])
            now = {row["id"]: row["rv_version"] for row in rows}
        for id_, version in now.items():
            before = last.get(id_, "")
            if version < before:
                self.faults.append(f"{id_} fell from {before} to {version}")
            if id_ in absent:
                # The row was visible, then absent: a delete after the visible version was applied.
                deletes = self._deletes.get(id_, ())
                floor = next((d for d in deletes if d > position_of(before)), None)
                if floor is None or position_of(version) <= floor:
                    self.faults.append(f"{id_} came back as {version} after a delete")
            self.seen += version != before
            last[id_] = version
        absent.clear()
        absent.update(last.keys() - now.keys())
        self.looks += 1


class Children:
    """All descendants of a process, each by a pidfd, so that a reused pid does no harm."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._handles: dict[int, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._handles)

    def left(self, seconds: float = PATIENCE_S) -> list[str]:
        """The processes that still run after `seconds`."""
        self._ended.set()
        self._thread.join()
        left = []
        deadline = time.monotonic() + seconds
        for pid, handle in self._handles.items():
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                with suppress(OSError):
                    left.append(f"{pid}: {Path(f'/proc/{pid}/cmdline').read_text()}")
            os.close(handle)
        return left

    def _run(self) -> None:
        from flows.embedded.process import _descendants

        while not self._ended.wait(0.1):
            for pid in _descendants(self._root):
                if pid not in self._handles:
                    with suppress(ProcessLookupError):
                        self._handles[pid] = os.pidfd_open(pid)


def _toml(value: Any) -> str:
    match value:
        case dict():
            return (
                "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
            )
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return json.dumps(value)
