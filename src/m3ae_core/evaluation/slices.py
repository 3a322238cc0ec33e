"""One axial slice of a case, with what a model made of it from every subset: for people to look at."""

# mypy: allow-untyped-calls
# (nibabel's functions carry no annotations)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel import orientations

from m3ae_core.files import atomic_write
from m3ae_core.io.affine import Affine
from m3ae_core.io.case import Case

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Slices:
    """The axial slice of a case with most reference tumour; patient's right on the left, front on top.

    Attributes
    ----------
    images
        Per modality (H, W), scaled to 0-255 from the slice's own 1st and 99th percentile.
    reference
        (H, W), label values.
    predictions
        Per subset (H, W), label values of the same scheme.
    """

    images: dict[str, Image]
    reference: Image
    predictions: dict[str, Image]


def cut(case: Case, reference: Image, predictions: Mapping[str, Image]) -> Slices:
    """Cut one slice out of a case and of the label maps (X, Y, Z) on its grid."""
    turned = to_axial(reference, case.affine)
    area = np.count_nonzero(turned, axis=(1, 2))
    level = int(area.argmax()) if area.any() else len(turned) // 2

    def at_level(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        plane: npt.NDArray[Any] = to_axial(data, case.affine)[level]
        return plane

    images = {name: _greys(at_level(volume.data)) for name, volume in case.volumes.items()}
    return Slices(images, turned[level], {name: at_level(labels) for name, labels in predictions.items()})


def write_slices(path: Path, slices: Slices) -> Path:
    """Write slices atomically as compressed arrays; the folder must be there."""
    arrays = {"reference": slices.reference}
    arrays |= {f"image {name}": image for name, image in slices.images.items()}
    arrays |= {f"from {subset}": labels for subset, labels in slices.predictions.items()}
    return atomic_write(path, lambda temporary: np.savez_compressed(temporary, **arrays))  # type: ignore[arg-type]


def read_slices(path: Path) -> Slices:
    """Read what :func:`write_slices` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        images = {key.removeprefix("image "): arrays[key] for key in arrays if key.startswith("image ")}
        predictions = {key.removeprefix("from "): arrays[key] for key in arrays if key.startswith("from ")}
        return Slices(images, arrays["reference"], predictions)


def to_axial(data: npt.NDArray[Any], affine: Affine) -> npt.NDArray[Any]:
    """Return a volume (X, Y, Z) with axes towards superior, posterior and left: (D, H, W); nothing is interpolated."""
    own = orientations.io_orientation(affine)
    turn = orientations.ornt_transform(own, orientations.axcodes2ornt(("S", "P", "L")))
    turned: npt.NDArray[Any] = orientations.apply_orientation(data, turn)
    return turned


def _greys(image: npt.NDArray[Any]) -> Image:
    """Scale an image (H, W) to 0-255 between the percentiles of what is not zero."""
    values = image[image != 0]
    low, high = np.percentile(values, (1, 99)) if values.size else (0.0, 1.0)
    scaled = np.clip((image - low) / max(high - low, 1e-6), 0, 1) * (image != 0)
    return np.asarray(255 * scaled, np.uint8)
