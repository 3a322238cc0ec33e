"""One 3-D array with its geometry: the only way in from NIfTI files, and the only way out to them.

Arrays keep the voxel order of their file (X, Y, Z indexes); the affine leads from voxel indices to RAS world
millimetres. What may stop a file from being read is listed with :func:`read_volume`.
"""

# mypy: allow-untyped-calls
# (nibabel's functions carry no annotations)
from __future__ import annotations

import gzip
import hashlib
import logging
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.volumeutils import apply_read_scaling

from m3ae_core.errors import InputError, OutputError
from m3ae_core.files import atomic_write
from m3ae_core.io.affine import Affine, contradict, describe, flaw, spacing_of
from m3ae_core.io.background import without_background
from m3ae_core.io.nifti import Declared, read_stream
from m3ae_core.modalities import Kind

#: Largest distance of a label value from an integer.
LABEL_TOLERANCE = 1e-3
#: Largest step between scaled integers that still tells labels from interpolated values (0 to 25 in 8 bits).
LABEL_STEP = 0.1

#: NIfTI's "coordinates aligned to another file's": a result lies in the world of the image it was made from,
#: and whether that is a scanner's or an atlas's is not ours to claim.
_ALIGNED = 2
_RESAVE = "Save the image again with a program that you trust, or obtain it again."

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D array with its geometry.

    Attributes
    ----------
    data
        Voxel values (X, Y, Z), in the file's own voxel order.
    affine
        4×4 float64 matrix from voxel indices to RAS world millimetres.
    path
        The file it was read from, if any.
    notes
        What was filled in or changed to make it usable, as sentences.
    """

    data: npt.NDArray[Any]
    affine: Affine
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes."""
        x, y, z = self.data.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along the three axes in mm."""
        return spacing_of(self.affine)

    @cached_property
    def sha256(self) -> str:
        """Identity of the voxels, see :func:`voxel_sha256`."""
        return voxel_sha256(self.data)


def voxel_sha256(data: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of the bytes of an array (X, Y, Z), X fastest as in NIfTI files, as hexadecimal text."""
    return hashlib.sha256(np.ascontiguousarray(data.T).data).hexdigest()


def read_volume(path: Path | str, kind: Kind = "MRI") -> Volume:
    """Read an image of a modality of this kind from a `.nii` or `.nii.gz` file.

    Returns float32 voxels (X, Y, Z) with the file's intensity scaling applied and a background of 0
    (:func:`~m3ae_core.io.background.without_background`). Whether the file is compressed is decided by its
    content, not by its name. Of two fields of the header that say the same, a good one stands in for a bad one.

    Raises
    ------
    InputError
        With one of these codes, and nothing else whatever the file holds:
        ``missing``, ``not-a-file``, ``empty``, ``unreadable`` (the file as such);
        ``not-nifti``, ``dicom``, ``truncated``, ``damaged``, ``oversized`` (its bytes);
        ``not-3d``, ``too-large``, ``dtype``, ``offset``, ``units``, ``scaling``, ``memory`` (its header);
        ``affine``, ``qform-sform`` (its geometry);
        ``nonfinite``, ``constant`` (its voxels).
    """
    path = Path(path)
    with _naming(path):
        stored = _read(path)
        data, notes = without_background(stored.values.astype(np.float32, copy=False), kind)
        _refuse_nonfinite(data)
        if data.min() == data.max():
            problem = f"All voxels have the value {data.flat[0]:g}."
            raise InputError(problem, "Choose an image with content.", code="constant")
        return Volume(data, stored.affine, path, (*stored.notes, *notes))


def read_labels(path: Path | str) -> Volume:
    """Read a label map from a `.nii` or `.nii.gz` file.

    Returns uint8 voxels (X, Y, Z). Values stored as decimals are accepted within 1e-3 of integers, and those stored
    in scaled integers within half a step of their scale, if that is fine enough. An empty map (all background) is
    legal.

    Raises
    ------
    InputError
        With the codes of :func:`read_volume` except ``constant``, or ``labels-not-integer`` or
        ``labels-range``.
    """
    path = Path(path)
    with _naming(path):
        stored = _read(path)
        values = stored.values
        if values.dtype.kind == "f":
            values = _rounded(values, max(LABEL_TOLERANCE, 0.51 * stored.step * (stored.step <= LABEL_STEP)))
        if values.min() < 0 or values.max() > 255:
            raise InputError(
                f"The label values reach from {values.min():g} to {values.max():g}; allowed are 0 to 255.",
                "Choose a label map, not an image, or renumber its labels.",
                code="labels-range",
            )
        return Volume(values.astype(np.uint8, copy=False), stored.affine, path, stored.notes)


