"""Fakes of the model, the vector store and the ledger, which keep the promises of their protocols."""

import ast
import hashlib
import json
import operator
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from operators.changes.row_key import RowKey
from operators.changes.shards import shard_of
from operators.changes.vector import Vector
from operators.changes.version import Version, other_table, place_of_partition
from operators.contract.table import ColumnSpec
from operators.errors import FatalError
from operators.milvus.filters import check_ids, check_shards, check_version
from operators.milvus.ledger_rows import ledger_rows
from operators.milvus.rows import to_entity, to_rows
from operators.milvus.schema import (
    Shape,
    cannot_add,
    check_shape,
    collection_shape,
    column_specs,
    mirrored,
    missing_field,
)
from operators.store.protocol import CollectionSpec, Entity, Fence, FoundCollection, Hit, Stored


class HashEmbedder:
    """An `Embedder` that draws unit vectors from the SHA-256 of the text; its tokens are words.

    Attributes:
        calls: The number of distinct texts in each call of `embed`, in order.
        tokens_total: How many words it has read so far; nothing is padded.
    """

    model = "hash@1"
    max_length = 10**6
    max_batch_tokens = 1_024
    calls_at_once = 1

    def __init__(self, dim: int = 8) -> None:
        self.dim = dim
        self.calls: list[int] = []
        self.tokens_total = 0
        self.padded_tokens_total = 0

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = {text: self._vector(text) for text in texts}
        self.calls.append(len(vectors))
        self.tokens_total += sum(len(text.split()) for text in vectors)
        self.padded_tokens_total = self.tokens_total
        return np.array([vectors[text] for text in texts], np.float32).reshape(-1, self.dim)

    def chunks(self, text: str, max_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
        words = [match.start() for match in re.finditer(r"\S+", text)]
        words[:1] = [0]
        firsts = range(0, max(1, len(words) - overlap_tokens), max_tokens - overlap_tokens)
        return [(words[i], [*words, len(text)][min(i + max_tokens, len(words))]) for i in firsts]

    def _vector(self, text: str) -> npt.NDArray[np.float32]:
        # Property tests draw lone surrogates, which plain UTF-8 cannot encode.
        seed = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        vector = np.random.default_rng(list(seed)).standard_normal(self.dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


@dataclass
class _Collection:
    shape: Shape
    identity: str
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)


class Applied(NamedTuple):
    """One entity that was written to or removed from a `MemoryStore`; a delete has no version."""

    collection: str
    op: str
    id: str
    version: str


class MemoryStore:
    """A `VectorStore` in a dict, with the checks and errors of `MilvusStore`.

    Attributes:
        history: Every entity that was upserted or deleted, in order.
    """

    nullable = True

    def __init__(
        self,
        max_writers: int | None = None,
        *,
        can_add_fields: bool = True,
        new_identity: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self.max_writers = max_writers
        self.can_add_fields = can_add_fields
        self._new_identity = new_identity
        self.history: list[Applied] = []
        self._collections: dict[str, _Collection] = {}
        self._aliases: dict[str, str] = {}
        self._ensured: set[str] = set()
        self._failures: list[tuple[Exception, str | None, bool]] = []
        self._lock = threading.Lock()

    def fail_next(
        self, error: Exception, operation: str | None = None, *, applied: bool = False
    ) -> None:
        """Make the next call, or the next call of `operation`, raise; several failures queue up.

        With `applied` it raises after the operation was applied, like a request whose answer was lost.
        """
        self._failures.append((error, operation, applied))

    def ensure(self, spec: CollectionSpec) -> bool:
        with self._operation("ensure"):
            wanted = collection_shape(spec)
            if spec.name not in self._collections:
                self._collections[spec.name] = _Collection(wanted, self._new_identity())
            kept = self._collections[spec.name]
            kept.shape = check_shape(spec.name, wanted, kept.shape)
            self._ensured.add(spec.name)
            return not kept.rows

    def fields(self, collection: str) -> dict[str, ColumnSpec]:
        with self._operation("fields"):
            return column_specs(self._get(collection).shape)

    def add_field(self, collection: str, name: str, spec: ColumnSpec) -> None:
        with self._operation("add_field"):
            kept = self._get_ensured(collection)
            field = missing_field(collection, kept.shape, name, spec)
            if field is None:
                return
            if not self.can_add_fields:
                raise cannot_add(collection, name, "this store")
            kept.shape = replace(kept.shape, fields={**kept.shape.fields, name: field})
            for row in kept.rows.values():
                row[name] = None

    def stored(self, collection: str, ids: Sequence[str]) -> dict[str, Stored]:
        with self._operation("stored"):
            check_ids(ids)
            rows = self._get(collection).rows
            return {
                i: Stored(
                    Version(rows[i]["rv_version"]),
                    rows[i]["rv_text_hash"],
                    rows[i]["rv_chunks"],
                    place_of_partition(rows[i]["rv_topic"], rows[i]["rv_partition"]),
                )
                for i in ids
                if i in rows
            }

    def vectors(self, collection: str, ids: Sequence[str]) -> dict[str, tuple[str, Vector]]:
        with self._operation("vectors"):
            check_ids(ids)
            rows = self._get(collection).rows
            return {
                i: (rows[i]["rv_text_hash"], rows[i]["vector"].copy()) for i in ids if i in rows
            }

    def entities(self, collection: str, ids: Sequence[str]) -> dict[str, Entity]:
        with self._operation("entities"):
            check_ids(ids)
            kept = self._get(collection)
            return {i: to_entity(self._read(kept, kept.rows[i])) for i in ids if i in kept.rows}

    def upsert(self, collection: str, entities: Sequence[Entity]) -> None:
        with self._operation("upsert"):
            kept = self._get_ensured(collection)
            for row, _ in to_rows(entities, kept.shape, json_arrays=True):
                kept.rows[row["id"]] = {**row, "vector": row["vector"].copy()}
                self.history.append(Applied(collection, "upsert", row["id"], row["rv_version"]))

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        with self._operation("delete"):
            check_ids(ids)
            rows = self._get(collection).rows
            for one in ids:
                rows.pop(one, None)
                self.history.append(Applied(collection, "delete", one, ""))

    def delete_older(
        self,
        collection: str,
        table: str,
        version: Version,
        shards: Collection[int] | None = None,
    ) -> None:
        with self._operation("delete_older"):
            check_version(version)
            check_shards(shards or ())
            rows = self._get(collection).rows
            for one, row in list(rows.items()):
                shard = int(shard_of(row["rv_row_key"]))
                mine = shards is None or shard in shards
                held = row["rv_version"]
                older = held < version and not other_table(held, version)
                if mine and row["rv_table"] == table and older:
                    del rows[one]
                    self.history.append(Applied(collection, "delete", one, ""))

    def count(self, collection: str) -> int:
        with self._operation("count"):
            return len(self._get(collection).rows)

    def identity(self, collection: str) -> str:
        with self._operation("identity"):
            return self._get(collection).identity

    def find(self, name: str) -> FoundCollection | None:
        with self._operation("find"):
            own_name = self._aliases.get(name, name)
            kept = self._collections.get(own_name)
            return None if kept is None else FoundCollection(own_name, kept.identity)

    # What an operator might do; the protocol `VectorStore` has no such methods.

    def drop(self, collection: str) -> None:
        with self._lock:
            del self._collections[collection]

    def rename(self, collection: str, name: str) -> None:
        with self._lock:
            self._collections[name] = self._collections.pop(collection)
            renamed = {a: name if c == collection else c for a, c in self._aliases.items()}
            self._aliases = renamed

    def set_alias(self, collection: str, alias: str) -> None:
        with self._lock:
            self._aliases[alias] = collection

    def search(
        self,
        collection: str,
        vector: Vector,
        limit: int,
        filter: str = "",
        fields: Sequence[str] | None = None,
    ) -> list[Hit]:
        with self._operation("search"):
            kept = self._get(collection)
            dim = kept.shape.fields["vector"].size
            if vector.shape != (dim,):
                raise FatalError(
                    subject=f"collection '{collection}'",
                    cause=f"has {dim} dimensions, not {vector.shape[-1]}",
                )
            names = mirrored(list(kept.shape.fields)) if fields is None else list(fields)
            matches = _compiled(filter, kept.shape)
            hits = []
            for stored in kept.rows.values():
                row = self._read(kept, stored)
                if matches(row):
                    hits.append(
                        Hit(
                            id=row["id"],
                            score=_score(kept.shape.metric, vector, row["vector"]),
                            text=row["text"],
                            columns={name: row[name] for name in names},
                            table=row["rv_table"],
                            row_key=RowKey(row["rv_row_key"]),
                            version=Version(row["rv_version"]),
                        )
                    )
            hits.sort(key=lambda hit: hit.score, reverse=kept.shape.metric != "L2")
            return hits[:limit]

    def scan(
        self, collection: str, fields: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        with self._operation("scan"):
            kept = self._get(collection)
            names = [f for f in kept.shape.fields if f != "vector"] if fields is None else fields
            rows = [self._read(kept, row) for row in kept.rows.values()]
        return iter([{name: row[name] for name in dict.fromkeys(["id", *names])} for row in rows])

    def close(self) -> None:
        pass

    def _operation(self, name: str) -> AbstractContextManager[None]:
        return _failing(self._lock, self._failures, name)

    def _get(self, collection: str) -> _Collection:
        try:
            return self._collections[self._aliases.get(collection, collection)]
        except KeyError:
            raise FatalError(subject=f"collection '{collection}'", cause="does not exist") from None

    def _get_ensured(self, collection: str) -> _Collection:
        if collection not in self._ensured:
            raise FatalError(subject=f"collection '{collection}'", cause="was not checked")
        return self._get(collection)

    @staticmethod
    def _read(kept: _Collection, row: dict[str, Any]) -> dict[str, Any]:
        return {
            name: json.loads(value)
            if value is not None and kept.shape.fields[name].type == "json"
            else value
            for name, value in row.items()
        }


class MemoryLedger:
    """A `LedgerStore` in a dict, with the checks and errors of `MilvusLedger`.

    Attributes:
        entries: Key → entry.
    """

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self._failures: list[tuple[Exception, str | None, bool]] = []
        self._lock = threading.Lock()

    def fail_next(
        self, error: Exception, operation: str | None = None, *, applied: bool = False
    ) -> None:
        """See `MemoryStore.fail_next`; the operations are "read" and "write"."""
        self._failures.append((error, operation, applied))

    def read(self) -> dict[str, str]:
        with _failing(self._lock, self._failures, "read"):
            return dict(self.entries)

    def write(self, entries: Mapping[str, str], fence: Fence = nullcontext) -> None:
        with fence(), _failing(self._lock, self._failures, "write"):
            self.entries |= {row["id"]: row["body"] for row, _ in ledger_rows(entries)}


@contextmanager
def _failing(
    lock: threading.Lock, failures: list[tuple[Exception, str | None, bool]], operation: str
) -> Iterator[None]:
    """Hold the lock, and raise the first failure queued for this operation."""
    with lock:
        planned = next((f for f in failures if f[1] in (None, operation)), None)
        if planned is not None:
            failures.remove(planned)
            if not planned[2]:
                raise planned[0]
        yield
        if planned is not None:
            raise planned[0]


def _score(metric: str, a: Vector, b: Vector) -> float:
    match metric:
        case "IP":
            return float(a @ b)
        case "L2":
            return float(((a - b) ** 2).sum())
        case _:
            return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def _compiled(text: str, shape: Shape) -> Callable[[dict[str, Any]], bool]:
    """Compile a Milvus filter, limited to the syntax that Python's expressions share."""

    def value(node: ast.expr, row: dict[str, Any]) -> Any:
        match node:
            case ast.BoolOp(op=ast.And(), values=parts):
                return all(value(part, row) for part in parts)
            case ast.BoolOp(values=parts):
                return any(value(part, row) for part in parts)
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return not value(part, row)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                a, b = value(left, row), value(right, row)
                return a is not None and b is not None and _COMPARE[type(op)](a, b)
            case ast.Name(id=name):
                return row[name]
            case ast.List(elts=parts):
                return [value(part, row) for part in parts]
            case ast.Constant(value=constant):
                return constant
        raise FatalError(subject=f"filter '{text}'", cause="is refused: not understood")

    if not text:
        return lambda row: True
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise FatalError(subject=f"filter '{text}'", cause=f"is refused: {error.msg}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in shape.fields:
            raise FatalError(subject=f"filter '{text}'", cause=f"is refused: no field '{node.id}'")
    return lambda row: bool(value(tree, row))
