"""The network of a transformer: token ids → pooled vectors on a device.

On a CPU it is changed to calculate faster (`onednn`, `packed_attention`). Each change is tried on a
sample, and undone if the result differs, so none of them needs to know the model's architecture.

No code from a model's repository runs: weights are safetensors only, `trust_remote_code` is off.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from operators.errors import FatalError
from operators.model import onednn, packed_attention, trials
from operators.model.files import first_line, model_error
from operators.model.own_settings import OwnSettings
from operators.model.packed_attention import Run
from operators.model.weights import load_network

Tensor: TypeAlias = torch.Tensor

UNLIMITED = 10**6
"""Token limit of a model without one. A tokenizer without a limit says a number near 10^30."""

CORES = torch.get_num_threads()
"""CPU cores that a model may use, as the machine or OMP_NUM_THREADS says. Read once at import, because
threads that calculate a batch each set PyTorch's number to one."""

_FEWEST_TOKENS = 250
"""Of a model that does not say how many it knows: a token is a byte at the least."""


def take_one_core() -> None:
    """Make PyTorch use one core for everything that this thread calculates."""
    torch.set_num_threads(1)


class Encoder:
    """A Hugging Face encoder on its device.

    Several threads may call `forward` at the same time: it changes nothing here. `try_out` must have
    returned before.

    Attributes:
        limit: The most tokens of a text that the model has positions for.
        vocabulary: How many tokens the model knows; 0 if it does not say.
        dtype: The type it calculates in.
        packs: Whether it takes texts concatenated in one row, without padding. Known after `try_out`.
        cuts: Whether it shortens vectors, as its own settings say. Known after `try_out`.

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
        unit_length: bool,
    ) -> None:
        self._name = name
        self._device = device
        self._pooling = pooling
        self._normalize = normalize
        self._truncate_dim = own.truncate_dim
        self._unit_length = unit_length
        self._model = load_network(name, own, device, dtype)
        self._padding_position: int | None = None
        self.limit = self._limit()
        self.vocabulary = int(getattr(self._model.config, "vocab_size", None) or 0)
        self.dtype = self._model.dtype
        self.packs = False
        self.cuts = False
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
    def try_out(
        self,
        words: tuple[Sequence[int], Sequence[int]],
        special: Sequence[int],
        pad_id: int,
        *,
        allow_decoder: bool,
    ) -> int:
        """Run the model a few times, refuse it if it is unfit, and make it faster on a CPU.

        The measure is each text alone, calculated by transformers' own code without padding.

        Args:
            words: Token ids of two texts that mean different things.
            special: Tokens that a model may treat in a special way if they stand in a text.
            pad_id: See `forward`.
            allow_decoder: Whether to accept a decoder, if it is not pooled at the first token.

        Returns:
            The length of a vector.

        Raises:
            FatalError: It is no text encoder, or a decoder that must not be one, or a text's vector
                depends on the texts beside it, or all texts have the same.
        """
        rows = trials.sample(self.vocabulary or _FEWEST_TOKENS, special, self.limit)
        try:
            hidden, mask = self._hidden([[5, 6], [5, 5]], pad_id)
            alone = [self._hidden([row], pad_id) for row in rows]
            together = self._hidden(rows, pad_id)
            fits = hidden.shape[:2] == mask.shape and together[0].shape[:2] == together[1].shape
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise self._fatal(
                f"is no text encoder: {first_line(error)}", "Choose a model for text embeddings"
            ) from error
        if not fits:
            raise self._fatal(
                "is no text encoder: it has not one state for each token",
                "Choose a model for text embeddings",
            )
        # In a decoder a token does not see the ones after it: the first state is always the same.
        if torch.allclose(hidden[0, 0], hidden[1, 0], rtol=1e-3, atol=1e-5):
            trials.check_decoder(
                self._name, self._model.config, self._pooling, allowed=allow_decoder
            )
        pooled = torch.cat([self._pool(*each) for each in alone])
        trials.check_company(self._name, self._model.config, pooled, self._pool(*together))
        trials.check_words(self._name, *(self._pooled([word], pad_id) for word in words))
        if self._device.type == "cpu":
            self._make_faster(rows, torch.cat([states[0] for states, _ in alone]))
        self.cuts = hidden.shape[-1] > pooled.shape[-1]
        return int(pooled.shape[-1])

    def _make_faster(self, rows: Sequence[Sequence[int]], wanted: Tensor) -> None:
        """Change the model to be faster on a CPU; undo every change that alters its states.

        Args:
            rows: Token ids of texts that differ.
            wanted: The states of the last layer (tokens, dim) of each of them alone.
        """
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
        return self._pool(*self._hidden(rows, pad_id))

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Vectors (rows, dim) from the states of right-padded texts."""
        match self._pooling:
            case "cls":
                pooled = hidden[:, 0].float()
            case "last":
                row = torch.arange(len(hidden), device=self._device)
                pooled = hidden[row, mask.sum(1) - 1].float()
            case _:
                weights = mask.float().unsqueeze(1)
                pooled = (weights @ hidden.float()).squeeze(1) / weights.sum(2)
        return self._finish(pooled)

    def _finish(self, pooled: Tensor) -> Tensor:
        """Normalise and cut, in the order of sentence-transformers: it cuts last."""
        if self._normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        if self._truncate_dim is not None:  # guard: model-truncate
            pooled = pooled[:, : self._truncate_dim]
        return torch.nn.functional.normalize(pooled, dim=-1) if self._unit_length else pooled

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
        return self._finish(torch.cat(parts))

    def _packed(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, list[Run]]:
        """States of the last layer (tokens, dim) for concatenated texts, and their runs."""
        lengths = [len(row) for row in rows]
        ids = np.fromiter(chain.from_iterable(rows), np.int64, sum(lengths))
        output = self._model(
            input_ids=torch.from_numpy(ids).unsqueeze(0),
            position_ids=torch.from_numpy(self._positions(ids, lengths)).unsqueeze(0),
            runs=(runs := packed_attention.runs_of(lengths)),
        )
        return output.last_hidden_state[0], runs

    def _positions(
        self, ids: npt.NDArray[np.int64], lengths: Sequence[int]
    ) -> npt.NDArray[np.int64]:
        """The position of each token, as the model itself counts them for a text alone."""
        padding = self._padding_position
        if padding is None or not (is_padding := ids == padding).any():
            positions = np.concatenate([np.arange(length) for length in lengths])
            return positions if padding is None else positions + padding + 1
        # RoBERTa does not count a padding token, not even one that a text spells out ("<pad>").
        counted = np.cumsum(~is_padding)  # guard: model-literal-padding
        ends = np.cumsum(lengths)
        before = np.repeat(np.concatenate([[0], counted[ends[:-1] - 1]]), lengths)
        return np.where(is_padding, padding, counted - before + padding)

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
                self._padding_position = padding
                limit = table.num_embeddings - padding - 1
        return limit if limit > 0 else UNLIMITED

    def _fatal(self, cause: str, hint: str) -> FatalError:
        return model_error(self._name, cause, hint)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # PyTorch's CPU allocator has no exception of its own.
    signs = ("not enough memory", "DefaultCPUAllocator")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)
