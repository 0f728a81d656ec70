"""Which kind of message a record's value is: an envelope, an unwrapped row, or about no row at all.

The whole shape decides, never one name: a table may itself have columns called `op`, `source`,
`after`, `payload`, `status` or `ddl`. What fits two kinds is refused with the setting that decides.
"""

from typing import Any

from operators.changes.events import Ignored
from operators.codec.envelope import ENVELOPE_FIELDS, as_ignored, has_marks
from operators.codec.foreign import foreign_format
from operators.codec.row_keys import names_of
from operators.contract.table import TableSection
from operators.errors import RecordError

_TAKE_IT_AS = (
    'say in the contract which it is: shape = "envelope" if Debezium wrote it as it is, '
    'shape = "unwrapped" if a transform left only the row'
)


class Shapes:
    """Tells the kinds of one table's messages apart.

    Args:
        table: Its `shape` decides where it is given; the columns that it names tell a row from a
            message of Debezium's that has some fields of the same names.
    """

    def __init__(self, table: TableSection) -> None:
        self._shape = table.shape
        self._needed = frozenset({*table.key, *table.template_columns(), *table.columns})
        own = self._needed - ENVELOPE_FIELDS
        self._own = own
        # The key's columns are in every row, but only MongoDB's keys may have another name there.
        self._own_key = tuple(column for column in table.key if column in own)
        self._first = self._own_key[0] if self._own_key else "__op"
        self.own_marks = frozenset(name for name in table.known_columns() if name[:2] == "__")
        """Columns of the table that are named like metadata, as the contract says."""

        self.owns_payload = "payload" in table.known_columns()
        """Whether the table has a column that is called like the part of a wrapped message."""

    def is_envelope(self, message: dict[str, Any]) -> bool:
        """Whether a message is one of Debezium's envelopes.

        Raises:
            RecordError: It could be an envelope and a row; or it is one, and the contract says that
                there are none.
        """
        op, source = message.get("op"), message.get("source")
        if type(op) is not str or type(source) is not dict:
            return False
        if self._shape == "envelope":
            return True
        # guard: whole-shape
        if type(source.get("connector")) is not str or "__op" in message or "__deleted" in message:
            return False
        if self._shape == "unwrapped":
            if self._own and self._own.isdisjoint(message):  # guard: envelope-not-unwrapped
                raise RecordError(
                    subject="value",
                    cause='it is an envelope, but the contract says shape = "unwrapped"',
                    hint='take `shape` out of the contract, or say shape = "envelope"',
                )
            return False
        # guard: ambiguous-envelope
        if self._first in message and all(column in message for column in self._own_key):
            raise self._ambiguous("Debezium's envelope")
        return True

    def ignored(self, message: dict[str, Any]) -> Ignored | None:
        """The kind of a message that is no envelope and about no row; None for any other message.

        Raises:
            RecordError: It could be a row as well.
        """
        if has_marks(message):
            return None
        found = as_ignored(message)
        if found is None or not self._needed <= message.keys():
            return found
        if self._shape == "unwrapped":
            return None  # guard: row-like-a-marker
        raise self._ambiguous(f"Debezium's {found.reason}")

    def is_about_no_row(self, message: dict[str, Any]) -> bool:
        """Whether a message is about no row, or about all of them (TRUNCATE).

        Raises:
            RecordError: It could be a row as well.
        """
        if self.is_envelope(message):
            return message["op"] in ("t", "m")
        return self.ignored(message) is not None

    def require_row(self, message: dict[str, Any]) -> None:
        """Refuse a message that is no envelope unless it is known to be an unwrapped row.

        Raises:
            RecordError: It is not; the cause says what it is, if that can be told.
        """
        if self._shape == "unwrapped":
            return
        if self._shape == "auto" and has_marks(message):
            return
        what = foreign_format(message)
        if what is not None:
            raise RecordError(
                subject="value",
                cause=f"it is {what.name}, and no Debezium envelope: it has {names_of(message)}",
                hint=what.hint,
            )
        raise RecordError(
            subject="value",
            cause=f"it is no Debezium envelope: it has {names_of(message)}",
            hint="let ExtractNewRecordState add the fields op, lsn (or file, pos) and "
            'source.sequence, or say shape = "unwrapped" in the contract',
        )

    def row_of(self, message: dict[str, Any]) -> dict[str, Any]:
        """The columns of an unwrapped row, without the metadata beside them."""
        own = self.own_marks
        return {name: each for name, each in message.items() if name[:2] != "__" or name in own}

    def _ambiguous(self, other: str) -> RecordError:
        columns = ", ".join(f"'{name}'" for name in sorted(self._needed)[:12])
        return RecordError(
            subject="value",
            cause=f"it could be {other}, and a row, since it has the table's columns {columns}",
            hint=_TAKE_IT_AS,
        )
