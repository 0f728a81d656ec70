"""A model's tokenizer: texts → token ids. No torch here."""

import os
import re
import threading
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer

from operators.model.chunks import Chunker
from operators.model.files import VOCABULARIES, model_error
from operators.model.load_errors import cannot_be_loaded
from operators.model.own_settings import OwnSettings

_SURROGATE = re.compile("[\ud800-\udfff]")


_LEAST_SHARE = 0.5
"""Of the tokens that a network knows, the share that its tokenizer knows at least. Networks have a few
more, to fill up a table; one whose tokenizer knows half of them has lost a part of its vocabulary."""

_TRIED_TOKENS = 200
"""How many tokens of a vocabulary are looked through for words, if those below are not in it."""

_SPECIAL = ("pad", "mask", "eos", "bos", "sep", "cls", "unk")

_WORDS = (
    "fox",
    "dog",
    "лиса",
    "собака",
    "狐",
    "犬",
    "여우",
    "개",
    "ثعلب",
    "كلب",
    "लोमड़ी",
    "कुत्ता",
    "แมว",
)


class Tokens:
    """The tokenizer of one model.

    Threads may share it. The Hugging Face tokenizer is used under a lock, because each call sets its
    truncation; `chunks` uses a copy that is never changed, so it needs no lock.

    A lone surrogate, which no tokenizer accepts, is read as U+FFFD.

    Attributes:
        model_max_length: Tokens that the model reads, as the tokenizer says; near 10^30 if it says
            nothing.
        pad_id: The token that fills up a batch.
        special: Tokens with a meaning of their own: padding, the end of a text, a hidden word, ….

    Args:
        name: The model's, for messages.
        own: Its own settings.
        vocabulary: How many tokens its network knows; 0 if it does not say.

    Raises:
        FatalError: There is no tokenizer, it is broken, or its model needs more than token ids.
    """

    def __init__(self, name: str, own: OwnSettings, vocabulary: int) -> None:
        self._tokenizer = _load(name, own)
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._made_chunker: Chunker | None = None
        self._name = name
        self.model_max_length = int(self._tokenizer.model_max_length)
        self.pad_id = int(self._tokenizer.pad_token_id or 0)
        # A model needs at least one token, which an empty text lacks without special tokens.
        self._nothing = int(self._tokenizer.eos_token_id or self.pad_id)
        named = {getattr(self._tokenizer, f"{kind}_token_id", None) for kind in _SPECIAL}
        self.special = sorted(each for each in named if each is not None and self._knows(each))
        unknown = self._tokenizer.unk_token_id
        self._unknown = int(unknown) if unknown in self.special else self._nothing
        self._knows_all = all(map(self._knows, self._tokenizer.get_vocab().values()))

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
        rows: list[list[int]] = [ids or [self._nothing] for ids in encoded["input_ids"]]
        if self._knows_all:
            return rows
        # A few tokenizers have tokens that their network lacks (of images, …); a text may spell one.
        return [[each if self._knows(each) else self._unknown for each in row] for row in rows]

    def _knows(self, token: int) -> bool:
        """Whether the network has states for this token."""
        return not self._vocabulary or token < self._vocabulary  # guard: model-token-beyond

    def two_words(self) -> tuple[list[int], list[int]]:
        """Token ids of two words that the tokenizer tells apart.

        Raises:
            FatalError: There are no such words: the vocabulary is empty, or was cut short.
        """
        tokens = self._tokenizer.get_vocab()
        if len(tokens) < self._vocabulary * _LEAST_SHARE:  # guard: model-vocabulary-size
            raise model_error(
                self._name,
                f"has a tokenizer that knows {len(tokens)} tokens, its network "
                f"knows {self._vocabulary}",
                "Its vocabulary was cut short: fetch it again",
            )
        step = max(1, len(tokens) // _TRIED_TOKENS)
        words = [*_WORDS, *sorted(tokens)[::step]]
        unknown = {*self._tokenizer.all_special_ids, self._unknown}
        first: list[int] = []
        for ids in self.ids(words):
            known = [token for token in ids if token not in unknown]
            if known and not first:
                first = ids
            elif known and ids != first:
                return first, ids
        raise model_error(
            self._name,
            "has a vocabulary without words, by which all texts have the same vector",
            "Fetch its tokenizer again, or choose another model",
        )

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
                if not self._tokenizer.is_fast:  # guard: model-fast-tokenizer
                    raise model_error(
                        self._name,
                        "has a tokenizer without a fast version, which cannot cut texts into chunks",
                        "Take `chunks` out of the tables, or choose a model with a tokenizer.json",
                    )
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
        raise cannot_be_loaded(name, own.encoder, error, tokenizer=True) from error
    if any(tokenizer("text").get("token_type_ids", ())):
        raise model_error(name, "marks its tokens by type", "Choose an encoder that does not")
    if own.lowercase and not tokenizer.is_fast:
        raise model_error(
            name,
            "sets do_lower_case, and its tokenizer has no fast version to set it in",
            "Choose a model with a tokenizer.json",
        )
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
