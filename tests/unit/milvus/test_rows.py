"""Requests to Milvus stay below the byte limit. `tests/conformance` tests what a row may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.milvus.rows import requests

SIZES = st.lists(st.integers(0, 40), max_size=30)


@given(SIZES)
def test_a_request_is_small_unless_one_row_is_large(sizes: list[int]) -> None:
    rows = [({"id": number}, size) for number, size in enumerate(sizes)]
    cut = list(requests(rows, 20))
    assert [row["id"] for request in cut for row in request] == list(range(len(sizes)))
    for request in cut:
        assert len(request) == 1 or sum(sizes[row["id"]] for row in request) <= 20


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([10, 10], [[0, 1]]),
        ([10, 11], [[0], [1]]),
        ([30, 1, 30], [[0], [1], [2]]),
        ([], []),
    ],
)
def test_rows_are_sent_together_as_far_as_they_fit(
    sizes: list[int], wanted: list[list[int]]
) -> None:
    rows = [({"id": number}, size) for number, size in enumerate(sizes)]
    assert [[row["id"] for row in request] for request in requests(rows, 20)] == wanted
