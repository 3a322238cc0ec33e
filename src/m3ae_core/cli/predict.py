"""``m3ae predict``: one case, or a folder of cases."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from m3ae_core.cli.arguments import Arithmetic, Device, OptionalFile, OptionalFolder, OptionalPath, Scheme
from m3ae_core.cli.printed import print_expected, print_reliability
from m3ae_core.cli.progress import follow
from m3ae_core.errors import ConfigError, InputError, OutputError, printable
from m3ae_core.files import ensure_writable, make_folder, refuse_overwriting

if TYPE_CHECKING:
    from m3ae_core.events import CaseFailed, CaseSegmented
    from m3ae_core.inference.predictor import Prediction, Predictor
    from m3ae_core.inference.shards import Shard
    from m3ae_core.inference.summary import Record

OptionalCodes = Annotated[str | None, arg(metavar="RAS|LPS|...", help_behavior_hint="")]
Windows = Annotated[Literal["brain", "template"] | int | None, arg(metavar="brain|template|SIDE")]


@dataclass(frozen=True)
class Options:
    """How to segment, and where the results go.

    Attributes
    ----------
    output
        Where to write the labels (.nii.gz or .nii); for a folder of cases, the folder of the results.
    uncertainty
        Where to write the chance, voxel by voxel, that the tissue is wrong (.nii.gz or .nii); for a folder of cases,
        the folder that gets one CASE_uncertainty.nii.gz each.
    bundle
        The model's folder; the built-in model if left out.
    device
        auto takes CUDA where there is any.
    arithmetic
        Numbers the network computes in; auto takes what the device computes fastest.
    scheme
        Label values to write: brats2023 1/2/3, brats2021 1/2/4 (necrosis, oedema, enhancing), msd 2/1/3.
    overwrite
        Replace the output if it exists; labels that were edited stay.
    discard_edits
        Replace edited labels, too.
    window
        Segment in windows of this side (voxels), or in one pass over the brain or the template, where the model was
        validated otherwise: another answer.
    check
        Look for images that were not prepared and for sequences that are mixed up, and warn. That may take longer than
        the segmentation; auto: for one case, not for a folder of them.
    same_patient
        The images of each case are of one patient, though names, folders or outlines of the brain speak against it;
        the sidecar records that you said so.
    assess_et
        Call the enhancing tumour assessable without T1c, too; the labels are the same.
    orientation
        Where the stored axes of files run whose headers do not tell it, as RAS or LPS; files that tell it are refused.
    same_grid
        Refuse images of a case that lie on different grids; else they are resampled to the first one's, with a warning.
    compiled
        Compile the network first; worth it for many cases on a GPU.
    readers
        Cases of a folder that are read ahead.
    """

    output: Path
    uncertainty: OptionalPath = None
    bundle: OptionalFolder = None
    device: Device = "auto"
    arithmetic: Arithmetic = "auto"
    scheme: Scheme = "brats2023"
    overwrite: bool = False
    discard_edits: bool = False
    window: Windows = None
    check: Literal["auto", "yes", "no"] = "auto"
    same_patient: bool = False
    assess_et: bool = False
    orientation: OptionalCodes = None
    same_grid: bool = False
    compiled: bool = False
    readers: int = 1

    @property
    def words(self) -> list[str]:
        """The options as a command line has them."""
        words: list[str] = []
        for name, value in vars(self).items():
            flag = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(flag)
            elif value is not None and value is not False:
                words += [flag, str(value)]
        return words

    @property
    def model(self) -> Path:
        """The folder of the model to use."""
        from m3ae_core.data.builtin import builtin_bundle

        return self.bundle or builtin_bundle()

    @property
    def predictor(self) -> Predictor:
        """The model, ready to be applied."""
        from m3ae_core.bundle import load_bundle
        from m3ae_core.inference.predictor import Predictor

        side = self.window
        window = (side, side, side) if isinstance(side, int) else side
        return Predictor(
            load_bundle(self.model),
            self.device,
            window=window,
            compiled=self.compiled,
            arithmetic=self.arithmetic,
            assess_et=self.assess_et,
        )


def predict(
    case: Positional[OptionalFolder] = None,
    *,
    flair: OptionalFile = None,
    t1: OptionalFile = None,
    t1c: OptionalFile = None,
    t2: OptionalFile = None,
    segmentation: Annotated[Options, OmitArgPrefixes],
    devices: int = 1,
    shard: str = "1/1",
) -> None:
    """Segment one case, or every case of a folder, with whichever sequences there are.

    Writes the labels on the case's own grid and, beside them, a JSON sidecar that says how they were made. Of several
    cases, one that cannot be used does not stop the others; run the same again to go on after a stop.

    Args:
        case: A case folder, a folder of cases or a manifest of `m3ae scan`; sequences are recognised by file name.
            Or give the files one by one.
        flair: The FLAIR image.
        t1: The T1 image.
        t1c: The T1 image after contrast.
        t2: The T2 image.
        segmentation: How to segment, and where the results go.
        devices: Processes that share a folder of cases, with a device each; one that dies takes no other with it.
        shard: The share I/N of a folder of cases, for a cluster; auto: this task's of a SLURM job array. Each writes a
            summary of its own.
    """
    from m3ae_core.inference.shards import parse_shard
    from m3ae_core.io.orientation import require_orientation

    named = {"FLAIR": flair, "T1": t1, "T1c": t1c, "T2": t2}
    given = {name: path for name, path in named.items() if path is not None}
    if (case is None) == (not given):
        raise ConfigError(
            "Either a case folder or single files are needed, not both.",
            "See m3ae predict --help.",
            code="arguments",
        )
    if segmentation.orientation is not None:
        require_orientation(segmentation.orientation)
    options, output, share = segmentation, segmentation.output, parse_shard(shard)
    is_file = output.name.endswith((".nii", ".nii.gz")) or (output.suffix and not output.is_dir())
    if case is None or is_file:
        _check_output(options, given.values())
        _predict_case(case, given, options)
        return
    for folder in (output, options.uncertainty):
        if folder:
            ensure_writable(make_folder(folder) / "any")
    if devices > 1:
        _predict_in_shares(case, options, devices)
    else:
        _predict_cohort(case, options, share)


def _predict_case(case: Path | None, given: Mapping[str, Path], options: Options) -> None:
    from m3ae_core.inference.predictor import save_prediction, save_uncertainty
    from m3ae_core.inference.reuse import refuse_edited
    from m3ae_core.io.case import CaseFiles, find_case, read_case
    from m3ae_core.io.folders.naming import refuse_names_that_disagree
    from m3ae_core.io.sidecar import sidecar_of
    from m3ae_core.regions import scheme_named

    predictor, check = options.predictor, options.check != "no"
    modalities = predictor.config.modality_set
    name = sidecar_of(next(iter(given.values()))).stem if given else ""
    files = find_case(case, modalities) if case else CaseFiles(name, given, None)
    _check_output(options, files.images.values())
    if check:
        refuse_names_that_disagree(files.images, modalities)
    content = read_case(files, modalities, options.orientation, same_grid=options.same_grid)
    if not options.discard_edits:
        refuse_edited(options.output, content)
    scheme = scheme_named(options.scheme)
    prediction = follow(predictor.run(content, scheme, check=check, same_patient=options.same_patient))
    prediction.provenance["files_unused"] = files.unused_names
    if options.uncertainty:
        save_uncertainty(prediction, options.uncertainty)
    labels, sidecar = save_prediction(prediction, options.output)
    _say(prediction, files.unused)
    print(f"labels  {printable(labels)}\nsidecar {printable(sidecar)}")
    if options.uncertainty:
        print(f"uncertainty {printable(options.uncertainty)}")
    print(prediction.provenance["notice"])


def _say(prediction: Prediction, unused: Iterable[tuple[Path, str]]) -> None:
    """Print what was used, what was not, and how far to trust the result."""
    print(f"used {prediction.subset}; substituted {', '.join(prediction.subset.missing) or 'nothing'}")
    for path, why in unused:
        print(f"left out {printable(path.name)}: {why}")
    print_reliability(prediction.provenance["reliability"])
    print_expected(prediction.provenance)
    for warning in prediction.warnings:
        print(f"warning: {warning}")


def _predict_cohort(folder: Path, options: Options, share: Shard) -> None:
    from m3ae_core.inference.cohort import Cohort
    from m3ae_core.inference.summary import empty_folders, record_of, write_summary
    from m3ae_core.io.case import scan_cases
    from m3ae_core.regions import scheme_named

    predictor, output = options.predictor, options.output
    cases, unusable = scan_cases(folder, predictor.config.modality_set)
    cohort = Cohort(
        predictor,
        output,
        scheme_named(options.scheme),
        overwrite=options.overwrite,
        check=options.check == "yes",
        readers=options.readers,
        uncertainty=options.uncertainty,
        discard_edits=options.discard_edits,
        same_patient=options.same_patient,
        orientation=options.orientation,
        same_grid=options.same_grid,
    )
    if left_out := sum(len(files.unused) for files in cases):
        print(f"{left_out} image files are left out; `m3ae scan {printable(folder)}` names each and says why")
    records: list[Record] = []

    def recorded() -> Iterator[CaseSegmented | CaseFailed]:
        for event in cohort.run(cases[share.part], unusable if share.number == 1 else {}):
            records.append(record_of(event))
            if share.count > 1:  # what is done is known if this process is killed
                write_summary(output / share.summary, records)
            yield event

    follow(recorded())
    if share.number == 1:
        used = {path.parent for files in cases for path in files.images.values()}
        used |= {error.path for error in unusable.values() if error.path} | {output}
        records += empty_folders(folder, used)
    _conclude(records, output / share.summary, folder)


def _predict_in_shares(folder: Path, options: Options, devices: int) -> None:
    """Segment a folder of cases in several processes, each as one with ``--shard`` would."""
    from m3ae_core.card import read_card
    from m3ae_core.config import ModelConfig
    from m3ae_core.inference.shards import run_shards
    from m3ae_core.inference.summary import Record
    from m3ae_core.io.case import scan_cases

    modalities = ModelConfig.model_validate(read_card(options.model)["model"]).modality_set
    cases, unusable = scan_cases(folder, modalities)
    command = [sys.executable, "-m", "m3ae_core.cli", "predict", str(folder), *options.words]
    names = [files.name for files in cases]
    records: list[Record] = follow(run_shards(command, devices, options.output, names))
    known = {record.case for record in records}
    records += [
        Record(name, "refused", message=str(error)) for name, error in unusable.items() if name not in known
    ]
    _conclude(records, options.output / "summary.csv", folder)


def _conclude(records: list[Record], summary: Path, folder: Path) -> None:
    """Write the summary, say what came of every folder, and fail if a case has no result.

    Raises
    ------
    InputError
        With code ``cases-failed``.
    """
    from m3ae_core.inference.provenance import NOTICE
    from m3ae_core.inference.summary import FAILED, closing_lines, write_summary

    print(*closing_lines(records), sep="\n")
    print(f"summary {printable(write_summary(summary, records))}")
    print(NOTICE)
    failed = [record for record in records if record.state in FAILED]
    if failed:
        lines = "".join(f"\n  {printable(record.case)}: {record.message}" for record in failed)
        raise InputError(
            f"{len(failed)} of the cases could not be segmented:{lines}\n",
            "Repair them and run the same again; the others are done.",
            path=folder,
            code="cases-failed",
        )


def _check_output(options: Options, inputs: Iterable[Path]) -> None:
    """Refuse to write over an input, over an existing file unasked, or under a name that is not NIfTI's."""
    from m3ae_core.io.sidecar import sidecar_of

    output, uncertainty = options.output, options.uncertainty
    images = [output, *([uncertainty] if uncertainty else [])]
    inputs = tuple(inputs)
    for image in images:
        if not image.name.endswith((".nii", ".nii.gz")):
            raise OutputError(
                "Labels and uncertainty are written as .nii.gz or .nii.",
                "Choose such a name.",
                path=image,
                code="suffix",
            )
        refuse_overwriting(image, inputs)
    if output == uncertainty:
        raise ConfigError(
            "Labels and uncertainty cannot share a file.", "Choose another name.", code="arguments"
        )
    for path in (*images, sidecar_of(output)):
        if path.exists() and not options.overwrite:
            raise OutputError(
                "The file exists.", "Choose another name or pass --overwrite.", path=path, code="exists"
            )
        ensure_writable(path)
