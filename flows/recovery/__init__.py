"""Recovery directories: `directory` locks and creates one, `files` checks that its files are intact.

May import: contract, errors.
"""

__all__ = ["directory", "files"]
