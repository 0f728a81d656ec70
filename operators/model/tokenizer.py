"""A model's tokenizer: texts → token ids. No torch here."""

import os
import re
import threading
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer

from operators.model.chunks import Chunker
from operators.model.files import VOCABULARIES, OwnSettings, first_line, model_error

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokens:
    """The tokenizer of one model.

    Threads may share it. The Hugging Face tokenizer is used under a lock, because each call sets its
    truncation; `chunks` uses a copy that is never changed, so it needs no lock.

    A lone surrogate, which no tokenizer accepts, is read as U+FFFD.

    Attributes:
        model_max_length: Tokens that the model reads, as the tokenizer says; near 10^30 if it says
            nothing.
        pad_id: The token that fills up a batch.

    Raises:
        FatalError: There is no tokenizer, it is broken, or its model needs more than token ids.
    """

    def __init__(self, name: str, own: OwnSettings) -> None:
        self._tokenizer = _load(name, own)
        self._lock = threading.Lock()
        self._made_chunker: Chunker | None = None
        self.model_max_length = int(self._tokenizer.model_max_length)
        self.pad_id = int(self._tokenizer.pad_token_id or 0)
        # A model needs at least one token, which an empty text lacks without special tokens.
        self._nothing = int(self._tokenizer.eos_token_id or self.pad_id)

    def ids(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each text, special tokens included; at least one.

        Args:
            texts: Texts to tokenise.
            max_length: The most tokens of a text, the rest is dropped; None for all.
        """
        if not texts:
            return []
        with self._lock:
            encoded = self._tokenizer(
                [_readable(text) for text in texts],
                truncation=max_length is not None,
                max_length=max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
        return [ids or [self._nothing] for ids in encoded["input_ids"]]

    def overhead(self, prompt: str) -> int:
        """Tokens that are added to every text: the special ones, and those of the prompt."""
        return 0 if (ids := self.ids([prompt])[0]) == [self._nothing] else len(ids)

    def chunks(self, text: str, max_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
        """Split a text; see `Embedder.chunks`."""
        return self._chunker().split(_readable(text), max_tokens, overlap_tokens)

    def _chunker(self) -> Chunker:
        """Splits by a copy of the tokenizer that never truncates or pads; using it needs no lock."""
        with self._lock:
            if self._made_chunker is None:
                counter = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
                counter.no_truncation()
                counter.no_padding()
                self._made_chunker = Chunker(counter)
            return self._made_chunker


def _load(name: str, own: OwnSettings) -> Any:
    # If there is no vocabulary, transformers makes an empty tokenizer, for which all texts are equal.
    if not any(path for kind in VOCABULARIES for path in own.encoder.glob(kind)):
        raise model_error(name, "has no tokenizer", "Give the folder of a whole Hugging Face model")
    # Set explicitly; otherwise tokenizers warns at each fork of a process that has used threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            own.encoder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # broken files raise errors of any type
        raise model_error(
            name, f"cannot be loaded: {first_line(error)}", "Fetch it again, or choose another"
        ) from error
    if any(tokenizer("text").get("token_type_ids", ())):
        raise model_error(name, "marks its tokens by type", "Choose an encoder that does not")
    if own.lowercase and tokenizer.backend_tokenizer.normalizer is None:
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    elif own.lowercase:
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), tokenizer.backend_tokenizer.normalizer]
        )
    return tokenizer


def _readable(text: str) -> str:
    """The text with each lone surrogate replaced; the number of characters stays the same."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
