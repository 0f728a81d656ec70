"""The bytes of a record → one JSON object, and the schema of the row's columns that came with it.

A message is bare JSON, JSON that is wrapped as `{"schema": …, "payload": …}`, or framed by a schema
registry (Avro or Protobuf).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from operators.codec.envelope import fields_of
from operators.codec.logical_types import Logical, columns_of
from operators.codec.row_keys import kind_of
from operators.contract.table import TableSection
from operators.errors import RecordError

FRAME = b"\0"
"""The first byte of a message that is framed by a schema registry; JSON never begins with it."""

_JSON_FIX = "set the connector's key.converter and value.converter to JsonConverter"


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
    """

    def __init__(self, table: TableSection, framed: FramedDecoder | None, key_subject: str) -> None:
        self._table = table
        self._framed = framed
        self._key_subject = key_subject

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

    def read(self, raw: bytes, key: bool = False) -> tuple[dict[str, Any], Any]:
        """The message, and the schema of the row's columns that came with it, if any.

        Raises:
            RecordError: It is not a JSON object, or cannot be decoded.
        """
        if raw[:1] == FRAME and self._table.format != "json":
            return self._unframed(raw, key=key)
        try:
            message = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise RecordError(
                subject=self._subject(key),
                cause=f"it is no JSON ({error.msg} at character {error.pos})",
                hint=_JSON_FIX,
            ) from None
        if not isinstance(message, dict):
            raise self._not_an_object(message, key)
        if "payload" in message and message.keys() <= {"schema", "payload"}:
            # A wrapped payload is an object; a key column that is called `payload` never holds one.
            payload = message["payload"]
            if isinstance(payload, dict):
                return payload, fields_of(message.get("schema"))
        return message, None

    def _unframed(self, raw: bytes, *, key: bool) -> tuple[dict[str, Any], Any]:
        if self._framed is None:
            raise RecordError(
                subject=self._subject(key),
                cause="it is framed by a schema registry (Avro or Protobuf)",
                hint="name the registry in the contract: url in [schema_registry]",
            )
        message, types = self._framed.decode(raw, self._table.topic, key=key)
        if not isinstance(message, dict):
            raise self._not_an_object(message, key)
        return message, types

    def _subject(self, key: bool) -> str:
        return self._key_subject if key else "value"

    def _not_an_object(self, value: Any, key: bool) -> RecordError:
        return RecordError(
            subject=self._subject(key),
            cause=f"it is {kind_of(value)}, not a JSON object",
            hint=_JSON_FIX,
        )
