"""The tables that histories use, each with its contract, and the chunks of their texts."""

from dataclasses import dataclass
from functools import lru_cache

from flows.sync import rules_of
from operators.changes.row_key import RowKey
from operators.contract.sections import Contract
from operators.contract.table import TableSection
from operators.rendering.renderer import Rules
from operators.store.protocol import entity_id
from tests.changes import contract, table
from tests.fakes import HashEmbedder

CHUNK, OVERLAP = 8, 2
_CHUNKS = {"max_tokens": CHUNK, "overlap_tokens": OVERLAP}


@dataclass(frozen=True, eq=False)
class Table:
    """A table with its contract and its decoder. Immutable."""

    section: TableSection
    contract: Contract
    rules: dict[str, Rules]

    @property
    def chunked(self) -> bool:
        return self.section.chunks is not None

    @property
    def flagged(self) -> bool:
        """Whether its rows have a soft-delete column."""
        return self.section.soft_delete is not None


def table_of(section: TableSection) -> Table:
    """A table with a contract of its own."""
    made = contract().model_copy(update={"tables": (section,)})
    return Table(section, made, rules_of(made))


PLAIN = table_of(table())
CHUNKED = table_of(table(chunks=_CHUNKS))
FILTERED = table_of(
    table(chunks=_CHUNKS, filter=[{"column": "kind", "equals": "page"}], soft_delete="gone")
)
"""A table that shows pages, and hides drafts and soft-deleted rows."""


def in_parts(table: Table, *, servers: bool = False) -> Table:
    """The table, if several physical tables of its topic are its parts, perhaps of several servers.

    Each run gets its own, because the decoder remembers which tables it has met in the topic.
    """
    pattern = "shard_*/db.public.docs" if servers else "db.public.docs_*"
    section = table.section.model_copy(update={"source_tables": (pattern,)})
    return table_of(section)


def id_of(row: int, chunk: int = 0) -> str:
    """Entity id of a chunk of a row."""
    return entity_id(RowKey(f"docs:{row}"), chunk)


@lru_cache(maxsize=4096)
def pieces_of(text: str, chunked: bool) -> list[tuple[int, str]]:
    """(start, text) of each chunk."""
    ranges = HashEmbedder().chunks(text, CHUNK, OVERLAP) if chunked else [(0, len(text))]
    return [(start, text[start:end]) for start, end in ranges]
