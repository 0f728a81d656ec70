"""What the preflight checks open, for the flow to take over."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flows.process.collection_names import CollectionNames
from operators.milvus.store import MilvusStore
from operators.model.protocol import Embedder
from operators.ownership.accept_options import Accept
from operators.ownership.collection_watch import CollectionWatch
from operators.ownership.kill_timer import KillTimer
from operators.ownership.lease import Lease
from operators.ownership.ledger import Ledger
from operators.postgres.reselect import Reselector
from operators.rendering.renderer import Rules
from operators.retry import RetryPolicy

if TYPE_CHECKING:
    from operators.codec.registry.decoder import RegistryDecoder


@dataclass(frozen=True, slots=True)
class Claim:
    """A process that is about to write, as opposed to `rowvec check`.

    Attributes:
        retry: For requests to the store.
        process, processes: Its number in the flow, and how many processes there are.
        locks: Identities of the recovery locks that it has taken or found free; its own first.
    """

    retry: RetryPolicy
    process: int = 0
    processes: int = 1
    locks: tuple[str, ...] = ()


@dataclass(slots=True)
class Opened:
    """What the checks have opened so far. The flow takes it over.

    Attributes:
        origins: Schema and table name in the database, by topic, as found in a record.
        nulls: Columns that are NULL in a record that was looked at, by topic.
        names: What the contract's names of collections stand for.
        collections_empty: Whether all collections are empty.
        claim: The process that is about to write; None for `rowvec check`.
        accepted: Findings that the user accepts for this start.
        lease: The lease, once its check has taken it.
        failed: Whether a check has failed.
        warnings: What the running check warns of; `outcomes` moves them into its outcome.
    """

    rules: dict[str, Rules] = field(default_factory=dict)
    framed: "RegistryDecoder | None" = None
    database: Reselector | None = None
    origins: dict[str, tuple[str, str]] = field(default_factory=dict)
    nulls: dict[str, set[str]] = field(default_factory=dict)
    partitions: list[tuple[str, int]] = field(default_factory=list)
    embedder: Embedder | None = None
    store: MilvusStore | None = None
    names: CollectionNames | None = None
    collections_empty: bool = False
    claim: Claim | None = None
    accepted: frozenset[Accept] = frozenset()
    ledger: Ledger | None = None
    lease: Lease | None = None
    timer: KillTimer | None = None
    watch: CollectionWatch | None = None
    failed: bool = False
    warnings: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Release the lease, delete the timer, and close the connections, even if one of them fails."""
        with ExitStack() as closing:  # the last one that is added is closed first
            for each in (self.database, self.framed, self.store, self.timer):
                if each is not None:
                    closing.callback(each.close)
            if self.lease is not None:
                closing.callback(self.lease.end)
