"""The network of a transformer: token ids → pooled vectors on a device.

On a CPU it is changed where that is faster (`onednn`, `packed_attention` beside this file), and
each change is undone where the model does not come out the same: what it is made of is its own affair.

No code of a model's repository runs: weights are safetensors only, `trust_remote_code` is off.
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
"""Where a model has no limit of length; a tokenizer without one writes a number near 10^30."""

CORES = torch.get_num_threads()
"""That a model may use on a CPU, as the machine or OMP_NUM_THREADS says. Asked for once: whoever
calculates on a thread of its own says to PyTorch that there is but one."""

_SAMPLE_LENGTHS = (70, 9, 5, 5, 2)
"""Of texts that a changed model must see as before; longer and shorter than where attention changes."""


def take_one_core() -> None:
    """Let what this thread calculates use one core, from now on."""
    torch.set_num_threads(1)


def device_and_dtype(section: EmbeddingSection) -> tuple[torch.device, torch.dtype]:
    """Where to calculate and in what, as the contract says or as the machine does best.

    Raises:
        FatalError: The machine has no such device, or the device no such dtype.
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
    # In int8 are the weights of products alone: what goes in and comes out is float32.
    in_float32 = section.dtype in ("auto", "int8")
    return device, torch.float32 if in_float32 else getattr(torch, section.dtype)


class Encoder:
    """A Hugging Face encoder, whole and on its device. One call at a time.

    Attributes:
        limit: Tokens of a text that its table of positions has room for.
        dtype: What it calculates in.
        packs: It takes texts one behind the other: padding costs nothing, because there is none.
            Known after `try_out`.

    Raises:
        FatalError: The files are not those of a whole text encoder; the message says what to do.
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
            pad_id: What fills up the shorter ones, unless the model packs; the mask hides it.

        Raises:
            RuntimeError: The device failed.
        """
        try:
            return self._pooled_packed(rows) if self.packs else self._pooled(rows, pad_id)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Outside of `except`, which keeps the tensors of the failure alive.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def gather(self, parts: Sequence[Tensor]) -> npt.NDArray[np.float32]:
        """Bring what `forward` made over from the device, one below the other."""
        vectors: npt.NDArray[np.float32] = torch.cat(list(parts)).cpu().numpy()
        return vectors

    @torch.inference_mode()
    def try_out(self, ids: Sequence[int], *, allow_decoder: bool) -> int:
        """Refuse a model whose states are not vectors of text; return their size.

        Then make it faster, as far as it lets itself be.

        Args:
            ids: Of any text with several tokens.
            allow_decoder: A decoder is taken if it is not pooled at the first token.
        """
        first, *_, last = [*ids] * 2
        last = last if last != first else (first + 1) % self._model.config.vocab_size
        try:
            hidden, _ = self._hidden([[first, last], [first, first]], 0)
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
        if self._device.type == "cpu":
            self._make_faster(ids)
        return int(hidden.shape[-1])

    def _make_faster(self, ids: Sequence[int]) -> None:
        """Change the model in ways that are faster on a CPU; undo what changes its states."""
        lengths = [length for length in _SAMPLE_LENGTHS if length <= self.limit]
        # No two of them alike: or a text could see another, and nobody would know.
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
        """The last layer (tokens, dim), without what is padding."""
        if self.packs:
            return self._packed(rows)[0]
        hidden, mask = self._hidden(rows, 0)
        return hidden[mask.bool()]

    def _makes(self, wanted: Tensor, states: Callable[[], Tensor]) -> bool:
        """Whether states come out as wanted but for rounding; not if it cannot make them at all."""
        try:
            apart = (states() - wanted).abs().max()
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False
        # Rounding adds up over the layers; a text that sees another is apart by about its own size.
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
        """The last layer (tokens, dim) of texts one behind the other, and where they lie."""
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
        """The last layer (rows, longest, dim) and the mask (rows, longest); padded on the right."""
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
            # RoBERTa and its kin count positions from behind the padding's.
            padding = getattr(module, "padding_idx", None)
            table = getattr(module, "position_embeddings", None)
            if isinstance(padding, int) and isinstance(table, torch.nn.Embedding):
                self._first_position = padding + 1
                limit = table.num_embeddings - padding - 1
        return limit if limit > 0 else UNLIMITED

    def _fatal(self, cause: str, hint: str) -> FatalError:
        return model_error(self._name, cause, hint)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # The allocator of the CPU has no exception of its own.
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
    return encoder
