"""What passes between the stages: change events, rows, versions, row keys, shards.

Plain values without behaviour; everything above speaks in them. May import: contract, errors.
"""

__all__ = ["events", "row_key", "rows", "shards", "text_hash", "vector", "version"]
