"""``m3ae calibrate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from m3ae_core.cli.arguments import Device, OptionalFolder, Scheme
from m3ae_core.cli.progress import follow
from m3ae_core.errors import ConfigError, printable
from m3ae_core.files import ensure_writable, make_folder
from m3ae_core.memory import keep_freed_memory

if TYPE_CHECKING:
    from m3ae_core.bundle import Bundle

Folders = Annotated[tuple[Path, ...], arg(metavar="FOLDER ...")]
Schemes = Annotated[tuple[Scheme, ...], arg(metavar="SCHEME ...", help_behavior_hint="")]


def calibrate(
    bundle: Positional[Path],
    *,
    cases: Folders = (),
    scheme: Schemes = (),
    mixup: Folders = (),
    output: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Learn from cases how far a model can be trusted, and write that on its card.

    Labelled cases are segmented from every subset of their sequences, in float32. The card then tells predict the
    expected Dice and the volumes with 80 % ranges, and the temperatures of the uncertainty. From correctly named cases
    of several collections comes the rule that tells sequences given in each other's place.

    Args:
        bundle: The model's folder.
        cases: Folders of case folders with all sequences and a label map; nine cases or more that the model was not
            trained on.
        scheme: Label scheme of the cases, which must be stated here or in a manifest: one for all, or one for each
            folder.
        mixup: Two or more folders of case folders for the mix-up rule, one a collection; the model may have been
            trained on them, and they need no labels.
        output: Folder of the calibrated model; the model's own if left out.
        device: auto takes CUDA where there is any.
    """
    if not (cases or mixup):
        raise ConfigError(
            "There is nothing to learn from.", "Give --cases, --mixup, or both.", code="arguments"
        )
    home = output or bundle
    ensure_writable(make_folder(home) / "bundle.json")
    from m3ae_core.bundle import load_bundle, save_bundle

    model = load_bundle(bundle)
    if cases:
        model = _with_calibration(model, cases, scheme, device)
    if mixup:
        model = _with_mixup(model, mixup)
    print(f"bundle {printable(save_bundle(model, home))}")


def _with_calibration(model: Bundle, cases: Sequence[Path], scheme: Sequence[str], device: str) -> Bundle:
    from m3ae_core.evaluation.calibrate import calibrate as run
    from m3ae_core.evaluation.calibrate import with_calibration
    from m3ae_core.io.case import find_cases
    from m3ae_core.io.folders.schemes import scheme_words, with_schemes

    modalities = model.config.modality_set
    labelled = with_schemes([find_cases(folder, modalities) for folder in cases], scheme)
    print(scheme_words({files.name: own for files, own in labelled}))
    keep_freed_memory()
    calibration = follow(run(model, labelled, device))
    print(f"calibrated on {calibration.cases} cases")
    return with_calibration(model, calibration)


def _with_mixup(model: Bundle, folders: Sequence[Path]) -> Bundle:
    from m3ae_core.evaluation.mixup import fit_mixup, with_mixup
    from m3ae_core.io.case import find_cases

    keep_freed_memory()
    rule = follow(
        fit_mixup([find_cases(folder, model.config.modality_set) for folder in folders], model.config)
    )
    for folder, left in zip(folders, rule.left_out, strict=True):
        print(
            f"mix-up, {printable(folder.name)} left out: {left.false} false alarms in {left.correct} correct sets, "
            f"{sum(left.found.values())} of {sum(left.swaps.values())} exchanges named"
        )
    print(f"mix-up alarm: {'on' if rule.is_trusted else 'off, for its false alarms are too many'}")
    return with_mixup(model, rule)
