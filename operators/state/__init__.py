"""What a checkpoint holds: the version map of a shard, and the source's offset in a partition.

`version_map` uses `map_generation` (over `frozen_versions`), `row_marks` and `refused_changes`; lanes
report refused changes to it through `refusal_queue`. `dedup_checkpoint` and `source_checkpoint` convert
state to plain values and back; `formats` decides which formats can be read.

Recovery files hold plain tuples, dicts and strings, never a class of ours. May import: changes, errors.
"""

__all__ = ["dedup_checkpoint", "source_checkpoint", "version_map"]
