"""Who may write to a collection, and how far it was filled: the lease and the ledger.

- `ledger`: the ledger of one process, made of `own_entries` (its `entries`, read and written),
  `start_checks` (refuses a start whose state does not fit) and `epoch_ends` (what is written at each
  epoch). `accept_options` lists what a
  user can accept, `ledger_entries` says what an entry holds.
- `lease`: takes, renews and releases the lease, by the `lease_times`. `gate` lets writes pass while
  the lease lasts: each request that writes rows passes it. `kill_timer` ends the process when the lease
  runs out. `collection_watch` stops a flow whose collection became another one.

May import: store, changes, contract, retry, errors.
"""

__all__ = [
    "accept_options",
    "collection_watch",
    "gate",
    "kill_timer",
    "lease",
    "lease_times",
    "ledger",
    "ledger_entries",
    "own_entries",
]
