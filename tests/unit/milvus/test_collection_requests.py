"""What Milvus says of a collection, read into the identity that ledger and lease go by."""

from typing import Any

import pytest

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
        self._timeout, self._where = 1.0, "Milvus"

    def describe_collection(self, _name: str, timeout: float) -> dict[str, Any]:
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
