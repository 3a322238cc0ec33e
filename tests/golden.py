"""The published network's numbers (tests/data/golden/README.md): formula weights, inputs, and what they give."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "data" / "golden"
OUTPUTS = np.load(FOLDER / "reference_outputs.npz")
SCALARS = json.loads((FOLDER / "reference_scalars.json").read_text())


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def layout() -> dict[str, tuple[int, ...]]:
    rows = (line.split("\t") for line in (FOLDER / "state_dict_layout.tsv").read_text().splitlines())
    return {name: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for name, shape in rows}


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    z = draw(name, shape)
    if len(shape) == 5:
        return torch.from_numpy(z / np.sqrt(np.prod(shape[1:]), dtype=np.float32))
    if name.endswith("weight"):
        return torch.from_numpy(1 + np.float32(0.2) * z)
    return torch.from_numpy(np.float32(0.1) * z)


def released_weights(head: int) -> dict[str, torch.Tensor]:
    """Weights of the released network without `unet.`, with an output layer of `head` channels."""
    shapes = {name.removeprefix("unet."): shape for name, shape in layout().items() if name != "limage"}
    if head == 4:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("ds_out")}
        shapes["up1conv.weight"], shapes["up1conv.bias"] = (4, 16, 1, 1, 1), (4,)
    return {name: weight(name, shape) for name, shape in shapes.items()}


X = torch.from_numpy(sigmoid(draw("x", (2, 4, 32, 40, 48))))
REGIONS = sigmoid(draw("regions", (2, 3, 32, 40, 48))) > 0.7
REGIONS[1] = REGIONS[0]
