"""Contracts for the captured tables, one for each configuration of the connector."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from operators.contract.sections import Contract
from tests.captured import Variant


class Flavour(NamedTuple):
    """What a variant's configuration changes in its messages.

    Attributes:
        schemas: Messages carry schemas.
        unwrapped: ExtractNewRecordState sends rows without envelopes.
        friendly: Decimals as strings, times as ISO text, bytes in hex.
        by_root: Changes of a partitioned table go to the topic of its root.
    """

    database: str
    schemas: bool
    unwrapped: bool
    friendly: bool
    by_root: bool


def flavour_of(variant: Variant) -> Flavour:
    """The flavour that the connector's settings give."""
    settings = variant.connector
    return Flavour(
        database=variant.database,
        schemas=settings["value.converter.schemas.enable"] == "true",
        unwrapped="transforms" in settings,
        friendly=settings.get("decimal.handling.mode") == "string",
        by_root=settings.get("publish.via.partition.root") == "true",
    )


class Column(NamedTuple):
    """A mirrored column.

    Attributes:
        field: Its type in the collection.
        encoding: The default encoding in a message without a schema.
        untold: The contract cannot describe this encoding, so the column is mirrored only where
            messages have schemas.
        untold_decimal: Likewise, but the column is also mirrored where decimals are sent as strings.
    """

    field: str
    encoding: str | None = None
    untold: bool = False
    untold_decimal: bool = False


class Table(NamedTuple):
    """A table in the contract.

    Attributes:
        text: The template, which names all columns of text.
        more: Further settings of the table in the contract.
    """

    key: tuple[str, ...]
    text: str
    columns: Mapping[str, Column]
    more: Mapping[str, Any] = {}


_TEXT = Column("varchar")
_INT = Column("int32")
_LONG = Column("int64")
_JSON = Column("json")
_BY_ROW = {"key_from": "row"}
_MAY_MISS = {"drift": {"missing": "null"}}
"""For tables whose columns change during the history, since one contract must read all of it."""

_DOCS = Table(("id",), "{title}\n{body}", {"id": _LONG, "title": _TEXT})
_PLAIN = Table(("id",), "{v}", {"id": _INT, "v": _TEXT})
_PARTED = Table(("id", "region"), "{note}", {"id": _INT, "region": _TEXT, "note": _TEXT})
_AREA = Table(("id", "region"), "{title}\n{body}", {"id": _INT, "region": _TEXT, "title": _TEXT})
_NO_KEY = Table(("a",), "{b}", {"a": _INT, "b": _TEXT}, _BY_ROW)

