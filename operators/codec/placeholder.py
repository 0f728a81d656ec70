"""The placeholder that Debezium sends for a large (TOAST) value that an update did not change."""

import contextlib
import hashlib
import uuid
from base64 import b64encode, urlsafe_b64encode
from typing import Any


class Unavailable:
    """Recognises the placeholder in every shape that a column's type can give it.

    A string, bytes (base64 or hex), an array of strings, bytes, numbers or UUIDs, a map (or its JSON)
    for hstore.

    Args:
        placeholder: The connector's `unavailable.value.placeholder`, which may begin with `hex:`.
    """

    def __init__(self, placeholder: str) -> None:
        raw = _octets(placeholder)
        placeholder = raw.decode(errors="replace")
        base64 = b64encode(raw).decode()
        url_safe = urlsafe_b64encode(raw).decode()
        # As Java's UUID.nameUUIDFromBytes.
        digest = hashlib.md5(raw, usedforsecurity=False).digest()
        self._texts = (
            placeholder,
            base64,
            url_safe,
            raw.hex(),
            f'{{"{placeholder}":"{placeholder}"}}',
        )
        self.lengths = frozenset(map(len, self._texts))
        self._nested: tuple[object, ...] = (
            [placeholder],
            [base64],
            [url_safe],
            # Java's bytes are signed.
            [byte - 256 if byte > 127 else byte for byte in raw],
            [str(uuid.UUID(bytes=digest, version=3))],
            {placeholder: placeholder},
        )
        self._found = (*self._nested[:3], self._nested[-1])
        self.needles: tuple[bytes, ...] = tuple(
            text.encode() for text in dict.fromkeys(self._texts[:4])
        )
        """Nearly every JSON message with a placeholder contains one of these byte strings."""

    def is_found(self, value: Any) -> bool:
        """Whether a message with this placeholder contains one of `needles`."""
        return isinstance(value, str) or value in self._found

    def __call__(self, value: Any) -> bool:
        """Whether a value is the placeholder."""
        if isinstance(value, str):
            return len(value) in self.lengths and value in self._texts
        return isinstance(value, list | dict) and value in self._nested


def _octets(placeholder: str) -> bytes:
    if placeholder.startswith("hex:"):
        # Debezium does not start with invalid hexadecimal, so such text is taken as it is.
        with contextlib.suppress(ValueError):
            return bytes.fromhex(placeholder[4:]) or placeholder.encode()
    return placeholder.encode()
