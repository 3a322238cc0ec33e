"""Small synthetic cases for tests and examples: a head of ellipsoids with a tumour. Not anatomy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from m3ae_core.io.affine import Affine
from m3ae_core.io.case import CaseFiles
from m3ae_core.io.volume import write_image, write_labels
from m3ae_core.modalities import BRATS, KNOWN, ModalitySet

#: Mean intensity of each tissue in each modality; the enhancing rim is bright on T1c, oedema on FLAIR and T2. CT is in
#: Hounsfield units, and shows oedema and core a little darker than brain.
CONTRASTS = {
    "FLAIR": {"grey": 420.0, "white": 360.0, "fluid": 90.0, "oedema": 760.0, "rim": 640.0, "core": 520.0},
    "T1": {"grey": 430.0, "white": 600.0, "fluid": 160.0, "oedema": 400.0, "rim": 420.0, "core": 300.0},
    "T1c": {"grey": 440.0, "white": 610.0, "fluid": 170.0, "oedema": 410.0, "rim": 980.0, "core": 310.0},
    "T2": {"grey": 480.0, "white": 340.0, "fluid": 950.0, "oedema": 780.0, "rim": 650.0, "core": 820.0},
    "CT": {"grey": 38.0, "white": 30.0, "fluid": 6.0, "oedema": 20.0, "rim": 42.0, "core": 14.0},
}
#: BraTS 2023 label values.
LABELS = {"core": 1, "oedema": 2, "rim": 3}
#: 4 mm voxels stored as BraTS stores them (LPS), centred on the SRI24 atlas for the default shape.
AFFINE: Affine = np.array(
    [[-4.0, 0.0, 0.0, -25.5], [0.0, -4.0, 0.0, 229.5], [0.0, 0.0, 4.0, -1.0], [0.0, 0.0, 0.0, 1.0]]
)

_SUFFIXES = {"FLAIR": "t2f", "T1": "t1n", "T2": "t2w"}
_AIR = -1000.0  # HU


def phantom(
    shape: Sequence[int] = (48, 56, 40), seed: int = 0, present: Iterable[str] = BRATS.names
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.uint8]]:
    """Make one synthetic case.

    Returns the modalities `present` by name, float32 (X, Y, Z), and the label map (X, Y, Z) with BraTS 2023 values. MRI
    is positive within the brain and zero outside, CT in Hounsfield units in air. `seed` moves and resizes the tumour
    and draws the noise. Every tissue is there if all sides have at least 16 voxels.

    Raises
    ------
    ConfigError
        If a modality is not among those of :data:`CONTRASTS`.
    """
    subset = ModalitySet(KNOWN).subset(present)
    rng = np.random.default_rng(seed)
    tissues = _tissues(tuple(shape), rng)
    labels = np.zeros(tuple(shape), np.uint8)
    for tissue, value in LABELS.items():
        labels[tissues == tissue] = value
    drawn = {"CT": _ct} | dict.fromkeys(BRATS.names, _mri)
    images = {name: drawn[name](tissues, contrast, rng) for name, contrast in CONTRASTS.items()}
    return {name: image for name, image in images.items() if name in subset}, labels


def write_phantom(
    folder: Path | str,
    name: str = "phantom",
    *,
    shape: Sequence[int] = (48, 56, 40),
    seed: int = 0,
    affine: Affine = AFFINE,
    present: Iterable[str] = BRATS.names,
) -> CaseFiles:
    """Write a synthetic case as a folder `name` within `folder`, with file names like those of BraTS 2023.

    `present` names the modalities to write; the label map is always written.
    """
    images, labels = phantom(shape, seed, present)
    home = Path(folder) / name
    home.mkdir(parents=True, exist_ok=True)
    paths = {key: home / f"{name}-{_SUFFIXES.get(key, key.lower())}.nii.gz" for key in images}
    for key, path in paths.items():
        write_image(path, images[key], affine)
    return CaseFiles(name, paths, write_labels(home / f"{name}-seg.nii.gz", labels, affine))


def _tissues(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.str_]:
    """Return the tissue of every voxel (X, Y, Z); empty outside the brain."""
    position = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    tissues = np.full(shape, "", dtype="<U6")
    tissues[_radius(position, (0, 0, 0), (0.85, 0.9, 0.85)) < 1] = "grey"
    tissues[_radius(position, (0, 0, 0), (0.68, 0.74, 0.66)) < 1] = "white"
    for side in (-1, 1):
        tissues[_radius(position, (side * 0.16, 0.05, 0.05), (0.1, 0.35, 0.16)) < 1] = "fluid"
    side = rng.choice((-1, 1))
    centre = (side * rng.uniform(0.28, 0.4), rng.uniform(-0.35, 0.35), rng.uniform(-0.15, 0.25))
    distance = _radius(position, centre, rng.uniform(0.32, 0.4, 3))
    inside = tissues != ""
    for tissue, limit in (("oedema", 1.0), ("rim", 0.65), ("core", 0.4)):
        tissues[inside & (distance < limit)] = tissue
    return tissues


def _radius(
    position: npt.NDArray[np.float64],
    centre: Sequence[float],
    semi_axes: Sequence[float] | npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the distance from `centre` in units of an ellipsoid's semi-axes."""
    scaled = [(axis - middle) / half for axis, middle, half in zip(position, centre, semi_axes, strict=True)]
    radius: npt.NDArray[np.float64] = np.sqrt(np.sum(np.square(scaled), axis=0))
    return radius


def _means(tissues: npt.NDArray[np.str_], contrast: dict[str, float]) -> npt.NDArray[np.float64]:
    """Return the blurred mean intensity of each voxel's tissue."""
    means = np.full(tissues.shape, contrast["grey"])
    for tissue, mean in contrast.items():
        means[tissues == tissue] = mean
    blurred: npt.NDArray[np.float64] = gaussian_filter(means, 0.6)
    return blurred


def _mri(
    tissues: npt.NDArray[np.str_], contrast: dict[str, float], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return one sequence: tissue means, a slow bias field and noise, zero outside the brain."""
    bias = gaussian_filter(rng.standard_normal(tissues.shape), min(tissues.shape) / 5)
    bias = 1 + 0.05 * bias / np.abs(bias).max()
    values = _means(tissues, contrast) * bias + rng.normal(0, 12, tissues.shape)
    return np.where(tissues != "", np.maximum(values, 1), 0).astype(np.float32)


def _ct(
    tissues: npt.NDArray[np.str_], contrast: dict[str, float], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return a CT without skull: tissue means and noise, air outside the brain."""
    values = _means(tissues, contrast) + rng.normal(0, 3, tissues.shape)
    return np.where(tissues != "", values, _AIR).astype(np.float32)
