"""Where inference runs: choosing a device, its fastest settings, and recovering when its memory runs out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from m3ae_core.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called ``auto`` (CUDA if there is any), ``cpu`` or ``cuda`` (or ``cuda:1``, …).

    Raises
    ------
    ConfigError
        If CUDA is asked for and not there, or the name is none of these.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not name.startswith("cuda"):
        raise ConfigError(f"Unknown device {name!r}.", "Choose auto, cpu or cuda.", code="device")
    if name != "cpu" and not torch.cuda.is_available():
        raise ConfigError("This machine offers no CUDA device.", "Use --device cpu.", code="device")
    return torch.device(name)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return mixed precision on CUDA (bfloat16 where the GPU has it, else float16), and plain float32 on the CPU."""
    if device.type != "cuda":
        return nullcontext()
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", dtype)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Move an image from the CPU to `device`; to CUDA from pinned memory, without waiting."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on the GPU or in the CPU allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
