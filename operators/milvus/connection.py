"""A connection to one Milvus: address, deadlines, translated errors, and one writer at a time on Lite.

It knows how Milvus Lite and servers of different versions differ. The requests themselves are in
`collection_requests` and `client`.
"""

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
from pymilvus import MilvusClient, MilvusException

from operators.contract.sections import MilvusSection
from operators.errors import FatalError, RetriableError, RowvecError
from operators.milvus.address import Address, lite_path, server_address
from operators.milvus.errors import raise_translated
from operators.milvus.lite import close_directory, open_directory

_NOT_LOADED = 101

T = TypeVar("T")


class Connection:
    """One connection; every request has a deadline.

    Threads may share it: lanes, the worker and the lease thread do. pymilvus does its own locking;
    `_writing` serialises writes to Milvus Lite.

    Args:
        section: Address and credentials.

    Raises:
        FatalError, RetriableError: See `MilvusStore`.
    """

    def __init__(self, section: MilvusSection) -> None:
        # Every error is raised. pymilvus would also log it, and quote the data that the server refused.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._timeout = section.request_timeout_s
        self._writing = threading.Lock()
        self._lite_path: str | None = None
        if "://" not in section.uri:
            self._lite_path = lite_path(section)
            where = f"Milvus Lite '{section.uri}'"
            address = Address(open_directory(self._lite_path), "", where, direct=True, asked=where)
        else:
            address = server_address(section)
        self._where, self._asked = address.where, address.asked
        options: dict[str, Any] = {}
        if section.ca_file:
            options["server_pem_path"] = str(section.ca_file)
        if address.direct:  # guard: no-proxy-on-this-machine
            options["grpc_options"] = {"grpc.enable_http_proxy": 0}
        try:
            # Dedicated, because a shared connection stays open after close().
            self._client = self._call(
                self._where,
                MilvusClient,
                uri=address.uri,
                token=address.token,
                db_name=section.database,
                dedicated=True,
                **options,
            )
            self.version = str(self._call(self._where, self._client.get_server_version))
        except BaseException:
            self.close()
            raise
        self.lite = self.version.startswith("milvus_lite")
        self.nullable = self.lite or _at_least(self.version, (2, 5))
        # Lite gives a text back that is no JSON, and refuses numbers.
        self.json_scalars = self.nullable and not self.lite
        self.can_add_fields = not self.lite and _at_least(self.version, (2, 6))

    def about(self, collection: str, what: str = "") -> str:
        """The name of a collection in messages."""
        return f"collection '{collection}' at {self._where}{what}"

    def close(self) -> None:
        """Close the connection and release Milvus Lite's directory; a second call does nothing."""
        client, self._client = getattr(self, "_client", None), None
        if client is not None:
            client.close()
        path, self._lite_path = self._lite_path, None
        if path is not None:
            close_directory(path)

    def load(self, collection: str) -> None:
        """Load a collection so that it can be read; returns at once if it is loaded."""
        self._call(self.about(collection), self._client.load_collection, collection)

    @contextmanager
    def _turn_to_write(self, collection: str) -> Iterator[None]:
        """Let one thread write at a time on Milvus Lite, which loses rows of concurrent writers.

        The lease thread writes the ledger while a lane writes rows. A thread that waits longer than
        the request timeout gets a `RetriableError`.
        """
        if not self.lite:
            yield
            return
        if not self._writing.acquire(timeout=self._timeout):
            raise RetriableError(
                subject=self.about(collection),
                cause=f"another write was under way for {self._timeout:g} seconds",
                hint=f"Check that {self._where} is up and not overloaded",
            )
        try:
            yield
        finally:
            self._writing.release()

    def _call(
        self,
        subject: str,
        function: Callable[..., T],
        *args: Any,
        refused: type[RowvecError] = FatalError,
        creates: bool = False,
        **kwargs: Any,
    ) -> T:
        """Call pymilvus with the deadline, and translate its errors into Rowvec's.

        `refused` is the error for a request that Milvus understood and refused; `creates` says that the
        request creates a collection, an index or a field.
        """
        try:
            return function(*args, timeout=self._timeout, **kwargs)
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise_translated(error, subject, self._asked, refused, creates=creates)

    def _read(self, collection: str, function: Callable[..., T], **kwargs: Any) -> T:
        """Call a reading function; if the collection is not loaded, load it and call again.

        It is not loaded beforehand, because a user with read rights alone may not load.
        """
        subject = self.about(collection)
        try:
            return self._call(subject, function, collection, **kwargs)
        except RetriableError as error:
            if getattr(error.__cause__, "code", None) != _NOT_LOADED:
                raise
        self.load(collection)
        return self._call(subject, function, collection, **kwargs)


def _at_least(version: str, wanted: tuple[int, int]) -> bool:
    """Whether a server has at least this version; one without a number is taken for a recent build."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return match is None or (int(match[1]), int(match[2])) >= wanted
