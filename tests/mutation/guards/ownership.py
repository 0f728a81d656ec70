"""The guards of operators/ownership/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import always, dropped, gives, never, replaced, unwrapped, without
from tests.mutation.selections import LEASE, LEDGER, TIMER

GUARDS: tuple[Guard, ...] = (
    Guard(
        "seen-offset",
        "state that ends before what the collection has seen is refused",
        never,
        LEDGER,
    ),
    Guard(
        "seen-without-state",
        "no state is refused if the collection has seen any",
        never,
        LEDGER,
    ),
    Guard(
        "seen-is-committed",
        "only what is committed is recorded as seen, not the epoch that just ended",
        replaced("ends.get(epoch - 1, -1)", by="max(ends.values())"),
        LEDGER,
    ),
    Guard(
        "seen-by-any-process",
        "what any process has seen counts",
        replaced("max", by="min"),
        LEDGER,
    ),
    Guard(
        "seen-before-break",
        "what was seen before an accepted break no longer counts",
        replaced("entry.breaks.get(part, 0)", by="0"),
        LEDGER,
    ),
    Guard(
        "milvus-restored",
        "state that is newer than the ledger is refused",
        never,
        LEDGER,
    ),
    Guard(
        "foreign-state",
        "state that belongs to another collection is refused",
        never,
        LEDGER,
    ),
    Guard(
        "other-collection",
        "a collection that was dropped and created again is refused",
        never,
        LEDGER,
    ),
    Guard(
        "other-contract",
        "a contract that changes what a table's rows become is refused",
        never,
        LEDGER,
    ),
    Guard(
        "other-tables",
        "a contract that lacks a table is refused",
        never,
        LEDGER,
    ),
    Guard(
        "other-shards",
        "another number of shards is refused",
        never,
        LEDGER,
    ),
    Guard(
        "other-format",
        "an entry of another release is refused",
        replaced('values.pop("format") != FORMAT', by='values.pop("format") is None'),
        LEDGER,
    ),
    Guard(
        "not-accepted",
        "a finding that the user has not accepted stops the flow",
        never,
        LEDGER,
    ),
    Guard(
        "entry-changes-take-turns",
        "a change of an entry is not lost while another thread writes the entries",
        unwrapped,
        LEDGER,
    ),
    Guard(
        "newcomer-waits",
        "a newcomer waits until the lease has run out",
        always,
        LEASE,
    ),
    Guard(
        "newcomer-sees-renewal",
        "a newcomer that sees a renewal gives up",
        never,
        LEASE,
    ),
    Guard(
        "claim-in-time",
        "a claim that took too long to write does not count",
        always,
        LEASE,
    ),
    Guard(
        "claim-confirmed",
        "a claim that was overwritten does not count",
        dropped,
        LEASE,
    ),
    Guard(
        "lock-proves",
        "a holder without a lock is not taken for a dead process",
        gives("frozenset(free_locks)"),
        LEASE,
    ),
    Guard(
        "gate-closed",
        "nothing is written once the lease may have run out",
        never,
        LEASE,
    ),
    Guard(
        "gate-before-death",
        "a request that begins in time ends before the kernel kills the process",
        gives("self.lease * (_KILL - _MARGIN)"),
        LEASE,
    ),
    Guard(
        "lease-lost",
        "nothing is written once another process was found to hold the lease",
        dropped,
        LEASE,
    ),
    Guard(
        "lease-looked-at",
        "a renewal first checks whether another process holds the lease",
        dropped,
        LEASE,
    ),
    Guard(
        "lease-late",
        "a late renewal counts only after whoever it may have overwritten has ended",
        always,
        LEASE,
    ),
    Guard(
        "lease-late-unanswered",
        "a renewal without an answer counts as late, too",
        never,
        LEASE,
    ),
    Guard(
        "lease-late-claim",
        "a process that claimed too late waits a lease before it claims again",
        dropped,
        LEASE,
    ),
    Guard(
        "lease-ended",
        "nothing is written after the lease was released",
        dropped,
        LEASE,
    ),
    Guard(
        "timer-armed",
        "the kernel is told when to kill the process",
        dropped,
        LEASE,
    ),
    Guard(
        "timer-from-before",
        "the kill time counts from before the entries were read",
        replaced("began", by="self._now()"),
        LEASE,
    ),
    Guard(
        "timer-under-way",
        "the timer is not put off while a request is running",
        without("not self._in_flight"),
        LEASE,
    ),
    Guard(
        "timer-kills",
        "the timer sends a signal that no process can ignore",
        replaced("signal.SIGKILL", by="signal.SIGTERM"),
        TIMER,
    ),
    Guard(
        "timer-first-process",
        "running as process 1, which SIGKILL cannot end, is refused",
        never,
        TIMER,
    ),
    Guard(
        "timer-forked",
        "a forked child does not touch its parent's timer",
        never,
        TIMER,
    ),
    Guard(
        "lease-thread",
        "whatever ends the lease thread stops the flow",
        dropped,
        LEASE,
    ),
    Guard(
        "fence-record",
        "the record of an epoch needs the lease",
        without("self.fence"),
        LEASE,
    ),
)
