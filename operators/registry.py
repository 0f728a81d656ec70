"""Avro and Protobuf messages with a schema registry → the values that JSON would have given.

The only module that knows `confluent_kafka.schema_registry`, whose deserialisers read the messages.
They never ask the registry themselves: what they need is fetched before, once per schema, tried again
while the registry is down. So a message whose schema is known waits for nothing.
"""

import io
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property, partial
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit, urlunsplit

from confluent_kafka.schema_registry import (
    RegisteredSchema,
    Schema,
    SchemaReference,
    SchemaRegistryClient,
    SchemaRegistryError,
    prefix_schema_id_deserializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.schema_registry.serde import SchemaId
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from operators import registry_avro, registry_protobuf
from operators.contract import SchemaRegistrySection
from operators.errors import ContractError, FatalError, RecordError, RetriableError
from operators.logical_types import Logical
from operators.retry import RetryPolicy

_FRAME_BYTES = 5

_UNKNOWN = frozenset({40401, 40402, 40403})
"""The registry's own codes for a subject, a version and a schema that it does not have."""

_TRANSIENT = frozenset({408, 425, 429})

_SERIALIZED = "serialized"
_FROM_PREFIX = prefix_schema_id_deserializer

_CONVERTERS = (
    "set the connector's key.converter and value.converter to Avro-, Protobuf- or JsonConverter"
)

Columns: TypeAlias = Mapping[str, Logical] | None
T = TypeVar("T")

_Reader: TypeAlias = Callable[[bytes], tuple[Any, Columns]]
"""Reads the messages of one schema."""


def is_framed(raw: bytes) -> bool:
    """Whether bytes begin as a registry's serialisers write them, which JSON never does."""
    return len(raw) >= _FRAME_BYTES and raw[0] == 0


class RegistryDecoder:
    """Decodes messages whose schemas are in a registry; may be called from several threads.

    Args:
        section: Where the registry is.
        retry: For how long a registry that is down is waited for.

    Raises:
        ContractError: The section cannot be used: its CA file is none, say.
    """

    def __init__(self, section: SchemaRegistrySection, retry: RetryPolicy) -> None:
        self._registry = _Registry(section)
        self._retry = retry
        self._readers: dict[int, _Reader] = {}
        self._loading = threading.Lock()

    def decode(self, raw: bytes, topic: str, *, key: bool) -> tuple[Any, Columns]:
        """The value as JSON without a schema would have given it, and what the schema says of it.

        Args:
            raw: A record's key or value.
            topic: Where it came from; for the message if it cannot be decoded.
            key: Whether it is the key.

        Returns:
            The envelope, row or key, and the logical types of the row's columns (those of `after` in
            an envelope); None if the value is no record. The mapping is the same object for each
            message of a schema.

        Raises:
            RecordError: It is not framed, has a schema that the registry does not know or that is
                neither Avro nor Protobuf, or does not fit its schema.
            FatalError: The registry refuses the credentials, is none, or stays away.
        """
        subject = f"{'key' if key else 'value'} of {topic}"
        if not is_framed(raw):
            raise RecordError(
                subject=subject,
                cause="it does not begin with the id of a schema",
                hint=f"{_CONVERTERS}, and make the table's `format` say which",
            )
        schema_id = int.from_bytes(raw[1:_FRAME_BYTES], "big")
        try:
            reader = self._readers.get(schema_id) or self._load(schema_id)
            return reader(raw)
        except RecordError as error:
            # Those that loading raises know no record.
            raise RecordError(subject=subject, cause=error.cause, hint=error.hint) from error
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001  # The bytes may be anything.
            raise RecordError(
                subject=subject,
                cause=f"it does not fit schema {schema_id} of the registry "
                f"({type(error).__name__} while it was read)",
                hint="it was damaged, or written with another registry; make `url` in "
                "[schema_registry] that of the connector's converters",
            ) from None  # the error may quote what it could not read

    def close(self) -> None:
        """Ends the connections."""
        self._registry.close()

    def _load(self, schema_id: int) -> _Reader:
        with self._loading:
            reader = self._readers.get(schema_id)
            if reader is None:
                # An id that is not known is asked for again: its schema may come later.
                reader = self._retry.call(lambda: self._registry.reader(schema_id))
                self._readers[schema_id] = reader
            return reader


class _Registry:
    """Asks the registry, and makes its errors ours."""

    def __init__(self, section: SchemaRegistrySection) -> None:
        self._section = section
        self._open = ExitStack()
        try:
            self._subject = f"schema registry {_without_credentials(section.url)}"
            self._client = self._open.enter_context(SchemaRegistryClient(_options(section)))
        except OSError as error:
            raise ContractError(
                subject="ca_file in [schema_registry]",
                cause=f"it cannot be used ({error.strerror or type(error).__name__})",
                hint="name a file of PEM certificates that can be read",
            ) from error
        except ValueError:
            raise ContractError(
                subject="url in [schema_registry]",
                cause="it cannot be used",
                hint="write it as http(s)://host:port; what logs in goes into username and password",
            ) from None  # It may quote the password.

    @cached_property
    def _serialized(self) -> SchemaRegistryClient:
        """A client of its own: one remembers a single form of each schema."""
        client = SchemaRegistryClient(_options(self._section))
        self._open.enter_context(client)
        return client

    def close(self) -> None:
        self._open.close()

    def reader(self, schema_id: int) -> _Reader:
        """What reads the messages of a schema.

        Raises:
            RecordError: There is no such schema, or it is of no use.
            RetriableError, FatalError: See `_told`.
        """
        schema = self._asked(schema_id, lambda: self._client.get_schema(schema_id))
        kind = schema.schema_type or "AVRO"
        try:
            if kind == "AVRO":
                return self._avro(schema_id, schema)
            if kind == "PROTOBUF":
                return self._protobuf(schema_id)
        except (RecordError, RetriableError, FatalError):
            raise
        except Exception as error:  # A schema may be anything.
            raise RecordError(
                subject=self._subject,
                cause=f"schema {schema_id} cannot be used ({type(error).__name__})",
                hint="look at it in the registry",
            ) from error
        raise RecordError(
            subject=self._subject,
            cause=f"schema {schema_id} is neither Avro nor Protobuf but '{kind[:20]}'",
            hint=_CONVERTERS,
        )

    def _avro(self, schema_id: int, schema: Schema) -> _Reader:
        text = registry_avro.without_conversions(_text(schema))
        fetched = _Fetched(Schema(text, "AVRO", schema.references or []))
        references: list[str] = []
        for reference, found in self._references(schema_id, self._client, schema, None):
            references.append(registry_avro.without_conversions(_text(found)))
            fetched.add(reference, references[-1], found)
        convert, columns = registry_avro.shape_of(text, references)
        read = AvroDeserializer(fetched, conf={"schema.id.deserializer": _FROM_PREFIX})
        if convert is None:
            return lambda raw: (read(raw), columns)
        return lambda raw: (convert(read(raw)), columns)

    def _protobuf(self, schema_id: int) -> _Reader:
        client = self._serialized
        schema = self._asked(schema_id, lambda: client.get_schema(schema_id, None, _SERIALIZED))
        references = [
            self._file(found, str(reference.name))
            for reference, found in self._references(schema_id, client, schema, _SERIALIZED)
        ]
        return _ProtobufReader(self._file(schema, f"rowvec/{schema_id}.proto"), references)

    def _file(self, schema: Schema, name: str) -> FileDescriptorProto:
        try:
            return registry_protobuf.file_of(_text(schema), name)
        except (ValueError, DecodeError):
            raise FatalError(
                subject=self._subject,
                cause="it gives Protobuf schemas as text only, not as `format=serialized`",
                hint="use a registry that can (Confluent's, Karapace), or AvroConverter",
            ) from None

    def _references(
        self, schema_id: int, client: SchemaRegistryClient, schema: Schema, form: str | None
    ) -> Iterator[tuple[SchemaReference, Schema]]:
        """What a schema refers to, at any depth; each once, and after what it refers to itself."""
        seen: set[str] = set()

        def ask(reference: SchemaReference) -> Schema:
            subject, version = str(reference.subject), reference.version or 0
            return client.get_version(subject, version, True, form).schema

        def below(schema: Schema) -> Iterator[tuple[SchemaReference, Schema]]:
            for reference in schema.references or ():
                if reference.name is not None and reference.name not in seen:
                    seen.add(reference.name)
                    found = self._asked(schema_id, partial(ask, reference))
                    yield from below(found)
                    yield reference, found

        return below(schema)

    def _asked(self, schema_id: int, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except SchemaRegistryError as error:
            raise self._told(schema_id, error) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._no_registry("its answer is none of a schema registry") from error
        except Exception as error:  # Its HTTP library's, which is httpx or httpx2 by version.
            raise self._unreachable(error) from error

    def _told(self, schema_id: int, error: SchemaRegistryError) -> Exception:
        """What an answer that is no success means."""
        status, code = error.http_status_code, error.error_code
        if status in (401, 403):
            return FatalError(
                subject=self._subject,
                cause=f"it refuses the credentials (HTTP {status})",
                hint="correct username and password in [schema_registry]; the password best as "
                "ROWVEC_SCHEMA_REGISTRY__PASSWORD",
            )
        if status >= 500 or status in _TRANSIENT:
            return RetriableError(
                subject=self._subject,
                cause=f"it answers HTTP {status}",
                hint="look into its log",
            )
        if status == 404 and code in _UNKNOWN:
            return RecordError(
                subject=self._subject,
                cause=f"the {self._subject} does not have schema {schema_id}, or one that it refers to",
                hint="make `url` in [schema_registry] that of the connector's converters",
            )
        return self._no_registry(f"it answers HTTP {status}")

    def _no_registry(self, cause: str) -> FatalError:
        return FatalError(
            subject=self._subject,
            cause=cause,
            hint="make `url` in [schema_registry] the root of a registry with Confluent's API",
        )

    def _unreachable(self, error: Exception) -> Exception:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return FatalError(
                    subject=self._subject,
                    cause=f"its certificate is not trusted ({cause.verify_message})",
                    hint="make ca_file in [schema_registry] the certificate of the authority "
                    "that signed it",
                )
            cause = cause.__cause__ or cause.__context__
        return RetriableError(
            subject=self._subject,
            cause=f"it cannot be reached ({type(error).__name__})",
            hint="start it, or correct `url` in [schema_registry]",
        )


class _Fetched(SchemaRegistryClient):
    """What an Avro deserialiser asks instead of the registry: one schema and its references."""

    def __init__(self, schema: Schema) -> None:
        # Without the client's own: there is no connection.
        self._schema = schema
        self._versions: dict[tuple[str | None, Any], RegisteredSchema] = {}

    def add(self, reference: SchemaReference, text: str, found: Schema) -> None:
        """Holds the schema of a reference, with another text."""
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
    """Reads the messages of one Protobuf schema: a file, of which a record's index names one."""

    def __init__(self, file: FileDescriptorProto, references: list[FileDescriptorProto]) -> None:
        self._file = file
        self._references = references
        self._messages: dict[tuple[int, ...], _Reader] = {}

    def __call__(self, raw: bytes) -> tuple[Any, Columns]:
        frame = SchemaId("PROTOBUF")
        frame.from_bytes(io.BytesIO(raw))
        index = tuple(frame.message_indexes or ())
        # Two threads may both make a reader; they are alike.
        reader = self._messages.get(index) or self._messages.setdefault(index, self._made(index))
        return reader(raw)

    def _made(self, index: tuple[int, ...]) -> _Reader:
        try:
            message, convert, columns = registry_protobuf.shape_of(
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


def _options(section: SchemaRegistrySection) -> dict[str, Any]:
    # Trying again is the retry policy's alone: the client's own cannot be ended by a stop.
    options: dict[str, Any] = {
        "url": section.url,
        "timeout": section.request_timeout_s,
        "max.retries": 0,
    }
    if section.username is not None:
        password = section.password.get_secret_value() if section.password else ""
        options["basic.auth.user.info"] = f"{section.username}:{password}"
    if section.ca_file is not None:
        options["ssl.ca.location"] = str(section.ca_file)
    return options


def _without_credentials(urls: str) -> str:
    shown = []
    for url in urls.split(","):
        parts = urlsplit(url.strip())
        shown.append(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
    return ", ".join(shown)
