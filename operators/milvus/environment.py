"""Keeps pymilvus from changing the environment of the process when it is imported.

On import it looks for a file `.env` beside its own installation and in all folders above it, and sets
every variable in it. A contract, a proxy or a token of this process would come from a file that nobody
named.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH = "PYTHON_DOTENV_DISABLED"
"""python-dotenv, which pymilvus asks, then does nothing; its older versions do not know the switch."""


@contextmanager
def keep_environment() -> Iterator[None]:
    """Read no `.env` inside of the block; after it, the environment is what it was before."""
    before = dict(os.environ)
    os.environ[_SWITCH] = "1"
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