POSTGRES: Mapping[str, Table] = {
    "articles": Table(
        ("id",),
        "{title}\n{body}\n{m}",
        {
            "id": _INT,
            "title": _TEXT,
            "body": _TEXT,
            "tags": _JSON,
            "price": Column("varchar", "decimal(2)"),
            "views": _LONG,
            "published": Column("bool"),
            "created_at": Column("varchar", "timestamp-iso"),
            "updated_at": Column("varchar", "timestamp-us"),
            "day": Column("varchar", "date-days"),
            "tod": Column("varchar", "time-us"),
            "meta": _TEXT,  # A JSON field of Milvus refuses JSON that is a bare string.
            "uid": _TEXT,
            "raw": Column("varchar", "bytes-base64"),
            "ratio": Column("double"),
            "r4": Column("double"),
            "m": _TEXT,
            "emb": _JSON,
            "lang": _TEXT,
        },
        _MAY_MISS,
    ),
    "order_items": Table(
        ("order_id", "line_no"),
        "{product}",
        {"order_id": _INT, "line_no": _INT, "product": _TEXT, "qty": _INT},
    ),
    "docs_default": _DOCS,
    "docs_full": _DOCS,
    "docs_index": Table(("id",), "{title}", {"id": _LONG, "slug": _TEXT}),
    "nopk_full": _NO_KEY,
    "nopk_default": _NO_KEY,
    "users": Table(("email",), "{name}{full_name}", {"email": _TEXT}, _MAY_MISS),
    "parted": _PARTED,
    "parted_eu": _PARTED,
    "parted_us": _PARTED,
    "Mixed Case": Table(("Id",), "{Full Name}", {"Id": _INT, "Full Name": _TEXT}),
    "inc": _PLAIN,
    "later": _PLAIN,
    "toasted": Table(
        ("id",),
        "{title}\n{body}",
        {
            "id": _INT,
            "tags": _JSON,
            "nums": _JSON,
            "uids": _JSON,
            "meta": _JSON,
            "plain": _JSON,
            "raw": Column("varchar", "bytes-base64"),
            "attrs": _JSON,
        },
    ),
    "toasted_more": Table(
        ("id",),
        "{title}\n{nocase}",
        {
            "id": _INT,
            "prices": Column("json", untold=True, untold_decimal=True),
            "stamps": _JSON,
            "days": Column("json", untold=True),
            "flags": _JSON,
            "ratios": _JSON,
            "bigs": _JSON,
            "big": Column("varchar", untold=True, untold_decimal=True),
            "emb": _JSON,
            "words": _JSON,
        },
    ),
    "kinds": Table(
        ("id",),
        "{tag}\n{fixed}\n{named}\n{nocase}",
        {
            "id": _INT,
            "cost": Column("varchar", "decimal(2)"),
            "flag": Column("bool"),
            "flags": Column("int32", untold=True),
            "wide": Column("varchar", untold=True),
            "addr": _TEXT,
            "net": _TEXT,
            "mac": _TEXT,
            "ints": _TEXT,
            "big": Column("varchar", untold=True, untold_decimal=True),
            "exact": Column("varchar", "decimal(10)"),
            "whole": Column("varchar", "decimal(0)"),
            "small": _INT,
            "tag": _TEXT,
            "fixed": _TEXT,
            "named": _TEXT,
            "nocase": _TEXT,
            "ttz": Column("varchar", "time-iso"),
            "ts0": Column("int64", "timestamp-ms"),
            "ts3": Column("int64", "timestamp-ms"),
            "tz3": Column("int64", "timestamp-iso"),
            "t3": Column("int64", "time-ms"),
            "attrs": _JSON,
            "plain": _JSON,
            "nums": _JSON,
            "prices": Column("json", untold=True, untold_decimal=True),
            "flagset": _JSON,
            "days": Column("json", untold=True),
            "moods": _JSON,
        },
    ),
    "swapped": _DOCS,
    "areas": _AREA,
    "areas_eu": _AREA,
    "areas_us": _AREA,
    "computed": Table(
        ("id",),
        "{title}",
        {
            "id": _INT,
            "qty": _INT,
            "price": Column("double", "decimal(2)"),
            "total": Column("varchar", "decimal(2)"),
        },
        _MAY_MISS,
    ),
    "flagged": Table(
        ("id",),
        "{title}",
        {"id": _INT, "deleted_at": Column("varchar", "timestamp-iso")},
        {"soft_delete": "deleted"},
    ),
    "flagged_docs": _DOCS._replace(
        columns={"id": _INT, "title": _TEXT}, more={"soft_delete": "deleted"}
    ),
    "renamed": Table(("id",), "{body}{content}", {"id": _INT}, _MAY_MISS),
    "parents": Table(("id",), "{name}", {"id": _INT}),
    "children": Table(("id",), "{name}", {"id": _INT, "parent": _INT}),
    "keyed": Table(
        ("u", "n", "d", "t", "b"),
        "{note}",
        {
            "u": _TEXT,
            "n": Column("varchar", "decimal(2)"),
            "d": Column("int32", "date-days"),
            "t": Column("int64", "timestamp-iso"),
            "b": Column("bool"),
        },
    ),
    "emptied": _PLAIN,
    "late_identity": _NO_KEY,
}

