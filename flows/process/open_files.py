"""How many files the flow needs to hold open, and whether this process may.

A client of Kafka that cannot open another connection only logs it and tries again. So a flow over more
partitions than its limit allows would leave some of them unread for ever.
"""

import resource

from operators.errors import FatalError

_READER = 9
"""Descriptors for each partition: eight of the client that reads it, with one broker, and one of its
table's log where Milvus Lite runs in this process."""

_BROKER = 3
"""Descriptors that each further broker of the cluster costs a client: a pipe, and a connection."""

_RECOVERY_FILE = 3
"""Descriptors of one recovery file: SQLite's database, its log, and the log's index."""

_REST = 128
"""Descriptors of all else: Milvus, the dead letters' producer, the registry, the model, exporters."""


def needed(partitions: int, brokers: int, recovery_files: int) -> int:
    """The most files that a process needs to open at the same time.

    Args:
        partitions: Partitions that it reads.
        brokers: Brokers of the cluster.
        recovery_files: Files of its recovery directory.
    """
    reader = _READER + _BROKER * (max(1, brokers) - 1)
    return partitions * reader + recovery_files * _RECOVERY_FILE + _REST


def allow(partitions: int, brokers: int, recovery_files: int) -> None:
    """Raise this process's limit of open files to what the flow needs, as far as it may be raised.

    Args:
        partitions: See `needed`.
        brokers: See `needed`.
        recovery_files: See `needed`.

    Raises:
        FatalError: The limit cannot be raised that far; the message says how many files are needed.
    """
    wanted = needed(partitions, brokers, recovery_files)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _enough(soft, wanted):
        return
    if not _enough(hard, wanted):  # guard: open-files
        raise FatalError(
            subject="the limit of open files",
            cause=f"{partitions:,} partitions need {wanted:,} (brokers: {brokers:,}), and this "
            f"process may open {hard:,}",
            hint=f"start it with `ulimit -n {wanted}` or more (LimitNOFILE in systemd); or have "
            "several processes share the partitions",
        )
    # Not to the hard limit: that may be a million, and some programs walk through all of them.
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _enough(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted
