"""What `rowvec check` refuses or warns of, `rowvec run` refuses or warns of: one exit code, one message.

More refused configurations are in `test_bad_input`; `running.refused` runs both commands in each.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pymilvus import MilvusClient

from flows.embedded.broker import Broker
from operators.milvus.store import MilvusStore
from tests.changes import doc, envelope, key, put, source
from tests.integration.running import (
    docs_contract,
    open_store,
    produce,
    quiet,
    refused,
    rowvec,
    run_to_end,
)

pytestmark = pytest.mark.integration

SHARED = "shared"
"""A topic with a row, for what has nothing to do with the topic."""

Record = tuple[bytes | None, bytes | None]


class Servers(NamedTuple):
    """The servers and the model of all tests here."""

    broker: Broker
    milvus: str
    store: MilvusStore
    model: Path

    def records(self, topic: str, records: Iterable[Record]) -> None:
        self.broker.create_topic(topic, 1)
        produce(self.broker.bootstrap_servers, topic, [(0, *each) for each in records])


@pytest.fixture(scope="module")
def servers(broker: Broker, milvus: str, tiny_model: Path) -> Iterator[Servers]:
    with closing(open_store(milvus)) as store:
        servers = Servers(broker, milvus, store, tiny_model)
        servers.records(SHARED, [put(1, 1)])
        yield servers


class Refused(NamedTuple):
    """A configuration that is refused.

    Attributes:
        says: What the usual contract says otherwise; a function of the directory if it names a path in it.
        parts: Parts of the message.
        records: Records of the table's topic; None if they do not matter.
        prepare: Prepares the directory, or Milvus, for a collection with the name of the directory.
        env: Environment variables.
        code: The exit code, where it is not that of all of its kind.
    """

    says: Mapping[str, Any] | Callable[[Path], Mapping[str, Any]]
    parts: tuple[str, ...]
    records: tuple[Record, ...] | None = None
    prepare: Callable[[Path, Servers], None] = lambda *_: None
    env: Mapping[str, str] = {}
    code: int = 1


def changed(says: Mapping[str, Any] | Callable[[Path], Mapping[str, Any]], here: Path) -> Any:
    return says(here) if callable(says) else says


def table(**says: Any) -> dict[str, Any]:
    return {"table": says}


def columns(**types: Any) -> dict[str, Any]:
    return table(columns=types)


def client(**options: Any) -> dict[str, Any]:
    return {"kafka": {"librdkafka": options}}


# Of the contract and the environment alone: exit code 2.

CONTRACT = {
    "field-name": Refused(
        table(columns={"unit-price": "int64"}),
        ("tables[0]: columns: 'unit-price' is no name for a field", 'field = "unit_price"'),
    ),
    "field-word": Refused(
        table(columns={"in": "int64"}), ("'in' is a word of Milvus's filter language",)
    ),
    "field-of-milvus": Refused(
        columns(Timestamp="int64"), ("'Timestamp' is a field of Milvus's own",)
    ),
    "many-columns": Refused(
        columns(**{f"c{n}": "int64" for n in range(47)}), ("47 are more than the 46",)
    ),
    "scalars": Refused(
        columns(size={"type": "int64", "scalars": "wrap"}),
        ("only a column of type json has `scalars`",),
    ),
    "hmac-key": Refused(table(masks={"name": "hmac"}), ("needs hmac_key in [masking]",)),
    "format": Refused(table(format="avro"), ("needs url in [schema_registry]",)),
    "lease": Refused({"milvus": {"lease_s": 20}}, ("three times request_timeout_s",)),
    "port": Refused(
        {"milvus": {"uri": "http://milvus:port"}},
        ("milvus.uri: 'http://milvus:port' is neither http(s)://host:port nor a path",),
    ),
    "proxy": Refused({}, ("http_proxy: it is no address",), env={"http_proxy": "http://u:p/w@x"}),
    "secrets": Refused({}, ("ROWVEC_SECRETS_DIR",), env={"ROWVEC_SECRETS_DIR": "/nowhere"}),
    "accept": Refused(
        {}, ("ROWVEC_ACCEPT: 'all' is unknown", "lost-state"), env={"ROWVEC_ACCEPT": "all"}
    ),
    "heartbeat": Refused(
        {},
        ("ROWVEC_HEARTBEAT_FILE: '/nowhere' is no directory",),
        env={"ROWVEC_HEARTBEAT_FILE": "/nowhere/beat"},
    ),
    "hosts": Refused(
        {},
        ("BYTEWAX_HOSTFILE_PATH: cannot be read",),
        env={"BYTEWAX_HOSTFILE_PATH": "/nowhere/hosts"},
    ),
    "otel-protocol": Refused(
        {},
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: 'grpc' is not supported", "http/protobuf"),
        env={
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        },
    ),
}


# Of the recovery directory and of Kafka's clients.


def recovery_in(parent: str) -> Callable[[Path], dict[str, Any]]:
    return lambda here: {"recovery": {"directory": str(here / parent / "recovery")}}


def open_parent(here: Path, _: Servers) -> None:
    (here / "open").mkdir()
    (here / "open").chmod(0o777)


def lock_link(here: Path, _: Servers) -> None:
    (here / "recovery").mkdir(mode=0o700)
    (here / "recovery" / "rowvec.lock.0").symlink_to("elsewhere")


def no_directory(here: Path, _: Servers) -> None:
    (here / "recovery").touch()


def damaged(here: Path, _: Servers) -> None:
    (here / "recovery").mkdir(mode=0o700)
    (here / "recovery" / "part-0.sqlite3").write_bytes(b"no database" * 1000)


def no_certificate(here: Path, _: Servers) -> None:
    (here / "ca.pem").write_text("no certificate", "utf-8")


SURROUNDINGS = {
    "registry-authority": Refused(
        {"schema_registry": {"url": "https://127.0.0.1:9", "ca_file": "/nowhere/ca.pem"}},
        ("ca_file in [schema_registry]: it cannot be used",),
        code=2,
    ),
    "dsn": Refused(
        {"source": {"dsn": "p/w@db"}},
        ("dsn in [source]: it is no connection string", "postgresql://user:password@host:5432/"),
        code=2,
    ),
    "open-parent": Refused(
        recovery_in("open"), ("anyone can replace it", "chmod o-w"), prepare=open_parent
    ),
    "lock-link": Refused(
        {}, ("rowvec.lock.0: the lock file is a symbolic link",), prepare=lock_link
    ),
    "no-directory": Refused({}, ("recovery: it is no directory",), prepare=no_directory),
    "damaged": Refused(
        {}, ("part-0.sqlite3: it is damaged", "--accept-lost-state"), prepare=damaged
    ),
    "not-to-be-made": Refused(
        {"recovery": {"directory": "/proc/rowvec/recovery"}}, ("it cannot be created",)
    ),
    "commits": Refused(
        client(**{"enable.auto.commit": True}),
        ('"enable.auto.commit" in [kafka.librdkafka]: may not be set', "recovery files"),
    ),
    "range": Refused(
        client(**{"fetch.wait.max.ms": 1_000_000_000}),
        ('"fetch.wait.max.ms" in [kafka.librdkafka]: the Kafka client refuses it', "range"),
    ),
    "authority": Refused(
        lambda here: {"kafka": {"security_protocol": "SSL", "ca_file": str(here / "ca.pem")}},
        ("ca_file in [kafka]: the Kafka client refuses it: ssl.ca.location failed",),
        prepare=no_certificate,
    ),
    "unused-user": Refused(
        {"kafka": {"username": "rowvec"}},
        ("username in [kafka]: is set, and security_protocol is PLAINTEXT",),
    ),
    "no-user": Refused(
        {"kafka": {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}},
        ("password in [kafka]: the Kafka client refuses it", "sasl.username"),
    ),
}


# Of the records.


def raw(**values: Any) -> bytes:
    return json.dumps(values).encode()


RECORDS = {
    "tombstone": Refused(
        table(key_from="row"),
        ("a tombstone names its row by it alone", "no column 'id' but 'region'"),
        records=((key(region="eu"), raw(**doc(1), __op="c")), (key(region="eu"), None)),
    ),
    "envelope": Refused(
        table(shape="unwrapped"),
        ('value: it is an envelope, but the contract says shape = "unwrapped"',),
        records=(put(1, 1),),
    ),
    "envelope-or-row": Refused(
        {},
        ("it could be Debezium's envelope, and a row",),
        records=((key(id=1), envelope("c", 1, doc(1), id=1, name="a", doc="b", kind="c", size=1)),),
    ),
    "cloud-event": Refused(
        {},
        ("value: it is a CloudEvent, and no Debezium envelope",),
        records=((key(id=1), raw(specversion="1.0", id="x", type="y", source="/z", data={})),),
    ),
    "no-connector": Refused(
        {},
        ("whose `source` names no connector",),
        records=((key(id=1), raw(before=None, after=doc(1), op="c", source={})),),
    ),
    "bare-key": Refused(
        {},
        ("it is a number, not an object with the key's columns",),
        records=((b"7", envelope("c", 1, doc(7))),),
    ),
    "null-sequence": Refused(
        {},
        ("where it lies in the database's log are null", "'sequence'"),
        records=((key(id=1), raw(**doc(1), __op="c", __source_sequence=None)),),
    ),
}


# Of Milvus, the model, and the collections.

MILVUS = {
    "address": Refused(
        {"milvus": {"uri": "localhost:19530"}}, ("is an address without http:// in front of it",)
    ),
    "address-6": Refused(
        {"milvus": {"uri": "http://[::1]:19530"}}, ("has the IPv6 address ::1", "name in the DNS")
    ),
    "databases": Refused(
        {"milvus": {"uri": "http://127.0.0.1:19530/one", "database": "two"}},
        ("names the database 'one', and milvus.database another one",),
    ),
    "path": Refused({"milvus": {"uri": "  "}}, ("milvus.uri: is no path to a directory",)),
    "milvus-authority": Refused(
        lambda here: {"milvus": {"uri": "https://milvus:19530", "ca_file": str(here / "ca.pem")}},
        ("milvus.ca_file", "holds no certificate that can be read"),
        prepare=no_certificate,
    ),
    "no-database": Refused({"milvus": {"database": "nodb"}}, ("database", "milvus.database")),
}


def model_with(**config: Any) -> Callable[[Path, Servers], None]:
    def prepare(here: Path, servers: Servers) -> None:
        shutil.copytree(servers.model, here / "model")
        file = here / "model" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | config), "utf-8")

    return prepare


def own_model(here: Path) -> dict[str, Any]:
    return {"embedding": {"model": str(here / "model")}}


def of_others(here: Path, servers: Servers) -> None:
    with closing(MilvusClient(servers.milvus, dedicated=True)) as client:
        client.create_collection(here.name, dimension=32)


COLLECTIONS = {
    "long-prompt": Refused(
        {"embedding": {"document_prompt": "word " * 60}}, ("nothing of a text is left",)
    ),
    "own-code": Refused(
        own_model,
        ("needs code of its own (auto_map in config.json: modeling_x.X)",),
        prepare=model_with(auto_map={"AutoModel": "modeling_x.X"}),
    ),
    "of-others": Refused({}, ("collection '",), prepare=of_others),
}


def each_of(*rows: Mapping[str, Refused]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "row", [pytest.param(row, id=name) for some in rows for name, row in some.items()]
    )


@each_of(CONTRACT)
def test_what_the_contract_or_the_environment_says_is_refused(
    row: Refused, servers: Servers, tmp_path: Path
) -> None:
    says = changed(row.says, tmp_path)
    docs_contract(tmp_path, servers.broker, servers.milvus, "/nowhere/model", **says)
    message = refused(tmp_path, 2, *row.parts, env=row.env)
    assert "p/w" not in message
    assert servers.store.find(tmp_path.name) is None


@each_of(SURROUNDINGS, RECORDS, MILVUS)
def test_what_is_found_before_the_model_is_refused(
    row: Refused, servers: Servers, tmp_path: Path
) -> None:
    says = dict(changed(row.says, tmp_path))
    if row.records is None:
        says["table"] = {"topic": SHARED, **says.get("table", {})}
    else:
        servers.records(tmp_path.name, row.records)
    row.prepare(tmp_path, servers)
    docs_contract(tmp_path, servers.broker, servers.milvus, "/nowhere/model", **says)
    message = refused(tmp_path, row.code, *row.parts)
    assert "p/w" not in message
    assert servers.store.find(tmp_path.name) is None


@each_of(COLLECTIONS)
def test_what_the_model_or_a_collection_is_like_is_refused(
    row: Refused, servers: Servers, tmp_path: Path
) -> None:
    row.prepare(tmp_path, servers)
    before = servers.store.find(tmp_path.name)
    rows = None if before is None else servers.store.count(tmp_path.name)
    says = dict(changed(row.says, tmp_path))
    says["table"] = {"topic": SHARED, **says.get("table", {})}
    docs_contract(tmp_path, servers.broker, servers.milvus, servers.model, **says)
    refused(tmp_path, 1, *row.parts)
    assert servers.store.find(tmp_path.name) == before
    assert rows is None or servers.store.count(tmp_path.name) == rows


def test_a_contract_that_was_refused_leaves_nothing_that_the_right_one_would_meet(
    servers: Servers, tmp_path: Path
) -> None:
    for changed, code in ({"summary": "varchar"}, 1), ({"size": "int64"}, 0):
        says = {"topic": SHARED, "columns": changed}
        docs_contract(tmp_path, servers.broker, servers.milvus, servers.model, table=says)
        with rowvec(tmp_path, "check") as check:
            assert check.wait() == code, check.stdout + check.stderr


@pytest.fixture(scope="module")
def filled(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a contract whose collection is filled."""
    here = tmp_path_factory.mktemp("filled")
    docs_contract(here, servers.broker, servers.milvus, servers.model, table={"topic": SHARED})
    run_to_end(here)
    return here


