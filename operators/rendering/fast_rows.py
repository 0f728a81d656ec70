"""The fast path to the text and fields of a row with nothing but plain values, as nearly all rows have.

`Renderer.render` without it gives the same row, and is what counts. This only saves time: without it,
decoding and rendering a record takes 12 % longer, and 6 % longer without `_field_maker` alone
(`benchmarks.fast_paths`). The other fast path is `operators.codec.fast_versions`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from operators.changes.rows import Spans
from operators.contract.table import ColumnSpec, TableSection
from operators.rendering.field_values import INT_LIMITS, as_field
from operators.rendering.template import TextTemplate


class FastRows:
    """Reads plain rows of one table.

    Args:
        table: Without masks, encodings, filter and soft delete, each of which looks at values.
        template: The table's.
        lengths: Lengths of the placeholder's texts: a text of such a length is not plain.
    """

    def __init__(
        self, table: TableSection, template: TextTemplate, lengths: frozenset[int]
    ) -> None:
        self._pieces = template.pieces
        self._makers = [
            (column, spec.field or column, _field_maker(spec))
            for column, spec in table.columns.items()
        ]
        self._lengths = lengths

    @staticmethod
    def can_read(table: TableSection) -> bool:
        """Whether the contract needs nothing but the plain values of the table's rows."""
        return not (table.masks or table.encodings or table.filter or table.soft_delete)

    def read(self, columns: Mapping[str, Any]) -> tuple[str, Spans, dict[str, Any]] | None:
        """Text, spans and fields of a row without a schema; None if a value is not plain, or wrong."""
        lengths = self._lengths
        pieces: list[str] = []
        spans: list[tuple[str, int, int]] = []
        fields: dict[str, Any] = {}
        at = 0
        try:
            for literal, name in self._pieces:
                if literal:
                    pieces.append(literal)
                    at += len(literal)
                if name is not None:
                    value = columns[name]
                    if type(value) is not str or len(value) in lengths:  # guard: left-out-plain
                        return None
                    pieces.append(value)
                    end = at + len(value)
                    spans.append((name, at, end))
                    at = end
            for column, field, make in self._makers:
                value = columns[column]
                kind = type(value)
                # guard: left-out-plain-field
                if (kind is str and len(value) in lengths) or kind is list or kind is dict:
                    return None
                fields[field] = make(value)
        except (KeyError, ValueError, TypeError, OverflowError):
            return None  # the slow path finds out why, and says it
        return "".join(pieces), tuple(spans), fields


def _field_maker(spec: ColumnSpec) -> Callable[[Any], Any]:
    """`as_field` for one column, without a call for the most common values."""
    if spec.type == "varchar":
        length = spec.max_length

        def text(value: Any) -> Any:
            if type(value) is str and len(value) <= length and value.isascii():
                return value
            return as_field(value, spec)

        return text
    if spec.type in INT_LIMITS:
        limit = INT_LIMITS[spec.type]

        def integer(value: Any) -> Any:
            if type(value) is int and -limit <= value < limit:
                return value
            return as_field(value, spec)

        return integer
    return lambda value: as_field(value, spec)
