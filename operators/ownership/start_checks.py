"""The checks at a start: contract, collections and recovery state must fit the ledger's entries."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from operators.changes.shards import SHARDS
from operators.contract.table import TableSection
from operators.errors import FatalError
from operators.ownership.accept_options import LOST, Accept
from operators.ownership.ledger_entries import Entry, Stamp, differ, table_digest
from operators.ownership.own_entries import OwnEntries

logger = logging.getLogger(__name__)

_DISTRUSTED = frozenset({Accept.OLDER_STATE, Accept.OTHER_COLLECTION, Accept.RECREATED_TOPIC})
"""Findings after whose acceptance the versions in the recovery state may be behind the collection."""


class StartChecks:
    """Refuses a start whose contract, collections or recovery state do not fit the ledger.

    The main thread calls `check` once the entries are adopted; then the worker calls `resume` for each
    partition. `refuse` is for findings of others too: the source finds that a topic is another one.

    Args:
        entries: This process's entries.
        tables: Tables of the contract.
        accepted: Findings that the user accepts for this start.
        hmac_key: Key of the contract's masks.
    """

    def __init__(
        self,
        entries: OwnEntries,
        tables: Sequence[TableSection],
        accepted: Collection[Accept],
        hmac_key: str | None,
    ) -> None:
        self._entries = entries
        self._accepted = frozenset(accepted)
        self._used: set[Accept] = set()
        self._tables: dict[str, dict[str, str]] = {name: {} for name in entries.collections}
        for table in tables:
            self._tables[table.collection][table.name] = table_digest(table, hmac_key)

    def check(
        self, identities: Mapping[str, str], partitions: Collection[tuple[str, int]] = ()
    ) -> None:
        """Compare contract, collections and topics with the entries.

        Args:
            identities: Identity of each collection, by name.
            partitions: All partitions that the contract's topics have; empty: they are not compared.

        Raises:
            FatalError: The contract, a collection, a topic or the number of shards is another one, and
                the user has not accepted that.
        """
        left: dict[str, Mapping[str, str]] = {}
        for collection, entries in self._entries.adopted.items():
            filled = [entry for entry in entries if entry.tables]
            if filled:
                latest = max(filled, key=lambda entry: entry.sequence)
                left[collection] = self._check_collection(
                    collection, identities[collection], latest
                )
        remade = Accept.OTHER_COLLECTION in self._used
        for collection, entries in self._entries.adopted.items():
            history, seen, breaks = _committed(entries)
            mine, identity = self._entries[collection], identities[collection]
            lost = self._lost_partitions(seen, frozenset(partitions))
            self._entries.start_from(
                collection,
                partial(
                    replace,
                    identity=identity,
                    history=history + remade,
                    shards=SHARDS,
                    tables=self._tables[collection],
                    seen={} if remade else seen,
                    breaks=breaks,
                    keys=mine.keys if mine.identity == identity else {},
                    left={} if remade else left.get(collection, {}),
                ),
            )
            for topic, partition in lost:
                self._entries.forget(topic, partition)

    def _lost_partitions(
        self, seen: Mapping[str, int], partitions: Collection[tuple[str, int]]
    ) -> list[tuple[str, int]]:
        """Partitions that were read, and that their topic no longer has, if the user accepts that."""
        topics = {topic for topic, _ in partitions}
        lost: list[tuple[str, int]] = []
        for part, offset in seen.items():
            topic, _, number = part.rpartition("/")
            read = offset > 0 and topic in topics
            if read and (topic, int(number)) not in partitions:  # guard: partitions-lost
                self.refuse(
                    Accept.RECREATED_TOPIC,
                    f"{topic}[{number}]",
                    f"the topic has no such partition any more, though it was read up to offset "
                    f"{offset}: the topic was made anew, with fewer partitions",
                    "name the topic's cluster; or fill the collection anew",
                )
                lost.append((topic, int(number)))
        return lost

    def _check_collection(self, collection: str, identity: str, entry: Entry) -> Mapping[str, str]:
        """Compare one collection with its latest entry.

        Returns:
            The digests of tables that have left the contract.
        """
        subject = f"collection '{collection}'"
        if entry.shards != SHARDS:  # guard: other-shards
            raise FatalError(
                subject=subject,
                cause=f"it was filled with {entry.shards} shards, and this release has {SHARDS}",
                hint="run the release that filled it, or fill another collection",
            )
        if differ(entry.identity, identity):  # guard: other-collection
            self.refuse(
                Accept.OTHER_COLLECTION,
                subject,
                "it is not the one that this flow filled: it was dropped and made anew since, or "
                "restored from a backup",
                "restore it; or have it filled anew, with an empty recovery directory",
            )
        tables = self._tables[collection]
        known = {**entry.left, **entry.tables}  # guard: table-comes-back
        changed = [name for name in tables if known.get(name, tables[name]) != tables[name]]
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
                "put the table back",
            )
        return {name: digest for name, digest in known.items() if name not in tables}

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
        collection = self._entries.collection_of(topic)
        mine = self._entries[collection]
        seen = mine.seen.get(f"{topic}/{partition}")
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
                self._entries.forget(topic, partition)
            return
        if differ(stamp.identity, mine.identity):  # guard: foreign-state
            self.refuse(
                Accept.OTHER_COLLECTION,
                subject,
                f"it belongs to another collection than the '{collection}' that is there",
                "name the recovery directory of this flow; or restore the collection",
            )
        if stamp.sequence > self._entries.stored_sequence:  # guard: milvus-restored
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
            self._entries.forget(topic, partition)

    @property
    def distrusts(self) -> bool:
        """Whether the versions of rows in the recovery state may be wrong and must be looked up."""
        broken = any(
            entry.breaks for entries in self._entries.adopted.values() for entry in entries
        )
        return broken or bool(self._accepted & _DISTRUSTED)

    def accept_no_more(self) -> None:
        """Refuse what the user accepted for the start that is over."""
        self._accepted = frozenset()

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


def _committed(entries: Sequence[Entry]) -> tuple[int, dict[str, int], dict[str, int]]:
    """The newest history in entries of one collection; by partition, its offset and its breaks.

    Entries of an older history are ignored, and for each partition those with fewer breaks.
    """
    history = max((entry.history for entry in entries), default=0)
    best: dict[str, tuple[int, int]] = {}
    for entry in entries:
        if entry.history == history:
            for part in {**entry.seen, **entry.breaks}:
                # guard: seen-before-break
                said = (entry.breaks.get(part, 0), entry.seen.get(part, -1))
                best[part] = max(said, best.get(part, said))  # guard: seen-by-any-process
    seen = {part: offset for part, (_, offset) in best.items() if offset >= 0}
    return history, seen, {part: breaks for part, (breaks, _) in best.items() if breaks}
