"""Faster linear layers on a CPU; a model spends nearly all of its time in these products.

PyTorch multiplies float32 with MKL, which reserves its fastest code for one vendor's processors. The
same PyTorch contains oneDNN, which has no such limit: on an AMD EPYC it is more than twice as fast.
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
    """A linear layer calculated by oneDNN, with its weights reordered once; optionally with GELU."""

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TRIAL[0])
        self._bias = linear.bias
        self._after: tuple[str, list[float], str] = (
            ("gelu", [], "none") if gelu else ("none", [], "")
        )

    def forward(self, states: Tensor) -> Tensor:
        """States of shape (…, features)."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._weight, self._bias, *self._after
        )
        return made


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers: one scale for each row of weights, one for all states."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(1).clamp_min(torch.finfo(weight.dtype).tiny) / 127
        with warnings.catch_warnings():
            # PyTorch warns that a later version will drop such tensors; its version is pinned.
            warnings.filterwarnings("ignore", message=".*quantize_per_channel")
            quantized = torch.quantize_per_channel(
                weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
            )
        before, torch.backends.quantized.engine = torch.backends.quantized.engine, "onednn"
        self._packed = torch.ops.quantized.linear_prepack(quantized, linear.bias)
        torch.backends.quantized.engine = before

    def forward(self, states: Tensor) -> Tensor:
        """States of shape (…, features), float32."""
        made: Tensor = torch.ops.quantized.linear_dynamic(states, self._packed)
        return made


def to_int8(model: nn.Module) -> None:
    """Replace every linear layer of a float32 model by one in int8; cannot be undone."""
    for parent, name, linear in _linears(model):
        setattr(parent, name, Int8Linear(linear))


def to_onednn(model: nn.Module) -> Undo:
    """Replace linear layers by oneDNN's, if those are faster on this machine.

    Results are the same except for rounding.

    Returns:
        A function that restores the original layers.
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
    # The exact type: layers that another library has replaced stay as they are.
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]


def _gelu_after(parent: nn.Module) -> str | None:
    """The name of a module's activation, if the module is just a linear layer followed by GELU."""
    match list(parent.named_children()):
        case [(_, nn.Linear()), (name, GELUActivation(act=nn.functional.gelu))]:
            return name
    return None


@cache
def _onednn_pays(dtype: torch.dtype) -> bool:
    """Whether oneDNN is faster on this machine; measured once per process, in a few milliseconds."""
    rows, into, out = _TRIAL
    linear, states = nn.Linear(into, out, dtype=dtype), torch.zeros(rows, into, dtype=dtype)
    with torch.inference_mode():
        try:
            other = OneDnnLinear(linear)
            return _seconds(other, states) < _seconds(linear, states)
        except (AttributeError, RuntimeError):  # a PyTorch that was built without it
            return False


def _seconds(layer: nn.Module, states: Tensor) -> float:
    """Seconds of the fastest of a few calls; slower ones were disturbed by other work."""
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        layer(states)
        taken.append(time.perf_counter() - began)
    return min(taken)
