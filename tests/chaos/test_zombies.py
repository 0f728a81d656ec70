"""Two processes over one collection: a process without the lease writes nothing, frozen or not."""

import os
import random
import shutil
import signal
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.embedded.broker import Broker
from operators.ownership.ledger_entries import Entry
from tests.chaos.scene import (
    Feed,
    PatientReader,
    catches_up,
    eventually,
    goes_on,
    start,
    stop_cleanly,
)
from tests.integration.running import (
    collection,
    docs_contract,
    open_store,
    quiet,
    told,
)

pytestmark = pytest.mark.integration

LONG_LEASE = {"ROWVEC_MILVUS__LEASE_S": "20"}
"""Long enough that another process starts and ends while the first one is frozen."""

FREEZES = int(os.environ.get("ROWVEC_TEST_FREEZES", "1"))
SEED = int(os.environ.get("ROWVEC_TEST_SEED", "7"))


class Servers(NamedTuple):
    """The servers of all flows here."""

    broker: Broker
    milvus: str
    model: Path


@pytest.fixture(scope="module")
def servers(broker: Broker, milvus: str, tiny_model: Path) -> Servers:
    return Servers(broker, milvus, tiny_model)


class Homes:
    """Directories of processes on one topic and collection, each with its own recovery directory."""

    def __init__(self, servers: Servers, directory: Path) -> None:
        self.name = directory.name
        self._servers, self._directory = servers, directory

    def make(self, number: int, copied: Path | None = None) -> Path:
        """Make a directory; with `copied`, it gets a copy of that one's recovery directory."""
        home = self._directory / str(number) / self.name
        home.mkdir(parents=True)
        docs_contract(
            home,
            self._servers.broker,
            self._servers.milvus,
            self._servers.model,
            kafka={"source_batch_size": 100},
            flow={"window_ms": 10},
            recovery={
                "directory": str(home / "recovery"),
                "epoch_interval_s": 0.3,
                "partitions": 2,
            },
        )
        if copied is not None:
            shutil.copytree(copied / "recovery", home / "recovery")
        return home


def holders(servers: Servers, name: str) -> list[str]:
    """The holders of the lease on a collection, according to the ledger."""
    with closing(open_store(servers.milvus)) as store:
        entries = store.ledger().read()
    found = [Entry.unpack(key, body) for key, body in entries.items() if key == f"{name}/0"]
    return [entry.holder.where for entry in found if entry.holder.id]


def test_while_one_lives_nobody_else_starts_not_even_while_it_is_frozen_for_a_moment(
    servers: Servers, tmp_path: Path
) -> None:
    homes = Homes(servers, tmp_path)
    name, home, other = tmp_path.name, homes.make(0), homes.make(1)
    feed = Feed(servers.broker, name, seed=SEED)
    with (
        feed,
        PatientReader(servers.milvus, name, feed.history) as reader,
        start(home, env=LONG_LEASE) as first,
    ):
        goes_on(first, reader)
        with start(other) as second:
            assert second.wait() == 1, second.stderr
        quiet(second)
        told(
            second,
            f"collections {name}",
            f"process {first.pid} on ",
            "is writing to them: it has just renewed its lease",
            "one flow writes to a collection: stop the other one, or name another collection",
        )
        goes_on(first, reader)

        first.send(signal.SIGSTOP)
        with start(home) as third:
            assert third.wait() == 1, third.stderr
        quiet(third)
        told(third, f"recovery directory {home / 'recovery'}", "is running on it already")
        first.send(signal.SIGCONT)
        goes_on(first, reader)
        catches_up(servers.milvus, name, feed.stop())
        stop_cleanly(first)
    assert reader.faults == []


