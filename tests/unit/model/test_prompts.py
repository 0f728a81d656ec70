"""What stands in front of a document and of a query, against sentence-transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from operators.contract.sections import EmbeddingSection
from operators.model.prompts import Prompts, advice
from tests.unit.model.small_models import build, cosines, edit, load, refusal, sentence

TEXTS = ["the quick brown fox", "lazy dog"]
SHARED = "config_sentence_transformers.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as the current sentence-transformers saves it; a test overwrites its prompts."""
    return sentence(tmp_path_factory.mktemp("prompts") / "model", Pooling(32, "mean"), Normalize())


@pytest.fixture
def model(saved: Path) -> Path:
    """The same, with no prompts yet."""
    edit(saved / SHARED, prompts={"query": None, "document": None}, default_prompt_name=None)
    return saved


def give(model: Path, prompts: Any, default: Any = None) -> Path:
    edit(model / SHARED, prompts=prompts, default_prompt_name=default)
    return model


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "Instruct: find\nQuery: ", "document": ""}, "query"),
        ({"query": "", "document": "passage: "}, "document"),
        ({"query": "query: ", "passage": "passage: ", "document": ""}, None),
        ({"query": None, "document": None, "retrieval": "find: "}, "retrieval"),
        ({"query": "query: "}, None),
        ({"corpus": "", "query": "query: "}, None),
        ({"clustering": "cluster: "}, None),
        ({}, None),
    ],
)
def test_an_empty_prompt_is_none_and_not_the_default(
    model: Path, prompts: dict[str, str | None], default: str | None
) -> None:
    ours = load(give(model, prompts, default))
    theirs = SentenceTransformer(str(model), device="cpu", local_files_only=True)
    assert cosines(ours.embed(TEXTS), theirs.encode_document(TEXTS)).min() > 0.99999
    assert cosines(ours.embed_queries(TEXTS), theirs.encode_query(TEXTS)).min() > 0.99999


@pytest.mark.parametrize(
    ("prompts", "default", "role", "said"),
    [
        ({"query": "query: ", "passage": "passage: "}, None, "document", "passage ('passage: ')"),
        ({"corpus": "text: ", "query": ""}, None, "document", "corpus ('text: ')"),
        ({"query": "find: "}, "query", "document", "default_prompt_name 'query' ('find: ')"),
        ({"document": "", "both": "read: "}, "both", "query", "default_prompt_name 'both'"),
    ],
)
def test_prompts_that_can_be_read_in_two_ways_are_refused(
    model: Path, prompts: dict[str, str], default: str | None, role: str, said: str
) -> None:
    give(model, prompts, default)
    told = refusal(model)
    assert f"embedding model 'model': names no prompt '{role}', but {said}" in told
    assert f"Set {role}_prompt in [embedding]" in told
    # The contract decides. What is in front of documents then is what it says.
    decided = load(model, document_prompt="passage: ", query_prompt="")
    theirs = SentenceTransformer(str(model), device="cpu", local_files_only=True)
    want = theirs.encode(TEXTS, prompt="passage: ")
    assert cosines(decided.embed(TEXTS), want).min() > 0.99999


@pytest.mark.parametrize(
    ("prompts", "default", "said"),
    [
        ({"query": ["find"]}, None, "has prompts that are no texts"),
        (["query: "], None, "has prompts that are no texts"),
        ({"query": "find: "}, "search", "has no prompt 'search', which it names as default"),
    ],
)
def test_prompts_that_are_broken_are_refused(
    model: Path, prompts: Any, default: str | None, said: str
) -> None:
    assert said in refusal(give(model, prompts, default))


def test_the_contract_sets_prompts(model: Path) -> None:
    theirs = SentenceTransformer(str(model), device="cpu", local_files_only=True)
    ours = load(model, document_prompt="passage: ", query_prompt="query: ")
    for vectors, prompt in (
        (ours.embed(TEXTS), "passage: "),
        (ours.embed_queries(TEXTS), "query: "),
    ):
        assert cosines(vectors, theirs.encode(TEXTS, prompt=prompt)).min() > 0.99999
    # An empty one takes out the model's own.
    give(model, {"document": "title: ", "query": "find: "})
    bare = load(model, document_prompt="", query_prompt="")
    want = theirs.encode(TEXTS, prompt="")
    assert cosines(bare.embed(TEXTS), want).min() > 0.99999
    assert cosines(bare.embed_queries(TEXTS), want).min() > 0.99999


def test_a_prompt_stands_in_front_of_every_chunk_and_fits(model: Path) -> None:
    prompt = "passage: "
    ours, bare = load(model, document_prompt=prompt), load(model)
    text = "the quick brown fox jumps over the lazy dog. " * 30
    parts = [text[start:end] for start, end in ours.chunks(text, 10_000, 0)]
    assert len(parts) > 5
    assert np.allclose(ours.embed(parts), bare.embed([prompt + part for part in parts]), atol=1e-6)
    # Nothing of a chunk is cut off behind the prompt.
    assert max(ours.count_tokens(parts)) <= ours.max_length
    assert max(bare.count_tokens([prompt + part for part in parts])) <= bare.max_length


