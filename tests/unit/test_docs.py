"""The pages that name tests name tests that exist."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PAGES = ("docs/sources.md", "docs/contract.md", "tests/README.md")

_NAMED = re.compile(r"`(?P<file>[\w/]+/test_\w+\.py)?(?:::(?P<test>\w+))?`")
"""`unit/test_docs.py::test_a`, `::test_b` of the same file, or a file alone."""


def rows(text: str) -> Iterator[str]:
    """The last cell of each row of a page's tables whose last column has tests."""
    inside = False
    for line in text.splitlines():
        cells = line.split("|")
        if not line.startswith("|"):
            inside = False
        elif cells[-2].strip() in ("tests", "held by"):
            inside = True
        elif inside and not set(cells[-2]) <= set("- ") and not cells[1].startswith(" **"):
            yield cells[-2]


def named(cell: str) -> Iterator[tuple[str, str]]:
    """File and test that a cell names; the test is "" where it names the file alone."""
    file = ""
    for found in _NAMED.finditer(cell):
        file = found["file"] or file
        yield file, found["test"] or ""


@cache
def in_file(file: str) -> frozenset[str]:
    """Names of all tests and classes in a file of tests; none if it is not there."""
    path = ROOT / "tests" / file
    if not path.is_file():
        return frozenset()
    tree = ast.walk(ast.parse(path.read_text("utf-8")))
    return frozenset(
        {""}.union(each.name for each in tree if isinstance(each, ast.FunctionDef | ast.ClassDef))
    )


def missing(text: str) -> list[str]:
    """What the rows of a page name and the tree does not have; and rows that name no test."""
    wrong = []
    for cell in rows(text):
        tests = list(named(cell))
        wrong += [f"{file}::{test}" for file, test in tests if test not in in_file(file)]
        if not tests:
            wrong.append(f"no test: {cell.strip()}")
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert len(list(rows(text))) > 20
    assert missing(text) == []


def test_a_name_that_is_wrong_is_found() -> None:
    table = "| what | tests |\n|---|---|\n| **Theme** | |\n"
    mine = "| a | `unit/test_docs.py::test_a_name_that_is_wrong_is_found`, `::named` |\n"
    assert missing(table + mine + "| b | `unit/test_docs.py` |\n") == []
    assert missing(table + "| a | `unit/test_docs.py`, `::test_gone` |\n") == [
        "unit/test_docs.py::test_gone"
    ]
    assert missing(table + "| a | `unit/test_gone.py` |\n") == ["unit/test_gone.py::"]
    assert missing(table + "| a | documented |\n") == ["no test: documented"]
