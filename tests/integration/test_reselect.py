"""Large values read back from a real PostgreSQL."""

import os
import re
import signal
import subprocess
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from flows.embedded.postgres import Postgres
from operators.changes.row_key import RowKey
from operators.codec.temporal import Moment
from operators.codec.text import as_text
from operators.contract.sections import SourceSection
from operators.contract.table import TableSection
from operators.errors import FatalError, RecordError, RetriableError, RowvecError
from operators.postgres.reselect import Reselector

pytestmark = pytest.mark.integration

DAY = Moment("date", 19_782)
BODY = "¶'\"\\ %s ünïcødé 🐘\n" * 1_000  # Stored out of line (TOAST).
HOSTILE = [
    "plain",
    "",
    " ",
    "it's",
    '"double"',
    "a,b",
    "a:b",
    "100%",
    "%s %(name)s %%",
    "%2C",
    "back\\slash\\",
    "E'\\'; drop table texts; --",
    "$$",
    "line\nbreak\ttab",
    "Ünïcødé 🐘",
    "e\u0301",
    "\ufeffbom",
    "NULL",
    "{}",
    "x" * 500,
]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("reselect"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def admin(postgres: Postgres) -> Iterator[psycopg.Connection]:
    with postgres.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def reselector(postgres: Postgres) -> Iterator[Reselector]:
    reselector = Reselector(section(postgres.dsn))
    yield reselector
    reselector.close()


def section(dsn: str, **more: Any) -> SourceSection:
    return SourceSection.model_validate({"dsn": dsn, **more})


def table(*key: str, **more: Any) -> TableSection:
    names = key or ("id",)
    return TableSection(topic="app.public.t", collection="c", key=names, text="{body}", **more)


def row_key(*parts: str) -> RowKey:
    return RowKey("t:" + ",".join(quote(part, safe="") for part in parts))


class TestKeys:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _tables(cls, admin: psycopg.Connection) -> None:
        admin.execute("create table texts (id text primary key, body text)")
        insert = sql.SQL("insert into texts values ({}, {})")
        for number, key in enumerate(HOSTILE):
            admin.execute(insert.format(sql.Literal(key), sql.Literal(f"{number} {BODY}")))
        admin.execute('create schema "Sch%ema"')
        admin.execute(
            """create table "Sch%ema"."Ta ""ble" ("I'd %s" bigint, "Naïve" uuid, body text,
               primary key ("I'd %s", "Naïve"))"""
        )

    @pytest.mark.parametrize("number", range(len(HOSTILE)))
    def test_each_text_finds_its_own_row(self, reselector: Reselector, number: int) -> None:
        found = reselector.select(
            table(), ("public", "texts"), row_key(HOSTILE[number]), ["body", "id"]
        )
        assert found == {"body": f"{number} {BODY}", "id": HOSTILE[number]}

    def test_composite_keys_and_hostile_names(
        self, reselector: Reselector, admin: psycopg.Connection
    ) -> None:
        uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
        name = sql.Identifier("Sch%ema", 'Ta "ble')
        admin.execute(
            sql.SQL("insert into {} values (-9223372036854775808, {}, 'x')").format(name, uuid)
        )
        origin = ("Sch%ema", 'Ta "ble')
        # The key's parts are in the order of the contract, which differs from the table's.
        found = reselector.select(
            table("Naïve", "I'd %s"), origin, row_key(uuid, "-9223372036854775808"), ["body"]
        )
        assert found == {"body": "x"}
        swapped = table("I'd %s", "Naïve")
        other = row_key("-9223372036854775807", uuid)
        assert reselector.select(swapped, origin, other, ["body"]) is None

    @pytest.mark.parametrize(
        ("type_", "stored", "part"),
        [
            ("int", "-42", "-42"),
            ("bigint", "9007199254740993", "9007199254740993"),
            (
                "uuid",
                "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            ),
            ("numeric(20, 4)", "12.3400", "12.3400"),
            ("numeric", "-1e20", "-100000000000000000000"),
            ("float8", "0.1", "0.1"),
            ("float8", "1e300", "1e+300"),
            ("float4", "0.1", "0.1"),
            ("bool", "true", "true"),
            ("char(5)", "ab", "ab   "),
            ("date", "2024-02-29", "2024-02-29"),
            ("timestamptz", "2024-02-29 12:00:00.000001+02", "2024-02-29T10:00:00.000001Z"),
            ("timestamp", "2024-02-29 12:00", "2024-02-29T12:00:00"),
            ("time", "12:00:00.5", "12:00:00.5"),
            ("bytea", "\\x00ff27", "AP8n"),
            ("inet", "::1", "::1"),
        ],
    )
    def test_each_type_of_key(
        self,
        reselector: Reselector,
        admin: psycopg.Connection,
        type_: str,
        stored: str,
        part: str,
    ) -> None:
        admin.execute("drop table if exists typed")
        admin.execute(sql.SQL("create table typed (id {} primary key)").format(sql.SQL(type_)))  # type: ignore[arg-type]
        admin.execute("alter table typed add body text default 'here'")
        admin.execute(sql.SQL("insert into typed values ({})").format(stored))
        origin = ("public", "typed")
        fresh = table(generation=1)
        reselector.close()  # Drop the session, which has cached the previous table.
        assert reselector.select(fresh, origin, row_key(part), ["body"]) == {"body": "here"}

    @pytest.mark.parametrize(
        ("type_", "part"),
        [
            ("int", "no number"),
            ("int", "99999999999"),
            ("uuid", "42"),
            ("date", "2024-02-30"),
            ("date", "19782"),  # Days, which PostgreSQL refuses.
            ("time", "120000"),  # Microseconds, which PostgreSQL would read as noon.
            ("timestamp", "1709208000000000"),
            ("bytea", "no base64!"),
            ("bit(4)", "10"),
            ("timetz", "12:00:00Z"),
            ("text", "nul\0nul"),
        ],
    )
    def test_what_is_no_key_of_its_type_is_refused_unquoted(
        self, reselector: Reselector, admin: psycopg.Connection, type_: str, part: str
    ) -> None:
        admin.execute("drop table if exists typed")
        admin.execute(sql.SQL("create table typed (id {} primary key)").format(sql.SQL(type_)))  # type: ignore[arg-type]
        reselector.close()
        with pytest.raises(RecordError) as caught:
            reselector.select(table(), ("public", "typed"), row_key(part), ["id"])
        assert re.search("encodings|REPLICA IDENTITY FULL", caught.value.hint)
        assert part not in "".join(traceback.format_exception(caught.value))

    def test_the_index_is_used(
        self, postgres: Postgres, admin: psycopg.Connection, reselector: Reselector
    ) -> None:
        admin.execute(
            "create table many as select n::bigint id, 'x' body from generate_series(1, 50000) n"
        )
        admin.execute("alter table many add primary key (id)")
        admin.execute("analyze many")
        admin.execute("select pg_stat_reset()")
        found = reselector.select(table(), ("public", "many"), row_key("777"), ["body"])
        assert found == {"body": "x"}
        reselector.close()  # A session reports its statistics when it ends.
        scans = "select seq_scan, idx_scan from pg_stat_user_tables where relname = 'many'"
        pause = threading.Event()
        for _ in range(100):
            seen = admin.execute(scans).fetchone()
            if seen is not None and seen[1]:
                break
            pause.wait(0.05)
        assert seen == (0, 1)

    def test_a_key_that_several_rows_have_is_refused(
        self, reselector: Reselector, admin: psycopg.Connection
    ) -> None:
        admin.execute("create table twice (id int, body text)")
        admin.execute("insert into twice values (1, 'a'), (1, 'b'), (2, 'c')")
        found = reselector.select(table(), ("public", "twice"), row_key("2"), ["body"])
        assert found == {"body": "c"}
        with pytest.raises(RecordError, match="several rows"):
            reselector.select(table(), ("public", "twice"), row_key("1"), ["body"])


class TestValues:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _types(cls, admin: psycopg.Connection) -> None:
        for extension in ("hstore", "citext", "vector"):
            admin.execute(f"create extension {extension}")  # type: ignore[arg-type]
        admin.execute("create type mood as enum ('sad', 'ok, then')")
        admin.execute("create domain document as text")
        admin.execute("create domain contract as document")

    @pytest.mark.parametrize(
        ("type_", "literal", "value"),
        [
            ("text", "null", None),
            ("text", "''", ""),
            ("text", f"repeat('{'x' * 10}', 100000)", "x" * 1_000_000),
            ("varchar", "'v'", "v"),
            ("citext", "'CiText'", "CiText"),
            ("contract", "'clause'", "clause"),
            ("mood", "'ok, then'", "ok, then"),
            ("json", """'{"b" : 1,"a":[1.50, "\\u00e9"]}'""", '{"b" : 1,"a":[1.50, "\\u00e9"]}'),
            ("jsonb", """'{"b" : 1,"a":[1.50]}'""", '{"a": [1.50], "b": 1}'),
            ("jsonb", "'null'", "null"),
            ("int4range", "'[1,5)'", "[1,5)"),
            ("tsvector", "'a b'", "'a' 'b'"),
            ("bytea", "'\\x00ff'", b"\x00\xff"),
            ("bytea", "decode(repeat('ab', 9000), 'hex')", b"\xab" * 9_000),
            ("numeric", "123456789012345678901234567890.10", Decimal("123456789012345678901234567890.10")),
            ("numeric", "'Infinity'", Decimal("Infinity")),
            ("bigint", "9223372036854775807", 9223372036854775807),
            ("int", "-1", -1),
            ("float8", "1.5", 1.5),
            ("bool", "true", True),
            ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            ("date", "'2024-02-29'", DAY),
            ("text[]", """array['a,b', '"', null, '{}', 'ü']""", ["a,b", '"', None, "{}", "ü"]),
            ("text[]", "'{}'", []),
            ("int[]", "'{{1,2},{3,4}}'", [[1, 2], [3, 4]]),
            ("bool[]", "'{t,f}'", [True, False]),
            ("numeric[]", "'{1.50,NULL}'", [Decimal("1.50"), None]),
            ("uuid[]", "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
            ("bytea[]", "array['\\x00ff'::bytea]", [b"\x00\xff"]),
            ("jsonb[]", """array['{"a":1}'::jsonb]""", ['{"a": 1}']),
            ("date[]", "'{2024-02-29,infinity,NULL}'", [DAY, Moment("date", inf), None]),
            ("timestamptz[]", "'{2024-02-29T02:00+02}'", [Moment("timestamp", 19_782 * 86_400 * 10**9, True)]),
            ("date", "'0044-03-15 BC'", "0044-03-15 BC"),
            ("mood[]", "'{sad,\"ok, then\"}'", ["sad", "ok, then"]),
            ("citext[]", "'{A,b}'", ["A", "b"]),
            ("hstore", """'a=>1, "b c"=>NULL'""", '{"a": "1", "b c": null}'),
            ("vector(3)", "'[1,2.5,-3]'", [1, 2.5, -3]),
        ],
    )  # fmt: skip
    def test_are_canonical(
        self,
        reselector: Reselector,
        admin: psycopg.Connection,
        type_: str,
        literal: str,
        value: Any,
    ) -> None:
        admin.execute("drop table if exists valued")
        admin.execute(f"create table valued (id int primary key, v {type_})")  # type: ignore[arg-type]
        admin.execute(f"insert into valued values (1, {literal})")  # type: ignore[arg-type]
        reselector.close()
        found = reselector.select(table(), ("public", "valued"), row_key("1"), ["v"])
        assert found == {"v": value}
        assert found is not None
        assert type(found["v"]) is type(value)
        assert as_text(found["v"]) == as_text(value)  # == does not see 1.5 and 1.50 as different.

    def test_do_not_depend_on_the_roles_settings(
        self, postgres: Postgres, admin: psycopg.Connection
    ) -> None:
        admin.execute("create role odd superuser login password 'odd'")
        for setting in (
            "datestyle = 'German'",
            "bytea_output = 'escape'",
            "timezone = 'Asia/Tokyo'",
        ):
            admin.execute(f"alter role odd set {setting}")  # type: ignore[arg-type]
        admin.execute("create table set (id timestamptz primary key, b bytea, t date)")
        admin.execute("insert into set values ('2024-01-02T00:00:00Z', '\\x00ff', '2024-02-01')")
        odd = Reselector(section(f"{postgres.dsn} user=odd password=odd"))
        found = odd.select(table(), ("public", "set"), row_key("2024-01-02T00:00:00Z"), ["b", "t"])
        odd.close()
        assert found == {"b": b"\x00\xff", "t": Moment("date", 19_754)}

    def test_a_column_that_was_added_or_retyped_meanwhile_is_seen(
        self, reselector: Reselector, admin: psycopg.Connection
    ) -> None:
        admin.execute("create table altered (id int primary key, v text)")
        admin.execute("insert into altered values (1, '{1,2}')")
        ask = (table(), ("public", "altered"), row_key("1"))
        assert reselector.select(*ask, ["v"]) == {"v": "{1,2}"}
        admin.execute("alter table altered add w text default 'new'")
        assert reselector.select(*ask, ["w"]) == {"w": "new"}
        admin.execute("alter table altered alter v type int[] using v::int[]")
        with pytest.raises(RetriableError, match="altered"):
            reselector.select(*ask, ["v"])
        assert reselector.select(*ask, ["v"]) == {"v": [1, 2]}


class TestTables:
    def test_partitions_and_inheritance(
        self, reselector: Reselector, admin: psycopg.Connection
    ) -> None:
        admin.execute("create table parted (id int primary key, body text) partition by range (id)")
        admin.execute("create table parted_1 partition of parted for values from (0) to (10)")
        admin.execute("insert into parted values (1, 'here')")
        admin.execute("create table base (id int primary key, body text)")
        admin.execute("create table child () inherits (base)")
        admin.execute("insert into child values (1, 'another table')")
        ask = (row_key("1"), ["body"])
        assert reselector.select(table(), ("public", "parted"), *ask) == {"body": "here"}
        assert reselector.select(table(), ("public", "parted_1"), *ask) == {"body": "here"}
        assert reselector.select(table(), ("public", "base"), *ask) is None

    def test_what_is_not_there_stops_the_flow(
        self, reselector: Reselector, admin: psycopg.Connection
    ) -> None:
        admin.execute("create table lacking (id int primary key)")
        with pytest.raises(FatalError, match="no such table"):
            reselector.select(table(), ("public", "nowhere"), row_key("1"), ["body"])
        with pytest.raises(FatalError, match="no column 'body'"):
            reselector.select(table(), ("public", "lacking"), row_key("1"), ["body"])
        admin.execute("alter table lacking add body text")
        assert reselector.select(table(), ("public", "lacking"), row_key("1"), ["body"]) is None
        admin.execute("alter table lacking drop body")
        with pytest.raises(FatalError, match="body"):
            reselector.select(table(), ("public", "lacking"), row_key("1"), ["body"])

    def test_a_masked_key_is_not_taken_for_a_row_that_is_gone(self, reselector: Reselector) -> None:
        with pytest.raises(RecordError, match="masked"):
            reselector.select(
                table(masks={"id": "hmac"}), ("public", "texts"), row_key("00ff"), ["body"]
            )


class TestRowsThatAreNotThereYet:
    """Debezium can read a commit from the log before other sessions can see its rows."""

    ROW = (row_key("1"), ["body"])

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _tables(cls, admin: psycopg.Connection) -> None:
        for name in ("late", "other"):
            admin.execute(f"create table {name} (id int primary key, body text)")  # type: ignore[arg-type]
        admin.execute("create table lates (id int primary key, body text) partition by range (id)")
        admin.execute("create table lates_1 partition of lates for values from (0) to (10)")

    @pytest.fixture
    def writer(self, postgres: Postgres) -> Iterator[psycopg.Connection]:
        with postgres.connect() as connection:
            connection.autocommit = False
            yield connection
            connection.rollback()

    @pytest.mark.parametrize(
        ("written", "asked"),
        [("late", "late"), ("lates", "lates_1"), ("lates_1", "lates"), ("lates", "lates")],
    )
    def test_are_waited_for(
        self, postgres: Postgres, writer: psycopg.Connection, written: str, asked: str
    ) -> None:
        writer.execute(f"delete from {written}")  # type: ignore[arg-type]
        writer.commit()
        writer.execute(f"insert into {written} values (1, 'here')")  # type: ignore[arg-type]
        reselector = Reselector(section(postgres.dsn), wait=lambda _: writer.commit())
        assert reselector.select(table(), ("public", asked), *self.ROW) == {"body": "here"}
        reselector.close()

    def test_are_not_waited_for_where_nobody_writes(
        self, postgres: Postgres, writer: psycopg.Connection
    ) -> None:
        writer.execute("delete from late")
        writer.commit()
        writer.execute("insert into other values (1, 'in another table')")
        writer.execute("select * from late for update")
        pauses: list[float] = []
        reselector = Reselector(section(postgres.dsn), wait=pauses.append)
        assert reselector.select(table(), ("public", "late"), *self.ROW) is None
        assert pauses == []
        reselector.close()

    def test_are_not_waited_for_long(self, postgres: Postgres, writer: psycopg.Connection) -> None:
        writer.execute("delete from late")
        pauses: list[float] = []
        reselector = Reselector(section(postgres.dsn), wait=pauses.append)
        writer.execute("insert into late values (1, 'never committed')")
        assert reselector.select(table(), ("public", "late"), row_key("2"), ["body"]) is None
        assert 0.5 < sum(pauses) < 1
        reselector.close()

    def test_hold_up_nobody_who_writes_later(
        self, postgres: Postgres, writer: psycopg.Connection
    ) -> None:
        writer.execute("insert into late values (2, 'x')")
        pauses: list[float] = []

        def another(pause: float) -> None:
            pauses.append(pause)
            writer.commit()
            writer.execute("insert into late values (%s, 'x')", [len(pauses) + 2])

        reselector = Reselector(section(postgres.dsn), wait=another)
        assert reselector.select(table(), ("public", "late"), row_key("99"), ["body"]) is None
        assert len(pauses) == 1
        reselector.close()


class TestConnection:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _table(cls, admin: psycopg.Connection) -> None:
        admin.execute("create table one (id int primary key, body text)")
        admin.execute("insert into one values (1, 'x')")

    ASK = (table(), ("public", "one"), row_key("1"), ["body"])

    def test_is_named_read_only_and_kept(
        self, postgres: Postgres, admin: psycopg.Connection
    ) -> None:
        reselector = Reselector(section(postgres.dsn, statement_timeout_s=2.5))
        asked = "select pid, state from pg_stat_activity where application_name = 'rowvec'"
        before = set(admin.execute(asked).fetchall())
        reselector.select(*self.ASK)
        (first,) = set(admin.execute(asked).fetchall()) - before
        reselector.select(*self.ASK)
        assert set(admin.execute(asked).fetchall()) - before == {first}
        assert first[1] == "idle"  # No transaction was left open.
        settings = {
            name: reselector._connection.execute(f"show {name}").fetchone()[0]  # type: ignore[union-attr,index,arg-type]
            for name in ("transaction_read_only", "statement_timeout")
        }
        assert settings == {"transaction_read_only": "on", "statement_timeout": "2500ms"}
        reselector.close()

    def test_is_opened_again_after_it_was_lost(
        self, postgres: Postgres, admin: psycopg.Connection
    ) -> None:
        reselector = Reselector(section(f"{postgres.dsn} application_name=lost"))
        assert reselector.select(*self.ASK) == {"body": "x"}
        ended = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'lost'"
        assert admin.execute(ended).fetchall() == [(True,)]
        with pytest.raises(RetriableError):
            reselector.select(*self.ASK)
        assert reselector.select(*self.ASK) == {"body": "x"}
        reselector.close()

    def test_a_lock_is_waited_for_within_the_time_limit(
        self, postgres: Postgres, admin: psycopg.Connection
    ) -> None:
        reselector = Reselector(section(postgres.dsn, statement_timeout_s=0.2))
        with admin.transaction():
            admin.execute("lock table one in access exclusive mode")
            with pytest.raises(RetriableError, match="time limit"):
                reselector.select(*self.ASK)
        assert reselector.select(*self.ASK) == {"body": "x"}
        reselector.close()

    def test_a_frozen_server_is_not_waited_for_forever(
        self, postgres: Postgres, admin: psycopg.Connection
    ) -> None:
        reselector = Reselector(
            section(f"{postgres.dsn} application_name=frozen", statement_timeout_s=0.2)
        )
        reselector.select(*self.ASK)
        of = "select pid from pg_stat_activity where application_name = 'frozen'"
        ((pid,),) = admin.execute(of).fetchall()
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(RetriableError):
                reselector.select(*self.ASK)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert reselector.select(*self.ASK) == {"body": "x"}
        reselector.close()

    def test_is_shared_by_threads(self, postgres: Postgres, admin: psycopg.Connection) -> None:
        admin.execute(
            "create table shared as select n id, n::text body from generate_series(1, 200) n"
        )
        admin.execute("alter table shared add primary key (id)")
        reselector = Reselector(section(postgres.dsn))

        def body(number: int) -> Any:
            found = reselector.select(table(), ("public", "shared"), row_key(str(number)), ["body"])
            return found and found["body"]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(body, range(1, 201))) == [str(n) for n in range(1, 201)]
        reselector.close()

    def test_a_refused_permission_stops_the_flow(
        self, postgres: Postgres, admin: psycopg.Connection
    ) -> None:
        admin.execute("create role nosy login password 'nosy'")
        reselector = Reselector(section(f"{postgres.dsn} user=nosy password=nosy"))
        with pytest.raises(FatalError, match="permission denied for table one") as caught:
            reselector.select(*self.ASK)
        assert "SELECT" in caught.value.hint
        admin.execute("grant select on one to nosy")
        assert reselector.select(*self.ASK) == {"body": "x"}
        reselector.close()

    @pytest.mark.parametrize(
        ("wrong", "kind"),
        [
            ("password=hunter2hunter2", FatalError),
            ("password=hunter2hunter2 user=nobody", FatalError),
            ("dbname=nowhere", FatalError),
            ("sslmode=require", FatalError),
            ("port=1", RetriableError),
            ("host=no.such.host.invalid", RetriableError),
        ],
    )
    def test_one_that_cannot_be_made(
        self, postgres: Postgres, wrong: str, kind: type[RowvecError]
    ) -> None:
        dsn = f"{postgres.dsn} {wrong}"
        with pytest.raises(kind) as caught:
            Reselector(section(dsn)).select(*self.ASK)
        assert type(caught.value) is kind
        assert "[source]" in str(caught.value)
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        for secret in re.findall(r"password=(\S+)", dsn):
            assert secret not in told

    def test_a_stopped_server_is_only_away(self, tmp_path: Path) -> None:
        server = Postgres(tmp_path)
        try:
            server.start()
            with server.connect() as connection:
                connection.execute("create table one (id int primary key, body text)")
            reselector = Reselector(section(server.dsn))
            assert reselector.select(*self.ASK) is None
            server.stop()
            for _ in range(2):
                with pytest.raises(RetriableError):
                    reselector.select(*self.ASK)
            server.start()
            assert reselector.select(*self.ASK) is None
            reselector.close()
        finally:
            server.stop()

    def test_a_standby_is_not_believed(self, tmp_path: Path) -> None:
        (tmp_path / "first").mkdir(mode=0o711)
        first = Postgres(tmp_path / "first")
        try:
            first.start()
            with first.connect() as connection:
                connection.execute("create table one (id int primary key, body text)")
        finally:
            first.stop()
        subprocess.run(["cp", "-a", tmp_path / "first", tmp_path / "second"], check=True)
        (tmp_path / "second" / "data" / "standby.signal").touch()
        standby = Postgres(tmp_path / "second")
        try:
            standby.start()
            with pytest.raises(RetriableError, match="standby"):
                Reselector(section(standby.dsn)).select(*self.ASK)
            meant = Reselector(section(f"{standby.dsn} target_session_attrs=any"))
            assert meant.select(*self.ASK) is None
            meant.close()
        finally:
            standby.stop()
