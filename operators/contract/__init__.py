"""The contract: tables → collections, as `rowvec.toml` says it.

`sections` has the whole file and its connections, `table` one table, `addresses` what an address may
be. Models are frozen and refuse unknown keys. May import: errors, printable.
"""

__all__ = ["addresses", "sections", "table"]
