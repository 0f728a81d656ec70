"""Reads columns that Debezium left out from PostgreSQL itself; the only import of psycopg.

`reselect` is the entry point. May import: codec, changes, contract.
"""

__all__ = ["reselect"]
