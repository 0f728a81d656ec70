"""Checks of the replica identity against a real PostgreSQL, and that the suggested fix works."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flows.embedded.postgres import Postgres
from operators.contract.sections import SourceSection
from operators.contract.table import TableSection
from operators.postgres.reselect import Reselector

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("identity"))
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
    reselector = Reselector(SourceSection.model_validate({"dsn": postgres.dsn}))
    yield reselector
    reselector.close()


def table(*key: str, **more: Any) -> TableSection:
    names = key or ("id",)
    return TableSection(topic="app.public.t", collection="c", key=names, text="{body}", **more)


@pytest.mark.parametrize(
    ("made", "options", "problem"),
    [
        (["(id int primary key)"], {}, None),
        (["(id int primary key)", "replica identity full"], {}, None),
        (["(id int primary key)", "replica identity full"], {"key_from": "row"}, None),
        (["(id int)", "replica identity full"], {"key_from": "row"}, None),
        (["(id int, b int, primary key (b) include (id))"], {}, "primary key 'b', but `key` names 'id'"),
        (["(b int, id int, primary key (b, id))"], {}, "primary key 'b', 'id', but"),
        (["(id int)"], {}, "no primary key.*key_from = \"row\".*REPLICA IDENTITY FULL"),
        (["(id int)", "replica identity full"], {}, "no primary key.*key_from"),
        (["(id int)"], {"key_from": "row"}, "REPLICA IDENTITY FULL"),
        (["(id int primary key)"], {"key_from": "row"}, "REPLICA IDENTITY FULL"),
        (["(id int primary key)", "replica identity nothing"], {}, "NOTHING.*DEFAULT"),
        (["(id int unique not null)", "replica identity using index t_id_key"], {}, "USING INDEX.*FULL"),
        (["(id int primary key)", "replica identity using index t_pkey"], {}, "USING INDEX.*DEFAULT"),
        (["(id int primary key)", "replica identity using index t_pkey"], {"key_from": "row"}, "USING INDEX.*FULL"),
        (["(id int primary key deferrable)"], {}, "deferrable.*FULL"),
        (["(id int primary key deferrable)", "replica identity full"], {}, None),
        (["(b int primary key)"], {}, "no column 'id'"),
        (["(b int)", "replica identity full"], {"key_from": "row"}, "no column 'id'"),
    ],
)  # fmt: skip
def test_plain_tables(
    reselector: Reselector,
    admin: psycopg.Connection,
    made: list[str],
    options: dict[str, Any],
    problem: str | None,
) -> None:
    admin.execute("drop table if exists t")
    columns, *alterations = made
    admin.execute(f"create table t {columns}")  # type: ignore[arg-type]
    for alteration in alterations:
        admin.execute(f"alter table t {alteration}")  # type: ignore[arg-type]
    found = reselector.identity_problem(table(**options), ("public", "t"))
    if problem is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(problem, found), found
        assert "public.t" in found


def test_the_fix_that_it_names_is_one(reselector: Reselector, admin: psycopg.Connection) -> None:
    admin.execute('create table "My Log" (id int)')
    asked = (table(key_from="row"), ("public", "My Log"))
    found = reselector.identity_problem(*asked)
    assert found is not None
    admin.execute(found.partition("; ")[2])  # type: ignore[arg-type]
    assert reselector.identity_problem(*asked) is None


def test_the_order_of_the_key_is_the_contracts(
    reselector: Reselector, admin: psycopg.Connection
) -> None:
    admin.execute("create table ordered (a int, b int, c int, primary key (c, a))")
    assert reselector.identity_problem(table("a", "c"), ("public", "ordered")) is None


def test_every_partition_counts(reselector: Reselector, admin: psycopg.Connection) -> None:
    admin.execute("create table pt (id int primary key, body text) partition by range (id)")
    admin.execute("create table pt_1 partition of pt for values from (0) to (10)")
    admin.execute(
        "create table pt_2 partition of pt for values from (10) to (20) partition by range (id)"
    )
    admin.execute("create table pt_2_a partition of pt_2 for values from (10) to (20)")
    asked = (table(), ("public", "pt"))
    assert reselector.identity_problem(*asked) is None
    assert reselector.identity_problem(table(), ("public", "pt_1")) is None
    admin.execute("alter table pt_2_a replica identity using index pt_2_a_pkey")
    found = reselector.identity_problem(*asked)
    assert found is not None
    assert found.startswith("public.pt_2_a has REPLICA IDENTITY USING INDEX")
    assert reselector.identity_problem(table(), ("public", "pt_1")) is None
    # FULL on the parent does not apply to its partitions.
    admin.execute("alter table pt_2_a replica identity default")
    admin.execute("alter table pt replica identity full")
    found = reselector.identity_problem(table(key_from="row"), ("public", "pt"))
    assert found is not None
    assert "public.pt_1" in found


def test_what_is_no_logged_table(reselector: Reselector, admin: psycopg.Connection) -> None:
    admin.execute("create unlogged table fast (id int primary key)")
    admin.execute("create view seen as select 1 as id")
    for name, problem in (
        ("fast", "SET LOGGED"),
        ("seen", "no table"),
        ("nowhere", "is not in"),
    ):
        found = reselector.identity_problem(table(), ("public", name))
        assert found is not None
        assert problem in found


def test_what_messages_do_not_show(reselector: Reselector, admin: psycopg.Connection) -> None:
    admin.execute(
        "create table hidden (id int default 1, a text default 'x', b text not null default 'y', "
        "c text, d int generated always as (id * 2) stored, primary key (id))"
    )
    assert reselector.hidden(("public", "hidden")) == (False, False, ["a"])
    assert reselector.hidden(("public", "nowhere")) == (False, False, [])
    admin.execute("create table parts (id int primary key, body text) partition by range (id)")
    admin.execute("create table parts_1 partition of parts for values from (0) to (10)")
    parts, part = ("public", "parts"), ("public", "parts_1")
    assert reselector.hidden(parts)[:2] == (True, False)
    admin.execute("create publication by_leaf for table parts")
    assert reselector.hidden(parts)[:2] == (True, False)
    admin.execute(
        "create publication by_root for table parts with (publish_via_partition_root = true)"
    )
    assert reselector.hidden(parts)[:2] == (True, True)
    assert reselector.hidden(part)[:2] == (False, False)
