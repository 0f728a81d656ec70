"""What surrounds the flow in a process: `preflight` checks, and the `session` with what they `opened`.

Also telemetry (`observability`), the `progress` display, the watches for new partitions and for the
system clock (`partition_watch`, `clock_watch`; both are `periodic`), settings of Python's
`garbage_collector`, the limit of `open_files`, errors that are not Rowvec's own (`foreign_errors`), and
what process 1 of a container does (`first_process`).
May import: recovery, settings, sync, and all of operators.
"""

__all__ = [
    "clock_watch",
    "first_process",
    "foreign_errors",
    "garbage_collector",
    "observability",
    "open_files",
    "opened",
    "partition_watch",
    "periodic",
    "preflight",
    "progress",
    "session",
]
