"""From a commit in PostgreSQL through Debezium and Kafka to Milvus: SQL and Milvus are equal.

To compare more rows with sentence-transformers, which takes minutes:
`ROWVEC_TEST_COSINE_ROWS=4000 pytest <this file>`.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest

from flows.embedded.connect import ConnectWorker
from flows.embedded.corpus import sample, stdlib
from flows.embedded.stack import Stack
from flows.embedded.verify import Difference, compare
from flows.settings import load_contract
from operators.contract.sections import Contract
from operators.contract.table import TableSection
from operators.milvus.store import MilvusStore
from operators.model.protocol import Embedder
from operators.model.transformer import TransformerEmbedder
from tests.integration.running import (
    PATIENCE_S,
    ROWVEC,
    Children,
    Process,
    quiet,
    rowvec,
    write_contract,
)

pytestmark = pytest.mark.integration

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
COSINE_ROWS = int(os.environ.get("ROWVEC_TEST_COSINE_ROWS", "200"))
SLOW = 900 if COSINE_ROWS <= 500 else 3_600

TABLES = ["public.docs", "public.notes", "public.pages"]
SCHEMA = """
create table docs(id bigint primary key, name text not null, doc text);
create table notes(
    owner text, topic text, body text not null, stars int, open boolean not null, extra jsonb,
    primary key (owner, topic));
create table pages(number int, lang text, body text not null, primary key (number, lang));
alter table docs replica identity full;
"""
HOSTILE = [
    "O'Brien",
    'say "hi"',
    "東京 🦆",
    "a,b",
    "a%2Cb",
    "back\\slash",
    "zz'] or id not in ['zz",
    "line\nbreak",
    " ",
    "",
    "#0",
    "{name}",
]


@dataclass(frozen=True)
class Way:
    """The running servers, and the contract of the flow."""

    stack: Stack
    contract: Contract
    directory: Path
    store: MilvusStore
    embedder: Embedder
    sql: psycopg.Connection

    def start_debezium(self) -> ConnectWorker:
        """Start Debezium; it resumes where it stopped."""
        return self.stack.start_connect(TABLES, topic_prefix="way")

    def table(self, name: str) -> TableSection:
        return next(table for table in self.contract.tables if table.name == name)

    def compare(self, name: str, vectors: int = 0) -> Difference:
        return compare(self.sql, self.table(name), self.store, self.embedder, vectors=vectors)

    def wait_equal(self, flow: Process, *names: str, seconds: float = PATIENCE_S) -> None:
        """Wait until SQL and Milvus are equal by full scan, including the vectors of a sample."""

        def equal() -> bool:
            return all(self.compare(name).equal for name in names)

        flow.wait_until(equal, seconds)
        for name in names:
            assert self.compare(name, vectors=32).equal


@pytest.fixture(scope="module")
def way(milvus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    directory = tmp_path_factory.mktemp("way")
    with Stack() as stack, stack.postgres.connect() as sql:
        sql.execute(SCHEMA)
        path = write_contract(
            directory / "rowvec.toml",
            kafka={
                "bootstrap_servers": stack.broker.bootstrap_servers,
                "librdkafka": {"fetch.wait.max.ms": 10},
            },
            milvus={"uri": milvus},
            embedding={"model": MINILM, "device": "cpu"},
            recovery={"directory": str(directory / "recovery"), "epoch_interval_s": 0.5},
            tables=[
                {
                    "topic": "way.public.docs",
                    "collection": "docs",
                    "key": ["id"],
                    "text": "{name}\n{doc}",
                },
                {
                    "topic": "way.public.notes",
                    "collection": "notes",
                    "key": ["owner", "topic"],
                    "text": "{topic}: {body}",
                    "columns": {"stars": "int64", "open": "bool", "extra": "json"},
                },
                {
                    "topic": "way.public.pages",
                    "collection": "pages",
                    "key": ["lang", "number"],  # Not the order in the table.
                    "text": "{body}",
                },
            ],
        )
        contract = load_contract(path)
        for table in contract.tables:
            stack.broker.create_topic(table.topic, 2)
        fill(sql)
        with closing(MilvusStore(contract.milvus)) as store:
            embedder = TransformerEmbedder(contract.embedding)
            yield Way(stack, contract, directory, store, embedder, sql)


def fill(sql: psycopg.Connection) -> None:
    """Insert the rows of the initial snapshot."""
    docs = sample(stdlib()[0], COSINE_ROWS)
    rows = [(number, doc.name, doc.doc) for number, doc in enumerate(docs)]
    with sql.cursor() as cursor:
        cursor.executemany("insert into docs values (%s, %s, %s)", rows)
        cursor.executemany(
            "insert into notes values (%s, %s, %s, %s, %s, %s)",
            [
                (owner, topic, f"{owner} on {topic}", i, i % 2 == 0, json.dumps({"by": [owner]}))
                for i, owner in enumerate(HOSTILE)
                for topic in ("x", HOSTILE[-1 - i])
            ],
        )
        cursor.executemany(
            "insert into pages values (%s, %s, %s)",
            [(i, lang, f"page {i} in {lang}") for i in range(20) for lang in ("de", "en")],
        )


@pytest.mark.timeout(SLOW)
def test_every_kind_of_change_and_every_kind_of_key(way: Way) -> None:
    with rowvec(way.directory, "run", "-c", way.directory / "rowvec.toml") as flow:
        worker = way.start_debezium()
        flow.wait_running()
        way.wait_equal(flow, "docs", "notes", "pages", seconds=SLOW)

        for owner in HOSTILE:
            way.sql.execute("update notes set body = 'changed' where owner = %s", (owner,))
        way.sql.execute("update notes set stars = null, open = true where topic = 'x'")
        way.sql.execute("update notes set extra = null where stars > 4")
        way.wait_equal(flow, "notes")

        for owner in HOSTILE[::2]:
            way.sql.execute("delete from notes where owner = %s and topic = 'x'", (owner,))
        way.sql.execute("update notes set owner = owner || ' moved' where topic <> 'x'")
        way.wait_equal(flow, "notes")

        with way.sql.transaction():
            way.sql.execute("update pages set body = body || '!'")
            way.sql.execute("update pages set body = body || '?' where lang = 'en'")
            way.sql.execute("delete from pages where number < 5")
            way.sql.execute("insert into pages values (3, 'en', 'back again'), (99, 'fr', 'neuf')")
            way.sql.execute("update pages set number = number + 1000 where lang = 'de'")
        with way.sql.transaction(force_rollback=True):
            way.sql.execute("delete from pages")
        way.wait_equal(flow, "pages")

        # Two interleaved transactions; the first to start commits last.
        with way.stack.postgres.connect() as other, way.sql.transaction():
            way.sql.execute("update docs set doc = 'first' where id < 10")
            with other.transaction():
                other.execute("update docs set doc = 'second' where id between 10 and 19")
            way.sql.execute("update docs set doc = null where id = 9")
            way.sql.execute("delete from docs where id = 8")
        way.wait_equal(flow, "docs")

        worker.stop()
        flow.send(signal.SIGTERM)
        assert flow.wait() == 0
    quiet(flow)
    assert flow.metrics()["rowvec.dead_letters"] == 0


def test_debezium_and_the_flow_killed_under_changes(way: Way) -> None:
    """Runs after the first test, from that test's checkpoint and connector offsets."""
    contract = way.directory / "rowvec.toml"
    worker = way.start_debezium()
    with rowvec(way.directory, "run", "-c", contract) as flow:
        flow.wait_running()
        for turn in range(60):
            way.sql.execute("update pages set body = %s where number %% 3 = 0", (f"turn {turn}",))
            way.sql.execute("delete from pages where number = 7 and lang = 'en'")
            way.sql.execute("insert into pages values (7, 'en', %s)", (f"made in {turn}",))
            if turn == 30:
                worker.kill()
            if turn == 40:
                flow.kill()
            time.sleep(0.01)
    way.start_debezium()
    with rowvec(way.directory, "run", "-c", contract) as flow:
        way.wait_equal(flow, "docs", "notes", "pages")
    assert flow.metrics()["rowvec.dead_letters"] == 0


