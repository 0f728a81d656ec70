"""The input and output of every peer, and the collection that it writes."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pymilvus import DataType, MilvusClient

from benchmarks.measuring import Clocks, Rate, clocks

COLLECTION = "docs"
_DIM = 384


@dataclass(frozen=True, slots=True)
class Job:
    """One topic of one partition, and the expected contents of the collection.

    Attributes:
        bootstrap_servers: Addresses of the broker.
        topic: Holds `events` records, all of them inserts and updates.
        events: Number of records; a peer ends when it has read them all.
        final: Primary key → text that the collection must hold at the end.
    """

    bootstrap_servers: str
    topic: str
    events: int
    final: Mapping[int, str]

    @property
    def consumer(self) -> dict[str, Any]:
        """Settings of a consumer, with a short wait, because the embedded broker holds every fetch."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "group.id": "peer",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 50,
        }


class Outcome(NamedTuple):
    """The result of a peer.

    Attributes:
        rate: Events per second.
        embedded: How many texts it embedded.
    """

    rate: Rate
    embedded: int


class Stopwatch:
    """Measures from the first record to the answer to the last write."""

    def __init__(self) -> None:
        self._began: Clocks | None = None
        self._ended: Clocks | None = None

    def record(self) -> None:
        """A record came."""
        if self._began is None:
            self._began = clocks()

    def written(self) -> None:
        """Milvus answered a write, or a write was committed."""
        self._ended = clocks()

    def rate(self, events: int) -> Rate:
        """Events per second."""
        assert self._began is not None, "no record came"
        assert self._ended is not None, "nothing was written"
        return Rate.of(events, self._began, self._ended)


def path_in(folder: Path) -> str:
    """The path of a peer's Milvus Lite."""
    return str(folder / "milvus.db")


def open_collection(folder: Path) -> MilvusClient:
    """A client of a new Milvus Lite with the empty collection."""
    client = MilvusClient(path_in(folder))
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=_DIM)
    schema.add_field("text", DataType.VARCHAR, max_length=65_535)
    schema.add_field("kind", DataType.VARCHAR, max_length=4_096)
    schema.add_field("size", DataType.INT64)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
    client.create_collection(COLLECTION, schema=schema, index_params=index)
    return client


def entities(rows: Iterable[Mapping[str, Any]], vectors: Iterable[Any]) -> list[dict[str, Any]]:
    """The entities of rows; the rows must be distinct, since a request may hold an id only once."""
    return [
        {
            "id": row["id"],
            "vector": vector,
            "text": row["doc"],
            "kind": row["kind"],
            "size": row["size"],
        }
        for row, vector in zip(rows, vectors, strict=True)
    ]


def check_collection(who: str, folder: Path, job: Job) -> None:
    """Read a peer's collection back, and fail if a row is wrong."""
    with closing(MilvusClient(path_in(folder))) as client:
        client.load_collection(COLLECTION)
        read = client.query(COLLECTION, ids=list(job.final), output_fields=["text"])
        found = {row["id"]: row["text"] for row in read}
        count = client.query(COLLECTION, output_fields=["count(*)"])[0]["count(*)"]
    check(who, job.final, found, count)


def check(who: str, expected: Mapping[Any, str], found: Mapping[Any, str], count: int) -> None:
    """Fail if a collection does not hold exactly the expected rows."""
    wrong = [id_ for id_, text in expected.items() if found.get(id_) != text]
    assert not wrong, f"{who}: {len(wrong)} rows are missing or wrong, like {wrong[0]}"
    assert len(found) == count == len(expected), f"{who}: {count} entities, not {len(expected)}"
