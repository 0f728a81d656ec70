"""What is known of many rows in a sixth of a dict's memory: packed into one `bytes`, never changed."""

from array import array
from binascii import unhexlify
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import TypeAlias
from zlib import crc32

import numpy as np

from operators.changes.row_key import RowKey
from operators.changes.version import Version

Known: TypeAlias = tuple[Version, str | None]
"""Version and text hash of a row; the hash is None for a deleted row (its delete marker), and "" where
the text is not known here."""

PackedFrozen: TypeAlias = tuple[bytes, bytes, bytes]
"""Codes, starts and records, as `FrozenVersions` has them, integers in the machine's byte order."""

_END = b"\n"
"""Behind a key, which never holds it: so no key begins another's record."""

_HALVES = 64
"""Of a version's form: the position has a dot in the middle. The rest is its length in raw bytes."""

_AS_IT_IS = 0
"""Of a version's form: text, its length in four bytes before it."""

_NO_HASH, _TEXT, _HEX = 0, 1, 2


class FrozenVersions:
    """{row key → (version, text hash)} that is read, and copied with changes, but never changed.

    The records lie in the order of their keys' CRC-32, so a look-up is a binary search. Hexadecimal
    digits are packed to raw bytes; what comes back is equal to what was given, to the letter. Threads
    may read it at any time.

    Args:
        codes: CRC-32 of every key, ascending.
        starts: Where each record begins, and where the last one ends.
        records: A key, `_END`, and what `_packed` made of the rest, one after another.
    """

    __slots__ = ("_codes", "_records", "_starts")

    def __init__(self, codes: "array[int]", starts: "array[int]", records: bytes) -> None:
        self._codes = codes
        self._starts = starts
        self._records = records

    @classmethod
    def none(cls) -> "FrozenVersions":
        """Of no rows."""
        return cls(array("I"), array("I", [0]), b"")

    def __len__(self) -> int:
        return len(self._codes)

    def get(self, key: RowKey) -> Known | None:
        """What is known of the row, or None."""
        name = _name(key)
        at, found = self._place(crc32(name), name)
        if not found:
            return None
        return _unpacked(self._records[self._starts[at] + len(name) : self._starts[at + 1]])

    def _place(self, code: int, name: bytes) -> tuple[int, bool]:
        """Which record is the row's, and True; or which one it would stand before, and False."""
        codes = self._codes
        at, end = bisect_left(codes, code), len(codes)
        while at < end and codes[at] == code:
            if self._records.startswith(name, self._starts[at]):  # guard: frozen-code-shared
                return at, True
            at += 1
        return at, False

    def keys(self) -> Iterator[RowKey]:
        """Of all rows."""
        return (key for key, _ in self._named(""))

    def items_of(self, prefix: str) -> Iterator[tuple[RowKey, Known]]:
        """All rows whose key begins so."""
        return ((key, _unpacked(packed)) for key, packed in self._named(prefix))

    def _named(self, prefix: str) -> Iterator[tuple[RowKey, bytes]]:
        records, start, wanted = self._records, 0, prefix.encode()
        for end in self._starts[1:]:
            if records.startswith(wanted, start):
                name, _, packed = records[start:end].partition(_END)
                yield RowKey(name.decode()), packed
            start = end

    def with_rows(self, rows: Mapping[RowKey, Known]) -> "FrozenVersions":
        """These rows as well, in place of what was known of them.

        What lies between two changes is copied in one piece: the cost is that of the changes, and of
        some bytes moved.
        """
        names = [_name(key) for key in rows]
        codes = [crc32(name) for name in names]
        packed = [_packed(*known) for known in rows.values()]
        # Of rows that share a code, the one that takes a place comes before one that is added.
        changes = sorted(zip(codes, self._places(codes, names), names, packed, strict=True))
        records, starts, sizes = self._records, self._starts, self._sizes()
        new_codes, new_sizes, new_records = array("I"), array("I"), list[bytes]()
        done = 0
        for code, (at, found), name, rest in changes:
            new_codes += self._codes[done:at]
            new_codes.append(code)
            new_sizes += sizes[done:at]
            new_sizes.append(len(name) + len(rest))
            new_records += (records[starts[done] : starts[at]], name, rest)
            done = at + found
        new_codes += self._codes[done:]
        new_sizes += sizes[done:]
        new_records.append(records[starts[done] :])
        return FrozenVersions(new_codes, _starts_of(new_sizes), b"".join(new_records))

    def _places(self, codes: list[int], names: list[bytes]) -> list[tuple[int, bool]]:
        """As `_place`, of many: most codes stand for themselves alone, and are found all at once."""
        known = self._codes
        ats = np.searchsorted(np.frombuffer(known, np.uint32), np.array(codes, np.uint32)).tolist()
        return [
            self._place(code, name) if at < len(known) and known[at] == code else (at, False)
            for at, code, name in zip(ats, codes, names, strict=True)
        ]

    def _sizes(self) -> "array[int]":
        return array("I", np.diff(np.frombuffer(self._starts, np.uint32)).tobytes())

    def pack(self) -> PackedFrozen:
        """All of it as plain values."""
        return self._codes.tobytes(), self._starts.tobytes(), self._records

    @classmethod
    def unpack(cls, packed: PackedFrozen) -> "FrozenVersions":
        """What `pack` saw."""
        codes, starts, records = packed
        return cls(array("I", codes), array("I", starts), records)