@pytest.mark.parametrize(
    ("says", "parts"),
    [
        ({"columns": {"kind": "varchar"}}, ("collection '{collection}'", "size")),
        ({"text": "{doc}"}, ("says something else of docs", "--accept-other-contract")),
    ],
    ids=["field", "text"],
)
def test_another_contract_than_the_one_that_filled_the_collection_is_refused(
    says: dict[str, Any], parts: tuple[str, ...], servers: Servers, filled: Path
) -> None:
    says = {"topic": SHARED, **says}
    docs_contract(filled, servers.broker, servers.milvus, servers.model, table=says)
    refused(filled, 1, *(part.format(collection=filled.name) for part in parts))
    assert servers.store.count(filled.name) == 1


def test_check_accepts_what_a_variable_accepts_for_a_start(servers: Servers, filled: Path) -> None:
    says = {"text": "{doc}", "topic": SHARED}
    docs_contract(filled, servers.broker, servers.milvus, servers.model, table=says)
    env = {"ROWVEC_ACCEPT": "other-contract"}
    for command in (["check"], ["run", "--exit-at-end"]):
        with rowvec(filled, *command, env=env) as process:
            assert process.wait() == 0, process.stdout + process.stderr
        assert process.stderr.count("Accepted: the flow") == 1


def test_a_collection_that_forgets_its_rows_is_refused(servers: Servers, filled: Path) -> None:
    """The last test of `filled`, which it changes."""
    with closing(MilvusClient(servers.milvus, dedicated=True)) as client:
        client.alter_collection_properties(filled.name, {"collection.ttl.seconds": "3600"})
    refused(filled, 1, f"collection '{filled.name}': drops each row after 3600 seconds")


