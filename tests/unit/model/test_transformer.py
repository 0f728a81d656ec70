"""The transformer, compared with sentence-transformers on a real model and on small random ones."""

import argparse
import collections
import datetime
import decimal
import email.message
import enum
import fractions
import functools
import hashlib
import inspect
import itertools
import json
import logging
import pathlib
import random
import shutil
import socket
import statistics
import string
import subprocess
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from inspect import isclass
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

from operators.errors import FatalError
from operators.model import onednn, packed_attention, transformer
from operators.model.files import resolve_model
from operators.model.protocol import Embedder
from operators.model.transformer import TransformerEmbedder
from tests.unit.model.small_models import (
    MINILM,
    build,
    cosines,
    edit,
    load,
    refusal,
    sentence,
    theirs,
    tokenizer,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ODD_TEXTS = ["", " ", "a", "🦆" * 40, "Grüße an 東京 👩‍🚀", "word " * 5_000, "x" * 20_000]


@pytest.fixture(scope="module")
def docstrings() -> list[str]:
    """A few hundred real texts, from one word to several thousand characters."""
    modules = (argparse, collections, datetime, decimal, email.message, enum, fractions, logging)
    modules += (pathlib, random, shutil, socket, statistics, string, subprocess, textwrap, zipfile)
    classes = [thing for module in modules for thing in vars(module).values() if isclass(thing)]
    things = [thing for owner in (*modules, *classes) for thing in vars(owner).values()]
    texts = {inspect.getdoc(thing) for thing in things if callable(thing)} - {None}
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())[:200]


@pytest.fixture(scope="module")
def minilm() -> TransformerEmbedder:
    return load(MINILM)


@pytest.fixture(scope="module")
def pooled():
    """MiniLM by pooling, each loaded once."""
    return functools.cache(lambda pooling: load(MINILM, pooling=pooling, max_length=512))


# --- the vectors -----------------------------------------------------------------------------


def test_minilm_makes_the_vectors_of_sentence_transformers(minilm, docstrings):
    embedder: Embedder = minilm
    texts = [*docstrings, *ODD_TEXTS]
    assert len(docstrings) == 200
    ours = embedder.embed(texts)
    assert ours.dtype == np.float32
    assert ours.shape == (len(texts), embedder.dim) == (len(texts), 384)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert cosines(ours, theirs(resolve_model(MINILM), texts)).min() > 0.99999


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_and_normalisation_are_the_models_own(tmp_path, docstrings, mode, normalize):
    after = [Pooling(32, mode), *([Normalize()] if normalize else [])]
    folder = sentence(tmp_path / "model", *after)
    texts = [*docstrings[:40], *ODD_TEXTS]
    assert np.allclose(load(folder).embed(texts), theirs(folder, texts), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "packs"),
    [
        ("Bert", True),
        ("Roberta", True),
        ("DistilBert", True),
        ("EuroBert", True),
        ("MPNet", False),
        ("ModernBert", False),
    ],
)
def test_encoders_of_several_architectures(tmp_path, docstrings, kind, packs):
    plain = build(tmp_path / "plain", kind)
    folder = sentence(tmp_path / "model", Pooling(32, "mean"), Normalize(), plain=plain)
    texts = [*docstrings[:40], *ODD_TEXTS]
    embedder = load(folder)
    assert cosines(embedder.embed(texts), theirs(folder, texts)).min() > 0.99999
    assert embedder._encoder.packs is packs
    # Its own limit is 48, but the network can calculate more.
    assert embedder.max_length == 48
    longest = load(folder, max_length=64)
    assert np.isfinite(longest.embed(["x" * 2_000])).all()


@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
def test_a_decoder_is_pooled_at_its_last_token(tmp_path, docstrings, kind):
    plain = build(tmp_path / "plain", kind)
    folder = sentence(tmp_path / "model", Pooling(32, "lasttoken"), Normalize(), plain=plain)
    texts = [*docstrings[:40], *ODD_TEXTS]
    embedder = load(folder)
    assert not embedder._encoder.packs
    assert cosines(embedder.embed(texts), theirs(folder, texts)).min() > 0.99999


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("length", [3, 64, 65, 500])
def test_texts_that_lie_side_by_side_do_not_see_each_other(pooled, pooling, length):
    embedder = pooled(pooling)
    texts = [" ".join([word] * length) for word in ("fox", "dog", "fox dog", "a")]
    assert embedder._encoder.packs
    together = embedder.embed([*texts, "another"])[:-1]
    assert np.allclose(together, [embedder.embed([text])[0] for text in texts], atol=1e-6)


