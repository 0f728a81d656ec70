"""What a checkpoint holds: the version map of a shard, and the source's place in a partition.

`version_map` is made of `generation` (over `frozen_versions`), `row_marks` and `refused_changes`; lanes
leave in `refusals` what it has to know. `dedup_checkpoint` and `source_checkpoint` are what is packed
and read again; `formats` says which formats can be read.

Recovery files hold plain tuples, dicts and strings, never a class of ours. May import: changes, errors.
"""

__all__ = ["dedup_checkpoint", "source_checkpoint", "version_map"]
