"""The tables of the live run: their SQL, their part of the contract, and the values of their rows.

The text of a row is composed here without Rowvec's renderer, because it is what the renderer's text is
checked against.
"""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, TypeAlias

from operators.codec.row_keys import KeyMaker
from operators.contract.table import TableSection

Key: TypeAlias = tuple[Any, ...]
Row: TypeAlias = dict[str, Any]
Draw: TypeAlias = Callable[[Random], Any]

PREFIX = "live"
"""Debezium's `topic.prefix`: the first part of each topic's name."""

REV = "rev"
"""A column of every table and a field of every collection: the number of the row's last change."""

_WORDS = (
    *("table", "row", "column", "key", "text", "change", "commit", "snapshot", "window", "version"),
    *("offset", "shard", "lane", "vector", "model", "search", "answer", "quick", "brown", "fox"),
    *(
        "lazy",
        "dog",
        "Straße",
        "naïve",
        "東京",
        "🦆",
        "O'Brien",
        "a,b",
        "{x}",
        "%s",
        "\\",
        '"',
        "'",
        "#0",
    ),
)
_HOSTILE = (
    "O'Brien",
    'say "hi"',
    "東京 🦆",
    "a,b",
    "a%2Cb",
    "back\\slash",
    "'] or id not in ['",
    " ",
)
_REGIONS = ("eu", "us", "ap")


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        name: Name in SQL, and last part of the topic's name.
        ddl: SQL that creates it.
        types: SQL types by column, those of the key first.
        key: Columns of the key.
        contract: Its part of the contract, except topic, collection and key.
        values: By column, draws a value; for all columns but those of the key and `rev`.
        texts: Columns in the text template.
        flags: Columns that decide whether a row is in its collection.
        large: The column of large texts that are stored out of line (TOAST).
        new_key: Makes a key that was never used, from a number that is never passed twice.
        text: The text that a row must have; None if it must not be in the collection.
        unique: Whether the key has a unique constraint, which ON CONFLICT needs.
    """

    name: str
    ddl: str
    types: Mapping[str, str]
    key: tuple[str, ...]
    contract: Mapping[str, Any]
    values: Mapping[str, Draw]
    texts: tuple[str, ...]
    new_key: Callable[[Random, int], Key]
    text: Callable[[Row], str | None]
    flags: tuple[str, ...] = ()
    large: str = ""
    unique: bool = True
    _keys: list[KeyMaker] = field(default_factory=list, repr=False)

    @property
    def topic(self) -> str:
        return f"{PREFIX}.public.{self.name}"

    @property
    def collection(self) -> str:
        return f"{PREFIX}_{self.name.lower()}"

    @property
    def mirrored(self) -> tuple[str, ...]:
        """Columns whose change touches neither the text nor the flags."""
        return tuple(c for c in self.values if c not in (*self.texts, *self.flags, "pad"))

    def section(self) -> dict[str, Any]:
        """Its part of the contract."""
        columns = {**self.contract.get("columns", {}), REV: "int64"}
        whole = {"topic": self.topic, "collection": self.collection, "key": list(self.key)}
        return {**whole, **self.contract, "columns": columns}

    @property
    def row_key_prefix(self) -> str:
        return f"{self.name}:"

    def row_key(self, key: Key) -> str:
        if not self._keys:
            self._keys.append(KeyMaker(TableSection.model_validate(self.section())))
        return self._keys[0](dict(zip(self.key, key, strict=True)))

    def row(self, draw: Random, key: Key, rev: int) -> Row:
        """A new row."""
        row = dict(zip(self.key, key, strict=True))
        return row | {name: value(draw) for name, value in self.values.items()} | {REV: rev}


def _words(low: int, high: int) -> Draw:
    return lambda draw: " ".join(draw.choices(_WORDS, k=draw.randint(low, high)))


def _large(short: Draw, chance: float = 0.5) -> Draw:
    """A text that is often stored out of line (TOAST); it repeats a part, so that it is made quickly."""

    def made(draw: Random) -> str:
        text = str(short(draw))
        if draw.random() >= chance:
            return text
        letters = "".join(draw.choices(string.ascii_lowercase + " ", k=70))
        return f"{text} {letters * draw.randint(35, 70)}"

    return made


def _or_null(value: Draw, chance: float = 0.1) -> Draw:
    return lambda draw: None if draw.random() < chance else value(draw)


def _one_of(*values: Any) -> Draw:
    return lambda draw: draw.choice(values)


def _int(low: int, high: int) -> Draw:
    return lambda draw: draw.randint(low, high)


def _moment(draw: Random) -> datetime:
    return datetime(2020, 1, 1, tzinfo=UTC) + timedelta(microseconds=draw.randrange(10**14))


def _said(value: str | None, otherwise: str = "") -> str:
    return otherwise if value is None else value


DOCS = Table(
    name="docs",
    ddl="""
