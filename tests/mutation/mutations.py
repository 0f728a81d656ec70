"""How a guard is taken out: changes of the syntax tree of the statement that its anchor marks.

Since it is the tree that is changed, neither a formatter nor a comment gets in the way. Whichever way
says the least about the statement is the best one: `never` and `dropped` hold whatever it says.
"""

import ast
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from tests.mutation.anchors import Statement, statement_at


class Place(NamedTuple):
    """The marked statement, and where it stands.

    Attributes:
        statement: The statement itself.
        among: The statements of its block, or the handlers of its `try`.
    """

    statement: Statement
    among: list[Any]

    def put(self, statements: list[ast.stmt], count: int = 1) -> None:
        """Put others into the place of the statement and of those after it, `count` in all."""
        at = next(n for n, each in enumerate(self.among) if each is self.statement)
        if at + count > len(self.among):
            raise ValueError(f"the block ends before {count} statements")
        self.among[at : at + count] = statements

    def expressions(self) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
        """What the statement is made of, with (parent, field, index) of each.

        Of an `if`, a `with`, a loop and the like only the first line: not the statements within it.
        """
        waiting: list[ast.AST] = [self.statement]
        while waiting:
            parent = waiting.pop()
            for field, value in ast.iter_fields(parent):
                for index, child in enumerate(value if isinstance(value, list) else [value]):
                    if isinstance(child, ast.AST) and not isinstance(child, Statement):
                        yield parent, field, index if isinstance(value, list) else None, child
                        waiting.append(child)


Mutation: TypeAlias = Callable[[Place], None]


def mutated(source: str, name: str, mutation: Mutation) -> str:
    """The source of a file with one of its guards taken out; it has no comments any more.

    Raises:
        ValueError: The anchor is not there, or what it marks is not what the mutation is for.
    """
    module = ast.parse(source)
    statement = statement_at(module, source, name)
    mutation(_place(module, statement))
    return ast.unparse(module)


def never(place: Place) -> None:
    """The condition of the `if`, `elif` or `while` never holds."""
    _set_condition(place, False)


def always(place: Place) -> None:
    """The condition of the `if`, `elif` or `while` always holds."""
    _set_condition(place, True)


def dropped(place: Place) -> None:
    """The statement is not there."""
    place.put([ast.Pass()])


def unwrapped(place: Place) -> None:
    """What the `with` or `if` holds is done without it."""
    if not isinstance(place.statement, ast.With | ast.If):
        raise ValueError(f"the anchor marks no 'with' and no 'if', but {_kind(place)}")
    place.put(place.statement.body)


def instead(code: str, of: int = 1) -> Mutation:
    """Other statements stand there.

    Args:
        code: The other statements.
        of: How many they take the place of: the marked one, and those that follow it.
    """
    return lambda place: place.put(ast.parse(code).body, of)


def gives(value: str) -> Mutation:
    """The statement returns, assigns or goes through something else.

    Args:
        value: The expression in the place of what the `return` or the assignment gives, or of what the
            `for` goes through.
    """

    def mutation(place: Place) -> None:
        field = "iter" if isinstance(place.statement, ast.For) else "value"
        nothing = isinstance(place.statement, ast.Expr)
        if nothing or not isinstance(getattr(place.statement, field, None), ast.expr):
            raise ValueError(f"the anchor marks nothing that gives a value, but {_kind(place)}")
        setattr(place.statement, field, _expression(value))

    return mutation


def replaced(part: str, by: str) -> Mutation:
    """A part of the statement says something else.

    Args:
        part: An expression, found exactly once in the statement, however it is written there.
        by: The expression in its place.
    """

    def mutation(place: Place) -> None:
        parent, field, index = _find(place, part)
        other = _expression(by)
        if index is None:
            setattr(parent, field, other)
        else:
            getattr(parent, field)[index] = other

    return mutation


def without(part: str) -> Mutation:
    """A part of the statement is not there.

    Args:
        part: An expression, found exactly once in the statement: an element of a list or a tuple, an
            argument, the key of an entry of a dictionary, or a member of a chain of `and` or `or`.
    """

    def mutation(place: Place) -> None:
        parent, field, index = _find(place, part)
        if isinstance(parent, ast.keyword):
            # An argument with a name: it goes with its name.
            call = next(p for p, *_, child in place.expressions() if child is parent)
            assert isinstance(call, ast.Call)
            call.keywords.remove(parent)
            return
        if index is None:
            raise ValueError(f"'{part}' is no element of anything, and cannot be left out")
        del getattr(parent, field)[index]
        if isinstance(parent, ast.Dict):
            del parent.values[index]
        if isinstance(parent, ast.BoolOp) and len(parent.values) == 1:
            _put_in_place_of(place, parent, parent.values[0])

    return mutation


def _set_condition(place: Place, value: bool) -> None:
    if not isinstance(place.statement, ast.If | ast.While):
        raise ValueError(f"the anchor marks no 'if' and no 'while', but {_kind(place)}")
    place.statement.test = ast.Constant(value)


def _find(place: Place, part: str) -> tuple[ast.AST, str, int | None]:
    wanted = ast.dump(_expression(part))
    found = [
        (parent, field, index)
        for parent, field, index, child in place.expressions()
        if isinstance(child, ast.expr) and ast.dump(child) == wanted
    ]
    if len(found) != 1:
        raise ValueError(f"'{part}' is {len(found)} times in the marked statement, not once")
    return found[0]


def _put_in_place_of(place: Place, old: ast.AST, new: ast.AST) -> None:
    for parent, field, index, child in place.expressions():
        if child is old:
            if index is None:
                setattr(parent, field, new)
            else:
                getattr(parent, field)[index] = new
            return


def _expression(code: str) -> ast.expr:
    return ast.parse(f"({code}\n)", mode="eval").body


def _place(module: ast.Module, statement: Statement) -> Place:
    for node in ast.walk(module):
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and any(each is statement for each in value):
                return Place(statement, value)
    raise AssertionError("a statement without a block")


def _kind(place: Place) -> str:
    return type(place.statement).__name__.lower()
