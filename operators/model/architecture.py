"""A model's config.json: whether transformers builds the network that the weights were trained in.

transformers ignores what it does not know: keys of config.json, code that a repository brings, weights
that have no place. The network is then another one than the authors', and its vectors look like any
other. So what is not known here is refused. No torch here.
"""

import re
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from operators.model.files import model_error, read_json
from operators.model.load_errors import cannot_be_loaded

_SAME_CODE = frozenset({("eurobert", "EuroBertModel")})
"""(model_type, class) of repositories whose own code is by now in transformers, by the same authors."""

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
        default = type(config)()
    except Exception as error:  # broken files raise errors of any type
        raise cannot_be_loaded(name, folder, error) from error
    # The encoder of T5 alone is saved as no such model, and is then loaded as a whole one.
    if config.is_encoder_decoder or default.is_encoder_decoder:
        raise model_error(
            name, "is a sequence-to-sequence model", "Choose an encoder for text embeddings"
        )
    known = {*config.attribute_map, "is_causal"}
    if hasattr(default, "rope_parameters"):
        known |= {"rope_theta", "rope_scaling", "global_rope_theta", "local_rope_theta"}
    unknown = sorted(
        key
        for key, value in raw.items()
        if value
        and key not in known
        and not _NO_EFFECT.fullmatch(key)
        and not hasattr(default, key)
        and (key, value) != ("position_embedding_type", "absolute")
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


def _check_own_code(name: str, raw: dict[str, Any], folder: Path) -> None:
    """Refuse a model whose repository brings code, unless transformers' own does the same."""
    code = raw.get("auto_map") or {}
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
    tokenizer = read_json(name, folder / "tokenizer_config.json", {}).get("auto_map") or {}
    if tokenizer:
        raise model_error(
            name,
            "needs code of its own for its tokens (auto_map in tokenizer_config.json), which Rowvec "
            "never runs",
            "Choose a model that transformers knows by itself",
        )
