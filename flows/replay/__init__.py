"""Dead letters: `dead_letters` lists them, `replay` sends them again unless a newer change exists.

`examiner` finds their records and reads the topic for newer changes; `overtaking` has the rules of what
is newer. May import: sync, settings, and all of operators.
"""

__all__ = ["dead_letters", "replay"]
