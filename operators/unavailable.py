"""What Debezium sends in place of a large value that an update left alone (TOAST)."""

import hashlib
import uuid
from base64 import b64encode
from typing import Any


class Unavailable:
    """Recognises the placeholder in every shape that a column's type can give it.

    A string, bytes (base64 or hex), an array of strings, bytes, numbers or UUIDs, a map (or its JSON)
    for hstore.

    Args:
        placeholder: The connector's `unavailable.value.placeholder`.
    """

    def __init__(self, placeholder: str) -> None:
        raw = placeholder.encode()
        base64 = b64encode(raw).decode()
        # As Java's UUID.nameUUIDFromBytes.
        digest = hashlib.md5(raw, usedforsecurity=False).digest()
        self._texts = (placeholder, base64, raw.hex(), f'{{"{placeholder}":"{placeholder}"}}')
        self._lengths = frozenset(map(len, self._texts))
        self._nested: tuple[object, ...] = (
            [placeholder],
            [base64],
            [*raw],
            [str(uuid.UUID(bytes=digest, version=3))],
            {placeholder: placeholder},
        )
        self.needles: tuple[bytes, ...] = (raw, base64.encode(), raw.hex().encode())
        """One of these is in the bytes of nearly every JSON message that holds a placeholder."""

    def __call__(self, value: Any) -> bool:
        """Whether a value stands for one that Debezium left out."""
        if isinstance(value, str):
            return len(value) in self._lengths and value in self._texts
        return isinstance(value, list | dict) and value in self._nested
