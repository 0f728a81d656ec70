"""The embedded stack: Postgres, a broker, and Kafka Connect with Debezium on demand."""

import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self, TypeVar

from flows.embedded.broker import Broker
from flows.embedded.connect import FAST_START, ConnectWorker, postgres_connector
from flows.embedded.postgres import Postgres
from operators.errors import FatalError

_T = TypeVar("_T")


class _Part(Protocol):
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class Stack:
    """Postgres and a broker, started on entry; on exit they end, with all Connect workers.

    Nothing that it starts outlives it: on any exception, Ctrl-C or SIGTERM the parts are ended in
    reverse order (a second Ctrl-C kills them at once), and if the process itself is killed, the
    kernel ends them. While the stack is up, SIGTERM raises SystemExit(143), unless the process
    handles SIGTERM itself or the stack is not used from the main thread.

    Args:
        directory: For all data and logs; a new temporary one by default. If the stack creates it, the
            stack removes it.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._requested = directory
        self._directory: Path | None = None
        self._owned = False
        self._parts: list[_Part] = []
        self._postgres: Postgres | None = None
        self._broker: Broker | None = None
        self._restore_signals: Callable[[], None] = lambda: None

    @property
    def directory(self) -> Path:
        """The directory of data and logs, while the stack is up."""
        return _up(self._directory)

    @property
    def postgres(self) -> Postgres:
        """The database."""
        return _up(self._postgres)

    @property
    def broker(self) -> Broker:
        """The broker."""
        return _up(self._broker)

    def start(self) -> None:
        """Starts the broker and Postgres, one after the other (the broker takes 0.1 s).

        Raises:
            FatalError: A part did not start, or is not installed; then nothing is left running.
        """
        if self._parts:
            raise FatalError(subject="embedded stack", cause="it is up already")
        self._restore_signals = _exit_on_sigterm()
        try:
            directory = self._make_directory()
            self._broker = Broker(directory / "broker")
            self._parts.append(self._broker)
            self._broker.start()
            self._postgres = Postgres(directory / "postgres")
            self._parts.append(self._postgres)
            self._postgres.start()
        except BaseException:
            self.stop()
            raise

    def start_connect(
        self,
        tables: Sequence[str],
        *,
        topic_prefix: str = "rowvec",
        partitions: int = 4,
        schemas_enable: bool = False,
        java_options: Sequence[str] = FAST_START,
        **overrides: str,
    ) -> ConnectWorker:
        """Starts Kafka Connect with one Debezium connector and waits until it runs.

        The initial snapshot sends the existing rows to topics named `<topic_prefix>.<schema>.<table>`.
        Each call adds a worker, which `topic_prefix` names; the stack ends it. A worker with the same
        prefix in the same directory continues where it stopped.

        Args:
            tables: `schema.table` of each table; all must exist.
            topic_prefix: See `postgres_connector`.
            partitions: See `postgres_connector`.
            schemas_enable: See `postgres_connector`.
            java_options: See `ConnectWorker`.
            overrides: See `postgres_connector`.

        Raises:
            FatalError: A table is missing, or the connector failed; then the worker is ended.
        """
        self._require_tables(tables)
        worker = ConnectWorker(
            self.directory / f"connect-{topic_prefix}",
            self.broker.bootstrap_servers,
            java_options=java_options,
        )
        connector = postgres_connector(
            self.postgres.dsn,
            topic_prefix=topic_prefix,
            tables=tables,
            partitions=partitions,
            schemas_enable=schemas_enable,
            **overrides,
        )
        self._parts.append(worker)
        try:
            worker.start({topic_prefix: connector})
            worker.wait_running()
        except BaseException:
            worker.kill()
            raise
        return worker

    def stop(self) -> None:
        """Ends all parts in reverse order, and removes the directory if the stack created it."""
        try:
            while self._parts:
                self._parts[-1].stop()
                self._parts.pop()
        finally:
            for part in reversed(self._parts):  # only if interrupted: kill the remaining parts
                part.kill()
            self._parts.clear()
            if self._owned and self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = self._postgres = self._broker = None
            self._restore_signals()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _make_directory(self) -> Path:
        directory = self._requested or Path(tempfile.gettempdir(), f"rowvec-{secrets.token_hex(8)}")
        # Stored before it is created, so that an interrupt in between does not leave it behind.
        self._directory = directory.absolute()
        self._owned = not self._directory.exists()
        if self._owned:
            self._directory.mkdir(mode=0o700, parents=True)
            # If this process is root, Postgres runs as another user, who must be able to enter.
            self._directory.chmod(0o711)
        return self._directory

    def _require_tables(self, tables: Sequence[str]) -> None:
        with self.postgres.connect() as connection:
            present = {
                f"{schema}.{table}"
                for schema, table in connection.execute(
                    "select schemaname, tablename from pg_catalog.pg_tables"
                )
            }
        missing = [table for table in tables if table not in present]
        if missing or not tables:
            raise FatalError(
                subject="table " + ", ".join(missing) if missing else "tables",
                cause="not in the database" if missing else "none was named",
                hint="Name existing tables as schema.table",
            )


def _up(part: _T | None) -> _T:
    if part is None:
        raise FatalError(subject="embedded stack", cause="it is not up", hint="Start it first")
    return part


def _exit_on_sigterm() -> Callable[[], None]:
    """Makes SIGTERM raise SystemExit, so that `finally` blocks run.

    Returns:
        A function that restores the former handler.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        return lambda: None

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)

    def restore() -> None:
        # Only if the handler is still this one: another may have been installed meanwhile.
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    return restore
