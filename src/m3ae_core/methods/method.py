"""What every method offers: all that the loop, the predictor, the bundle, the benchmark and the viewer need to know.

A method is one class, in a file of its own, and one entry in :mod:`m3ae_core.methods.registry` (or in the hook
``m3ae_methods`` of an outside package). A model is an object of such a class: networks with weights. :class:`Stage`
and :class:`Task` say how it is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from m3ae_core.config import ModelConfig, Recipe
from m3ae_core.errors import BundleError
from m3ae_core.events import Event
from m3ae_core.stage_config import Shape, StageConfig

if TYPE_CHECKING:
    from m3ae_core.data.dataset import CachedCase, Draw
    from m3ae_core.io.case import Case
    from m3ae_core.methods.reconstructed import Reconstruction

#: What a model may be able to do; all that is not segmentation is there to be looked at.
Capability = Literal["segmentation", "substitute", "reconstruction"]


class Method(Protocol):
    """A model that segments from whichever modalities are there.

    Implementations inherit from this class, and with it the defaults: nothing but networks is kept, and what is missing
    is filled with zeros.

    Attributes
    ----------
    NETWORKS
        Makes each network of the method, by the name under which a bundle keeps its weights.
    IMAGES
        Names of images (N, D, H, W) on the template that a bundle keeps beside them.
    config
        What the model is; inference obeys it.
    networks, images
        Those that this model has; one that is only pretrained may lack some.

    Examples
    --------
    The smallest method there can be: one convolution, trained with :class:`m3ae_core.methods.supervised.Supervised`.

    >>> import torch
    >>> from m3ae_core import Method
    >>> from m3ae_core.config import ModelConfig
    >>> from m3ae_core.methods.supervised import Supervised
    >>> def convolution(config):
    ...     return torch.nn.Conv3d(len(config.modalities), len(config.regions), 1)
    >>> class OneConvolution(Method):
    ...     NETWORKS = {"convolution": convolution}
    ...
    ...     @classmethod
    ...     def stages(cls):
    ...         return (Supervised(cls),)
    ...
    ...     def predict(self, x, missing):
    ...         return self.networks["convolution"](x)
    ...
    ...     def losses(self, network, x, regions, missing, weights):
    ...         x = torch.where(missing[:, :, None, None, None], 0, x)
    ...         return {"entropy": torch.nn.functional.binary_cross_entropy_with_logits(network(x), regions.float())}
    >>> config = ModelConfig()
    >>> model = OneConvolution.restored(config, {"convolution": convolution(config)})
    >>> missing = torch.tensor([True, False, False, False])
    >>> model.predict(model.fill(torch.rand(4, 8, 8, 8), missing, (0, 0, 0))[None], missing).shape
    torch.Size([1, 3, 8, 8, 8])
    """

    NETWORKS: ClassVar[Mapping[str, Callable[[ModelConfig], nn.Module]]]
    IMAGES: ClassVar[tuple[str, ...]] = ()

    config: ModelConfig
    networks: dict[str, nn.Module]
    images: dict[str, Tensor]

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        """Return how it is trained, in order."""
        ...

    @classmethod
    def restored(
        cls, config: ModelConfig, networks: dict[str, nn.Module], images: dict[str, Tensor] | None = None
    ) -> Self:
        """Return the model of these networks and images, as a bundle or a training holds them."""
        model = cls.__new__(cls)
        model.config, model.networks, model.images = config, networks, images or {}
        return model

    def predict(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the region logits (B, R, D, H, W) of filled images `x` (B, N, D, H, W).

        `missing` (N,) is True where :meth:`fill` has filled in. What was in a missing modality must not matter.
        """
        ...

    def fill(self, image: Tensor, missing: Tensor, start: Shape) -> Tensor:
        """Return `image` (N, D, H, W) with something in the place of what is `missing` (N,): zeros.

        `start` is the voxel (d, h, w) of the template that the image begins at; it may lie outside.
        """
        del start
        return torch.where(missing[:, None, None, None], image.new_zeros(()), image)

    def lacks(self, capability: Capability) -> str | None:
        """Say in a sentence why the model cannot do this; None if it can."""
        return None if capability == "segmentation" else f"{self.config.method} has no {capability} to show."

    def compile(self) -> None:
        """Compile what :meth:`predict` computes."""
        for network in self.networks.values():
            network.compile()


@runtime_checkable
class Reconstructs(Protocol):
    """A method that can show what it makes of a masked case."""

    def reconstruct(
        self, case: Case, *, dropped: Collection[str], ratio: float | None, seed: int, patch: int
    ) -> Reconstruction:
        """Mask a case and reconstruct it; see :func:`m3ae_core.methods.m3ae.reconstruction.reconstruct`."""
        ...


def reconstructing(model: Method) -> Reconstructs:
    """Return the model as one that can reconstruct.

    Raises
    ------
    BundleError
        If it cannot (``stage``).
    """
    if reason := model.lacks("reconstruction"):
        raise BundleError("This model cannot show reconstructions.", reason, code="stage")
    assert isinstance(model, Reconstructs)  # noqa: S101  lacks() has said so
    return model


class Task(nn.Module):
    """What one training step computes: a module that maps a batch to named loss terms, whose sum is the loss.

    It knows nothing of devices, optimisers or files.
    """

    @property
    def trained(self) -> nn.Module:
        """The network that learns."""
        raise NotImplementedError

    @property
    def model(self) -> Method:
        """The model as it is now, to be validated and kept."""
        raise NotImplementedError

    @property
    def watched(self) -> Tensor | None:
        """An image (N, D, H, W) that is being learned, to be seen as it evolves."""
        return None

    def parameter_groups(self) -> list[dict[str, object]]:
        """Return the parameters to learn, with a learning rate for each group."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Do what has to follow every optimiser step; nothing by default."""

    def finished(self) -> Iterable[Event]:
        """Say what has changed, at the end of the training; nothing by default."""
        return ()


class Stage(Protocol):
    """One of the trainings of a method: where it starts, what it draws and what it learns.

    Attributes
    ----------
    name
        That of its settings in a recipe.
    makes
        What its bundle is called: ``pretrained`` or ``segmenter``.
    labelled
        Whether it needs label maps.
    """

    name: str
    makes: str
    labelled: bool

    def settings(self, recipe: Recipe) -> StageConfig:
        """Return its settings in a recipe."""
        settings: StageConfig = getattr(recipe, self.name)
        return settings

    def require(self, start: Method | None) -> None:
        """Refuse a model that the stage cannot go on from.

        Raises
        ------
        BundleError
            With what is missing; nothing is trained then.
        """
        del start

    def draw(self, recipe: Recipe) -> Draw[Any]:
        """Return what draws a sample from a crop of a case and a random generator of the sample's own."""
        ...

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Return a new task; random weights come from torch's global generator."""
        ...

    def card(self, fresh: dict[str, Any], start: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the card of what it makes, from a `fresh` one and that of the model it starts from."""
        del start
        return fresh


def require_start(start: Method | None, network: str, remedy: str) -> None:
    """Refuse to go on from nothing, or from a model without a certain network.

    Raises
    ------
    BundleError
        With code ``stage``.
    """
    if start is None or network not in start.networks:
        raise BundleError(f"This bundle holds no {network} to start from.", remedy, code="stage")
