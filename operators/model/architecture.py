"""A model's config.json: whether transformers builds the network that the weights were trained in.

transformers ignores what it does not know: keys of config.json, code that a repository brings, weights
that have no place. The network is then another one than the authors', and its vectors look like any
other. So what is not known here is refused. No torch here.
"""

import inspect
import re
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from operators.model.files import model_error, read_json
from operators.model.load_errors import cannot_be_loaded

_SAME_CODE = frozenset({("eurobert", "EuroBertModel"), ("nomic_bert", "NomicBertModel")})
"""(model_type, class) of repositories whose own code transformers has taken over."""

_SAME_VALUES: dict[str, dict[str, object]] = {
    "modernbert": {"layer_norm_eps": 1e-5},
    "roformer": {"use_bias": True},
    "nomic_bert": {  # those of nomic-embed-text-v1.5
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_inner": 3_072,
        "n_positions": 8_192,
        "activation_function": "swiglu",
        "layer_norm_epsilon": 1e-12,
        "dense_seq_output": True,
        "rotary_emb_base": 1_000,
        "rotary_emb_fraction": 1.0,
        "max_trained_positions": 2_048,
        "fused_bias_fc": True,
        "fused_dropout_add_ln": True,
        "scale_attn_weights": True,
        "use_flash_attn": True,
        "use_xentropy": True,
        "pad_vocab_size_multiple": 64,
    },
}
"""By model_type: keys that transformers knows by other names, or fixes, with the values that it has.
A model with other values is another network."""

_NO_EFFECT = re.compile(
    # what the file is and where it comes from
    r"_name_or_path|_commit_hash|_num_labels|architectures?|model_type|model_name|auto_map|name|author"
    r"|language|license|finetuning_task|task_specific_params|tokenizer_class|transformers_version"
    # how it was trained, and heads for other tasks than embedding
    r"|.*dropout(_prob|_rate)?|.*_pdrop|.*gradient_checkpointing|init(ializer)?_.*|.*_init|.*_loss.*"
    r"|.*label.*|problem_type|classifier_.*|pooler_.*|summary_.*|directionality|tie_weights_|n_special"
    # the type of numbers, which is Rowvec's choice, and what is only for generating texts
    r"|(torch_)?dtype|use_cache|output_past|.*_token_ids?|xla_device|vocab_size_or_config_json_file"
    r"|max_length|min_length|do_sample|early_stopping|num_(beams|beam_groups|return_sequences)|prefix"
    r"|temperature|top_[kp]|typical_p|.*_penalty|.*no_repeat_ngram_size|bad_words_ids|forced_.*"
    r"|(begin_)?suppress_tokens|remove_invalid_values|output_(scores|attentions|hidden_states)"
    r"|return_dict(_in_generate)?|torchscript"
    r"|(bos|eos|pad|mask)_token|mlm_probability|generator_(hidden_)?size|training|train_args|cell|amp"
    # what releases of the same network had before it was in transformers, always at one value
    r"|down_scale_factor|gap_size|layers_to_keep|net_structure_type|num_memory_blocks|clf_pooling"
    r"|attention_(mode|dilation)|ignore_attention_mask|autoregressive|max_sequence_length|norm_type"
    r"|reference_compile|repad_logits_with_grad"
    # adapters that are listed but not loaded; a folder with one is refused
    r"|adapters|adapter_fusion_models"
)
"""Keys that older releases wrote and that have no effect on the states of the last layer."""


def check_architecture(name: str, folder: Path) -> Any:
    """Read config.json; refuse a model that would not be what its authors trained.

    Returns:
        The configuration as transformers understands it.

    Raises:
        FatalError: The model needs code of its own, is no encoder, or has settings that transformers
            does not know.
    """
    raw = read_json(name, folder / "config.json", {})
    if not isinstance(raw, dict):
        raise model_error(name, "has a config.json without settings", "Fetch it again")
    _check_own_code(name, raw, folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # broken files raise errors of any type
        raise cannot_be_loaded(name, folder, error) from error
    # The encoder of T5 alone is saved as no such model, and would be loaded as a whole one.
    if config.is_encoder_decoder or type(config).is_encoder_decoder:
        raise model_error(
            name, "is a sequence-to-sequence model", "Choose an encoder for text embeddings"
        )
    known = _words_of(type(config))
    same = _SAME_VALUES.get(config.model_type, {}) | {"position_embedding_type": "absolute"}
    unknown = sorted(
        key
        for key, value in raw.items()
        if value
        and key not in known
        and not _NO_EFFECT.fullmatch(key)
        and not (key in same and same[key] == value)
    )
    if unknown:  # guard: model-config-known
        raise model_error(
            name,
            f"sets {', '.join(unknown)} in config.json, which the {config.model_type} of transformers "
            "does not know: its vectors would be others than the authors'",
            "Choose another model; or, if that has no effect on the vectors, take it out of "
            "config.json in a copy of the folder",
        )
    # BigBird's attention changes for good with the first batch of texts as short as that.
    sparse = getattr(config, "attention_type", None) == "block_sparse"
    if sparse and config.max_position_embeddings > config.block_size * (
        5 + 2 * config.num_random_blocks
    ):
        raise model_error(
            name,
            "has attention_type block_sparse, by which a vector depends on the texts embedded before",
            'Set "attention_type": "original_full" in config.json in a copy of the folder',
        )
    return config


def _words_of(config: type[Any]) -> set[str]:
    """The words in transformers' code for a kind of model, and in that of all kinds.

    A key that is not among them cannot have an effect there.
    """
    package = Path(inspect.getfile(config)).parent
    files = [
        path for kind in ("configuration", "modeling") for path in package.glob(f"{kind}_*.py")
    ]
    words = {word for path in files for word in re.findall(r"\w+", path.read_text("utf-8"))}
    common = {"is_causal", "chunk_size_feed_forward", "pruned_heads"}
    if "rope_parameters" in words:
        common |= {"rope_theta", "rope_scaling"}
    return words | common


def _check_own_code(name: str, raw: dict[str, Any], folder: Path) -> None:
    """Refuse a model whose repository brings code, unless transformers' own does the same."""
    code = raw.get("auto_map") or {}
    if not isinstance(code, dict):
        code = {"AutoModel": code}
    model = str(code.get("AutoModel", "")) or str(code.get("AutoConfig", ""))
    same = (raw.get("model_type"), model.rpartition(".")[2]) in _SAME_CODE
    # With is_causal = false, transformers' own decoders attend in both directions, as that code does.
    if model and not same and raw.get("is_causal") is not False:  # guard: model-own-code
        raise model_error(
            name,
            f"needs code of its own (auto_map in config.json: {model}), which Rowvec never runs; the "
            f"{raw.get('model_type')} of transformers may be another network",
            "Choose a model that transformers knows by itself",
        )
    tokenizer = read_json(name, folder / "tokenizer_config.json", {})
    if isinstance(tokenizer, dict) and tokenizer.get("auto_map"):
        raise model_error(
            name,
            "needs code of its own for its tokens (auto_map in tokenizer_config.json), which Rowvec "
            "never runs",
            "Choose a model that transformers knows by itself",
        )
