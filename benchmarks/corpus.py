"""Real texts, short and long: the docstrings of Python's standard library."""

import random
from functools import cache

from flows.embedded.corpus import stdlib

SHORT_CHARACTERS = 80
LONG_CHARACTERS = 300
ROW_CHARACTERS = 120


def docstrings() -> list[str]:
    """Every distinct docstring, shuffled with a fixed seed."""
    return list(_docstrings())


@cache
def _docstrings() -> tuple[str, ...]:
    texts = sorted({docstring.doc for docstring in stdlib()[0]})
    random.Random(1).shuffle(texts)
    return tuple(texts)


def short(texts: list[str], count: int) -> list[str]:
    """The first `count` of up to 80 characters."""
    return [text for text in texts if len(text) <= SHORT_CHARACTERS][:count]


def long(texts: list[str], count: int) -> list[str]:
    """The first `count` of 300 characters and more."""
    return [text for text in texts if len(text) >= LONG_CHARACTERS][:count]


def of_rows() -> list[str]:
    """The texts for rows of a table: all docstrings of up to 120 characters."""
    return [text for text in docstrings() if len(text) <= ROW_CHARACTERS]
