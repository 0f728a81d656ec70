"""Address and credentials of a Milvus server, checked before anything connects."""

from typing import NamedTuple
from urllib.parse import urlsplit

from operators.contract.addresses import is_loopback
from operators.contract.sections import MilvusSection
from operators.errors import FatalError

_DEFAULT_TOKEN = "root:Milvus"  # noqa: S105


class Address(NamedTuple):
    """A server to connect to.

    Attributes:
        where: Its name in messages; contains no credentials.
    """

    uri: str
    token: str
    where: str


def server_address(section: MilvusSection) -> Address:
    """The server that `milvus.uri` names; that it names one, the contract has checked.

    Raises:
        FatalError: TLS is configured only in part, or the credentials are Milvus's defaults and the
            server is on another machine.
    """
    parts = urlsplit(section.uri)
    where = f"Milvus '{parts.scheme}://{parts.hostname}:{parts.port or 19530}'"
    if section.ca_file and parts.scheme != "https":
        raise FatalError(
            subject="milvus.ca_file",
            cause=f"is set, but {where} would be spoken to without TLS",
            hint="Write https:// in milvus.uri",
        )
    if section.ca_file and not section.ca_file.is_file():
        raise FatalError(
            subject="milvus.ca_file",
            cause=f"'{section.ca_file}' is not there",
            hint="Mount the certificate of the authority, or correct the path",
        )
    token = section.token.get_secret_value() if section.token else ""
    if token == _DEFAULT_TOKEN and not is_loopback(parts.hostname or ""):
        raise FatalError(
            subject="milvus.token",
            cause=f"is the default of every Milvus, and {where} is beyond this machine",
            hint="Change the password of root, better make a user for Rowvec, and set its token",
        )
    return Address(section.uri, token, where)
