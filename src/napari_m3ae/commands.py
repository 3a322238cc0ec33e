"""The present run as a command line and as Python, for the clipboard."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from m3ae_core.errors import InputError
from m3ae_core.io.orientation import SWAPPED
from napari_m3ae import layers
from napari_m3ae.state import BUILTIN

if TYPE_CHECKING:
    from napari_m3ae.session import Session

#: What the result is called if there is none on display yet.
OUTPUT = "labels.nii.gz"

PYTHON = """\
from pathlib import Path

{imports}

files = {{
{files}
}}
bundle = load_bundle({bundle})
case = read_case(CaseFiles({name!r}, files, None), bundle.config.modality_set{oriented})
prediction = Predictor(bundle).predict(case)
save_prediction(prediction, Path({output!r}))
"""


def as_command(session: Session) -> str:
    """Return the command line that segments the chosen sequences as a run in the viewer does.

    Raises
    ------
    InputError
        If nothing can be run, or a chosen layer has no file (``no-file``).
    """
    _, files = _chosen(session)
    turned = ["--orientation", SWAPPED] if _swapped(session) else []
    given = [word for name, path in files.items() for word in ("--image", f"{name}={path}")]
    folder = session.state.model.folder
    model = [] if folder == BUILTIN.folder else ["--bundle", str(folder.absolute())]
    return shlex.join(
        ["m3ae", "predict", *given, *turned, *model, "--output", session.suggested_name or OUTPUT]
    )


def as_python(session: Session) -> str:
    """Return Python lines that segment the chosen sequences as a run in the viewer does, and save the labels.

    Raises
    ------
    InputError
        If nothing can be run, or a chosen layer has no file (``no-file``).
    """
    name, files = _chosen(session)
    folder = session.state.model.folder
    builtin = folder == BUILTIN.folder
    imports = [
        "from m3ae_core.bundle import load_bundle",
        *(["from m3ae_core.data.builtin import builtin_bundle"] if builtin else []),
        "from m3ae_core.inference.predictor import Predictor, save_prediction",
        "from m3ae_core.io.case import CaseFiles, read_case",
    ]
    return PYTHON.format(
        imports="\n".join(imports),
        files="\n".join(f"    {modality!r}: Path({str(path)!r})," for modality, path in files.items()),
        name=name,
        oriented=f", orientation={SWAPPED!r}" if _swapped(session) else "",
        bundle="builtin_bundle()" if builtin else f"Path({str(folder.absolute())!r})",
        output=session.suggested_name or OUTPUT,
    )


def _swapped(session: Session) -> bool:
    """Whether the user said that left and right are swapped in a chosen file."""
    return any(slot.used and layers.swapped(slot.layer) for slot in session.state.slots if slot.layer)


def _chosen(session: Session) -> tuple[str, dict[str, Path]]:
    """Return the name of the case and the files of its sequences."""
    chosen = session.chosen()
    named = {slot.modality: slot.layer.name for slot in session.state.slots if slot.layer is not None}
    files: dict[str, Path] = {}
    for modality, volume in chosen.case.volumes.items():
        if volume.path is None:
            raise InputError(
                f"The layer '{named[modality]}' for {modality} was not read from a file.",
                "Save it as a NIfTI file and open that.",
                code="no-file",
            )
        files[modality] = Path(volume.path).absolute()
    return chosen.case.name, files
