"""The benchmark: cases × subsets × regions for one bundle or several, stored case by case, resumed where it stopped."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from m3ae_core.bundle import Bundle
from m3ae_core.data.preprocess import Standardiser
from m3ae_core.evaluation.plan import Plan, check_cases, hash_case, make_plan
from m3ae_core.evaluation.registry import DICE, Overlap, overlap
from m3ae_core.evaluation.results import Measurement, Results, table_order
from m3ae_core.evaluation.slices import cut, write_slices
from m3ae_core.evaluation.store import (
    INDEX,
    load_results,
    measurement_file,
    read_measurement,
    slices_file,
    write_measurement,
)
from m3ae_core.events import CaseMeasured, Progress
from m3ae_core.files import make_folder, write_json
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import Case, CaseFiles, read_case, read_case_labels
from m3ae_core.io.patients import find_two_patients
from m3ae_core.regions import BRATS_2023, LabelScheme, encode

#: In what a benchmark computes; no "auto": figures are to hold on any machine.
Measured = Literal["float32", "bfloat16"]
Labels = npt.NDArray[np.uint8]


def run(
    bundles: Sequence[Bundle],
    cases: Sequence[CaseFiles],
    folder: Path,
    *,
    scheme: LabelScheme = BRATS_2023,
    schemes: Mapping[str, LabelScheme] = MappingProxyType({}),
    device: str = "auto",
    arithmetic: Measured = "float32",
) -> Iterator[Progress | CaseMeasured | Results]:
    """Measure every case with every bundle from every subset; the last event is the :class:`Results`.

    The masks are those a user gets, on each case's own grid. A case measured with a model is safe on disk when its
    :class:`CaseMeasured` arrives. Run the same again and it is not computed again, unless the case's files, the
    model, the label scheme, the arithmetic or the code's version changed. To stop, ask for no further event.

    Parameters
    ----------
    bundles
        Loaded from disk; all of the same modalities and regions.
    cases
        Each with every modality and a label map, under names that do not repeat.
    folder
        The results folder; made if needed.
    scheme
        Label scheme of the cases.
    schemes
        That of single cases, by name, where it is another.
    device
        ``auto``, ``cpu`` or ``cuda``.
    arithmetic
        Numbers the network computes in.

    Raises
    ------
    ConfigError, BundleError
        If bundles do not go together, one cannot segment, or the device is not there.
    InputError
        If a case lacks something, repeats a name, or cannot be used; what was measured before it is kept.
    OutputError
        If the folder cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from m3ae_core import benchmark, load_bundle
    >>> from m3ae_core.data.builtin import builtin_bundle, builtin_case
    >>> model = load_bundle(builtin_bundle())
    >>> events = benchmark([model], [builtin_case()], Path("results"), device="cpu")
    >>> next(events).total  # subsets of the first case; the last event is the Results
    15
    """
    own = {files.name: schemes.get(files.name, scheme) for files in cases}
    plan = make_plan(bundles, folder, own, arithmetic)
    check_cases(cases, plan.modalities)
    predictors = [Predictor(bundle, device, arithmetic=arithmetic) for bundle in bundles]
    for model, file_of in product(plan.models, (measurement_file, slices_file)):
        make_folder(file_of(folder, model.fingerprint, "any").parent)
    measurements: list[Measurement] = []
    for files in cases:
        digest, content = hash_case(files), None
        for model, predictor in zip(plan.models, predictors, strict=True):
            key = plan.key(model, files.name, digest)
            known = measurement = _known(plan, key)
            if measurement is None:
                content = content or _read(files, plan)
                measurement = yield from _measure(plan, predictor, *content, key)
            measurements.append(measurement)
            done, total = len(measurements), len(cases) * len(plan.models)
            dice, reused = mean_dice(measurement), known is not None
            yield CaseMeasured(model.label, files.name, done, total, dice, reused)
    write_json(folder / INDEX, plan.record(measurements))
    yield load_results(folder)


def mean_dice(measurement: Measurement) -> dict[str, float]:
    """Return the mean Dice over the subsets, per region."""
    rows = list(measurement.overlaps.values())
    return {region: float(np.mean([DICE.score(row[region]) for row in rows])) for region in rows[0]}


def _known(plan: Plan, key: dict[str, str]) -> Measurement | None:
    """Return the stored measurement of this very key by all metrics, if there is one."""
    found = read_measurement(measurement_file(plan.folder, key["fingerprint"], key["case"]))
    has_slices = slices_file(plan.folder, key["fingerprint"], key["case"]).is_file()
    if found is None or found.key != key or not has_slices:
        return None
    wanted = {metric.name for metric in plan.metrics if metric.from_masks}
    overlaps = (own for regions in found.overlaps.values() for own in regions.values())
    return found if all(wanted <= own.measured.keys() for own in overlaps) else None


def _read(files: CaseFiles, plan: Plan) -> tuple[Case, Labels]:
    case = read_case(files, plan.modalities)
    find_two_patients(case.volumes, plan.modalities)
    return case, read_case_labels(files, case).data


def _measure(
    plan: Plan, predictor: Predictor, case: Case, reference: Labels, key: dict[str, str]
) -> Generator[Progress, None, Measurement]:
    """Segment one case from every subset; write its slices, then its measurement, and return that."""
    subsets, shared = table_order(plan.modalities), Standardiser(case, predictor.config)
    predictions: dict[str, Labels] = {}
    overlaps: dict[str, dict[str, Overlap]] = {}
    for done, subset in enumerate(subsets):
        yield Progress(f"{case.name} from {subset}", done, len(subsets))
        labels = predictor.predict(case.only(*subset.present), plan.schemes[case.name], shared).labels
        predictions[str(subset)] = labels
        overlaps[str(subset)] = _overlaps(labels, reference, case, plan)
    write_slices(slices_file(plan.folder, key["fingerprint"], case.name), cut(case, reference, predictions))
    measurement = Measurement(key, str(predictor.device), overlaps)
    write_measurement(measurement_file(plan.folder, key["fingerprint"], case.name), measurement)
    return measurement


def _overlaps(labels: Labels, reference: Labels, case: Case, plan: Plan) -> dict[str, Overlap]:
    spacing = next(iter(case.volumes.values())).spacing
    masks = zip(
        plan.regions,
        encode(labels, plan.schemes[case.name], plan.regions),
        encode(reference, plan.schemes[case.name], plan.regions),
        strict=True,
    )
    return {region.name: overlap(ours, theirs, spacing, plan.metrics) for region, ours, theirs in masks}
