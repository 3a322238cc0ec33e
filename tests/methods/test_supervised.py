"""What a method is given to learn from."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from m3ae_core.data.augment import Augmentation
from m3ae_core.methods.method import Method
from m3ae_core.methods.supervised import SupervisedSample, SupervisedTask, acquired
from tiny import RECIPE


class Given(Method):
    """Keeps what it is given."""

    NETWORKS: ClassVar = {"network": lambda _: nn.Conv3d(4, 3, 1)}
    given: ClassVar[list] = []

    def losses(self, network, x, regions, missing, weights):
        self.given[:] = [x, missing]
        return {}


def test_what_was_never_acquired_is_zero_however_it_is_augmented() -> None:
    exists = torch.tensor([True, False, True, True])
    image = torch.rand(4, 8, 8, 8) * exists[:, None, None, None]
    brighter = Augmentation(torch.ones(4, 1, 1, 1), torch.full((4, 1, 1, 1), 0.5), (-1,))
    dropped = torch.tensor([[False, True, True, False]])
    regions = torch.zeros(3, 8, 8, 8, dtype=torch.bool)
    sample = SupervisedSample(image, regions, (0, 0, 0), dropped, exists, brighter, None, 1.0)
    SupervisedTask(Given, RECIPE, nn.Conv3d(4, 3, 1))([sample])
    x, missing = Given.given
    assert torch.equal(missing, dropped)
    assert torch.equal(acquired(x), exists[None])
    assert torch.equal(x[0, 2], image[2].flip(-1) + 0.5)
