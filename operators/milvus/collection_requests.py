"""Requests about collections: create, describe, load, add a field."""

import re
import uuid
from typing import Any

from pymilvus import DataType, MilvusClient

from operators.errors import FatalError, RetriableError, RowvecError
from operators.milvus.connection import Connection
from operators.milvus.schema import TTL_PROPERTY, Field, Shape
from operators.store.protocol import Fence, FoundCollection

STRONG = "Strong"
"""The consistency level of every collection and every read."""

_MODEL_PROPERTY = "rowvec.model"

_MODEL_DESCRIPTION = "Kept equal to SQL tables by Rowvec; vectors by "

_OTHER_DESCRIPTION = "Rowvec's own: no vectors to search for, and nothing to change by hand"

_IDENTITY_PROPERTY = "rowvec.identity"

_DESCRIPTION = re.compile(
    re.escape(_MODEL_DESCRIPTION) + r"(?P<model>.*?)(?:; collection (?P<identity>[0-9a-f]{32}))?",
    re.DOTALL,
)

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

_NO_COLLECTION = 100

_OLD_NO_COLLECTION = "can't find collection"  # servers before 2.3.2 have no code for it

_TYPE_NAMES = {int(kind): name for name, kind in _TYPES.items()}


class CollectionRequests(Connection):
    """A connection that can create, describe and change collections.

    Threads may share it; see `Connection`.
    """

    def has_collection(self, collection: str) -> bool:
        """Whether a collection of this name exists."""
        return bool(self._call(self.about(collection), self._client.has_collection, collection))

    def find(self, name: str) -> FoundCollection | None:
        """The collection that a name or an alias stands for now; None if there is none."""
        try:
            about = self._call(self.about(name), self._client.describe_collection, name)
        except FatalError as error:
            if getattr(error.__cause__, "code", None) == _NO_COLLECTION:
                return None
            raise
        except RetriableError as error:
            if _OLD_NO_COLLECTION in error.cause:
                return None
            raise
        _, identity = _model_and_identity(about)
        return FoundCollection(str(about["collection_name"]), identity)

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
            creates=True,
            consistency_level=STRONG,
            properties={_MODEL_PROPERTY: shape.model, _IDENTITY_PROPERTY: identity},
        )

    def create_index(self, collection: str, metric: str) -> None:
        """Create the index over the vectors; returns before it is built."""
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type=metric)
        # sync=False, because pymilvus would wait without a deadline; loading waits for the index.
        self._call(
            self.about(collection),
            self._client.create_index,
            collection,
            index,
            creates=True,
            sync=False,
        )

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
        model, identity = _model_and_identity(about)
        lifetime = str(about.get("properties", {}).get(TTL_PROPERTY, "0"))
        expires_s = int(lifetime) if lifetime.isdecimal() else 0
        return Shape(fields, metric, model, identity=identity, expires_s=expires_s)

    def add_field(self, collection: str, field: Field, fence: Fence) -> None:
        """Add a nullable field, inside a context of `fence`; existing entities hold NULL in it.

        Written from pymilvus' documentation of Milvus 2.6; never run against such a server.
        """
        with fence():  # guard: fence-field
            self._call(
                self.about(collection, f", new field '{field.name}'"),
                self._client.add_collection_field,
                collection,
                field_name=field.name,
                data_type=_TYPES[field.type],
                creates=True,
                **_options(field, nullable=True),
            )


def _model_and_identity(about: dict[str, Any]) -> tuple[str, str]:
    """What a collection's description says: the model, and the identity of `VectorStore.identity`."""
    properties = about.get("properties", {})
    description = _DESCRIPTION.fullmatch(str(about.get("description", "")))
    recorded = description.groupdict(default="") if description else {}
    model = str(properties.get(_MODEL_PROPERTY, "")) or recorded.get("model", "")
    identity = str(properties.get(_IDENTITY_PROPERTY, "")) or recorded.get("identity", "")
    number = about.get("collection_id")  # Lite says 0 for all of them
    return model, f"{identity}@{number}" if number else identity  # guard: identity-of-the-server


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
