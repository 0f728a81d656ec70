import grpc
import pytest
from pymilvus.exceptions import DataNotMatchException, MilvusException, ParamError

from operators.errors import FatalError, RecordError, RetriableError
from operators.milvus.errors import Verdict, raise_translated, verdict_of

TRANSIENT, FATAL, REFUSED = Verdict.TRANSIENT, Verdict.FATAL, Verdict.REFUSED


class Status(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize("code", grpc.StatusCode, ids=lambda code: code.name)
def test_a_status_of_grpc(code):
    fatal = {"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"}
    wanted = FATAL if code.name in fatal else TRANSIENT
    if code.name == "INVALID_ARGUMENT":
        wanted = REFUSED
    assert verdict_of(Status(code))[0] is wanted


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MilvusException(1, "service not ready"), TRANSIENT),
        (MilvusException(1, "Unexpected error, message=<Channel closed!>"), TRANSIENT),
        (MilvusException(3, "memory limit exceeded"), TRANSIENT),
        (MilvusException(8, "rate limit exceeded"), TRANSIENT),
        (MilvusException(9, "quota exceeded"), TRANSIENT),
        (MilvusException(101, "collection not loaded"), TRANSIENT),
        (MilvusException(106, "collection on recovering"), TRANSIENT),
        (MilvusException(503, "channel not available"), TRANSIENT),
        (MilvusException(1001, "IO failed"), TRANSIENT),
        (MilvusException(65535, "something new"), TRANSIENT),
        (MilvusException(1100, "wait a little", retriable=True), TRANSIENT),
        (MilvusException(100, "collection not found"), FATAL),
        (MilvusException(6, "database 'nodb' does not exist"), FATAL),
        (MilvusException(1, "database:nodb not found"), FATAL),
        (MilvusException(800, "database not found"), FATAL),
        (MilvusException(1401, "privilege not permitted"), FATAL),
        (DataNotMatchException(1, "Insert missed an field `text` to collection"), FATAL),
        (DataNotMatchException(1, "Attempt to insert an unexpected field `zz`"), FATAL),
        (Status(grpc.StatusCode.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED"), FATAL),
        (Status(grpc.StatusCode.UNAVAILABLE, "x: Hostname Verification Check failed."), FATAL),
        (Status(grpc.StatusCode.UNAVAILABLE, "SSL routines:WRONG_VERSION_NUMBER: y"), FATAL),
        (DataNotMatchException(1, "The Input data type is inconsistent"), REFUSED),
        (ParamError(1, "invalid input"), REFUSED),
        (MilvusException(1100, "string length exceeds max length"), REFUSED),
        (MilvusException(6, "field 'database' does not exist"), REFUSED),
        (MilvusException(65535, "failed: cannot parse expression: zz == 1"), REFUSED),
        (Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max"), REFUSED),
    ],
    ids=str,
)
def test_an_error_of_milvus(error, wanted):
    assert verdict_of(error)[0] is wanted


def refused_at_connecting() -> MilvusException:
    """An error as pymilvus raises it: wrapped, and then raised again from itself."""
    try:
        try:
            raise Status(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")
        except grpc.RpcError as cause:
            raise MilvusException(2, "server unavailable") from cause
    except MilvusException as error:
        try:
            raise error from error
        except MilvusException as again:
            return again


def test_a_refused_token_shows_through_what_wraps_it():
    verdict, cause, hint = verdict_of(refused_at_connecting())
    assert verdict is FATAL
    assert "auth check failure" in cause
    assert "milvus.token" in hint


def refused_while_handling_an_outage() -> MilvusException:
    try:
        unavailable = Status(grpc.StatusCode.UNAVAILABLE, "connection refused")
        raise_translated(unavailable, "an earlier call", "Milvus", RecordError)
    except RetriableError:
        try:
            raise MilvusException(1100, "too long")
        except MilvusException as error:
            return error


def test_an_earlier_error_of_ours_does_not_colour_the_next():
    assert verdict_of(refused_while_handling_an_outage())[0] is REFUSED


def test_what_a_refusal_becomes_is_the_callers():
    for kind in (RecordError, FatalError):
        with pytest.raises(kind, match="too long"):
            raise_translated(MilvusException(1100, "too long"), "it", "Milvus", kind)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MilvusException(65535, "maximum field's number should be limited to 64"), FATAL),
        (MilvusException(65535, "create duplicate collection with different parameters"), FATAL),
        (MilvusException(1701, "Invalid field name: unit-price"), FATAL),
        (MilvusException(1, "collection name too long (256 bytes, max 255)"), FATAL),
        (MilvusException(102, "collection number limit exceeded"), FATAL),
        (MilvusException(1100, "schema contains system field"), REFUSED),
        (MilvusException(1, "service not ready[rootcoord=1]: Initializing"), TRANSIENT),
        (MilvusException(2, "service unavailable"), TRANSIENT),
        (MilvusException(8, "rate limit exceeded"), TRANSIENT),
        (MilvusException(65535, "wait a little", retriable=True), TRANSIENT),
        (Status(grpc.StatusCode.UNAVAILABLE, "down"), TRANSIENT),
        (Status(grpc.StatusCode.DEADLINE_EXCEEDED), TRANSIENT),
    ],
    ids=str,
)
def test_a_refusal_to_create_is_no_server_that_is_down(error: Exception, wanted: Verdict):
    assert verdict_of(error, creates=True)[0] is wanted
    if wanted is FATAL:
        with pytest.raises(FatalError) as told:
            raise_translated(error, "collection 'docs'", "Milvus", FatalError, creates=True)
        assert "is up" not in str(told.value)
