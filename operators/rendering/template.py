"""The text template of a table: columns as text → the text that is embedded."""

import string
from collections.abc import Mapping

from operators.changes.rows import Spans
from operators.contract.table import TableSection


class TextTemplate:
    """The template of one table, parsed once.

    Attributes:
        pieces: Literal text, and the column that follows it; None at the end.
    """

    def __init__(self, table: TableSection) -> None:
        self.pieces: list[tuple[str, str | None]] = [
            (literal, name) for literal, name, _, _ in string.Formatter().parse(table.text)
        ]
        self._defaults = table.defaults

    def compose(self, texts: Mapping[str, str | None]) -> tuple[str, Spans]:
        """The text, and where each column lies in it.

        Args:
            texts: Every column of the template; None is NULL, which the contract's `defaults` replace.
        """
        pieces: list[str] = []
        spans: list[tuple[str, int, int]] = []
        at = 0
        for literal, name in self.pieces:
            if literal:
                pieces.append(literal)
                at += len(literal)
            if name is None:
                continue
            value = texts[name]
            if value is None:
                spans.append((name, -1, -1))
                value = self._defaults.get(name, "")
                end = at + len(value)
            else:
                end = at + len(value)
                spans.append((name, at, end))
            pieces.append(value)
            at = end
        return "".join(pieces), tuple(spans)
