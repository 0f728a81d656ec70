"""A row's columns → the text that is embedded and the fields that are mirrored, under the contract."""

import logging
import string
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from operators.changes.events import Delete, Upsert
from operators.changes.rows import PartialRow, Row, Spans
from operators.changes.text_hash import text_hash
from operators.codec.decoder import Decoder
from operators.codec.row_keys import names_of
from operators.codec.sql_names import sql_name
from operators.codec.text import as_text
from operators.contract.table import MAX_VARCHAR_BYTES, ColumnSpec, TableSection
from operators.errors import FatalError, RecordError
from operators.rendering.added_columns import AddedColumns
from operators.rendering.columns import MISSING, ColumnReader, Types
from operators.rendering.field_values import as_field, field_maker
from operators.rendering.filters import compile_filter, is_soft_deleted
from operators.rendering.masks import Masker

logger = logging.getLogger(__name__)

MAX_SHAPES_TOLD = 32
"""How many column sets of a topic are logged; one with many kinds of rows would fill the log."""

Rendered: TypeAlias = Row | PartialRow | Delete
"""A row that the filter or a soft delete removes becomes a delete of the same version."""


class Renderer:
    """Renders the rows of one table; parses its template once.

    Filter and soft delete come first, then the template and the mirrored fields. All of them read the
    row through `ColumnReader`.
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
        self._literals: list[tuple[str, str | None]] = [
            (literal, name) for literal, name, _, _ in string.Formatter().parse(table.text)
        ]
        self._template = table.template_columns()
        self._fields = [
            (column, spec.field or column, spec) for column, spec in table.columns.items()
        ]
        self._keep = compile_filter(table.filter) if table.filter else None
        self._filtered = tuple(dict.fromkeys(condition.column for condition in table.filter))
        self._empty_is_gone = table.empty_text == "skip"
        self._cut = table.chunks is not None
        self._known = table.known_columns()
        # No masks, encodings, filter or soft delete, which would have to look at each value.
        self._plain = added is None and not (
            table.masks or table.encodings or table.filter or table.soft_delete
        )
        self._makers = [(column, field, field_maker(spec)) for column, field, spec in self._fields]
        self._seen: frozenset[str] = frozenset()
        self._shapes: set[frozenset[str]] = set()

    def render(self, event: Upsert) -> Rendered:
        """The row as the store will hold it, except for its vector.

        Raises:
            RecordError: A column is not in the row, has a value that its field cannot hold, or the
                text is too long to be stored.
            FatalError: The table's columns changed, and the contract says to halt.
        """
        columns = event.columns
        if self._plain and event.schema is None and columns.keys() == self._seen:
            row = self._plain_row(event, columns)
            if row is not None:
                return row
        types, read = self._reader.types(event), self._reader.value
        if (self._keep or self.table.soft_delete) and not self._is_there(columns, types):
            return _gone(event)
        texts: dict[str, str | None] = {}
        missing: dict[str, None] = {}
        mirrored = self._fields
        if self._added is not None or columns.keys() != self._seen:
            mirrored = [*mirrored, *self._drifted(columns, types)]
        for column in self._template:
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
                origin_of(event),
                event.lone,
                None if event.old_key is None else event.version,
            )
        return self._row(event, texts, fields)

    def _plain_row(self, event: Upsert, columns: Mapping[str, Any]) -> Rendered | None:
        """What `render` makes of a row with nothing but plain values, as nearly all have; else None."""
        lengths = self._reader.lengths
        pieces: list[str] = []
        spans: list[tuple[str, int, int]] = []
        fields: dict[str, Any] = {}
        at = 0
        try:
            for literal, name in self._literals:
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
            return None  # and why is told by the long way
        return self._finished(event, "".join(pieces), tuple(spans), fields)

    def complete(
        self, partial: PartialRow, texts: Mapping[str, str | None], fields: Mapping[str, Any]
    ) -> Rendered:
        """The row with what another version holds of its missing columns.

        Args:
            partial: A row of this table.
            texts: Columns of the template, as text.
            fields: Mirrored columns, by field name.

        Returns:
            The whole row, or a partial one that lacks less.

        Raises:
            RecordError: The text is too long to be stored.
        """
        wanted = {column for column in partial.missing if column in self._template}
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
        """The same with values as the database has them; they are masked here.

        Raises:
            RecordError: A value does not fit its field, or the text is too long.
        """
        read = self._reader.value
        there = {c: read(values, {}, c) for c in partial.missing if c in values}
        return self._complete_from(partial, there)

    def complete_from_event(self, partial: PartialRow, event: Upsert) -> Rendered:
        """The same with what an earlier change said of the row, were it kept out of the collection.

        Raises:
            RecordError: A value is not of its type or does not fit its field, or the text is too long.
        """
        columns, types, read = event.columns, self._reader.types(event), self._reader.value
        told = {c: read(columns, types, c) for c in partial.missing if c in columns}
        return self._complete_from(
            partial, {c: value for c, value in told.items() if value is not MISSING}
        )

    def _complete_from(self, partial: PartialRow, there: Mapping[str, Any]) -> Rendered:
        texts = {c: self._text(c, v) for c, v in there.items()}
        fields: dict[str, Any] = {}
        for column, field, spec in self._mirrored():
            if column in there:
                value = there[column]
                try:
                    fields[field] = None if value is None else as_field(value, spec)
                except (ValueError, TypeError, OverflowError) as error:
                    fields[field] = self._reader.retyped(partial.row_key, column, spec.type, error)
        return self.complete(partial, texts, fields)

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
        return self._finished(event, *self._composed(texts), fields)

    def _finished(
        self, event: Upsert | PartialRow, text: str, spans: Spans, fields: Mapping[str, Any]
    ) -> Row | Delete:
        if self._empty_is_gone and not text.strip():
            return _gone(event)
        if not self._cut:
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
            event.lone,
        )

    def _composed(self, texts: Mapping[str, str | None]) -> tuple[str, Spans]:
        pieces: list[str] = []
        spans: list[tuple[str, int, int]] = []
        at = 0
        for literal, name in self._literals:
            if literal:
                pieces.append(literal)
                at += len(literal)
            if name is None:
                continue
            value = texts[name]
            if value is None:
                spans.append((name, -1, -1))
                value = self.table.defaults.get(name, "")
                end = at + len(value)
            else:
                end = at + len(value)
                spans.append((name, at, end))
            pieces.append(value)
            at = end
        return "".join(pieces), tuple(spans)

    def _is_there(self, row: Mapping[str, Any], types: Types) -> bool:
        """Whether the row passes the filter and is not marked as deleted."""
        columns = [*self._filtered, *filter(None, (self.table.soft_delete,))]
        values = {column: self._reader.value(row, types, column) for column in columns}
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

    def _drifted(self, row: Mapping[str, Any], types: Types) -> list[tuple[str, str, ColumnSpec]]:
        """Apply `drift.added` to columns that the contract does not name; log each new set of columns.

        Returns:
            Those of them that are mirrored.
        """
        policy = self.table.drift.added
        columns = frozenset(row)
        unknown = columns - self._known
        if unknown and policy in ("dead-letter", "halt"):
            raise (FatalError if policy == "halt" else RecordError)(
                subject=f"column {names_of(sorted(unknown))} of {self.table.topic}",
                cause=f'the contract does not name it, and says drift.added = "{policy}"',
                hint="mirror it in `columns`, or list it in `unmirrored`",
            )
        before, self._seen = self._seen, columns
        if before and columns not in self._shapes and len(self._shapes) < MAX_SHAPES_TOLD:
            logger.warning(
                "The columns of %s changed: %s came, %s went (drift.added = %s)",
                self.table.topic,
                names_of(sorted(columns - before)),
                names_of(sorted(before - columns)),
                policy,
            )
        if len(self._shapes) < MAX_SHAPES_TOLD:
            self._shapes.add(columns)
        if self._added is None:
            return []
        for column in sorted(unknown - self._added.specs.keys()):
            value = self._reader.value(row, types, column)
            if value is not None and value is not MISSING:
                self._added.add(column, value)
        specs = self._added.specs.items()
        # Only unknown ones: a column that the contract names by now may still have its added field.
        return [(name, name, spec) for name, spec in specs if name in unknown]

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
    return Delete(event.row_key, event.version, event.position, event.source_ts_ms, event.lone)


def origin_of(event: Upsert) -> tuple[str, str]:
    """Schema and name of the table in the database."""
    source = event.source
    schema, table = source.get("schema"), source.get("table")
    parts = event.position.topic.split(".")
    return (
        schema if isinstance(schema, str) else (parts[-2] if len(parts) > 1 else ""),
        table if isinstance(table, str) and table else parts[-1],
    )
