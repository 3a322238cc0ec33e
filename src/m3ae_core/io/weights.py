"""Tensors on disk. The only module that loads or saves them; pickles are never executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from m3ae_core.errors import BundleError
from m3ae_core.files import atomic_write, sha256
from m3ae_core.seal import file_is_whole, seal_file


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as safetensors, atomically; return the file's SHA-256."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # safetensors' own save_file makes files that only their owner can read.
    content = safetensors.torch.save(contiguous)
    atomic_write(path, lambda temporary: temporary.write_bytes(content))
    return sha256(path)


def load_tensors(path: Path, expected_sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises
    ------
    BundleError
        If the file is missing, is not safetensors, differs from `expected_sha256`, or holds a value that is not
        finite (one such weight would turn every prediction into "no tumour" without a word).
    """
    if not path.is_file():
        raise BundleError(
            "The file is missing.", "Copy the whole bundle folder again.", path=path, code="missing"
        )
    if expected_sha256 is not None and sha256(path) != expected_sha256:
        raise BundleError(
            "The file is damaged: its SHA-256 differs from the one in bundle.json.",
            "Copy the bundle again from its source.",
            path=path,
            code="hash",
        )
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(
            f"This is not a readable safetensors file ({error}).",
            "Give a bundle made by m3ae.",
            path=path,
            code="format",
        ) from error
    check_finite(tensors, path)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that hold NaN or infinity.

    Raises
    ------
    BundleError
        With code ``nonfinite`` and the name of the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(
                f"The weights {name!r} hold values that are not finite.",
                "Use another model.",
                path=path,
                code="nonfinite",
            )


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into `module`, every name and shape matching.

    Raises
    ------
    BundleError
        If names or shapes differ.
    """
    require_fit(module, tensors, path)
    module.load_state_dict(dict(tensors))


def require_fit(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that weights are those of `module` by name and shape; the module may be on the meta device.

    Raises
    ------
    BundleError
        If names or shapes differ.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := sorted(
        name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)
    ):
        name = wrong[0]
        raise BundleError(
            f"{len(wrong)} weights do not fit this network, the first being {name!r}: "
            f"expected {expected.get(name, 'nothing')}, found {given.get(name, 'nothing')}.",
            "Use a model made for this architecture.",
            path=path,
            code="architecture",
        )


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write resumable training state (tensors, numbers, text and containers of them), atomically and sealed.

    The same state gives the same bytes: torch would put the name of the temporary file into a file that it opens.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            torch.save(dict(state), stream)
        seal_file(temporary)

    atomic_write(path, write)


def load_pickle(path: Path) -> dict[str, Any]:
    """Read a PyTorch file, our own checkpoint or a foreign one; only plain data and tensors are accepted.

    Raises
    ------
    BundleError
        If the file is missing, is not what was sealed (``hash``), is no PyTorch file, or asks to run code.
    """
    if not path.is_file():
        raise BundleError("The file does not exist.", "Check the path.", path=path, code="missing")
    if file_is_whole(path) is False:
        problem = "The checkpoint is damaged: its SHA-256 is not the one it was written with."
        raise BundleError(problem, "Copy the file again.", path=path, code="hash")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _looks_like_torch(path):
            raise _no_checkpoint(path) from error
        raise BundleError(
            "The checkpoint holds objects other than tensors, or asks to run code; it was not opened.",
            "Ask its authors for a file that holds tensors only (a state_dict).",
            path=path,
            code="unsafe",
        ) from error
    except (
        Exception
    ) as error:  # torch's reader of damaged files raises whatever its parts do, AssertionError included
        raise _no_checkpoint(path) from error
    if not isinstance(content, dict):
        raise BundleError(
            "The checkpoint is not a dictionary of tensors.", "Give a state_dict.", path=path, code="format"
        )
    return content


def _looks_like_torch(path: Path) -> bool:
    """Whether a file starts as a zip archive or a pickle does; torch tries to unpickle whatever it is given."""
    with path.open("rb") as stream:
        return stream.read(4).startswith((b"PK\x03\x04", b"\x80"))


def _no_checkpoint(path: Path) -> BundleError:
    return BundleError(
        "This is not a readable PyTorch checkpoint, or it is truncated.",
        "Copy the file again.",
        path=path,
        code="format",
    )
