"""Whether Milvus equals SQL, by a full scan of both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from operators import debezium
from operators.embedding import Embedder
from operators.events import KafkaPosition, Upsert, make_version
from operators.milvus import MilvusStore
from operators.rendering import Renderer
from operators.store import entity_id
from operators.table import TableSection

if TYPE_CHECKING:
    import psycopg


@dataclass(slots=True)
class Difference:
    """What a full scan found; entity ids, sorted.

    Attributes:
        rows: Rows in SQL.
        missing: In SQL, not in Milvus.
        surplus: In Milvus, not in SQL, or more than once.
        different: In both, with another text or other columns.
        wrong_vectors: Among those sampled, vectors that are not the embedding of their text.
        sampled: How many vectors were made again to compare.
    """

    rows: int = 0
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    wrong_vectors: list[str] = field(default_factory=list)
    sampled: int = 0

    @property
    def equal(self) -> bool:
        """Nothing was found."""
        return not (self.missing or self.surplus or self.different or self.wrong_vectors)


def compare(
    connection: "psycopg.Connection",
    table: TableSection,
    store: MilvusStore,
    embedder: Embedder,
    *,
    vectors: int = 64,
) -> Difference:
    """Hold every row of the SQL table against every entity of its collection.

    Args:
        connection: To the database; the table is `schema.table` as the topic's name ends.
        table: The contract's table, alone in its collection.
        store: Where the collection is.
        embedder: The contract's model.
        vectors: How many vectors to make again.
    """
    expected = dict(_rendered(connection, table))
    found = Difference(rows=len(expected))
    seen: set[str] = set()
    columns = list(table.fields().values())
    for entity in store.scan(table.collection, ["text", *columns]):
        id_ = entity["id"]
        if id_ not in expected or id_ in seen:
            found.surplus.append(id_)
        elif expected[id_] != (entity["text"], {name: entity[name] for name in columns}):
            found.different.append(id_)
        seen.add(id_)
    found.missing = sorted(expected.keys() - seen)
    chosen = sorted(expected.keys() & seen)[:: max(1, len(expected) // max(1, vectors))][:vectors]
    if chosen:
        made = embedder.embed([expected[id_][0] for id_ in chosen])
        stored = store.vectors(table.collection, chosen)
        for id_, vector in zip(chosen, made, strict=True):
            if float(np.dot(stored[id_][1], vector)) < 0.999 * float(np.dot(vector, vector)):
                found.wrong_vectors.append(id_)
    found.sampled = len(chosen)
    return found


def _rendered(
    connection: "psycopg.Connection", table: TableSection
) -> Iterator[tuple[str, tuple[str, Mapping[str, Any]]]]:
    from psycopg import sql

    schema, name = table.topic.split(".")[-2:]
    renderer = Renderer(table)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("select * from {}").format(sql.Identifier(schema, name)))
        names = [column.name for column in cursor.description or ()]
        for values in cursor:
            row = dict(zip(names, values, strict=True))
            key = debezium.row_key(table, orjson.dumps({k: row[k] for k in table.key}))
            nowhere = KafkaPosition(table.topic, 0, 0)
            rendered = renderer.render(
                Upsert(key, make_version(0, (0, 0), 0), nowhere, 0, "r", row)
            )
            yield entity_id(key), (rendered.text, rendered.columns)
