"""Damaged or unwritable recovery files: the flow stops with a message, and nothing is lost."""

import resource
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from flows.embedded.broker import Broker
from tests.changes import put
from tests.integration.running import (
    METRICS,
    ROWVEC,
    Process,
    collection,
    docs_contract,
    everything,
    produce,
    quiet,
    rowvec,
    run_to_end,
    told,
)

pytestmark = pytest.mark.integration

AS_ANYBODY = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
for capability in (1, 2):  # to override modes, to read whatever there is
    libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program without root's right to ignore file modes."""

ANEW = "an empty directory and start with `--accept-lost-state`"


def write_rows(broker: Broker, topic: str, *ids: int) -> None:
    records = [(0, *put(id_, id_, f"text {id_}", op="c")) for id_ in ids]
    produce(broker.bootstrap_servers, topic, records)


def rows(milvus: str, name: str) -> set[int]:
    """The source positions of the rows in the collection."""
    return {position for position, _, _ in collection(milvus, name).values()}


def epoch(recovery: Path) -> int:
    """The last epoch that all parts of the recovery directory have committed."""
    epochs = []
    for path in recovery.glob("*.sqlite3"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            epochs += database.execute("SELECT max(commit_epoch) FROM commits").fetchone()
    return min(each or 0 for each in epochs)


@pytest.fixture
def flow_directory(broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path) -> Path:
    """A directory with the contract of a table of a few rows, with short epochs."""
    docs_contract(
        tmp_path,
        broker,
        milvus,
        tiny_model,
        recovery={"epoch_interval_s": 0.05, "partitions": 3},
    )
    broker.create_topic(tmp_path.name, 1)
    write_rows(broker, tmp_path.name, 1, 2, 3)
    return tmp_path


def remove(recovery: Path, _older: Path) -> None:
    (recovery / "part-1.sqlite3").unlink()


def duplicate(recovery: Path, _older: Path) -> None:
    shutil.copy(recovery / "part-1.sqlite3", recovery / "part-1.old.sqlite3")


def truncate(recovery: Path, _older: Path) -> None:
    with (recovery / "part-1.sqlite3").open("r+b") as file:
        file.truncate(8192)


def copy_older(recovery: Path, older: Path) -> None:
    shutil.copy(older / "part-1.sqlite3", recovery)


def make_read_only(recovery: Path, _older: Path) -> None:
    (recovery / "part-1.sqlite3").chmod(0o400)


DAMAGES: list[tuple[Callable[[Path, Path], None], str]] = [
    (remove, "there is none with the number 1"),
    (duplicate, "part 1 is there twice"),
    (truncate, "it is damaged"),
    (copy_older, "they are copies of different times"),
    (make_read_only, "this user cannot read and write it (mode 0400)"),
]


def test_damaged_files_are_refused_and_once_mended_the_flow_goes_on(
    broker: Broker, milvus: str, flow_directory: Path
) -> None:
    topic, recovery = flow_directory.name, flow_directory / "recovery"
    older, good = flow_directory / "older", flow_directory / "good"
    run_to_end(flow_directory)
    shutil.copytree(recovery, older)
    write_rows(broker, topic, 4, 5)
    target = epoch(recovery) + 10
    with rowvec(flow_directory, "run", "-c", flow_directory / "rowvec.toml") as flow:
        flow.wait_until(lambda: epoch(recovery) > target)
        flow.send(signal.SIGTERM)
        assert flow.wait() == 0, flow.stderr
    shutil.copytree(recovery, good)
    before = everything(milvus, topic)
    assert rows(milvus, topic) == {1, 2, 3, 4, 5}
    write_rows(broker, topic, 6, 7)

    for damage, cause in DAMAGES:
        damage(recovery, older)
        argv = (sys.executable, "-c", AS_ANYBODY, *ROWVEC, "run", "-c", "rowvec.toml")
        with Process(flow_directory, argv, METRICS) as refused:
            assert refused.wait() == 1, (damage, refused.stderr)
        quiet(refused)
        told(refused, f"recovery directory {recovery}, part-1.", cause, ANEW)
        assert refused.metrics()["rowvec.records.consumed"] == 0
        shutil.rmtree(recovery)
        shutil.copytree(good, recovery)

    assert everything(milvus, topic) == before
    last = run_to_end(flow_directory)
    assert rows(milvus, topic) == {1, 2, 3, 4, 5, 6, 7}
    assert last.metrics()["rowvec.records.consumed"] == 2


def fill_the_disk(flow: Process, _recovery: Path) -> None:
    """Limit the size of files that the flow may write; its own output stays below the limit."""
    resource.prlimit(flow.pid, resource.RLIMIT_FSIZE, (32_768, resource.RLIM_INFINITY))


def take_away(_flow: Process, recovery: Path) -> None:
    recovery.rename(recovery.parent / "elsewhere")


@pytest.mark.parametrize(
    ("strike", "parts"),
    [
        (fill_the_disk, ("a checkpoint could not be read or written", "nothing is lost")),
        (take_away, ("removed or replaced while the flow was running", ANEW)),
    ],
)
def test_a_fault_under_the_running_flow_ends_it_and_loses_nothing(
    broker: Broker,
    milvus: str,
    flow_directory: Path,
    strike: Callable[[Process, Path], None],
    parts: tuple[str, ...],
) -> None:
    topic, recovery = flow_directory.name, flow_directory / "recovery"
    quietly = {"OTEL_METRICS_EXPORTER": "none"}
    with rowvec(flow_directory, "run", "-c", flow_directory / "rowvec.toml", env=quietly) as flow:
        flow.wait_running()
        flow.wait_until(lambda: epoch(recovery) > 3)
        strike(flow, recovery)
        write_rows(broker, topic, 4, 5)
        assert flow.wait() == 1, flow.stderr
    quiet(flow)
    told(flow, "recovery directory", *parts)
    assert flow.stderr.count("rowvec: ") == 1

    if not recovery.exists():
        (recovery.parent / "elsewhere").rename(recovery)
    write_rows(broker, topic, 6)
    run_to_end(flow_directory)
    assert rows(milvus, topic) == {1, 2, 3, 4, 5, 6}
