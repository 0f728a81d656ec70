"""The list of guards is kept up: each has its anchor, and the program is one without it."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.mutation.anchors import Anchor, anchors_in, statement_at
from tests.mutation.guard import Guard
from tests.mutation.guards import GUARDS, ROOMS
from tests.mutation.mutations import (
    Mutation,
    always,
    dropped,
    gives,
    instead,
    mutated,
    never,
    replaced,
    unwrapped,
    without,
)

TREE = Path(__file__).resolve().parents[2]

LAYOUTS = {
    "narrow": ("--line-length=60",),
    "wide": ("--line-length=200", "--config=format.skip-magic-trailing-comma=true"),
    "other quotes": ("--config=format.quote-style='single'",),
}
"""What a formatter may do to the source."""


@cache
def _anchors() -> dict[str, Anchor]:
    return {anchor.name: anchor for anchor in anchors_in(TREE)}


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_can_be_taken_out(guard: Guard) -> None:
    anchor = _anchors()[guard.name]
    source = (TREE / anchor.file).read_text()
    changed = mutated(source, guard.name, guard.mutation)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    compile(changed, anchor.file, "exec")
    files = [each for each in guard.tests if each.endswith(".py")]
    assert files
    assert all((TREE / each).is_file() for each in files)


def test_each_guard_has_one_anchor_and_each_anchor_its_guard() -> None:
    listed = Counter(guard.name for guard in GUARDS)
    anchored = Counter(anchor.name for anchor in anchors_in(TREE))
    assert set(listed.values()) == {1}, "a guard is listed twice"
    assert set(anchored.values()) == {1}, "an anchor stands twice"
    assert anchored == listed


def test_each_guard_is_listed_with_the_room_in_which_it_stands() -> None:
    listed = {guard.name: room for room, guards in ROOMS.items() for guard in guards}
    assert {name: anchor.room for name, anchor in _anchors().items()} == listed


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def formatted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that have guards, in another layout."""
    tree = tmp_path_factory.mktemp("formatted")
    for file in {anchor.file for anchor in _anchors().values()}:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text((TREE / file).read_text())
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--quiet"]
    subprocess.run([*ruff, *LAYOUTS[request.param], "."], cwd=tree, check=True)
    return tree


def test_a_formatter_moves_no_guard(formatted: Path) -> None:
    changed = 0
    for file in {anchor.file for anchor in _anchors().values()}:
        before, after = (TREE / file).read_text(), (formatted / file).read_text()
        changed += before != after
        assert _marked(after, file) == _marked(before, file)
    assert changed


@cache
def _marked(source: str, file: str) -> tuple[str, dict[str, int]]:
    """The program, and which of its nodes, counted as they are walked, each guard marks.

    Nothing else decides what a mutation makes of it.
    """
    module = ast.parse(source)
    nodes = {id(node): number for number, node in enumerate(ast.walk(module))}
    names = [anchor.name for anchor in _anchors().values() if anchor.file == file]
    return ast.dump(module), {n: nodes[id(statement_at(module, source, n))] for n in names}


SOURCE = """
def work(rows, *, lock):
    if rows and not lock:  # guard: condition
        return {"a": 1, "b": 2}  # guard: value
    # guard: chain, operand
    elif rows or (
        lock
    ):
        lock.take(rows, most=3)  # guard: call
        lock.free()
    with lock:  # guard: held
        # guard: argument
        # What it says to a reader.
        lock.take(
            rows,
            most=3,
        )
    try:
        first, second = (
            1,
            # guard: inside
            2,
        )
    except ValueError:  # guard: handler
        pass
    return first
"""


@pytest.mark.parametrize(
    ("name", "mutation", "before", "after"),
    [
        ("condition", never, "if rows and (not lock):", "if False:"),
        ("condition", always, "if rows and (not lock):", "if True:"),
        ("condition", without("rows"), "if rows and (not lock):", "if not lock:"),
        ("value", gives("[]"), "return {'a': 1, 'b': 2}", "return []"),
        ("value", without('"a"'), "return {'a': 1, 'b': 2}", "return {'b': 2}"),
        ("value", dropped, "return {'a': 1, 'b': 2}", "pass"),
        ("chain", never, "elif rows or lock:", "elif False:"),
        ("operand", replaced("(rows)", by="first"), "elif rows or lock:", "elif first or lock:"),
        (
            "call",
            instead("lock.free()", of=2),
            "        lock.take(rows, most=3)\n        lock.free()",
            "        lock.free()",
        ),
        (
            "held",
            unwrapped,
            "    with lock:\n        lock.take(rows, most=3)",
            "    lock.take(rows, most=3)",
        ),
        (
            "argument",
            without("3"),
            "with lock:\n        lock.take(rows, most=3)",
            "with lock:\n        lock.take(rows)",
        ),
        ("inside", replaced("2", by="3"), "first, second = (1, 2)", "first, second = (1, 3)"),
        (
            "handler",
            replaced("ValueError", by="KeyError"),
            "except ValueError:",
            "except KeyError:",
        ),
    ],
)
def test_a_mutation_changes_what_its_anchor_marks(
    name: str, mutation: Mutation, before: str, after: str
) -> None:
    whole = ast.unparse(ast.parse(SOURCE))
    assert whole.count(before) == 1
    assert mutated(SOURCE, name, mutation) == whole.replace(before, after)


@pytest.mark.parametrize(
    ("name", "mutation", "said"),
    [
        ("nowhere", never, "stands 0 times"),
        ("call", never, "marks no 'if'"),
        ("call", gives("1"), "gives a value"),
        ("condition", gives("1"), "gives a value"),
        ("call", unwrapped, "marks no 'with'"),
        ("call", replaced("first", by="second"), "0 times"),
        ("condition", replaced("1", by="2"), "0 times"),
        ("call", without("lock"), "no element"),
        ("call", instead("pass", of=3), "ends before"),
    ],
)
def test_a_mutation_that_does_not_fit_is_an_error(name: str, mutation: Mutation, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mutated(SOURCE, name, mutation)


@pytest.mark.parametrize("comment", ["# guard", "# guard: A b", "# guard: a b", "# guard a"])
def test_a_comment_that_is_only_nearly_an_anchor_is_an_error(comment: str, tmp_path: Path) -> None:
    (tmp_path / "operators").mkdir()
    (tmp_path / "operators" / "one.py").write_text(f"a = 1  {comment}\n")
    with pytest.raises(ValueError, match=r"one\.py:1: "):
        anchors_in(tmp_path)
