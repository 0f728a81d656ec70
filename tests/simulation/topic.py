"""The partitions of a Kafka topic that hold a history, written as Debezium writes it.

Records go to partitions by key. They include left-out values, key changes over two partitions, ranges
that were sent again after the connector died, late tombstones, lone tombstones that log compaction has
left, and unreadable records.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

from operators.changes.shards import shard_of
from operators.changes.version import offset_of, place_of, place_of_partition
from operators.contract.table import UNAVAILABLE
from tests.changes import TOPIC, Log, doc, envelope, gone, key, tombstone
from tests.simulation.history import Change, Dice, Fault, Kinds
from tests.simulation.tables import Table

ANOTHER_LOG = 1_000
"""How far the log of one server is ahead of that of the server before."""


class Topic:
    """The partitions that hold a history.

    Attributes:
        history: The changes, in order.
        table: The table of the history.
        rows: Number of rows; they are numbered from 0.
        places: (partition, offset) → the change; for a tombstone, its delete.
        copies: How often each change was sent.
        faults: Count of each kind of fault of the source.
        servers: Each physical table is on a server of its own.
    """

    def __init__(
        self,
        table: Table,
        history: Sequence[Change],
        rows: int,
        partitions: int,
        grown: int = 0,
        servers: bool = False,
    ) -> None:
        self.table = table
        self.servers = servers
        self.history = list(dict.fromkeys(history))
        self.rows = rows
        self.partitions = partitions
        self.logs = [Log(written=0, per_read=2) for _ in range(partitions + grown)]
        self._partition = {
            place_of_partition(TOPIC, number): number for number in range(len(self.logs))
        }
        self.places: dict[tuple[int, int], Change] = {}
        self.copies: Counter[Change] = Counter()
        self.faults: Counter[str] = Counter()

    def __repr__(self) -> str:
        return "\n".join(f"{place}: {change}" for place, change in self.places.items())

    def partition_of(self, row: int) -> int:
        """The partition of a row's records, as long as no partition is added."""
        return row % self.partitions

    def made_by(self, version: str) -> Change:
        """The change with this version: its partition and offset identify it."""
        return self.places[self._partition[place_of(version)], offset_of(version)]

    def shards(self) -> frozenset[str]:
        """The shards of its rows; all others get TRUNCATEs only."""
        return frozenset(shard_of(f"docs:{row}") for row in range(self.rows))

    def send(
        self, change: Change, *, is_tombstone: bool = False, partition: int | None = None
    ) -> None:
        """Write the record of a change, or the tombstone that follows it.

        Args:
            change: The change.
            is_tombstone: Write the tombstone instead.
            partition: The partition, if not the row's own.
        """
        number = self.partition_of(change.row) if partition is None else partition
        self.places[number, len(self.logs[number].records)] = change
        self.copies[change] += not is_tombstone
        flagged = self.table.flagged
        # The positions of two logs have nothing to do with each other.
        lsn = change.lsn + ANOTHER_LOG * change.part * self.servers
        record = tombstone(change.row) if is_tombstone else _record(change, lsn, flagged=flagged)
        if self.table.section.source_tables:
            record = self._named(record, "docs", change.part)
        self.logs[number].records.append(record)

    def send_other(self, dice: Dice, lsn: int) -> None:
        """Write a change of a table that the contract does not take, under the key of one of its rows."""
        row = dice.randrange(self.rows)
        records = dice.choice(
            [
                [(key(id=row), envelope("u", lsn, doc(row, "another table's")))],
                [gone(row, lsn), tombstone(row)],
                [(None, envelope("t", lsn, None))],
            ]
        )
        log = self.logs[self.partition_of(row)]
        log.records += [self._named(record, "notes", 0) for record in records]
        self.faults["other table"] += 1

    def _named(self, record: tuple[Any, ...], table: str, part: int) -> tuple[Any, ...]:
        """The record with the names of its physical table: on a server of its own, or one of several."""
        if self.servers:
            return _named(record, f"shard_{part}", table)
        return _named(record, "app", table if table == "notes" else f"{table}_{part}")

    def doubted(self) -> set[Change]:
        """Repeated changes that come after an unreadable record of their row.

        The position of the unreadable record is unknown, so it may have changed values that the repeated
        change leaves out.
        """
        doubted: set[Change] = set()
        garbled: dict[int, int] = {}
        newest: dict[int, int] = {}
        for _, change in sorted(self.places.items(), key=lambda item: item[0]):
            newest[change.row] = max(newest.get(change.row, 0), change.lsn)
            if change.fault is Fault.DECODE:
                garbled[change.row] = newest[change.row]
            elif change.lsn <= garbled.get(change.row, 0):
                doubted.add(change)
        return doubted


def topic_of(table: Table, sent: Sequence[Change], rows: int, partitions: int) -> Topic:
    """The records of these changes, one each; a TRUNCATE is one record, in the first partition."""
    topic = Topic(table, sent, rows, partitions)
    for change in sent:
        if change.emptied and change.row:
            continue
        topic.send(change)
        if change.values is None and not (change.emptied or change.unpositioned) and change.lsn % 4:
            topic.send(change, is_tombstone=True)
    return topic


