"""Why a model cannot be loaded, and what helps: transformers does not say. No torch here."""

import sys
from pathlib import Path

from operators.errors import FatalError
from operators.model.files import first_line, model_error


def cannot_be_loaded(
    name: str, folder: Path, error: Exception, *, tokenizer: bool = False
) -> FatalError:
    """The error for a part of a model that transformers has refused: its tokenizer, or another."""
    hint = "Fetch it again, or choose another"
    sentencepiece = any(folder.glob("*.model")) and not (folder / "tokenizer.json").exists()
    if sys.flags.optimize > 1:
        hint = "Start Python without -OO, which takes out docstrings that transformers needs"
    elif tokenizer and sentencepiece:
        hint = (
            "Its tokenizer is a sentencepiece file alone: where the library sentencepiece is "
            "installed, save it anew, which makes a tokenizer.json: "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    elif isinstance(error, ImportError) or "pip install" in str(error):
        hint = "Install the library that it names beside Rowvec, or choose another model"
    return model_error(name, f"cannot be loaded: {first_line(error)}", hint)
