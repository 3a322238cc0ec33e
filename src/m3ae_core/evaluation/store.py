"""The results folder of a benchmark, on disk.

``benchmark.json`` says what was measured, with what, and is written when all is; ``measurements/MODEL/CASE.json``
holds raw overlaps, independent of any convention; ``slices/MODEL/CASE.npz`` one slice to look at. MODEL is the start of
the model's fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m3ae_core.errors import InputError
from m3ae_core.evaluation.registry import METRICS, Metric, Overlap, registered
from m3ae_core.evaluation.results import Measurement, Model, Results
from m3ae_core.files import write_json
from m3ae_core.regions import LabelScheme, scheme_named

INDEX = "benchmark.json"


def measurement_file(folder: Path, fingerprint: str, case: str) -> Path:
    """Return where the measurement of a case with a model lies in a results folder."""
    return folder / "measurements" / fingerprint[:12] / f"{case}.json"


def slices_file(folder: Path, fingerprint: str, case: str) -> Path:
    """Return where the slice of a case segmented by a model lies in a results folder."""
    return folder / "slices" / fingerprint[:12] / f"{case}.npz"


def write_measurement(path: Path, measurement: Measurement) -> Path:
    """Write a measurement atomically; its folder must be there."""
    return write_json(path, asdict(measurement))


def read_measurement(path: Path) -> Measurement | None:
    """Read a measurement; None if the file is not there or not whole."""
    try:
        content = json.loads(path.read_text("utf-8"))
        overlaps = {
            "+".join(sorted(subset.split("+"))): {
                region: _overlap(values) for region, values in regions.items()
            }
            for subset, regions in content["overlaps"].items()
        }
        return Measurement(dict(content["key"]), str(content["device"]), overlaps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _overlap(stored: dict[str, Any]) -> Overlap:
    """Return a stored overlap; one of 0.1 holds the Dice in place of the shared voxels."""
    if "measured" in stored:
        return Overlap(**stored)
    predicted, reference, dice = stored["predicted"], stored["reference"], stored["dice"] or 0.0
    measured = {name: stored[name] for name in ("lesion_dice", "hd95_mm")}
    shared = round(dice * (predicted + reference) / 2)
    return Overlap(predicted, reference, shared, stored["voxel_mm3"], stored["diagonal_mm"], measured)


def load_results(folder: Path) -> Results:
    """Read a finished benchmark.

    Raises
    ------
    InputError
        If the folder holds none, or a measurement of it is gone or was replaced; if nothing that is installed defines
        one of its metrics (``no-metric``).
    """
    try:
        record = json.loads((folder / INDEX).read_text("utf-8"))
        models = tuple(Model(**model) for model in record["bundles"])
        modalities, regions = tuple(record["modalities"]), tuple(record["regions"])
        shared = {"modalities": "+".join(modalities), "code_version": record["made_by"]["napari-m3ae"]}
        shared |= {"arithmetic": record["arithmetic"]} if "arithmetic" in record else {}  # of 0.1: not known
        cases = [
            {"case": c["name"], "case_sha256": c["sha256"], "scheme": _identity(record, c["name"]), **shared}
            for c in record["cases"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "Run `m3ae benchmark` with this folder as --output; it goes on where it was stopped."
        problem = "No finished benchmark is in this folder."
        raise InputError(problem, fix, path=folder, code="no-benchmark") from error
    measurements = tuple(_recorded(folder, model, case) for case in cases for model in models)
    return Results(folder, record, models, modalities, regions, measurements, _metrics(folder, record))


def _metrics(folder: Path, record: Mapping[str, Any]) -> tuple[Metric, ...]:
    known = {metric.name: metric for metric in registered()}
    names = record.get("metrics", [metric.name for metric in METRICS])  # of 0.1: not named
    if missing := [name for name in names if name not in known]:
        problem = f"The benchmark measured {missing[0]!r}, which no installed package defines."
        raise InputError(problem, "Install the package that it came from.", path=folder, code="no-metric")
    return tuple(known[name] for name in names)


def scheme_of(record: Mapping[str, Any], case: str) -> LabelScheme:
    """Return the label scheme that a case was measured with; a record of 0.1 holds its name alone."""
    identity = _identity(record, case)
    values = record.get("schemes", {}).get(identity)
    return LabelScheme(identity, tuple(values.items())) if values else scheme_named(identity)


def _identity(record: Mapping[str, Any], case: str) -> str:
    """Return what identifies the label scheme of a case; in a record of 0.1 all share one."""
    own = {entry["name"]: entry.get("scheme") for entry in record["cases"]}
    return str(own[case] or record["scheme"])


def _recorded(folder: Path, model: Model, wanted: dict[str, str]) -> Measurement:
    """Return the measurement that the finished benchmark ended with."""
    path = measurement_file(folder, model.fingerprint, wanted["case"])
    found = read_measurement(path)
    if found is None or not wanted.items() <= found.key.items():
        problem = "This measurement is not the one that the benchmark ended with."
        fix = "Run `m3ae benchmark` again; it takes what is missing."
        raise InputError(problem, fix, path=path, code="no-benchmark")
    return found
