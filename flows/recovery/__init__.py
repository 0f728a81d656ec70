"""Recovery directories: `directory` locks and creates one, `files` checks that its files are intact.

`permissions` keeps everyone but their owner out. May import: contract, errors.
"""

__all__ = ["directory", "files"]
