"""The database itself, asked for columns that Debezium left out; the only import of psycopg.

`reselect` is the way in. May import: codec, changes, contract.
"""

__all__ = ["reselect"]
