"""The contract: tables → collections, as `rowvec.toml` says it.

`sections` has the whole file and its connections, `table` one table. Models are frozen and refuse
unknown keys. May import: errors.
"""

__all__ = ["sections", "table"]
