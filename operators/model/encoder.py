"""The network of a transformer: token ids → pooled vectors on a device.

On a CPU it is changed to calculate faster (`onednn`, `packed_attention`). Each change is tried on a
sample, and undone if the result differs, so none of them needs to know the model's architecture.

No code from a model's repository runs: weights are safetensors only, `trust_remote_code` is off.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from operators.contract.sections import EmbeddingSection
from operators.errors import FatalError
from operators.model import onednn, packed_attention
from operators.model.files import OwnSettings, first_line, model_error
from operators.model.packed_attention import Run

Tensor: TypeAlias = torch.Tensor

UNLIMITED = 10**6
"""Token limit of a model without one. A tokenizer without a limit says a number near 10^30."""

CORES = torch.get_num_threads()
"""CPU cores that a model may use, as the machine or OMP_NUM_THREADS says. Read once at import, because
threads that calculate a batch each set PyTorch's number to one."""

_SAMPLE_LENGTHS = (70, 9, 5, 5, 2)
"""Lengths of the texts on which a changed model is tried: above and below the length from which
`packed_attention` calculates differently."""


def take_one_core() -> None:
    """Make PyTorch use one core for everything that this thread calculates."""
    torch.set_num_threads(1)


def device_and_dtype(section: EmbeddingSection) -> tuple[torch.device, torch.dtype]:
    """Device and dtype, as the contract says, or the best that the machine has.

    Raises:
        FatalError: The machine has no such device, or the device does not support the dtype.
    """
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
        # guard: model-int8-cuda
        supported = section.dtype != "int8" and (bf16 or section.dtype != "bfloat16")
    else:
        supported = section.dtype != "float16"
    if not supported:
        raise FatalError(
            subject=f"embedding.dtype '{section.dtype}'",
            cause=f"{name} does not calculate in it",
            hint="Set dtype to auto or float32",
        )
    # With int8, only the weights of linear layers are integers; their inputs and outputs are float32.
    in_float32 = section.dtype in ("auto", "int8")
    return device, torch.float32 if in_float32 else getattr(torch, section.dtype)