@pytest.mark.timeout(SLOW)
def test_vectors_are_those_of_sentence_transformers(way: Way) -> None:
    from sentence_transformers import SentenceTransformer

    from operators.model.files import resolve_model

    rows = way.sql.execute("select id, name, coalesce(doc, '') from docs").fetchall()
    texts = {f"docs:{id_}#0": f"{name}\n{doc}" for id_, name, doc in rows}
    assert len(texts) == COSINE_ROWS - 1  # One row was deleted.
    stored = way.store.vectors("docs", list(texts))
    theirs = SentenceTransformer(str(resolve_model(MINILM)), device="cpu").encode(
        list(texts.values()), normalize_embeddings=True, show_progress_bar=False
    )
    ours = np.stack([stored[id_][1] for id_ in texts])
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1)
    print(f"{len(texts):,} rows: lowest cosine {cosines.min():.7f}, mean {cosines.mean():.7f}")
    assert cosines.min() >= 0.999


class TestDemo:
    def start(self, directory: Path) -> tuple[Process, Children]:
        (directory / "tmp").mkdir()
        env = {"TMPDIR": str(directory / "tmp")}
        demo = Process(directory, (*ROWVEC, "demo", "--rows", "150", "--json"), env)
        return demo, Children(demo.pid)

    def test_it_ends_with_equality_and_leaves_nothing(self, tmp_path: Path) -> None:
        demo, children = self.start(tmp_path)
        with demo:
            assert demo.wait() == 0, demo.stderr
        assert len(children) > 5
        assert children.left() == []
        assert list((tmp_path / "tmp").glob("rowvec*")) == []
        quiet(demo)
        summary = json.loads(demo.stdout)
        assert summary["equal"] is True
        assert summary["rows_compared"] >= 150
        assert len(summary["freshness_s"]) == 5

    @pytest.mark.parametrize("at", ["PostgreSQL", "Debezium"])
    def test_ctrl_c_leaves_nothing(self, at: str, tmp_path: Path) -> None:
        demo, children = self.start(tmp_path)
        with demo:
            demo.wait_until(lambda: at in demo.stderr)
            demo.send(signal.SIGINT)
            assert demo.wait() == 130, demo.stderr
        assert children.left() == []
        assert list((tmp_path / "tmp").glob("rowvec*")) == []
        quiet(demo)
        assert demo.stdout == ""
