"""Dead letters, listed and sent again, unless a newer change of the row has come since.

May import: sync, settings, and all of operators.
"""

__all__ = ["letters", "replay"]
