"""A connection to Milvus that takes Rowvec's values and raises Rowvec's errors.

The only import of pymilvus. It knows how requests differ between Milvus Lite and servers of
different versions; what the requests are for is the business of `operators.milvus.store`.
"""

import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from operators.changes.vector import Vector
from operators.contract.sections import MilvusSection
from operators.errors import FatalError, RetriableError, RowvecError
from operators.milvus.address import server_address
from operators.milvus.errors import raise_translated
from operators.milvus.lite import close_directory, open_directory
from operators.milvus.schema import Field, Shape, id_filter

MAX_WINDOW = 16_384
"""The most entities that a server puts into one answer."""

IDS_PER_REQUEST = 4_096

WIDE_ROWS_PER_REQUEST = 1_000
"""For rows with a text of 64 KiB or a vector of 4,096: an answer of a few tens of MiB at most."""

_NARROW_ROWS_PER_PAGE = 10_000

_MODEL_PROPERTY = "rowvec.model"

_MODEL_DESCRIPTION = "Kept equal to SQL tables by Rowvec; vectors by "

_OTHER_DESCRIPTION = "Rowvec's own: no vectors to search for, and nothing to change by hand"

_IDENTITY_PROPERTY = "rowvec.identity"

_DESCRIPTION = re.compile(
    re.escape(_MODEL_DESCRIPTION) + r"(?P<model>.*?)(?:; collection (?P<identity>[0-9a-f]{32}))?",
    re.DOTALL,
)

_WIDE_FIELDS = frozenset({"vector", "text", "body"})

_NOT_LOADED = 101

_STRONG = "Strong"

_TYPES = {
    "varchar": DataType.VARCHAR,
    "int64": DataType.INT64,
    "int32": DataType.INT32,
    "double": DataType.DOUBLE,
    "float": DataType.FLOAT,
    "bool": DataType.BOOL,
    "json": DataType.JSON,
    "vector": DataType.FLOAT_VECTOR,
}

_TYPE_NAMES = {int(kind): name for name, kind in _TYPES.items()}

T = TypeVar("T")


