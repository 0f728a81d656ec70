"""The embedded stack: it sends real change events, and leaves no processes or files behind."""

import json
import os
import platform
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from flows.embedded.broker import Broker, DurableBroker
from flows.embedded.connect import ConnectWorker, postgres_connector
from flows.embedded.milvus_server import MilvusServer
from flows.embedded.postgres import Postgres
from flows.embedded.stack import Stack
from operators.errors import FatalError
from tests.integration.running import PATIENCE_S

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


class Record(NamedTuple):
    key: dict | None
    value: dict | None
    headers: dict[str, bytes]


def read(
    servers: str, topic: str, enough: Callable[[list[Record]], bool], seconds: float = PATIENCE_S
) -> list[Record]:
    """Read the topic until `enough` returns true; returns all records in order of arrival."""
    records: list[Record] = []
    settings = {"bootstrap.servers": servers, "group.id": "test", "fetch.wait.max.ms": 20}
    settings |= {"fetch.message.max.bytes": 32_000_000, "receive.message.max.bytes": 100_000_000}
    with closing(Consumer(settings)) as consumer:
        deadline = time.monotonic() + seconds
        assigned = False
        while not enough(records):
            assert time.monotonic() < deadline, f"only {len(records)} records in {topic}"
            if not assigned and (
                found := consumer.list_topics(timeout=PATIENCE_S).topics.get(topic)
            ):
                parts = [TopicPartition(topic, i, OFFSET_BEGINNING) for i in found.partitions]
                consumer.assign(parts)
                assigned = True
            message = consumer.poll(0.05)
            if message is not None:
                assert message.error() is None, message.error()
                key, value = message.key(), message.value()
                records.append(
                    Record(
                        None if key is None else json.loads(key),
                        None if value is None else json.loads(value),
                        dict(message.headers() or []),
                    )
                )
    return records


