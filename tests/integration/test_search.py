"""`rowvec search` answers only with the model that filled the collection."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flows.search import Searcher
from flows.sync import collection_specs
from operators.contract.sections import (
    Contract,
    EmbeddingSection,
    KafkaSection,
    MilvusSection,
)
from operators.contract.table import TableSection
from operators.errors import FatalError
from operators.milvus.store import MilvusStore
from operators.model.transformer import TransformerEmbedder
from tests.unit.model.small_models import build

ONE, CUT = "one", "cut"


def contract(directory: Path, model: Path, **embedding: str) -> Contract:
    tables = [
        {"topic": name, "collection": name, "key": ("id",), "text": "{body}"} for name in (ONE, CUT)
    ]
    tables[1]["chunks"] = {"max_tokens": 16, "overlap_tokens": 2}
    return Contract(
        kafka=KafkaSection(bootstrap_servers="localhost:1"),
        milvus=MilvusSection(uri=str(directory / "milvus.db")),
        embedding=EmbeddingSection(model=str(model), device="cpu", **embedding),
        tables=tuple(map(TableSection.model_validate, tables)),
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two models of one dimension, and collections that one of them has filled."""
    directory = tmp_path_factory.mktemp("search")
    for seed, name in enumerate(("small", "other")):
        build(directory / name, seed=seed)
    made = contract(directory, directory / "small")
    with closing(MilvusStore(made.milvus)) as store:
        for spec in collection_specs(made, TransformerEmbedder(made.embedding)):
            store.ensure(spec)
    return directory


@pytest.fixture
def opened() -> Iterator[list[Searcher]]:
    searchers: list[Searcher] = []
    yield searchers
    for each in searchers:
        each.close()


@pytest.mark.parametrize("collection", [ONE, CUT, None])
@pytest.mark.parametrize(
    ("model", "embedding"),
    [("other", {}), ("small", {"document_prompt": "passage: "}), ("small", {"pooling": "cls"})],
    ids=["model", "prompt", "pooling"],
)
def test_another_model_is_refused_by_both_names(
    filled: Path,
    opened: list[Searcher],
    model: str,
    embedding: dict[str, str],
    collection: str | None,
) -> None:
    own = TransformerEmbedder(EmbeddingSection(model=str(filled / "small"), device="cpu")).model
    asked = contract(filled, filled / model, **embedding)
    opened.append(Searcher(asked))
    with pytest.raises(FatalError) as caught:
        opened[0].search("fox", collection=collection)
    told = str(caught.value)
    other = TransformerEmbedder(asked.embedding).model
    assert (
        f"collection '{collection or ONE}': its vectors were made by {own}, not by {other}" in told
    )
    assert "[embedding]" in told


def test_the_model_that_filled_it_searches_also_what_is_cut_into_chunks(
    filled: Path, opened: list[Searcher]
) -> None:
    opened.append(Searcher(contract(filled, filled / "small")))
    for collection in (ONE, CUT, None):
        assert opened[0].search("fox", collection=collection) == []
    # The size of chunks says nothing about a vector.
    asked = contract(filled, filled / "small")
    cut = asked.tables[1].model_copy(update={"chunks": None})
    other = asked.model_copy(update={"tables": (asked.tables[0], cut)})
    opened[0].close()
    opened.append(Searcher(other))
    assert opened[1].search("fox", collection=CUT) == []