def drawn_topic(
    dice: Dice, table: Table, history: Sequence[Change], kinds: Kinds, partitions: int
) -> Topic:
    """The records of a history, with drawn faults of the source."""
    topic = Topic(table, history, kinds.rows, partitions, kinds.grown, kinds.servers)
    topic.faults["row goes to another server"] += _wandered(history) * kinds.servers
    for log in topic.logs:
        log.per_read = dice.choice([1, 2, 5])
    entries = _sent(dice, history, kinds, topic.faults)
    if kinds.compacted:
        entries = _compacted(dice, entries, topic.faults)
    grows_at = dice.randrange(len(entries) + 1) if kinds.grown else len(entries)
    for index, (change, is_tombstone) in enumerate(entries):
        # In a topic of several tables, a tombstone in another partition than its delete is refused.
        if topic.partitions == partitions and index >= grows_at and not is_tombstone:
            topic.partitions += kinds.grown
            topic.faults["partitions added"] += 1
        if kinds.others and not is_tombstone and dice.randrange(3) == 0:
            topic.send_other(dice, change.lsn)
        number = dice.randrange(partitions) if change.emptied else None
        topic.send(change, is_tombstone=is_tombstone, partition=number)
    return topic


_Entry = tuple[Change, bool]
"""(change, whether the record is its tombstone)."""


def _sent(
    dice: Dice, history: Sequence[Change], kinds: Kinds, faults: Counter[str]
) -> list[_Entry]:
    """The entries that the connector sends, with some ranges repeated."""
    transactions: list[list[Change]] = []
    for change in history:
        if transactions and transactions[-1][0].lsn == change.lsn:
            transactions[-1].append(change)
        else:
            transactions.append([change])
    entries: list[_Entry] = []
    for index, transaction in enumerate(transactions):
        again = kinds.resent and dice.randrange(6) == 0
        late = again and any(c.values is None and not c.emptied for c in transaction)
        entries += _entries(dice, transaction, faults, tombstones=not late)
        if not again:
            continue
        back = dice.randint(1, 8)
        faults["late tombstone"] += late
        faults["record sent twice" if back == 1 else "range sent again"] += 1
        for each in transactions[max(0, index + 1 - back) : index + 1]:
            entries += _entries(dice, each, faults, tombstones=True)
    return entries


def _entries(
    dice: Dice,
    transaction: Sequence[Change],
    faults: Counter[str],
    *,
    tombstones: bool,
) -> list[_Entry]:
    """The records of a transaction; a TRUNCATE is one record."""
    entries: list[_Entry] = []
    for index, change in enumerate(transaction):
        if change.emptied and index:
            continue
        entries.append((change, False))
        deleted = change.values is None and not change.emptied
        if deleted and not change.unpositioned and tombstones:
            if dice.randrange(5):
                entries.append((change, True))
            else:
                faults["no tombstone"] += 1
    return entries


def _compacted(dice: Dice, entries: list[_Entry], faults: Counter[str]) -> list[_Entry]:
    """Remove some deletes, as log compaction does, and leave their tombstones.

    A delete stays if copies of the row's records lie on both sides of it: a lone tombstone has no
    version, so it would not be clear which side it belongs to.
    """
    kept: list[_Entry] = []
    for index, (change, is_tombstone) in enumerate(entries):
        if (
            not is_tombstone
            and change.values is None
            and not change.emptied
            and change.new is None
            and entries[index + 1 : index + 2] == [(change, True)]
            and not any(c.row == change.row and c.lsn > change.lsn for c, _ in entries[:index])
            and not any(
                c.row == change.row and c.lsn <= change.lsn for c, _ in entries[index + 2 :]
            )
            and dice.randrange(3) == 0
        ):
            faults["tombstone alone"] += 1
            continue
        kept.append((change, is_tombstone))
    return kept


def _wandered(history: Sequence[Change]) -> int:
    """How often a row was made again in another physical table."""
    last: dict[int, int] = {}
    count = 0
    for change in history:
        count += last.get(change.row, change.part) != change.part
        last[change.row] = change.part
    return count


def _named(record: tuple[Any, ...], server: str, table: str) -> tuple[Any, ...]:
    """The record with the names of its physical table, as the connector or the transform gives them."""
    raw_key, value, *headers = record
    if value is None or value == b"{":
        return record
    message = orjson.loads(value)
    names = {"name": server, "db": "db", "schema": "public", "table": table}
    if "source" in message:
        message["source"] |= names
    else:
        message |= {f"__{name}": each for name, each in names.items()}
    return raw_key, orjson.dumps(message), *headers


def _record(change: Change, lsn: int, *, flagged: bool) -> tuple[Any, ...]:
    """Key, value and perhaps headers of the record of a change.

    Args:
        change: The change.
        lsn: Its position in its log.
        flagged: Whether the table has a soft-delete column.
    """
    values, row = change.values, change.row
    if change.emptied:
        return None, envelope("t", lsn, None)
    if values is None:
        if change.unpositioned:
            return key(id=row), orjson.dumps({"id": row, "__deleted": "true"})
        if change.new is None:
            return gone(row, lsn)
        return (*gone(row, lsn), [("__debezium.newkey", key(id=change.new))])
    if change.fault is Fault.DECODE:
        return key(id=row), b"{"
    size = "?" if change.fault is Fault.RENDER else change.lsn
    text = UNAVAILABLE if change.partial else values.doc
    flag = {"gone": values.gone} if flagged else {}
    after = doc(row, text, name=values.name, kind=values.kind, **flag, size=size)
    if change.unpositioned:
        return key(id=row), orjson.dumps({**after, "__deleted": "false"})
    if change.old is None:
        return key(id=row), envelope("u", lsn, after)
    headers = [("__debezium.oldkey", key(id=change.old))]
    return key(id=row), envelope("c", lsn, after), headers
