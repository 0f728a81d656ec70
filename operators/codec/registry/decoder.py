"""Avro and Protobuf messages with a schema registry → the same values as JSON would have given.

The deserialisers of `confluent_kafka.schema_registry` read the messages, but never ask the registry
themselves: each schema is fetched once beforehand, and retried while the registry is down. So a
message whose schema is known needs no request.
"""

import io
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from confluent_kafka.schema_registry import (
    RegisteredSchema,
    Schema,
    SchemaReference,
    SchemaRegistryClient,
    prefix_schema_id_deserializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.schema_registry.serde import SchemaId
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from operators.codec.logical_types import Logical
from operators.codec.registry import avro, protobuf
from operators.codec.registry.client import RegistryClient
from operators.contract.sections import SchemaRegistrySection
from operators.errors import FatalError, RecordError, RetriableError
from operators.retry import RetryPolicy

_FRAME_BYTES = 5

_APICURIO_BYTES = 9
"""The frame of Apicurio's own serialisers."""

_FROM_PREFIX = prefix_schema_id_deserializer

_CONVERTERS = (
    "set the connector's key.converter and value.converter to Avro-, Protobuf- or JsonConverter"
)

Columns: TypeAlias = Mapping[str, Logical] | None

_Reader: TypeAlias = Callable[[bytes], tuple[Any, Columns]]
"""Reads the messages of one schema."""


def is_framed(raw: bytes) -> bool:
    """Whether bytes begin with the frame of a registry's serialisers; JSON never does."""
    return len(raw) >= _FRAME_BYTES and raw[0] == 0


class RegistryDecoder:
    """Decodes messages whose schemas are in a registry; may be called from several threads.

    Args:
        section: Where the registry is.
        retry: For how long to retry while the registry is down.

    Raises:
        ContractError: The section cannot be used; its CA file is invalid, for example.
    """

    def __init__(self, section: SchemaRegistrySection, retry: RetryPolicy) -> None:
        self._registry = RegistryClient(section)
        self._retry = retry
        self._readers: dict[int, _Reader] = {}
        self._loading = threading.Lock()

    def decode(self, raw: bytes, topic: str, *, key: bool) -> tuple[Any, Columns]:
        """The value as JSON without a schema would have given it, and its columns' types.

        Args:
            raw: A record's key or value.
            topic: Its topic, for error messages.
            key: Whether it is the key.

        Returns:
            The envelope, row or key; and the logical types of the row's columns (in an envelope those
            of `after`), or None if the value is not a record. All messages of a schema share one
            mapping.

        Raises:
            RecordError: It is not framed, has a schema that the registry does not know or that is
                neither Avro nor Protobuf, or does not fit its schema.
            FatalError: The registry refuses the credentials, is not a registry, or stays unreachable.
        """
        subject = f"{'key' if key else 'value'} of {topic}"
        if not is_framed(raw):
            raise RecordError(
                subject=subject,
                cause="it does not begin with the id of a schema",
                hint=f"{_CONVERTERS}, and make the table's `format` say which",
            )
        schema_id = int.from_bytes(raw[1:_FRAME_BYTES], "big")
        if schema_id == 0 and len(raw) >= _APICURIO_BYTES:
            # Registries count from 1; the first half of a number of 8 bytes is 0.
            raise RecordError(
                subject=subject,
                cause="it begins with Apicurio's id of 8 bytes",
                hint="set apicurio.registry.as-confluent=true and "
                "apicurio.registry.use-id=contentId in the connector's converters, and let `url` in "
                "[schema_registry] end in /apis/ccompat/v7",
            )
        try:
            reader = self._readers.get(schema_id) or self._load(schema_id)
            return reader(raw)
        except RecordError as error:
            # Errors from loading a schema do not name the record.
            raise RecordError(subject=subject, cause=error.cause, hint=error.hint) from error
        except (FatalError, RetriableError):
            raise
        except (MemoryError, OSError) as error:
            raise _not_the_record(subject, error) from error  # guard: registry-not-the-record
        except Exception as error:  # noqa: BLE001  # The bytes may be anything.
            raise RecordError(
                subject=subject,
                cause=f"it does not fit schema {schema_id} of the registry "
                f"({type(error).__name__} while it was read)",
                hint="it was damaged, or written with another registry; make `url` in "
                "[schema_registry] that of the connector's converters",
            ) from None  # the error may quote what it could not read

    def close(self) -> None:
        """Close the connections."""
        self._registry.close()

    def _load(self, schema_id: int) -> _Reader:
        with self._loading:
            reader = self._readers.get(schema_id)
            if reader is None:
                # A failure is not cached: an unknown schema may be registered later.
                reader = self._retry.call(lambda: _reader(self._registry, schema_id))
                self._readers[schema_id] = reader
            return reader


def _not_the_record(subject: str, error: Exception) -> FatalError:
    """The error where the process lacks something: a dead letter would lose a good record."""
    return FatalError(
        subject=subject,
        cause=f"the process lacks memory or files to read it ({type(error).__name__})",
        hint="give the process more (memory, ulimit -n), and start it again: nothing is lost",
    )


def _reader(registry: RegistryClient, schema_id: int) -> _Reader:
    """A function that reads the messages of one schema.

    Raises:
        RecordError: There is no such schema, or it cannot be used.
        RetriableError, FatalError: See `RegistryClient`.
    """
    schema = registry.schema(schema_id)
    kind = schema.schema_type or "AVRO"
    try:
        if kind == "AVRO":
            return _avro_reader(registry, schema_id, schema)
        if kind == "PROTOBUF":
            return _protobuf_reader(registry, schema_id)
    except (RecordError, RetriableError, FatalError):
        raise
    except (MemoryError, OSError) as error:
        raise _not_the_record(registry.subject, error) from error
    except Exception as error:  # A schema may be anything.
        raise RecordError(
            subject=registry.subject,
            cause=f"schema {schema_id} cannot be used ({type(error).__name__})",
            hint="look at it in the registry",
        ) from error
    raise RecordError(
        subject=registry.subject,
        cause=f"schema {schema_id} is neither Avro nor Protobuf but '{kind[:20]}'",
        hint=_CONVERTERS,
    )


def _avro_reader(registry: RegistryClient, schema_id: int, schema: Schema) -> _Reader:
    text = avro.without_conversions(_text(schema))
    fetched = _Fetched(Schema(text, "AVRO", schema.references or []))
    references: list[str] = []
    for reference, found in registry.references(schema_id, schema):
        references.append(avro.without_conversions(_text(found)))
        fetched.add(reference, references[-1], found)
    convert, columns = avro.read_schema(text, references)
    read = AvroDeserializer(fetched, conf={"schema.id.deserializer": _FROM_PREFIX})
    if convert is None:
        return lambda raw: (read(raw), columns)
    return lambda raw: (convert(read(raw)), columns)


def _protobuf_reader(registry: RegistryClient, schema_id: int) -> _Reader:
    schema = registry.schema(schema_id, serialized=True)
    found = registry.references(schema_id, schema, serialized=True)
    try:
        references = [protobuf.file_of(_text(each), str(ref.name)) for ref, each in found]
        file = protobuf.file_of(_text(schema), f"rowvec/{schema_id}.proto")
    except (ValueError, DecodeError):
        raise FatalError(
            subject=registry.subject,
            cause="it gives Protobuf schemas as text only, not as `format=serialized`",
            hint="use a registry that can (Confluent's, Karapace), or AvroConverter",
        ) from None
    return _ProtobufReader(file, references)


class _Fetched(SchemaRegistryClient):
    """Takes the client's place in an Avro deserialiser: serves one schema and its references."""

    def __init__(self, schema: Schema) -> None:
        # The client's own __init__ is not called, because no connection is needed.
        self._schema = schema
        self._versions: dict[tuple[str | None, Any], RegisteredSchema] = {}

    def add(self, reference: SchemaReference, text: str, found: Schema) -> None:
        """Add the schema of a reference, with `text` in place of its own."""
        subject, version = reference.subject, reference.version
        schema = Schema(text, "AVRO", found.references or [])
        self._versions[subject, version] = RegisteredSchema(subject, version, None, None, schema)

    def config(self) -> dict[str, Any]:
        return {}

    def get_schema(self, *_: Any, **__: Any) -> Schema:
        return self._schema

    def get_version(
        self, subject_name: str, version: Any = "latest", *_: Any, **__: Any
    ) -> RegisteredSchema:
        return self._versions[subject_name, version]


class _ProtobufReader:
    """Reads records of one Protobuf schema: a file of message types; each record names one by index."""

    def __init__(self, file: FileDescriptorProto, references: list[FileDescriptorProto]) -> None:
        self._file = file
        self._references = references
        self._messages: dict[tuple[int, ...], _Reader] = {}

    def __call__(self, raw: bytes) -> tuple[Any, Columns]:
        frame = SchemaId("PROTOBUF")
        frame.from_bytes(io.BytesIO(raw))
        index = tuple(frame.message_indexes or ())
        # Two threads may both make a reader; that is harmless, as the readers are equal.
        reader = self._messages.get(index) or self._messages.setdefault(index, self._made(index))
        return reader(raw)

    def _made(self, index: tuple[int, ...]) -> _Reader:
        try:
            message, convert, columns = protobuf.read_message_type(
                self._file, self._references, index
            )
        except RecordError as error:
            return _refusing(error)
        read = ProtobufDeserializer(message, {"schema.id.deserializer": _FROM_PREFIX})
        return lambda raw: (convert(read(raw)), columns)


def _refusing(error: RecordError) -> _Reader:
    def refuse(_raw: bytes) -> tuple[Any, Columns]:
        raise RecordError(subject=error.subject, cause=error.cause, hint=error.hint)

    return refuse


def _text(schema: Schema) -> str:
    if schema.schema_str is None:
        raise ValueError("the registry gave no schema")
    return schema.schema_str
