"""The sub-commands of ``m3ae``; each is one function whose signature is its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from m3ae_core.cli.arguments import Device, OptionalFile, OptionalFolder, Scheme
from m3ae_core.cli.benchmark import benchmark
from m3ae_core.cli.progress import follow
from m3ae_core.cli.split import check_split, split
from m3ae_core.cli.training import curves, finetune, pretrain
from m3ae_core.errors import ConfigError, InputError, OutputError, printable


def predict(
    case: Positional[OptionalFolder] = None,
    *,
    flair: OptionalFile = None,
    t1: OptionalFile = None,
    t1c: OptionalFile = None,
    t2: OptionalFile = None,
    output: Path,
    bundle: OptionalFolder = None,
    device: Device = "auto",
    scheme: Scheme = "brats2023",
    overwrite: bool = False,
) -> None:
    """Segment one case with whichever sequences there are.

    Writes the labels on the case's own grid and, beside them, a JSON sidecar that says how they were made.

    Args:
        case: A case folder; its sequences are recognised by file name. Or give the files one by one.
        flair: The FLAIR image.
        t1: The T1 image.
        t1c: The T1 image after contrast.
        t2: The T2 image.
        output: Where to write the labels (.nii.gz or .nii).
        bundle: The model's folder; the built-in model if left out.
        device: auto takes CUDA where there is any.
        scheme: Label values to write: brats2023 1/2/3, brats2021 1/2/4 (necrosis, oedema, enhancing), msd 2/1/3.
        overwrite: Replace the output if it exists.
    """
    from m3ae_core.data.case import CaseFiles, find_case, read_case
    from m3ae_core.files import ensure_writable

    named = {"FLAIR": flair, "T1": t1, "T1c": t1c, "T2": t2}
    given = {name: path for name, path in named.items() if path is not None}
    if (case is None) == (not given):
        raise ConfigError(
            "Either a case folder or single files are needed, not both.",
            "See m3ae predict --help.",
            code="arguments",
        )
    _check_output(output, overwrite, given.values())
    ensure_writable(output)
    from m3ae_core.bundle import load_bundle
    from m3ae_core.data.builtin import builtin_bundle
    from m3ae_core.inference.predictor import Predictor, save_prediction
    from m3ae_core.regions import scheme_named

    predictor = Predictor(load_bundle(bundle or builtin_bundle()), device)
    modalities = predictor.config.modality_set
    files = find_case(case, modalities) if case else CaseFiles(_stem(next(iter(given.values()))), given, None)
    _check_output(output, overwrite, files.images.values())
    prediction = follow(predictor.run(read_case(files, modalities), scheme_named(scheme)))
    labels, sidecar = save_prediction(prediction, output)
    print(f"used {prediction.subset}; substituted {', '.join(prediction.subset.missing) or 'nothing'}")
    _print_reliability(prediction.provenance["reliability"])
    for warning in prediction.warnings:
        print(f"warning: {warning}")
    print(f"labels  {printable(labels)}\nsidecar {printable(sidecar)}")
    print(prediction.provenance["notice"])


def evaluate(
    prediction: Positional[Path],
    reference: Positional[Path],
    *,
    scheme: Scheme | None = None,
    reference_scheme: Scheme | None = None,
) -> None:
    """Print the Dice similarity of a predicted label map against a reference, for WT, TC and ET.

    Args:
        prediction: A label map; its scheme is read from its sidecar if there is one.
        reference: The expert's label map, on the same grid.
        scheme: Label scheme of the prediction, where its sidecar or values do not tell.
        reference_scheme: Label scheme of the reference; values 0-3 alone are ambiguous and must be stated.
    """
    from m3ae_core.evaluation.metrics import compare_files

    _print_dice(compare_files(prediction, reference, scheme, reference_scheme))


def demo(*, output: Path = Path("m3ae-demo"), device: Device = "auto", viewer: bool = False) -> None:
    """Segment the built-in case from FLAIR and T2 alone; write labels, sidecar and a figure; print the Dice.

    Args:
        output: Folder for the results; made if needed.
        device: auto takes CUDA where there is any.
        viewer: Open napari on the result afterwards.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder cannot be made: {error.strerror}.", "Choose another one.", path=output
        ) from error
    from m3ae_core.bundle import load_bundle
    from m3ae_core.data.builtin import builtin_bundle, builtin_case
    from m3ae_core.data.case import read_case
    from m3ae_core.data.volume import read_labels
    from m3ae_core.evaluation.metrics import dice_by_region
    from m3ae_core.inference.predictor import Predictor, save_prediction
    from m3ae_core.regions import BRATS_2023
    from m3ae_core.report.figure import save_figure

    files = builtin_case()
    bundle = load_bundle(builtin_bundle())
    case = read_case(files, bundle.config.modality_set).only("FLAIR", "T2")
    prediction = follow(Predictor(bundle, device).run(case, BRATS_2023))
    labels, sidecar = save_prediction(prediction, output / f"{files.name}-m3ae.nii.gz")
    if files.labels is None:
        raise InputError(
            "The built-in case has no reference labels.", "Reinstall napari-m3ae.", code="installation"
        )
    reference = read_labels(files.labels).data
    figure = save_figure(output / f"{files.name}-m3ae.png", case, bundle, prediction, reference, BRATS_2023)
    print(f"case {files.name}: given {prediction.subset}; substituted {', '.join(prediction.subset.missing)}")
    _print_dice(dice_by_region(prediction.labels, reference, BRATS_2023))
    _print_reliability(prediction.provenance["reliability"])
    print("\n".join(f"wrote {printable(path)}" for path in (labels, sidecar, figure)))
    print(prediction.provenance["notice"])
    if viewer:
        subprocess.run([sys.executable, "-m", "napari_m3ae", str(labels)], check=False)  # noqa: S603  our own module


