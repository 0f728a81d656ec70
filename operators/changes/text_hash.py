"""The digest that tells whether a text has changed."""

import hashlib


def text_hash(text: str) -> str:
    """Hex digest of a text, 128 bits: equal hashes stand for equal texts."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
