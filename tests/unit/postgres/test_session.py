"""The session with PostgreSQL without a server: its DSN, a missing psycopg, errors, what it closes."""

import os
import socket
import sys
import threading
import traceback
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from operators.contract.sections import SourceSection
from operators.errors import ContractError, FatalError, RetriableError, RowvecError
from operators.postgres.session import Session

SECRET = "hunter2"


def session(dsn: str) -> Session:
    return Session(SourceSection.model_validate({"dsn": dsn}))


def version(connection: Any) -> Any:
    return connection.execute("select version()").fetchone()


def told(error: RowvecError) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:%{SECRET}@127.0.0.1/db",
        f"postgresql://u:p@{SECRET}@127.0.0.1/db",
        f"postgresql://u:p/{SECRET}@127.0.0.1/db",
        f"postgresql://u:12/{SECRET}@127.0.0.1/db",
        f"postgresql://u:{SECRET}/p@127.0.0.1/db",
        f"postgresql://u:1/p?{SECRET}=@127.0.0.1/db",
        f"postgresql://u:1/p?{SECRET}@127.0.0.1/db",
        f"postgresql://u:{SECRET}",
        f"postgresql://u:{SECRET}/db",
        f"host=127.0.0.1 password=p {SECRET}",
        f"host=127.0.0.1 password=p {SECRET}=x",
        f"host=127.0.0.1 password='{SECRET}",
        f"{SECRET}",
    ],
)
def test_a_dsn_that_is_none_is_refused_unquoted(dsn: str) -> None:
    with pytest.raises(ContractError) as caught:
        session(dsn)
    assert caught.value.subject == "dsn in [source]"
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:{SECRET}@127.0.0.1:1/db",
        f"postgresql://u:%40{SECRET}%2F@127.0.0.1:1/db?sslmode=disable",
        f"postgresql://u:{SECRET}@127.0.0.1:1,127.0.0.1:1/db?target_session_attrs=any",
        f"host=127.0.0.1,127.0.0.1 port=1 user=u password={SECRET}",
        f"host=/{SECRET} user=u password={SECRET}",
        f"host=@{SECRET} user=u password={SECRET}",
    ],
)
def test_a_server_that_is_not_there_may_come_back(dsn: str) -> None:
    with pytest.raises(RetriableError) as caught:
        session(dsn).run("docs", version)
    assert "[source]" in str(caught.value)
    assert SECRET not in told(caught.value)


def test_what_the_client_cannot_do_is_final() -> None:
    with pytest.raises(FatalError):
        session("host=127.0.0.1 port=1 sslmode=nonsense").run("docs", version)


def test_a_missing_psycopg_is_told_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(FatalError, match=r'pip install "rowvec\[postgres\]"'):
        session("host=127.0.0.1")


def test_the_representation_holds_no_password() -> None:
    made = session(f"host=127.0.0.1 password={SECRET}")
    assert SECRET not in repr(made) + str(made)
    made.close()  # although it was never open


class Connection:
    """A connection with a socket of its own and no server behind it."""

    def __init__(self, register_loader: Any = lambda *_: None) -> None:
        self._socket, self._peer = socket.socketpair()
        self.adapters = SimpleNamespace(register_loader=register_loader)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self._peer.close()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("can't start new thread")


def test_a_connection_that_cannot_be_set_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(psycopg, "connect", lambda **_: Connection(register_loader=refuse))
    with pytest.raises(RuntimeError) as caught:
        session("host=127.0.0.1").run("docs", version)
    assert descriptors() == before
    assert caught.tb  # holds the frames, so that nothing was closed by the garbage collector


@pytest.mark.parametrize("fails", ["start", "__init__"])
def test_without_a_thread_for_the_deadline_everything_is_closed(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    monkeypatch.setattr(psycopg, "connect", lambda **_: Connection())
    monkeypatch.setattr(threading.Timer, fails, refuse)
    with pytest.raises(RuntimeError) as caught:
        session("host=127.0.0.1").run("docs", version)
    assert descriptors() == before
    assert caught.tb  # holds the frames, so that nothing was closed by the garbage collector
