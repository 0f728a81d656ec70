"""The transformer: any Hugging Face text encoder as an `Embedder`.

Settings come from the contract, or else from the model's own files (`operators.model.files`). The
tokenizer is in `operators.model.tokenizer`, the network in `operators.model.encoder`.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from operators import crash_points
from operators.contract.sections import EmbeddingSection
from operators.errors import FatalError
from operators.model.batches import even_batches, token_batches
from operators.model.devices import device_and_dtype
from operators.model.encoder import (
    CORES,
    UNLIMITED,
    Encoder,
    Tensor,
    take_one_core,
)
from operators.model.files import fingerprint, first_line, locate, model_error, read_json
from operators.model.own_settings import POOLINGS, own_settings
from operators.model.prompts import advice, check_room, chosen
from operators.model.tokenizer import Tokens

MAX_BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768}
"""Tokens per batch unless the contract says otherwise. On a CPU, as many as fit into its cache."""


class TransformerEmbedder:
    """A Hugging Face encoder on a GPU or CPU; implements `Embedder`.

    Texts longer than `max_length` are truncated. Threads may share it: each tokenises its texts, then
    takes the lock for the calculation. The lock guards `max_batch_tokens` and the two totals, which
    are read without it. On a CPU, a pool of threads calculates a batch each.

    Attributes:
        model: `name@revision`. The revision is 12 hex digits: of the hub's commit if there is one,
            else of a hash of the model's files. If settings of the contract differ from the model's
            own (prompts, too), or the dtype is int8, they are hashed in. Device, other dtypes and the
            place on disk are not part of it: a folder is called by its own name.
        advice: A warning about prompts that models of this kind need; "" if there is none.
        dim: Length of a vector.
        max_length: The most tokens that are read of a text, special tokens and prompt included.
        max_batch_tokens: The most tokens of a batch, padding included. Halved for good when the device
            runs out of memory.
        calls_at_once: See `Embedder.calls_at_once`.
        tokens_total: Tokens embedded since the start, without padding.
        padded_tokens_total: Tokens calculated since the start, with padding.

    Raises:
        FatalError: The model, the device or a setting cannot be used; the message says what to do.
    """

    def __init__(self, section: EmbeddingSection) -> None:
        self._device, dtype = device_and_dtype(section)
        self._name, folder, revision = locate(section)
        own = own_settings(self._name, folder)
        pooling = own.pooling if section.pooling == "auto" else section.pooling
        if pooling not in POOLINGS.values():
            raise self._fatal(
                f"pools by {pooling}, which is not implemented",
                "Choose a model that pools by mean, cls or last token; or set pooling",
            )
        normalize = own.normalize if section.normalize == "auto" else section.normalize
        self._prompts = chosen(self._name, own.prompts, section)
        if not own.pools_prompt and any(self._prompts):  # guard: model-prompt-pooled
            raise self._fatal(
                "leaves its prompt out of the pooling, which is not implemented and would give other "
                "vectors",
                "Choose another model",
            )
        self._encoder = Encoder(
            self._name,
            own,
            self._device,
            dtype,
            int8=section.dtype == "int8",
            pooling=pooling,
            normalize=normalize,
            unit_length=section.normalize is True and own.truncate_dim is not None,
        )
        self._tokens = Tokens(self._name, own, self._encoder.vocabulary)
        limit = self._encoder.limit
        own_length = min(own.max_length or self._tokens.model_max_length, limit)
        self.max_length = section.max_length or own_length
        if self.max_length > limit:
            raise self._fatal(
                f"reads {limit} tokens at most, and max_length is {self.max_length}"
                if limit < UNLIMITED
                else "does not say how many tokens it reads",
                "Set max_length to what the model was trained for",
            )
        self.max_batch_tokens = section.max_batch_tokens or MAX_BATCH_TOKENS[self._device.type]
        on_cpu = self._device.type == "cpu"
        self.calls_at_once = 1 if on_cpu else 2
        self._ways = CORES if on_cpu else 1
        # One thread per core, each with a batch of its own. Threads that share a batch wait for each
        # other after every product, and all of them wait for a core that is busy with something else.
        self._pool = (
            ThreadPoolExecutor(self._ways, "rowvec-model", take_one_core)
            if self._ways > 1
            else None
        )
        self.tokens_total = 0
        self.padded_tokens_total = 0
        self._lock = threading.Lock()
        self.dim = self._encoder.try_out(
            self._tokens.two_words(),
            self._tokens.special,
            self._tokens.pad_id,
            allow_decoder=section.pooling != "auto" or not own.plain,
        )
        for role, prompt in self._prompts._asdict().items():
            if prompt:
                check_room(self._name, role, self._tokens.overhead(prompt), self.max_length)
        self._room = self.max_length - self._tokens.overhead(self._prompts.document)
        prompts, named, own_query = self._prompts, own.prompts.named, own.prompts.query
        changed = {
            key: ours
            for key, ours, theirs in (
                ("pooling", pooling, own.pooling),
                ("normalize", normalize, own.normalize),
                ("max_length", self.max_length, own_length),
                ("int8", section.dtype == "int8", False),  # guard: model-int8-name
                ("document_prompt", prompts.document, named.document),  # guard: model-prompt-name
                ("query_prompt", prompts.query, named.query if own_query is None else own_query),
                ("truncate_dim", own.truncate_dim if self._encoder.cuts else None, None),
                ("unit_length", self._encoder.cuts and section.normalize is True, False),
            )
            if ours != theirs
        }
        config = read_json(self._name, own.encoder / "config.json", {})
        self.advice = advice(f"{self._name} {config.get('_name_or_path', '')}", prompts, section)
        revision = revision or fingerprint(folder)
        if changed:
            revision = hashlib.sha256(f"{revision} {json.dumps(changed)}".encode()).hexdigest()
        self.model = f"{self._name}@{revision[:12]}"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of documents, float32 of shape (len(texts), dim), in the order of the texts.

        The model's document prompt, if it has one, is put before each text. Identical texts are
        embedded once. If a batch does not fit into memory, the budget of it and all later ones is
        halved.

        Raises:
            FatalError: A single text does not fit, a vector is not finite, or the device failed.
        """
        return self._embed([self._prompts.document + text for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of search queries: as `embed`, but with the model's query prompt."""
        return self._embed([self._prompts.query + text for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, prompt and special tokens included, without the limit `max_length`."""
        return [
            len(ids) for ids in self._tokens.ids([self._prompts.document + text for text in texts])
        ]

    def chunks(self, text: str, max_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
        """Split a long text at borders of sentences and words; see `Embedder.chunks`.

        A chunk leaves room in `max_length` for the special tokens and the document prompt.
        """
        most = max(1, min(max_tokens, self._room))
        return self._tokens.chunks(text, most, min(overlap_tokens, most // 2))

    def _embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if not places:
            return np.empty((0, self.dim), np.float32)
        ids = self._tokens.ids(list(places), self.max_length)
        try:
            with self._lock:
                vectors = self._embed_ids(ids)
        except (RuntimeError, IndexError) as error:
            raise self._fatal(
                f"failed on {self._device}: {first_line(error)}", "Check the device and the model"
            ) from error
        if not np.isfinite(vectors).all():  # guard: model-finite
            raise self._fatal(
                f"made a vector that is not finite, in {self._encoder.dtype}",
                "Set dtype to float32, or use a model whose weights are sound",
            )
        return vectors[[places[text] for text in texts]]

    def _embed_ids(self, ids: list[list[int]]) -> npt.NDArray[np.float32]:
        lengths = [len(each) for each in ids]
        order: list[int] = []
        parts: list[Tensor] = []
        left = list(range(len(ids)))
        while left:
            places_of = self._batches([lengths[index] for index in left])
            batches = [[left[place] for place in places] for places in places_of]
            for batch, part in zip(batches, self._forward_all(batches, ids), strict=True):
                tokens = sum(lengths[index] for index in batch)
                longest = max(lengths[index] for index in batch)
                cost = tokens if self._encoder.packs else len(batch) * longest
                if part is None:
                    if len(batch) == 1:  # guard: model-halving
                        raise self._fatal(
                            f"cannot hold one text of {cost} tokens in the memory of {self._device}",
                            "Lower max_length, or give the device more memory",
                        )
                    self.max_batch_tokens = cost // 2
                    break
                order += batch
                parts.append(part)
                crash_points.reach("in_embed")
                self.tokens_total += tokens
                self.padded_tokens_total += cost
            done = set(order)
            left = [index for index in left if index not in done]
        vectors = np.empty((len(ids), self.dim), np.float32)
        vectors[order] = self._encoder.gather(parts)
        return vectors

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Divide texts into batches, at least one for each core if there are enough texts."""
        if self._encoder.packs:
            return even_batches(lengths, self.max_batch_tokens, self._ways)
        share = max(-(-sum(lengths) // self._ways), *lengths, 1)
        return token_batches(lengths, min(self.max_batch_tokens, share))

    def _forward_all(
        self, batches: Sequence[Sequence[int]], ids: Sequence[Sequence[int]]
    ) -> Iterator[Tensor | None]:
        """Results of `Encoder.forward` for batches of indices into `ids`, in their order."""

        def forward(batch: Sequence[int]) -> Tensor | None:
            return self._encoder.forward([ids[index] for index in batch], self._tokens.pad_id)

        return map(forward, batches) if self._pool is None else self._pool.map(forward, batches)

    def _fatal(self, cause: str, hint: str) -> FatalError:
        return model_error(self._name, cause, hint)
