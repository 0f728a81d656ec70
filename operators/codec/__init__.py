"""Bytes → change events: Debezium's messages, as JSON or through a schema registry.

`decoder` is the entry point; `record_rows` says which rows a record is about. `log_positions` gives
each change its version, `row_keys` its row key, `logical_types` and `temporal` turn encoded values into
canonical ones, and `text` prints those.
May import: contract, changes, errors, retry.
"""

__all__ = [
    "big_numbers",
    "decoder",
    "key_types",
    "log_positions",
    "logical_types",
    "messages",
    "mongodb",
    "origins",
    "placeholder",
    "registry",
    "row_keys",
    "sql_names",
    "temporal",
    "text",
]
