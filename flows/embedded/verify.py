"""Compares SQL and Milvus by a full scan of both."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.changes.events import KafkaPosition, Upsert
from operators.changes.row_key import RowKey
from operators.changes.rows import Row
from operators.changes.version import NO_POSITION, make_version
from operators.codec.row_keys import KeyMaker
from operators.contract.table import TableSection
from operators.milvus.store import MilvusStore
from operators.model.protocol import Embedder
from operators.rendering.renderer import Renderer
from operators.store.protocol import entity_id
from operators.toast.donor import joined

if TYPE_CHECKING:
    import psycopg


@dataclass(slots=True)
class Difference:
    """Differences between SQL and Milvus, as ids of entities.

    Attributes:
        rows: Number of SQL rows that belong into the collection.
        missing: In SQL, not in Milvus.
        surplus: In Milvus, but not in SQL, or with other chunks than the row should have.
        different: In both, but with another text or other columns.
        wrong_vectors: Sampled vectors that are not the embedding of their text.
        sampled: Number of vectors that were calculated again for comparison.
    """

    rows: int = 0
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    wrong_vectors: list[str] = field(default_factory=list)
    sampled: int = 0

    @property
    def equal(self) -> bool:
        """Whether there are no differences."""
        return not (self.missing or self.surplus or self.different or self.wrong_vectors)


def compare(
    connection: "psycopg.Connection",
    table: TableSection,
    store: MilvusStore,
    embedder: Embedder,
    *,
    vectors: int = 64,
) -> Difference:
    """Compare every row of an SQL table with every entity of its collection.

    Args:
        connection: Connection to the database. The topic's name ends in `schema.table`.
        table: The contract's table, the only one in its collection.
        store: Holds the collection.
        embedder: The contract's model.
        vectors: Number of vectors to calculate again.
    """
    expected = dict(_rendered(connection, table))
    found = Difference(rows=len(expected))
    columns = list(table.fields().values())
    fields = ["text", "rv_row_key", "rv_chunk", "rv_chunks", "rv_start", *columns]
    stored: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for entity in store.scan(table.collection, fields):
        stored[entity["rv_row_key"]].append(entity)
    for key, entities in stored.items():
        entities.sort(key=lambda entity: int(entity["rv_chunk"]))
        row, first = expected.get(RowKey(key)), entities[0]
        if row is None or [e["rv_chunk"] for e in entities] != list(range(first["rv_chunks"])):
            found.surplus += [entity["id"] for entity in entities]
            continue
        text = joined((entity["rv_start"], entity["text"]) for entity in entities)
        kept = ({name: entity[name] for name in columns} for entity in entities)
        if row.text != text or any(each != row.columns for each in kept):
            found.different.append(first["id"])
    found.missing = sorted(entity_id(key) for key in expected.keys() - stored.keys())
    texts = {e["id"]: e["text"] for key in expected.keys() & stored.keys() for e in stored[key]}
    chosen = sorted(texts)[:: max(1, len(texts) // max(1, vectors))][:vectors]
    if chosen:
        made = embedder.embed([texts[id_] for id_ in chosen])
        held = store.vectors(table.collection, chosen)
        for id_, vector in zip(chosen, made, strict=True):
            if float(np.dot(held[id_][1], vector)) < 0.999 * float(np.dot(vector, vector)):
                found.wrong_vectors.append(id_)
    found.sampled = len(chosen)
    return found


def _rendered(
    connection: "psycopg.Connection", table: TableSection
) -> Iterator[tuple[RowKey, Row]]:
    from psycopg import sql

    schema, name = table.topic.split(".")[-2:]
    renderer, make_key = Renderer(table), KeyMaker(table)
    nowhere = KafkaPosition(table.topic, 0, 0)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("select * from {}").format(sql.Identifier(schema, name)))
        names = [column.name for column in cursor.description or ()]
        for values in cursor:
            row = dict(zip(names, values, strict=True))
            key = make_key({k: row[k] for k in table.key})
            upsert = Upsert(key, make_version(0, NO_POSITION, 0), nowhere, 0, "r", row)
            rendered = renderer.render(upsert)
            if isinstance(rendered, Row):
                yield key, rendered
