"""What the raw values of key columns mean: one meaning per column, however a message is written.

A row's id is made of its key's canonical values. Without a schema, a DATE is the number 19724; with
one, it is 2024-01-02. Were the meaning taken from each message alone, a connector that is switched from
`schemas.enable=false` to `true` would give each row a second id. So a column's meaning is that of the
contract's `encodings`, or else of the first message with the column. The ledger keeps it. After that:

| known | the message | the id |
|---|---|---|
| a type | has no schema | the raw value, read as of the known type |
| a type | has another type for the same values (counts in other units, text for counts) | the same |
| a decimal | has another scale, or writes the number as text | the same, if the known scale holds it |
| as written | has a schema, and writes the value as before | as written |
| as written, whole numbers | says that these count days, or a unit of time | moves, see below |
| anything | says anything else | refused |

**An id moves** from `docs:19724` to `docs:2024-01-02`, since rows are better named by what they are:
from then on each change of a row also deletes what is stored under the id as written. No canonical date
or time is a whole number, so that the two never name different rows.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from operators.codec.logical_types import Logical, logical_value, with_scale

_WRITTEN = "written "
"""Begins the code of a column whose first message had no schema; what follows is JSON's kind."""

_PLAIN = "plain"
"""Code of a column whose type needs no conversion, as the schema of a message said."""

_MOVED = " > "
"""Between the code that a column had first, and the one that its ids moved to."""

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,3999}")

_DECIMALS = frozenset({"decimal", "variable decimal"})

_TEMPORAL = frozenset({"date", "time", "timestamp", "interval"})

_KINDS: Mapping[type, str] = {
    bool: "boolean",
    int: "number",
    float: "number",
    Decimal: "number",
    str: "text",
}


class KeyTypeError(ValueError):
    """The value cannot be read as what is known of its column. The message is a clause about it."""


class _Known(NamedTuple):
    """What is known of a column: its type, or, where that is None, whether values come as written."""

    logical: Logical | None
    written: str = ""


def furthest(code: str, other: str) -> str | None:
    """What two processes know of a column together; None if they have read it differently.

    One may have learned more than the other: that a column is plain, or that its ids have moved.
    """
    for less, more in ((code, other), (other, code)):
        if more == less or more.startswith(less + _MOVED):
            return more
        if less.startswith(_WRITTEN) and more == _PLAIN:
            return more
    return None