def write_labels(path: Path | str, labels: npt.NDArray[np.integer | np.bool_], affine: Affine) -> Path:
    """Write a label map (X, Y, Z) with values 0 to 255 to a `.nii` or `.nii.gz` file, atomically.

    The header is made from nothing but shape and affine, so no text of the source image (which may name the
    patient) can reach the file. The affine is stored as float32: one that was read from a file's sform comes
    back exactly, any other within 1e-4 mm at ordinary sizes. An existing file is replaced; whether that is
    wanted is the caller's question to ask.

    Raises
    ------
    OutputError
        If the labels or the affine cannot be represented (``labels``, ``affine``), the name has another
        ending (``suffix``) or the file cannot be written (``not-writable``, ``write-failed``).
    """
    if labels.dtype.kind not in "bui" or labels.size == 0 or labels.min() < 0 or labels.max() > 255:
        problem = "Labels must be integers from 0 to 255."
        raise OutputError(problem, "Renumber them.", path=path, code="labels")
    return _write(Path(path), labels.astype(np.uint8), affine)


def write_image(path: Path | str, data: npt.NDArray[Any], affine: Affine) -> Path:
    """Write an image (X, Y, Z) as float32, otherwise like :func:`write_labels`."""
    return _write(Path(path), data.astype(np.float32), affine)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while reading `path` into an :class:`InputError` that names it."""
    try:
        with np.errstate(all="ignore"):
            yield
    except InputError as error:
        raise InputError(error.problem, error.fix, path=path, code=error.code) from error
    except FileNotFoundError as error:
        raise InputError("There is no such file.", "Check the path.", path=path, code="missing") from error
    except OSError as error:
        problem = f"The file cannot be read ({error.strerror or type(error).__name__})."
        fix = "Check the path, the permissions and the drive."
        raise InputError(problem, fix, path=path, code="unreadable") from error
    except MemoryError as error:
        problem, fix = (
            "The memory does not suffice for this image.",
            "Close other programs or crop the image.",
        )
        raise InputError(problem, fix, path=path, code="memory") from error
    except Exception as error:
        problem = f"The file cannot be interpreted ({type(error).__name__})."
        raise InputError(problem, _RESAVE, path=path, code="damaged") from error


class _Stored(NamedTuple):
    """Scaled voxels (X, Y, Z) in their natural type; `step` lies between neighbouring ones if they are integers."""

    values: npt.NDArray[Any]
    affine: Affine
    step: float
    notes: tuple[str, ...]


def _read(path: Path) -> _Stored:
    """Return what a file holds."""
    if "\0" in str(path):
        raise FileNotFoundError
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise InputError(f"This is {kind}.", "Choose a .nii or .nii.gz file.", code="not-a-file")
    if status.st_size == 0:
        raise InputError("The file is empty.", "Copy or download it again.", code="empty")
    with path.open("rb") as stream:
        declared, content = read_stream(stream)
    header = _header(declared)
    affine, notes = _affine(header)
    stored: npt.NDArray[Any] = np.ndarray(
        declared.shape, declared.dtype, buffer=content, offset=declared.offset, order="F"
    )
    slope, inter = _scaling(header)
    step = abs(slope) if stored.dtype.kind in "iu" else 0.0
    return _Stored(apply_read_scaling(stored, slope, inter), affine, step, (*declared.notes, *notes))


def _header(declared: Declared) -> nib.Nifti1Header:
    """Return nibabel's header object with harmless flaws repaired (unknown codes, negative voxel sizes)."""
    kind = nib.Nifti1Header if declared.version == 1 else nib.Nifti2Header
    header = kind(declared.block, endianness=declared.order, check=False)
    header.check_fix(logger=_log)
    return header


