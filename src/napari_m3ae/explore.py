"""What stage 1 learned: the substitute image, and a masked case with its reconstruction, as layers."""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from m3ae_core.errors import BundleError
from m3ae_core.events import Progress
from m3ae_core.io.grid import Grid
from napari_m3ae import layers

if TYPE_CHECKING:
    from m3ae_core.methods.method import Capability
    from m3ae_core.methods.reconstructed import Reconstruction
    from napari_m3ae.chosen import Chosen
    from napari_m3ae.session import Session

#: Marks the name of every layer that shows what no scanner made.
SYNTHETIC = "SYNTHETIC"


class Explorer:
    """Shows the model's substitute image and its reconstructions of the chosen case.

    Attributes
    ----------
    changed
        Emitted when there is another substitute or reconstruction.
    substitute
        The substitute image on display: (D, H, W) per sequence.
    reconstruction
        The masked case and its reconstruction.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        self.session = session
        self.substitute: dict[str, npt.NDArray[np.float32]] = {}
        self.reconstruction: Reconstruction | None = None
        self._shown: list[Any] = []
        session.forgotten.connect(self._forget)

    def lacks(self, capability: Capability) -> str | None:
        """Say why the model cannot show this; None if it can, or is not loaded yet."""
        bundle = self.session.bundle
        return None if bundle is None else bundle.model.lacks(capability)

    def show_substitute(self) -> None:
        """Show the substitute image where the chosen case lies, or on the template if none is chosen."""
        chosen = self.session.chosen_or_told() if self.session.state.subset.present else None
        known = self.session.predictions

        def job() -> Generator[Any, None, None]:
            yield Progress("loading the model", 0, 0)
            bundle = self.session.predictor().bundle
            if reason := bundle.model.lacks("substitute"):
                raise BundleError("This model cannot show a substitute image.", reason, code="stage")
            grid = Grid.of(bundle.config.grid)
            if chosen is not None:
                from m3ae_core.data.preprocess import standardise

                grid = standardise(chosen.case, bundle.config).grid
            yield (
                dict(zip(bundle.config.modalities, bundle.model.images["substitute"].numpy(), strict=True)),
                grid,
            )

        def show(found: Any) -> None:
            if known is self.session.predictions:  # neither case nor model was changed meanwhile
                self._show_substitute(*found)

        self.session.start(job(), show)

    def reconstruct(self, dropped: Collection[str], ratio: float | None, seed: int, shown: str) -> None:
        """Mask the chosen case, let the model reconstruct it, and show the sequence `shown`.

        See :func:`m3ae_core.methods.m3ae.reconstruction.reconstruct`.
        """
        if (chosen := self.session.chosen_or_told()) is None:
            return

        def job() -> Generator[Any, None, None]:
            from m3ae_core.methods.m3ae.reconstruction import pretrained_patch
            from m3ae_core.methods.method import reconstructing

            yield Progress("loading the model", 0, 0)
            bundle = self.session.predictor().bundle
            yield Progress("reconstructing", 0, 0)
            patch = pretrained_patch(bundle.card)
            yield reconstructing(bundle.model).reconstruct(
                chosen.case, dropped=dropped, ratio=ratio, seed=seed, patch=patch
            )

        self.session.start(job(), lambda found: self._keep(found, shown, chosen))

    def show_sequence(self, name: str) -> None:
        """Show the reconstruction's layers for one sequence."""
        found = self.reconstruction
        if found is None or name not in found.modalities:
            return
        index = found.modalities.index(name)
        given = found.image[index]
        limits = _limits(given if given.any() else found.output[index])
        pictures = {
            "given": given,
            f"{SYNTHETIC} filled input": found.filled[index],
            f"{SYNTHETIC} reconstruction": found.output[index],
            f"{SYNTHETIC} composite": found.composite[index],
        }
        for title, image in pictures.items():
            self._show(image, found.grid, f"M3AE {title}", name, contrast_limits=limits)
        error = found.error[index]
        self._show(error, found.grid, "M3AE error", name, colormap="magma", contrast_limits=_limits(error))
        self._show(
            found.masked[index].astype(np.uint8),
            found.grid,
            "M3AE mask",
            name,
            kind="labels",
            **layers.label_style({1: ("replaced by the substitute", "#ff7f0e")}),
        ).contour = 1
        self.changed.emit()

    @property
    def fidelity(self) -> list[tuple[str, ...]]:
        """Per sequence MSE and PSNR (dB) over masked and over visible voxels of the brain, as text."""
        if self.reconstruction is None:
            return []
        return [
            (name, *("-" if value is None else f"{value:.3g}" for value in measured))
            for name, measured in self.reconstruction.fidelity().items()
        ]

    def _keep(self, found: Reconstruction, shown: str, chosen: Chosen) -> None:
        if chosen.known is not self.session.predictions:  # another case or model was chosen meanwhile
            return
        self.reconstruction = found
        self.show_sequence(shown)

    def _show_substitute(self, images: dict[str, npt.NDArray[np.float32]], grid: Grid) -> None:
        self.substitute = images
        for name, image in images.items():
            title = f"{SYNTHETIC} substitute {name} (learned, not a patient scan)"
            self._show(image, grid, title, name, contrast_limits=_limits(image))
        self.changed.emit()

    def _show(
        self,
        image: npt.NDArray[Any],
        grid: Grid,
        title: str,
        sequence: str,
        kind: Any = "image",
        **style: Any,
    ) -> Any:
        """Show an array (D, H, W) on `grid` in the layer called `title`."""
        layer = layers.show_computed(
            self.session.viewer,
            layers.computed(
                image,
                np.asarray(grid.affine, float),
                title,
                kind,
                **({"colormap": "gray"} if kind == "image" else {}) | style,
            ),
        )
        if kind == "image":
            layer.contrast_limits = style["contrast_limits"]
        layer.metadata = {**layer.metadata, "sequence": sequence}
        if layer not in self._shown:
            self._shown.append(layer)
            layer.visible = True
        return layer

    def _forget(self) -> None:
        """Hide and drop what was made from another case or model."""
        self.substitute, self.reconstruction = {}, None
        for layer in self._shown:
            layer.visible = False
        self._shown = []
        self.changed.emit()


def _limits(image: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Contrast limits between the first and the last percent of an image."""
    low, high = np.percentile(image, (1, 99)).tolist()
    return low, max(high, low + 1e-6)
