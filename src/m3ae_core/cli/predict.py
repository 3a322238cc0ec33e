"""``m3ae predict``: one case, or a folder of cases."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional

from m3ae_core.cli.arguments import OptionalFolder
from m3ae_core.cli.predict_options import Applied, Images, Input, Results, as_words
from m3ae_core.cli.printed import print_expected, print_reliability
from m3ae_core.cli.progress import follow
from m3ae_core.errors import ConfigError, InputError, OutputError, printable
from m3ae_core.files import ensure_writable, make_folder, refuse_overwriting
from m3ae_core.memory import keep_freed_memory

if TYPE_CHECKING:
    from m3ae_core.events import CaseFailed, CaseSegmented
    from m3ae_core.inference.predictor import Prediction
    from m3ae_core.inference.shards import Shard
    from m3ae_core.inference.summary import Record


def predict(
    case: Positional[OptionalFolder] = None,
    *,
    images: Annotated[Images, OmitArgPrefixes],
    results: Annotated[Results, OmitArgPrefixes],
    model: Annotated[Applied, OmitArgPrefixes],
    reading: Annotated[Input, OmitArgPrefixes],
    devices: int = 1,
    shard: str = "1/1",
) -> None:
    """Segment one case, or every case of a folder, with whichever sequences there are.

    Writes the labels on the case's own grid and, beside them, a JSON sidecar that says how they were made. Of several
    cases, one that cannot be used does not stop the others; run the same again to go on after a stop.

    Args:
        case: A case folder, a folder of cases or a manifest of `m3ae scan`; sequences are recognised by file name.
            Or give the files one by one.
        images: The files of one case, one by one.
        results: Where the results go.
        model: The model, and how it is computed.
        reading: How the images of each case are read and judged.
        devices: Processes that share a folder of cases, with a device each; one that dies takes no other with it.
        shard: The share I/N of a folder of cases, for a cluster; auto: this task's of a SLURM job array. Each writes a
            summary of its own.
    """
    from m3ae_core.inference.shards import parse_shard
    from m3ae_core.io.orientation import require_orientation

    given = images.files
    if (case is None) == (not given):
        raise ConfigError(
            "Either a case folder or single files are needed, not both.",
            "See m3ae predict --help.",
            code="arguments",
        )
    if reading.orientation is not None:
        require_orientation(reading.orientation)
    output, share = results.output, parse_shard(shard)
    is_file = output.name.endswith((".nii", ".nii.gz")) or (output.suffix and not output.is_dir())
    if case is None or is_file:
        _check_output(results, given.values())
        _predict_case(case, given, results, model, reading)
        return
    for folder in (output, results.uncertainty):
        if folder:
            ensure_writable(make_folder(folder) / "any")
    if devices > 1:
        _predict_in_shares(case, devices, results, model, reading)
    else:
        _predict_cohort(case, share, results, model, reading)


def _predict_case(
    case: Path | None, given: Mapping[str, Path], results: Results, model: Applied, reading: Input
) -> None:
    from m3ae_core.inference.predictor import save_prediction, save_uncertainty
    from m3ae_core.inference.reuse import refuse_edited
    from m3ae_core.io.case import CaseFiles, find_case, read_case
    from m3ae_core.io.folders.naming import refuse_names_that_disagree
    from m3ae_core.io.sidecar import sidecar_of
    from m3ae_core.regions import scheme_named

    predictor, check = model.predictor, reading.check != "no"
    modalities = predictor.config.modality_set
    modalities.subset(given)
    name = sidecar_of(next(iter(given.values()))).stem if given else ""
    files = find_case(case, modalities) if case else CaseFiles(name, given, None)
    _check_output(results, files.images.values())
    if check:
        refuse_names_that_disagree(files.images, modalities)
    content = read_case(files, modalities, reading.orientation, same_grid=reading.same_grid)
    if not results.discard_edits:
        refuse_edited(results.output, content)
    scheme = scheme_named(results.scheme)
    keep_freed_memory()
    prediction = follow(predictor.run(content, scheme, check=check, same_patient=reading.same_patient))
    prediction.provenance["files_unused"] = files.unused_names
    if results.uncertainty:
        save_uncertainty(prediction, results.uncertainty)
    labels, sidecar = save_prediction(prediction, results.output)
    _say(prediction, files.unused)
    print(f"labels  {printable(labels)}\nsidecar {printable(sidecar)}")
    if results.uncertainty:
        print(f"uncertainty {printable(results.uncertainty)}")
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


def _predict_cohort(folder: Path, share: Shard, results: Results, model: Applied, reading: Input) -> None:
    from m3ae_core.inference.cohort import Cohort, Reading
    from m3ae_core.inference.summary import empty_folders, record_of, write_summary
    from m3ae_core.io.case import scan_cases
    from m3ae_core.regions import scheme_named

    predictor, summary = model.predictor, results.output / share.summary
    cases, unusable = scan_cases(folder, predictor.config.modality_set)
    cohort = Cohort(
        predictor,
        results.output,
        scheme_named(results.scheme),
        Reading(reading.check == "yes", reading.same_patient, reading.orientation, reading.same_grid),
        uncertainty=results.uncertainty,
        overwrite=results.overwrite,
        discard_edits=results.discard_edits,
        readers=model.readers,
    )
    if left_out := sum(len(files.unused) for files in cases):
        print(f"{left_out} image files are left out; `m3ae scan {printable(folder)}` names each and says why")
    records: list[Record] = []

    def recorded() -> Iterator[CaseSegmented | CaseFailed]:
        for event in cohort.run(cases[share.part], unusable if share.number == 1 else {}):
            records.append(record_of(event))
            if share.count > 1:  # what is done is known if this process is killed
                write_summary(summary, records)
            yield event

    keep_freed_memory()
    follow(recorded())
    if share.number == 1:
        used = {path.parent for files in cases for path in files.images.values()}
        used |= {error.path for error in unusable.values() if error.path} | {results.output}
        records += empty_folders(folder, used)
    _conclude(records, summary, folder)


def _predict_in_shares(folder: Path, devices: int, results: Results, model: Applied, reading: Input) -> None:
    """Segment a folder of cases in several processes, each as one with ``--shard`` would."""
    from m3ae_core.card import read_card
    from m3ae_core.config import ModelConfig
    from m3ae_core.inference.shards import run_shards
    from m3ae_core.inference.summary import Record
    from m3ae_core.io.case import scan_cases

    modalities = ModelConfig.model_validate(read_card(model.folder)["model"]).modality_set
    cases, unusable = scan_cases(folder, modalities)
    command = [
        sys.executable,
        "-m",
        "m3ae_core.cli",
        "predict",
        str(folder),
        *as_words(results, model, reading),
    ]
    names = [files.name for files in cases]
    records: list[Record] = follow(run_shards(command, devices, results.output, names))
    known = {record.case for record in records}
    records += [
        Record(name, "refused", message=str(error)) for name, error in unusable.items() if name not in known
    ]
    _conclude(records, results.output / "summary.csv", folder)


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


def _check_output(results: Results, inputs: Iterable[Path]) -> None:
    """Refuse to write over an input, over an existing file unasked, or under a name that is not NIfTI's."""
    from m3ae_core.io.sidecar import sidecar_of

    output, uncertainty = results.output, results.uncertainty
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
        if path.exists() and not results.overwrite:
            raise OutputError(
                "The file exists.", "Choose another name or pass --overwrite.", path=path, code="exists"
            )
        ensure_writable(path)
