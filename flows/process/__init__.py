"""What surrounds the flow in a process: preflight checks, telemetry, progress, garbage collection.

May import: recovery, settings, sync, and all of operators.
"""

__all__ = ["first_process", "garbage", "observability", "preflight", "progress"]
