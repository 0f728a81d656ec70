"""This process's entries of the ledger: read with those of all processes, changed, and written."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from operators.codec.key_types import furthest
from operators.contract.table import TableSection
from operators.errors import FatalError
from operators.ownership.ledger_entries import Entry, same
from operators.store.protocol import Fence, LedgerStore


class OwnEntries:
    """The entries of one process, one for each collection of its contract.

    Threads: the main thread adopts them and sets them up; then the lease thread writes renewals, and
    the worker writes committed offsets. `_changing` guards every change and write. Reading needs no
    lock: an entry is never changed in place, only replaced. Only the worker uses `recorded` and
    `record`.

    Args:
        store: Holds the entries of all processes.
        tables: Tables of the contract.
        process: Number of this process in the flow.
        identities: Identity of each collection that exists, by name.
    """

    def __init__(
        self,
        store: LedgerStore,
        tables: Sequence[TableSection],
        process: int,
        identities: Mapping[str, str] = {},
    ) -> None:
        self._store = store
        self._process = process
        self._identities = identities
        self._collections = {table.topic: table.collection for table in tables}
        self._names = {table.topic: table.name for table in tables}
        self._changing = threading.Lock()
        self._mine: dict[str, Entry] = {}
        self._sequence = 0
        self._stored_sequence = 0
        self._recorded: dict[str, int] = {}
        self.adopted: Mapping[str, Sequence[Entry]] = {}
        """The entries of all processes by collection, as they were adopted."""
        self.key_types: Callable[[], Mapping[str, Mapping[str, str]]] = dict
        """What the worker knows of the key columns by now, by topic; stored with the offsets."""
        self.fence: Fence = nullcontext
        """Context around each request of `record`: `Gate.writing`, once there is a lease."""

    @property
    def collections(self) -> Collection[str]:
        """Names of the contract's collections."""
        return dict.fromkeys(self._collections.values()).keys()

    def collection_of(self, topic: str) -> str:
        """Name of the collection that a topic's rows go to."""
        return self._collections[topic]

    def collection_about(self, name: str, entry: Entry) -> str | None:
        """Name of this contract's collection that an entry is about; None for another contract's.

        An entry bears the name that its collection had when it was written. It may have been renamed
        since, or an older release may have written the name of an alias.
        """
        for collection, identity in self._identities.items():
            if same(identity, entry.identity):  # guard: entry-by-identity
                return collection
        collection = name.rpartition("/")[0]
        return collection if collection in self.collections else None

    @property
    def stored_sequence(self) -> int:
        """Sequence of the last write that is known to be in the store."""
        return self._stored_sequence

    def __getitem__(self, collection: str) -> Entry:
        return self._mine[collection]

    def read(self) -> dict[str, Entry]:
        """Read the entries of all processes, by name: `collection/process`.

        Raises:
            RetriableError: They could not be read now.
        """
        return {name: Entry.unpack(name, body) for name, body in self._store.read().items()}

    def adopt(self, entries: Mapping[str, Entry]) -> None:
        """Take over entries as they were read; later writes build on this process's own."""
        known: dict[str, list[Entry]] = {name: [] for name in self.collections}
        for name, entry in entries.items():
            collection = self.collection_about(name, entry)
            if collection is not None:
                known[collection].append(entry)
        blank = Entry("", self._process)
        highest = max((e.sequence for each in known.values() for e in each), default=0)
        with self._changing:
            self.adopted = known
            self._mine = {c: entries.get(f"{c}/{self._process}", blank) for c in known}
            self._sequence = self._stored_sequence = highest

    def change(self, collection: str, change: Callable[[Entry], Entry]) -> None:
        """Change the entry of one collection; the next write stores it."""
        with self._changing:  # guard: entry-changes-take-turns
            self._mine[collection] = change(self._mine[collection])

    def write(self, change: Callable[[str, Entry], Entry], fence: Fence = nullcontext) -> None:
        """Change the entries of this process and store them, without retrying.

        Args:
            change: Makes the new entry of a collection.
            fence: Each request is sent inside this context. Renewals of the lease need none.

        Raises:
            RetriableError: They could not be stored now. The change is stored with the next write.
        """
        with self._changing:
            self._sequence += 1
            self._mine = {
                name: replace(change(name, entry), sequence=self._sequence)
                for name, entry in self._mine.items()
            }
            self._store.write(
                {f"{name}/{self._process}": entry.pack() for name, entry in self._mine.items()},
                fence,
            )
            self._stored_sequence = self._sequence

    # Committed offsets, by `topic/partition`.

    def recorded(self, part: str) -> int | None:
        """The offset that the store is known to hold for a partition."""
        return self._recorded.get(part)

    def start_from(self, collection: str, change: Callable[[Entry], Entry]) -> None:
        """Change the entry of one collection, and take its offsets for recorded ones."""
        self.change(collection, change)
        self._recorded.update(self._mine[collection].seen)

    def record(self, offsets: Mapping[str, int]) -> None:
        """Store offsets up to which records are committed.

        Raises:
            RetriableError, FatalError: See `write`, and the fence.
        """
        # guard: fence-record
        self.write(lambda collection, entry: self._with(collection, offsets, entry), self.fence)
        self._recorded.update(offsets)

    def note(self, offsets: Mapping[str, int]) -> None:
        """Note offsets up to which records are committed; the next write stores them."""
        for name in self.collections:
            self.change(name, partial(self._with, name, offsets))

    def forget(self, topic: str, partition: int) -> None:
        """Ignore, in the entries of all processes, up to which offset a partition was committed."""
        part = f"{topic}/{partition}"

        def without_offset(entry: Entry) -> Entry:
            seen = {name: offset for name, offset in entry.seen.items() if name != part}
            return replace(
                entry, seen=seen, breaks={**entry.breaks, part: entry.breaks.get(part, 0) + 1}
            )

        self.change(self._collections[topic], without_offset)
        self._recorded.pop(part, None)

    def _with(self, collection: str, offsets: Mapping[str, int], entry: Entry) -> Entry:
        mine = {
            part: offset
            for part, offset in offsets.items()
            if self._collections[part.rpartition("/")[0]] == collection
        }
        keys = {
            self._names[topic]: codes
            for topic, codes in self.key_types().items()
            if codes and self._collections[topic] == collection
        }
        return replace(entry, seen={**entry.seen, **mine}, keys={**entry.keys, **keys})

    def known_keys(self, topic: str) -> Mapping[str, str]:
        """What processes have written down about the key columns of a topic's rows.

        Raises:
            FatalError: Two processes have read them differently.
        """
        collection, found = self._collections[topic], dict[str, str]()
        identity = self._mine[collection].identity
        for entry in self.adopted[collection]:
            if entry.identity != identity:  # guard: keys-of-this-collection
                continue  # of a collection that is not there any more
            for column, code in entry.keys.get(self._names[topic], {}).items():
                together = furthest(found.get(column, code), code)
                if together is None:  # guard: keys-read-alike
                    raise FatalError(
                        subject=f"key of {topic}",
                        cause=f"processes of the flow have read its column '{column}' differently",
                        hint="say in `encodings` of the table how the column is written, and name "
                        "another `collection`, which is then filled anew",
                    )
                found[column] = together
        return found
