"""A session closes what it opened, however far its opening came."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from flows.process import session as sessions
from flows.process.session import Cluster, Session
from operators.errors import FatalError
from tests.changes import contract

BROKEN = FatalError(subject="a part", cause="cannot be opened")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts that were closed, in order; every part is a stub."""
    names: list[str] = []

    def part(name: str, **more: object) -> SimpleNamespace:
        def close() -> None:
            names.append(name)

        return SimpleNamespace(close=close, shutdown=close, **more)

    observability = part("telemetry", telemetry=None, traced=False)
    gate = SimpleNamespace(check=lambda: None, writing=nullcontext)
    opened = part(
        "checks",
        store=SimpleNamespace(),
        embedder=SimpleNamespace(),
        ledger=SimpleNamespace(start=SimpleNamespace(distrusts=False), run_again=lambda: None),
        lease=SimpleNamespace(gate=gate),
        names=SimpleNamespace(contract=contract()),
        rules={},
        partitions=[],
        collections_empty=True,
        framed=None,
        database=None,
    )
    monkeypatch.setattr(sessions, "Observability", lambda *_: observability)
    monkeypatch.setattr(sessions.preflight, "pass_all", lambda *_: opened)
    monkeypatch.setattr(sessions, "DeadLetterProducer", lambda *_: None)
    monkeypatch.setattr(sessions, "build_flow", lambda *_: part("flow"))
    return names


class Watch:
    """Stands for the watch; a test says what it has seen."""

    unread: tuple[tuple[str, int], ...] = ()
    last: "Watch"

    def __init__(self, reads: list[tuple[str, int]], *rest: Any) -> None:
        Watch.last = self
        self.reads, self.on_added, self.what_then = list(reads), rest[3], rest[4]

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_flow_that_ended_for_new_partitions_runs_again_with_them(
    closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PartitionWatch", Watch)
    monkeypatch.setattr(sessions.kafka_topics, "bounds_of", lambda *_: {})
    monkeypatch.setattr(sessions.kafka_topics, "broker_count", lambda _: 3)
    allowed: list[tuple[int, ...]] = []
    monkeypatch.setattr(sessions.open_files, "allow", lambda *needs: allowed.append(needs))
    session = Session.open(contract(), renews=True)
    first = session.flow
    assert not session.renewed()
    Watch.last.unread = (("docs", 1),)
    Watch.last.on_added()
    assert session.renewed()
    assert closed == ["flow"]
    assert session.flow is not first
    assert Watch.last.reads == [("docs", 1)]
    assert allowed == [(1, 3, contract().recovery.partitions)]
    assert not session.renewed()
    # SIGTERM comes first.
    Watch.last.on_added()
    session.stop.set()
    assert not session.renewed()
    session.close()
    assert closed == ["flow", "flow", "checks", "telemetry"]


@pytest.mark.parametrize(
    "how", [{"renews": False}, {"renews": True, "cluster": Cluster(0, ("a:1", "b:1"))}]
)
@pytest.mark.usefixtures("closed")
def test_a_flow_that_cannot_run_again_asks_to_be_restarted(
    how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PartitionWatch", Watch)
    session = Session.open(contract(), **how)
    Watch.last.on_added()
    assert not session.renewed()
    assert "all processes of this flow were stopped and started again" in Watch.last.what_then


def fail(*_: object) -> None:
    raise BROKEN


def test_a_session_closes_its_parts_in_reverse_order(closed: list[str]) -> None:
    session = Session.open(contract())
    assert closed == []
    session.close()
    assert closed == ["flow", "checks", "telemetry"]


@pytest.mark.parametrize("broken", ["DeadLetterProducer", "build_flow"])
def test_a_session_that_cannot_be_wired_releases_the_lease(
    broken: str, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, broken, fail)
    with pytest.raises(FatalError, match="cannot be opened"):
        Session.open(contract())
    assert closed == ["checks", "telemetry"]


def test_a_session_whose_checks_fail_still_sends_its_telemetry(
    closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions.preflight, "pass_all", fail)
    with pytest.raises(FatalError, match="cannot be opened"):
        Session.open(contract())
    assert closed == ["telemetry"]
