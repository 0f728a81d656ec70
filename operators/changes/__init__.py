"""What passes between the stages: change events, rows, versions, row keys, shards.

Plain values without behaviour, used by all packages above. May import: contract, errors.
"""

__all__ = ["events", "exact_json", "row_key", "rows", "shards", "text_hash", "vector", "version"]
