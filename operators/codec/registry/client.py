"""Fetches schemas from a schema registry, and turns its errors into Rowvec's."""

import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from confluent_kafka.schema_registry import (
    Schema,
    SchemaReference,
    SchemaRegistryClient,
    SchemaRegistryError,
)

from operators.contract.sections import SchemaRegistrySection
from operators.errors import ContractError, FatalError, RecordError, RetriableError
from operators.printable import without_credentials

MAX_ANSWER_BYTES = 16 * 2**20
"""A longer answer is none of a registry, which keeps each schema in a message of Kafka."""

T = TypeVar("T")

_UNKNOWN = frozenset({40401, 40402, 40403})
"""The registry's own codes for a subject, a version and a schema that it does not have."""

_TRANSIENT = frozenset({408, 425, 429})


class RegistryClient:
    """A client of the registry. Each call makes one attempt: retrying is up to the caller.

    All calls raise RetriableError while the registry is down, FatalError if it refuses the credentials
    or is not a schema registry, and RecordError if it does not have the schema.

    Args:
        section: Where the registry is.

    Attributes:
        subject: Its name in error messages.

    Raises:
        ContractError: The section cannot be used; its CA file is invalid, for example.
    """

    def __init__(self, section: SchemaRegistrySection) -> None:
        try:
            self.subject = f"schema registry {without_credentials(section.url)}"
            self._request_s = section.request_timeout_s * len(section.url.split(","))
            options = _options(section)
            with ExitStack() as opening:
                # Two clients, because each caches only one form of a schema.
                self._as_text, self._serialized = (
                    opening.enter_context(_limited(SchemaRegistryClient(options))) for _ in range(2)
                )
                self._open = opening.pop_all()
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

    def close(self) -> None:
        """Close the connections."""
        self._open.close()

    def schema(self, schema_id: int, *, serialized: bool = False) -> Schema:
        """A schema as text; or, with `serialized`, one of Protobuf as base64 of its file descriptor."""
        client, form = self._form(serialized)
        found: Schema = self._asked(schema_id, lambda: client.get_schema(schema_id, None, form))
        return found

    def references(
        self, schema_id: int, schema: Schema, *, serialized: bool = False
    ) -> Iterator[tuple[SchemaReference, Schema]]:
        """The schemas that one refers to, at any depth; each once, after those it refers to itself."""
        client, form = self._form(serialized)
        seen: set[str] = set()

        def ask(reference: SchemaReference) -> Schema:
            subject, version = str(reference.subject), reference.version or 0
            found: Schema = client.get_version(subject, version, True, form).schema
            return found

        def below(schema: Schema) -> Iterator[tuple[SchemaReference, Schema]]:
            for reference in schema.references or ():
                if reference.name is not None and reference.name not in seen:
                    seen.add(reference.name)
                    found = self._asked(schema_id, partial(ask, reference))
                    yield from below(found)
                    yield reference, found

        return below(schema)

    def _form(self, serialized: bool) -> tuple[SchemaRegistryClient, str | None]:
        return (self._serialized, "serialized") if serialized else (self._as_text, None)

    def _asked(self, schema_id: int, ask: Callable[[], T]) -> T:
        try:
            return _within(self._request_s, ask)
        except SchemaRegistryError as error:
            raise self._error_of(schema_id, error) from error
        except _TooLong:
            raise self._no_registry(
                f"its answer is longer than {MAX_ANSWER_BYTES // 2**20} MiB"
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._no_registry("its answer is none of a schema registry") from error
        except Exception as error:  # of its HTTP library, which depends on its version
            raise self._unreachable(error) from error

    def _error_of(self, schema_id: int, error: SchemaRegistryError) -> Exception:
        """The error to raise for an unsuccessful answer."""
        status, code = error.http_status_code, error.error_code
        if status in (401, 403):
            return FatalError(
                subject=self.subject,
                cause=f"it refuses the credentials (HTTP {status})",
                hint="correct username and password in [schema_registry]; the password best as "
                "ROWVEC_SCHEMA_REGISTRY__PASSWORD",
            )
        if status >= 500 or status in _TRANSIENT:
            return RetriableError(
                subject=self.subject,
                cause=f"it answers HTTP {status}",
                hint="look into its log",
            )
        if status == 404 and code in _UNKNOWN:
            return RecordError(
                subject=self.subject,
                cause=f"the {self.subject} does not have schema {schema_id}, or one that it refers to",
                hint="make `url` in [schema_registry] that of the connector's converters",
            )
        return self._no_registry(f"it answers HTTP {status}")

    def _no_registry(self, cause: str) -> FatalError:
        return FatalError(
            subject=self.subject,
            cause=cause,
            hint="make `url` in [schema_registry] the root of a registry with Confluent's API",
        )

    def _unreachable(self, error: Exception) -> Exception:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return FatalError(
                    subject=self.subject,
                    cause=f"its certificate is not trusted ({cause.verify_message})",
                    hint="make ca_file in [schema_registry] the certificate of the authority "
                    "that signed it",
                )
            cause = cause.__cause__ or cause.__context__
        if "Timeout" in type(error).__name__:
            return RetriableError(
                subject=self.subject,
                cause=f"it does not answer within {self._request_s:g} s",
                hint="look into its log, or raise request_timeout_s in [schema_registry]",
            )
        return RetriableError(
            subject=self.subject,
            cause=f"it cannot be reached ({type(error).__name__})",
            hint="start it, or correct `url` in [schema_registry]",
        )


def _options(section: SchemaRegistrySection) -> dict[str, Any]:
    # Only the retry policy retries: the client's own retries cannot be interrupted by a stop.
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


class _TooLong(Exception):
    """An answer is longer than that of any registry."""


def _limited(client: SchemaRegistryClient) -> SchemaRegistryClient:
    """The client, which from now on reads no answer beyond the limit.

    Its HTTP library calls the hook before it reads the body, and then takes the body that it finds.
    """

    def read(response: Any) -> None:
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > MAX_ANSWER_BYTES:  # guard: registry-size
                raise _TooLong
        response._content = bytes(body)

    client._rest_client.session.event_hooks = {"response": [read]}
    return client


def _within(seconds: float, ask: Callable[[], T]) -> T:
    """The result of `ask`, or TimeoutError.

    The HTTP library limits each read, and a server that sends a byte a second passes that limit for
    ever. So a thread of its own asks, which is left alone if it takes longer.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            answer.set_exception(error)

    threading.Thread(target=run, name="rowvec-registry", daemon=True).start()
    return answer.result(seconds)  # guard: registry-deadline
