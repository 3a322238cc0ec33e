"""``m3ae calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from m3ae_core.cli.arguments import Device, OptionalFolder, Scheme
from m3ae_core.cli.progress import follow
from m3ae_core.errors import printable
from m3ae_core.files import ensure_writable, make_folder

Folders = Annotated[tuple[Path, ...], arg(metavar="FOLDER ...")]
Schemes = Annotated[tuple[Scheme, ...], arg(metavar="SCHEME ...", help_behavior_hint="")]


def calibrate(
    bundle: Positional[Path],
    *,
    cases: Folders,
    scheme: Schemes = (),
    output: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Learn from labelled cases how far a model can be trusted, and write that on its card.

    Every case is segmented from every subset of its sequences, in float32. The card then tells predict the expected
    Dice and the volumes with 80 % ranges, and the temperatures of the uncertainty.

    Args:
        bundle: The model's folder.
        cases: Folders of case folders with all sequences and a label map; nine cases or more that the model was not
            trained on.
        scheme: Label scheme of the cases, which must be stated here or in a manifest: one for all, or one for each
            folder.
        output: Folder of the calibrated model; the model's own if left out.
        device: auto takes CUDA where there is any.
    """
    ensure_writable(make_folder(output or bundle) / "bundle.json")
    from m3ae_core.bundle import load_bundle
    from m3ae_core.data.case import find_cases
    from m3ae_core.data.schemes import scheme_words, with_schemes
    from m3ae_core.evaluation.calibrate import calibrate as run
    from m3ae_core.evaluation.calibrate import save_calibration

    model = load_bundle(bundle)
    modalities = model.config.modality_set
    labelled = with_schemes([find_cases(folder, modalities) for folder in cases], scheme)
    print(scheme_words({files.name: own for files, own in labelled}))
    calibration = follow(run(model, labelled, device))
    folder = save_calibration(model, calibration, output or bundle)
    print(f"calibrated on {calibration.cases} cases\nbundle {printable(folder)}")
