"""A row's columns → the text that is embedded and the fields that are mirrored, under the contract."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from operators.changes.events import Delete, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import Follows, PartialRow, Row, Spans
from operators.changes.text_hash import text_hash
from operators.codec.decoder import Decoder
from operators.codec.sql_names import sql_name
from operators.codec.text import as_text
from operators.contract.table import MAX_VARCHAR_BYTES, ColumnSpec, TableSection
from operators.errors import RecordError
from operators.rendering.added_columns import AddedColumns
from operators.rendering.columns import MISSING, ColumnReader, Reads, Types
from operators.rendering.drift import ColumnDrift
from operators.rendering.fast_rows import FastRows
from operators.rendering.field_values import as_field
from operators.rendering.filters import compile_filter, is_soft_deleted
from operators.rendering.masks import Masker
from operators.rendering.template import TextTemplate

Rendered: TypeAlias = Row | PartialRow | Delete
"""A row that the filter or a soft delete removes becomes a delete of the same version."""


class Renderer:
    """Renders the rows of one table; parses its template once.

    Filter and soft delete come first, then the template and the mirrored fields. All of them read the
    row through `ColumnReader`.

    Threads: the worker renders, and owns `_drift`, which rendering alone looks at. Lanes complete rows
    meanwhile; what they share with the worker is the fields of `AddedColumns`.
    """

    def __init__(
        self,
        table: TableSection,
        masker: Masker | None = None,
        added: AddedColumns | None = None,
    ) -> None:
        self.table = table
        self._name = table.name
        self._added = added
        self._reader = ColumnReader(table, masker)
        self._template = TextTemplate(table)
        self._text_columns = table.template_columns()
        self._fields = [
            (column, spec.field or column, spec) for column, spec in table.columns.items()
        ]
        self._keep = compile_filter(table.filter) if table.filter else None
        self._filtered = tuple(dict.fromkeys(condition.column for condition in table.filter))
        self._empty_is_gone = table.empty_text == "skip"
        self._chunked = table.chunks is not None
        self._drift = ColumnDrift(table, added)
        self._fast = (
            FastRows(table, self._template, self._reader.lengths)
            if added is None and FastRows.can_read(table)
            else None
        )

    def render(self, event: Upsert) -> Rendered:
        """The row as the store will hold it, except for its vector.

        Raises:
            RecordError: A column is not in the row, has a value that its field cannot hold, or the
                text is too long to be stored.
            FatalError: The table's columns changed, and the contract says to halt.
        """
        columns, source = event.parsed()
        if self._fast is not None and event.schema is None and columns.keys() == self._drift.seen:
            found = self._fast.read(columns)
            if found is not None:
                return self._finished(event, *found)
        types, read = self._reader.types(event), self._reader.reader(event)
        if (self._keep or self.table.soft_delete) and not self._is_there(columns, types, read):
            return _gone(event)
        texts: dict[str, str | None] = {}
        missing: dict[str, None] = {}
        mirrored = self._fields
        if self._added is not None or columns.keys() != self._drift.seen:
            mirrored = [*mirrored, *self._drift.added_fields(columns, types, read)]
        for column in self._text_columns:
            value = read(columns, types, column)
            if type(value) is str:
                texts[column] = value
            elif value is MISSING:
                missing[column] = None
            else:
                texts[column] = self._text(column, value)
        fields: dict[str, Any] = {}
        for column, field, spec in mirrored:
            value = read(columns, types, column)
            if value is MISSING:
                missing[column] = None
                continue
            try:
                fields[field] = None if value is None else as_field(value, spec)
            except (ValueError, TypeError, OverflowError) as error:
                fields[field] = self._reader.retyped(event.row_key, column, spec.type, error)
        if missing:
            return PartialRow(
                event.row_key,
                event.version,
                event.position,
                event.source_ts_ms,
                event.op,
                self.table.name,
                texts,
                fields,
                tuple(missing),
                event.old_key,
                origin_of(source, event.position.topic),
                event.unpositioned,
                Follows.UNKNOWN if event.old_key is None else event.version,
            )
        return self._row(event, texts, fields)

    def complete(
        self, partial: PartialRow, texts: Mapping[str, str | None], fields: Mapping[str, Any]
    ) -> Rendered:
        """The row, completed with another version's values for its missing columns.

        Args:
            partial: A row of this table.
            texts: Columns of the template, as text.
            fields: Mirrored columns, by field name.

        Returns:
            A complete row, or a partial one that lacks fewer columns.

        Raises:
            RecordError: The text is too long to be stored.
        """
        wanted = {column for column in partial.missing if column in self._text_columns}
        new_texts = {**partial.texts, **{c: t for c, t in texts.items() if c in wanted}}
        names = {
            column: field for column, field, _ in self._mirrored() if column in partial.missing
        }
        new_fields = {
            **partial.columns,
            **{field: fields[field] for field in names.values() if field in fields},
        }
        missing = tuple(
            column
            for column in partial.missing
            if (column in wanted and column not in new_texts)
            or (column in names and names[column] not in new_fields)
        )
        if missing:
            return partial._replace(texts=new_texts, columns=new_fields, missing=missing)
        return self._row(partial, new_texts, new_fields)

    def complete_from_values(self, partial: PartialRow, values: Mapping[str, Any]) -> Rendered:
        """The row, completed with values from the database, which are masked here.

        Raises:
            RecordError: A value does not fit its field, or the text is too long.
        """
        read = self._reader.known
        there = {c: read(values, c) for c in partial.missing if c in values}
        return self.complete(partial, *self._texts_and_fields(partial.row_key, there))

    def values_in(
        self, event: Upsert, columns: Iterable[str]
    ) -> tuple[dict[str, str | None], dict[str, Any]]:
        """The values that a change has for some columns, whether or not its row can be rendered.

        Returns:
            Texts by column and fields by field name, as `complete` takes them, without the columns
            that Debezium left out of this change too.

        Raises:
            RecordError: A value is not of its type or does not fit its field, or there is no such
                column.
        """
        row, _ = event.parsed()
        types, read = self._reader.types(event), self._reader.reader(event)
        values = {column: read(row, types, column) for column in columns}
        there = {column: value for column, value in values.items() if value is not MISSING}
        return self._texts_and_fields(event.row_key, there)

    def _texts_and_fields(
        self, row_key: RowKey, values: Mapping[str, Any]
    ) -> tuple[dict[str, str | None], dict[str, Any]]:
        """Values as `ColumnReader` reads them, as text and by field name."""
        texts = {c: self._text(c, value) for c, value in values.items() if c in self._text_columns}
        fields: dict[str, Any] = {}
        for column, field, spec in self._mirrored():
            if column in values:
                value = values[column]
                try:
                    fields[field] = None if value is None else as_field(value, spec)
                except (ValueError, TypeError, OverflowError) as error:
                    fields[field] = self._reader.retyped(row_key, column, spec.type, error)
        return texts, fields

    def left_out(self, partial: PartialRow, why: str) -> RecordError:
        """The error for a row that cannot be completed.

        Args:
            partial: A row of this table.
            why: What was tried, as a clause.
        """
        columns = ", ".join(f"'{column}'" for column in partial.missing)
        return RecordError(
            subject=f"column {columns} of {self.table.topic}",
            cause=f"Debezium left the unchanged large value out (TOAST), and {why}",
            hint=f"ALTER TABLE {sql_name(partial.origin)} REPLICA IDENTITY FULL, or give "
            "the database's address, dsn in [source], so that it can be asked",
        )

    def _row(
        self, event: Upsert | PartialRow, texts: Mapping[str, str | None], fields: Mapping[str, Any]
    ) -> Row | Delete:
        return self._finished(event, *self._template.compose(texts), fields)

    def _finished(
        self, event: Upsert | PartialRow, text: str, spans: Spans, fields: Mapping[str, Any]
    ) -> Row | Delete:
        if self._empty_is_gone and not text.strip():
            return _gone(event)
        if not self._chunked:
            encoded = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
            if encoded > MAX_VARCHAR_BYTES:  # guard: text-bytes
                raise RecordError(
                    subject=str(event.row_key),
                    cause=f"its text has {encoded:,} bytes; Milvus stores up to {MAX_VARCHAR_BYTES:,}",
                    hint="cut it into chunks: chunks = { max_tokens = 256, overlap_tokens = 32 }",
                )
        return Row(
            event.row_key,
            event.version,
            event.position,
            event.source_ts_ms,
            event.op,
            self._name,
            text,
            text_hash(text),
            fields,
            spans,
            event.unpositioned,
        )

    def _is_there(self, row: Mapping[str, Any], types: Types, read: Reads) -> bool:
        """Whether the row passes the filter and is not marked as deleted."""
        columns = [*self._filtered, *filter(None, (self.table.soft_delete,))]
        values = {column: read(row, types, column) for column in columns}
        for column, value in values.items():
            if value is MISSING:
                raise RecordError(
                    subject=f"column '{column}' of {self.table.topic}",
                    cause="the filter needs it, and Debezium left the unchanged large value out",
                    hint=f"ALTER TABLE {self.table.name} REPLICA IDENTITY FULL",
                )
        if self._keep is not None and not self._keep(values):
            return False
        marker = self.table.soft_delete
        return marker is None or not is_soft_deleted(values[marker])

    def _mirrored(self) -> list[tuple[str, str, ColumnSpec]]:
        extra = {} if self._added is None else self._added.specs
        return [*self._fields, *((name, name, spec) for name, spec in extra.items())]

    def _text(self, column: str, value: Any) -> str | None:
        try:
            return None if value is None else as_text(value)
        except (ValueError, RecursionError) as error:
            raise RecordError(
                subject=f"column '{column}' of {self.table.topic}",
                cause=f"it has no text: {error}",
                hint="leave the column out of the template",
            ) from None


class Rules(NamedTuple):
    """How the messages of one topic are read and rendered."""

    table: TableSection
    decoder: Decoder
    renderer: Renderer


def _gone(event: Upsert | PartialRow) -> Delete:
    return Delete(
        event.row_key, event.version, event.position, event.source_ts_ms, event.unpositioned
    )


def origin_of(source: Mapping[str, Any], topic: str) -> tuple[str, str]:
    """Schema and name of the table in the database.

    Args:
        source: Of an envelope.
        topic: Its topic, whose name tells where the source does not.
    """
    schema, table = source.get("schema"), source.get("table")
    parts = topic.split(".")
    return (
        schema if isinstance(schema, str) else (parts[-2] if len(parts) > 1 else ""),
        table if isinstance(table, str) and table else parts[-1],
    )
