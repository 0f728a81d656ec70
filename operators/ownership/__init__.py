"""Who may write to a collection, and how far it was filled: the lease and the ledger.

`ledger` refuses a start whose recovery state does not belong to the collection; `entries` is what it
stores, `accept` what a user can override. `lease` and `kill_timer` make sure that there is one
writer, and `fenced_store` refuses writes without the lease. May import: store, changes, contract,
retry, errors.
"""

__all__ = ["accept", "entries", "fenced_store", "kill_timer", "lease", "ledger"]
