"""Immutable map of many rows' versions, packed into one `bytes`: a sixth of the memory of a dict."""

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
"""Version and text hash of a row; the hash is None for a deleted row (its delete marker), and "" if the
text is not known."""

PackedFrozen: TypeAlias = tuple[bytes, bytes, bytes]
"""Codes, starts and records of `FrozenVersions`; integers in the machine's byte order."""

_END = b"\n"
"""Ends a key and never occurs in one, so that no key is a prefix of another key's record."""

_HALVES = 64
"""Flag in the form byte: the position has two halves (xxxx.xxxx)."""

_WITH_TAIL = 128
"""Flag in the form byte: the version says where it comes from. The other six bits are the length of the
version in raw bytes."""

_LENGTH = 63

_TAIL_DIGITS = 24

_AS_IT_IS = 0
"""Form byte of a version that is stored as text, after its length in four bytes."""

_NO_HASH, _TEXT, _HEX = 0, 1, 2


class FrozenVersions:
    """Immutable {row key → (version, text hash)}; `with_rows` makes a changed copy.

    The records are in the order of their keys' CRC-32, so a look-up is a binary search. Hexadecimal
    digits are packed to raw bytes; unpacking restores exactly the given strings. Threads may read it at
    any time.

    Args:
        codes: CRC-32 of every key, ascending.
        starts: Start of each record, and the end of the last one.
        records: All records, each a key, `_END`, and the result of `_packed`.
    """

    __slots__ = ("_codes", "_records", "_starts")

    def __init__(self, codes: "array[int]", starts: "array[int]", records: bytes) -> None:
        self._codes = codes
        self._starts = starts
        self._records = records

    @classmethod
    def none(cls) -> "FrozenVersions":
        """The map without rows."""
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
        """Index of the row's record, and True; or the index to insert it at, and False."""
        codes = self._codes
        at, end = bisect_left(codes, code), len(codes)
        while at < end and codes[at] == code:
            if self._records.startswith(name, self._starts[at]):  # guard: frozen-code-shared
                return at, True
            at += 1
        return at, False

    def keys(self) -> Iterator[RowKey]:
        """Keys of all rows."""
        return (key for key, _ in self._named(""))

    def items_of(self, prefix: str) -> Iterator[tuple[RowKey, Known]]:
        """All rows whose key has this prefix."""
        return ((key, _unpacked(packed)) for key, packed in self._named(prefix))

    def _named(self, prefix: str) -> Iterator[tuple[RowKey, bytes]]:
        records, start, wanted = self._records, 0, prefix.encode()
        for end in self._starts[1:]:
            if records.startswith(wanted, start):
                name, _, packed = records[start:end].partition(_END)
                yield RowKey(name.decode()), packed
            start = end

    def with_rows(self, rows: Mapping[RowKey, Known]) -> "FrozenVersions":
        """A copy in which these rows are added or replaced.

        The records between two changes are copied in one piece, so the cost depends mostly on the
        number of changes.
        """
        names = [_name(key) for key in rows]
        codes = [crc32(name) for name in names]
        packed = [_packed(*known) for known in rows.values()]
        # Of changes with the same code, replacements come before additions, by their index.
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
        """`_place` for many rows: one vectorised search, and `_place` only for codes that exist."""
        known = self._codes
        ats = np.searchsorted(np.frombuffer(known, np.uint32), np.array(codes, np.uint32)).tolist()
        return [
            self._place(code, name) if at < len(known) and known[at] == code else (at, False)
            for at, code, name in zip(ats, codes, names, strict=True)
        ]

    def _sizes(self) -> "array[int]":
        return array("I", np.diff(np.frombuffer(self._starts, np.uint32)).tobytes())

    def pack(self) -> PackedFrozen:
        """The map as plain values."""
        return self._codes.tobytes(), self._starts.tobytes(), self._records

    @classmethod
    def unpack(cls, packed: PackedFrozen) -> "FrozenVersions":
        """The map that `pack` was called on."""
        codes, starts, records = packed
        return cls(array("I", codes), array("I", starts), records)


def _starts_of(sizes: "array[int]") -> "array[int]":
    starts = array("I", [0])
    starts.frombytes(np.cumsum(np.frombuffer(sizes, np.uint32), dtype=np.uint32).tobytes())
    return starts


def _name(key: RowKey) -> bytes:
    return key.encode() + _END


def _packed(version: Version, digest: str | None) -> bytes:
    """Packs a row's version and text hash behind two bytes, for the form of each."""
    digits = version.replace(".", "")
    form = len(digits) // 2
    dots = len(version) - len(digits)
    if version[-_TAIL_DIGITS - 1 : -_TAIL_DIGITS] == ".":
        form |= _WITH_TAIL
        dots -= 1
    if dots == 3:
        form |= _HALVES
    packed = _raw(digits)
    # guard: frozen-version-exact
    if not packed or len(packed) > _LENGTH or _dotted(digits, form) != version:
        text = version.encode("utf-8", "surrogatepass")
        form, packed = _AS_IT_IS, len(text).to_bytes(4, "big") + text
    if digest is None:
        return b"%c%c%b" % (form, _NO_HASH, packed)
    raw = _raw(digest)
    if raw is None:
        return b"%c%c%b%b" % (form, _TEXT, packed, digest.encode("utf-8", "surrogatepass"))
    return b"%c%c%b%b" % (form, _HEX, packed, raw)


def _unpacked(packed: bytes) -> Known:
    """The version and text hash that `_packed` was given."""
    form, kind = packed[0], packed[1]
    if form == _AS_IT_IS:
        end = 6 + int.from_bytes(packed[2:6], "big")
        version = packed[6:end].decode("utf-8", "surrogatepass")
    else:
        end = 2 + (form & _LENGTH)
        version = _dotted(packed[2:end].hex(), form)
    if kind == _NO_HASH:
        return Version(version), None
    if kind == _HEX:
        return Version(version), packed[end:].hex()
    return Version(version), packed[end:].decode("utf-8", "surrogatepass")


def _dotted(digits: str, form: int) -> str:
    """A version of these digits, with dots as `operators.changes.version.make_version` writes them."""
    if form & _WITH_TAIL:
        tail = digits[-_TAIL_DIGITS:]
        return f"{_dotted(digits[:-_TAIL_DIGITS], form & ~_WITH_TAIL)}.{tail}"
    position = digits[4:-16]
    if form & _HALVES:
        half = len(position) // 2
        return f"{digits[:4]}.{position[:half]}.{position[half:]}.{digits[-16:]}"
    return f"{digits[:4]}.{position}.{digits[-16:]}"


def _raw(digits: str) -> bytes | None:
    """The bytes whose `hex()` is exactly this text; None if there are none."""
    try:
        raw = unhexlify(digits)
    except ValueError:
        return None
    return raw if raw.hex() == digits else None  # guard: frozen-hash-exact
