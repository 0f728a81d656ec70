"""What `rowvec check` and `rowvec run` say of a model before the first message is read."""

from pathlib import Path
from typing import Any

import pytest

from flows.process import preflight
from flows.process.opened import Opened
from flows.process.preflight import Outcome, outcomes
from operators.contract.sections import (
    Contract,
    EmbeddingSection,
    KafkaSection,
    MilvusSection,
    RecoverySection,
)
from operators.contract.table import TableSection
from tests.unit.model.small_models import build, words_only


def contract(folder: Path, chunks: dict[str, int] | None = None, **embedding: Any) -> Contract:
    table = {"topic": "app.public.docs", "collection": "docs", "key": ("id",), "text": "{body}"}
    return Contract(
        kafka=KafkaSection(bootstrap_servers="localhost:1"),
        milvus=MilvusSection(uri="nothing.db"),
        embedding=EmbeddingSection(model=str(folder), device="cpu", **embedding),
        recovery=RecoverySection(directory=folder / "recovery"),
        tables=(TableSection.model_validate(table | ({"chunks": chunks} if chunks else {})),),
    )


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The outcome of the check of the model, without the checks before it."""
    for name in ("_recovery", "_registry", "_kafka", "_tables", "_database", "_milvus"):
        monkeypatch.setattr(preflight, name, lambda *_: "")

    def check(contract: Contract) -> Outcome:
        return next(each for each in outcomes(contract, Opened()) if each.name == "model")

    return check


def test_chunks_need_a_tokenizer_that_can_cut(tmp_path: Path, checked: Any) -> None:
    folder = words_only(tmp_path / "model", *(chr(0x4E00 + n) for n in range(300)))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic", '
        '"subword_tokenizer_type": "character"}'
    )
    assert checked(contract(folder)).error is None
    refused = checked(contract(folder, {"max_tokens": 16, "overlap_tokens": 2}))
    told = str(refused.error)
    assert "embedding model 'model': has a tokenizer without a fast version" in told
    assert "Take `chunks` out of the tables" in told


def test_a_prompt_that_a_family_needs_is_warned_of(tmp_path: Path, checked: Any) -> None:
    folder = build(tmp_path / "multilingual-e5-small")
    warned = checked(contract(folder))
    assert warned.error is None
    (told,) = warned.warnings
    assert "multilingual-e5-small': models of this kind are trained with a prompt" in told
    assert 'Set document_prompt = "passage: " and query_prompt = "query: " in [embedding]' in told
    both = {"document_prompt": "passage: ", "query_prompt": "query: "}
    assert checked(contract(folder, **both)).warnings == ()
