"""Deletes as real transforms write them: Debezium, ExtractNewRecordState and ExtractField, the flow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.embedded.connect import ConnectWorker, postgres_connector
from flows.embedded.stack import Stack
from tests.integration.running import consume, everything, rowvec, write_contract

pytestmark = pytest.mark.integration

UNWRAP = {"transforms": "t", "transforms.t.type": "io.debezium.transforms.ExtractNewRecordState"}
AFTER = {
    "transforms": "t",
    "transforms.t.type": "org.apache.kafka.connect.transforms.ExtractField$Value",
    "transforms.t.field": "after",
}
FIELDS = {"transforms.t.add.fields": "op,lsn,source.sequence"}
NULLS = {"transforms.t.replace.null.with.default": "false"}

KINDS: dict[str, tuple[bool, dict[str, str], dict[str, Any]]] = {
    "plain": (False, UNWRAP | NULLS, {"shape": "unwrapped"}),
    "marked": (True, UNWRAP | FIELDS | NULLS, {}),
    "bare": (True, AFTER | NULLS, {"shape": "unwrapped"}),
}
"""Connector → whether it sends schemas, its transform, and what the contract says of its topic."""

CHANGES = """
insert into docs values (4, 'four', 'x', 'd', 'a'), (5, 'five', null, null, null);
update docs set title = 'one again' where id = 1;
delete from docs where id = 2;
update docs set id = 30 where id = 3;
delete from docs where id = 5;
"""


@pytest.fixture
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


def test_the_collection_is_what_sql_says(
    stack: Stack, milvus: str, tiny_model: Path, tmp_path: Path
) -> None:
    servers = stack.broker.bootstrap_servers
    with stack.postgres.connect() as sql:
        sql.execute(
            "create table docs (id int primary key, title text not null, note text default 'n/a', "
            "op text, after text)"
        )
        sql.execute(
            "insert into docs values (1, 'one', null, 'c', 'b'), (2, 'two', 'y', 'd', null), "
            "(3, 'three', null, null, 'd')"
        )
        worker = ConnectWorker(stack.directory / "connect", servers)
        try:
            connectors = {}
            for name, (schemas, transform, _) in KINDS.items():
                stack.broker.create_topic(f"{name}.public.docs", 1)
                connectors[name] = postgres_connector(
                    stack.postgres.dsn,
                    topic_prefix=name,
                    tables=["public.docs"],
                    partitions=1,
                    schemas_enable=schemas,
                    **transform,
                )
            worker.start(connectors)
            worker.wait_running()
            for name in KINDS:
                consume(servers, f"{name}.public.docs", 3)  # the initial snapshot
            sql.execute(CHANGES.encode())
            for name in KINDS:
                # Three inserts and updates, and a key change and two deletes, of a message or two each.
                consume(servers, f"{name}.public.docs", 10 if name != "bare" else 13)
        finally:
            worker.stop()
        expected = {
            f"docs:{id_}#0": (title, note, op)
            for id_, title, note, op in sql.execute("select id, title, note, op from docs")
        }
    write_contract(
        tmp_path / "rowvec.toml",
        kafka={"bootstrap_servers": servers, "librdkafka": {"fetch.wait.max.ms": 10}},
        milvus={"uri": milvus, "request_timeout_s": 10, "lease_s": 30},
        embedding={"model": str(tiny_model), "device": "cpu"},
        recovery={"directory": str(tmp_path / "recovery"), "epoch_interval_s": 0.5},
        tables=[
            {
                "topic": f"{name}.public.docs",
                "name": "docs" if name == "plain" else f"{name}_docs",
                "collection": name,
                "key": ["id"],
                "text": "{title}",
                "columns": {"note": "varchar", "op": {"type": "varchar", "field": "column_op"}},
                **said,
            }
            for name, (_, _, said) in KINDS.items()
        ],
    )
    with rowvec(tmp_path, "run", "--exit-at-end") as process:
        assert process.wait() == 0, process.stderr
    for name in KINDS:
        found = {
            id_.replace(f"{name}_docs", "docs"): (row["text"], row["note"], row["column_op"])
            for id_, row in everything(milvus, name).items()
        }
        assert found == expected, name
