"""Where inference runs: choosing a device, its fastest settings, and recovering when its memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from m3ae_core.errors import ConfigError, InputError

#: In what the network computes; auto: in what the device computes fastest.
Arithmetic = Literal["auto", "float32", "bfloat16"]


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


def precision(device: torch.device, arithmetic: Arithmetic = "auto") -> torch.dtype:
    """Return the type of the network's numbers; auto: bfloat16 if native to the device, on other GPUs float16.

    Raises
    ------
    ConfigError
        If the arithmetic is none of these (``arithmetic``).
    """
    if arithmetic not in get_args(Arithmetic):
        choices = ", ".join(get_args(Arithmetic))
        raise ConfigError(f"Unknown arithmetic {arithmetic!r}.", f"Choose from {choices}.", code="arithmetic")
    if arithmetic != "auto":
        return torch.float32 if arithmetic == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 (AMX, AVX512-BF16); elsewhere that is emulated, slower than float32."""
    found = (
        getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return any(is_supported() for is_supported in found if is_supported)


@contextmanager
def fast(device: torch.device, dtype: torch.dtype, one_shape: bool) -> Iterator[None]:
    """Use autocast to `dtype`; CUDA tries its algorithms out if all windows have `one_shape`."""
    with (
        torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext(),
        torch.backends.cudnn.flags(benchmark=True) if one_shape and device.type == "cuda" else nullcontext(),
    ):
        yield


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Move an image from the CPU to `device`; to CUDA from pinned memory, without waiting."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on the GPU or in the CPU allocator."""
    words = (
        "can't allocate memory",
        "could not create a primitive",
        "could not create a memory object",
    )  # oneDNN's
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


@contextmanager
def told_if_out_of_memory() -> Iterator[None]:
    """Turn what numpy and torch say when memory runs out into an :class:`InputError` with code ``memory``."""
    try:
        yield
    except MemoryError as error:
        raise out_of_memory("an allocation failed") from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory("an allocation failed") from error


def require_memory(voxels: int, base_channels: int) -> None:
    """Refuse a pass over so many `voxels` that the machine would run out of memory (Linux kills, it does not refuse).

    A pass holds about six feature maps of the first level at once, in 4-byte numbers (measured: 5.7).

    Raises
    ------
    InputError
        If less is available (``memory``).
    """
    needed, available = 6 * 4 * base_channels * voxels, psutil.virtual_memory().available
    if needed > available:
        raise out_of_memory(f"about {needed / 2**30:.1f} GiB are needed, {available / 2**30:.1f} are free")


def out_of_memory(detail: str) -> InputError:
    """Return the error that says so."""
    return InputError(
        f"The memory does not suffice to segment this case ({detail}).",
        "Close other programs, or segment in windows (`--window 128`), which may change the answer.",
        code="memory",
    )