def _sees_all(*args, scaling):
    """A wrong attention: over all tokens of a run, as if they belonged to one text."""
    run, *states = args
    return packing_attend(packed_attention.Run(1, run.tokens), *states, scaling=scaling)


packing_attend = packed_attention._attend


@pytest.mark.parametrize("error", [None, ValueError, TypeError, RuntimeError])
def test_a_model_that_packing_would_change_is_padded(tmp_path, monkeypatch, docstrings, error):
    folder = build(tmp_path / "model")
    want = load(folder).embed(docstrings[:40])

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(packed_attention, "_attend", refuse if error else _sees_all)
    embedder = load(folder)
    assert not embedder._encoder.packs
    assert np.allclose(embedder.embed(docstrings[:40]), want, atol=1e-6)
    assert embedder.padded_tokens_total > embedder.tokens_total


@pytest.mark.parametrize(
    "odd",
    [
        {"sliding_window": 128},
        {"softcap": 30.0},
        {"attention_mask": torch.ones(1, 1, 4, 4)},
        {"dropout": 0.1},
        {"key": torch.ones(1, 1, 4, 8)},
        {"module": argparse.Namespace(is_causal=True)},
        {"module": argparse.Namespace()},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_attention_of_another_kind_is_refused(odd):
    plain = {
        "module": argparse.Namespace(is_causal=False),
        "query": torch.ones(1, 2, 4, 8),
        "key": torch.ones(1, 2, 4, 8),
        "value": torch.ones(1, 2, 4, 8),
        "attention_mask": None,
        "scaling": 1.0,
        "runs": [packed_attention.Run(2, 2)],
        "position_ids": torch.zeros(1, 4),
        "encoder_hidden_states": None,
    }
    assert torch.equal(packed_attention.attend(**plain)[0], torch.ones(1, 4, 2, 8))
    with pytest.raises(ValueError, match="not implemented"):
        packed_attention.attend(**plain | odd)


def test_masks_of_another_kind_are_refused():
    window = transformers.masking_utils.sliding_window_bidirectional_overlay(4)
    packed_attention._no_mask(mask_function=transformers.masking_utils.bidirectional_mask_function)
    for other in (window, transformers.masking_utils.causal_mask_function):
        with pytest.raises(ValueError, match="not implemented"):
            packed_attention._no_mask(mask_function=other)


@pytest.mark.parametrize("pays", [True, False])
def test_either_library_makes_the_same_vectors(monkeypatch, minilm, docstrings, pays):
    monkeypatch.setattr(onednn, "_onednn_pays", lambda dtype: pays)
    embedder = load(MINILM)
    used = {type(module) for module in embedder._encoder._model.modules()}
    assert (onednn.OneDnnLinear in used) is pays
    assert (torch.nn.Linear in used) is not pays
    assert np.allclose(embedder.embed(docstrings[:40]), minilm.embed(docstrings[:40]), atol=1e-6)


@pytest.mark.parametrize("error", [None, RuntimeError, AttributeError])
def test_a_model_that_another_library_would_change_is_left_as_it_was(
    tmp_path, monkeypatch, docstrings, error
):
    folder = build(tmp_path / "model")
    want = load(folder).embed(docstrings[:40])

    def wrong(self, states):
        if error:
            raise error
        return states.new_ones(*states.shape[:-1], len(self._bias))

    monkeypatch.setattr(onednn, "_onednn_pays", lambda dtype: True)
    monkeypatch.setattr(onednn.OneDnnLinear, "forward", wrong)
    assert np.allclose(load(folder).embed(docstrings[:40]), want, atol=1e-6)


def test_int8_is_close_to_float32(minilm, docstrings):
    embedder = load(MINILM, dtype="int8")
    ours, exact = embedder.embed(docstrings[:40]), minilm.embed(docstrings[:40])
    assert cosines(ours, exact).min() > 0.98
    assert not np.allclose(ours, exact, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "pooling"),
    [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last"), (None, "mean")],
)
def test_old_files_of_sentence_transformers(tmp_path, docstrings, key, pooling):
    folder = tmp_path / "model"
    build(folder / "0_Transformer")
    steps = (("0_Transformer", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    keys = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    flags = {f"pooling_mode_{each}": each == key for each in keys}
    edit(folder / "1_Pooling/config.json", word_embedding_dimension=32, **flags)
    edit(folder / "0_Transformer/sentence_bert_config.json", max_seq_length=24, do_lower_case=True)
    texts = [*docstrings[:40], *ODD_TEXTS, "UPPER lower"]
    embedder = load(folder)
    assert embedder.max_length == 24
    assert np.allclose(embedder.embed(texts), theirs(folder, texts), atol=2e-6, rtol=1e-5)
    overridden = load(folder, pooling=pooling, normalize=False, max_length=24)
    assert overridden.model == embedder.model


def test_the_prompts_of_documents_and_queries(tmp_path):
    prompts = {"document": "title: ", "query": "search for "}
    folder = sentence(tmp_path / "model", Pooling(32, "mean"), prompts=prompts)
    embedder = load(folder)
    texts = ["one", "two words"]
    for ours, key in ((embedder.embed, "document"), (embedder.embed_queries, "query")):
        assert np.allclose(ours(texts), theirs(folder, texts, prompt_name=key), atol=2e-6)
    assert embedder.count_tokens(["one"]) == load(tmp_path / "plain").count_tokens(["title: one"])


def test_a_plain_encoder_is_pooled_by_mean_and_normalised(tmp_path, docstrings):
    plain = build(tmp_path / "plain")
    folder = sentence(tmp_path / "model", Pooling(32, "mean"), Normalize(), plain=plain)
    assert np.array_equal(load(plain).embed(docstrings[:9]), load(folder).embed(docstrings[:9]))


def test_settings_override_the_model(tmp_path, docstrings):
    plain = build(tmp_path / "plain")
    want = sentence(tmp_path / "want", Pooling(32, "cls"), plain=plain)
    folder = sentence(tmp_path / "model", Pooling(32, "max"), Normalize(), plain=plain)
    ours = load(folder, pooling="cls", normalize=False).embed(docstrings[:9])
    assert np.allclose(ours, theirs(want, docstrings[:9]), atol=2e-6)


def test_a_text_without_tokens_has_a_vector(tmp_path):
    embedder = load(build(tmp_path / "model", special=False))
    assert embedder.count_tokens(["", "fox"])[0] == 1
    alone = embedder.embed([""])
    assert np.allclose(embedder.embed(["the quick brown fox", ""])[1], alone[0], atol=1e-6)
    assert np.linalg.norm(alone) == pytest.approx(1)


# --- the batches -----------------------------------------------------------------------------


def test_identical_texts_are_embedded_once_and_order_is_kept(minilm):
    before = minilm.tokens_total, minilm.padded_tokens_total
    vectors = minilm.embed(["b", "a longer text", "b", "b"])
    read, padded = minilm.tokens_total - before[0], minilm.padded_tokens_total - before[1]
    assert read == padded == 8 == sum(minilm.count_tokens(["b", "a longer text"]))
    assert np.array_equal(vectors[0], vectors[2])
    assert np.array_equal(vectors[0], vectors[3])
    assert np.allclose(vectors[1], minilm.embed(["a longer text"])[0], atol=1e-6)


def test_no_texts_no_vectors(minilm):
    assert minilm.embed([]).shape == (0, 384)
    assert minilm.embed([]).dtype == np.float32
    assert minilm.count_tokens([]) == []


def test_tokens_are_counted_beyond_the_limit(minilm):
    assert minilm.max_length == 256
    assert minilm.count_tokens(["", "word " * 1_000]) == [2, 1_002]


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
]


def limit_rows(embedder, monkeypatch, rows: int, error: Exception) -> list[int]:
    """Make the encoder run out of memory above `rows` rows; returns the rows of each call."""
    calls: list[int] = []
    forward = embedder._encoder._model.forward

    def limited(input_ids, runs=None, **others):
        calls.append(sum(run.texts for run in runs) if runs else len(input_ids))
        if calls[-1] > rows:
            raise error
        return forward(input_ids=input_ids, **others | ({"runs": runs} if runs else {}))

    monkeypatch.setattr(embedder._encoder._model, "forward", limited)
    return calls


@pytest.fixture
def one_core(monkeypatch):
    """Calculate batches one after the other, as on a GPU."""
    monkeypatch.setattr(transformer, "CORES", 1)


def test_batches_that_do_not_fit_are_halved_on_all_cores(tmp_path, monkeypatch, docstrings):
    monkeypatch.setattr(transformer, "CORES", 3)
    folder = build(tmp_path / "model")
    want = load(folder).embed(docstrings)
    embedder = load(folder)
    calls = limit_rows(embedder, monkeypatch, 5, OUT_OF_MEMORY[1])
    assert np.allclose(embedder.embed(docstrings), want, atol=1e-6)
    assert max(calls) > 5


@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize("kind", ["Bert", "ModernBert"])
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu"])
def test_a_batch_that_does_not_fit_is_halved(tmp_path, monkeypatch, docstrings, error, kind):
    folder = build(tmp_path / "model", kind)
    embedder = load(folder)
    want = embedder.embed(docstrings)
    embedder = load(folder)
    calls = limit_rows(embedder, monkeypatch, 5, error)
    assert np.allclose(embedder.embed(docstrings), want, atol=1e-6)
    assert embedder.max_batch_tokens < 2_048
    failed = sum(rows > 5 for rows in calls)
    assert failed < 8
    calls.clear()
    embedder.embed(["x" * 400, *("y" * (400 + n) for n in range(20))])
    assert max(calls) <= 5  # the smaller budget is remembered


@pytest.mark.usefixtures("one_core")
def test_a_single_text_that_does_not_fit_is_fatal(tmp_path, monkeypatch):
    embedder = load(build(tmp_path / "model"))
    calls = limit_rows(embedder, monkeypatch, 0, OUT_OF_MEMORY[0])
    with pytest.raises(
        FatalError, match=r"cannot hold one text of \d+ tokens in the memory of cpu"
    ):
        embedder.embed(["one", "two", "three"])
    assert calls == [3, 1]


@pytest.mark.usefixtures("one_core")
def test_any_other_failure_is_not_retried(tmp_path, monkeypatch):
    embedder = load(build(tmp_path / "model"))
    calls = limit_rows(embedder, monkeypatch, 0, RuntimeError("CUDA error: device-side assert"))
    with pytest.raises(FatalError, match=r"failed on cpu: CUDA error"):
        embedder.embed(["one", "two", "three"])
    assert calls == [3]


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    embedder = load(build(tmp_path / "model"))
    next(embedder._encoder._model.parameters()).data.fill_(float("nan"))
    with pytest.raises(FatalError, match=r"embedding model 'model': made a vector that is not fin"):
        embedder.embed(["text"])


# --- the chunks ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cutters(tmp_path_factory, minilm) -> dict[str, TransformerEmbedder]:
    """Models with three kinds of tokens: pieces of words, bytes, and letters after normalisation."""
    bytewise = build(tmp_path_factory.mktemp("bytewise") / "model")
    lengthening = build(tmp_path_factory.mktemp("lengthening") / "model", special=False)
    edit(lengthening / "tokenizer.json", normalizer={"type": "NFKC"})
    return {"words": minilm, "bytes": load(bytewise), "letters": load(lengthening)}


def tokens_of(embedder: TransformerEmbedder, text: str) -> int:
    """Number of tokens, without the special ones."""
    core = embedder._tokens._tokenizer
    return len(core(text.replace("\ud800", "\ufffd"), add_special_tokens=False)["input_ids"])


PARTS = [
    "the quick brown fox. ",
    "Jumps over!\n\n",
    "東京都に住む。",
    "🦆",
    "👩‍👩‍👧‍👦",
    "e\u0301\u0323",
    "\ufdfa",  # 18 letters when normalised
    "\r\n",
    "\x00\x1b",
    "\u200b\u2028",
    "[SEP]",
    "\ud800",
    "İß",
]
NASTY = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(PARTS),
        st.tuples(st.sampled_from("ax 🦆\n\u0301字.\t\ufdfa"), st.integers(1, 150)).map(
            lambda both: both[0] * both[1]
        ),
    ),
    max_size=10,
).map("".join)


@pytest.mark.parametrize("kind", ["words", "bytes", "letters"])
@given(text=NASTY, max_tokens=st.integers(8, 60), overlap=st.integers(0, 30))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_cover_the_text_and_keep_to_their_tokens(cutters, kind, text, max_tokens, overlap):
    embedder = cutters[kind]
    overlap = min(overlap, max_tokens // 2)
    ranges = embedder.chunks(text, max_tokens, overlap)
    assert (ranges[0][0], ranges[-1][1]) == (0, len(text))
    for start, end in ranges:
        assert end - start == 1 or tokens_of(embedder, text[start:end]) <= max_tokens
    for (first, end), (second, behind) in itertools.pairwise(ranges):
        assert first < second <= end < behind
        assert tokens_of(embedder, text[second:end]) <= overlap
    assert len(ranges) == 1 or tokens_of(embedder, text) > min(max_tokens, embedder.max_length - 2)
    assert embedder.chunks(text, max_tokens, overlap) == ranges


def test_chunks_end_where_sentences_do(minilm):
    text = "The fox jumps. It is quick and brown. " * 3 + "\n\nThe dog is lazy. It sleeps."
    cut = [text[start:end] for start, end in minilm.chunks(text, 16, 0)]
    assert "".join(cut) == text
    assert all(part.rstrip().endswith(".") for part in cut)
    assert cut[-1] == "The dog is lazy. It sleeps."
    # The last sentence of a chunk is repeated in the next one, if it is short enough.
    overlapping = minilm.chunks(text, 16, 8)
    shared = [text[b:a] for (_, a), (b, _) in itertools.pairwise(overlapping) if b < a]
    assert "The fox jumps. " in shared


def test_a_text_that_fits_is_one_chunk(minilm):
    # A part of it has more tokens than the whole, which is one unknown word.
    text = "x" * 60 + "🦆"
    assert minilm.count_tokens(["x" * 60, text]) == [32, 3]
    assert minilm.chunks(text, 8, 0) == [(0, 61)]


@pytest.mark.parametrize("special", [True, False])
def test_no_chunk_is_longer_than_what_the_model_reads(tmp_path, special):
    plain = build(tmp_path / "plain", special=special)
    prompts = {"document": "title: "}
    folder = sentence(tmp_path / "model", Pooling(32, "mean"), plain=plain, prompts=prompts)
    embedder = load(folder)
    text = "the quick brown fox jumps over the lazy dog. " * 20
    parts = [text[start:end] for start, end in embedder.chunks(text, 10_000, 5_000)]
    assert max(embedder.count_tokens(parts)) <= embedder.max_length == 48
    # No chunk is shorter than necessary.
    assert max(embedder.count_tokens(parts)) > 40
    # A model may leave room for almost no tokens.
    narrow = load(folder, max_length=12)
    assert "".join(text[a:b] for a, b in narrow.chunks(text, 8, 0)) == text


def test_what_a_model_has_read_before_does_not_change_the_chunks(tmp_path):
    folder = build(tmp_path / "model")
    fresh, used = load(folder), load(folder)
    text = "the quick brown fox. " * 50
    used.embed(["short", text])
    used.chunks("another text " * 90, 20, 4)
    assert used.chunks(text, 30, 10) == fresh.chunks(text, 30, 10)
    assert used.chunks("", 30, 10) == [(0, 0)]


def test_chunks_are_cut_by_several_threads_while_another_embeds(tmp_path):
    embedder = load(build(tmp_path / "model"))
    text = "the quick brown fox. " * 50
    want = embedder.chunks(text, 20, 4)
    with ThreadPoolExecutor(4) as pool:
        vectors = pool.submit(embedder.embed, [text[n:] for n in range(200)])
        cut = [pool.submit(embedder.chunks, text, 20, n % 5) for n in range(50)]
        assert all(each.result()[-1][1] == len(text) for each in cut)
        assert cut[4].result() == want
        assert np.isfinite(vectors.result()).all()


def test_a_lone_surrogate_is_read_as_the_replacement_character(cutters):
    for embedder in cutters.values():
        assert np.array_equal(embedder.embed(["a\ud800b"]), embedder.embed(["a\ufffdb"]))
        assert embedder.count_tokens(["\udfff"]) == embedder.count_tokens(["\ufffd"])


# --- the identity ----------------------------------------------------------------------------


def test_identity_is_of_the_content_not_of_the_place(tmp_path):
    folder = build(tmp_path / "here" / "model")
    copy = tmp_path / "there" / "model"
    shutil.copytree(folder, copy)
    identity = load(folder).model
    name, revision = identity.split("@")
    assert name == "model"
    assert len(revision) == 12
    assert int(revision, 16) >= 0
    assert load(f"{copy}/").model == identity
    # settings that change vectors by rounding only
    assert load(copy, max_batch_tokens=64, dtype="bfloat16").model == identity
    assert load(copy, pooling="mean", normalize=True, max_length=48).model == identity


def test_identity_changes_with_whatever_changes_the_vectors(tmp_path):
    folder = sentence(tmp_path / "one" / "model", Pooling(32, "mean"))
    identities = [
        load(folder, **settings).model
        for settings in (
            {},
            {"pooling": "cls"},
            {"normalize": True},
            {"max_length": 32},
            {"dtype": "int8"},
        )
    ]
    weights = sentence(
        tmp_path / "two" / "model", Pooling(32, "mean"), plain=build(tmp_path / "p", seed=1)
    )
    identities.append(load(weights).model)
    edit(folder / "1_Pooling/config.json", pooling_mode="cls")
    identities.append(load(folder).model)
    assert len(set(identities)) == len(identities)


def test_minilm_is_called_by_its_full_name(minilm):
    assert minilm.model.startswith(f"{MINILM}@")
    assert load("all-MiniLM-L6-v2").model == minilm.model


def test_a_model_of_the_hub_has_the_commit_for_revision(tmp_path):
    repository = tmp_path / "hub" / "models--acme--small"
    folder = build(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert load("acme/small").model == "acme/small@0123456789ab"
    assert load("acme/small", revision=COMMIT).model == "acme/small@0123456789ab"
    # The digits in a collection's name of its model are enough to pin it.
    (repository / "refs" / "main").write_text("f" * 40)
    assert load("acme/small", revision=COMMIT[:12]).model == "acme/small@0123456789ab"
    assert "is not on this machine" in refusal("acme/small", revision="abcdef0")
    (repository / "refs" / "main").write_text(COMMIT)
    assert load("acme/small", pooling="cls").model not in ("acme/small@0123456789ab", "")
    assert load(folder).model.startswith(f"{COMMIT}@")


def test_all_files_of_a_tokenizer_are_fetched(monkeypatch, tmp_path):
    asked = []

    def fetch(name, *, allow_patterns, **others):
        asked.extend(allow_patterns)
        return str(build(tmp_path / COMMIT))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    load("vinai/phobert-base")
    needed = ("config.json", "model.safetensors", "vocab.txt", "bpe.codes", "spiece.model")
    for file in needed:
        assert any(Path(file).match(pattern) for pattern in asked), file


def test_where_a_model_is(tmp_path, monkeypatch):
    assert resolve_model("acme/small") == "acme/small"
    assert resolve_model(str(tmp_path)) == tmp_path
    assert (resolve_model("all-MiniLM-L6-v2") / "model.safetensors").is_file()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resolve_model("all-MiniLM-L6-v2") == MINILM


# --- the errors ------------------------------------------------------------------------------


def test_a_model_that_is_not_there(tmp_path):
    told = refusal("acme/none", revision=COMMIT)
    assert "embedding model 'acme/none': is not on this machine" in told
    for word in ("path", f"hf download acme/none --revision {COMMIT}", "HF_HOME", "HF_HUB_OFFLINE"):
        assert word in told
    assert "is not on this machine" in refusal("not a name/of/anything")
    # The packaged copy has no revision, so it may not be the requested one.
    assert "is not on this machine" in refusal(MINILM, revision=COMMIT)


def test_a_path_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    assert "is not a folder" in refusal(tmp_path / "file")
    assert "is not a folder" in refusal(tmp_path / "nothing")
    assert "has no revisions" in refusal(tmp_path, revision=COMMIT)
    assert "has no config.json" in refusal(tmp_path)


def test_weights_that_could_run_code_are_refused(tmp_path):
    folder = build(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "no weights as *.safetensors" in refusal(folder)


def test_broken_or_missing_weights_are_refused(tmp_path):
    folder = build(tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1_000])
    assert "cannot be loaded" in refusal(folder)
    (folder / "model.safetensors").write_bytes(weights)
    edit(folder / "config.json", num_hidden_layers=3)
    assert "lacks 16 weights, like encoder.layer.2." in refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    folder = build(tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer" in refusal(folder)


@pytest.mark.parametrize("file", ["modules.json", "config.json", "tokenizer.json"])
def test_broken_files_are_refused(tmp_path, file):
    folder = build(tmp_path / "model")
    (folder / file).write_text("{")
    told = refusal(folder)
    assert "embedding model 'model': " in told
    assert file in told or "cannot be loaded" in told


def test_unknown_architectures_are_refused(tmp_path):
    folder = build(tmp_path / "model")
    edit(folder / "config.json", model_type="fancy")
    assert "cannot be loaded" in refusal(folder)


def test_models_that_cannot_be_pooled_are_refused(tmp_path):
    assert "sequence-to-sequence" in refusal(build(tmp_path / "t5", "T5"))
    decoder = build(tmp_path / "qwen", "Qwen2")
    assert "is a decoder, and does not say how to pool it" in refusal(decoder)
    assert "knows nothing of the text" in refusal(decoder, pooling="cls")
    assert load(decoder, pooling="last").dim == 32


def test_an_encoder_of_t5_alone_is_refused_as_what_it_is(tmp_path):
    config = transformers.T5Config(
        vocab_size=400, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "model")
    tokenizer(special=True).save_pretrained(tmp_path / "model")
    told = refusal(tmp_path / "model")
    assert "is a sequence-to-sequence model" in told
    assert "Fetch" not in told


def test_modules_that_are_not_implemented_are_refused(tmp_path):
    plain = build(tmp_path / "plain")
    dense = sentence(tmp_path / "dense", Pooling(32, "mean"), Dense(32, 16), plain=plain)
    assert "Transformer → Pooling → Dense, which is not implemented" in refusal(dense)
    largest = sentence(tmp_path / "max", Pooling(32, "max"), plain=plain)
    assert "pools by max, which is not implemented" in refusal(largest)
    both = sentence(tmp_path / "both", Pooling(32, ("mean", "cls")), plain=plain)
    assert "pools by mean+cls" in refusal(both)
    foreign = sentence(tmp_path / "foreign", Pooling(32, "mean"), plain=plain)
    modules = json.loads((foreign / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (foreign / "modules.json").write_text(json.dumps(modules))
    assert "is made of custom_st.Transformer → Pooling" in refusal(foreign)


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        ("sentence_bert_config.json", {"query_expansion": {"length": 32}}, "sets query_expansion"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "takes other states"),
        (
            "config_sentence_transformers.json",
            {"model_type": "SparseEncoder"},
            "is a SparseEncoder",
        ),
        ("1_Pooling/config.json", {"include_prompt": False}, "leaves its prompt out"),
    ],
)
def test_options_that_are_not_implemented_are_refused(tmp_path, file, values, told):
    folder = sentence(tmp_path / "model", Pooling(32, "mean"), prompts={"query": "find: "})
    edit(folder / file, **values)
    assert told in refusal(folder)


def test_a_max_length_beyond_the_positions_is_refused(tmp_path):
    assert "reads 66 tokens at most" in refusal(build(tmp_path / "bert"), max_length=67)
    # RoBERTa counts its positions from 2
    assert "reads 64 tokens at most" in refusal(build(tmp_path / "rob", "Roberta"), max_length=65)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda(tmp_path):
    told = refusal(tmp_path, device="cuda")
    assert "embedding.device 'cuda': torch" in told
    assert "sees 0 CUDA devices" in told


def test_a_dtype_that_the_device_lacks(tmp_path, monkeypatch):
    assert "embedding.dtype 'float16': cpu does not" in refusal(tmp_path, dtype="float16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    told = refusal(tmp_path, dtype="int8", device="cuda")
    assert "embedding.dtype 'int8': cuda does not calculate in it" in told
    assert "Set dtype to auto or float32" in told


# --- the GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
def test_bfloat16_on_cuda_is_close_to_float32_on_cpu(minilm, docstrings):
    embedder = load(MINILM, device="cuda")
    assert embedder._encoder.dtype == torch.bfloat16
    texts = [*docstrings, *ODD_TEXTS]
    ours = embedder.embed(texts)
    assert ours.dtype == np.float32
    assert embedder.model == minilm.model
    assert cosines(ours, minilm.embed(texts)).min() >= 0.99
