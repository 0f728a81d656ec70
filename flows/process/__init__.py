"""What surrounds the flow in a process: `preflight` checks, and the `session` that they open.

Also telemetry (`observability`), the `progress` display, the watch for new partitions
(`partition_watch`), settings of Python's `garbage_collector`, the limit of `open_files`, and what
process 1 of a container does (`first_process`). May import: recovery, settings, sync, and all of
operators.
"""

__all__ = [
    "first_process",
    "garbage_collector",
    "observability",
    "open_files",
    "partition_watch",
    "preflight",
    "progress",
    "session",
]
