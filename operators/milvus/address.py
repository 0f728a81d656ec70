"""Address and credentials of a Milvus server, checked before anything connects."""

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

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
    """The server that `milvus.uri` names.

    Raises:
        FatalError: It is no address, TLS is configured only in part, credentials are in the URI, or
            they are Milvus's defaults and the server is on another machine.
    """
    parts = urlsplit(section.uri)
    where = f"Milvus '{parts.scheme}://{parts.hostname}:{parts.port or 19530}'"
    if parts.username or parts.password:
        raise FatalError(
            subject="milvus.uri",
            cause="holds credentials, which messages and logs would show",
            hint="Put them into milvus.token as user:password",
        )
    if parts.scheme not in {"http", "https", "tcp"} or not parts.hostname:
        raise FatalError(
            subject="milvus.uri",
            cause=f"'{section.uri}' is neither http(s)://host:port nor a path",
            hint="For Milvus Lite give the path of a directory",
        )
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
    if token == _DEFAULT_TOKEN and not _is_loopback(parts.hostname):
        raise FatalError(
            subject="milvus.token",
            cause=f"is the default of every Milvus, and {where} is beyond this machine",
            hint="Change the password of root, better make a user for Rowvec, and set its token",
        )
    return Address(section.uri, token, where)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