class KeyTypes:
    """The meanings of the key columns of one table.

    Threads: the worker alone reads messages, and so learns. Whoever writes the ledger reads `codes`,
    which is only ever replaced.

    Args:
        fixed: By column, what the contract's `encodings` say: these are never learned.
    """

    def __init__(self, fixed: Mapping[str, Logical]) -> None:
        self._fixed = fixed
        self._known: dict[str, _Known] = {name: _Known(each) for name, each in fixed.items()}
        self.codes: Mapping[str, str] = {}
        """What was learned, by column, as the ledger keeps it."""
        self.moved: frozenset[str] = frozenset()
        """Columns whose ids have moved; another object each time that one does."""

    def adopt(self, codes: Mapping[str, str]) -> None:
        """Take over what a process before has learned, in place of what this one has."""
        taken = dict[str, str]()
        for name, code in codes.items():
            fixed = self._fixed.get(name)
            if fixed is None:
                taken[name] = code
                self._known[name] = _decoded(code)
            elif _MOVED in code or (code == _WRITTEN + "number" and _is_count(fixed)):
                # The contract says by now what the numbers count, and a user has accepted that.
                taken[name] = code.partition(_MOVED)[0] + _MOVED + _code(_Known(fixed))
        self.codes = {**self.codes, **taken}
        self.moved = frozenset(name for name, code in self.codes.items() if _MOVED in code)

    def value(self, column: str, raw: Any, types: Mapping[str, Logical] | None) -> Any:
        """The canonical value of a key column.

        Args:
            column: Its name.
            raw: Not None.
            types: The columns' types by the message's schema; None if it has none.

        Raises:
            KeyTypeError: The message contradicts what is known.
            ValueError: The raw value is none of its type. The message does not quote it.
        """
        stated = None if types is None else types.get(column)
        if stated is not None and stated.kind in ("array", "map", "struct"):
            return raw  # no key column; the caller says so
        known = self._known.get(column)
        if stated is None and isinstance(raw, list | dict) and (known is None or known.written):
            return raw
        if known is None:
            known = _Known(stated, "" if types is not None else _KINDS.get(type(raw), "object"))
            self._learn(column, known)
        if known.written:
            return self._as_written(
                column, raw, known.written, stated, has_schema=types is not None
            )
        if stated is not None or (types is not None and column not in self._fixed):
            return _as_known(known.logical, stated, raw)
        if known.logical is None:
            return raw
        if isinstance(raw, str) and _base(known.logical) in _TEMPORAL - {"interval"}:
            return logical_value(
                known.logical._replace(unit="iso"), raw
            )  # spelled, whatever the unit
        return logical_value(known.logical, raw)

    def _as_written(
        self, column: str, raw: Any, written: str, stated: Logical | None, *, has_schema: bool
    ) -> Any:
        # A whole number names the same row as a text that spells it.
        whole = (
            _WHOLE.fullmatch(str(raw)) if type(raw) in (int, str) and written != "boolean" else None
        )
        if not whole and _KINDS.get(type(raw), "object") != written:  # guard: key-written-alike
            raise KeyTypeError(f"is not written as {written} any more, which it was at first")
        if not has_schema:
            return raw
        if stated is None:
            self._learn(column, _Known(None))  # from now on nothing else is accepted
            return raw
        if written == "number" and type(raw) is int and _is_count(stated):
            self._learn(column, _Known(stated), f"{_WRITTEN}{written}{_MOVED}")  # guard: key-moves
            return logical_value(stated, raw)
        return raw

    def _learn(self, column: str, known: _Known, before: str = "") -> None:
        self._known[column] = known
        self.codes = {**self.codes, column: before + _code(known)}
        if before:
            self.moved = self.moved | {column}


def _as_known(known: Logical | None, stated: Logical | None, raw: Any) -> Any:
    """A raw value of the type that its message states, as one of the known type."""
    if stated == known:
        return raw if stated is None else logical_value(stated, raw)
    kinds = {each.kind for each in (known, stated) if each is not None}
    if kinds <= _DECIMALS:
        number = _number(raw) if stated is None else logical_value(stated, raw)
        if known is None or known.kind == "variable decimal":
            return number
        scaled = None if number is None else with_scale(number, known.scale)
        if scaled is not None:
            return scaled
    elif known is not None and stated is not None and _base(known) == _base(stated):
        if known.unit == stated.unit:
            return logical_value(known, raw)
        if known.kind == stated.kind:
            return logical_value(stated, raw)
    # guard: key-contradicted
    raise KeyTypeError(f"is {_described(stated)} now, and was {_described(known)} at first")


def _number(raw: Any) -> Decimal | None:
    try:
        return Decimal(raw) if isinstance(raw, str | int) else None
    except ArithmeticError:
        return None


def _is_count(logical: Logical) -> bool:
    return _base(logical) in _TEMPORAL and logical.unit != "iso"


def _base(logical: Logical) -> str:
    return logical.kind.removeprefix("zoned ")


def _described(logical: Logical | None) -> str:
    if logical is None:
        return "a plain value"
    return f"of the type {logical.kind}" + (f" in {logical.unit}" if logical.unit else "")


def _code(known: _Known) -> str:
    if known.written:
        return _WRITTEN + known.written
    logical = known.logical
    return _PLAIN if logical is None else f"{logical.kind}|{logical.unit}|{logical.scale}"


def _decoded(code: str) -> _Known:
    code = code.rpartition(_MOVED)[2]
    if code.startswith(_WRITTEN):
        return _Known(None, code.removeprefix(_WRITTEN))
    if code == _PLAIN:
        return _Known(None)
    kind, unit, scale = code.split("|")
    return _Known(Logical(kind, unit, int(scale)))
