"""The contract: what it accepts, and the error messages for what it does not."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.settings import (
    DEFAULT_CONTRACT,
    cluster_from,
    contract_from,
    load_contract,
    process_from_env,
)
from operators.contract.field_names import MAX_COLUMNS, MAX_FIELDS
from operators.contract.sections import Contract, KafkaSection
from operators.contract.table import PROVENANCE_PREFIX, RESERVED_FIELDS
from operators.errors import ContractError, FatalError
from operators.milvus.schema import collection_shape, mirrored
from operators.store.protocol import CollectionSpec
from tests.changes import table

SECRET = "s3cr3t-pa55"

GOOD = """
[kafka]
bootstrap_servers = "kafka:9092"

[milvus]
uri = "http://milvus:19530"

[embedding]
model = "sentence-transformers/all-MiniLM-L6-v2"

[[tables]]
topic = "app.public.docs"
collection = "docs"
key = ["id"]
text = "{title}\\n{Full Name}"

[tables.columns]
kind = "varchar"
size = { type = "int64", field = "bytes" }
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("ROWVEC_", "OTEL_", "BYTEWAX_")):
            monkeypatch.delenv(name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rowvec.toml"
    path.write_text(GOOD, "utf-8")
    return path


def data(**sections: Any) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap_servers": "kafka:9092"},
        "milvus": {"uri": "http://milvus:19530"},
        "embedding": {"model": "m"},
        "tables": [tables("docs")],
        **sections,
    }


def tables(of: str, /, **more: Any) -> dict[str, Any]:
    return {
        "topic": f"app.public.{of}",
        "collection": of,
        "key": ["id"],
        "text": "{title}",
        **more,
    }


def problems(**sections: Any) -> str:
    with pytest.raises(ContractError) as caught:
        contract_from(data(**sections), "rowvec.toml")
    assert caught.value.subject == "rowvec.toml"
    return str(caught.value)


def lines(message: str) -> Iterator[str]:
    return (line[4:] for line in message.splitlines() if line.startswith("  - "))


# What is accepted.


def test_a_good_contract(path):
    contract = load_contract(path)
    (one,) = contract.tables
    assert (one.topic, one.name, one.collection, one.key) == (
        "app.public.docs",
        "docs",
        "docs",
        ("id",),
    )
    assert one.template_columns() == ("title", "Full Name")
    assert one.fields() == {"kind": "kind", "size": "bytes"}
    assert one.columns["kind"].type == "varchar"
    assert (one.metric, one.generation) == ("COSINE", 0)
    assert contract.kafka.dead_letter_topic == "rowvec.dead-letters"
    assert contract.recovery.directory == Path(".rowvec/recovery")
    assert contract.flow.horizon_s == 3_600
    assert isinstance(contract, Contract)


def test_it_does_not_change_any_more(path):
    contract = load_contract(path)
    with pytest.raises(ValidationError):
        contract.kafka = KafkaSection(bootstrap_servers="x")  # type: ignore[misc]
    with pytest.raises(ValidationError):
        contract.kafka.bootstrap_servers = "x"  # type: ignore[misc]


def test_a_table_may_have_a_name_of_its_own():
    contract = contract_from(data(tables=[tables("docs", name="pages")]), "x")
    assert contract.tables[0].name == "pages"


# What is refused: all problems are reported at once, each with its key and fix.


def test_every_problem_is_told_at_once():
    message = problems(
        kafka={"bootstrap_server": "kafka:9092"},
        milvus={"uri": "", "write_lanes": 0},
        embedding={"model": "m", "device": "gpu"},
        flow={"window_ms": "soon"},
        tables=[tables("docs", text="no column", keys=["id"]), tables("pages", key=[])],
    )
    found = dict(line.split(": ", 1) for line in lines(message))
    assert message.startswith("rowvec.toml: 9 problems")
    assert message.endswith("Nothing was started.")
    assert found == {
        "kafka.bootstrap_servers": "is missing; add it, or set ROWVEC_KAFKA__BOOTSTRAP_SERVERS",
        "kafka.bootstrap_server": "is no key of the contract; did you mean `bootstrap_servers`?",
        "milvus.uri": "string should have at least 1 character",
        "milvus.write_lanes": "input should be greater than or equal to 1",
        "embedding.device": r"does not look as it must (^(auto|cpu|cuda(:\d+)?)$)",
        "flow.window_ms": "input should be a valid integer, unable to parse string as an integer",
        "tables[0].text": 'names no column; write the columns to embed in braces, like "{title}"',
        "tables[0].keys": "is no key of the contract; did you mean `key`?",
        "tables[1].key": "must not be empty",
    }