create table docs(
    id bigint primary key, name text not null, doc text, kind text, size bigint, count int,
    score float8, price numeric(12, 2), open boolean not null, day date, at timestamptz, extra jsonb,
    tags text[], rev bigint not null);
alter table docs alter doc set storage external;
""",
    types={
        "id": "bigint",
        "name": "text",
        "doc": "text",
        "kind": "text",
        "size": "bigint",
        "count": "int",
        "score": "float8",
        "price": "numeric",
        "open": "boolean",
        "day": "date",
        "at": "timestamptz",
        "extra": "jsonb",
        "tags": "text[]",
        REV: "bigint",
    },
    key=("id",),
    contract={
        "text": "{name}\n{doc}",
        "columns": {
            "kind": "varchar",
            "size": "int64",
            "count": "int32",
            "score": "double",
            "price": "double",
            "open": "bool",
            "day": "varchar",
            "at": "varchar",
            "extra": "json",
            "tags": "json",
        },
        "encodings": {"day": "date-days", "at": "timestamp-iso"},
    },
    values={
        "name": _words(1, 4),
        "doc": _or_null(_large(_words(2, 12))),
        "kind": _or_null(_one_of("page", "note", "", "O'Brien")),
        "size": _or_null(_int(-(2**63), 2**63 - 1)),
        "count": _int(-(2**31), 2**31 - 1),
        "score": lambda draw: draw.uniform(-1e9, 1e9),
        "price": lambda draw: Decimal(draw.randint(-(10**9), 10**9)).scaleb(-2),
        "open": _one_of(True, False),
        "day": _or_null(lambda draw: date.fromordinal(draw.randint(700_000, 760_000))),
        "at": _or_null(_moment),
        "extra": _or_null(
            lambda draw: f'{{"by": [{draw.randint(0, 9)}, null], "a": {{"b": 1.5}}}}'
        ),
        "tags": _or_null(lambda draw: draw.choices(_WORDS, k=draw.randint(0, 3))),
    },
    texts=("name", "doc"),
    large="doc",
    new_key=lambda _draw, number: (number,),
    text=lambda row: f"{row['name']}\n{_said(row['doc'])}",
)

PAIRS = Table(
    name="Pairs",
    ddl="""
create table "Pairs"(
    "left" text, "right" int, "Note" text not null, stars int, rev bigint not null,
    primary key ("left", "right"));
""",
    types={"left": "text", "right": "int", "Note": "text", "stars": "int", REV: "bigint"},
    key=("left", "right"),
    contract={"text": "{left}: {Note}", "columns": {"stars": "int64"}},
    values={"Note": _words(0, 8), "stars": _or_null(_int(0, 5))},
    texts=("Note",),
    new_key=lambda draw, number: (f"{draw.choice(_HOSTILE)}{number // 3}", number % 3),
    text=lambda row: f"{row['left']}: {row['Note']}",
)

LOGS = Table(
    name="logs",
    ddl="""
