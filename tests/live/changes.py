"""Seeded changes of all kinds, as SQL on two connections, and the state of each row after each change.

The SQL depends on the seed alone, not on time or on answers of the server.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg import sql

from operators.changes.text_hash import text_hash
from tests.live.tables import EVENTS, ITEMS, LOGS, REV, TABLES, Key, Row, Table

HOT = 20
"""How many rows of each table are changed far more often than the others."""


class State(NamedTuple):
    """A row after one committed change.

    Attributes:
        rev: The number of the change; 0 if the row is deleted.
        digest: Hash of its text; None if the row must not be in the collection.
        row: None if it is deleted.
    """

    table: Table
    rev: int
    digest: str | None
    row: Row | None


History: TypeAlias = dict[str, list[State]]
"""Row key → its states, oldest first."""


class _Keys:
    """The keys of a table's rows in a list, so that a random one is found at once."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self._places: dict[Key, int] = {}

    def add(self, key: Key) -> None:
        if key not in self._places:
            self._places[key] = len(self.keys)
            self.keys.append(key)

    def discard(self, key: Key) -> None:
        place = self._places.pop(key, None)
        if place is None:
            return
        last = self.keys.pop()
        if last != key:
            self.keys[place] = last
            self._places[last] = place


@dataclass(slots=True)
class _Content:
    """The rows of a table, including uncommitted changes.

    Attributes:
        gone: Deleted keys, which may be used again.
    """

    rows: dict[Key, Row] = field(default_factory=dict)
    keys: _Keys = field(default_factory=_Keys)
    gone: list[Key] = field(default_factory=list)

    def put(self, key: Key, row: Row | None) -> None:
        if row is None:
            self.rows.pop(key, None)
            self.keys.discard(key)
        else:
            self.rows[key] = row
            self.keys.add(key)


class _Change(NamedTuple):
    table: Table
    key: Key
    before: Row | None
    after: Row | None


class _Transaction:
    """An open transaction with its changes so far, which a rollback undoes."""

    def __init__(self, connection: psycopg.Connection, contents: dict[str, _Content]) -> None:
        self._connection = connection
        self._contents = contents
        self._log: list[_Change] = []
        self.counts: Counter[str] = Counter()
        self.locked: set[tuple[str, Key]] = set()
        self.execute("begin")

    def execute(self, query: sql.Composable | str, values: Sequence[Any] = ()) -> None:
        self._connection.execute(query, values or None)  # type: ignore[arg-type]

    def put(self, table: Table, key: Key, row: Row | None) -> None:
        content = self._contents[table.name]
        self._log.append(_Change(table, key, content.rows.get(key), row))
        self.locked.add((table.name, key))
        content.put(key, row)

    def mark(self) -> tuple[int, Counter[str]]:
        return len(self._log), self.counts.copy()

    def undo(self, mark: tuple[int, Counter[str]]) -> int:
        """Go back to a savepoint; the rows stay in `locked`, because SQL may keep some of them locked."""
        length, counts = mark
        undone = self.counts.total() - counts.total()
        while len(self._log) > length:
            change = self._log.pop()
            self._contents[change.table.name].put(change.key, change.before)
        self.counts = counts
        return undone

    def commit(self) -> Iterable[_Change]:
        self.execute("commit")
        return self._log

    def rollback(self) -> int:
        self.execute("rollback")
        return self.undo((0, Counter()))


_Operation: TypeAlias = Callable[[_Transaction], None]


