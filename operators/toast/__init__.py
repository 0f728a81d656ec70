"""Columns that Debezium left out of a change (TOAST), and where their values come from.

`resolver` has the rules, as tables: who may give a partial row what it lacks, and what is left of a row
where nobody can. `donor` is what one version has to give, `key_changes` keeps what a row held for the
key that it moved to, `completer` asks both, and the database. May import: rendering, store, changes.
"""

__all__ = ["completer", "donor", "key_changes", "resolver"]
