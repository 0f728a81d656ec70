"""Columns that are added to a table while it is synced, and the fields that mirror them."""

import logging
import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from operators.contract.field_names import problem_with
from operators.contract.table import (
    MAX_VARCHAR_BYTES,
    PROVENANCE_PREFIX,
    RESERVED_FIELDS,
    ColumnSpec,
    TableSection,
)
from operators.errors import RecordError
from operators.retry import RetryPolicy
from operators.store.protocol import VectorStore

logger = logging.getLogger(__name__)


class AddedColumns:
    """The columns of a table that the contract does not name, and the fields that mirror them.

    A column gets its field at its first value that is not NULL. The value decides the field's type:
    bool, int64 for whole numbers, double, json for arrays and objects, varchar for everything else.

    Threads: the worker adds, under `_lock`, and replaces `specs` as a whole; lanes read it.

    Args:
        table: Its policy is `drift.added = "add"`.
        store: Holds its collection, on which `ensure` was called before.
        retry: For calls to the store.
    """

    def __init__(self, table: TableSection, store: VectorStore, retry: RetryPolicy) -> None:
        self._table = table
        self._store = store
        self._retry = retry
        self._lock = threading.Lock()
        named = set(table.fields().values())
        self.specs: Mapping[str, ColumnSpec] = {
            name: spec for name, spec in store.fields(table.collection).items() if name not in named
        }

    def add(self, column: str, value: Any) -> None:
        """Add a field to the collection for a column, by one canonical value of it that is not NULL.

        Raises:
            RecordError: No field can have the column's name.
            FatalError: The store cannot add fields, or has one of that name with another type.
        """
        reserved = column in RESERVED_FIELDS or column.startswith(PROVENANCE_PREFIX)
        taken = column in self._table.fields().values()
        if reserved or taken or problem_with(column):
            raise RecordError(
                subject=f"column '{column[:60]}' of {self._table.topic}",
                cause="it is new, and no field of the collection can have its name",
                hint="mirror it in `columns` under another `field`, or list it in `unmirrored`",
            )
        spec = _spec_for(value)
        with self._lock:
            if column in self.specs:
                return
            self._retry.call(lambda: self._store.add_field(self._table.collection, column, spec))
            self.specs = {**self.specs, column: spec}
        logger.warning(
            "Table %s has a new column '%s'; collection %s has a field %s for it now",
            self._table.name,
            column,
            self._table.collection,
            spec.type,
        )


def _spec_for(value: Any) -> ColumnSpec:
    match value:
        case bool():
            return ColumnSpec(type="bool")
        case int():
            return ColumnSpec(type="int64")
        case float():
            return ColumnSpec(type="double")
        case list() | dict():
            return ColumnSpec(type="json")
        case Decimal() | _:
            return ColumnSpec(type="varchar", max_length=MAX_VARCHAR_BYTES)