def test_an_empty_contract():
    with pytest.raises(ContractError) as caught:
        contract_from({}, "x")
    assert [line.split(":")[0] for line in lines(str(caught.value))] == [
        "kafka",
        "milvus",
        "embedding",
        "tables",
    ]
    assert "set ROWVEC_KAFKA" in str(caught.value)


def test_no_tables():
    assert list(lines(problems(tables=[]))) == ["tables: must not be empty"]


def test_one_problem_is_one_problem():
    assert problems(tables=[tables("docs", metric="DOT")]).startswith("rowvec.toml: 1 problem\n")


@pytest.mark.parametrize(
    ("sections", "key", "hint"),
    [
        ({"kafak": {}}, "kafak", "did you mean `kafka`?"),
        ({"zzz": 1}, "zzz", "there are kafka, milvus, embedding, recovery, flow, "),
        ({"flow": {"windows_ms": 1}}, "flow.windows_ms", "did you mean `window_ms`?"),
        ({"recovery": {"dir": "x"}}, "recovery.dir", "directory"),
        ({"tables": [tables("d", topics="x")]}, "tables[0].topics", "did you mean `topic`?"),
        (
            {"tables": [tables("d", columns={"a": {"type": "int64", "maxlength": 1}})]},
            "tables[0].columns.a.maxlength",
            "did you mean `max_length`?",
        ),
    ],
)
def test_an_unknown_key_is_told_with_what_was_meant(sections, key, hint):
    (line,) = lines(problems(**sections))
    assert line.startswith(f"{key}: is no key of the contract; ")
    assert hint in line


def test_a_table_has_no_variables_to_point_to():
    # A variable can only set all tables at once: advice to set one table's key would not work.
    missing = {"topic": "app.public.docs", "collection": "docs", "text": "{a}"}
    (line,) = lines(problems(tables=[missing]))
    assert line == "tables[0].key: is missing; add it"
    (line,) = lines(problems(tables=[tables("d", columns={"a": {"max_length": 1}})]))
    assert line == "tables[0].columns.a.type: is missing; add it"


def test_a_type_that_is_none():
    (line,) = lines(problems(tables=[tables("d", columns={"a": "text"})]))
    assert line.startswith("tables[0].columns.a.type: ")
    assert "'varchar'" in line


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a b", "a.b", "ä", "x" * 256, "a;drop"])
def test_a_collection_that_milvus_would_not_take(name):
    (line,) = lines(problems(tables=[tables("docs", collection=name)]))
    assert line.startswith("tables[0].collection: ")


def test_sasl_needs_its_mechanism():
    (line,) = lines(problems(kafka={"bootstrap_servers": "k", "security_protocol": "SASL_SSL"}))
    assert line == "kafka: security_protocol SASL_SSL needs sasl_mechanism"


# Templates.