def _starts_of(sizes: "array[int]") -> "array[int]":
    starts = array("I", [0])
    starts.frombytes(np.cumsum(np.frombuffer(sizes, np.uint32), dtype=np.uint32).tobytes())
    return starts


def _name(key: RowKey) -> bytes:
    return key.encode() + _END


def _packed(version: Version, digest: str | None) -> bytes:
    """A row's version and text hash; two bytes say how they are packed."""
    digits = version.replace(".", "")
    form = len(digits) // 2
    if len(version) - len(digits) == 3:
        form += _HALVES
    packed = _raw(digits)
    # guard: frozen-version-exact
    if not packed or len(packed) >= _HALVES or _dotted(digits, form) != version:
        text = version.encode("utf-8", "surrogatepass")
        form, packed = _AS_IT_IS, len(text).to_bytes(4, "big") + text
    if digest is None:
        return b"%c%c%b" % (form, _NO_HASH, packed)
    raw = _raw(digest)
    if raw is None:
        return b"%c%c%b%b" % (form, _TEXT, packed, digest.encode("utf-8", "surrogatepass"))
    return b"%c%c%b%b" % (form, _HEX, packed, raw)


def _unpacked(packed: bytes) -> Known:
    """What `_packed` saw."""
    form, kind = packed[0], packed[1]
    if form == _AS_IT_IS:
        end = 6 + int.from_bytes(packed[2:6], "big")
        version = packed[6:end].decode("utf-8", "surrogatepass")
    else:
        end = 2 + form % _HALVES
        version = _dotted(packed[2:end].hex(), form)
    if kind == _NO_HASH:
        return Version(version), None
    if kind == _HEX:
        return Version(version), packed[end:].hex()
    return Version(version), packed[end:].decode("utf-8", "surrogatepass")


def _dotted(digits: str, form: int) -> str:
    """A version of these digits, as `operators.changes.events.make_version` writes it."""
    position = digits[4:-16]
    if form & _HALVES:
        half = len(position) // 2
        return f"{digits[:4]}.{position[:half]}.{position[half:]}.{digits[-16:]}"
    return f"{digits[:4]}.{position}.{digits[-16:]}"


def _raw(digits: str) -> bytes | None:
    """Bytes whose `hex` is exactly this text; None if there are none."""
    try:
        raw = unhexlify(digits)
    except ValueError:
        return None
    return raw if raw.hex() == digits else None  # guard: frozen-hash-exact
