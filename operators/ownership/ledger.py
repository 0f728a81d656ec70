"""The ledger: how far each collection was filled, so that recovery state that does not fit is refused.

The recovery directory alone cannot tell that it is an old copy, nor Milvus alone that it was restored
from a backup. So each process of a flow keeps an entry for every collection that it writes to, in a
small collection of its own (`LedgerStore`), and the recovery state of each partition remembers the
collection's identity and the ledger's sequence. If the two do not fit together, the flow reads
nothing: a `FatalError` says what happened, and the two ways to continue.

**Exact to one epoch.** An entry says for every partition up to which offset the recovery files are
known to be committed. It is written when the first records of the next epoch arrive, before any of
them is passed on. State behind the ledger is an old copy: it lacks an epoch that was committed. State
at or after it is safe: the first batch that it gathers covers everything already written.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from operators.changes.shards import SHARDS
from operators.contract.table import TableSection
from operators.errors import FatalError
from operators.ownership.accept import LOST, Accept
from operators.ownership.entries import Entry, Stamp, digest_of
from operators.retry import RetryPolicy
from operators.store.protocol import LedgerStore

logger = logging.getLogger(__name__)


class Ledger:
    """One process's entries of the ledger, and the checks of its state against all entries.

    First `adopt`, then `check`, then `resume` for each partition; then `closed` and `emitting`. Any
    thread may write.

    Args:
        store: Holds the entries.
        retry: For `emitting`.
        tables: Tables of the contract.
        process: Number of this process in the flow.
        accepted: Findings that the user accepts.
        hmac_key: Key of the contract's masks.
    """

    def __init__(
        self,
        store: LedgerStore,
        retry: RetryPolicy,
        tables: Sequence[TableSection],
        process: int = 0,
        accepted: Collection[Accept] = (),
        hmac_key: str | None = None,
    ) -> None:
        self._store = store
        self._retry = retry
        self._process = process
        self._accepted = frozenset(accepted)
        self._used: set[Accept] = set()
        self._collections = {table.topic: table.collection for table in tables}
        self._tables: dict[str, dict[str, str]] = {name: {} for name in self._collections.values()}
        for table in tables:
            self._tables[table.collection][table.name] = digest_of(table, hmac_key)
        self._known: dict[str, list[Entry]] = {}
        self._mine: dict[str, Entry] = {}
        self._closed: dict[str, dict[int, int]] = {}
        self._told: dict[str, int] = {}
        self._epoch = -1
        self._writing = threading.Lock()
        self._sequence = 0
        self._stored = 0
        self.fence: Callable[[], AbstractContextManager[None]] = nullcontext
        """Context around the writes of `emitting`: `Lease.writing`, once there is a lease."""

    # Starting.

    @property
    def collections(self) -> Collection[str]:
        """Names of the contract's collections."""
        return self._tables.keys()

    def entries(self) -> dict[str, Entry]:
        """Read all entries, by name: `collection/process`.

        Raises:
            RetriableError: They could not be read now.
        """
        return {name: Entry.unpack(name, body) for name, body in self._store.read().items()}

    def adopt(self, entries: Mapping[str, Entry]) -> None:
        """Take over the entries of all processes; later writes build on this process's own."""
        self._known = {name: [] for name in self._tables}
        for name, entry in entries.items():
            collection = name.rpartition("/")[0]
            if collection in self._known:
                self._known[collection].append(entry)
        blank = Entry("", self._process)
        self._mine = {c: entries.get(f"{c}/{self._process}", blank) for c in self._tables}
        told = [entry.sequence for known in self._known.values() for entry in known]
        self._sequence = self._stored = max(told, default=0)

    def check(self, identities: Mapping[str, str]) -> None:
        """Compare contract and collections with the entries.

        Args:
            identities: Identity of each collection, by name.

        Raises:
            FatalError: The contract, a collection or the number of shards is another one, and the
                user has not accepted that.
        """
        for collection, entries in self._known.items():
            said = [entry for entry in entries if entry.tables]
            if said:
                latest = max(said, key=lambda entry: entry.sequence)
                self._check(collection, identities[collection], latest)
        remade = Accept.OTHER_COLLECTION in self._used
        for collection, entries in self._known.items():
            history = max((entry.history for entry in entries), default=0)
            seen, breaks = self._seen(collection)
            self._mine[collection] = replace(
                self._mine[collection],
                identity=identities[collection],
                history=history + remade,
                shards=SHARDS,
                tables=self._tables[collection],
                seen={} if remade else seen,
                breaks=breaks,
            )
            self._told.update(self._mine[collection].seen)

    def _check(self, collection: str, identity: str, entry: Entry) -> None:
        subject = f"collection '{collection}'"
        if entry.shards != SHARDS:  # guard: other-shards
            raise FatalError(
                subject=subject,
                cause=f"it was filled with {entry.shards} shards, and this release has {SHARDS}",
                hint="run the release that filled it, or fill another collection",
            )
        if entry.identity and entry.identity != identity:  # guard: other-collection
            self.refuse(
                Accept.OTHER_COLLECTION,
                subject,
                "it is not the one that this flow filled: it was dropped and made anew since",
                "restore it; or have it filled anew, with an empty recovery directory",
            )
        tables = self._tables[collection]
        changed = [name for name in tables if entry.tables.get(name, tables[name]) != tables[name]]
        if changed:  # guard: other-contract
            self.refuse(
                Accept.OTHER_CONTRACT,
                subject,
                "it was filled by a contract that says something else of "
                f"{', '.join(sorted(changed))}",
                "put the contract back; or fill another collection with this one",
            )
        gone = sorted(entry.tables.keys() - tables.keys())
        if gone:  # guard: other-tables
            self.refuse(
                Accept.OTHER_CONTRACT,
                subject,
                f"it also holds rows of {', '.join(gone)}, which the contract no longer names",
                "put the table back; or start with an empty recovery directory, for the old one "
                "knows its partitions",
            )

    def resume(self, topic: str, partition: int, at: int | None, stamp: Stamp | None) -> None:
        """Check the recovery state of a partition before it is resumed.

        Args:
            topic: Topic of the partition.
            partition: Its number.
            at: The offset to resume at; None if there is no recovery state.
            stamp: What the recovery state remembers of the ledger.

        Raises:
            FatalError: The state does not belong to the collection, and the user has not accepted
                that.
        """
        collection = self._collections[topic]
        part = f"{topic}/{partition}"
        seen = self._mine[collection].seen.get(part)
        subject = f"recovery state of {topic}[{partition}]"
        if at is None or stamp is None:
            if seen is not None:  # guard: seen-without-state
                self.refuse(
                    Accept.LOST_STATE,
                    subject,
                    f"there is none, though collection '{collection}' has been filled up to offset "
                    f"{seen}",
                    "put the recovery directory back",
                )
                self.forget(topic, partition)
            return
        identity = self._mine[collection].identity
        if stamp.identity and identity and stamp.identity != identity:  # guard: foreign-state
            self.refuse(
                Accept.OTHER_COLLECTION,
                subject,
                f"it belongs to another collection than the '{collection}' that is there",
                "name the recovery directory of this flow; or restore the collection",
            )
        if stamp.sequence > self._stored:  # guard: milvus-restored
            self.refuse(
                Accept.OTHER_COLLECTION,
                subject,
                f"it is newer than collection '{collection}': Milvus was restored from a backup, or "
                "its ledger is gone",
                "restore the recovery directory of the same moment; or empty both and fill them anew",
            )
        elif seen is not None and max(0, at) < seen:  # guard: seen-offset
            self.refuse(
                Accept.OLDER_STATE,
                subject,
                f"it ends at offset {at}, though collection '{collection}' has been filled up to "
                f"{seen}: it is an older copy",
                "put the latest recovery directory back",
            )
            self.forget(topic, partition)

    @property
    def distrusts(self) -> bool:
        """Whether the versions of rows in the recovery state may be wrong and must be looked up."""
        broken = any(entry.breaks for known in self._known.values() for entry in known)
        return broken or bool(self._accepted & {Accept.OLDER_STATE, Accept.OTHER_COLLECTION})

    def refuse(self, what: Accept, subject: str, cause: str, hint: str) -> None:
        """Stop, unless the user has accepted this finding.

        Raises:
            FatalError: Not accepted; the message names both ways to continue.
        """
        if what not in self._accepted:  # guard: not-accepted
            raise FatalError(
                subject=subject,
                cause=cause,
                hint=f"{hint}. Or start once with --accept-{what}, which {LOST[what]}",
            )
        self._used.add(what)
        logger.warning("%s: %s. Accepted: the flow %s.", subject, cause, LOST[what])

    def forget(self, topic: str, partition: int) -> None:
        """Ignore, in all entries, up to which offset a partition was committed."""
        collection, part = self._collections[topic], f"{topic}/{partition}"
        with self._writing:
            mine = self._mine[collection]
            seen = {name: offset for name, offset in mine.seen.items() if name != part}
            breaks = {**mine.breaks, part: mine.breaks.get(part, 0) + 1}
            self._mine[collection] = replace(mine, seen=seen, breaks=breaks)
            self._told.pop(part, None)

    def _seen(self, collection: str) -> tuple[dict[str, int], dict[str, int]]:
        entries = self._known[collection]
        history = max((entry.history for entry in entries), default=0)
        best: dict[str, tuple[int, int]] = {}
        for entry in entries:
            if entry.history == history:
                for part in {**entry.seen, **entry.breaks}:
                    # guard: seen-before-break
                    said = (entry.breaks.get(part, 0), entry.seen.get(part, -1))
                    best[part] = max(said, best.get(part, said))  # guard: seen-by-any-process
        seen = {part: offset for part, (_, offset) in best.items() if offset >= 0}
        return seen, {part: breaks for part, (breaks, _) in best.items() if breaks}

    # Running.

    def stamp(self, topic: str) -> Stamp:
        """What the recovery state of a partition of this topic has to remember."""
        return Stamp(self._mine[self._collections[topic]].identity, self._stored)

    def closed(self, topic: str, partition: int, epoch: int, offset: int) -> None:
        """Note at which offset an epoch of a partition has ended; the epoch is not committed yet.

        Args:
            topic: Topic of the partition.
            partition: Its number.
            epoch: Number of epochs that this process has closed before, the same for all partitions;
                -1 to note where the partition was resumed.
            offset: The next offset to be read.
        """
        ends = self._closed.setdefault(f"{topic}/{partition}", {})
        ends[epoch] = offset
        ends.pop(epoch - 2, None)

    def emitting(self, epoch: int) -> None:
        """Write down that all epochs before this one are committed.

        Called before the first record of the epoch is passed on. Bytewax lets it in only when the
        epoch before is committed.

        Raises:
            FatalError: The ledger cannot be written.
        """
        if epoch <= self._epoch:
            return
        # guard: seen-is-committed
        ended = {part: ends.get(epoch - 1, -1) for part, ends in self._closed.items()}
        seen = {
            part: offset
            for part, offset in ended.items()
            if offset >= 0 and offset != self._told.get(part)
        }
        if seen or self._epoch < 0:
            # The first write also stores what the user accepted at the start, before any row is
            # written because of it.
            self._retry.call(partial(self._tell, seen))
            self._told.update(seen)
        self._epoch = epoch

    def ended(self) -> None:
        """Note that the flow has ended cleanly, so its last epoch is committed as well.

        The next write stores it: the one that releases the lease.
        """
        last = {part: ends[max(ends)] for part, ends in self._closed.items()}
        seen = {part: offset for part, offset in last.items() if offset >= 0}
        with self._writing:
            self._mine = {name: self._with(name, e, seen) for name, e in self._mine.items()}

    def _tell(self, seen: Mapping[str, int]) -> None:
        with self.fence():
            self.write(lambda collection, entry: self._with(collection, entry, seen))

    def _with(self, collection: str, entry: Entry, seen: Mapping[str, int]) -> Entry:
        now = {
            part: offset
            for part, offset in seen.items()
            if self._collections[part.rpartition("/")[0]] == collection
        }
        return replace(entry, seen={**entry.seen, **now})

    def write(self, change: Callable[[str, Entry], Entry]) -> None:
        """Change the entries of this process and store them, without retrying.

        Raises:
            RetriableError: They could not be stored now. The change is stored with the next write.
        """
        with self._writing:
            self._sequence += 1
            self._mine = {
                name: replace(change(name, entry), sequence=self._sequence)
                for name, entry in self._mine.items()
            }
            sequence = self._sequence
            self._store.write(
                {f"{name}/{self._process}": entry.pack() for name, entry in self._mine.items()}
            )
            self._stored = sequence
