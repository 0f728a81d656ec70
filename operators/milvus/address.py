"""Address and credentials of a Milvus server, checked before anything connects."""

import re
import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from operators.contract.addresses import is_loopback
from operators.contract.sections import MilvusSection
from operators.errors import FatalError

_HOST_AND_PORT = re.compile(r"[A-Za-z0-9_.-]+:\d+")

_DEFAULT_TOKEN = "root:Milvus"  # noqa: S105


class Address(NamedTuple):
    """A server to connect to.

    Attributes:
        where: Its name in messages; contains no credentials.
        direct: Whether no proxy may stand in between: it is on this machine.
        asked: `where`, and the proxy that gRPC asks for it, for messages about a server that is silent.
    """

    uri: str
    token: str
    where: str
    direct: bool
    asked: str


def lite_path(section: MilvusSection) -> str:
    """The directory of Milvus Lite that `milvus.uri` names.

    Raises:
        FatalError: It looks like the address of a server, or names no directory.
    """
    if _HOST_AND_PORT.fullmatch(section.uri):  # guard: address-is-no-path
        raise FatalError(
            subject="milvus.uri",
            cause=f"'{section.uri}' is an address without http:// in front of it",
            hint=f"Write http://{section.uri}, or ./{section.uri} for Milvus Lite in such a directory",
        )
    try:
        if not section.uri.strip():
            raise RuntimeError("it is blank")
        return str(Path(section.uri).expanduser().resolve())
    except (RuntimeError, OSError, ValueError) as error:
        raise FatalError(
            subject="milvus.uri",
            cause=f"is no path to a directory: {error}",
            hint="Give a path, or the address of a server: http(s)://host:port",
        ) from None


def server_address(section: MilvusSection) -> Address:
    """The server that `milvus.uri` names; that it names one, the contract has checked.

    Raises:
        FatalError: It is an address that pymilvus does not take; TLS is configured only in part; or the
            credentials are Milvus's defaults and the server is on another machine.
    """
    parts = urlsplit(section.uri)
    host = parts.hostname or ""
    where = f"Milvus '{parts.scheme}://{host}:{parts.port or 19530}'"
    if ":" in host:
        raise FatalError(
            subject="milvus.uri",
            cause=f"has the IPv6 address {host}, which pymilvus cannot read",
            hint="Give the host a name in the DNS or in /etc/hosts, and write that",
        )
    if section.database and parts.path.strip("/") not in ("", section.database):
        raise FatalError(
            subject="milvus.uri",
            cause=f"names the database '{parts.path.strip('/')}', and milvus.database another one",
            hint="Take the path out of milvus.uri",
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
    if section.ca_file:
        _check_certificates(section.ca_file)
    token = section.token.get_secret_value() if section.token else ""
    if token == _DEFAULT_TOKEN and not is_loopback(host):
        raise FatalError(
            subject="milvus.token",
            cause=f"is the default of every Milvus, and {where} is beyond this machine",
            hint="Change the password of root, better make a user for Rowvec, and set its token",
        )
    direct = is_loopback(host)
    asked = where
    if not direct and (proxy := _proxy_for(host)):
        asked = f"{where}, asked through the proxy of {proxy} (no_proxy excepts a host),"
    return Address(section.uri, token, where, direct, asked)


def _check_certificates(file: Path) -> None:
    """Refuse a file without certificates: gRPC would call the server unavailable."""
    try:
        ssl.create_default_context(cafile=str(file))
    except OSError as error:  # an SSLError is one
        raise FatalError(
            subject="milvus.ca_file",
            cause=f"'{file}' holds no certificate that can be read: {error.strerror or error}",
            hint="Give the certificate of the authority in PEM, and let this user read it",
        ) from None


def _proxy_for(host: str) -> str:
    """The environment variable with the proxy that gRPC asks for a host; "" if there is none."""
    proxies = getproxies_environment()
    if proxy_bypass(host, proxies):
        return ""
    return next((f"{kind}_proxy" for kind in ("grpc", "https", "http") if proxies.get(kind)), "")
