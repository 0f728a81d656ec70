"""Reads columns that Debezium left out from PostgreSQL itself; the only import of psycopg.

`reselect` is the entry point; `hidden_changes` words what messages do not tell. May import: codec,
changes, contract.
"""

__all__ = ["hidden_changes", "reselect"]
