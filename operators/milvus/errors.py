"""What an error of Milvus means: try again, stop, or refuse this request.

A Milvus that is down, or that revoked the token, must never be mistaken for a bad record.
"""

import enum
import re
from typing import NoReturn

import grpc  # type: ignore[import-untyped]

from operators.errors import FatalError, RetriableError, RowvecError


class Verdict(enum.Enum):
    """What to do about an error."""

    TRANSIENT = enum.auto()
    FATAL = enum.auto()
    REFUSED = enum.auto()
    """This request can never succeed: because of a write's data, or a search's filter."""


_GRPC_FATAL = {
    "UNAUTHENTICATED": "Check milvus.token",  # guard: down-is-no-letter
    "PERMISSION_DENIED": "Grant the user what Rowvec needs on the database",
    "UNIMPLEMENTED": "Check that milvus.uri points to the gRPC port of a supported Milvus",
}

_TLS_SIGNS = {
    "CERTIFICATE_VERIFY_FAILED": "Set milvus.ca_file to the authority of its certificate, and look "
    "whether that has expired",
    "Hostname Verification Check failed": "Write the host in milvus.uri as its certificate names it",
    "WRONG_VERSION_NUMBER": "It speaks no TLS there: write http:// in milvus.uri, or the port for TLS",
}

_FATAL_CODES = {
    100: "Check milvus.database and the collection's name; it may have been dropped meanwhile",
    105: "Check the contract's columns",
    109: "The collection was changed meanwhile; restart to have it checked",
    800: "Create the database, or correct milvus.database",
    802: "Correct milvus.database",
    1400: "Check milvus.token",
    1401: "Grant the user what Rowvec needs on the database",
    1700: "The collection was changed meanwhile; restart to have it checked",
    1800: "Check milvus.token",
}

_REFUSED_CODES = {1100, 1101, 1102, 1804}

_BUSY_CODES = {2, 3, 4, 5, 7, 8, 9, 11, 503}
"""A server that is up and cannot do it now."""

_NOT_READY = re.compile(r"not ready|unavailable|initializ", re.IGNORECASE)
"""Together with code 1, which servers and Lite give to anything."""

_NO_DATABASE = re.compile(r"^database\W.*(not found|does not exist)")  # Lite and 2.3: no code

_SCHEMA_CHANGED = ("unexpected field", "missed an field")


def raise_translated(
    error: Exception,
    subject: str,
    where: str,
    refused: type[RowvecError],
    *,
    creates: bool = False,
) -> NoReturn:
    """Raise the error of Rowvec that corresponds to this one.

    Args:
        error: The error that pymilvus raised.
        subject: Subject of the new error.
        where: Name of the server, for hints.
        refused: The error to raise if Milvus understood the request and refused it.
        creates: See `verdict_of`.
    """
    verdict, cause, hint = verdict_of(error, creates=creates)
    kind: type[RowvecError]
    match verdict:
        case Verdict.TRANSIENT:
            kind, hint = RetriableError, hint or f"Check that {where} is up and not overloaded"
        case Verdict.FATAL:
            kind = FatalError
        case Verdict.REFUSED:
            kind = refused
    raise kind(subject=subject, cause=cause, hint=hint) from error


def verdict_of(error: Exception, *, creates: bool = False) -> tuple[Verdict, str, str]:
    """The verdict on an error, its cause, and a hint.

    An unknown error counts as transient: retries are bounded, and then the flow stops. If it counted
    as refused, a Milvus with a problem of its own would turn good rows into dead letters.

    Args:
        error: The error that pymilvus raised.
        creates: Whether the request creates a collection, an index or a field. No row is to blame then,
            and servers refuse one with all kinds of codes, so an unknown answer is fatal.
    """
    status, details = _grpc_status(error)
    message = details or getattr(error, "message", "") or str(error)
    cause = " ".join(f"{status} {message}".split())[:300]
    if status:
        for sign, hint in _TLS_SIGNS.items():
            if sign in details:
                return Verdict.FATAL, cause, hint
        if status in _GRPC_FATAL:
            return Verdict.FATAL, cause, _GRPC_FATAL[status]
        if status == "INVALID_ARGUMENT" or "larger than max" in details:
            return Verdict.REFUSED, cause, ""
        return Verdict.TRANSIENT, cause, ""
    code = getattr(error, "code", 0)
    if _NO_DATABASE.search(message):
        return Verdict.FATAL, cause, "Create the database, or correct milvus.database"
    if code == 6 or "cannot parse expression" in message:
        # Lite's code for an illegal argument; Milvus 2.3 has none for a bad filter.
        return Verdict.REFUSED, cause, ""
    if code in _FATAL_CODES:
        return Verdict.FATAL, cause, _FATAL_CODES[code]
    if type(error).__name__ in {"DataNotMatchException", "ParamError"}:  # refused by pymilvus
        if any(sign in message for sign in _SCHEMA_CHANGED):
            return (
                Verdict.FATAL,
                cause,
                "The collection was changed meanwhile; restart to check it",
            )
        return Verdict.REFUSED, cause, ""
    if code in _REFUSED_CODES and not getattr(error, "retriable", False):
        return Verdict.REFUSED, cause, ""
    if creates and not _is_busy(error, code, message):  # guard: creation-refused
        return Verdict.FATAL, cause, "Correct what Milvus names there, or see its log"
    return Verdict.TRANSIENT, cause, ""  # guard: unknown-is-no-letter


def _is_busy(error: Exception, code: int, message: str) -> bool:
    if getattr(error, "retriable", False) or code in _BUSY_CODES:
        return True
    return code == 1 and _NOT_READY.search(message) is not None


def _grpc_status(error: BaseException) -> tuple[str, str]:
    """Name and details of the gRPC status at the root of an error, or two empty strings.

    pymilvus reports a refused token as "server unavailable", so the chain of causes has to be
    searched. It also raises errors from themselves, so the chain may be circular.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop(0)
        if one is None or id(one) in seen or isinstance(one, RowvecError):
            continue  # One of Rowvec's was being handled when this arose; it is not the cause.
        seen.add(id(one))
        if isinstance(one, grpc.FutureTimeoutError):
            return "DEADLINE_EXCEEDED", "no answer in time"
        if isinstance(one, grpc.RpcError):
            return one.code().name, one.details() or ""
        pending += [one.__cause__, one.__context__]
    return "", ""