def test_a_frozen_one_is_dead_before_another_takes_its_turn(
    servers: Servers, tmp_path: Path
) -> None:
    homes, draw = Homes(servers, tmp_path), random.Random(SEED)
    name = tmp_path.name
    feed = Feed(servers.broker, name, seed=SEED + 1)
    with (
        ExitStack() as stack,
        feed,
        PatientReader(servers.milvus, name, feed.history) as reader,
    ):
        home = homes.make(0)
        flow = stack.enter_context(start(home))
        for number in range(1, FREEZES + 1):
            goes_on(flow, reader, draw.randrange(50, 600))
            frozen, flow_home = flow, home
            frozen.send(signal.SIGSTOP)
            # A copy of the committed state. Its lock file is a new one, so it does not prove that the
            # frozen process is dead: the new process has to wait for the lease.
            home = homes.make(number, copied=flow_home)
            flow = stack.enter_context(start(home))
            flow.wait_running()
            assert holders(servers, name) == [f"process {flow.pid} on {os.uname().nodename}"]
            code = frozen.code
            # If the frozen process were still alive, it would now write on.
            frozen.send(signal.SIGCONT)
            goes_on(flow, reader)
            assert code == -signal.SIGKILL, f"it was frozen, and is not dead: {frozen.stderr}"
            assert "for the lease of process" in flow.stderr
            quiet(frozen)
        catches_up(servers.milvus, name, feed.stop())
        stop_cleanly(flow)
    assert reader.faults == []
    assert holders(servers, name) == []


def test_of_two_that_want_the_turn_of_a_dead_one_one_gets_it_and_lost_state_is_told(
    servers: Servers, tmp_path: Path
) -> None:
    homes = Homes(servers, tmp_path)
    name, home = tmp_path.name, homes.make(0)
    feed = Feed(servers.broker, name, seed=SEED + 2)
    with (
        ExitStack() as stack,
        feed,
        PatientReader(servers.milvus, name, feed.history) as reader,
    ):
        with start(home) as dead:
            goes_on(dead, reader)
            dead.kill()
        both = [stack.enter_context(start(homes.make(n, copied=home))) for n in (1, 2)]
        eventually(lambda: any(one.code is not None for one in both), "one of them is refused")
        refused, flow = sorted(both, key=lambda one: one.code is None)
        assert refused.code == 1, refused.stderr
        quiet(refused)
        goes_on(flow, reader)
        assert holders(servers, name) == [f"process {flow.pid} on {os.uname().nodename}"]
        flow.kill()
    assert reader.faults == []

    final, fresh = feed.stop(), homes.make(3)
    with start(fresh, "--exit-at-end") as lost:
        assert lost.wait() == 1, lost.stderr
    quiet(lost)
    assert "Waiting up to" in lost.stderr
    told(lost, "recovery state of ", "has been filled up to", "--accept-lost-state")
    with start(fresh, "--exit-at-end", "--accept-lost-state") as accepting:
        assert accepting.wait() == 0, accepting.stderr
    quiet(accepting)
    assert "Waiting up to" not in accepting.stderr  # The refused process has released the lease.
    assert collection(servers.milvus, name) == final


def test_one_that_has_lost_its_turn_while_idle_ends_and_says_so(
    servers: Servers, tmp_path: Path
) -> None:
    homes = Homes(servers, tmp_path)
    name, home = tmp_path.name, homes.make(0)
    feed = Feed(servers.broker, name, seed=SEED + 3)
    final = feed.stop()
    with start(home) as flow:
        flow.wait_running()
        catches_up(servers.milvus, name, final)
        with closing(open_store(servers.milvus)) as store:
            ledger = store.ledger()
            body = ledger.read()[f"{name}/0"]
            ledger.write(
                {
                    f"{name}/0": body.replace(f"process {flow.pid} on ", "somebody on ").replace(
                        '"holder":["', '"holder":["another'
                    )
                }
            )
        assert flow.wait() == 1, flow.stderr
    quiet(flow)
    told(
        flow,
        "the lease on the collections",
        f"this process no longer has it: somebody on {os.uname().nodename} has",
        "nothing is lost",
    )
    assert holders(servers, name) == [f"somebody on {os.uname().nodename}"]
