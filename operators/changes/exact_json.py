"""JSON → Python values, with every digit of every number.

orjson is fast, but makes a double of each number with a fraction, an exponent, or more than 64 bits:
`12345678901234567890121` and `…122` become equal, `12345678901234567.89` is rounded, `1e-400` is 0.
SQL has such numbers (`decimal.format=NUMERIC`, json columns). So what orjson made a double of is looked
at again: where the double's shortest text is not the number that was written, the value is an `int`,
or a `decimal.Decimal` with the digits as written. All other doubles stay doubles.
"""

import json
import re
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import uuid4

import orjson

_CONTAINERS = frozenset({float, dict, list})

_MAX_INT_DIGITS = 4_000
"""Python refuses to make an int of more than 4,300 digits, because that takes quadratic time."""

# A string is matched first, so that no number inside of one is found.
_TOKENS = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")|-?[0-9][0-9.eE+-]*+', re.DOTALL)

_NOT_OF_NUMBERS = bytes(byte if byte in b"0123456789.eE+-" else 32 for byte in range(256))
"""Makes a blank of every byte that no number has, so that each number is a word by itself."""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")

_EXPONENT = re.compile(rb"[eE][+-]?[0-9]{3}")

_MAX_SAFE = 4
"""The longest number that a double always holds is a little longer, but not with an exponent: 1e999."""

_MARK = uuid4().hex
"""Begins each text that stands for a number while orjson parses; nobody outside can know it."""

_WRITTEN = re.compile(f'"{_MARK}([^"]*)"')


def loads(raw: bytes | str, needed: Callable[[Any], Iterable[Any]] = lambda whole: (whole,)) -> Any:
    """The value of a JSON text.

    Args:
        raw: The text.
        needed: Those parts of the value that must be exact. Other parts may be rounded.

    Raises:
        orjson.JSONDecodeError: It is not valid JSON, or not valid Unicode.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "infinity" not in error.msg:  # it has no double for 1e400
            raise
        return _read_again(raw)
    # guard: exact-numbers
    return _read_again(raw) if any(map(_may_be_rounded, needed(value))) else value


def _may_be_rounded(value: Any) -> bool:
    """Whether a value holds a double. Nearly all rows do not, so this must be fast for them."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        kind = type(each)
        if kind is float:
            return True
        if kind is dict:
            each = each.values()
        elif kind is not list:
            continue
        if not _CONTAINERS.isdisjoint(map(type, each)):
            waiting.extend(each)
    return False


def _read_again(raw: bytes | str) -> Any:
    """Parse with texts in place of the numbers that a double cannot hold, then make numbers of them."""
    data = raw.encode() if isinstance(raw, str) else raw
    words = data.translate(_NOT_OF_NUMBERS).split()
    # Most of the words come from inside of strings, but where none is such a number, nothing else is.
    if all(map(_fits, [word for word in words if len(word) > _MAX_SAFE])):
        return orjson.loads(data)
    value = orjson.loads(_TOKENS.sub(_marked, data))
    try:
        return _unmarked(value)
    except ValueError as error:
        raise orjson.JSONDecodeError(str(error), "", 0) from None


def _marked(match: "re.Match[bytes]") -> bytes:
    token = match[0]
    if match[1] is not None or len(token) <= _MAX_SAFE or _fits(token):
        return token
    return b'"%s%s"' % (_MARK.encode(), token)


def _fits(word: bytes) -> bool:
    """Whether orjson makes of a number what was written; True for a word that is no number."""
    if word.isdigit() or (word[:1] == b"-" and word[1:].isdigit()):
        return len(word) < 19 or -(2**63) <= Decimal(word.decode()) < 2**64
    if len(word) < 16 and not _EXPONENT.search(word):
        return True  # a double keeps 15 digits of any number of its range
    text = word.decode()
    # orjson accepts fewer texts than Python; but what is no number for it, it refuses in either case.
    try:
        return not _NUMBER.fullmatch(text) or Decimal(repr(float(text))) == Decimal(text)
    except InvalidOperation:
        return False


def number_of(text: str) -> int | float | Decimal:
    """The number that a JSON token spells: a double where that holds it, or else its digits.

    Raises:
        ValueError: It is out of the range of `decimal.Decimal`.
    """
    return _number(text) if not _fits(text.encode()) else orjson.loads(text)


def dumps(value: Any) -> str:
    """The JSON text of a value that `loads` made, with all digits."""
    text = json.dumps(value, ensure_ascii=False, default=lambda number: f"{_MARK}{number}")
    return _WRITTEN.sub(r"\1", text)


def _number(text: str) -> int | Decimal:
    whole = text.removeprefix("-").isdigit()
    try:
        return int(text) if whole and len(text) <= _MAX_INT_DIGITS else Decimal(text)
    except InvalidOperation:  # its exponent has twenty digits
        raise ValueError("it holds a number that is out of range") from None


def _unmarked(value: Any) -> Any:
    """Put the numbers in place of the texts that stand for them. No recursion: it may be deep."""
    whole = [value]
    waiting: list[Any] = [whole]
    while waiting:
        container = waiting.pop()
        members = container.items() if type(container) is dict else enumerate(container)
        for name, each in members:
            if type(each) is str:
                if each.startswith(_MARK):
                    container[name] = _number(each[len(_MARK) :])
            elif type(each) is dict or type(each) is list:
                waiting.append(each)
    return whole[0]
