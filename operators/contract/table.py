"""One table of the contract: its topic, how its rows become entities, what to do if columns change.

The models are frozen and refuse unknown keys, like those of `operators.contract.sections`, which
contain them.
"""

import json
import string
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

import regex
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from operators.contract.field_names import MAX_COLUMNS, MAX_FIELDS, another_name, problem_with
from operators.printable import without_credentials

RESERVED_FIELDS = frozenset({"id", "vector", "text"})
"""Fields of every collection besides the provenance fields, which all start with `rv_`."""

LEDGER = "rowvec_ledger"
"""The collection where Rowvec keeps what it knows of the others."""

PROVENANCE_PREFIX = "rv_"

MAX_PATTERN = 10_000
"""Characters of a mask's pattern; a longer one is none that a person wrote."""

MAX_VARCHAR_BYTES = 65_535
"""A Milvus VARCHAR field holds no more; the limit counts bytes of UTF-8."""

UNAVAILABLE = "__debezium_unavailable_value"
"""Debezium's default placeholder for a large (TOAST) value that an update did not change."""

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]

ColumnType = Literal["varchar", "int64", "int32", "double", "float", "bool", "json"]

Encoding = Annotated[
    str,
    Field(
        pattern=r"^(decimal\(\d{1,4}\)|date-days|date-iso|(time|timestamp)-(ms|us|ns|iso)"
        r"|bytes-(base64|hex)|json)$"
    ),
]
"""How a column's values are written in messages that carry no schema; see `codec.logical_types`."""


class Section(BaseModel):
    """A part of the contract. Neither its repr nor an error of its validation shows a credential."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, without_credentials(value) if isinstance(value, str) else value


class ColumnSpec(Section):
    """A column that is mirrored into a typed scalar field; `field` renames it.

    Attributes:
        scalars: Of a json column, how a text, number or boolean is stored. `keep`: as it is, where the
            Milvus holds that. `wrap`: as the object `{"value": …}`, which every Milvus holds.
    """

    type: ColumnType
    max_length: int = Field(default=4_096, ge=1, le=MAX_VARCHAR_BYTES)
    field: Identifier | None = None
    scalars: Literal["keep", "wrap"] = "keep"

    @model_validator(mode="after")
    def _scalars_of_json(self) -> Self:
        if self.scalars != "keep" and self.type != "json":
            raise ValueError("only a column of type json has `scalars`")
        return self


Scalar = bool | int | float | str


class Condition(Section):
    """One test of one column. NULL passes only `null = true` and `none_of`."""

    column: str = Field(min_length=1)
    equals: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = None
    none_of: tuple[Scalar, ...] | None = None
    null: bool | None = None
    at_least: int | float | str | None = None
    at_most: int | float | str | None = None

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        tests = [
            n for n in type(self).model_fields if n != "column" and getattr(self, n) is not None
        ]
        if len(tests) != 1:
            raise ValueError(
                "needs one of equals, one_of, none_of, null, at_least, at_most"
                + (f"; it has {' and '.join(tests)}" if tests else "")
            )
        return self


class Mask(Section):
    """How a column's value is replaced before any other code sees it.

    `drop` makes it NULL; `hmac` replaces it by a keyed digest, so that equal values stay equal;
    `redact` replaces whatever `patterns` match in it.
    """

    kind: Literal["drop", "hmac", "redact"]
    patterns: tuple[str, ...] = ()
    replacement: str = "█"

    @field_validator("patterns")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for number, pattern in enumerate(patterns, 1):
            which = f"pattern {number} ('{pattern[:40]}{'…' if len(pattern) > 40 else ''}')"
            if len(pattern) > MAX_PATTERN:
                raise ValueError(f"{which} has more than {MAX_PATTERN:,} characters; split it")
            try:
                regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"{which} is no regular expression: {error}") from None
            except (RecursionError, MemoryError, OverflowError, ValueError):
                raise ValueError(
                    f"{which} is nested too deep, or repeats too much; make it simpler"
                ) from None
        return patterns

    @model_validator(mode="after")
    def _patterns_where_needed(self) -> Self:
        if (self.kind == "redact") != bool(self.patterns):
            raise ValueError(
                "redact needs `patterns`" if self.kind == "redact" else "only redact has `patterns`"
            )
        return self


class Chunks(Section):
    """How a long text is split, in the model's tokens; each chunk repeats the end of the one before."""

    max_tokens: int = Field(ge=8)
    overlap_tokens: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _overlap_is_less(self) -> Self:
        if self.overlap_tokens * 2 > self.max_tokens:
            raise ValueError("overlap_tokens must be at most half of max_tokens")
        return self


