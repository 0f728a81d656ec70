"""Where the guards stand in the source: each is marked by a comment, `# guard: <name>`.

The comment stands at the end of a line of the guarded statement, or on a line of its own above it (or
above one of its lines). So a formatter takes it along, and what the statement looks like is of no
importance: how many lines it has, which quotes, how many parentheses.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

PACKAGES = ("operators", "flows")

NAME = r"[a-z0-9]+(?:-[a-z0-9]+)*"

_ANCHOR = re.compile(r"#\s*guard\b")
_WELL_FORMED = re.compile(rf"#\s*guard: ({NAME}(?:, {NAME})*)")

Statement: TypeAlias = ast.stmt | ast.ExceptHandler
"""What an anchor marks; an `except` with what it does counts as one."""


class Anchor(NamedTuple):
    """The comment that marks a guard.

    Attributes:
        name: The guard's name.
        file: Where it is, from the root of the tree.
        line: Its line there, from 1.
    """

    name: str
    file: str
    line: int

    @property
    def room(self) -> str:
        """The package of the file, as the list of guards is divided: `stages`, `flows`."""
        first, second, *_ = Path(self.file).with_suffix("").parts
        return first if first == "flows" else second


def anchors_in(tree: Path) -> list[Anchor]:
    """All anchors of the product, file by file.

    Raises:
        ValueError: A comment begins like an anchor, and is none.
    """
    files = [path for package in PACKAGES for path in sorted((tree / package).rglob("*.py"))]
    return [
        Anchor(name, path.relative_to(tree).as_posix(), line)
        for path in files
        for name, line in _names(path.read_text(), str(path))
    ]


def statement_at(module: ast.Module, source: str, name: str) -> Statement:
    """The statement that the guard's anchor marks.

    Raises:
        ValueError: The anchor is not there, or not just once, or marks nothing.
    """
    lines = [line for each, line in _names(source) if each == name]
    if len(lines) != 1:
        raise ValueError(f"'# guard: {name}' stands {len(lines)} times in the file, not once")
    line = lines[0]
    text = source.splitlines()
    if text[line - 1].lstrip().startswith("#"):
        # On a line of its own: what begins at the next line of code, or what that line is a part of.
        while line <= len(text) and (
            not text[line - 1].strip() or text[line - 1].lstrip()[0] == "#"
        ):
            line += 1
    spanning = [each for each in _statements(module) if _first_line(each) <= line <= _end(each)]
    if not spanning:
        raise ValueError(f"'# guard: {name}' marks no statement")
    return max(spanning, key=lambda each: (_first_line(each), -_end(each)))


@lru_cache(maxsize=512)
def _names(source: str, file: str = "") -> Sequence[tuple[str, int]]:
    names: list[tuple[str, int]] = []
    if not _ANCHOR.search(source):
        return names
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and _ANCHOR.match(token.string):
            found = _WELL_FORMED.fullmatch(token.string)
            if found is None:
                raise ValueError(f"{file}:{token.start[0]}: not '# guard: name': {token.string}")
            names += [(name, token.start[0]) for name in found[1].split(", ")]
    return names


def _statements(module: ast.Module) -> Iterator[Statement]:
    for node in ast.walk(module):
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            yield node


def _first_line(statement: Statement) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])


def _end(statement: Statement) -> int:
    assert statement.end_lineno is not None
    return statement.end_lineno
