"""One tiny phantom as a batch, and a method trained on it until it knows it by heart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m3ae_core.config import ModelConfig, NetworkConfig
from m3ae_core.data.phantom import phantom
from m3ae_core.methods.method import Method
from m3ae_core.methods.registry import method_named
from m3ae_core.regions import BRATS_2023, encode

SIDES = (16, 24, 16)


def one_phantom(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """The image (1, N, D, H, W) in [0, 1] and the regions (1, R, D, H, W)."""
    images, labels = phantom(SIDES, present=config.modalities)
    x = np.stack([images[name] / images[name].max() for name in config.modalities])
    return torch.from_numpy(x)[None], torch.from_numpy(encode(labels, BRATS_2023, config.region_set))[None]


def small(name: str, **settings: object) -> Method:
    """A model of the method with random weights and 4 base channels."""
    torch.manual_seed(0)
    network = NetworkConfig(base_channels=4, norm_groups=2)
    config = ModelConfig.model_validate({"method": name, "network": network, **settings})
    networks = {part: build(config) for part, build in method_named(name).NETWORKS.items()}
    return method_named(name).restored(config, networks)


def dice_by_heart(model: Method, missing: Tensor, steps: int, learning_rate: float) -> Tensor:
    """Train on one phantom without the modalities `missing` (N,); return the Dice score of each region (R,)."""
    x, regions = one_phantom(model.config)
    ((_, network),) = model.networks.items()
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack(list(model.losses(network, x, regions, missing[None], None).values())).sum().backward()
        optimizer.step()
    found = model.predict(model.fill(x[0], missing, (0, 0, 0))[None], missing) > 0
    return 2 * (found & regions).sum((0, 2, 3, 4)) / (found.sum((0, 2, 3, 4)) + regions.sum((0, 2, 3, 4)))
