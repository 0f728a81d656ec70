"""What the flow can run with, but its user should know: `check` prints it, `run` logs it once."""

import json
from pathlib import Path

import pytest

from flows.embedded.broker import Broker
from tests.changes import doc, envelope, key
from tests.integration.running import docs_contract, everything, produce, rowvec

pytestmark = pytest.mark.integration

TOLD = "'kind' may be NULL in the database, and its default here"


def wrapped(row: dict[str, object]) -> bytes:
    fields = [{"type": "string", "field": "kind", "optional": True, "default": "page"}]
    after = {"type": "struct", "field": "after", "fields": fields, "optional": True}
    schema = {"type": "struct", "fields": [after], "name": "app.public.docs.Envelope"}
    return json.dumps({"schema": schema, "payload": json.loads(envelope("c", 5, row))}).encode()


def test_a_default_that_may_stand_for_null(
    broker: Broker, milvus: str, tiny_model: Path, tmp_path: Path
) -> None:
    docs_contract(tmp_path, broker, milvus, tiny_model)
    name = tmp_path.name
    broker.create_topic(name, 1)
    produce(broker.bootstrap_servers, name, [(0, key(id=1), wrapped(doc(1)))])
    with rowvec(tmp_path, "check") as process:
        assert process.wait() == 0, process.stderr
    (line,) = [line for line in process.stdout.splitlines() if TOLD in line]
    assert line.startswith("! tables")
    with rowvec(tmp_path, "check", "--json") as process:
        assert process.wait() == 0, process.stderr
    found = {entry["check"]: entry["warnings"] for entry in json.loads(process.stdout)}
    assert [TOLD in warning for warning in found.pop("tables")] == [True]
    assert not any(found.values())
    with rowvec(tmp_path, "run", "--exit-at-end") as process:
        assert process.wait() == 0, process.stderr
    assert process.stderr.count(TOLD) == 1
    assert [row["kind"] for row in everything(milvus, name).values()] == ["page"]
