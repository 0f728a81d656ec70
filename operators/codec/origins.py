"""Which physical table, of which server, a change comes from; and whether the contract takes it."""

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from operators.changes.version import NO_ORIGIN, origin_of_table, place_of_partition, tail_of
from operators.contract.table import TableSection
from operators.errors import RecordError

_log = logging.getLogger("rowvec")


def several_tables(table: TableSection) -> str:
    """What to say of a topic that has several tables, if the contract does not name them."""
    return (
        f"table '{table.name}': topic {table.topic} has changes of several tables. A row belongs to "
        "the table that made it, and another table's changes of its key are refused: say in "
        "`source_tables` which of them are one table, or name what tells them apart in `key`"
    )


KEPT = 4_096
"""Size of the cache of origins: a topic has few tables, but anyone can write others into it."""


class Origin(NamedTuple):
    """Where a change comes from.

    Attributes:
        digits: As `origin_of_table` has them.
        taken: Whether the contract takes changes of this table.
    """

    digits: str
    taken: bool


class Origins:
    """The physical tables of one topic.

    Args:
        table: The contract's table, whose `source_tables` says which of them are its parts.
    """

    def __init__(self, table: TableSection) -> None:
        self._table = table
        self._known: dict[tuple[Any, ...], Origin] = {}
        self._tails: dict[tuple[Any, ...], tuple[str, Origin]] = {}
        self._seen: set[str] = set()
        self.mixed = False
        """Whether the topic has rows of another table than the one whose rows it should have."""
        self._logs: set[str] = set()

    def tail(self, source: Mapping[str, Any], topic: str, partition: int) -> tuple[str, bool]:
        """A version's tail, and whether the contract takes changes of the table.

        Args:
            source: The envelope's `source`, or what an unwrapped row says of it.
            topic: The record's.
            partition: The record's.

        Raises:
            RecordError: The contract has `source_tables`, and the message names no table.
        """
        get = source.get
        names = (
            get("name"),
            get("db"),
            get("schema"),
            get("table"),
            get("collection"),
            topic,
            partition,
        )
        try:
            found = self._tails[names]
        except KeyError:
            found = self._new_tail(names[:-2], topic, partition)
            if len(self._tails) < KEPT:
                self._tails[names] = found
        except TypeError:  # a name that is no text
            found = self._new_tail(names[:-2], topic, partition)
        return found[0], found[1].taken

    def takes(self, source: Mapping[str, Any]) -> bool:
        """Whether the contract takes changes of the table. See `tail`."""
        return self.tail(source, self._table.topic, 0)[1]

    def _new_tail(self, names: tuple[Any, ...], topic: str, partition: int) -> tuple[str, Origin]:
        origin = self._origin(*(name if isinstance(name, str) else "" for name in names))
        return tail_of(place_of_partition(topic, partition), origin.digits), origin

    def _origin(self, server: str, db: str, schema: str, table: str, collection: str) -> Origin:
        table = table or collection
        if not table:
            if self._table.source_tables:
                raise RecordError(
                    subject="value",
                    cause="it does not name its table, and the contract has `source_tables`",
                    hint="let ExtractNewRecordState add the fields db, schema and table "
                    "(add.fields), or leave `source_tables` out",
                )
            return Origin(NO_ORIGIN, True)
        # An unwrapped row may name less. A log that is not known counts as the same one.
        log = (server, db) if server and db else ()
        digits = origin_of_table(log, (db, schema, table))
        name = ".".join(part for part in (db, schema, table) if part)
        taken = self._takes(server, name)
        if taken and log:
            self._logs.add(server)
        if digits not in self._seen and len(self._seen) < KEPT:
            self._note(digits, f"{server}/{name}" if server else name, taken)
        return Origin(digits, taken)

    def require_position(self) -> None:
        """Refuse a change without a position where the topic has rows of several servers.

        Raises:
            RecordError: The topic has. The change would count as of the server that had the row before.
        """
        if len(self._logs) > 1:  # guard: servers-need-positions
            raise RecordError(
                subject="value",
                cause="it names no position, and its topic has changes of several servers, which only "
                "positions tell apart",
                hint="let ExtractNewRecordState add lsn and source.sequence, or file and pos "
                "(add.fields); or give each server a topic and a table of its own",
            )

    def _takes(self, server: str, name: str) -> bool:
        patterns = self._table.source_tables
        if not patterns:
            return True
        return any(
            fnmatchcase(f"{server}/{name}" if "/" in pattern else name, pattern)
            for pattern in patterns
        )

    def _note(self, digits: str, name: str, taken: bool) -> None:
        """Say once which other tables the topic has."""
        self._seen.add(digits)
        if not taken:
            self.mixed = True
            _log.info(
                "table '%s': changes of %s in topic %s are ignored: `source_tables` does not name it",
                self._table.name,
                ascii(name),
                self._table.topic,
            )
        elif len(self._seen) > 1 and not self._table.source_tables:
            self.mixed = True
            _log.warning("%s (now of %s)", several_tables(self._table), ascii(name))
