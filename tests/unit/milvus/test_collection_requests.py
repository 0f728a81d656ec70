"""What Milvus says of a collection, read into the identity that ledger and lease go by."""

from typing import Any

import pytest
from pymilvus import MilvusException

from operators.errors import FatalError, RetriableError
from operators.milvus.collection_requests import CollectionRequests
from operators.store.protocol import FoundCollection

RANDOM = "0123456789abcdef" * 2
PROPERTIES = {"rowvec.model": "hash@1", "rowvec.identity": RANDOM}
DESCRIPTION = f"Kept equal to SQL tables by Rowvec; vectors by hash@1; collection {RANDOM}"


class Described(CollectionRequests):
    """A connection whose server describes one collection."""

    def __init__(self, **about: Any) -> None:
        self._about = {"collection_name": "docs", **about}
        self._client: Any = self
        self._timeout, self._where, self._asked = 1.0, "Milvus", "Milvus"

    def describe_collection(self, _name: str, timeout: float) -> dict[str, Any]:
        error = self._about.get("error")
        if error is not None:
            raise error
        return self._about


@pytest.mark.parametrize(
    ("about", "identity"),
    [
        (
            {"properties": PROPERTIES, "collection_id": 470776432312453168},
            f"{RANDOM}@470776432312453168",
        ),
        ({"description": DESCRIPTION, "collection_id": 7}, f"{RANDOM}@7"),
        ({"properties": PROPERTIES, "collection_id": 0}, RANDOM),  # Milvus Lite
        ({"properties": PROPERTIES}, RANDOM),
        ({"collection_id": 7}, "@7"),  # of a release that gave no random id
        ({}, ""),
    ],
)
def test_the_identity_of_a_collection(about: dict[str, Any], identity: str):
    assert Described(**about).find("alias") == FoundCollection("docs", identity)


@pytest.mark.parametrize(
    "error",
    [
        MilvusException(100, "collection not found[database=default][collection=docs]"),
        MilvusException(100, "collection 'docs' does not exist"),
        MilvusException(1, "can't find collection: docs"),  # before 2.3.2
    ],
    ids=str,
)
def test_a_collection_that_is_not_there(error: MilvusException):
    assert Described(error=error).find("docs") is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MilvusException(1, "service not ready"), RetriableError),
        (MilvusException(800, "database not found"), FatalError),
        (MilvusException(1401, "privilege not permitted"), FatalError),
    ],
    ids=str,
)
def test_a_question_that_is_not_answered_is_no_collection_that_is_gone(
    error: MilvusException, kind: type[Exception]
):
    with pytest.raises(kind):
        Described(error=error).find("docs")