class Encoder:
    """A Hugging Face encoder on its device.

    Several threads may call `forward` at the same time: it changes nothing here. `try_out` must have
    returned before.

    Attributes:
        limit: The most tokens of a text that the model has positions for.
        dtype: The type it calculates in.
        packs: Whether it takes texts concatenated in one row, without padding. Known after `try_out`.

    Raises:
        FatalError: The files are not those of a complete text encoder; the message says what to do.
    """

    def __init__(
        self,
        name: str,
        own: OwnSettings,
        device: torch.device,
        dtype: torch.dtype,
        *,
        int8: bool,
        pooling: str,
        normalize: bool,
    ) -> None:
        self._name = name
        self._device = device
        self._pooling = pooling
        self._normalize = normalize
        self._model = _load(name, own, device, dtype)
        self._first_position = 0
        self.limit = self._limit()
        self.dtype = self._model.dtype
        self.packs = False
        self._int8 = int8

    def forward(self, rows: Sequence[Sequence[int]], pad_id: int) -> Tensor | None:
        """Pooled vectors, float32 of shape (len(rows), dim), on the device; None if out of memory.

        Args:
            rows: Token ids of each text.
            pad_id: Token that fills up shorter texts, unless the model packs; the mask hides it.

        Raises:
            RuntimeError: The device failed.
        """
        try:
            return self._pooled_packed(rows) if self.packs else self._pooled(rows, pad_id)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Outside of `except`, because the error keeps the tensors of the failed call alive.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def gather(self, parts: Sequence[Tensor]) -> npt.NDArray[np.float32]:
        """Copy results of `forward` from the device into one array, in order."""
        vectors: npt.NDArray[np.float32] = torch.cat(list(parts)).cpu().numpy()
        return vectors

    @torch.inference_mode()
    def try_out(self, ids: Sequence[int], *, allow_decoder: bool) -> int:
        """Run the model once, refuse it if it is no text encoder, and make it faster on a CPU.

        Args:
            ids: Token ids of any text with several tokens.
            allow_decoder: Whether to accept a decoder, if it is not pooled at the first token.

        Returns:
            The length of a vector.
        """
        first, *_, last = [*ids] * 2
        last = last if last != first else (first + 1) % self._model.config.vocab_size
        try:
            hidden, _ = self._hidden([[first, last], [first, first]], 0)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise self._fatal(
                f"is no text encoder: {first_line(error)}", "Choose a model for text embeddings"
            ) from error
        # In a decoder a token does not see the ones after it: the first state is always the same.
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
        if self._device.type == "cpu":
            self._make_faster(ids)
        return int(hidden.shape[-1])

    def _make_faster(self, ids: Sequence[int]) -> None:
        """Change the model to be faster on a CPU; undo every change that alters its states."""
        lengths = [length for length in _SAMPLE_LENGTHS if length <= self.limit]
        # No two texts are alike: otherwise it would not show if one attended to another.
        # guard: model-packing-sample
        rows = [(list(ids) * length)[at : at + length] for at, length in enumerate(lengths)]
        wanted = self._real_states(rows)
        if (attention := self._model.config._attn_implementation) == "sdpa":
            packed_attention.register()
            self._model.set_attn_implementation(packed_attention.PACKED)
            # guard: model-packing-checked
            self.packs = self._makes(wanted, lambda: self._packed(rows)[0])
            if not self.packs:
                self._model.set_attn_implementation(attention)
        if self._int8:
            onednn.to_int8(self._model)
        else:
            undo = onednn.to_onednn(self._model)
            # guard: model-library-checked
            if not self._makes(wanted, lambda: self._real_states(rows)):
                undo()

    def _real_states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """States of the last layer (tokens, dim), without those of padding."""
        if self.packs:
            return self._packed(rows)[0]
        hidden, mask = self._hidden(rows, 0)
        return hidden[mask.bool()]

    def _makes(self, wanted: Tensor, states: Callable[[], Tensor]) -> bool:
        """Whether `states` returns what is wanted, except for rounding; False if it raises."""
        try:
            apart = (states() - wanted).abs().max()
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False
        # Rounding errors add up over the layers, so the bound is generous. A text that attends to
        # another differs by about its own magnitude, far more than that.
        return bool(apart <= torch.finfo(self.dtype).eps ** 0.5 * wanted.abs().max())

    @torch.inference_mode()
    def _pooled(self, rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
        hidden, mask = self._hidden(rows, pad_id)
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

    @torch.inference_mode()
    def _pooled_packed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        hidden, runs = self._packed(rows)
        parts = []
        begin = 0
        for run in runs:
            states = hidden[begin : begin + run.tokens].view(*run, -1).float()
            match self._pooling:
                case "cls":
                    parts.append(states[:, 0])
                case "last":
                    parts.append(states[:, -1])
                case _:
                    parts.append(states.mean(1))
            begin += run.tokens
        pooled = torch.cat(parts)
        return torch.nn.functional.normalize(pooled, dim=-1) if self._normalize else pooled

    def _packed(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, list[Run]]:
        """States of the last layer (tokens, dim) for concatenated texts, and their runs."""
        lengths = [len(row) for row in rows]
        positions = np.concatenate([np.arange(length) for length in lengths])
        ids = np.fromiter(chain.from_iterable(rows), np.int64, len(positions))
        output = self._model(
            input_ids=torch.from_numpy(ids).unsqueeze(0),
            position_ids=torch.from_numpy(positions + self._first_position).unsqueeze(0),
            runs=(runs := packed_attention.runs_of(lengths)),
        )
        return output.last_hidden_state[0], runs

    def _hidden(self, rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
        """States of the last layer (rows, longest, dim) and the mask (rows, longest); right-padded."""
        shape = len(rows), max(map(len, rows))
        ids = np.full(shape, pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        for row, (into, real) in zip(rows, zip(ids, mask, strict=True), strict=True):
            into[: len(row)] = row
            real[: len(row)] = 1
        tensors = [torch.from_numpy(array) for array in (ids, mask)]
        if self._device.type == "cuda":
            tensors = [t.pin_memory().to(self._device, non_blocking=True) for t in tensors]
        output = self._model(input_ids=tensors[0], attention_mask=tensors[1])
        return output.last_hidden_state, tensors[1]

    def _limit(self) -> int:
        limit = getattr(self._model.config, "max_position_embeddings", None) or -1
        for module in self._model.modules():
            # RoBERTa and models derived from it count positions from padding_idx + 1.
            padding = getattr(module, "padding_idx", None)
            table = getattr(module, "position_embeddings", None)
            if isinstance(padding, int) and isinstance(table, torch.nn.Embedding):
                self._first_position = padding + 1
                limit = table.num_embeddings - padding - 1
        return limit if limit > 0 else UNLIMITED

    def _fatal(self, cause: str, hint: str) -> FatalError:
        return model_error(self._name, cause, hint)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # PyTorch's CPU allocator has no exception of its own.
    signs = ("not enough memory", "DefaultCPUAllocator")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


def _load(name: str, own: OwnSettings, device: torch.device, dtype: torch.dtype) -> Any:
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
    try:
        # transformers chooses the attention: SDPA, or the model's own if it has no SDPA (MPNet).
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
    except Exception as error:  # broken files raise errors of any type
        raise model_error(
            name, f"cannot be loaded: {first_line(error)}", "Fetch it again, or choose another"
        ) from error
    # transformers would silently fill missing weights with random numbers.
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
    return encoder