def descendants(root: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    found = [root]
    for parent in found:
        found += [int(pid) for pid, of, stat in rows if int(of) == parent and stat[0] != "Z"]
    return [pid for pid in found[1:] if Path(f"/proc/{pid}/stat").exists()]


def listeners(pid: int) -> list[str]:
    """The addresses on which the process and its descendants listen, as the kernel prints them."""
    sockets = set()
    for process in (pid, *descendants(pid)):
        with suppress(OSError):  # it has ended meanwhile, as workers of Postgres do
            for descriptor in list(Path(f"/proc/{process}/fd").iterdir()):
                with suppress(OSError):
                    sockets.add(descriptor.readlink().name)
    found = []
    for protocol, state in LISTENING.items():
        for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and f"socket:[{fields[9]}]" in sockets:
                found.append(fields[1])
    return found


class TestEvents:
    def test_each_kind_of_change_arrives_over_loopback(self, stack: Stack) -> None:
        with stack.postgres.connect() as sql:
            sql.execute("create table users (email text primary key, name text, score numeric)")
            sql.execute("insert into users values ('snap@x', 'S', 1.50)")
            worker = stack.start_connect(["public.users"], topic_prefix="kinds", partitions=3)
            servers, topic = stack.broker.bootstrap_servers, "kinds.public.users"
            read(servers, topic, lambda got: len(got) == 1)  # Wait for the initial snapshot.
            sql.execute("insert into users values ('a@x', 'A', 12.30)")
            sql.execute("update users set name = 'AA' where email = 'a@x'")
            sql.execute("update users set email = 'b@x' where email = 'a@x'")
            sql.execute("delete from users where email = 'b@x'")
            sql.execute("truncate users")
            records = read(servers, topic, lambda got: len(got) >= 9)
        found = listeners(os.getpid())
        worker.stop()
        assert len(found) >= 2  # At least the broker's and PostgreSQL's.
        assert {address.split(":")[0] for address in found} <= LOOPBACK

        def of(email: str) -> list[str | None]:
            mine = [r for r in records if r.key == {"email": email}]
            return [r.value and r.value["op"] for r in mine]

        assert of("snap@x") == ["r"]
        assert of("a@x") == ["c", "u", "d", None]
        assert of("b@x") == ["c", "d", None]
        assert [r.key for r in records if r.value and r.value["op"] == "t"] == [None]
        headers = {(r.key["email"], r.value and r.value["op"]): r.headers for r in records if r.key}
        assert json.loads(headers["a@x", "d"]["__debezium.newkey"]) == {"email": "b@x"}
        assert json.loads(headers["b@x", "c"]["__debezium.oldkey"]) == {"email": "a@x"}
        created = next(r.value for r in records if r.value and r.value["op"] == "c")
        assert created["after"] == {"email": "a@x", "name": "A", "score": "12.30"}
        with closing(Consumer({"bootstrap.servers": servers, "group.id": "test"})) as consumer:
            topics = consumer.list_topics(timeout=PATIENCE_S).topics
        assert len(topics[topic].partitions) == 3

    def test_a_large_row_with_its_schema_arrives(self, stack: Stack) -> None:
        with stack.postgres.connect() as sql:
            sql.execute("create table large (id int primary key, body text)")
            sql.execute("insert into large select 1, repeat('0123456789abcdef', 1000000)")
        worker = stack.start_connect(["public.large"], topic_prefix="large", schemas_enable=True)
        servers = stack.broker.bootstrap_servers
        [record] = read(servers, "large.public.large", lambda got: len(got) == 1)
        worker.stop()
        assert record.key is not None
        assert record.value is not None
        assert record.key["payload"] == {"id": 1}
        assert len(record.value["payload"]["after"]["body"]) == 16_000_000

    def test_a_worker_started_again_misses_nothing(self, stack: Stack) -> None:
        servers, topic = stack.broker.bootstrap_servers, "again.public.again"

        def ids(count: int) -> list[int]:
            def enough(records: list[Record]) -> bool:
                return len({r.key["id"] for r in records if r.key}) >= count

            return [r.key["id"] for r in read(servers, topic, enough) if r.key]

        with stack.postgres.connect() as sql:
            sql.execute("create table again (id int primary key)")
            sql.execute("insert into again select generate_series(1, 100)")
            worker = stack.start_connect(["public.again"], topic_prefix="again")
            assert sorted(ids(100)) == list(range(1, 101))
            sql.execute("insert into again select generate_series(101, 1000)")
            # A JVM may make it in /tmp, whatever its own folder for such files is, and leave it there.
            socket = Path(f"/tmp/.java_pid{worker._child.pid}")
            worker.stop()
            assert not socket.exists()
            sql.execute("insert into again select generate_series(1001, 1100)")
            worker = stack.start_connect(["public.again"], topic_prefix="again")
            assert sorted(ids(1100)) == list(range(1, 1101))
            sql.execute("insert into again select generate_series(1101, 2000)")
            worker.kill()
            sql.execute("insert into again select generate_series(2001, 2100)")
            worker = stack.start_connect(["public.again"], topic_prefix="again")
            assert set(ids(2100)) == set(range(1, 2101))
        worker.stop()


class TestFailures:
    def test_a_missing_table_is_named(self, stack: Stack) -> None:
        with pytest.raises(FatalError, match=r"public\.nope"):
            stack.start_connect(["public.nope"])

    def test_what_fails_in_java_is_told(self, stack: Stack, tmp_path: Path) -> None:
        with stack.postgres.connect() as sql:
            sql.execute("create table fine (id int primary key)")
        good, tables = stack.postgres.dsn, ["public.fine"]
        wrong = {
            "password": (good + " password=wrong", tables, "password authentication failed"),
            "port": (good + " port=1", tables, "127.0.0.1:1 refused"),
            "table": (good, ["public.nope"], "No table filters found"),
        }
        worker = ConnectWorker(tmp_path, stack.broker.bootstrap_servers)
        try:
            worker.start(
                {
                    name: postgres_connector(dsn, topic_prefix=f"wrong_{name}", tables=names)
                    for name, (dsn, names, _) in wrong.items()
                }
            )
            deadline = time.monotonic() + PATIENCE_S
            while not all(status.failed for status in worker.status().values()):
                assert time.monotonic() < deadline, worker.status()
                time.sleep(0.05)
            for name, (_, _, message) in wrong.items():
                assert message in worker.status()[name].trace
            with pytest.raises(FatalError, match=r"connector (password|port|table): "):
                worker.wait_running()
        finally:
            worker.stop()

    def test_a_program_that_cannot_start_quotes_its_log(self, stack: Stack, tmp_path: Path) -> None:
        worker = ConnectWorker(tmp_path, "127.0.0.1:1", java_options=["-XX:NoSuchOption"])
        worker.start({})
        with pytest.raises(FatalError, match="NoSuchOption"):
            worker.wait_running()
        worker.stop()


SCRIPT_UP = """
import signal, sys, time
from pathlib import Path
from flows.embedded.stack import Stack
signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job ignores it
with Stack(Path(sys.argv[1])) as stack:
    with stack.postgres.connect() as sql:
        sql.execute("create table docs (id int primary key)")
    stack.start_connect(["public.docs"])
    busy = stack.postgres.connect()
    busy.pgconn.send_query(b"do $$ begin loop perform 1; end loop; end $$")
    print("up", flush=True)
    time.sleep(60)
"""

SCRIPT_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
import confluent_kafka.admin, psycopg  # whole: Python cannot repeat an interrupted import
from flows.embedded.process import _descendants
from flows.embedded.stack import Stack

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
for delay in map(float, sys.argv[2:]):
    directory = Path(sys.argv[1], str(delay))
    stack = Stack(directory)
    signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        with stack:
            with stack.postgres.connect() as sql:
                sql.execute("create table docs (id int primary key)")
            stack.start_connect(["public.docs"])
        raise SystemExit(f"not interrupted after {delay} s")
    except KeyboardInterrupt:
        pass
    if left := _descendants(os.getpid()):
        raise SystemExit(f"left after {delay} s: {left}")
    if directory.exists():
        raise SystemExit(f"directory left after {delay} s")
print("done")
"""


def run_script(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


class TestNothingIsLeftBehind:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_when_the_parent_is_ended(self, tmp_path: Path, number: signal.Signals) -> None:
        directory = tmp_path / "stack"
        with run_script(SCRIPT_UP, directory) as parent, ExitStack() as cleanup:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "up\n"
            children: dict[int, int] = {}
            for pid in descendants(parent.pid):
                with suppress(ProcessLookupError):  # a worker of Postgres that has done its work
                    children[pid] = os.pidfd_open(pid)
            assert len(children) > 5  # PostgreSQL alone has as many.
            poller = select.poll()
            for descriptor in children.values():
                cleanup.callback(os.close, descriptor)
                poller.register(descriptor, select.POLLIN)
            parent.send_signal(number)
            code = parent.wait(PATIENCE_S)
            waiting = set(children.values())
            while waiting and (ended := poller.poll(1_000 * PATIENCE_S)):
                for descriptor, _ in ended:
                    poller.unregister(descriptor)
                    waiting.discard(descriptor)
            assert not waiting, [pid for pid, fd in children.items() if fd in waiting]
        assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: -2}[number]
        assert directory.exists() == (number == signal.SIGKILL)

    def test_when_a_start_is_interrupted(self, tmp_path: Path) -> None:
        delays = (0.001, 0.03, 0.06, 0.1, 0.3, 0.5, 0.8, 1.2)
        with run_script(SCRIPT_INTERRUPTED, tmp_path, *map(str, delays)) as child:
            assert child.communicate(timeout=PATIENCE_S)[0] == "done\n"
        assert child.returncode == 0


class TestProcesses:
    def test_postgres_survives_a_kill(self, tmp_path: Path) -> None:
        postgres = Postgres(tmp_path)
        try:
            postgres.start()
            with postgres.connect() as sql:
                sql.execute("create table kept (id int primary key)")
                sql.execute("insert into kept values (1)")
                postgres.kill()
            postgres.start()
            with postgres.connect() as sql:
                assert sql.execute("select id from kept").fetchall() == [(1,)]
        finally:
            postgres.stop()

    def test_topics_are_made_as_asked(self, tmp_path: Path) -> None:
        broker = Broker(tmp_path)
        try:
            broker.start()
            broker.create_topic("t", 3, {"cleanup.policy": "compact"})
            with pytest.raises(FatalError, match=r"topic t: .*exists"):
                broker.create_topic("t", 3)
        finally:
            broker.stop()

    def test_the_durable_broker_keeps_records_and_knows_the_end(self, tmp_path: Path) -> None:
        from confluent_kafka import Producer

        broker = DurableBroker(tmp_path)
        try:
            broker.start()
            broker.create_topic("t", 1)
            producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
            for value in (b"1", b"2", b"3"):
                producer.produce("t", value)
            assert producer.flush(10) == 0
            broker.stop()
            broker.start()
            settings = {"bootstrap.servers": broker.bootstrap_servers, "group.id": "test"}
            with closing(Consumer(settings)) as consumer:
                part = TopicPartition("t", 0)
                assert consumer.get_watermark_offsets(part, timeout=PATIENCE_S, cached=False) == (
                    0,
                    3,
                )
            assert {a.split(":")[0] for a in listeners(os.getpid())} <= LOOPBACK
        finally:
            broker.stop()


@pytest.mark.server
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the binary is for x86_64")
def test_the_milvus_server_serves_on_loopback_only(tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    server = MilvusServer(tmp_path)
    try:
        server.start()
        client = MilvusClient(server.uri)
        client.create_collection("c", dimension=4)
        client.insert("c", [{"id": i, "vector": [1.0, 0.0, 0.0, float(i)]} for i in range(10)])
        rows = client.query("c", filter="id >= 0", consistency_level="Strong")
        client.close()
        assert len(rows) == 10
        found = listeners(os.getpid())
        assert {address.split(":")[0] for address in found} <= LOOPBACK
    finally:
        server.stop()
