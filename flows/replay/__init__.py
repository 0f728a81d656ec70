"""Dead letters: `letters` lists them, `replay` sends them again unless a newer change exists.

`overtaking` decides whether a newer change exists. May import: sync, settings, and all of operators.
"""

__all__ = ["letters", "replay"]
