"""The bytes of a record → one JSON object, and the schema of the row's columns that came with it.

A message is bare JSON, JSON that is wrapped as `{"schema": …, "payload": …}`, or framed by a schema
registry (Avro or Protobuf). Each of them can write Connect's null: `null`, a payload that is null, or
a union's null.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from operators.changes import exact_json
from operators.codec.envelope import fields_of, has_marks, rows_of
from operators.codec.logical_types import Logical, columns_of
from operators.codec.shapes import Shapes
from operators.contract.table import TableSection
from operators.errors import RecordError

FRAME = b"\0"
"""The first byte of a message that is framed by a schema registry; JSON never begins with it."""

_JSON_FIX = "set the connector's key.converter and value.converter to JsonConverter"

_CONVERTER = "the bytes come from another converter (StringConverter, for example); "

_KEY_FIX = (
    "take the transform that makes the key a bare value (ExtractField$Key, for example) out of the "
    'connector; or, if that value is the one column of `key`, say key_from = "row" in the contract'
)


class FramedDecoder(Protocol):
    """Decodes bytes that name their schema in a registry; `operators.codec.registry` implements it."""

    def decode(
        self, raw: bytes, topic: str, *, key: bool
    ) -> tuple[Any, Mapping[str, Logical] | None]:
        """The value as JSON would have it, and the logical types of the row's columns."""
        ...


class MessageReader:
    """Reads the keys and values of one topic's records.

    Args:
        table: The table whose topic it is.
        framed: Decodes messages in Avro or Protobuf.
        key_subject: What errors call a record's key.
        shapes: Tells whether a message is an envelope.
    """

    def __init__(
        self, table: TableSection, framed: FramedDecoder | None, key_subject: str, shapes: Shapes
    ) -> None:
        self._table = table
        self._framed = framed
        self._key_subject = key_subject
        self._shapes = shapes

    def types(self, schema: Any) -> Mapping[str, Logical] | None:
        """The logical types that a schema gives the columns; None without a schema.

        Raises:
            RecordError: The schema is invalid.
        """
        if schema is None:
            return None
        try:
            return columns_of(schema)
        except ValueError as error:
            raise RecordError(
                subject=f"schema in a message of {self._table.topic}",
                cause=str(error),
                hint=_JSON_FIX,
            ) from None

    def read(self, raw: bytes) -> tuple[dict[str, Any] | None, Any]:
        """The message, and the schema of the row's columns that came with it, if any.

        The message is None where the converter wrote Connect's null: the record is a tombstone.

        Raises:
            RecordError: It is not a JSON object, or cannot be decoded.
        """
        message, schema = self._parsed(raw, key=False)
        if message is None or type(message) is dict:
            return message, schema
        raise RecordError(
            subject="value", cause=f"it is {_kind_of(message)}, not a JSON object", hint=_JSON_FIX
        )

    def read_key(self, raw: bytes, column: str | None = None) -> tuple[dict[str, Any] | None, Any]:
        """The columns of a key, None if it is Connect's null, and their schema.

        Args:
            raw: The record's key.
            column: If it is given, a key that is a bare value is this column's.

        Raises:
            RecordError: It is neither a JSON object nor such a value, or cannot be decoded.
        """
        message, schema = self._parsed(raw, key=True)
        if message is None or type(message) is dict:
            return message, schema
        if column is not None and type(message) in (str, int, bool):
            return {column: message}, None
        raise RecordError(
            subject=self._key_subject,
            cause=f"it is {_kind_of(message)}, not an object with the key's columns",
            hint=_KEY_FIX,
        )

    def _parsed(self, raw: bytes, *, key: bool) -> tuple[Any, Any]:
        if raw[:1] == FRAME and self._table.format != "json":
            return self._unframed(raw, key=key)
        try:
            message = exact_json.loads(raw, rows_of)
        except orjson.JSONDecodeError as error:
            raise self._no_json(raw, error, key=key) from None
        if type(message) is dict and "payload" in message and message.keys() <= _WRAPPER:
            return self._unwrapped(message, key=key)
        return message, None

    def _unwrapped(self, message: dict[str, Any], *, key: bool) -> tuple[Any, Any]:
        """What is in `{"schema": …, "payload": …}`, unless these are two columns of the table."""
        schema, payload = message.get("schema"), message["payload"]
        described = isinstance(schema, dict) and isinstance(schema.get("type"), str)
        if isinstance(payload, dict):
            envelope = not key and self._shapes.is_envelope(payload)
            if described or not self._shapes.owns_payload or envelope or has_marks(payload):
                return payload, fields_of(schema, envelope=envelope)
        elif described or (
            schema is None and "schema" in message and not self._shapes.owns_payload
        ):
            return payload, None
        return message, None  # guard: columns-not-wrapper

    def _unframed(self, raw: bytes, *, key: bool) -> tuple[Any, Any]:
        if self._framed is None:
            raise RecordError(
                subject=self._subject(key),
                cause="it is framed by a schema registry (Avro or Protobuf)",
                hint="name the registry in the contract: url in [schema_registry]",
            )
        return self._framed.decode(raw, self._table.topic, key=key)

    def _no_json(self, raw: bytes, error: orjson.JSONDecodeError, *, key: bool) -> RecordError:
        """The error of bytes that are no JSON; it says what they are, and quotes nothing of them."""
        cause, hint = f"it is no JSON ({error.msg} at character {error.pos})", _JSON_FIX
        if not raw:
            cause = "it is empty, which is neither JSON nor Kafka's null"
        elif raw[:7] == b"Struct{":
            cause = "it is no JSON, but the text of a Struct"
            hint = f"{_CONVERTER}{_JSON_FIX}"
        elif "surrogate in" in error.msg:
            cause = "it has half of a surrogate pair (\\uD800 to \\uDFFF), which is no character"
            hint = "correct the text in the database: UTF-8, and with it Milvus, cannot hold it"
        elif not _is_utf8(raw) and raw[:1] in (b"{", b"["):
            cause = "it is JSON with bytes that are no UTF-8"
            hint = "let whatever writes the topic encode text as UTF-8, or correct the text"
        elif key and raw[:1] not in (b"{", b"["):
            hint = f"{_CONVERTER}{_JSON_FIX}"
        return RecordError(subject=self._subject(key), cause=cause, hint=hint)

    def _subject(self, key: bool) -> str:
        return self._key_subject if key else "value"


_WRAPPER = frozenset({"schema", "payload"})


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _kind_of(value: Any) -> str:
    """What kind of JSON a value is that is no object, without quoting it."""
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case _:
            return "an array"
