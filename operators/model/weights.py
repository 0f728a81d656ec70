"""Loads a network and its weights; refuses what transformers would quietly leave out or make up."""

import re
from typing import Any

import torch
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from operators.model.architecture import check_architecture
from operators.model.files import model_error
from operators.model.load_errors import cannot_be_loaded
from operators.model.own_settings import OwnSettings

_OTHER_TASKS = re.compile(
    r"(\w+\.)?(cls|classifier|dense_head|discriminator_predictions|generator_(predictions|lm_head)|head"
    r"|lm_head|lm_loss|lm_predictions|mask_predictions|pooler|pre_classifier|pred_layer|predictions"
    r"|qa_outputs|score|sop_classifier|vocab_(projector|transform|layer_norm))\..*"
    # tables that older releases saved and newer ones calculate
    r"|(.*\.)?(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|embed_positions\.weights)"
)
"""Weights that have no part in the states of the last layer."""


def load_network(name: str, own: OwnSettings, device: torch.device, dtype: torch.dtype) -> Any:
    """The network of a model, with all of its weights, ready to calculate.

    Raises:
        FatalError: The files are not those of a complete text encoder; the message says what to do.
    """
    folder = own.encoder
    if not (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        raise model_error(
            name,
            f"has no config.json in {folder}, or is an adapter of another model",
            "Give the folder of a whole Hugging Face model",
        )
    if not any(folder.glob("*.safetensors")):
        raise model_error(
            name,
            "has no weights as *.safetensors; others can run code when loaded, and are refused",
            "Save it anew with transformers: `AutoModel.from_pretrained(…).save_pretrained(…)`",
        )
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    config = check_architecture(name, folder)
    try:
        # transformers chooses the attention: SDPA, or the model's own if it has no SDPA (MPNet).
        encoder: Any
        encoder, report = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        encoder.eval().to(device)
    except Exception as error:  # broken files raise errors of any type
        raise cannot_be_loaded(name, folder, error) from error
    # transformers would silently fill missing weights with random numbers.
    missing = sorted(
        key for key in {*report["missing_keys"], *report["mismatched_keys"]} if "pooler" not in key
    )
    if missing:
        raise model_error(
            name, f"lacks {len(missing)} weights, like {missing[0]}", "Fetch it again"
        )
    left_out = sorted(key for key in report["unexpected_keys"] if not _OTHER_TASKS.fullmatch(key))
    if left_out:  # guard: model-weights-used
        raise model_error(
            name,
            f"has {len(left_out)} weights that the {config.model_type} of transformers does not use, "
            f"like {left_out[0]}: its vectors would be others than the authors'",
            "Choose a model that transformers knows by itself",
        )
    return encoder
