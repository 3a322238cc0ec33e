"""The parts that cases travel in: each case's box around its brain, 8 bits a voxel, in safetensors files.

An image of 8 bits is 0 where the background is; 1 to 255 are steps from its darkest to its brightest voxel. Regions are
one bit a voxel. Both are compressed. ``index.json`` lists the parts with their SHA-256 and holds the recipe.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from m3ae_core.errors import InputError
from m3ae_core.files import sha256

INDEX, FORMAT = "index.json", 1


@dataclass(frozen=True)
class PackedCase:
    """A case in memory.

    Attributes
    ----------
    image, levels
        (N, d, h, w) of 8 bits inside the box, and darkest value and step (N, 2) of each modality.
    regions
        (R, d, h, w), boolean.
    start
        The box's first voxel on the template.
    exists
        (N,), which modalities were acquired.
    weight
        How much the labels count.
    """

    image: Tensor
    levels: Tensor
    regions: Tensor
    start: tuple[int, ...]
    exists: Tensor
    weight: float

    def on_template(self, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return image (N, D, H, W), float32, and regions (R, D, H, W) on the template."""
        steps = self.image.to(device).float()
        low, step = (self.levels[:, n, None, None, None].to(device) for n in (0, 1))
        values = torch.where(steps > 0, low + (steps - 1) * step, 0.0)
        image = torch.zeros(len(values), *shape, device=device)
        regions = torch.zeros(len(self.regions), *shape, device=device)
        box = tuple(
            slice(first, first + side) for first, side in zip(self.start, values.shape[1:], strict=True)
        )
        image[(slice(None), *box)] = values
        regions[(slice(None), *box)] = self.regions.to(device).float()
        return image, regions


def quantise(image: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return an image (N, d, h, w) in 8 bits and its levels (N, 2): darkest value and step; errors are half a step."""
    steps, levels = np.zeros(image.shape, np.uint8), np.zeros((len(image), 2), np.float32)
    for n, channel in enumerate(image):
        inside = channel != 0
        if inside.any():
            low, high = float(channel[inside].min()), float(channel[inside].max())
            step = (high - low) / 254 or 1.0
            steps[n][inside] = np.rint((channel[inside] - low) / step).astype(np.uint8) + 1
            levels[n] = low, step
    return steps, levels


def deflate(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bytes of an array, compressed: half of a box is background."""
    return np.frombuffer(zlib.compress(np.ascontiguousarray(array).tobytes()), np.uint8).copy()


def inflate(compressed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bytes that were compressed."""
    return np.frombuffer(zlib.decompress(compressed.tobytes()), np.uint8).copy()


def read_index(folder: Path) -> dict[str, Any]:
    """Return the index of a folder of parts.

    Raises
    ------
    InputError
        If it is missing, damaged, or of another format.
    """
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
        known = index["format"] == FORMAT and all(
            name in index for name in ("recipe", "span", "parts", "cases")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "This is no folder of packed cases.", "Make one with `m3ae pack`.", path=folder, code="packed"
        ) from error
    if not known:
        problem = "The packed cases are of another version."
        raise InputError(problem, "Pack them again with this one.", path=folder, code="packed")
    return index


def read_parts(folder: Path) -> list[PackedCase]:
    """Return all cases of a folder of parts, each part checked against the index.

    Raises
    ------
    InputError
        If a part is missing, or is not the one that was written (``hash``).
    """
    index = read_index(folder)
    cases: list[PackedCase] = []
    for part in index["parts"]:
        path = folder / part["file"]
        if not path.is_file() or sha256(path) != part["sha256"]:
            problem = "This part is missing, or is not the one that was packed."
            raise InputError(problem, "Copy it again.", path=path, code="hash")
        with safe_open(str(path), "pt") as tensors:
            cases += [_case(tensors, index["cases"][number], number) for number in part["cases"]]
    return cases


def _case(tensors: Any, about: dict[str, Any], number: int) -> PackedCase:
    image, bits = (inflate(tensors.get_tensor(f"{number}.{name}").numpy()) for name in ("image", "regions"))
    shape = (about["regions"], *about["shape"])
    regions = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
    return PackedCase(
        torch.from_numpy(image.reshape(-1, *about["shape"])),
        tensors.get_tensor(f"{number}.levels"),
        torch.from_numpy(regions),
        tuple(about["start"]),
        torch.tensor(about["exists"]),
        float(about["weight"]),
    )


def settings(content: Any) -> Any:
    """Return a recipe's JSON as plain attributes, so that no validating library is needed to read it."""
    if isinstance(content, dict):
        return SimpleNamespace(**{name: settings(value) for name, value in content.items()})
    return tuple(map(settings, content)) if isinstance(content, list) else content
