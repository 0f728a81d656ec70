"""Models that transformers would load as another network than their authors', and vectors that depend on
what they are embedded with: each is refused, or gives what sentence-transformers gives for a text alone."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from operators.errors import FatalError
from operators.model import encoder
from operators.model.architecture import check_architecture
from tests.unit.model.small_models import (
    build,
    cosines,
    edit,
    load,
    refusal,
    sentence,
    words_only,
)

SHARED = "config_sentence_transformers.json"


def alone(folder: Path, texts: list[str]) -> np.ndarray:
    """What sentence-transformers gives for each text by itself."""
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return np.concatenate([theirs.encode([text]) for text in texts])


def rename_weights(folder: Path, old: str, new: str) -> None:
    weights = load_file(folder / "model.safetensors")
    renamed = {key.replace(old, new): value for key, value in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


# --- what is saved beside the weights ---------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_cut_to_the_length_that_the_model_says(tmp_path: Path, normalize: bool) -> None:
    steps = [Pooling(32, "mean"), *([Normalize()] if normalize else [])]
    folder = sentence(tmp_path / "model", *steps)
    texts = ["the quick brown fox", "lazy dog"]
    whole = load(folder)
    edit(folder / SHARED, truncate_dim=16)
    cut = load(folder)
    assert cut.dim == 16
    # sentence-transformers does not make them one long again.
    assert np.allclose(cut.embed(texts), alone(folder, texts), atol=2e-6, rtol=1e-5)
    unit = load(folder, normalize=True)
    assert np.allclose(np.linalg.norm(unit.embed(texts), axis=1), 1, atol=1e-5)
    assert len({whole.model, cut.model, unit.model}) == 3
    # More than there is cuts nothing.
    edit(folder / SHARED, truncate_dim=64)
    assert load(folder).dim == 32


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        (SHARED, {"truncate_dim": "16"}, "sets truncate_dim to '16'"),
        (SHARED, {"truncate_dim": 0}, "sets truncate_dim to 0"),
        (
            SHARED,
            {"output_dtype": "int8"},
            "sets output_dtype in config_sentence_transformers.json",
        ),
        ("1_Pooling/config.json", {"skip_tokens": [1]}, "sets skip_tokens in the pooling's"),
        ("2_Normalize/config.json", {"eps": 0.1}, "sets eps in Normalize's config.json"),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "other states"),
        ("sentence_bert_config.json", {"document_length": 9}, "sets document_length in sent"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(
    tmp_path: Path, file: str, values: dict[str, object], told: str
) -> None:
    folder = sentence(tmp_path / "model", Pooling(32, "mean"), Normalize())
    edit(folder / file, **values)
    assert told in refusal(folder)


@pytest.mark.parametrize("modules", ["[1]", "{}", '[{"path": ""}]', "[]"])
def test_files_in_another_form_are_refused(tmp_path: Path, modules: str) -> None:
    folder = build(tmp_path / "model")
    (folder / "modules.json").write_text(modules)
    assert "not in their form (modules.json" in refusal(folder)


# --- config.json ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"position_embedding_type": "relative_key"},
        {"position_embedding_type": "alibi"},
        {"use_alibi": True},
        {"rope_theta": 10_000.0},
        {"quantization_config": {"bits": 4}},
    ],
    ids=lambda values: "-".join(map(str, *values.items())),
)
def test_a_key_of_config_json_that_transformers_does_not_know_is_refused(
    tmp_path: Path, values: dict[str, object]
) -> None:
    folder = build(tmp_path / "model")
    edit(folder / "config.json", **values)
    told = refusal(folder)
    assert f"sets {next(iter(values))} in config.json, which the bert of transformers does" in told
    assert "take it out of config.json in a copy of the folder" in told


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (
            "Bert",
            {"directionality": "bidi", "pooler_type": "first_token_transform", "use_alibi": False},
        ),
        ("Bert", {"position_embedding_type": "absolute", "gradient_checkpointing": True}),
        ("Bert", {"language": "german", "name": "Bert", "_num_labels": 5, "id2label": {"0": "a"}}),
        ("XLMRoberta", {"output_past": True, "adapters": {"adapters": {}, "config_map": {}}}),
        ("DistilBert", {"tie_weights_": True, "qa_dropout": 0.1, "summary_type": "cls"}),
        ("ModernBert", {"cls_token_id": 0, "classifier_pooling": "mean", "torch_dtype": "float32"}),
        ("ModernBert", {"layer_norm_eps": 1e-5, "reference_compile": True, "mlp_dropout": 0.1}),
        ("ModernBert", {"position_embedding_type": "absolute", "sparse_pred_ignore_index": -100}),
        ("DebertaV2", {"position_buckets": 256, "norm_rel_ebd": "none", "padding_idx": 1}),
        ("Albert", {"down_scale_factor": 1, "net_structure_type": "x", "layers_to_keep": [1]}),
        ("Longformer", {"attention_mode": "longformer", "attention_dilation": [1, 1]}),
        ("Qwen2", {"rope_theta": 1e6, "is_causal": True, "max_length": 20, "temperature": 0.7}),
    ],
)
def test_keys_without_an_effect_on_the_vectors_are_no_reason(
    tmp_path: Path, kind: str, values: dict[str, object]
) -> None:
    folder = build(tmp_path / "model", kind)
    pooling = {"pooling": "last"} if kind == "Qwen2" else {}
    want = load(folder, **pooling).embed(["the fox"])
    edit(folder / "config.json", **values)
    assert (
        np.array_equal(load(folder, **pooling).embed(["the fox"]), want) or "rope_theta" in values
    )


NOMIC = {
    "activation_function": "swiglu",
    "architectures": ["NomicBertModel"],
    "attn_pdrop": 0.0,
    "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    "bos_token_id": None,
    "causal": False,
    "dense_seq_output": True,
    "embd_pdrop": 0.0,
    "fused_bias_fc": True,
    "fused_dropout_add_ln": True,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 768,
    "n_head": 12,
    "n_inner": 3072,
    "n_layer": 12,
    "n_positions": 8192,
    "pad_vocab_size_multiple": 64,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_scaling_factor": None,
    "scale_attn_weights": True,
    "summary_type": "cls_index",
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_cache": True,
    "use_flash_attn": True,
    "use_rms_norm": False,
    "use_xentropy": True,
    "vocab_size": 30528,
}
"""A config.json from before transformers had this network."""


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"rotary_scaling_factor": 2},
        {"rotary_emb_base": 10_000},
        {"n_layer": 24},
        {"prenorm": True},
    ],
    ids=lambda other: next(iter(other), "same"),
)
def test_former_names_of_keys_are_read_with_the_values_that_transformers_has(
    tmp_path: Path, other: dict[str, object]
) -> None:
    edit(tmp_path / "config.json", **NOMIC | other)
    if not other:
        assert check_architecture("nomic", tmp_path).hidden_size == 768
        return
    with pytest.raises(FatalError, match=f"sets {next(iter(other))} in config.json"):
        check_architecture("nomic", tmp_path)


def test_sparse_attention_that_changes_with_the_first_short_text_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "BigBird")
    assert load(folder).dim == 32  # it reads no text that is long enough for it
    edit(folder / "config.json", max_position_embeddings=1_024)
    assert "has attention_type block_sparse, by which a vector depends" in refusal(folder)


# --- code of a repository's own ---------------------------------------------------------------

GTE = {"AutoModel": "modeling_qwen.Qwen2Model", "AutoModelForCausalLM": "modeling_qwen.Causal"}


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        ("Qwen2", {"auto_map": GTE}, "modeling_qwen.Qwen2Model"),
        ("Qwen2", {"auto_map": GTE, "is_causal": True}, "modeling_qwen.Qwen2Model"),
        (
            "Bert",
            {"auto_map": {"AutoModel": "jinaai/impl--modeling_bert.JinaBertModel"}},
            "jinaai/impl",
        ),
        (
            "XLMRoberta",
            {"auto_map": {"AutoConfig": "a/b--configuration.Flash"}},
            "a/b--configuration",
        ),
        ("Bert", {"auto_map": {"AutoModel": "code.Model"}, "model_type": "fancy"}, "code.Model"),
    ],
)
def test_a_model_that_needs_code_of_its_own_is_refused(
    tmp_path: Path, kind: str, values: dict[str, object], named: str
) -> None:
    folder = build(tmp_path / "model", kind)
    edit(folder / "config.json", **values)
    told = refusal(folder, pooling="last")
    assert f"needs code of its own (auto_map in config.json: {named}" in told
    assert "Fetch it again" not in told


def test_a_decoder_that_says_it_is_not_causal_attends_in_both_directions(tmp_path: Path) -> None:
    plain = build(tmp_path / "plain", "Qwen2")
    folder = sentence(tmp_path / "model", Pooling(32, "lasttoken"), Normalize(), plain=plain)
    causal = load(folder).embed(["the quick fox", "a lazy dog sleeps"])
    edit(folder / "config.json", auto_map=GTE, is_causal=False)
    both_ways = load(folder)
    texts = ["the quick fox", "a lazy dog sleeps"]
    assert cosines(both_ways.embed(texts), causal).max() < 0.999
    network = transformers.AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    for text, vector in zip(texts, both_ways.embed(texts), strict=True):
        ids = torch.tensor(both_ways._tokens.ids([text]))
        size = ids.shape[1]
        with torch.inference_mode():
            states = network(ids, attention_mask=torch.zeros(1, 1, size, size)).last_hidden_state
        assert cosines(vector[None], states[:, -1].numpy()).min() > 0.99999


def test_a_decoder_whose_code_cannot_be_other_than_causal_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "OpenAIGPT")
    edit(folder / "config.json", is_causal=False)
    assert "sets is_causal to false in config.json, but the code" in refusal(folder, pooling="last")


def test_own_code_that_transformers_has_taken_over_is_no_reason(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "EuroBert")
    want = load(folder).embed(["the fox"])
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_eurobert.EuroBertModel"})
    assert np.array_equal(load(folder).embed(["the fox"]), want)
    # Code for other tasks alone is not used for embedding by anybody.
    edit(folder / "config.json", auto_map={"AutoModelForMaskedLM": "code.Masked"})
    assert load(folder).dim == 32


def test_a_tokenizer_that_needs_code_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.Own", None]})
    assert "needs code of its own for its tokens (auto_map in tokenizer_config" in refusal(folder)


def test_weights_that_are_not_used_are_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    heads = {"cls.predictions.bias": torch.ones(9), "embeddings.position_ids": torch.ones(1, 66)}
    save_file(weights | heads, folder / "model.safetensors", metadata={"format": "pt"})
    assert (
        load(folder).dim == 32
    )  # heads for other tasks, and a table that newer releases calculate
    gate = {"encoder.layer.0.mlp.gate.weight": torch.ones(64, 32)}
    save_file(weights | gate, folder / "model.safetensors", metadata={"format": "pt"})
    told = refusal(folder)
    assert (
        "has 1 weights that the bert of transformers does not use, like encoder.layer.0.mlp" in told
    )
    rename_weights(folder, "intermediate.dense", "mlp.gated_layers")
    assert "lacks 4 weights" in refusal(folder)


# --- the texts beside a text ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["FNet", "ConvBert", "Nystromformer", "Yoso"])
def test_a_model_whose_vectors_depend_on_the_batch_is_refused(tmp_path: Path, kind: str) -> None:
    told = refusal(build(tmp_path / "model", kind))
    assert (
        f"({kind.lower()}) gives a text another vector where a longer text is in the same" in told
    )


SPELLED = [
    "a <pad> b <pad> c d e f g",
    "<pad>",
    "<pad><pad>the fox",
    "the fox <pad>",
    "a </s> b <unk> c <s> d",
    "the quick brown fox jumps over the lazy dog",
    "a",
]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "kind", ["Bert", "Roberta", "XLMRoberta", "Camembert", "MPNet", "ModernBert"]
)
def test_special_tokens_that_a_text_spells_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, packed: bool
) -> None:
    if not packed:
        monkeypatch.setattr(encoder.Encoder, "_makes", lambda *_: False)
    plain = build(tmp_path / "plain", kind)
    folder = sentence(tmp_path / "model", Pooling(32, "mean"), Normalize(), plain=plain)
    embedder = load(folder)
    if not packed:
        assert not embedder._encoder.packs
    elif kind not in ("MPNet", "ModernBert"):
        assert embedder._encoder.packs
    want = alone(folder, SPELLED)
    assert cosines(embedder.embed(SPELLED), want).min() > 0.99999
    for text, vector in zip(SPELLED, want, strict=True):
        assert cosines(embedder.embed([text]), vector[None]).min() > 0.99999


# --- tokenizers -------------------------------------------------------------------------------


def test_a_vocabulary_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    told = refusal(words_only(tmp_path / "model"))
    assert "has a tokenizer that knows 5 tokens, its network knows 400" in told
    few = words_only(tmp_path / "few", "a", "b", "c")
    assert "has a tokenizer that knows 8 tokens" in refusal(few)


def test_a_vocabulary_without_words_is_refused(tmp_path: Path) -> None:
    unused = [f"[unused{n}]" for n in range(300)]
    told = refusal(words_only(tmp_path / "model", *unused))
    assert "has a vocabulary without words, by which all texts have the same vector" in told


@pytest.mark.parametrize("words", [("ქ", "ა"), ("ω", "東"), ("fox", "dog")])
def test_a_vocabulary_of_one_script_is_enough(tmp_path: Path, words: tuple[str, str]) -> None:
    unused = [f"[unused{n}]" for n in range(300)]
    embedder = load(words_only(tmp_path / "model", *unused, *words))
    one, other = embedder.embed(list(words))
    assert not np.allclose(one, other, atol=1e-3)


def test_a_network_that_gives_all_texts_one_vector_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    flat = {key: value.zero_() if "word_emb" in key else value for key, value in weights.items()}
    save_file(flat, folder / "model.safetensors", metadata={"format": "pt"})
    told = refusal(folder, pooling="mean")
    assert "gives different texts the same vector" in told


def slow(folder: Path) -> Path:
    """A model whose tokenizer is written in Python."""
    words_only(folder, *(chr(0x4E00 + n) for n in range(300)))
    settings = {
        "tokenizer_class": "BertJapaneseTokenizer",
        "word_tokenizer_type": "basic",
        "subword_tokenizer_type": "character",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_tokenizer_without_a_fast_version_embeds_but_cuts_no_chunks(tmp_path: Path) -> None:
    folder = slow(tmp_path / "model")
    embedder = load(folder)
    one, other = embedder.embed(["一丁", "七丈"])
    assert not np.allclose(one, other, atol=1e-3)
    with pytest.raises(
        Exception, match="tokenizer without a fast version, which cannot cut"
    ) as told:
        embedder.chunks("一丁" * 40, 8, 0)
    assert "Take `chunks` out of the tables" in str(told.value)
    sentence_files = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    sentence_files += [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(sentence_files))
    edit(folder / "sentence_bert_config.json", do_lower_case=True)
    assert "sets do_lower_case, and its tokenizer has no fast version" in refusal(folder)


def test_a_lone_sentencepiece_file_is_refused_with_what_helps(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "XLMRoberta")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    edit(folder / "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    told = refusal(folder)
    assert "sentencepiece file alone" in told
    assert "save it anew" in told
    assert "Fetch it again" not in told


def test_a_token_that_the_network_lacks_is_an_unknown_word(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    made = transformers.AutoTokenizer.from_pretrained(folder)
    filling = [f"<filling{n}>" for n in range(size - len(made))]
    made.add_tokens([*filling, "<image>"])
    assert made.convert_tokens_to_ids("<image>") == size
    made.unk_token = "<unk>"
    made.save_pretrained(folder)
    embedder = load(folder)
    vectors = embedder.embed(["a<image>b", "a<unk>b", "ab"])
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-3)


def test_texts_among_many_have_the_vectors_of_texts_alone(tmp_path: Path) -> None:
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "<pad>"]
    texts = [" ".join(each) for each in itertools.product(words[:3], words[4:], words)]
    texts += [" ".join(words[:n]) for n in range(1, 9)]
    folder = build(tmp_path / "model", "XLMRoberta")
    embedder = load(folder)
    apart = np.concatenate([embedder.embed([text]) for text in texts])
    assert cosines(embedder.embed(texts), apart).min() > 0.99999