@pytest.mark.parametrize(
    ("template", "columns"),
    [
        ("{title}", ("title",)),
        ("{Full Name}", ("Full Name",)),
        ("{a}{b} {a}", ("a", "b")),
        ("{{literal}} {a}", ("a",)),
        ("}} {a} {{", ("a",)),
        ("{größe} {漢字}", ("größe", "漢字")),
        ("{a-b} {$x}", ("a-b", "$x")),
    ],
)
def test_a_template(template, columns):
    assert table(text=template).template_columns() == columns


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{a!r}", "'{a!r}' is not a plain column name"),
        ("{a:>3}", "'{a:>3}' is not a plain column name"),
        ("{a!s:{b}}", "'{a!s:{b}}' is not a plain column name"),
        ("{}", "'{}' is not a plain column name"),
        ("{a} {}", "'{}' is not a plain column name"),
        ("{a", "not a template"),
        ("a}", "not a template"),
        ("{a}}", "not a template"),
        ("{{a}", "not a template"),
        ("{a{b}}", "not a template"),
        ("", "names no column"),
        ("plain", "names no column"),
        ("{{a}}", "names no column"),
    ],
)
def test_a_template_that_is_refused(template, says):
    (line,) = lines(problems(tables=[tables("docs", text=template)]))
    assert line.startswith("tables[0].text: ")
    assert says in line


# Fields.


@pytest.mark.parametrize("field", ["id", "vector", "text", "rv_version", "rv_", "rv_mine"])
def test_a_field_of_rowvecs_own(field):
    (line,) = lines(problems(tables=[tables("docs", columns={field: "varchar"})]))
    assert f"'{field}' is a field of Rowvec's own" in line
    renamed = {field: {"type": "varchar", "field": f"docs_{field}"}}
    assert f'field = "docs_{field}"' in line
    # The fix that the message names works.
    contract = contract_from(data(tables=[tables("docs", columns=renamed)]), "x")
    assert contract.tables[0].fields() == {field: f"docs_{field}"}


def test_the_reserved_names_are_those_of_every_collection():
    shape = collection_shape(CollectionSpec("c", {}, 8, "COSINE", "m"))
    assert mirrored(list(shape.fields)) == []
    own = {name for name in shape.fields if not name.startswith(PROVENANCE_PREFIX)}
    assert own == RESERVED_FIELDS


def test_a_renamed_column_may_not_take_a_reserved_name():
    columns = {"body": {"type": "varchar", "field": "text"}}
    assert "'text' is a field of Rowvec's own" in problems(tables=[tables("d", columns=columns)])


UNNAMEABLE = [
    ("unit-price", "unit_price"),
    ("größe", "gro_e"),
    ("Prénom", "Prenom"),
    ("2fa", "_2fa"),
    ("a b.c", "a_b_c"),
    ("価格", "column"),
    ("x" * 256, "x" * 200),
    ("$meta", "_meta"),
    ("new\nline", "new_line"),
    ("Timestamp", "Timestamp_"),
    ("RowID", "RowID_"),
    ("_seq", "_seq_"),
    ("in", "in_"),
    ("LIKE", "LIKE_"),
    ("null", "null_"),
    ("Interval", "Interval_"),
]


@pytest.mark.parametrize(("column", "field"), UNNAMEABLE, ids=lambda name: name[:10])
def test_a_column_whose_name_no_field_can_have(column: str, field: str):
    (line,) = lines(problems(tables=[tables("docs", columns={column: "int64"})]))
    shown = column[:100].replace("\n", "\\n")
    assert f'"{shown}" = {{ type = "int64", field = "{field}" }}' in line
    # The fix that the message names works.
    renamed = {column: {"type": "int64", "field": field}}
    assert contract_from(data(tables=[tables("docs", columns=renamed)]), "x")


def test_all_names_are_told_at_once_and_the_names_that_are_suggested_are_free():
    columns = {"a-b": "int64", "a_b": "int64", "a.b": "varchar", "text": "varchar"}
    (line,) = lines(problems(tables=[tables("docs", columns=columns)]))
    assert '"a-b" = { type = "int64", field = "a_b_" }' in line
    assert '"a.b" = { type = "varchar", field = "a_b_" }' in line
    assert '"text" = { type = "varchar", field = "docs_text" }' in line


@pytest.mark.parametrize("name", ["_x", "Id", "timestamp", "rowid", "order", "x" * 255])
def test_names_that_a_field_can_have(name: str):
    assert contract_from(data(tables=[tables("docs", columns={name: "int64"})]), "x")


