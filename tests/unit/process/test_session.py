"""A session closes what it opened, however far its opening came."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from flows.process import session as sessions
from flows.process.session import Session
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
        ledger=SimpleNamespace(start=SimpleNamespace(distrusts=False)),
        lease=SimpleNamespace(gate=gate),
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
