"""Linear layers on a CPU: the products that nearly all of a model's time goes into.

PyTorch multiplies float32 by MKL, which keeps its best code for one vendor's processors. oneDNN, which
comes with PyTorch as well, has it for all: on an AMD EPYC it is more than twice as fast.
"""

import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import TypeAlias

import torch
from torch import nn
from transformers.activations import GELUActivation

Tensor: TypeAlias = torch.Tensor

Undo: TypeAlias = Callable[[], None]

_TRIAL = 2_048, 384, 1_536
"""Rows, and features in and out, of the product that decides which library is used."""


class OneDnnLinear(nn.Module):
    """A linear layer by oneDNN, its weights laid out beforehand; with GELU behind it if asked."""

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TRIAL[0])
        self._bias = linear.bias
        self._after: tuple[str, list[float], str] = (
            ("gelu", [], "none") if gelu else ("none", [], "")
        )

    def forward(self, states: Tensor) -> Tensor:
        """Of shape (…, features)."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._weight, self._bias, *self._after
        )
        return made


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers: a scale for each row of weights, one for all the states."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(1).clamp_min(torch.finfo(weight.dtype).tiny) / 127
        with warnings.catch_warnings():
            # PyTorch announces that it will drop such tensors one day; its version is pinned.
            warnings.filterwarnings("ignore", message=".*quantize_per_channel")
            quantized = torch.quantize_per_channel(
                weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
            )
        before, torch.backends.quantized.engine = torch.backends.quantized.engine, "onednn"
        self._packed = torch.ops.quantized.linear_prepack(quantized, linear.bias)
        torch.backends.quantized.engine = before

    def forward(self, states: Tensor) -> Tensor:
        """Of shape (…, features), float32."""
        made: Tensor = torch.ops.quantized.linear_dynamic(states, self._packed)
        return made


def to_int8(model: nn.Module) -> None:
    """Let every linear layer of a float32 model multiply in int8; it is not to be undone."""
    for parent, name, linear in _linears(model):
        setattr(parent, name, Int8Linear(linear))


def to_onednn(model: nn.Module) -> Undo:
    """Let oneDNN multiply where it is faster here; return what puts everything back.

    The results are the same but for rounding.
    """
    undo: list[Undo] = []
    for parent, name, linear in _linears(model) if _onednn_pays(model.dtype) else ():
        activation = _gelu_after(parent)
        undo.append(partial(setattr, parent, name, linear))
        setattr(parent, name, OneDnnLinear(linear, gelu=activation is not None))
        if activation is not None:
            undo.append(partial(setattr, parent, activation, getattr(parent, activation)))
            setattr(parent, activation, nn.Identity())
    return lambda: [back() for back in undo].clear()


def _linears(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    # The exact type: what another library has made of a layer is left alone.
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]


def _gelu_after(parent: nn.Module) -> str | None:
    """The name of a module's activation if all that it does is a linear layer and then GELU."""
    match list(parent.named_children()):
        case [(_, nn.Linear()), (name, GELUActivation(act=nn.functional.gelu))]:
            return name
    return None


@cache
def _onednn_pays(dtype: torch.dtype) -> bool:
    """Whether oneDNN is the faster one here; decided once in a process, in some milliseconds."""
    rows, into, out = _TRIAL
    linear, states = nn.Linear(into, out, dtype=dtype), torch.zeros(rows, into, dtype=dtype)
    with torch.inference_mode():
        try:
            other = OneDnnLinear(linear)
            return _seconds(other, states) < _seconds(linear, states)
        except (AttributeError, RuntimeError):  # a PyTorch that was built without it
            return False


def _seconds(layer: nn.Module, states: Tensor) -> float:
    """Of the fastest call: what is slower was disturbed."""
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        layer(states)
        taken.append(time.perf_counter() - began)
    return min(taken)
