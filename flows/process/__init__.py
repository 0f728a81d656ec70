"""One process around the flow: checks before the start, telemetry, progress, garbage collection.

May import: recovery, settings, sync, and all of operators.
"""

__all__ = ["first_process", "garbage", "observability", "preflight", "progress"]
