"""Images that are not NIfTI files, and what converts them: the advice for a folder in which no sequence was found."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from m3ae_core.errors import InputError

#: By ending: what such a file is, and how it becomes a NIfTI file.
CONVERTERS = {
    ".mha": ("MetaImage files", "3D Slicer, or SimpleITK's ReadImage and WriteImage"),
    ".mhd": ("MetaImage files", "3D Slicer, or SimpleITK's ReadImage and WriteImage"),
    ".nrrd": ("NRRD images", "3D Slicer, or SimpleITK's ReadImage and WriteImage"),
    ".mgz": ("FreeSurfer images", "FreeSurfer's mri_convert, or nibabel's load and save"),
    ".mgh": ("FreeSurfer images", "FreeSurfer's mri_convert, or nibabel's load and save"),
    ".mnc": ("MINC images", "mnc2nii, or nibabel's load and save"),
}
_DICOM = ("DICOM files", "dcm2niix")
#: Entries that are looked at, and levels below the folder (patient/study/series).
_MOST = 1000
_LEVELS = ("*", "*/*", "*/*/*")


def foreign_images(folder: Path) -> InputError | None:
    """Return what a folder without sequences holds instead, if that is known: DICOM files or another format's."""
    for pattern in _LEVELS:
        for path in islice(folder.glob(pattern), _MOST):
            if found := _kind(path):
                kind, converter = found
                return InputError(
                    f"No sequence was found here; the folder holds {kind} ({path.name}).",
                    f"Convert each sequence to a NIfTI file with {converter} first.",
                    path=folder,
                    code="dicom" if found == _DICOM else "not-nifti",
                )
    return None


def _kind(path: Path) -> tuple[str, str] | None:
    """Return what a file is and what converts it, None if that is not known."""
    if known := CONVERTERS.get(path.suffix.lower()):
        return known
    try:
        with path.open("rb") as stream:
            return _DICOM if stream.read(132)[128:] == b"DICM" else None
    except (OSError, ValueError):
        return None
