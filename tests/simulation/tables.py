"""The tables that a history may be of: one contract each, and what becomes of a text under it."""

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
    """A table with its contract and how its messages are read; neither is ever changed."""

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
    """The table with the contract that it alone is in."""
    made = contract().model_copy(update={"tables": (section,)})
    return Table(section, made, rules_of(made))


PLAIN = table_of(table())
CHUNKED = table_of(table(chunks=_CHUNKS))
FILTERED = table_of(
    table(chunks=_CHUNKS, filter=[{"column": "kind", "equals": "page"}], soft_delete="gone")
)
"""It shows its pages, and hides its drafts and what is marked as gone."""


def id_of(row: int, chunk: int = 0) -> str:
    """Entity id of a row."""
    return entity_id(RowKey(f"docs:{row}"), chunk)


@lru_cache(maxsize=4096)
def pieces_of(text: str, chunked: bool) -> list[tuple[int, str]]:
    """(start, text) of what becomes an entity each."""
    ranges = HashEmbedder().chunks(text, CHUNK, OVERLAP) if chunked else [(0, len(text))]
    return [(start, text[start:end]) for start, end in ranges]
