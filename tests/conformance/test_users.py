"""A Milvus server with users: what a token that is wrong, or revoked while a flow runs, comes out as."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from flows.embedded.milvus_server import MilvusServer
from operators.contract.sections import MilvusSection
from operators.errors import FatalError
from operators.milvus.store import MilvusStore
from tests.conformance.test_store import entity, spec_of

pytestmark = pytest.mark.server

TOKEN = "rowvec:s3cret-s3cret"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory: Path = tmp_path_factory.mktemp("server")
    server = MilvusServer(directory, settings={"authorizationEnabled": "true"})
    server.start()
    try:
        yield server.uri
    finally:
        server.stop()


def refusal(call: Callable[[], object]) -> FatalError:
    """The first refusal: a server takes a moment to tell all its parts what was revoked."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            call()
        except FatalError as error:
            return error
        time.sleep(0.1)
    raise AssertionError("it was never refused")


@pytest.mark.parametrize("token", [None, "root:wrong", "nobody:wrong"])
def test_a_token_that_is_refused(uri: str, token: str | None):
    with pytest.raises(FatalError, match="UNAUTHENTICATED") as refused:
        MilvusStore(MilvusSection.model_validate({"uri": uri, "token": token}))
    assert refused.value.hint == "Check milvus.token"
    assert "wrong" not in str(refused.value)


def told(call: Callable[[], object], what: str) -> str:
    """What a call is refused with, once the server's cache of users and rights is up to date."""
    said = str(refusal(call))
    for _ in range(300):
        if what in said:
            break
        time.sleep(0.1)
        said = str(refusal(call))
    return said


def test_rights_and_users_that_are_taken_away_stop_the_flow_and_blame_no_row(uri: str):
    one = entity("1", columns={})
    with closing(MilvusClient(uri, token="root:Milvus", dedicated=True)) as root:
        root.create_user(*TOKEN.split(":"))
        with closing(MilvusStore(MilvusSection.model_validate({"uri": uri, "token": TOKEN}))) as s:
            ledger = s.ledger()
            assert "PERMISSION_DENIED" in str(refusal(ledger.read))
            root.grant_role("rowvec", "admin")
            assert s.ensure(spec_of("docs", fields={}))
            s.upsert("docs", [one])
            ledger.write({"docs/0": "1"})
            calls = (
                lambda: s.upsert("docs", [one]),
                lambda: s.delete("docs", [one.id]),
                lambda: ledger.write({"docs/0": "2"}),
            )
            root.revoke_role("rowvec", "admin")
            for call in calls:
                assert "Grant the user what Rowvec needs" in told(call, "Grant the user")
            root.drop_user("rowvec")
            for call in calls:
                assert "Check milvus.token" in told(call, "Check milvus.token")
