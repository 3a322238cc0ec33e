"""Images that were not prepared as the model expects: skull left on, background, size, or no image at all.

The limits are set from the 22 training cases of the built-in model (BraTS-Africa) and lie well outside what they show;
``benchmarks/unprepared.py`` measures them on cases that took no part.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from m3ae_core.io.affine import spacing_of
from m3ae_core.io.background import corners
from m3ae_core.io.case import Case
from m3ae_core.io.volume import Volume
from m3ae_core.measure import voxel_ml
from m3ae_core.modalities import Kind

#: Share of the volume's corners that may be other than zero (training cases: 0, cut to the brain too).
CORNERS = 0.05
#: How much brighter than what lies 4 mm deeper the outermost 4 mm may be (training cases: at most 1.06 times).
RIM = 1.25
#: Volume in mL of a brain without skull: 0.6 times the least to 1.4 times the most of training cases (1,160 to 1,799).
BRAIN_ML = (700.0, 2500.0)
#: Different values that an image must have (training cases: at least 245).
VALUES = 16

_STEP = 4.0  # mm; the thickness of a scalp, and coarse enough to cost little


def find_unprepared(case: Case) -> tuple[str, ...]:
    """Return one sentence for each thing that tells an unprepared image, naming the sequences; none for a good case.

    An image is judged by the first that applies: too few values, a background that is not zero, an impossible size, a
    bright shell around a darker one (skin and skull). All but the first are known of MRI alone.
    """
    found: dict[str, list[str]] = {}
    for name, volume in case.volumes.items():
        if sentence := _judge(volume, case.modalities.kinds[name]):
            found.setdefault(sentence, []).append(name)
    return tuple(f"{', '.join(names)}: {sentence}" for sentence, names in found.items())


def corner_share(data: npt.NDArray[np.generic]) -> float:
    """Return the share of voxels other than zero in the eight corners, a tenth of each side wide, of (X, Y, Z)."""
    return float((corners(data) != 0).mean())


def rim_contrast(volume: Volume) -> float:
    """Return the mean of the outermost 4 mm of what is not zero, divided by the mean of the 4 mm below; 0 if none."""
    steps = [max(1, round(_STEP / mm)) for mm in spacing_of(volume.affine)]
    data = np.pad(volume.data[:: steps[0], :: steps[1], :: steps[2]], 1)
    head = data != 0
    below = ndimage.binary_erosion(head)
    deep = ndimage.binary_erosion(below)
    if not (below & ~deep).any():
        return 0.0
    level = float(data[below & ~deep].mean())
    return float(data[head & ~below].mean()) / level if level > 0 else 0.0


def _judge(volume: Volume, kind: Kind) -> str:
    """Return what is wrong with an image; empty if nothing is."""
    data = volume.data
    inside = data[data != 0]
    values = len(np.unique(inside[:: max(1, inside.size // 100_000)]))
    if values < VALUES:
        return (
            f"The image holds only {values} different values besides 0, as a label map or a mask does. "
            "Check that this is the right file."
        )
    if kind != "MRI":
        return ""
    if corner_share(data) > CORNERS:
        return (
            "The background is not 0. Remove everything outside the brain (skull stripping), set it to 0, "
            "and normalise the intensities only afterwards, if at all."
        )
    if size := _size(inside.size * voxel_ml(volume.affine)):
        return size
    if rim_contrast(volume) > RIM:
        return (
            "A bright shell surrounds a darker one, as skin does the skull. "
            "Remove the skull (for example with HD-BET or SynthStrip); the model knows only brains without it."
        )
    return ""


def _size(ml: float) -> str:
    low, high = BRAIN_ML
    if low <= ml <= high:
        return ""
    what = "a brain is smaller: the skull may be left on" if ml > high else "a whole brain is larger"
    return (
        f"What is not 0 measures about {float(f'{ml:.1g}'):,g} mL; {what}, or the voxel size in the header is wrong. "
        "Check the voxel size, and that the image shows one whole brain without skull."
    )