class Drift(Section):
    """What to do when the table's columns no longer match the contract.

    Attributes:
        added: The row has a column that the contract does not name. `ignore` leaves it out; `add`
            gives the collection a nullable field for it; `dead-letter` and `halt` make the contract
            strict: every column must be named, unwanted ones in `unmirrored`.
        missing: The row lacks a column that the contract names: dropped or renamed in SQL. None means
            `dead-letter`, and `null` for MongoDB's documents, which leave out what has no value.
        retyped: A value does not fit its field.
    """

    added: Literal["ignore", "add", "dead-letter", "halt"] = "ignore"
    missing: Literal["dead-letter", "null", "halt"] | None = None
    retyped: Literal["dead-letter", "null", "halt"] = "dead-letter"


def _short_column(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _short_mask(value: Any) -> Any:
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, dict) and "redact" in value:
        patterns = value["redact"]
        patterns = (patterns,) if isinstance(patterns, str) else patterns
        rest = {name: each for name, each in value.items() if name != "redact"}
        return {"kind": "redact", "patterns": patterns, **rest}
    return value


def _template_columns(template: str) -> Iterator[str]:
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion:
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(
                f"'{{{shown}}}' is not a plain column name; write {{column}}, and {{{{ }}}} for braces"
            )
        yield name


def _check_template(template: str) -> str:
    try:
        columns = list(_template_columns(template))
    except ValueError as error:
        raise ValueError(f"not a template: {error}") from None
    if not columns:
        raise ValueError('names no column; write the columns to embed in braces, like "{title}"')
    return template


