"""What the first records of a topic say about the contract, before the flow reads them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from operators.changes.events import KafkaPosition, Upsert
from operators.codec.log_positions import described
from operators.codec.mongodb import Document
from operators.codec.origins import several_tables
from operators.contract.table import TableSection
from operators.errors import FatalError, RecordError
from operators.kafka.log_reader import Record
from operators.rendering.renderer import Rules, origin_of

NULL_FIX = (
    "set replace.null.with.default=false in JsonConverter (value.converter.…) and in the transforms "
    "that have it, or ignore.default.for.nullables=true in AvroConverter"
)


@dataclass(slots=True)
class Peeked:
    """What some records of one topic tell.

    Attributes:
        fits: How the changes of the table are ordered, if a record was found that fits the contract.
        origin: Schema and name of the table in the database.
        nulls: Columns that are NULL in one of the records.
        defaults: Columns that may be NULL, but have a default, as the messages' schema says.
        documents: How many of the rows are MongoDB's documents.
        fields: All fields that these have.
        unwrapped: A transform has left only the row.
        deletes: Its rows say whether they are deleted.
        warnings: What the flow can run with, but its user should know.
    """

    fits: str = ""
    origin: tuple[str, str] | None = None
    nulls: set[str] = field(default_factory=set)
    defaults: set[str] = field(default_factory=set)
    documents: int = 0
    fields: set[str] = field(default_factory=set)
    unwrapped: bool = False
    deletes: bool = False
    warnings: list[str] = field(default_factory=list)


def peek(rules: Rules, records: Sequence[Record]) -> Peeked:
    """Try the contract on records of its topic; a record that fits is enough.

    Raises:
        FatalError: None of them fits, so that the contract is wrong, and not the records; or their
            tombstones name no row of the table.
    """
    found = Peeked()
    first: RecordError | None = None
    keys: RecordError | None = None
    for record in records:
        try:
            for event in _upserts(rules, record):
                if not found.fits:
                    rules.renderer.render(event)
                _look(rules, event, found)
        except RecordError as error:
            first = first or error
            if str(error) == str(_tombstone_error(rules, record)):  # guard: peeked-tombstone
                raise _refused(rules.table, error) from None
        keys = keys or _tombstone_error(rules, record)
    if first is not None and not found.fits:
        raise _refused(rules.table, first)
    if rules.decoder.origins.mixed and not rules.table.source_tables:
        found.warnings.append(several_tables(rules.table))
    if rules.table.key_from == "row" and not any(record[1] for record in records):
        found.warnings += _lost_deletes(rules.table, found)
    if keys is not None:
        found.warnings.append(f"table {rules.table.name}, {keys}")
    found.warnings += default_warnings(rules.table, found.defaults, found.nulls)
    found.warnings += _absent_fields(rules.table, found)
    return found


def _absent_fields(table: TableSection, found: Peeked) -> Iterator[str]:
    """A warning if no document has a field that the contract names: it may be misspelt."""
    named = {*table.template_columns(), *table.columns}
    if found.documents and table.drift.missing is None and (absent := named - found.fields):
        names = ", ".join(f"'{name}'" for name in sorted(absent)[:12])
        yield (
            f"table {table.name}: none of the first {found.documents} documents has {names}, which "
            "counts as NULL. Correct `text` and `columns` if that is misspelt; "
            'drift = { missing = "dead-letter" } refuses documents that lack a field'
        )


def _lost_deletes(table: TableSection, found: Peeked) -> Iterator[str]:
    """A warning if a delete would be a null without key and row."""
    if found.unwrapped and not found.deletes:
        yield (
            f"table {table.name}: its records have no key, and its unwrapped rows no __deleted, so "
            "that a delete names no row, and the row stays. Set "
            "delete.tombstone.handling.mode=rewrite in ExtractNewRecordState, or send whole envelopes"
        )


def default_warnings(
    table: TableSection, defaults: Iterable[str], nulls: Iterable[str]
) -> Iterator[str]:
    """A warning if a converter may have written defaults of columns that the table uses for NULL.

    Args:
        table: The contract's.
        defaults: Columns that may be NULL, and have a default.
        nulls: Columns that were NULL in a message, so that their converter writes NULL.
    """
    columns = sorted(set(defaults).intersection(table.known_columns()).difference(nulls))
    if columns:
        names = ", ".join(f"'{column}'" for column in columns[:12])
        yield (
            f"table {table.name}: Kafka Connect's converters write a column's DEFAULT in place of NULL "
            f"unless they are told not to, and a message does not show it: {names} may be NULL in the "
            f"database, and its default here. {NULL_FIX[0].upper()}{NULL_FIX[1:]}"
        )


def _upserts(rules: Rules, record: Record) -> Iterator[Upsert]:
    offset, key, value, other_key = record
    position = KafkaPosition(rules.table.topic, 0, offset)
    for row_key in rules.decoder.row_keys(key, value):
        event = rules.decoder.event(row_key, value, position, other_key)
        if isinstance(event, Upsert):
            yield event


def _look(rules: Rules, event: Upsert, found: Peeked) -> None:
    columns, source = event.parsed()
    found.unwrapped = found.unwrapped or "op" in source or "connector" not in source
    found.deletes = found.deletes or "deleted" in source
    if not found.fits:
        found.fits = described(source)
        found.origin = origin_of(source, rules.table.topic)
    if isinstance(columns, Document):
        found.documents += 1
        found.fields |= columns.keys()
    found.nulls |= {name for name, value in columns.items() if value is None}
    if isinstance(event.schema, list):
        found.defaults |= {name for name in map(_with_default, event.schema) if name is not None}


def _with_default(schema: dict[str, Any]) -> str | None:
    """The name of a field of Connect's that may be null and has another default; None for others."""
    name = schema.get("field")
    default = schema.get("optional") is True and schema.get("default") is not None
    return name if default and isinstance(name, str) else None


def _tombstone_error(rules: Rules, record: Record) -> RecordError | None:
    """Why a tombstone with this record's key would delete no row, where rows name themselves."""
    raw_key = record[1]
    if rules.table.key_from == "row" and raw_key is not None:
        try:
            rules.decoder.row_keys(raw_key, None)
        except RecordError as error:
            return error
    return None


def _refused(table: TableSection, error: RecordError) -> FatalError:
    return FatalError(
        subject=f"table {table.name}, {error.subject}", cause=error.cause, hint=error.hint
    )
