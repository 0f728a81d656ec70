"""How a model's own files say that its vectors are made: those of sentence-transformers. No torch here.

They stand beside the weights (`modules.json`, `1_Pooling/config.json`, …). A setting that is not
implemented, or not known, is refused, because a wrong vector looks like any other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.model.files import model_error, read_json
from operators.model.prompts import NO_PROMPTS, OwnPrompts, own_prompts

POOLINGS = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    # as older versions of sentence-transformers wrote them
    "mean_tokens": "mean",
    "cls_token": "cls",
}

_SHAPES = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])

_SHARED = "config_sentence_transformers.json"

_KNOWN_SHARED = frozenset({"__version__", "model_type", "prompts", "default_prompt_name"}) | {
    "similarity_fn_name",  # for comparing vectors, not for making them
    "requirements",  # of packages; no module here needs one
    "truncate_dim",
}

_KNOWN_TRANSFORMER = frozenset({"max_seq_length", "do_lower_case", "unpad_inputs"}) | {
    "transformer_task",
    "modality_config",
    "module_output_name",
}

_KNOWN_POOLING = frozenset({"word_embedding_dimension", "embedding_dimension", "include_prompt"})

_KNOWN_NORMALIZE = frozenset({"module_input_name", "module_output_name"})


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """Settings in a model's own sentence-transformers files.

    Attributes:
        encoder: The folder of the transformer.
        truncate_dim: Length to which its vectors are cut, after everything else; None for no cut.
        pools_prompt: Whether the states of a prompt count in the pooling.
        plain: Whether the model has no such files.
    """

    encoder: Path
    pooling: str = "mean"
    normalize: bool = True
    max_length: int | None = None
    lowercase: bool = False
    prompts: OwnPrompts = NO_PROMPTS
    truncate_dim: int | None = None
    pools_prompt: bool = True
    plain: bool = True


def own_settings(name: str, folder: Path) -> OwnSettings:
    """Read the files of sentence-transformers; refuse settings that are not implemented.

    Raises:
        FatalError: The model is made of more than an encoder, its pooling and normalisation; or a
            file is broken.
    """
    try:
        return _own_settings(name, folder)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise model_error(
            name,
            "has files of sentence-transformers that are not in their form (modules.json, "
            f"{_SHARED}, …): {type(error).__name__}",
            "Fetch the model again, or save it anew with sentence-transformers",
        ) from error


def _own_settings(name: str, folder: Path) -> OwnSettings:
    modules = read_json(name, folder / "modules.json", None)
    if modules is None:
        return OwnSettings(encoder=folder)
    # A module's type is a dotted name. One outside of sentence_transformers is the model's own code.
    kinds = [
        of.rsplit(".", 1)[-1] if of.startswith("sentence_transformers.") else of
        for of in (module["type"] for module in modules)
    ]
    configs = [read_json(name, folder / m["path"] / "config.json", {}) for m in modules]
    shared = read_json(name, folder / _SHARED, {})
    encoder = folder / modules[0]["path"]
    # In old models the middle of this file's name depends on the architecture.
    files = sorted(encoder.glob("sentence_*_config.json"))
    settings = read_json(name, files[0], {}) if files else {}
    pooling = configs[1] if len(configs) > 1 else {}
    text_input = settings.get("modality_config", {}).get("text", {})
    kind = shared.get("model_type", "SentenceTransformer")
    truncate_dim = shared.get("truncate_dim")
    refused = (
        (kinds not in _SHAPES, f"is made of {' → '.join(kinds)}"),
        (kind != "SentenceTransformer", f"is a {kind}"),
        (
            any(module.get("kwargs") for module in modules),
            "gives arguments to its modules in modules.json",
        ),
        *_unknown(settings, _KNOWN_TRANSFORMER, files[0].name if files else ""),
        *_unknown(shared, _KNOWN_SHARED, _SHARED),
        *_unknown(
            {key: on for key, on in pooling.items() if not key.startswith("pooling_mode")},
            _KNOWN_POOLING,
            "the pooling's config.json",
        ),
        *_unknown(
            configs[2] if len(configs) > 2 else {}, _KNOWN_NORMALIZE, "Normalize's config.json"
        ),
        (
            settings.get("transformer_task", "feature-extraction") != "feature-extraction"
            or text_input.get("method", "forward") != "forward"
            or text_input.get("method_output_name", "last_hidden_state") != "last_hidden_state"
            or any(
                config.get(key, "sentence_embedding") != "sentence_embedding"
                for config in configs[1:]
                for key in ("module_input_name", "module_output_name")
            ),
            "takes other states of its transformer than the last",
        ),
        (
            truncate_dim is not None and not (type(truncate_dim) is int and truncate_dim > 0),
            f"sets truncate_dim to {truncate_dim!r} in {_SHARED}",
        ),
    )
    for is_so, cause in refused:
        if is_so:  # guard: model-settings-known
            raise model_error(
                name,
                f"{cause}, which is not implemented and would give other vectors",
                "Choose a model of the shape Transformer → Pooling → Normalize",
            )
    return OwnSettings(
        encoder=encoder,
        pooling=_pooling(pooling),
        normalize="Normalize" in kinds,
        max_length=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case")),
        prompts=own_prompts(name, shared),
        truncate_dim=truncate_dim,
        pools_prompt=bool(pooling.get("include_prompt", True)),
        plain=False,
    )


def _unknown(
    settings: Mapping[str, Any], known: frozenset[str], file: str
) -> tuple[tuple[bool, str], ...]:
    """The settings of a file that are on and that nobody here knows, as an entry of `refused`."""
    names = sorted(key for key, value in settings.items() if value and key not in known)
    return ((bool(names), f"sets {', '.join(names)} in {file}"),)


def _pooling(config: Mapping[str, Any]) -> str:
    """How it pools, by the names of `POOLINGS`; several joined by "+"."""
    if "pooling_mode" in config:
        modes = config["pooling_mode"]
    else:
        modes = [
            key.removeprefix("pooling_mode_")
            for key, on in config.items()
            if key.startswith("pooling_mode_") and on
        ] or "mean"
    modes = [modes] if isinstance(modes, str) else modes
    return "+".join(POOLINGS.get(mode, mode) for mode in modes)
