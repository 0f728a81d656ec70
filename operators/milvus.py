"""`VectorStore` over Milvus: a server by URI, or Milvus Lite by path.

The only import of pymilvus. What may go into a collection is in `milvus_schema`, what an error
means in `milvus_errors`, how Milvus Lite is served in `milvus_embedded`.
"""

import ipaddress
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from operators.contract import MilvusSection
from operators.errors import FatalError, RecordError, RetriableError, RowvecError
from operators.events import RowKey, Version
from operators.milvus_embedded import close_directory, open_directory
from operators.milvus_errors import raise_translated
from operators.milvus_schema import (
    Field,
    Shape,
    check_shape,
    id_filter,
    mirrored,
    requests,
    shape_of,
    to_rows,
)
from operators.store import CollectionSpec, Entity, Hit, Stored, Vector

MAX_HITS = 16_384
"""Servers answer no larger window."""

_DEFAULT_TOKEN = "root:Milvus"  # noqa: S105
_IDS_PER_REQUEST = 4_096
_WIDE_ROWS_PER_REQUEST = 1_000
"""Rows with a text of 64 KiB, or a vector of 4,096: an answer of some tens of MiB at most."""

_MODEL_PROPERTY = "rowvec.model"
_MODEL_DESCRIPTION = "Kept equal to SQL tables by Rowvec; vectors by "
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


