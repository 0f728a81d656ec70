"""The transformer: any Hugging Face text encoder as an `Embedder`. The only import of torch.

What a model's own files say (`operators.model_files`) is done, unless the contract says otherwise.
No code of a model's repository runs: weights are safetensors only, `trust_remote_code` is off.
"""

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import normalizers
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from operators.contract import EmbeddingSection
from operators.embedding import token_batches
from operators.errors import FatalError
from operators.model_files import (
    POOLINGS,
    VOCABULARIES,
    OwnSettings,
    fingerprint,
    first_line,
    locate,
    model_error,
    own_settings,
)

MAX_BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768}
"""Padded tokens per batch unless the contract says otherwise: on a CPU what stays in its cache."""

_UNLIMITED = 10**6
"""Where a tokenizer has no limit, transformers writes a number near 10^30."""


class TransformerEmbedder:
    """A Hugging Face encoder on a GPU or CPU; implements `Embedder`.

    Texts longer than `max_length` are truncated. Calls from several threads take turns.

    Attributes:
        model: `name@revision`, the revision being 12 hex digits: of the hub's commit if there is
            one, else of a hash of the model's files; hashed again with the settings of the contract
            where they differ from the model's own. Device and dtype are no part of it, nor is the
            place on disk: a folder is called by its own name.
        dim: Length of a vector.
        max_length: Tokens of a text that are read, special tokens included.
        max_batch_tokens: Padded tokens per batch; halved for good when the device runs out.
        tokens_total: Tokens read since the start, without padding.
        padded_tokens_total: The same with padding, which is what was calculated.

    Raises:
        FatalError: The model, the device or a setting is beyond use; the message says what to do.
    """

    def __init__(self, section: EmbeddingSection) -> None:
        # Said aloud, or the tokenizers warn at each fork of a process that has used threads.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        self._device, dtype = _device_and_dtype(section)
        self._name, folder, revision = locate(section)
        own = own_settings(self._name, folder)
        self._pooling = own.pooling if section.pooling == "auto" else section.pooling
        if self._pooling not in POOLINGS.values():
            raise self._fatal(
                f"pools by {self._pooling}, which is not implemented",
                "Choose a model that pools by mean, cls or last token; or set pooling",
            )
        self._normalize = own.normalize if section.normalize == "auto" else section.normalize
        self._prompt, self._query_prompt = own.document_prompt, own.query_prompt
        self._tokenizer, self._encoder = _load(self._name, own, self._device, dtype)
        own_length, limit = self._lengths(own)
        self.max_length = section.max_length or own_length
        if self.max_length > limit:
            raise self._fatal(
                f"reads {limit} tokens at most, and max_length is {self.max_length}"
                if limit < _UNLIMITED
                else "does not say how many tokens it reads",
                "Set max_length to what the model was trained for",
            )
        self.max_batch_tokens = section.max_batch_tokens or MAX_BATCH_TOKENS[self._device.type]
        self.tokens_total = 0
        self.padded_tokens_total = 0
        self._lock = threading.Lock()
        self.dim = self._try_out(allow_decoder=section.pooling != "auto" or not own.plain)
        changed = {
            key: ours
            for key, ours, theirs in (
                ("pooling", self._pooling, own.pooling),
                ("normalize", self._normalize, own.normalize),
                ("max_length", self.max_length, own_length),
            )
            if ours != theirs
        }
        revision = revision or fingerprint(folder)
        if changed:
            revision = hashlib.sha256(f"{revision} {json.dumps(changed)}".encode()).hexdigest()
        self.model = f"{self._name}@{revision[:12]}"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of documents, float32 of shape (len(texts), dim), in the order of the texts.

        The model's document prompt, if it has one, goes before each text. Identical texts are
        embedded once. A batch that does not fit into memory is halved, and so are those after it.

        Raises:
            FatalError: A single text does not fit, a vector is not finite, or the device failed.
        """
        return self._embed([self._prompt + text for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of search queries: as `embed`, but with the model's query prompt."""
        return self._embed([self._query_prompt + text for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as `embed` would read it were there no `max_length`."""
        with self._lock:
            return [len(ids) for ids in self._tokenize([self._prompt + t for t in texts], None)]

    def _embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if not places:
            return np.empty((0, self.dim), np.float32)
        with self._lock:
            tokens = self._tokenize(list(places), self.max_length)
            try:
                vectors = self._embed_tokens(tokens)
            except (RuntimeError, IndexError) as error:
                raise self._fatal(
                    f"failed on {self._device}: {first_line(error)}",
                    "Check the device and the model",
                ) from error
        if not np.isfinite(vectors).all():
            raise self._fatal(
                f"made a vector that is not finite, in {self._encoder.dtype}",
                "Set dtype to float32, or use a model whose weights are sound",
            )
        return vectors[[places[text] for text in texts]]

    def _tokenize(self, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        # Where a tokenizer adds no special tokens, an empty text has none; a model needs one.
        nothing = self._tokenizer.eos_token_id or self._tokenizer.pad_token_id or 0
        return [ids or [nothing] for ids in encoded["input_ids"]]

    def _embed_tokens(self, tokens: list[list[int]]) -> npt.NDArray[np.float32]:
        lengths = [len(ids) for ids in tokens]
        pending = deque(token_batches(lengths, self.max_batch_tokens))
        order: list[int] = []
        parts: list[torch.Tensor] = []
        while pending:
            batch = pending.popleft()
            cost = len(batch) * max(lengths[index] for index in batch)
            try:
                part = self._forward([tokens[index] for index in batch])
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise self._fatal(
                        f"cannot hold one text of {cost} tokens in the memory of {self._device}",
                        "Lower max_length, or give the device more memory",
                    ) from error
                part = None
            if part is None:  # outside of `except`, which keeps the tensors of the failure alive
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                self.max_batch_tokens = cost // 2
                left = [*batch, *(index for other in pending for index in other)]
                packed = token_batches([lengths[index] for index in left], self.max_batch_tokens)
                pending = deque([left[place] for place in places] for places in packed)
                continue
            order += batch
            parts.append(part)
            self.tokens_total += sum(lengths[index] for index in batch)
            self.padded_tokens_total += cost
        vectors = np.empty((len(tokens), self.dim), np.float32)
        vectors[order] = torch.cat(parts).cpu().numpy()
        return vectors

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> torch.Tensor:
        """Pooled vectors of one batch, float32 of shape (len(rows), dim), on the device."""
        hidden, mask = self._hidden(rows)
        match self._pooling:
            case "cls":
                pooled = hidden[:, 0].float()
            case "last":
                row = torch.arange(len(rows), device=self._device)
                pooled = hidden[row, mask.sum(1) - 1].float()
            case _:
                weights = mask.float().unsqueeze(1)
                pooled = (weights @ hidden.float()).squeeze(1) / weights.sum(2)
        return torch.nn.functional.normalize(pooled, dim=-1) if self._normalize else pooled

    def _hidden(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The last layer (rows, longest, dim) and the mask (rows, longest); padded on the right."""
        shape = len(rows), max(map(len, rows))
        ids = np.full(shape, self._tokenizer.pad_token_id or 0, np.int64)
        mask = np.zeros(shape, np.int64)
        for row, (into, real) in zip(rows, zip(ids, mask, strict=True), strict=True):
            into[: len(row)] = row
            real[: len(row)] = 1
        tensors = [torch.from_numpy(array) for array in (ids, mask)]
        if self._device.type == "cuda":
            tensors = [t.pin_memory().to(self._device, non_blocking=True) for t in tensors]
        output = self._encoder(input_ids=tensors[0], attention_mask=tensors[1])
        return output.last_hidden_state, tensors[1]

    def _lengths(self, own: OwnSettings) -> tuple[int, int]:
        """How many tokens the model reads by its own account, and by its table of positions."""
        limit = getattr(self._encoder.config, "max_position_embeddings", None) or -1
        for module in self._encoder.modules():
            # RoBERTa and its kin count positions from behind the padding's.
            padding = getattr(module, "padding_idx", None)
            table = getattr(module, "position_embeddings", None)
            if isinstance(padding, int) and isinstance(table, torch.nn.Embedding):
                limit = table.num_embeddings - padding - 1
        limit = limit if limit > 0 else _UNLIMITED
        length = own.max_length or self._tokenizer.model_max_length
        return min(length, limit), limit

    @torch.inference_mode()
    def _try_out(self, *, allow_decoder: bool) -> int:
        """Refuse a model whose states are not vectors of text; return their size."""
        first, *_, last = self._tokenize(["first second"], None)[0] * 2
        last = last if last != first else (first + 1) % self._encoder.config.vocab_size
        try:
            hidden, _ = self._hidden([[first, last], [first, first]])
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise self._fatal(
                f"is no text encoder: {first_line(error)}", "Choose a model for text embeddings"
            ) from error
        # A decoder does not see what comes after: the first state is the same whatever follows.
        if torch.allclose(hidden[0, 0], hidden[1, 0], rtol=1e-3, atol=1e-5):
            if self._pooling == "cls":
                raise self._fatal(
                    "is a decoder: its first token knows nothing of the text", "Set pooling to last"
                )
            if not allow_decoder:
                raise self._fatal(
                    "is a decoder, and does not say how to pool it",
                    "Choose an encoder; or set pooling to last if the model was trained for that",
                )
        return int(hidden.shape[-1])

    def _fatal(self, cause: str, hint: str) -> FatalError:
        return model_error(self._name, cause, hint)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # The allocator of the CPU has no exception of its own.
    signs = ("not enough memory", "DefaultCPUAllocator")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


def _device_and_dtype(section: EmbeddingSection) -> tuple[torch.device, torch.dtype]:
    name = section.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise FatalError(
                subject=f"embedding.device '{name}'",
                cause=f"torch {torch.__version__} sees {count} CUDA devices",
                hint="Set device to cpu or auto, or give the process a GPU and torch for CUDA",
            )
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if section.dtype == "auto":
            return device, torch.bfloat16 if bf16 else torch.float32
        supported = bf16 or section.dtype != "bfloat16"
    else:
        supported = section.dtype != "float16"
    if not supported:
        raise FatalError(
            subject=f"embedding.dtype '{section.dtype}'",
            cause=f"{name} does not calculate in it",
            hint="Set dtype to auto or float32",
        )
    return device, torch.float32 if section.dtype == "auto" else getattr(torch, section.dtype)


def _load(name: str, own: OwnSettings, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The tokenizer and the encoder, whole and on the device."""
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
    # transformers makes an empty tokenizer where it finds none, which reads every text alike.
    if not any(path for kind in VOCABULARIES for path in folder.glob(kind)):
        raise model_error(name, "has no tokenizer", "Give the folder of a whole Hugging Face model")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        # Attention is left to transformers: SDPA, but where a model has none (MPNet) its own.
        encoder: Any
        encoder, report = AutoModel.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        encoder.eval().to(device)
    except Exception as error:  # broken files raise whatever their reader does
        raise model_error(
            name, f"cannot be loaded: {first_line(error)}", "Fetch it again, or choose another"
        ) from error
    # transformers fills weights that are missing with random numbers, and goes on.
    missing = sorted(
        key for key in {*report["missing_keys"], *report["mismatched_keys"]} if "pooler" not in key
    )
    if missing:
        raise model_error(
            name, f"lacks {len(missing)} weights, like {missing[0]}", "Fetch it again"
        )
    if encoder.config.is_encoder_decoder:
        raise model_error(
            name, "is a sequence-to-sequence model", "Choose an encoder for text embeddings"
        )
    if any(tokenizer("text").get("token_type_ids", ())):
        raise model_error(name, "marks its tokens by type", "Choose an encoder that does not")
    if own.lowercase and tokenizer.backend_tokenizer.normalizer is None:
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    elif own.lowercase:
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), tokenizer.backend_tokenizer.normalizer]
        )
    return tokenizer, encoder
