"""Which rows a record is about: by its Kafka key, or by the columns of the row itself."""

from functools import lru_cache

from operators.changes.row_key import RowKey
from operators.codec.envelope import no_key, no_row, source_of
from operators.codec.messages import MessageReader
from operators.codec.origins import Origins
from operators.codec.row_keys import KeyMaker, OtherIdError
from operators.codec.shapes import Shapes
from operators.contract.table import TableSection
from operators.errors import RecordError

KEYS_KEPT = 2**15
"""Size of the cache from Kafka keys to row keys: rows change repeatedly, and reading a key is slow."""


class RecordRows:
    """Finds the rows that the records of one table are about.

    Args:
        table: The table.
        key: Makes its row keys.
        messages: Reads the records' keys and values.
        shapes: Tells what kind of message a value is.
        origins: Tells which physical tables the contract takes.
    """

    def __init__(
        self,
        table: TableSection,
        key: KeyMaker,
        messages: MessageReader,
        shapes: Shapes,
        origins: Origins,
    ) -> None:
        self._takes_some = bool(table.source_tables)
        self._key = key
        self._messages = messages
        self._shapes = shapes
        self._origins = origins
        self._by_row = table.key_from == "row"
        # Only rows that are compared with their records' keys may have keys that are bare values.
        self._bare_key = table.key[0] if self._by_row and len(table.key) == 1 else None
        self._moved = key.types.moved
        self.of_key = lru_cache(KEYS_KEPT)(self._read_key)
        """The row key that a record's key names."""

    def of(self, raw_key: bytes | None, raw_value: bytes | None) -> tuple[RowKey, ...]:
        """The rows that a record is about; empty if it is about no row, or about all (TRUNCATE).

        Raises:
            RecordError: The key is absent, unreadable or too long, or a key column is missing or null.
        """
        if self._by_row:
            try:
                return self._rows_in(raw_key, raw_value)
            except RecordError:
                if raw_value is not None and self._of_other_table(raw_value):
                    return ()
                raise
        if raw_key is not None:
            try:
                return self._with_former(self.of_key(raw_key), raw_key)
            except RecordError:
                # A record about no row may have a key of another form: a logical message, for example.
                # Another table's record may have another key as well.
                if raw_value is not None and (
                    self._about_no_row(raw_value) or self._of_other_table(raw_value)
                ):
                    return ()
                raise
        if raw_value is None or not self._about_no_row(raw_value):
            raise no_key(self._key.subject)
        return ()

    def _with_former(self, row_key: RowKey, raw_key: bytes) -> tuple[RowKey, ...]:
        """The row key last, behind the one that the row may still be stored under."""
        if self._key.types.moved is not self._moved:
            self._moved = self._key.types.moved
            self.of_key.cache_clear()
            row_key = self.of_key(raw_key)
        if not self._moved:
            return (row_key,)
        fields, _ = self._messages.read_key(raw_key, self._bare_key)
        former = self._key.as_written(fields or {})
        return (row_key,) if former is None else (former, row_key)

    def _rows_in(self, raw_key: bytes | None, raw: bytes | None) -> tuple[RowKey, ...]:
        """Row keys from the row's own columns: two if an update changed the key."""
        message, schema = (None, None) if raw is None else self._messages.read(raw)
        if message is None:
            # guard: tombstone-of-keyed-row
            return self._row_of_tombstone(raw_key, written=raw is not None)
        if self._shapes.is_about_no_row(message):
            return ()
        images = (
            (message.get("before"), message.get("after"))
            if self._shapes.is_envelope(message)
            else (message,)
        )
        types = self._messages.types(schema)
        rows = [row for row in images if isinstance(row, dict)]
        keys = [self._key(row, types) for row in rows]
        if not keys:
            raise no_row(message)
        if raw_key is not None:
            self._compare(raw_key, keys)
        former = filter(None, map(self._key.as_written, rows))
        return tuple(dict.fromkeys((*former, *keys)))

    def _row_of_tombstone(self, raw_key: bytes | None, *, written: bool) -> tuple[RowKey, ...]:
        """The row that a tombstone deletes where rows are identified by their own columns.

        Args:
            raw_key: The record's key; without one, Kafka's null follows a delete that named its row.
            written: A converter wrote the null: there is no other message of the delete.
        """
        if raw_key is None:
            if written:  # guard: null-of-no-row
                raise RecordError(
                    subject="value",
                    cause="it is a null without a key: a delete, or a TRUNCATE, that names no row",
                    hint="let ExtractNewRecordState keep the row that was: "
                    "delete.tombstone.handling.mode=rewrite; or send whole envelopes",
                )
            return ()
        try:
            return self._with_former(self.of_key(raw_key), raw_key)
        except RecordError as error:
            raise RecordError(
                subject=self._key.subject,
                cause=f"a tombstone names its row by it alone, and {error.cause}",
                hint='make the key\'s columns those of `key`, and take out key_from = "row"; or, if '
                "deletes come as messages of their own, set tombstones.on.delete=false",
            ) from None

    def _compare(self, raw_key: bytes, keys: list[RowKey]) -> None:
        """Refuse a row whose record has the key of another row: its tombstone would delete that."""
        named: RowKey | None = None
        try:
            named = self.of_key(raw_key)
        except RecordError as error:
            if not isinstance(error, OtherIdError):
                return  # it says nothing of the row
        if named not in keys:  # guard: key-names-the-row
            raise RecordError(
                subject=self._key.subject,
                cause="it names another row than the columns of the row itself do",
                hint="let `key` in the contract name the columns that the records' keys are made of, "
                "in both written alike",
            )

    def _read_key(self, raw: bytes) -> RowKey:
        fields, schema = self._messages.read_key(raw, self._bare_key)
        if fields is None:
            raise no_key(self._key.subject)
        return self._key(fields, None if schema is None else self._messages.types(schema))

    def _about_no_row(self, raw: bytes) -> bool:
        try:
            message, _ = self._messages.read(raw)
            return message is not None and self._shapes.is_about_no_row(message)
        except RecordError:
            return False

    def _of_other_table(self, raw: bytes) -> bool:
        """Whether a record is of a physical table that the contract does not take."""
        if not self._takes_some:
            return False
        try:
            message, _ = self._messages.read(raw)
            if message is None:
                return False
            enveloped = self._shapes.is_envelope(message)
            return not self._origins.takes(message["source"] if enveloped else source_of(message))
        except RecordError:
            return False
