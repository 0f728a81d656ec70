"""Small models with random weights, made from their configurations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from operators.contract.sections import EmbeddingSection
from operators.errors import FatalError
from operators.model.transformer import TransformerEmbedder

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def load(model: str | Path, **settings) -> TransformerEmbedder:
    settings.setdefault("device", "cpu")
    return TransformerEmbedder(EmbeddingSection(model=str(model), **settings))


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return (ours * theirs).sum(axis=1) / norms


def tokenizer(*, special: bool) -> transformers.PreTrainedTokenizerFast:
    """A byte-pair tokenizer; with `special`, it writes <s> before and </s> after a text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 9, trainer)
    if special:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", model_max_length=48
    )


def build(folder: Path, kind: str = "Bert", *, special: bool = True, seed: int = 0) -> Path:
    """A small random model without sentence-transformers' files."""
    config = getattr(transformers, f"{kind}Config")()
    small = {
        "vocab_size": 400,
        "hidden_size": 32,
        "d_model": 32,
        "num_hidden_layers": 2,
        "num_layers": 2,
        "num_attention_heads": 2,
        "num_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "d_ff": 64,
        "max_position_embeddings": 66,
        "initializer_range": 0.3,
        "pad_token_id": 1,
        "layer_types": ["full_attention"] * 2,
    }
    config = type(config)(**{key: value for key, value in small.items() if hasattr(config, key)})
    torch.manual_seed(seed)
    with torch.random.fork_rng():
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer(special=special).save_pretrained(folder)
    return folder


def sentence(folder: Path, *after: torch.nn.Module, plain: Path | None = None, **options) -> Path:
    """A model with the files that the current sentence-transformers writes."""
    modules = [Transformer(str(plain or build(folder.parent / "plain"))), *after]
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder))
    return folder


def theirs(folder: Path, texts: list[str], **options) -> np.ndarray:
    # float32 like the embedder; the default would be the checkpoint's dtype.
    model = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": "float32"}, local_files_only=True
    )
    return model.encode(texts, convert_to_numpy=True, **options)


def edit(path: Path, **values) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data | values))


def refusal(model: str | Path, **settings) -> str:
    with pytest.raises(FatalError) as caught:
        load(model, **settings)
    return str(caught.value)


def words_only(folder: Path, *words: str, kind: str = "Bert") -> Path:
    """A model with a vocabulary of these words, in vocab.txt."""
    build(folder, kind)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *words, ""]))
    return folder