class Client:
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
            self._lite_path = str(Path(section.uri).expanduser().resolve())
            uri, token, where = open_directory(self._lite_path), "", f"Milvus Lite '{section.uri}'"
        else:
            uri, token, where = server_address(section)
        self._where = where
        options: dict[str, Any] = (
            {"server_pem_path": str(section.ca_file)} if section.ca_file else {}
        )
        try:
            # Dedicated, because a shared connection stays open after close().
            self._client = self._call(
                where,
                MilvusClient,
                uri=uri,
                token=token,
                db_name=section.database,
                dedicated=True,
                **options,
            )
            self.version = str(self._call(where, self._client.get_server_version))
        except BaseException:
            self.close()
            raise
        self.lite = self.version.startswith("milvus_lite")
        self.nullable = self.lite or _at_least(self.version, (2, 5))
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

    def has_collection(self, collection: str) -> bool:
        """Whether a collection of this name exists."""
        return bool(self._call(self.about(collection), self._client.has_collection, collection))

    def make_collection(self, collection: str, wanted: Shape) -> Shape:
        """Create a collection and its index where they are missing.

        It also completes a creation that a crash interrupted. The collection may not be loaded yet.

        Returns:
            The collection as it is, which may differ from `wanted` if it existed before.
        """
        # Processes of one flow start together, so another one may create it at the same time.
        if not self.has_collection(collection):
            try:
                self.create_collection(collection, wanted)
            except RowvecError:
                if not self.has_collection(collection):
                    raise
        found = self.describe(collection)
        if not found.metric:
            try:
                self.create_index(collection, wanted.metric)
            except RowvecError:
                if not self.describe(collection).metric:
                    raise
            found = self.describe(collection)
        return found

    def create_collection(self, collection: str, shape: Shape) -> None:
        """Create a collection with a new identity, but without its index."""
        identity = uuid.uuid4().hex
        schema = MilvusClient.create_schema(
            auto_id=False,
            enable_dynamic_field=False,
            description=(
                f"{_MODEL_DESCRIPTION}{shape.model}; collection {identity}"
                if shape.model
                else _OTHER_DESCRIPTION
            ),
        )
        for field in shape.fields.values():
            options = _options(field, nullable=field.nullable and self.nullable)
            schema.add_field(field.name, _TYPES[field.type], **options)
        # Model and identity are written twice: Lite does not keep descriptions, old servers do not
        # keep properties.
        self._call(
            self.about(collection),
            self._client.create_collection,
            collection,
            schema=schema,
            consistency_level=_STRONG,
            properties={_MODEL_PROPERTY: shape.model, _IDENTITY_PROPERTY: identity},
        )

    def create_index(self, collection: str, metric: str) -> None:
        """Create the index over the vectors; returns before it is built."""
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type=metric)
        # sync=False, because pymilvus would wait without a deadline; loading waits for the index.
        self._call(self.about(collection), self._client.create_index, collection, index, sync=False)

    def load(self, collection: str) -> None:
        """Load a collection so that it can be read; returns at once if it is loaded."""
        self._call(self.about(collection), self._client.load_collection, collection)

    def describe(self, collection: str) -> Shape:
        """Ask Milvus for a collection's fields, metric, model and identity."""
        about = self._call(self.about(collection), self._client.describe_collection, collection)
        fields = {}
        for raw in about["fields"]:
            params = raw.get("params", {})
            kind = _TYPE_NAMES.get(int(raw["type"]), str(raw["type"]))
            fields[raw["name"]] = Field(
                name=raw["name"],
                type=kind,
                size=int(params.get("max_length", params.get("dim", 0))),
                nullable=bool(raw.get("nullable", False)),
            )
        metric = ""
        for name in self._call(self.about(collection), self._client.list_indexes, collection):
            index = self._call(
                self.about(collection), self._client.describe_index, collection, name
            )
            if index and index.get("field_name") == "vector":
                metric = str(index.get("metric_type", ""))
        properties = about.get("properties", {})
        description = _DESCRIPTION.fullmatch(str(about.get("description", "")))
        told = description.groupdict(default="") if description else {}
        model = str(properties.get(_MODEL_PROPERTY, "")) or told.get("model", "")
        identity = str(properties.get(_IDENTITY_PROPERTY, "")) or told.get("identity", "")
        return Shape(fields, metric, model, identity=identity)

    def add_field(self, collection: str, field: Field) -> None:
        """Add a nullable field; existing entities hold NULL in it.

        Written from pymilvus' documentation of Milvus 2.6; never run against such a server.
        """
        self._call(
            self.about(collection, f", new field '{field.name}'"),
            self._client.add_collection_field,
            collection,
            field_name=field.name,
            data_type=_TYPES[field.type],
            **_options(field, nullable=True),
        )

    def upsert(
        self, collection: str, rows: list[dict[str, Any]], refused: type[RowvecError]
    ) -> None:
        """Write rows in one request.

        Args:
            collection: The collection to write to.
            rows: Rows with every field.
            refused: The error to raise if Milvus understood the request and refused it.
        """
        # No retry here on a rate limit: the caller backs off, and holds no lock meanwhile.
        with self._turn_to_write(collection):
            self._call(
                self.about(collection, f", {len(rows)} entities"),
                self._client.upsert,
                collection,
                rows,
                refused=refused,
                retry_on_rate_limit=False,
            )

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Remove those of `ids` that exist."""
        for some in _chunks(ids, IDS_PER_REQUEST):
            with self._turn_to_write(collection):
                self._call(
                    self.about(collection, f", delete of {len(some)} ids"),
                    self._client.delete,
                    collection,
                    filter=id_filter(some),
                    retry_on_rate_limit=False,
                )

    def get(
        self,
        collection: str,
        ids: Sequence[str],
        fields: Sequence[str],
        per_request: int = IDS_PER_REQUEST,
    ) -> Iterator[dict[str, Any]]:
        """Read these fields of those of `ids` that exist."""
        for some in _chunks(ids, per_request):
            yield from self.query(collection, id_filter(some), fields)

    def query(
        self, collection: str, filter: str, fields: Sequence[str], *, window: bool = False
    ) -> list[dict[str, Any]]:
        """Read these fields of all matching entities.

        With `window`, a server returns only as many as fit one answer. Milvus Lite always returns
        all: it has no such limit, and a part would take nearly as long.
        """
        more: dict[str, Any] = {"limit": MAX_WINDOW} if window and not self.lite else {}
        rows = self._read(
            collection,
            self._client.query,
            filter=filter,
            output_fields=list(fields),
            consistency_level=_STRONG,
            **more,
        )
        return [dict(row) for row in rows]

    def pages(self, collection: str, fields: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Read every entity once, in no order, in pages that are not empty; "id" is always included."""
        names = list(dict.fromkeys(["id", *fields]))
        wide = not _WIDE_FIELDS.isdisjoint(names)
        per_page = WIDE_ROWS_PER_REQUEST if wide else _NARROW_ROWS_PER_PAGE
        if self.lite:
            # Lite sorts the whole collection for every page of an iterator, but does not limit the
            # size of an answer. So read all ids at once, then the rows by id.
            ids = [row["id"] for row in self.query(collection, "", ["id"])]
            for some in _chunks(ids, min(per_page, IDS_PER_REQUEST)):
                page = [{"id": one} for one in some]
                if names != ["id"]:
                    page = self.query(collection, id_filter(some), names)
                if page:
                    yield page
            return
        iterator = self._read(
            collection,
            self._client.query_iterator,
            batch_size=per_page,
            output_fields=names,
            consistency_level=_STRONG,
        )
        try:
            while page := self._call(self.about(collection), lambda timeout: iterator.next()):
                yield [dict(row) for row in page]
        finally:
            iterator.close()

    def search(
        self,
        collection: str,
        vector: Vector,
        limit: int,
        filter: str,
        fields: Sequence[str],
        refused: type[RowvecError],
    ) -> list[dict[str, Any]]:
        """Find the nearest entities, best first: each has "id", "distance", and fields in "entity".

        Args:
            collection: The collection to search.
            vector: float32 (dim,).
            limit: The most entities to return.
            filter: A boolean expression, "" for all.
            fields: Fields to return.
            refused: The error to raise if Milvus refuses the filter.
        """
        found = self._read(
            collection,
            self._client.search,
            data=[np.asarray(vector, dtype=np.float32)],
            anns_field="vector",
            limit=limit,
            filter=filter,
            refused=refused,
            output_fields=list(fields),
            consistency_level=_STRONG,
        )
        return list(found[0])

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
        **kwargs: Any,
    ) -> T:
        """Call pymilvus with the deadline, and translate its errors into Rowvec's.

        `refused` is the error for a request that Milvus understood and refused.
        """
        try:
            return function(*args, timeout=self._timeout, **kwargs)
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise_translated(error, subject, self._where, refused)

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


def _options(field: Field, *, nullable: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if field.type == "varchar":
        options["max_length"] = field.size
    elif field.type == "vector":
        options["dim"] = field.size
    if field.name == "id":
        options["is_primary"] = True
    elif nullable:
        options["nullable"] = True
    return options


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _at_least(version: str, wanted: tuple[int, int]) -> bool:
    """Whether a server has at least this version; one without a number is taken for a recent build."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return match is None or (int(match[1]), int(match[2])) >= wanted