def test_more_columns_than_a_collection_has_fields():
    columns = {f"c{number}": "int64" for number in range(MAX_COLUMNS)}
    contract = contract_from(data(tables=[tables("docs", columns=columns)]), "x")
    spec = CollectionSpec("docs", contract.tables[0].columns, 8, "COSINE", "m")
    assert len(collection_shape(spec).fields) == MAX_FIELDS == 64
    (line,) = lines(problems(tables=[tables("docs", columns={**columns, "more": "int64"})]))
    assert "47 are more than the 46 that a collection takes" in line


def test_two_columns_in_one_field():
    columns = {"a": {"type": "int64", "field": "x"}, "b": {"type": "int64", "field": "x"}}
    assert "two columns share the field 'x'" in problems(tables=[tables("d", columns=columns)])
    columns = {"x": {"type": "int64"}, "b": {"type": "int64", "field": "x"}}
    assert "two columns share the field 'x'" in problems(tables=[tables("d", columns=columns)])


def test_scalars_of_a_column_that_is_no_json():
    columns = {"x": {"type": "int64", "scalars": "wrap"}}
    assert "only a column of type json has `scalars`" in problems(
        tables=[tables("d", columns=columns)]
    )


def test_a_key_column_twice():
    (line,) = lines(problems(tables=[tables("docs", key=["a", "a"])]))
    assert line == "tables[0].key: names a column twice"


# Several tables.


def test_two_tables_of_one_topic():
    found = problems(tables=[tables("docs"), tables("docs", name="other", collection="b")])
    assert "2 tables have the topic 'app.public.docs'" in found


def test_two_tables_of_one_name():
    found = problems(tables=[tables("docs"), tables("docs", topic="app.archive.docs")])
    assert "2 tables have the name 'docs'; give each its own `name`" in found


SHARED = {"type": "varchar", "max_length": 100}


@pytest.mark.parametrize(
    "other",
    [
        {"metric": "L2"},
        {"columns": {"kind": SHARED, "more": "int64"}},
        {"columns": {}},
        {"columns": {"kind": "int64"}},
        {"columns": {"kind": {**SHARED, "max_length": 99}}},
        {"columns": {"kind": {**SHARED, "field": "sort"}}},
    ],
)
def test_tables_that_share_a_collection_must_agree(other):
    first = tables("docs", columns={"kind": SHARED})
    second = tables("pages", **{"collection": "docs", "columns": {"kind": SHARED}, **other})
    found = problems(tables=[first, second])
    assert "those that share the collection 'docs' need the same metric and columns" in found


def test_tables_that_agree_share_a_collection():
    first = tables("docs", columns={"kind": SHARED, "size": "int64"})
    second = tables(
        "pages", collection="docs", columns={"size": "int64", "sort": {**SHARED, "field": "kind"}}
    )
    assert len(contract_from(data(tables=[first, second]), "x").tables) == 2


# The file.


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ContractError, match="there is no such file") as caught:
        load_contract(tmp_path / "none.toml")
    assert "--contract" in caught.value.hint
    assert "ROWVEC_CONTRACT" in caught.value.hint
    assert isinstance(caught.value, FatalError)


def test_a_file_that_is_no_toml(path):
    path.write_text("[kafka\n", "utf-8")
    with pytest.raises(ContractError, match=r"it is no TOML: .*line 1"):
        load_contract(path)


def test_a_key_that_is_set_twice(path):
    path.write_text(GOOD + "\n[kafka]\n", "utf-8")
    with pytest.raises(ContractError, match="it is no TOML"):
        load_contract(path)


def test_a_file_that_is_no_text(path):
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ContractError, match="it cannot be read"):
        load_contract(path)


def test_a_directory(tmp_path):
    with pytest.raises(ContractError, match="it cannot be read"):
        load_contract(tmp_path)


# The environment.