def info(bundle: Positional[OptionalFolder] = None) -> None:
    """Print a model's card: what it is, what it was trained on, its licence and what was measured.

    Args:
        bundle: The model's folder; the built-in model if left out.
    """
    from m3ae_core.card import read_card
    from m3ae_core.data.builtin import builtin_bundle

    content = read_card(bundle or builtin_bundle())
    print(
        json.dumps({key: content[key] for key in ("card", "model", "sha256")}, indent=2, ensure_ascii=False)
    )


def import_official(
    checkpoint: Positional[Path],
    *,
    output: Path,
    pretrained: OptionalFile = None,
    substitute_origin: Literal["template", "window"] | None = None,
) -> None:
    """Turn a checkpoint of the released M3AE code into a bundle. Only tensors are read from it; no code is run.

    Args:
        checkpoint: A pretraining or fine-tuning checkpoint (.pth.tar).
        output: Folder of the bundle to write.
        pretrained: The pretraining checkpoint that belongs to a fine-tuned one.
        substitute_origin: template is the aligned substitute; window (the default) what the released evaluation does.
    """
    from m3ae_core.bundle import save_bundle
    from m3ae_core.official import import_official as convert

    bundle = convert(checkpoint, pretrained, origin=substitute_origin)
    if (output / "bundle.json").exists():
        raise OutputError(
            "There is a bundle here already.", "Choose another folder.", path=output, code="exists"
        )
    print(f"bundle {printable(save_bundle(bundle, output))}")


COMMANDS: dict[str, Callable[..., Any]] = {
    "predict": predict,
    "demo": demo,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "info": info,
    "pretrain": pretrain,
    "finetune": finetune,
    "curves": curves,
    "import-official": import_official,
    "split": split,
    "check-split": check_split,
}


def _check_output(output: Path, overwrite: bool, inputs: Iterable[Path]) -> None:
    """Refuse to write over an input, over an existing file unasked, or under a name that is not NIfTI's."""
    if not output.name.endswith((".nii", ".nii.gz")):
        raise OutputError(
            "Labels are written as .nii.gz or .nii.", "Choose such a name.", path=output, code="suffix"
        )
    if output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
        raise OutputError(
            "This is one of the input images.", "Choose another name.", path=output, code="over-input"
        )
    if output.exists() and not overwrite:
        raise OutputError(
            "The file exists.", "Choose another name or pass --overwrite.", path=output, code="exists"
        )


def _print_dice(dice: dict[str, float]) -> None:
    print("Dice    " + "  ".join(f"{region} {value:.3f}" for region, value in dice.items()))


def _print_reliability(measured: dict[str, dict[str, float]] | None) -> None:
    """Say how good the model was with this subset where that was measured."""
    if measured is None:
        print("not measured: how reliable this model is with these sequences")
        return
    quartiles = "  ".join(
        f"{region} {q['median']:.2f} ({q['q1']:.2f}-{q['q3']:.2f})" for region, q in measured.items()
    )
    count = min(int(q["n"]) for q in measured.values())
    print(f"measured with these sequences on {count} validation cases, median Dice (quartiles): {quartiles}")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
