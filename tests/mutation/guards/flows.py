"""The guards of flows/."""

from tests.mutation.guard import Guard
from tests.mutation.mutations import dropped, never, replaced
from tests.mutation.selections import EXPORTERS, NAMES, OPEN_FILES, PEEKING, RECOVERY

GUARDS: tuple[Guard, ...] = (
    Guard(
        "model-chunks-tried",
        "a model that cannot cut texts is refused before the flow runs",
        never,
        ("tests/unit/process/test_model_check.py", "-k", "chunks"),
    ),
    Guard(
        "search-model",
        "a collection is not searched with another model's vectors",
        never,
        ("tests/integration/test_search.py", "-k", "another_model"),
    ),
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
        "one-name-for-one-collection",
        "a contract that names one collection by two names is refused",
        never,
        NAMES,
    ),
    Guard(
        "recovery-others",
        "a recovery directory to which others have any right is refused",
        never,
        RECOVERY,
    ),
    Guard(
        "recovery-parent",
        "a recovery directory that anyone can replace is refused",
        never,
        RECOVERY,
    ),
    Guard(
        "recovery-files-closed",
        "recovery files are for their owner alone",
        dropped,
        RECOVERY,
    ),
    Guard(
        "recovery-lock-link",
        "a lock file that is a symbolic link is not followed",
        replaced("os.O_NOFOLLOW", by="0"),
        RECOVERY,
    ),
    Guard(
        "recovery-lock-link-checked",
        "`rowvec check` refuses a lock file that is a symbolic link, as a start does",
        never,
        RECOVERY,
    ),
    Guard(
        "nothing-created-after-a-failure",
        "a contract that is refused creates no collection",
        never,
        ("tests/unit/process/test_preflight.py",),
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
    Guard(
        "otel-protocol",
        "a protocol of OpenTelemetry that is not there is refused, not passed over",
        never,
        EXPORTERS,
    ),
    Guard(
        "otel-values",
        "a value of OpenTelemetry's variables that the SDK would pass over is refused",
        never,
        EXPORTERS,
    ),
    Guard(
        "telemetry-bounded",
        "a collector that is down does not hold up the end of a flow",
        replaced("SHUTDOWN_S", by="None"),
        ("tests/unit/process/test_observability.py",),
    ),
)
