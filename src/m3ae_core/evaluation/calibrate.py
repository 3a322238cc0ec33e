"""A model calibrated: labelled cases segmented from every subset of their modalities, and what that says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace

import numpy as np
import numpy.typing as npt

from m3ae_core.bundle import Bundle
from m3ae_core.data.preprocess import Standardiser
from m3ae_core.errors import InputError
from m3ae_core.evaluation.metrics import dice
from m3ae_core.evaluation.plan import check_cases, hash_case
from m3ae_core.events import Progress
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import Case, CaseFiles, read_case, read_case_labels
from m3ae_core.measure import voxel_ml
from m3ae_core.regions import REGIONS, LabelScheme, encode
from m3ae_core.trust.calibration import KEY, Calibration
from m3ae_core.trust.evidence import Evidence, weigh
from m3ae_core.trust.fit import Measurement, fit_calibration
from m3ae_core.trust.judge import brain_of, brain_values

Labelled = tuple[CaseFiles, LabelScheme]

_EVERY = 17  # of so many voxels of the brain one is kept for the temperatures


def calibrate(
    bundle: Bundle, cases: Sequence[Labelled], device: str = "auto"
) -> Iterator[Progress | Calibration]:
    """Measure `cases`, each with its label scheme, in float32; the last event is the :class:`Calibration`.

    Raises
    ------
    InputError
        If a case lacks a modality or its label map, the model was trained on it (``training-case``), there are too few
        (``too-few-cases``), or one cannot be used.
    BundleError, ConfigError
        If the model cannot segment, or the device is not there.
    """
    _check(bundle, [files for files, _ in cases])
    predictor = Predictor(bundle, device, arithmetic="float32")
    measurements: list[Measurement] = []
    for done, (files, scheme) in enumerate(cases):
        yield Progress(f"case {files.name}", done, len(cases))
        measurements.append(measure_case(predictor, files, scheme))
    yield fit_calibration(measurements)


def measure_case(predictor: Predictor, files: CaseFiles, scheme: LabelScheme) -> Measurement:
    """Segment one case from every subset of the model's modalities, and compare with its label map."""
    modalities = predictor.config.modality_set
    case = read_case(files, modalities)
    regions = [region for region in REGIONS if region.name in predictor.config.regions]
    truth = encode(read_case_labels(files, case).data, scheme, regions)
    brain = brain_of(volume.data for volume in case.volumes.values())
    sample = np.flatnonzero(brain.ravel(order="F"))[::_EVERY]
    found = list(_subsets(predictor, case, truth, [region.name for region in regions], sample))
    return Measurement(
        files.name,
        hash_case(files),
        modalities.subsets(),
        tuple(region.name for region in regions),
        np.array([[astuple(own) for own in evidence] for evidence, _, _ in found]),
        np.array([dices for _, dices, _ in found]),
        np.count_nonzero(truth, axis=(1, 2, 3)) * voxel_ml(case.affine),
        np.array([probabilities for _, _, probabilities in found], np.float16),
        truth.sum(axis=0, dtype=np.uint8).ravel(order="F")[sample],
    )


def _subsets(
    predictor: Predictor,
    case: Case,
    truth: npt.NDArray[np.bool_],
    regions: Sequence[str],
    sample: npt.NDArray[np.intp],
) -> Iterator[tuple[list[Evidence], list[float], npt.NDArray[np.float32]]]:
    """Yield, for each subset, the evidence and the Dice of each region and the probabilities (R, V) at the `sample`."""
    shared, ml = Standardiser(case, predictor.config), voxel_ml(case.affine)
    for subset in predictor.config.modality_set.subsets():
        part = case.only(*subset.present)
        maps = predictor.predict(part, shared=shared).probabilities
        brain = brain_of(volume.data for volume in part.volumes.values())
        _, inside = brain_values(brain, [maps[name] for name in regions])
        scores = [dice(maps[name] > 0.5, truth[row]) for row, name in enumerate(regions)]
        own = brain.ravel(order="F")[sample]
        values = np.stack([maps[name].ravel(order="F")[sample] * own for name in regions])
        yield [weigh(row, ml) for row in inside], scores, values


def with_calibration(bundle: Bundle, calibration: Calibration) -> Bundle:
    """Return `bundle` with its calibration on the card; the networks stay as they are."""
    return replace(bundle, card={**bundle.card, KEY: calibration.model_dump(mode="json")})


def _check(bundle: Bundle, cases: Sequence[CaseFiles]) -> None:
    check_cases(cases, bundle.config.modality_set)
    known = set(bundle.card.get("training_cases", ()))
    if trained := [files.name for files in cases if files.name in known]:
        problem = f"The model was trained on {trained[0]}, so that its figures there are too good."
        raise InputError(problem, "Calibrate on other cases.", code="training-case")
