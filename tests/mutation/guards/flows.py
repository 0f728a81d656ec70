"""The guards of flows/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import dropped, never, replaced
from tests.mutation.selections import OPEN_FILES, PEEKING, RECOVERY

GUARDS: tuple[Guard, ...] = (
    Guard(
        "lite-one-lane",
        "Milvus Lite has one lane",
        replaced(
            "min(contract.milvus.write_lanes, parts.store.max_writers or contract.milvus.write_lanes)",
            by="contract.milvus.write_lanes",
        ),
        ("tests/flow/test_sync.py", "-k", "lanes"),
    ),
    Guard(
        "recovery-others-write",
        "a recovery directory that others can write is refused",
        never,
        RECOVERY,
    ),
    Guard(
        "recovery-owner",
        "a recovery directory of another user is refused",
        never,
        RECOVERY,
    ),
    Guard(
        "recovery-mode",
        "a new recovery directory is accessible to its owner only",
        replaced("0o700", by="0o755"),
        RECOVERY,
    ),
    Guard(
        "recovery-lock",
        "only one process at a time uses a recovery directory",
        never,
        RECOVERY,
    ),
    Guard(
        "recovery-part-twice",
        "a recovery partition that is there twice is refused",
        never,
        RECOVERY,
    ),
    Guard(
        "recovery-part-missing",
        "a missing recovery partition is refused",
        never,
        RECOVERY,
    ),
    Guard(
        "recovery-part-older",
        "a recovery partition that is an older copy than the others is refused",
        never,
        RECOVERY,
    ),
    Guard(
        "recovery-part-damaged",
        "a damaged recovery partition is refused",
        never,
        RECOVERY,
    ),
    Guard(
        "open-files",
        "a flow that needs more open files than it may have is refused",
        never,
        OPEN_FILES,
    ),
    Guard(
        "peeked-tombstone",
        "tombstones that name no row are refused before anything is written",
        never,
        PEEKING,
    ),
    Guard(
        "lag-of-unread",
        "records of partitions that are not read yet count as lag",
        dropped,
        ("tests/unit/process/test_partition_watch.py",),
    ),
)
