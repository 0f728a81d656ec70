"""Columns that a table has and the contract does not name: `drift.added`, and what is logged of it."""

import logging
from collections.abc import Mapping
from typing import Any

from operators.codec.row_keys import names_of
from operators.contract.table import ColumnSpec, TableSection
from operators.errors import FatalError, RecordError
from operators.rendering.added_columns import AddedColumns
from operators.rendering.columns import MISSING, Reads, Types

logger = logging.getLogger(__name__)

MAX_SHAPES_LOGGED = 32
"""How many column sets of a topic are logged; one with many kinds of rows would fill the log."""


class ColumnDrift:
    """Follows which columns the rows of one table have.

    Args:
        table: The contract's.
        added: Gives fields to new columns; None if `drift.added` is not "add".

    Attributes:
        seen: The columns of the row that was looked at last.
    """

    def __init__(self, table: TableSection, added: AddedColumns | None) -> None:
        self._table = table
        self._added = added
        self._named = table.known_columns()
        self._shapes: set[frozenset[str]] = set()
        self.seen: frozenset[str] = frozenset()

    def added_fields(
        self, row: Mapping[str, Any], types: Types, read: Reads
    ) -> list[tuple[str, str, ColumnSpec]]:
        """Apply `drift.added` to columns that the contract does not name; log each new set of columns.

        Args:
            row: All its columns.
            types: Their types.
            read: Reads one of them: a method of `ColumnReader`.

        Returns:
            Column, field and specification of each of them that is mirrored.

        Raises:
            RecordError: There is such a column, and the contract says "dead-letter".
            FatalError: The same, if it says "halt".
        """
        policy = self._table.drift.added
        columns = frozenset(row)
        unknown = columns - self._named
        if unknown and policy in ("dead-letter", "halt"):
            raise (FatalError if policy == "halt" else RecordError)(
                subject=f"column {names_of(sorted(unknown))} of {self._table.topic}",
                cause=f'the contract does not name it, and says drift.added = "{policy}"',
                hint="mirror it in `columns`, or list it in `unmirrored`",
            )
        self._note(columns)
        if self._added is None:
            return []
        for column in sorted(unknown - self._added.specs.keys()):
            value = read(row, types, column)
            if value is not None and value is not MISSING:
                self._added.add(column, value)
        specs = self._added.specs.items()
        # Only unknown ones: a column that the contract names by now may still have its added field.
        return [(name, name, spec) for name, spec in specs if name in unknown]

    def _note(self, columns: frozenset[str]) -> None:
        before, self.seen = self.seen, columns
        if len(self._shapes) >= MAX_SHAPES_LOGGED or columns in self._shapes:
            return
        self._shapes.add(columns)
        if before:
            logger.warning(
                "The columns of %s changed: %s came, %s went (drift.added = %s)",
                self._table.topic,
                names_of(sorted(columns - before)),
                names_of(sorted(before - columns)),
                self._table.drift.added,
            )
