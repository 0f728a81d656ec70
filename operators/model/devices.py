"""Where a model calculates, and in which type of numbers."""

import torch

from operators.contract.sections import EmbeddingSection
from operators.errors import FatalError


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