def _scaling(header: nib.Nifti1Header) -> tuple[float, float]:
    """Return slope and intercept; a slope of zero or without a value means "not scaled" (NIfTI standard)."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(inter):
        raise InputError(f"The intensity scaling is not usable (intercept {inter}).", _RESAVE, code="scaling")
    return slope, inter


def _affine(header: nib.Nifti1Header) -> tuple[Affine, tuple[str, ...]]:
    """Return the file's affine (the sform where there is a good one, else the qform, else the voxel sizes), and notes.

    Without either, the NIfTI standard says that the voxels' axes run to the right, front and top.
    """
    found = {name: _form(header, name) for name in ("sform", "qform") if int(header[f"{name}_code"]) > 0}
    good = {name: form for name, form in found.items() if not isinstance(form, InputError)}
    bad = [error for error in found.values() if isinstance(error, InputError)]
    if bad and not good:
        raise bad[0]
    if len(good) == 2 and contradict(good["sform"], good["qform"]):
        raise InputError(
            f"The header holds two contradicting geometries: {describe(good['sform'])} (sform) and "
            f"{describe(good['qform'])} (qform).",
            "Find out which one is right and save the image with that one alone.",
            code="qform-sform",
        )
    notes = tuple(f"{error.problem} Its {name} was taken." for error in bad for name in good)
    return (next(iter(good.values())) if good else _sizes_alone(header)), notes


def _sizes_alone(header: nib.Nifti1Header) -> Affine:
    """Return the affine of a header that says nothing but the voxels' sizes."""
    affine = np.diag([*np.abs(np.asarray(header["pixdim"][1:4], np.float64)), 1.0])
    if problem := flaw(affine):
        raise InputError(f"The header's voxel sizes are not usable: {problem}.", _RESAVE, code="affine")
    return affine


def _form(header: nib.Nifti1Header, name: str) -> Affine | InputError:
    """Return the header's "sform" or "qform" as a usable affine, or what is wrong with it."""
    try:
        affine = header.get_sform() if name == "sform" else header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return InputError(f"The header's {name} is not valid.", _RESAVE, code="affine")
    affine = np.asarray(affine, np.float64)
    if problem := flaw(affine):
        return InputError(f"The header's {name} is not usable: {problem}.", _RESAVE, code="affine")
    return affine


def _refuse_nonfinite(data: npt.NDArray[Any]) -> None:
    bad = ~np.isfinite(data)
    if count := np.count_nonzero(bad):
        raise InputError(
            f"{count} voxels are not finite numbers, the first at index {_first(bad)}.",
            "Replace them (for example by 0) or obtain the image again.",
            code="nonfinite",
        )


def _rounded(values: npt.NDArray[Any], tolerance: float) -> npt.NDArray[Any]:
    """Return label values rounded to integers, which they must nearly be already."""
    _refuse_nonfinite(values)
    rounded: npt.NDArray[Any] = np.rint(values)
    bad = np.abs(values - rounded) > tolerance
    if count := np.count_nonzero(bad):
        first = _first(bad)
        raise InputError(
            f"{count} label values are not integers, the first is {values[first]:g} at index {first}.",
            "Choose a label map, and resample label maps with nearest neighbours only.",
            code="labels-not-integer",
        )
    return rounded


def _first(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the index of the first True voxel."""
    return tuple(int(index) for index in np.unravel_index(int(mask.argmax()), mask.shape))


def _write(path: Path, data: npt.NDArray[Any], affine: Affine) -> Path:
    """Write an array with a fresh NIfTI-1 header: unscaled, in mm, sform and qform alike."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise OutputError("The name has another ending.", "Use .nii or .nii.gz.", path=path, code="suffix")
    affine = np.asarray(affine, np.float64)
    problem = f"The array has {data.ndim} dimensions, not 3" if data.ndim != 3 else flaw(affine)
    if problem:
        raise OutputError(f"This cannot be a volume: {problem}.", "Correct it.", path=path, code="affine")
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, _ALIGNED)
    image.set_qform(affine, _ALIGNED)
    content: bytes = image.to_bytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    return atomic_write(path, write)
