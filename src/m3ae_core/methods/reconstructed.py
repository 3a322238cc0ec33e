"""A masked case and what a method makes of it, as numbers to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from m3ae_core.io.grid import FloatArray, Grid
from m3ae_core.methods.situations import BoolArray
from m3ae_core.modalities import Subset


class Fidelity(NamedTuple):
    """How near a reconstructed sequence is to the given one, inside the brain.

    Mean squared error, and peak signal-to-noise ratio in dB, the peak being the range of the given sequence (infinite
    where the error is 0), over the masked and over the visible voxels; None where there are none.
    """

    masked_mse: float | None
    masked_psnr_db: float | None
    visible_mse: float | None
    visible_psnr_db: float | None


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A masked case and its reconstruction, on the model's template grid.

    Attributes
    ----------
    image
        (N, D, H, W) float32: what the case holds, on the model's scale; sequences that it lacks are zero.
    filled
        (N, D, H, W) float32: the network's input S(x, x_sub), masked content replaced by the substitute.
    masked
        (N, D, H, W) bool, True = replaced; True throughout where a sequence is missing or dropped.
    output
        (N, D, H, W) float32: the network's answer as it is, visible voxels included.
    grid
        The template grid where the case lies: its affine leads to the case's own world.
    subset
        The sequences that the case has, whether dropped or not.
    modalities
        Names of the N sequences, in channel order.
    """

    image: FloatArray
    filled: FloatArray
    masked: BoolArray
    output: FloatArray
    grid: Grid
    subset: Subset
    modalities: tuple[str, ...]

    @property
    def composite(self) -> FloatArray:
        """(N, D, H, W) float32: the image where it was visible, the reconstruction where it was masked."""
        return np.where(self.masked, self.output, self.image)

    @property
    def error(self) -> FloatArray:
        """(N, D, H, W) float32, |output - image|; zero for sequences that the case lacks: nothing is known of them."""
        error: FloatArray = np.abs(self.output - self.image)
        error[[name not in self.subset for name in self.modalities]] = 0
        return error

    def fidelity(self) -> dict[str, Fidelity]:
        """Measure every sequence that the case has, by name, where any of them is not zero (the brain)."""
        brain = self.image.any(axis=0)
        measured = {}
        for channel, name in enumerate(self.modalities):
            if name in self.subset:
                square = np.square(np.subtract(self.output[channel], self.image[channel], dtype=float))
                masked, peak = self.masked[channel], float(np.ptp(self.image[channel][brain]))
                measured[name] = Fidelity(
                    *_mse_and_psnr(square[brain & masked], peak),
                    *_mse_and_psnr(square[brain & ~masked], peak),
                )
        return measured


def _mse_and_psnr(square: npt.NDArray[np.float64], peak: float) -> tuple[float | None, float | None]:
    if not square.size:
        return None, None
    mse = float(square.mean())
    return mse, float(10 * np.log10(peak**2 / mse)) if mse else float("inf")
