"""The list of guards is kept up: each is where it says, and the program is one without it."""

import ast
from pathlib import Path

import pytest

from tests.mutation.guards import GUARDS, Guard, without

TREE = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_is_where_the_list_says(guard: Guard) -> None:
    source = (TREE / guard.file).read_text()
    mutated = without(guard, source)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
    compile(mutated, guard.file, "exec")
    files = [each for each in guard.tests if each.endswith(".py")]
    assert files
    assert all((TREE / each).is_file() for each in files)


def test_no_two_guards_have_one_name() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)


@pytest.mark.parametrize("count", [0, 2])
def test_a_guard_that_moved_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="keep the list up"):
        without(GUARDS[0], GUARDS[0].text * count)