class Generator:
    """Writes changes.

    Args:
        connect: Opens a connection in autocommit mode; two are opened.
        seed: Seed of all draws.
        rows: Roughly how many rows each table holds.
        without: Kinds of change to leave out.
        quiet: Range of change numbers in which no table gets or loses a column.

    Attributes:
        counts: Committed changes by kind. Each changed row, TRUNCATE and ALTER TABLE is one change.
        shapes: Transactions by their shape.
        undone: How many changes were rolled back.
        history: The states after the committed changes.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection],
        *,
        seed: int,
        rows: int,
        without: Iterable[str] = (),
        quiet: range = range(0),
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.shapes: Counter[str] = Counter()
        self.undone = 0
        self.history: History = defaultdict(list)
        self._draw = Random(seed)
        self._rows = rows
        self._quiet = quiet
        self._connections = [connect(), connect()]
        for connection in self._connections:
            # The generator avoids rows that the other connection has locked; waiting is a bug in it.
            connection.execute("set lock_timeout = '30s'")
        self._contents = {table.name: _Content() for table in TABLES}
        self._number = self._rev = 0
        self._added: set[str] = set()
        self._other: _Transaction | None = None
        kinds: dict[str, tuple[float, _Operation]] = {
            "insert": (8, self._insert),
            "update text": (22, self._update_text),
            "update columns": (16, self._update_columns),
            "update beside a large text": (14, self._update_beside_large),
            "update of nothing": (2, self._touch),
            "text to NULL or back": (5, self._null),
            "flags": (8, self._flags),
            "key change": (5, self._change_key),
            "key change with a large text": (3, partial(self._change_key, large=True)),
            "key swap": (3, self._swap_keys),
            "delete": (6, self._delete),
            "delete and insert": (4, self._delete_and_insert),
            "insert on conflict": (6, self._insert_on_conflict),
        }
        alone: dict[str, tuple[float, _Operation]] = {
            "truncate": (3, self._truncate),
            "truncate of two": (1, self._truncate_two),
            "alter table": (4, self._alter),
        }
        self.kinds = (*kinds, *alone)
        left_out = set(without)
        unknown = left_out - set(self.kinds)
        if unknown:
            raise ValueError(f"no such kind of change: {', '.join(sorted(unknown))}")
        self._usual = {k: v for k, v in kinds.items() if k not in left_out}
        self._alone = {k: v for k, v in alone.items() if k not in left_out}

    @property
    def changes(self) -> int:
        """How many changes are committed so far."""
        return self.counts.total()

    def fill(self) -> None:
        """Insert the rows of the initial snapshot; they do not count as changes."""
        for table in TABLES:
            tx = self._begin(0)
            while len(self._content(table).rows) < self._rows:
                self._add_rows(tx, table, [self._fresh_key(table) for _ in range(100)])
            tx.counts.clear()
            self._commit(tx)

    def run(self, changes: int) -> Iterator[int]:
        """Make `changes` changes; yields the number of changes so far after each transaction."""
        while self.changes < changes:
            self._unit()
            yield self.changes

    def row_count(self) -> int:
        """How many rows are in SQL."""
        return sum(len(content.rows) for content in self._contents.values())

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    # Shapes of transactions.

    def _unit(self) -> None:
        draw = self._draw.random()
        shapes = [
            (0.40, "one statement", self._one),
            (0.75, "several statements", self._several),
            (0.80, "rolled back", self._rolled_back),
            (0.87, "savepoint rolled back", self._savepoint),
            (0.993, "two at once", self._interleaved),
            (1.00, "tables", self._whole_tables),
        ]
        name, shape = next((name, shape) for limit, name, shape in shapes if draw < limit)
        shape()
        self.shapes[name] += 1

    def _one(self) -> None:
        tx = self._begin(0)
        self._any(tx)
        self._commit(tx)

    def _several(self) -> None:
        tx = self._begin(0)
        for _ in range(self._draw.randint(2, 5)):
            self._any(tx)
        self._commit(tx)

    def _rolled_back(self) -> None:
        tx = self._begin(0)
        for _ in range(self._draw.randint(1, 3)):
            self._any(tx)
        self.undone += tx.rollback()

    def _savepoint(self) -> None:
        tx = self._begin(0)
        self._any(tx)
        tx.execute("savepoint here")
        mark = tx.mark()
        for _ in range(self._draw.randint(1, 2)):
            self._any(tx)
        tx.execute("rollback to savepoint here")
        self.undone += tx.undo(mark)
        self._any(tx)
        self._commit(tx)

    def _interleaved(self) -> None:
        """Two transactions: the first to begin commits last, and also changes rows of the other one."""
        first, second = self._begin(0), self._begin(1)
        for _ in range(self._draw.randint(1, 3)):
            for tx, other in ((first, second), (second, first)):
                self._other = other
                self._any(tx)
        self._other = None
        self._commit(second)
        self._any(first)
        if self._draw.random() < 0.1:
            self.undone += first.rollback()
        else:
            self._commit(first)

    def _whole_tables(self) -> None:
        if not self._alone:
            return
        kind = self._choose(self._alone)
        if kind == "alter table" and self.changes in self._quiet:
            return
        tx = self._begin(0)
        if kind.startswith("truncate") and self._draw.random() < 0.3:
            self._any(tx)
        self._apply(tx, kind, self._alone[kind][1])
        if kind.startswith("truncate") and self._draw.random() < 0.5:
            self._any(tx)
        self._commit(tx)

    def _begin(self, connection: int) -> _Transaction:
        return _Transaction(self._connections[connection], self._contents)

    def _commit(self, tx: _Transaction) -> None:
        for change in tx.commit():
            table, row = change.table, change.after
            text = None if row is None else table.text(row)
            rev = 0 if row is None else row[REV]
            digest = None if text is None else text_hash(text)
            self.history[table.row_key(change.key)].append(State(table, rev, digest, row))
            if row is None:
                self._content(table).gone.append(change.key)
        for content in self._contents.values():
            del content.gone[: max(0, len(content.gone) - 500)]
        self.counts.update(tx.counts)

    def _any(self, tx: _Transaction) -> None:
        kind = self._choose(self._usual)
        self._apply(tx, kind, self._usual[kind][1])

    def _choose(self, kinds: dict[str, tuple[float, _Operation]]) -> str:
        return self._draw.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]

    def _apply(self, tx: _Transaction, kind: str, operation: _Operation) -> None:
        before = tx.counts.total()
        operation(tx)
        # Operations count under "", because one operation counts under several kinds.
        done = tx.counts.pop("", 0)
        if done:
            tx.counts[kind] += done
        assert tx.counts.total() >= before

    # Kinds of changes.

    def _insert(self, tx: _Transaction) -> None:
        table = self._table()
        missing = self._rows - len(self._content(table).rows)
        if missing < -self._rows // 4:
            self._delete(tx)
            return
        many = self._draw.randint(20, 60) if missing > self._rows // 2 else self._few()
        self._add_rows(tx, table, [self._some_key(tx, table) for _ in range(many)])

    def _update_text(self, tx: _Transaction) -> None:
        table = self._table()
        columns = [c for c in table.texts if self._draw.random() < 0.7] or [table.texts[-1]]
        self._update(tx, table, self._pick(tx, table, self._few()), columns)

    def _update_columns(self, tx: _Transaction) -> None:
        table = self._table()
        columns = [c for c in table.mirrored if self._draw.random() < 0.5]
        self._update(tx, table, self._pick(tx, table, self._few()), columns)

    def _update_beside_large(self, tx: _Transaction) -> None:
        table = self._draw.choice([t for t in TABLES if t.large])
        columns = [c for c in table.mirrored if self._draw.random() < 0.5]
        picked = self._pick(tx, table, self._few(), partial(_is_large, table))
        self._update(tx, table, picked, columns)

    def _touch(self, tx: _Transaction) -> None:
        table = self._table()
        picked = self._pick(tx, table, self._few())
        self._update_rows(tx, table, [self._content(table).rows[key] for key in picked], [REV])

    def _null(self, tx: _Transaction) -> None:
        table = self._draw.choice([t for t in TABLES if t.large])
        column, rows = table.large, []
        for key in self._pick(tx, table, self._few()):
            row = {**self._content(table).rows[key], REV: self._next()}
            row[column] = None if row[column] is not None else table.values[column](self._draw)
            rows.append(row)
        self._update_rows(tx, table, rows, [column, REV])

    def _flags(self, tx: _Transaction) -> None:
        columns = [self._draw.choice(ITEMS.flags)]
        if self._draw.random() < 0.2:
            columns = list(ITEMS.flags)
        self._update(tx, ITEMS, self._pick(tx, ITEMS, self._few()), columns)

    def _change_key(self, tx: _Transaction, *, large: bool = False) -> None:
        tables = [t for t in TABLES if t.large and t is not LOGS] if large else TABLES
        table = self._draw.choice(tables)
        fits = partial(_is_large, table) if large else None
        for key in self._pick(tx, table, self._draw.randint(1, 3), fits):
            self._move(tx, table, key, self._some_key(tx, table))
            tx.counts[""] += 1

    def _swap_keys(self, tx: _Transaction) -> None:
        table = self._table()
        keys = self._pick(tx, table, 2)
        if len(keys) == 2:
            one, two = keys
            between = self._fresh_key(table)
            self._move(tx, table, one, between)
            self._move(tx, table, two, one)
            self._move(tx, table, between, two)
            tx.counts[""] += 3

    def _delete(self, tx: _Transaction) -> None:
        table = self._table()
        self._remove(tx, table, self._pick(tx, table, self._few()))

    def _delete_and_insert(self, tx: _Transaction) -> None:
        table = self._table()
        keys = self._pick(tx, table, self._draw.randint(1, 5))
        self._remove(tx, table, keys)
        self._add_rows(tx, table, keys)

    def _insert_on_conflict(self, tx: _Transaction) -> None:
        table = self._draw.choice([t for t in TABLES if t.unique])
        keys = self._pick(tx, table, self._few())
        keys += [self._some_key(tx, table) for _ in range(self._few())]
        keys = list(dict.fromkeys(keys))
        self._add_rows(tx, table, keys, over=True)

    def _truncate(self, tx: _Transaction) -> None:
        self._empty(tx, [self._table()])

    def _truncate_two(self, tx: _Transaction) -> None:
        self._empty(tx, self._draw.sample(TABLES, 2))

    def _alter(self, tx: _Transaction) -> None:
        # Neither on a partitioned table published by its root, nor with a default: after a restart,
        # PostgreSQL 18.6 can no longer decode its own log then ("could not convert row type",
        # "pfree called with invalid pointer").
        table = self._draw.choice([t for t in TABLES if t is not EVENTS])
        name = sql.Identifier(table.name)
        if table.name in self._added:
            self._added.discard(table.name)
            tx.execute(sql.SQL("alter table {} drop column later").format(name))
        else:
            self._added.add(table.name)
            query = "alter table {} add column later text"
            tx.execute(sql.SQL(query).format(name))
        tx.counts[""] += 1

    # Parts of changes.

    def _content(self, table: Table) -> _Content:
        return self._contents[table.name]

    def _table(self) -> Table:
        return self._draw.choice(TABLES)

    def _next(self) -> int:
        self._rev += 1
        return self._rev

    def _few(self) -> int:
        return self._draw.choice((1, 1, 1, 2, 4, 8, 16, 30))

    def _fresh_key(self, table: Table) -> Key:
        self._number += 1
        return table.new_key(self._draw, self._number)

    def _some_key(self, tx: _Transaction, table: Table) -> Key:
        """A key that no row has; sometimes one of a deleted row."""
        content = self._content(table)
        if content.gone and self._draw.random() < 0.3:
            key = self._draw.choice(content.gone)
            if key not in content.rows and self._is_free(table, key):
                return key
        return self._fresh_key(table)

    def _is_free(self, table: Table, key: Key) -> bool:
        return self._other is None or (table.name, key) not in self._other.locked

    def _pick(
        self,
        tx: _Transaction,
        table: Table,
        count: int,
        fits: Callable[[Row], bool] | None = None,
    ) -> list[Key]:
        """Keys of existing rows that the other transaction has not changed."""
        content = self._content(table)
        picked: dict[Key, None] = {}
        for _ in range(4 * count):
            keys = content.keys.keys
            if len(picked) == count or not keys:
                break
            hot = self._draw.random() < 0.25
            key = keys[self._draw.randrange(min(HOT, len(keys)) if hot else len(keys))]
            if self._is_free(table, key) and (fits is None or fits(content.rows[key])):
                picked[key] = None
        return list(picked)

    def _update(
        self, tx: _Transaction, table: Table, keys: Iterable[Key], columns: Sequence[str]
    ) -> None:
        rows = []
        for key in keys:
            new = {column: table.values[column](self._draw) for column in columns}
            rows.append({**self._content(table).rows[key], **new, REV: self._next()})
        self._update_rows(tx, table, rows, [*columns, REV])

    def _update_rows(
        self, tx: _Transaction, table: Table, rows: Sequence[Row], columns: Sequence[str]
    ) -> None:
        if not rows:
            return
        query = sql.SQL("update {} t set {} from (values {}) v({}) where {}").format(
            sql.Identifier(table.name),
            _joined("{0} = v.{0}", columns),
            _values(table, [*table.key, *columns], len(rows)),
            _joined("{0}", [*table.key, *columns]),
            _joined("t.{0} = v.{0}", table.key, " and "),
        )
        tx.execute(query, [row[c] for row in rows for c in (*table.key, *columns)])
        for row in rows:
            self._set(tx, table, row)
        tx.counts[""] += len(rows)

    def _set(self, tx: _Transaction, table: Table, row: Row) -> None:
        key = tuple(row[column] for column in table.key)
        before = self._content(table).rows.get(key)
        if before is None or before[REV] != row[REV]:
            tx.put(table, key, row)
        else:
            tx.locked.add((table.name, key))

    def _add_rows(
        self, tx: _Transaction, table: Table, keys: Iterable[Key], *, over: bool = False
    ) -> None:
        rows = [table.row(self._draw, key, self._next()) for key in dict.fromkeys(keys)]
        if not rows:
            return
        columns = list(table.types)
        query = sql.SQL("insert into {} ({}) values {}").format(
            sql.Identifier(table.name),
            _joined("{0}", columns),
            _values(table, columns, len(rows)),
        )
        if over:
            others = [column for column in columns if column not in table.key]
            query += sql.SQL(" on conflict ({}) do update set {}").format(
                _joined("{0}", table.key), _joined("{0} = excluded.{0}", others)
            )
        tx.execute(query, [row[column] for row in rows for column in columns])
        for row in rows:
            self._set(tx, table, row)
        tx.counts[""] += len(rows)

    def _remove(self, tx: _Transaction, table: Table, keys: Sequence[Key]) -> None:
        if not keys:
            return
        query = sql.SQL("delete from {} t using (values {}) v({}) where {}").format(
            sql.Identifier(table.name),
            _values(table, table.key, len(keys)),
            _joined("{0}", table.key),
            _joined("t.{0} = v.{0}", table.key, " and "),
        )
        tx.execute(query, [value for key in keys for value in key])
        for key in keys:
            tx.put(table, key, None)
        tx.counts[""] += len(keys)

    def _move(self, tx: _Transaction, table: Table, old: Key, new: Key) -> None:
        row = {**self._content(table).rows[old], REV: self._next()}
        row |= dict(zip(table.key, new, strict=True))
        query = sql.SQL("update {} set {}, rev = %s where {}").format(
            sql.Identifier(table.name),
            _joined("{0} = %s", table.key),
            _joined("{0} = %s", table.key, " and "),
        )
        tx.execute(query, [*new, row[REV], *old])
        tx.put(table, old, None)
        tx.put(table, new, row)

    def _empty(self, tx: _Transaction, tables: Sequence[Table]) -> None:
        names = sql.SQL(", ").join(sql.Identifier(table.name) for table in tables)
        tx.execute(sql.SQL("truncate {}").format(names))
        for table in tables:
            for key in list(self._content(table).rows):
                tx.put(table, key, None)
        tx.counts[""] += 1


def _is_large(table: Table, row: Row) -> bool:
    limit = 150 if "pad" in row else 2_000
    return len(row[table.large] or "") > limit


def _joined(pattern: str, columns: Iterable[str], between: str = ", ") -> sql.Composable:
    return sql.SQL(between).join(sql.SQL(pattern).format(sql.Identifier(c)) for c in columns)


def _values(table: Table, columns: Iterable[str], rows: int) -> sql.Composable:
    """Placeholders for rows, with casts, because VALUES cannot infer the column types."""
    row = ", ".join(f"%s::{table.types[column]}" for column in columns)
    return sql.SQL(", ").join([sql.SQL(f"({row})")] * rows)
