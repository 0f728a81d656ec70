"""Columns that Debezium left out of a change (TOAST), and where their values come from.

`completer` gives a partial row what it lacks, `donor` says what may give it, `key_changes` keeps what
a row held for the key that it moved to. May import: rendering, store, changes.
"""

__all__ = ["completer", "donor", "key_changes"]
