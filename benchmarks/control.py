"""Sound cases, stored as hospitals and collections store them: is any of them refused, or warned about for nothing?

    python benchmarks/control.py CASES [CASES ...]

Every case is written as it is, as LPS, cut to the box around its brain, uncompressed and as 16-bit integers; a copy is
found by its file names and read, and what `m3ae predict` would say of two patients, of sequences mixed up and of images
that were not prepared is counted. Cases whose files are not all there are tried with what they have.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import tyro

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle, builtin_case
from m3ae_core.data.preprocess import standardise
from m3ae_core.errors import M3AEError
from m3ae_core.inference.mixup import find_mixup
from m3ae_core.inference.unprepared import find_unprepared
from m3ae_core.io.case import find_case, find_cases, read_case

Images = Mapping[str, nib.Nifti1Image]


def as_it_is(images: Images) -> Images:
    return images


def as_lps(images: Images) -> Images:
    code = nib.orientations.axcodes2ornt(("L", "P", "S"))
    return {
        name: image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), code))
        for name, image in images.items()
    }


def cut(images: Images) -> Images:
    content = np.any([np.asanyarray(image.dataobj) != 0 for image in images.values()], axis=0)
    used = [np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(max(0, places[0] - 2), places[-1] + 3) for places in used)
    return {name: image.slicer[box] for name, image in images.items()}


def as_int16(images: Images) -> Images:
    found = {}
    for name, image in images.items():
        data = np.asanyarray(image.dataobj).astype(np.float64)
        factor = 1 if np.abs(data).max() > 200 else 1000 / max(np.abs(data).max(), 1e-9)
        found[name] = nib.Nifti1Image(np.rint(data * factor).astype(np.int16), image.affine)
    return found


#: Name -> the change and the files' ending.
COPIES: dict[str, tuple[Callable[[Images], Images], str]] = {
    "as it is": (as_it_is, ".nii.gz"),
    "as LPS": (as_lps, ".nii.gz"),
    "cut to the brain": (cut, ".nii.gz"),
    "uncompressed": (as_it_is, ".nii"),
    "16-bit integers": (as_int16, ".nii.gz"),
}


def said(folder: Path, bundle: object) -> list[str]:
    """Return all that is said of the case in a folder; a refusal is the only thing then."""
    try:
        files = find_case(folder)
        case = read_case(files)
        mixup = find_mixup(standardise(case, bundle.config), bundle)
        return [*case.notes, *find_unprepared(case), *([mixup] if mixup else [])]
    except M3AEError as error:
        return [f"refused: {error}"]


def main(folders: tyro.conf.Positional[Sequence[Path]]) -> None:
    bundle = load_bundle(builtin_bundle())
    cases = [builtin_case(), *(found for folder in folders for found in find_cases(folder))]
    refused, warned = Counter[str](), Counter[str]()
    for number, found in enumerate(cases):
        images = {path.name: nib.load(path) for path in found.images.values()}
        for copy, (change, ending) in COPIES.items():
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / found.name
                folder.mkdir()
                for name, image in change(images).items():
                    nib.save(image, folder / f"{name.removesuffix('.gz').removesuffix('.nii')}{ending}")
                words = said(folder, bundle)
            refused[copy] += any(word.startswith("refused") for word in words)
            warned[copy] += bool(words)
            for word in words:
                print(f"{found.name}, {copy}: {word}", flush=True)
        print(f"{number + 1} of {len(cases)}", end="\r", flush=True)
    print("| copies | cases | refused | anything said |\n|---|---|---|---|")
    for copy in COPIES:
        print(f"| {copy} | {len(cases)} | {refused[copy]} | {warned[copy]} |")


if __name__ == "__main__":
    tyro.cli(main)
