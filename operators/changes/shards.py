"""The shards that rows are spread over."""

from zlib import crc32

SHARDS = 256
"""Number of shards, fixed for ever: recovery files are keyed by them."""

ALL_SHARDS = tuple(f"{shard:03d}" for shard in range(SHARDS))

NUMBER_OF_SHARD = {name: number for number, name in enumerate(ALL_SHARDS)}


def shard_of(key: str) -> str:
    """The shard of a row: stable over processes, releases and machines."""
    return ALL_SHARDS[crc32(key.encode()) % SHARDS]  # guard: shard-of-key
