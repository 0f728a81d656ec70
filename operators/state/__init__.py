"""What a checkpoint holds: the version map of a shard, and the source's place in a partition.

Recovery files hold plain tuples, dicts and strings, never a class of ours. May import: changes, errors.
"""

__all__ = ["dedup_checkpoint", "source_checkpoint", "version_map"]