class TableSection(Section):
    """One table, its topic, and the collection that is kept equal to it.

    Attributes:
        key: Columns of the primary key.
        source_tables: The physical tables that the topic's rows may come from, as parts of this one
            (partitions, shards): patterns with `*` over `database.schema.table`, as the message's
            `source` names them, or over `server/database.schema.table`. What matches none is ignored.
            Keys must be unique over all of them. Empty: the topic should have one table.
        key_from: `record`: the Kafka key holds it. `row`: the table has no primary key; `key` names
            columns that identify its rows, and REPLICA IDENTITY FULL gives their old values.
        format: How messages are encoded; `auto` decides for each message.
        shape: `envelope`: Debezium's own; `unwrapped`: after ExtractNewRecordState; `auto` decides
            for each message.
        replica_identity: `full`: PostgreSQL logs whole old rows (REPLICA IDENTITY FULL), as it must if
            the primary key is deferrable. Then rows that swap keys in one statement are told apart.
        unavailable_value: The connector's `unavailable.value.placeholder`.
        defaults: Text for a template column that is NULL; without an entry it is empty.
        filter: Rows that fail any of these conditions are kept out of the collection.
        soft_delete: A column that marks a row as deleted, by any value but NULL, false, 0 and "".
        encodings: How columns are written, for messages without a schema.
        unmirrored: Columns that are known but not wanted; see `Drift.added`.
    """

    topic: str = Field(min_length=1, max_length=249)
    collection: Identifier
    key: tuple[str, ...] = Field(min_length=1)
    text: Annotated[str, AfterValidator(_check_template)]
    columns: dict[str, Annotated[ColumnSpec, BeforeValidator(_short_column)]] = {}
    name: str = ""
    metric: Literal["COSINE", "IP", "L2"] = "COSINE"
    generation: int = Field(default=0, ge=0, le=0xFFFF)
    source_tables: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    key_from: Literal["record", "row"] = "record"
    format: Literal["auto", "json", "avro", "protobuf"] = "auto"
    shape: Literal["auto", "envelope", "unwrapped"] = "auto"
    replica_identity: Literal["default", "full"] = "default"
    unavailable_value: str = Field(default=UNAVAILABLE, min_length=1)
    defaults: dict[str, str] = {}
    empty_text: Literal["keep", "skip"] = "keep"
    filter: tuple[Condition, ...] = ()
    soft_delete: str | None = None
    masks: dict[str, Annotated[Mask, BeforeValidator(_short_mask)]] = {}
    chunks: Chunks | None = None
    encodings: dict[str, Encoding] = {}
    drift: Drift = Drift()
    unmirrored: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_from_topic(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("topic"), str):
            return {**data, "name": data["topic"].rsplit(".", 1)[-1]}
        return data

    @field_validator("key")
    @classmethod
    def _key_is_distinct(cls, key: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(key)) != len(key):
            raise ValueError("names a column twice")
        return key

    @field_validator("collection")
    @classmethod
    def _collection_is_not_the_ledger(cls, collection: str) -> str:
        if collection == LEDGER:
            raise ValueError("is Rowvec's own; name another")
        return collection

    @model_validator(mode="after")
    def _fields_are_distinct(self) -> Self:
        fields = Counter(self.fields().values())
        problems = []
        for column, field in self.fields().items():
            own = field in RESERVED_FIELDS or field.startswith(PROVENANCE_PREFIX)
            problem = "is a field of Rowvec's own" if own else problem_with(field)
            if problem is not None:  # guard: field-has-a-name
                wanted = f"{self.name or 'source'}_{field}" if own else column
                shown, key = (json.dumps(n[:100], ensure_ascii=False) for n in (field, column))
                problems.append(
                    f"'{shown[1:-1]}' {problem}; rename it in the collection: "
                    f'{key} = {{ type = "{self.columns[column].type}", '
                    f'field = "{another_name(wanted, fields)}" }}'
                )
            elif fields[field] > 1:
                problems.append(f"two columns share the field '{field}'")
        if len(fields) > MAX_COLUMNS:  # guard: number-of-fields
            problems.append(
                f"{len(fields)} are more than the {MAX_COLUMNS} that a collection takes: it has "
                f"{MAX_FIELDS} fields at most, and the others are Rowvec's own; mirror those that "
                "searches filter by"
            )
        if problems:
            raise ValueError("columns: " + "; ".join(dict.fromkeys(problems)))
        return self

    @model_validator(mode="after")
    def _masks_leave_what_is_needed(self) -> Self:
        for column, mask in self.masks.items():
            if column in self.key and mask.kind != "hmac":
                raise ValueError(
                    f"masks: '{column}' belongs to the key, so that `{mask.kind}` would make rows one; "
                    "use hmac"
                )
            if mask.kind == "drop" and column in {*self.template_columns(), *self.columns}:
                raise ValueError(
                    f"masks: '{column}' is dropped, but `text` or `columns` asks for it; leave it out "
                    "there, or mask it by hmac or redact"
                )
        return self

    def fields(self) -> dict[str, str]:
        """The mirrored columns: column name → field name in the collection."""
        return {column: spec.field or column for column, spec in self.columns.items()}

    def template_columns(self) -> tuple[str, ...]:
        """The columns that the text template names, each once, in order."""
        return tuple(dict.fromkeys(_template_columns(self.text)))

    def known_columns(self) -> frozenset[str]:
        """Every column that the contract names for this table."""
        named = {*self.key, *self.template_columns(), *self.columns, *self.masks, *self.unmirrored}
        named |= {condition.column for condition in self.filter} | {*self.encodings, *self.defaults}
        return frozenset(named | ({self.soft_delete} if self.soft_delete else set()))