def test_a_variable_wins_over_the_file(path, monkeypatch):
    monkeypatch.setenv("ROWVEC_KAFKA__BOOTSTRAP_SERVERS", "other:1")
    monkeypatch.setenv("ROWVEC_FLOW__WINDOW_MS", "50")
    monkeypatch.setenv("ROWVEC_EMBEDDING__NORMALIZE", "false")
    monkeypatch.setenv("ROWVEC_KAFKA__PASSWORD", SECRET)
    contract = load_contract(path)
    assert contract.kafka.bootstrap_servers == "other:1"
    assert contract.flow.window_ms == 50
    assert contract.embedding.normalize is False
    assert contract.kafka.password is not None
    assert contract.kafka.password.get_secret_value() == SECRET
    # The rest of the section still comes from the file.
    assert contract.milvus.uri == "http://milvus:19530"


def test_a_variable_can_stand_in_for_a_missing_key(monkeypatch):
    monkeypatch.setenv("ROWVEC_MILVUS__URI", "http://m:1")
    sections = data()
    del sections["milvus"]
    assert contract_from(sections, "x").milvus.uri == "http://m:1"


def test_a_wrong_variable_is_told_by_its_key(monkeypatch):
    monkeypatch.setenv("ROWVEC_FLOW__WINDOW_MS", "soon")
    monkeypatch.setenv("ROWVEC_KAFKA__BOOTSTRAP", "x")
    found = problems()
    assert "flow.window_ms: " in found
    assert "kafka.bootstrap: is no key of the contract" in found


def test_a_variable_that_is_no_json(monkeypatch):
    monkeypatch.setenv("ROWVEC_TABLES", f"[{SECRET}")
    found = problems()
    assert "environment: " in found
    assert "tables" in found
    assert SECRET not in found


def test_the_variables_of_the_process_are_no_keys_of_the_contract(path, monkeypatch):
    monkeypatch.setenv("ROWVEC_CONTRACT", str(path))
    monkeypatch.setenv("ROWVEC_HEARTBEAT_FILE", str(path.with_name("beat")))
    process = process_from_env()
    assert (process.contract, process.heartbeat) == (path, path.with_name("beat"))
    load_contract(process.contract)


@pytest.mark.parametrize(
    ("name", "cause"), [("", "' is a directory"), ("nowhere/beat", "/nowhere' is no directory")]
)
def test_a_heartbeat_that_can_be_no_file(tmp_path, monkeypatch, name, cause):
    monkeypatch.setenv("ROWVEC_HEARTBEAT_FILE", str(tmp_path / name))
    with pytest.raises(ContractError, match=cause) as caught:
        process_from_env()
    assert caught.value.subject == "ROWVEC_HEARTBEAT_FILE"


def test_the_process_without_variables():
    process = process_from_env()
    assert (process.contract, process.heartbeat) == (DEFAULT_CONTRACT, None)


