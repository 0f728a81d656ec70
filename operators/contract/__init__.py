"""The contract: tables → collections, as `rowvec.toml` says it.

`sections` has the whole file and its connections, `table` one table, `field_names` what a field may be
called, `addresses` what an address may be. Models are frozen and refuse unknown keys.
May import: errors, printable.
"""

__all__ = ["addresses", "field_names", "sections", "table"]
