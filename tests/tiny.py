"""A recipe small enough to train in a test: 4 mm voxels around the phantom of m3ae_core.data.phantom."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3ae_core.bundle import Bundle
from m3ae_core.config import Recipe, parse_recipe
from m3ae_core.data.dataset import CachedCase
from m3ae_core.data.phantom import write_phantom
from m3ae_core.data.preprocess import Box
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
from m3ae_core.nn.windows import Fill

RECIPE: Recipe = parse_recipe(
    {
        "model": {
            "network": {"base_channels": 4, "norm_groups": 2},
            "grid": {
                "shape": (40, 56, 48),
                "affine": ((0, 0, -4, -25.5), (0, -4, 0, 229.5), (4, 0, 0, -1), (0, 0, 0, 1)),
            },
            "inference": {"window": "template"},
        },
        "pretrain": {
            "crop": (32, 48, 40),
            "epochs": 3,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "masking": {"patch": 8},
            "checkpoint_every": 1,
        },
        "finetune": {
            "crop": (32, 48, 40),
            "epochs": 3,
            "learning_rate": 1e-3,
            "checkpoint_every": 1,
            "validate_every": 2,
        },
    }
)


def recipe_toml(recipe: Recipe) -> str:
    """A recipe as a user would write it."""

    def lines(content: dict[str, Any], path: list[str]) -> Iterator[str]:
        for key, value in content.items():
            if isinstance(value, dict):
                yield from lines(value, [*path, key])
            elif value is not None:
                yield f"{'.'.join([*path, key])} = {json.dumps(value)}"

    return "\n".join(lines(recipe.model_dump(mode="json"), []))


def write_cases(folder: Path, count: int = 3) -> list:
    return [write_phantom(folder, f"case-{seed}", seed=seed) for seed in range(count)]


def cached(folder: Path, name: str, image: np.ndarray, regions: np.ndarray, brain: Box) -> CachedCase:
    """A case of these arrays, as the cache holds it."""
    paths = [folder / f"{name}-{kind}.npy" for kind in ("image", "regions")]
    for path, array in zip(paths, (image, regions), strict=True):
        np.save(path, array)
    return CachedCase(name, *paths, brain, (True,) * len(image))


def random_bundle(recipe: Recipe = RECIPE, seed: int = 0, **model) -> Bundle:
    """A bundle of random weights whose segmenter marks a fair share of the voxels in every region."""
    torch.manual_seed(seed)
    config = recipe.model.model_copy(update=model)
    segmenter = Segmenter(config).eval()
    substitute = torch.randn(len(config.modalities), *config.grid.shape)
    autoencoder = MaskedAutoencoder(config).eval()
    return Bundle(M3AE.of(config, substitute.half().float(), autoencoder, segmenter), {"name": "random"})


def with_substitute(bundle: Bundle, image: torch.Tensor) -> Bundle:
    """The same bundle with another substitute image (N, D, H, W)."""
    model = M3AE.restored(bundle.config, bundle.model.networks, {"substitute": image})
    return replace(bundle, model=model)


def filling(image: torch.Tensor, missing: torch.Tensor, origin: str = "template") -> Fill:
    """What fills the missing modalities (N,) of a region from the substitute `image` (N, D, H, W)."""
    inference = RECIPE.model.inference.model_copy(update={"substitute_origin": origin})
    model = M3AE.of(RECIPE.model.model_copy(update={"inference": inference}), image)
    return lambda part, start: model.fill(part, missing, start)