MYSQL: Mapping[str, Table] = {
    "articles": Table(
        ("id",),
        "{title}\n{body}",
        {
            "id": _INT,
            "title": _TEXT,
            "body": _TEXT,
            "price": Column("varchar", "decimal(2)"),
            "flag": Column("bool"),
            "n": _TEXT,
            "dt": Column("varchar", "timestamp-us"),
            "ts": Column("varchar", "timestamp-iso"),
            "d": Column("varchar", "date-days"),
            "t": Column("varchar", "time-us"),
            "y": _INT,
            "j": _TEXT,  # A JSON field of Milvus refuses JSON that is a bare string.
            "e": _TEXT,
            "s": _TEXT,
            "bits": Column("int32", untold=True),
            "bl": Column("varchar", "bytes-base64"),
            "f": Column("double"),
            "db": Column("double"),
            "lang": _TEXT,
        },
        _MAY_MISS,
    ),
    "order_items": POSTGRES["order_items"],
    "nopk": _NO_KEY,
    "inc": Table(("id",), "{v}{val}", {"id": _INT}, _MAY_MISS),
    "later": _PLAIN,
}

TABLES = {"pg": POSTGRES, "mysql": MYSQL}

_PREFIX = {"pg": "src.public.", "mysql": "my.shop."}

_FRIENDLY = {
    "date-days": "date-iso",
    "time-us": "time-iso",
    "time-ms": "time-iso",
    "timestamp-us": "timestamp-iso",
    "timestamp-ms": "timestamp-iso",
    "bytes-base64": "bytes-hex",
}


def topic_of(database: str, table: str) -> str:
    """The topic of a table: Debezium replaces characters that a topic name cannot have by `_`."""
    return _PREFIX[database] + table.replace(" ", "_")


def field_of(column: str) -> str:
    """The field of a mirrored column: Milvus allows no blanks in names, and Rowvec reserves `id`."""
    return f"sql_{column.replace(' ', '_')}"


def collection_of(table: str) -> str:
    """The collection of a table."""
    return table.replace(" ", "_")


def mirrored(flavour: Flavour, table: Table) -> dict[str, Column]:
    """The columns that the contract of this flavour mirrors."""
    return {
        name: column
        for name, column in table.columns.items()
        if not column.untold or flavour.schemas or (column.untold_decimal and flavour.friendly)
    }


def tables_of(variant: Variant) -> list[str]:
    """The tables on whose topics the variant has messages."""
    topics = {message.topic for case in variant.cases for message in case.messages}
    database = variant.database
    return [name for name in TABLES[database] if topic_of(database, name) in topics]


def contract_of(variant: Variant) -> Contract:
    """A contract with one table and one collection for each topic of rows."""
    flavour = flavour_of(variant)
    return Contract.model_validate(
        {
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "milvus": {"uri": "memory"},
            "embedding": {"model": "hash"},
            "tables": [_section(flavour, name) for name in tables_of(variant)],
        }
    )


def _section(flavour: Flavour, name: str) -> dict[str, Any]:
    table = TABLES[flavour.database][name]
    columns = mirrored(flavour, table)
    # A message with a schema needs no encodings in the contract.
    encodings = {} if flavour.schemas else _encodings(flavour, columns)
    return {
        "topic": topic_of(flavour.database, name),
        "collection": collection_of(name),
        "key": table.key,
        "text": table.text,
        "columns": {column: _spec(column, columns[column]) for column in columns},
        "encodings": encodings,
        **table.more,
    }


def _spec(name: str, column: Column) -> dict[str, Any]:
    spec = {"type": column.field, "field": field_of(name)}
    return {**spec, "max_length": 65_535} if column.field == "varchar" else spec


def _encodings(flavour: Flavour, columns: Mapping[str, Column]) -> dict[str, str]:
    encodings = {name: column.encoding for name, column in columns.items() if column.encoding}
    if not flavour.friendly:
        return encodings
    return {
        name: _FRIENDLY.get(encoding, encoding)
        for name, encoding in encodings.items()
        if not encoding.startswith("decimal")
    }


def text_columns(table: Table) -> Sequence[tuple[str, str | None]]:
    """The template, as (literal, column) in order."""
    import string

    return [(literal, name) for literal, name, _, _ in string.Formatter().parse(table.text)]
