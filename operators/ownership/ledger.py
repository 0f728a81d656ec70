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

from collections.abc import Collection, Mapping, Sequence

from operators.contract.table import TableSection
from operators.ownership.accept_options import Accept
from operators.ownership.epoch_ends import EpochEnds
from operators.ownership.own_entries import OwnEntries
from operators.ownership.start_checks import StartChecks
from operators.retry import RetryPolicy
from operators.store.protocol import LedgerStore


class Ledger:
    """The ledger as one process uses it.

    Attributes:
        entries: This process's entries; the lease is kept in them, too.
        start: The checks that run once, before anything is read.
        epochs: The writes that run at each epoch.

    Args:
        store: Holds the entries of all processes.
        retry: For the writes at each epoch.
        tables: Tables of the contract.
        process: Number of this process in the flow.
        accepted: Findings that the user accepts for this start.
        hmac_key: Key of the contract's masks.
        identities: Identity of each collection that exists, by name.
    """

    def __init__(
        self,
        store: LedgerStore,
        retry: RetryPolicy,
        tables: Sequence[TableSection],
        process: int = 0,
        accepted: Collection[Accept] = (),
        hmac_key: str | None = None,
        identities: Mapping[str, str] = {},
    ) -> None:
        self.entries = OwnEntries(store, tables, process, identities)
        self.start = StartChecks(self.entries, tables, accepted, hmac_key)
        self.epochs = EpochEnds(self.entries, retry)
        self._retry = retry

    def run_again(self) -> None:
        """Prepare for another run of the flow in this process, after one that has ended cleanly.

        What the user accepted was for one start, so it is not accepted again.
        """
        self.start.accept_no_more()
        self.epochs = EpochEnds(self.entries, self._retry)
