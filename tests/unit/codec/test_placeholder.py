"""Debezium's placeholder for a value that it left out, in every form that a type can give it."""

import base64
import hashlib
import uuid

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given

from operators.codec.placeholder import Unavailable
from operators.contract.table import UNAVAILABLE

# Plain, another length, signed bytes, characters that differ in URL-safe base64, quoted, octets.
PLACEHOLDERS = [
    UNAVAILABLE,
    "__left_out__",
    "ünavailable ÿ",
    "ÿÿÿ?>~",
    "not 'there'",
    "hex:2d2d00ff",
]


def octets(placeholder: str) -> bytes:
    hexadecimal = placeholder.removeprefix("hex:")
    return placeholder.encode() if hexadecimal == placeholder else bytes.fromhex(hexadecimal)


def shapes(placeholder: str) -> dict[str, object]:
    """A placeholder by the type of its column, as the connector's and Java's own functions make it."""
    raw = octets(placeholder)
    text = raw.decode(errors="replace")
    digest = bytearray(hashlib.md5(raw, usedforsecurity=False).digest())
    digest[6] = digest[6] & 0x0F | 0x30
    digest[8] = digest[8] & 0x3F | 0x80
    return {
        "text, varchar, json, xml": text,
        "bytea": base64.b64encode(raw).decode(),
        "bytea, binary.handling.mode=base64-url-safe": base64.urlsafe_b64encode(raw).decode(),
        "bytea, binary.handling.mode=hex": raw.hex(),
        "text[]": [text],
        "bytea[]": [base64.b64encode(raw).decode()],
        "bytea[], base64-url-safe": [base64.urlsafe_b64encode(raw).decode()],
        "int[], bigint[]": [int.from_bytes([byte], signed=True) for byte in raw],
        "uuid[]": [str(uuid.UUID(bytes=bytes(digest)))],
        "hstore, as a map": {text: text},
        "hstore, as json": f'{{"{text}":"{text}"}}',
    }


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
@pytest.mark.parametrize("shape", shapes(UNAVAILABLE))
def test_it_is_found_in_every_shape(placeholder, shape):
    unavailable = Unavailable(placeholder)
    value = shapes(placeholder)[shape]
    assert unavailable(value)
    assert unavailable(orjson.loads(orjson.dumps(value)))


def test_what_was_captured():
    row = {
        "text": "__debezium_unavailable_value",
        "text[]": ["__debezium_unavailable_value"],
        "bytea": "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
        "uuid[]": ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"],
        "hstore": '{"__debezium_unavailable_value":"__debezium_unavailable_value"}',
        "int[]": [*b"__debezium_unavailable_value"],
    }
    assert all(map(Unavailable(UNAVAILABLE), row.values()))


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_values_that_are_there(placeholder):
    unavailable = Unavailable(placeholder)
    (text, *_) = shapes(placeholder).values()
    for value in (
        None,
        "",
        0,
        True,
        1.5,
        [],
        {},
        [text, text],
        [[text]],
        {text: 1},
        {"a": text},
        f" {text}",
        f"{text} ",
        f"it says {text}",
        f"{text}{text}",
        b"bytes",
    ):
        assert not unavailable(value)


@given(st.text() | st.lists(st.integers() | st.text(), max_size=3))
def test_nothing_else_is_taken_for_it(value):
    assert not Unavailable("__left_out__")(value)


def test_one_placeholder_is_not_another():
    for value in shapes("__left_out__").values():
        assert not Unavailable(UNAVAILABLE)(value)


def test_hex_that_is_none_is_the_placeholder_itself():
    for placeholder in ("hex:", "hex:no"):
        assert Unavailable(placeholder)(placeholder)
        assert not Unavailable(placeholder)("")


@pytest.mark.parametrize("placeholder", ["__left_out__", UNAVAILABLE, "hex:2d2d2d"])
def test_a_message_with_a_placeholder_has_a_needle(placeholder):
    """A needle in a value means that its headers are read; arrays of numbers and UUIDs have none."""
    needles = Unavailable(placeholder).needles
    assert len(set(needles)) == len(needles)
    for shape, value in shapes(placeholder).items():
        message = orjson.dumps({"after": {"id": 1, "column": value}})
        found = any(needle in message for needle in needles)
        assert found == (shape not in ("int[], bigint[]", "uuid[]"))
    assert not any(needle in b'{"after":{"id":1}}' for needle in needles)
