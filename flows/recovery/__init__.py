"""Recovery directories: whose they are, and whether each of their files is sound.

May import: contract, errors.
"""

__all__ = ["directory"]
