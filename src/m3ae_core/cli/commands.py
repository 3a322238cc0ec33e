"""The sub-commands of ``m3ae``; each is one function whose signature is its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from m3ae_core.cli.arguments import Device, OptionalFile, OptionalFolder, Scheme
from m3ae_core.cli.benchmark import benchmark
from m3ae_core.cli.calibrate import calibrate
from m3ae_core.cli.cost import compare_cost
from m3ae_core.cli.packed import bundle_from_packed, pack, train_packed
from m3ae_core.cli.predict import predict
from m3ae_core.cli.printed import print_dice, print_reliability, seen_words
from m3ae_core.cli.progress import follow
from m3ae_core.cli.scan import scan
from m3ae_core.cli.selftest import selftest
from m3ae_core.cli.split import check_split, split
from m3ae_core.cli.split4d import split_4d
from m3ae_core.cli.training import curves, finetune, invert, pretrain, train
from m3ae_core.errors import InputError, OutputError, printable
from m3ae_core.extras import require_extra
from m3ae_core.files import ensure_writable, make_folder
from m3ae_core.memory import keep_freed_memory


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
        reference_scheme: Label scheme of the reference; must be stated where no sidecar tells.
    """
    from m3ae_core.evaluation.metrics import compare_files, file_scheme

    ours, theirs = file_scheme(prediction, scheme), file_scheme(reference, reference_scheme)
    print(f"label scheme {ours.name} (prediction), {theirs.name} (reference)")
    print_dice(compare_files(prediction, reference, scheme, reference_scheme))


def demo(*, output: Path = Path("m3ae-demo"), device: Device = "auto", viewer: bool = False) -> None:
    """Segment the built-in case from FLAIR and T2 alone; write labels, sidecar and a figure; print the Dice.

    Args:
        output: Folder for the results; made if needed.
        device: auto takes CUDA where there is any.
        viewer: Open napari on the result afterwards.
    """
    require_extra("report")
    if viewer:
        require_extra("napari")
    ensure_writable(make_folder(output) / "figure")
    from m3ae_core.bundle import load_bundle
    from m3ae_core.data.builtin import builtin_bundle, builtin_case
    from m3ae_core.evaluation.metrics import dice_by_region
    from m3ae_core.inference.predictor import Predictor, save_prediction
    from m3ae_core.io.case import read_case
    from m3ae_core.io.volume import read_labels
    from m3ae_core.regions import BRATS_2023
    from m3ae_core.report.figure import save_figure

    files = builtin_case()
    bundle = load_bundle(builtin_bundle())
    case = read_case(files, bundle.config.modality_set).only("FLAIR", "T2")
    keep_freed_memory()
    prediction = follow(Predictor(bundle, device).run(case, BRATS_2023))
    labels, sidecar = save_prediction(prediction, output / f"{files.name}-m3ae.nii.gz")
    if files.labels is None:
        raise InputError(
            "The built-in case has no reference labels.", "Reinstall napari-m3ae.", code="installation"
        )
    reference = read_labels(files.labels).data
    figure = save_figure(output / f"{files.name}-m3ae.png", case, bundle, prediction, reference, BRATS_2023)
    print(f"case {files.name}: given {prediction.subset}; substituted {', '.join(prediction.subset.missing)}")
    print_dice(dice_by_region(prediction.labels, reference, BRATS_2023))
    print(seen_words(bundle.card, files.name))
    print_reliability(prediction.provenance["reliability"])
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
    from m3ae_core.bundle import Bundle, save_bundle
    from m3ae_core.methods.m3ae.official import import_official as convert

    if (output / "bundle.json").exists():
        raise OutputError(
            "There is a bundle here already.", "Choose another folder.", path=output, code="exists"
        )
    if output.exists():
        ensure_writable(output / "bundle.json")
    model, card = convert(checkpoint, pretrained, origin=substitute_origin)
    print(f"bundle {printable(save_bundle(Bundle(model, card), output))}")


COMMANDS: dict[str, Callable[..., Any]] = {
    "predict": predict,
    "scan": scan,
    "demo": demo,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "compare-cost": compare_cost,
    "calibrate": calibrate,
    "info": info,
    "pretrain": pretrain,
    "invert": invert,
    "finetune": finetune,
    "train": train,
    "curves": curves,
    "pack": pack,
    "train-packed": train_packed,
    "bundle-from-packed": bundle_from_packed,
    "import-official": import_official,
    "split-4d": split_4d,
    "split": split,
    "check-split": check_split,
    "selftest": selftest,
}