create table logs(code text not null, body text, level int, rev bigint not null);
alter table logs replica identity full;
alter table logs alter body set storage external;
create index on logs (code);
""",
    types={"code": "text", "body": "text", "level": "int", REV: "bigint"},
    key=("code",),
    contract={
        "key_from": "row",
        "text": "{body}",
        "columns": {"level": "int32"},
        "defaults": {"body": "(nothing)"},
    },
    values={"body": _or_null(_large(_words(1, 10), 0.2)), "level": _or_null(_int(0, 9))},
    texts=("body",),
    large="body",
    new_key=lambda _draw, number: (f"log/{number}",),
    text=lambda row: _said(row["body"], "(nothing)"),
    unique=False,
)

ITEMS = Table(
    name="items",
    ddl="""
create table items(
    id bigint primary key, title text not null, body text, status text not null,
    deleted boolean not null, rev bigint not null);
alter table items alter body set storage external;
""",
    types={
        "id": "bigint",
        "title": "text",
        "body": "text",
        "status": "text",
        "deleted": "boolean",
        REV: "bigint",
    },
    key=("id",),
    contract={
        "text": "{title} ({body})",
        "columns": {"status": "varchar"},
        "filter": [{"column": "status", "one_of": ["open", "held"]}],
        "soft_delete": "deleted",
        "defaults": {"body": "-"},
    },
    values={
        "title": _words(1, 5),
        "body": _or_null(_large(_words(1, 10), 0.4)),
        "status": _one_of("open", "open", "held", "closed"),
        "deleted": _one_of(False, False, False, True),
    },
    texts=("title", "body"),
    flags=("status", "deleted"),
    large="body",
    new_key=lambda _draw, number: (number,),
    text=lambda row: (
        f"{row['title']} ({_said(row['body'], '-')})"
        if row["status"] in ("open", "held") and not row["deleted"]
        else None
    ),
)

# The column `pad` is not used by the contract. It makes rows so large that PostgreSQL stores texts of
# a few hundred characters out of line (TOAST), which are still only a handful of chunks.
ARTICLES = Table(
    name="articles",
    ddl="""
create table articles(
    id bigint primary key, body text, pad text not null, rank int, rev bigint not null)
    with (toast_tuple_target = 128);
alter table articles alter body set storage external, alter pad set storage external;
""",
    types={"id": "bigint", "body": "text", "pad": "text", "rank": "int", REV: "bigint"},
    key=("id",),
    contract={
        "text": "{body}",
        "columns": {"rank": "int64"},
        "chunks": {"max_tokens": 40, "overlap_tokens": 6},
    },
    values={
        "body": _or_null(_words(0, 60)),
        "pad": lambda draw: draw.choice(string.ascii_letters) * 2_100,
        "rank": _or_null(_int(0, 99)),
    },
    texts=("body",),
    large="body",
    new_key=lambda _draw, number: (number,),
    text=lambda row: _said(row["body"]),
)

EVENTS = Table(
    name="events",
    ddl="""
create table events(
    region text, id bigint, body text, level int, rev bigint not null, primary key (region, id)
    ) partition by list (region);
create table events_eu partition of events for values in ('eu');
create table events_us partition of events for values in ('us');
create table events_rest partition of events default;
alter table events alter body set storage external;
alter table events_eu alter body set storage external;
alter table events_us alter body set storage external;
alter table events_rest alter body set storage external;
""",
    types={"region": "text", "id": "bigint", "body": "text", "level": "int", REV: "bigint"},
    key=("region", "id"),
    contract={"text": "{region}: {body}", "columns": {"level": "int32"}},
    values={"body": _or_null(_large(_words(1, 10), 0.3)), "level": _int(0, 9)},
    texts=("body",),
    large="body",
    new_key=lambda draw, number: (draw.choice(_REGIONS), number),
    text=lambda row: f"{row['region']}: {_said(row['body'])}",
)

TABLES = (DOCS, PAIRS, LOGS, ITEMS, ARTICLES, EVENTS)

OTHERS = """
create table debezium_signal(id varchar(64) primary key, type varchar(32) not null, data varchar(2048));
create table marker(id int primary key);
"""


def shortened(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """A row with its long values shortened, for the evidence file."""
    return {k: v if len(str(v)) < 40 else f"{str(v)[:30]}…" for k, v in (row or {}).items()}