@pytest.mark.parametrize("role", ["document", "query"])
def test_a_prompt_that_leaves_no_room_for_a_text_is_refused(model: Path, role: str) -> None:
    told = refusal(model, **{f"{role}_prompt": "x" * 60})
    assert f"reads 48 tokens, and its {role} prompt has 62: nothing of a text is left" in told
    assert f"Shorten {role}_prompt, or raise max_length" in told


def test_a_prompt_is_part_of_the_models_identity(model: Path) -> None:
    none = load(model).model
    names = [load(model, **{key: "a: "}).model for key in ("document_prompt", "query_prompt")]
    names += [load(model, document_prompt="b: ").model, none]
    assert len(set(names)) == 4
    # What changes nothing has the same name.
    assert load(model, document_prompt="", query_prompt="").model == none
    give(model, {"document": "title: ", "query": "find: "})
    own = load(model).model
    assert load(model, document_prompt="title: ", query_prompt="find: ").model == own
    assert load(model, document_prompt="").model != own


def test_a_collection_keeps_its_name_if_its_documents_stay_the_same(model: Path) -> None:
    """Names were made from the files alone before prompts could be set."""
    files_alone = load(give(model, {"document": "title: ", "query": "find: "})).model
    assert len(files_alone) == len("model@0123456789ab")
    # Documents were embedded with the default prompt; now they are not, so the name is another.
    give(model, {"query": "find: ", "document": ""}, "query")
    changed, as_before = load(model).model, load(model, document_prompt="find: ").model
    assert changed != as_before
    # Read in two ways: who goes on as before keeps the name.
    give(model, {"query": "query: ", "passage": "passage: "})
    goes_on, other = (load(model, document_prompt=each).model for each in ("passage: ", ""))
    assert goes_on != other
    fingerprint = load(model, document_prompt="passage: ", query_prompt="query: ").model
    assert goes_on == fingerprint


def test_a_prompt_that_the_pooling_leaves_out_is_refused(tmp_path: Path) -> None:
    folder = sentence(tmp_path / "model", Pooling(32, "mean"), plain=build(tmp_path / "plain"))
    edit(folder / "1_Pooling/config.json", include_prompt=False)
    assert load(folder).dim == 32
    assert "leaves its prompt out of the pooling" in refusal(folder, document_prompt="passage: ")


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("intfloat/multilingual-e5-large", ["document_prompt", "query_prompt"]),
        ("intfloat/e5-small-v2", ["document_prompt", "query_prompt"]),
        ("intfloat/multilingual-e5-large-instruct", ["query_prompt"]),
        ("BAAI/bge-small-en-v1.5", ["query_prompt"]),
        ("BAAI/bge-large-zh-v1.5", ["query_prompt"]),
        ("nomic-ai/nomic-embed-text-v1.5", ["document_prompt", "query_prompt"]),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", ["query_prompt"]),
        ("Qwen/Qwen3-Embedding-0.6B", ["query_prompt"]),
        ("mixedbread-ai/mxbai-embed-large-v1", ["query_prompt"]),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", ["query_prompt"]),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", ["query_prompt"]),
        ("my-finetuned-e5-base", ["document_prompt", "query_prompt"]),
        ("BAAI/bge-m3", []),
        ("thenlper/gte-base", []),
        ("sentence-transformers/all-MiniLM-L6-v2", []),
        ("acme/fe5-like", []),
    ],
)
def test_a_family_that_needs_prompts_is_known(name: str, keys: list[str]) -> None:
    section = EmbeddingSection(model="m")
    told = advice(name, Prompts("", ""), section)
    assert [key for key in ("document_prompt", "query_prompt") if f"{key} = " in told] == keys
    # Neither the model's own prompt nor an empty one of the contract is warned of.
    assert advice(name, Prompts("a: ", "b: "), section) == ""
    silent = EmbeddingSection(model="m", document_prompt="", query_prompt="")
    assert advice(name, Prompts("", ""), silent) == ""


def test_the_advice_can_be_copied_into_a_contract() -> None:
    import tomllib

    told = advice("intfloat/e5-mistral-7b-instruct", Prompts("", ""), EmbeddingSection(model="m"))
    line = told.partition("Set ")[2].partition(" in [embedding]")[0]
    assert tomllib.loads(line)["query_prompt"].endswith("answer the query\nQuery: ")


def test_a_model_in_a_folder_is_known_by_its_name_and_by_its_config(tmp_path: Path) -> None:
    folder = build(tmp_path / "multilingual-e5-small")
    assert 'Set document_prompt = "passage: " and query_prompt' in load(folder).advice
    folder = folder.rename(tmp_path / "ours")
    assert load(folder).advice == ""
    edit(folder / "config.json", _name_or_path="intfloat/e5-base-v2")
    assert "document_prompt" in load(folder).advice
    assert load(folder, document_prompt="passage: ", query_prompt="query: ").advice == ""