def of_table(id_: int, name: str) -> Record:
    where = source(id_, db="app", schema="public", table=name)
    return key(id=id_), raw(before=None, after=doc(id_), op="c", source=where)


WARNINGS = {
    "registry": ("the password of [schema_registry] goes to http://r.invalid without TLS",),
    "tables": ("has changes of several tables", "`source_tables`"),
    "model": ("are trained with a prompt", 'document_prompt = "passage: "'),
}
"""Parts of each warning, by the check that finds it; see `test_warnings` for more of them."""


def test_both_warn_in_the_same_words(servers: Servers, tmp_path: Path) -> None:
    servers.records(tmp_path.name, [of_table(1, "docs"), of_table(2, "notes")])
    model = Path(shutil.copytree(servers.model, tmp_path / "multilingual-e5-small"))
    registry = {"url": "http://r.invalid", "username": "u", "password": "p/w"}
    docs_contract(tmp_path, servers.broker, servers.milvus, model, schema_registry=registry)
    with rowvec(tmp_path, "check") as check:
        assert check.wait() == 0, check.stdout + check.stderr
    lines = [line.split(maxsplit=2) for line in check.stdout.splitlines() if line[:2] == "! "]
    assert [name for _, name, _ in lines] == list(WARNINGS)
    with rowvec(tmp_path, "run", "--exit-at-end") as run:
        assert run.wait() == 0, run.stderr
    quiet(run)
    logged = run.stderr.partition(" Running\n")[0].splitlines()
    told = [line.partition(" WARNING ")[2] for line in logged if " WARNING " in line]
    texts = [text for _, _, text in lines]
    assert [each for each in told if each in texts] == texts
    for text, parts in zip(texts, WARNINGS.values(), strict=True):
        assert all(part in text for part in parts)
    assert "p/w" not in check.stdout + run.stderr