# Secrets.


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mounted secret, as Kubernetes lays it out: files are links into a dated directory."""
    directory = tmp_path / "secrets"
    dated = directory / "..2026_01_01"
    dated.mkdir(parents=True)
    (dated / "rowvec_kafka__password").write_text(f"{SECRET}\n", "utf-8")
    (dated / "rowvec_milvus__token").write_text("token", "utf-8")
    (dated / "tls.crt").write_text("not ours", "utf-8")
    (directory / "..data").symlink_to("..2026_01_01")
    for file in dated.iterdir():
        (directory / file.name).symlink_to(Path("..data") / file.name)
    monkeypatch.setenv("ROWVEC_SECRETS_DIR", str(directory))
    return directory


@pytest.mark.usefixtures("secrets")
def test_secret_files(path):
    contract = load_contract(path)
    assert contract.kafka.password is not None
    assert contract.milvus.token is not None
    assert contract.kafka.password.get_secret_value() == SECRET
    assert contract.milvus.token.get_secret_value() == "token"
    assert contract.kafka.bootstrap_servers == "kafka:9092"


@pytest.mark.usefixtures("secrets")
def test_variables_over_secret_files_over_the_file(path, monkeypatch):
    path.write_text(GOOD.replace("[milvus]", '[milvus]\ntoken = "from the file"'), "utf-8")
    monkeypatch.setenv("ROWVEC_KAFKA__PASSWORD", "from the variable")
    contract = load_contract(path)
    assert contract.kafka.password is not None
    assert contract.milvus.token is not None
    assert contract.kafka.password.get_secret_value() == "from the variable"
    assert contract.milvus.token.get_secret_value() == "token"


def test_a_secrets_directory_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("ROWVEC_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(ContractError, match="/none' is no directory") as caught:
        contract_from({}, "rowvec.toml")
    assert caught.value.subject == "ROWVEC_SECRETS_DIR"


@pytest.mark.usefixtures("secrets")
def test_no_secret_in_any_text_of_the_contract(path):
    path.write_text(
        GOOD.replace("[milvus]", f'[kafka.librdkafka]\n"ssl.key.pem" = "{SECRET}"\n\n[milvus]'),
        "utf-8",
    )
    contract = load_contract(path)
    for text in (repr(contract), str(contract), f"{contract.kafka!r} {contract.kafka}"):
        assert SECRET not in text
        assert "**********" in text
    assert SECRET not in contract.kafka.model_dump_json(exclude={"librdkafka"})
    assert contract.kafka.librdkafka == {"ssl.key.pem": SECRET}


@pytest.mark.parametrize(
    "kafka",
    [
        {"password": SECRET, "passwort": SECRET},
        {"password": [SECRET]},
        {"password": {"a": SECRET}},
        {"key_password": SECRET, "security_protocol": SECRET},
        {"password": SECRET, "security_protocol": "SASL_SSL"},
        {"librdkafka": {"sasl.password": [SECRET]}},
        {"librdkafka": SECRET},
    ],
)
def test_no_secret_in_any_message(kafka):
    found = problems(kafka={"bootstrap_servers": "k", **kafka})
    assert "kafka" in found
    assert SECRET not in found


def test_no_secret_in_the_causes_of_a_message():
    with pytest.raises(ContractError) as caught:
        contract_from(data(kafka={"password": SECRET}), "x")
    assert caught.value.__cause__ is None
    assert SECRET not in repr(caught.value)


# The processes of a cluster.


def test_one_process():
    assert cluster_from(0, "") == (0, ())


def test_addresses_as_given():
    assert cluster_from(1, "a:1; b:2 ;") == (1, ("a:1", "b:2"))


def test_a_process_without_an_address():
    with pytest.raises(ContractError, match="process 2: there are 2 addresses") as caught:
        cluster_from(2, "a:1;b:2")
    assert "BYTEWAX_ADDRESSES" in caught.value.hint
    with pytest.raises(ContractError, match="there are 0 addresses"):
        cluster_from(1, "")


def test_a_pod_of_a_stateful_set(monkeypatch, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("rowvec-0.rowvec:9999\nrowvec-1.rowvec:9999\n", "utf-8")
    monkeypatch.setenv("BYTEWAX_POD_NAME", "my-rowvec-1")
    monkeypatch.setenv("BYTEWAX_STATEFULSET_NAME", "my-rowvec")
    monkeypatch.setenv("BYTEWAX_HOSTFILE_PATH", str(hosts))
    assert cluster_from(0, "") == (1, ("rowvec-0.rowvec:9999", "rowvec-1.rowvec:9999"))
    # Options on the command line come first.
    assert cluster_from(0, "a:1") == (0, ("a:1",))


@pytest.mark.parametrize("pod", ["other-1", "my-rowvec", "my-rowvec-x"])
def test_a_pod_of_another_stateful_set(monkeypatch, pod):
    monkeypatch.setenv("BYTEWAX_POD_NAME", pod)
    monkeypatch.setenv("BYTEWAX_STATEFULSET_NAME", "my-rowvec")
    with pytest.raises(ContractError, match="is no pod of the StatefulSet 'my-rowvec'"):
        cluster_from(0, "")


def test_a_host_file_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("BYTEWAX_HOSTFILE_PATH", str(tmp_path / "none"))
    with pytest.raises(ContractError, match="BYTEWAX_HOSTFILE_PATH: cannot be read"):
        cluster_from(0, "")
