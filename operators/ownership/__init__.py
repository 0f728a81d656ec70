"""Who may write, and what was seen: the ledger, the lease, and the gate of every write.

`ledger` compares a start's state with what was written down, `lease` and `kill_timer` make sure that
there is one writer, `fenced_store` is the gate. May import: store, changes, contract, retry.
"""

__all__ = ["accept", "entries", "fenced_store", "kill_timer", "lease", "ledger"]
