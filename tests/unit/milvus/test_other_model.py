"""What a collection that another model filled says."""

import pytest

from operators.errors import FatalError
from operators.milvus.schema import check_shape, collection_shape
from operators.store.protocol import CollectionSpec

HAD = "acme/small@0123456789ab"


def refusal(had: str, wants: str) -> str:
    found, wanted = (
        collection_shape(CollectionSpec("docs", {}, dim=8, metric="COSINE", model=model))
        for model in (had, wants)
    )
    with pytest.raises(FatalError) as caught:
        check_shape("docs", wanted, found)
    told = str(caught.value)
    assert f"its vectors were made by {had}, not by {wants}" in told
    return told


@pytest.mark.parametrize("chunks", ["", " in chunks: docs 256+32"])
def test_a_newer_commit_of_the_same_repository_names_the_old_one(chunks: str) -> None:
    told = refusal(HAD + chunks, f"acme/small@ba9876543210{chunks}")
    assert (
        'set revision = "0123456789ab" in [embedding], the commit that made these vectors' in told
    )


@pytest.mark.parametrize(
    ("had", "wants"),
    [
        (HAD, "acme/large@0123456789ac"),
        (f"{HAD} in chunks: docs 256+32", f"{HAD} in chunks: docs 99+9"),
        ("small@0123456789ab", "small@ba9876543210"),  # a folder: there is no commit
    ],
)
def test_no_commit_is_named_where_none_would_help(had: str, wants: str) -> None:
    assert "revision = " not in refusal(had, wants)