class MilvusStore:
    """Collections in Milvus. Safe to share between threads, `max_writers` of which may write.

    Every request has the deadline `request_timeout_s`. The client's own retries end with it, so a
    call that finds no server fails at once, and one that finds a sick server within twice the
    deadline. Backing off and trying again is the caller's.

    Args:
        section: Where Milvus is, and the credentials.

    Raises:
        FatalError: It can never work like this: a directory that another process holds, refused or
            default credentials, an address that is no address.
        RetriableError: Nothing answers there now.
    """

    def __init__(self, section: MilvusSection) -> None:
        # Every error is raised; the client would log it as well, with what the server said of the
        # data, through a handler of its own.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._timeout = section.request_timeout_s
        self._shapes: dict[str, Shape] = {}
        self._lite_path: str | None = None
        if "://" not in section.uri:
            self._lite_path = str(Path(section.uri).expanduser().resolve())
            uri, token, where = open_directory(self._lite_path), "", f"Milvus Lite '{section.uri}'"
        else:
            uri, token, where = _server_address(section)
        self._where = where
        options: dict[str, Any] = (
            {"server_pem_path": str(section.ca_file)} if section.ca_file else {}
        )
        try:
            # Dedicated: a shared connection would outlive close().
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
        self._lite = self.version.startswith("milvus_lite")
        self.nullable = self._lite or _modern(self.version)
        """Whether a new collection can hold NULL; where not, NULL becomes the type's zero value."""

    @property
    def max_writers(self) -> int | None:
        """1 for Milvus Lite, by path or as a server: it loses rows of concurrent writers."""
        return 1 if self._lite else None

    def ensure(self, spec: CollectionSpec) -> bool:
        """See `VectorStore.ensure`. A creation that a crash cut short is completed."""
        # Processes of one flow start together: what this one does not find, another may be making.
        if not self._has(spec.name):
            try:
                self._create(spec)
            except RowvecError:
                if not self._has(spec.name):
                    raise
        wanted, found = shape_of(spec), self._describe(spec.name)
        if not found.metric:
            try:
                self._index(spec)
            except RowvecError:
                if not self._describe(spec.name).metric:
                    raise
            found = self._describe(spec.name)
        check_shape(spec.name, wanted, found)
        self._load(spec.name)
        self._shapes[spec.name] = found
        return self.count(spec.name) == 0

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        """See `VectorStore.stored`."""
        return {
            row["id"]: Stored(Version(row["rv_version"]), row["rv_text_hash"])
            for row in self._get(collection, ids, ["id", "rv_version", "rv_text_hash"])
        }

    def vectors(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        """See `VectorStore.vectors`."""
        return {
            row["id"]: (row["rv_text_hash"], np.asarray(row["vector"], dtype=np.float32))
            for row in self._get(
                collection, ids, ["id", "rv_text_hash", "vector"], _WIDE_ROWS_PER_REQUEST
            )
        }

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        """See `VectorStore.upsert`. Nothing is sent if one entity of the call cannot be stored."""
        shape = self._shapes.get(collection)
        if shape is None:
            raise FatalError(
                subject=self._about(collection),
                cause="was not checked before the first write",
                hint="This is a bug in Rowvec: call `ensure` first",
            )
        for rows in requests(to_rows(entities, shape, json_arrays=self.nullable)):
            try:
                # A rate limit goes to the caller, who backs off without holding the request.
                self._call(
                    self._about(collection, f", {len(rows)} entities"),
                    self._client.upsert,
                    collection,
                    rows,
                    refused=RecordError,
                    retry_on_rate_limit=False,
                )
            except RecordError:
                # The rows passed every check against this shape. Refused all the same, the likely
                # culprit is a collection that was made anew with another one, and no record.
                check_shape(collection, shape, self._describe(collection))
                raise

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """See `VectorStore.delete`."""
        for chunk in _chunks(ids, _IDS_PER_REQUEST):
            self._call(
                self._about(collection, f", delete of {len(chunk)} ids"),
                self._client.delete,
                collection,
                filter=id_filter(chunk),
                retry_on_rate_limit=False,
            )

    def count(self, collection: str) -> int:
        """See `VectorStore.count`."""
        rows = self._query(collection, "", ["count(*)"])
        return int(rows[0]["count(*)"])

    def search(
        self,
        collection: str,
        vector: Vector,
        limit: int,
        filter: str = "",
        fields: Sequence[str] | None = None,
    ) -> list[Hit]:
        """The entities nearest to `vector`, best first.

        Args:
            collection: A collection of Rowvec's.
            vector: float32 (dim,).
            limit: 1 to `MAX_HITS`.
            filter: A boolean expression in Milvus' own language; "" for all. The user's own:
                nothing from the data may be spliced into it.
            fields: Mirrored columns to return; None for all.

        Raises:
            FatalError: There is no such collection, the vector does not fit it, or the filter does
                not parse.
        """
        shape = self._read_shape(collection)
        dim = shape.fields["vector"].size
        if vector.shape != (dim,) or not 1 <= limit <= MAX_HITS:
            raise FatalError(
                subject=self._about(collection),
                cause=f"cannot be searched for {limit} hits with a vector of {vector.shape[-1]} "
                f"dimensions: it holds {dim}, and the limit is 1 to {MAX_HITS}",
                hint="Search with the model that filled the collection",
            )
        columns = mirrored(list(shape.fields)) if fields is None else list(fields)
        try:
            found = self._read(
                collection,
                self._client.search,
                data=[np.asarray(vector, dtype=np.float32)],
                anns_field="vector",
                limit=limit,
                filter=filter,
                refused=RecordError,
                output_fields=["id", "text", "rv_table", "rv_row_key", "rv_version", *columns],
                consistency_level=_STRONG,
            )
        except RecordError as error:
            raise FatalError(
                subject=f"filter '{filter}'" if filter else error.subject,
                cause=f"is refused: {error.cause}",
                hint=f"The fields are {', '.join(sorted(shape.fields))}",
            ) from error
        hits = []
        for hit in found[0]:
            row = hit["entity"]
            hits.append(
                Hit(
                    id=str(hit["id"]),
                    score=float(hit["distance"]),
                    text=row["text"],
                    columns={name: row[name] for name in columns},
                    table=row["rv_table"],
                    row_key=RowKey(row["rv_row_key"]),
                    version=Version(row["rv_version"]),
                )
            )
        return hits

    def scan(
        self, collection: str, fields: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Every entity of a collection once, in no order, read by pages.

        It sees every write that was acknowledged before it began. "id" is always returned.

        Args:
            collection: A collection of Rowvec's.
            fields: What to return; None for every field but the vector.
        """
        shape = self._read_shape(collection)
        wanted = [f for f in shape.fields if f != "vector"] if fields is None else fields
        names = list(dict.fromkeys(["id", *wanted]))
        wide = not {"vector", "text"}.isdisjoint(names)
        if self._lite:
            # Lite sorts the whole collection for every page of an iterator, but has no limit on the
            # size of an answer: take all ids at once, then the rows by id.
            ids = [row["id"] for row in self._query(collection, "", ["id"])]
            if names == ["id"]:
                yield from ({"id": one} for one in ids)
            else:
                yield from self._get(collection, ids, names, _WIDE_ROWS_PER_REQUEST)
            return
        iterator = self._read(
            collection,
            self._client.query_iterator,
            batch_size=_WIDE_ROWS_PER_REQUEST if wide else 10_000,
            output_fields=names,
            consistency_level=_STRONG,
        )
        try:
            while page := self._call(self._about(collection), lambda timeout: iterator.next()):
                yield from (dict(row) for row in page)
        finally:
            iterator.close()

    def close(self) -> None:
        """Release the connection, and the directory of Milvus Lite; a second call does nothing."""
        client, self._client = getattr(self, "_client", None), None
        if client is not None:
            client.close()
        path, self._lite_path = self._lite_path, None
        if path is not None:
            close_directory(path)

    def _about(self, collection: str, what: str = "") -> str:
        return f"collection '{collection}' at {self._where}{what}"

    def _call(
        self,
        subject: str,
        function: Callable[..., T],
        *args: Any,
        refused: type[RowvecError] = FatalError,
        **kwargs: Any,
    ) -> T:
        """Call the client with the deadline; what it raises becomes one of ours.

        `refused` is what a request becomes that Milvus understood and did not accept.
        """
        try:
            return function(*args, timeout=self._timeout, **kwargs)
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise_translated(error, subject, self._where, refused)

    def _has(self, collection: str) -> bool:
        return bool(self._call(self._about(collection), self._client.has_collection, collection))

    def _create(self, spec: CollectionSpec) -> None:
        schema = MilvusClient.create_schema(
            auto_id=False,
            enable_dynamic_field=False,
            description=f"{_MODEL_DESCRIPTION}{spec.model}",
        )
        for field in shape_of(spec).fields.values():
            options: dict[str, Any] = {}
            if field.type == "varchar":
                options["max_length"] = field.size
            elif field.type == "vector":
                options["dim"] = field.size
            if field.name == "id":
                options["is_primary"] = True
            elif field.nullable and self.nullable:
                options["nullable"] = True
            schema.add_field(field.name, _TYPES[field.type], **options)
        # The model is written twice: Lite forgets descriptions, old servers forget properties.
        self._call(
            self._about(spec.name),
            self._client.create_collection,
            spec.name,
            schema=schema,
            consistency_level=_STRONG,
            properties={_MODEL_PROPERTY: spec.model},
        )

    def _index(self, spec: CollectionSpec) -> None:
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type=spec.metric)
        # Not waited for: the client would wait without a deadline, and loading waits anyway.
        self._call(self._about(spec.name), self._client.create_index, spec.name, index, sync=False)

    def _load(self, collection: str) -> None:
        self._call(self._about(collection), self._client.load_collection, collection)

    def _describe(self, collection: str) -> Shape:
        about = self._call(self._about(collection), self._client.describe_collection, collection)
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
        for name in self._call(self._about(collection), self._client.list_indexes, collection):
            index = self._call(
                self._about(collection), self._client.describe_index, collection, name
            )
            if index and index.get("field_name") == "vector":
                metric = str(index.get("metric_type", ""))
        description = str(about.get("description", ""))
        model = str(about.get("properties", {}).get(_MODEL_PROPERTY, ""))
        if not model and description.startswith(_MODEL_DESCRIPTION):
            model = description.removeprefix(_MODEL_DESCRIPTION)
        return Shape(fields, metric, model)

    def _read_shape(self, collection: str) -> Shape:
        shape = self._shapes.get(collection) or self._describe(collection)
        if not {"vector", "text", "rv_row_key"} <= shape.fields.keys():
            raise FatalError(
                subject=self._about(collection),
                cause="was not made by Rowvec",
                hint="Name a collection of the contract",
            )
        return shape

    def _get(
        self,
        collection: str,
        ids: Sequence[str],
        fields: list[str],
        per_request: int = _IDS_PER_REQUEST,
    ) -> Iterator[dict[str, Any]]:
        for chunk in _chunks(ids, per_request):
            yield from self._query(collection, id_filter(chunk), fields)

    def _query(self, collection: str, filter: str, fields: list[str]) -> list[dict[str, Any]]:
        rows = self._read(
            collection,
            self._client.query,
            filter=filter,
            output_fields=fields,
            consistency_level=_STRONG,
        )
        return [dict(row) for row in rows]

    def _read(self, collection: str, function: Callable[..., T], **kwargs: Any) -> T:
        """Call a reading function; a collection that is not loaded is loaded first.

        Not beforehand: a user who may only read has no right to load.
        """
        subject = self._about(collection)
        try:
            return self._call(subject, function, collection, **kwargs)
        except RetriableError as error:
            if getattr(error.__cause__, "code", None) != _NOT_LOADED:
                raise
        self._load(collection)
        return self._call(subject, function, collection, **kwargs)


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _modern(version: str) -> bool:
    """2.5 and later hold NULL and JSON arrays; a version that is no number is a recent build."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return match is None or (int(match[1]), int(match[2])) >= (2, 5)


def _server_address(section: MilvusSection) -> tuple[str, str, str]:
    """URI, token, and how to call the server in messages."""
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
    return section.uri, token, where


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
