"""Inference: a case in, a segmentation out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m3ae_core.bundle import Bundle
from m3ae_core.config import Window
from m3ae_core.data.preprocess import StandardCase, Standardiser
from m3ae_core.errors import BundleError, OutputError
from m3ae_core.events import Progress
from m3ae_core.files import ensure_writable, write_json
from m3ae_core.inference.device import (
    Arithmetic,
    choose_device,
    fast,
    is_out_of_memory,
    precision,
    require_memory,
    to_device,
    told_if_out_of_memory,
)
from m3ae_core.inference.mixup import find_mixup
from m3ae_core.inference.provenance import Conditions, describe, described_labels, find_warnings
from m3ae_core.inference.unprepared import find_unprepared
from m3ae_core.io.case import Case
from m3ae_core.io.grid import FloatArray, Grid, resample
from m3ae_core.io.patients import find_two_patients
from m3ae_core.io.sidecar import sidecar_of
from m3ae_core.io.volume import voxel_sha256, write_image, write_labels
from m3ae_core.measure import voxel_ml
from m3ae_core.modalities import Subset
from m3ae_core.nn.windows import Extent, whole_logits
from m3ae_core.regions import BRATS_2023, LabelScheme, decode
from m3ae_core.seal import sealed
from m3ae_core.trust.calibration import Calibration
from m3ae_core.trust.enhancement import unassessable
from m3ae_core.trust.judge import brain_of, judge


@dataclass(frozen=True, eq=False)
class Prediction:
    """A segmentation on the case's own grid, and how it was made.

    Attributes
    ----------
    labels
        (X, Y, Z) uint8, label values of `scheme`.
    probabilities
        Per region name, (X, Y, Z) float32 in [0, 1].
    affine
        4×4, voxel to RAS mm: exactly the case's.
    subset
        Which sequences were present; the others were substituted.
    warnings
        Sentences the user must see.
    provenance
        JSON-ready record; the sidecar's content.
    uncertainty
        (X, Y, Z) float32 in [0, 1]: the chance that a voxel's tissue is wrong, 0 outside the brain. None if the
        prediction comes without probabilities.

    Examples
    --------
    >>> from m3ae_core import segment
    >>> from m3ae_core.data.builtin import builtin_case
    >>> prediction = segment(t1c=builtin_case().images["T1c"], device="cpu")
    >>> str(prediction.subset), prediction.scheme.name
    ('T1c', 'brats2023')
    >>> prediction.labels.shape == prediction.probabilities["ET"].shape == prediction.uncertainty.shape
    True
    """

    labels: npt.NDArray[np.uint8]
    probabilities: dict[str, FloatArray]
    affine: npt.NDArray[np.float64]
    scheme: LabelScheme
    subset: Subset
    warnings: tuple[str, ...]
    provenance: dict[str, Any]
    uncertainty: FloatArray | None = None


class Predictor:
    """Applies one bundle to cases.

    Parameters
    ----------
    bundle
        The model; its configuration decides about template, preprocessing, windows and substitute.
    device
        ``auto``, ``cpu`` or ``cuda``.
    window
        Segments in another way than the model was validated with (see :class:`~m3ae_core.config.InferenceConfig`):
        another answer, and a warning.
    compiled
        Compile the backbone with torch.compile; worth it for many cases on a GPU.
    arithmetic
        ``float32``, ``bfloat16``, or ``auto``: what the device computes fastest
        (:func:`~m3ae_core.inference.device.precision`).
    assess_et
        Call the enhancing tumour assessable without the sequence after contrast, too. The labels are the same.

    Raises
    ------
    BundleError
        If the bundle holds no segmenter, or its card a damaged calibration.
    ConfigError
        If the device is not there, or the window or the arithmetic cannot be.

    Examples
    --------
    >>> from m3ae_core import Predictor, load_bundle, read_case
    >>> from m3ae_core.data.builtin import builtin_bundle, builtin_case
    >>> predictor = Predictor(load_bundle(builtin_bundle()), device="cpu")
    >>> case = read_case(builtin_case())
    >>> prediction = predictor.predict(case.without("T1c"))
    >>> prediction.provenance["sequences_substituted"]
    ['T1c']
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        *,
        window: Window | None = None,
        compiled: bool = False,
        arithmetic: Arithmetic = "auto",
        assess_et: bool = False,
    ) -> None:
        if reason := bundle.model.lacks("segmentation"):
            raise BundleError(f"The model {bundle.name!r} cannot be used.", reason, code="stage")
        self.bundle = bundle
        self.config = bundle.config if window is None else bundle.config.with_window(window)
        as_validated = self.config.inference.window == bundle.config.inference.window
        self.calibration = Calibration.of(bundle.card) if as_validated else None
        self.model = bundle.model
        for network in self.model.networks.values():
            network.eval()
        if compiled:
            self.model.compile()
        self.arithmetic = arithmetic
        self.assess_et = assess_et
        self._use(choose_device(device))

    def predict(
        self,
        case: Case,
        scheme: LabelScheme = BRATS_2023,
        shared: Standardiser | None = None,
        *,
        check: bool = False,
        same_patient: bool = False,
    ) -> Prediction:
        """Segment `case`; see :meth:`run` for progress and errors."""
        *_, prediction = self.run(case, scheme, shared, check=check, same_patient=same_patient)
        assert isinstance(prediction, Prediction)  # noqa: S101  run() ends with one
        return prediction

    def run(
        self,
        case: Case,
        scheme: LabelScheme = BRATS_2023,
        shared: Standardiser | None = None,
        *,
        check: bool = False,
        same_patient: bool = False,
    ) -> Iterator[Progress | Prediction]:
        """Segment `case`, yielding :class:`Progress` and at the end one :class:`Prediction`.

        Stop asking for the next event to cancel.

        Parameters
        ----------
        shared
            For several subsets of one case: made of the case with all of them, it keeps what they have in common.
        check
            Also look for images that were not prepared (:mod:`~m3ae_core.inference.unprepared`) and sequences that are
            mixed up (:mod:`~m3ae_core.inference.mixup`), and warn.
        same_patient
            The images are known to be of one patient, whatever :mod:`~m3ae_core.io.patients` finds.

        Raises
        ------
        InputError
            If the images seem to be of two patients (``two-patients``), the case does not fit on the model's
            template, or memory does not suffice (``memory``).
        BundleError
            If the network's output is not finite.
        """
        with told_if_out_of_memory():
            yield Progress("preparing", 0, 1)
            modalities = self.config.modality_set
            doubts = find_two_patients(case.volumes, modalities, same_patient=same_patient)
            standard = (shared or Standardiser(case, self.config)).standardise(case.volumes)
            yield Progress("preparing", 1, 1)
            if check:
                yield Progress("checking the images", 0, 0)
                mixup = find_mixup(standard, self.bundle)
                doubts = (*doubts, *find_unprepared(case), *([mixup] if mixup else []))
            fallbacks: list[str] = []
            extent = Extent.of(self.config.inference, self.config.grid.shape, standard.brain)
            logits: Tensor | None = None
            missing = ~torch.tensor(standard.exists)
            for done, total, logits in whole_logits(  # noqa: B007  the last value is the result
                lambda x: self._forward(x, missing, fallbacks),
                lambda image, start: self.model.fill(image, missing, start),
                torch.from_numpy(standard.image),
                extent,
                self.config.inference,
            ):
                yield Progress("segmenting", done, total)
            yield Progress("resampling the result", 0, 1)
            assert logits is not None  # noqa: S101  there is always one window
            maps = self._to_case(logits.sigmoid_(), standard.grid.cropped(*extent), case)
            del logits
            warnings = (*case.notes, *doubts, *find_warnings(self.bundle, self.config, standard))
            how = Conditions(self.device, self.precision, tuple(fallbacks), warnings, check, same_patient)
            yield self._prediction(case, standard, maps, scheme, how)

    def _prediction(
        self,
        case: Case,
        standard: StandardCase,
        maps: dict[str, FloatArray],
        scheme: LabelScheme,
        how: Conditions,
    ) -> Prediction:
        masks = [maps[name] > 0.5 for name in self.config.regions]
        labels = decode(masks, scheme, self.config.region_set)
        record = describe(self.bundle, self.config, standard, case, how)
        record |= described_labels(labels, scheme, case)
        subset = standard.subset
        brain = brain_of(case.volumes[name].data for name in subset.present)
        judged = judge(maps, brain, voxel_ml(case.affine), subset, self.calibration)
        record |= judged.record
        blind = None if self.assess_et else unassessable(subset, scheme, judged.enhancement)
        record["not_assessable"] = blind if "ET" in maps else None
        return Prediction(labels, maps, case.affine, scheme, subset, how.warnings, record, judged.uncertainty)

    def _use(self, device: torch.device) -> None:
        self.device = device
        self.precision = precision(device, self.arithmetic)
        for network in self.model.networks.values():
            network.to(device)

    @torch.no_grad()
    def _forward(self, x: Tensor, missing: Tensor, fallbacks: list[str]) -> Tensor:
        """Return the logits (B, R, …) of windows (B, N, …), on the CPU."""
        if self.device.type == "cpu":
            require_memory(x[:, 0].numel(), self.config.network.base_channels)
        try:
            with fast(self.device, self.precision, one_shape=self.config.inference.window != "brain"):
                logits = self.model.predict(to_device(x, self.device), missing.to(self.device)).float().cpu()
        except RuntimeError as error:
            if not is_out_of_memory(error) or (self.device.type == "cpu" and len(x) == 1):
                raise  # there is nothing left to try
            logits = self._forward_with_less(x, missing, fallbacks)
        if not torch.isfinite(logits).all():
            raise BundleError(
                f"The model {self.bundle.name!r} gave values that are not finite.",
                "Use another model.",
                code="nonfinite",
            )
        return logits

    def _forward_with_less(self, x: Tensor, missing: Tensor, fallbacks: list[str]) -> Tensor:
        """Compute the same windows with less memory: one at a time, then on the CPU. Smaller ones change the answer."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(x) > 1:
            fallbacks.append("Memory ran out; the windows were computed one at a time.")
            return torch.cat([self._forward(one[None], missing, fallbacks) for one in x])
        fallbacks.append("The GPU ran out of memory; the CPU took over with the same window.")
        self._use(torch.device("cpu"))
        return self._forward(x, missing, fallbacks)

    def _to_case(self, probabilities: Tensor, grid: Grid, case: Case) -> dict[str, FloatArray]:
        own = Grid(case.shape, case.affine)
        maps = probabilities.numpy()
        return {name: resample(maps[index], grid, own) for index, name in enumerate(self.config.regions)}


def save_uncertainty(prediction: Prediction, path: Path) -> Path:
    """Write the uncertainty of a prediction (NIfTI, float32, in steps of 1/1024, which compress well).

    Raises
    ------
    OutputError
        If the prediction comes without (``no-uncertainty``), or the file cannot be written.
    """
    if prediction.uncertainty is None:
        raise OutputError(
            "This prediction comes without uncertainty.",
            "Segment the case again.",
            path=path,
            code="no-uncertainty",
        )
    return write_image(path, np.rint(prediction.uncertainty * 1024) / 1024, prediction.affine)


def save_prediction(prediction: Prediction, path: Path) -> tuple[Path, Path]:
    """Write the labels (NIfTI) and, beside them, the JSON sidecar; return both paths.

    The sidecar names the SHA-256 of the labels' voxels, so that one left behind by a killed process is recognised, and
    that of its own content.

    Raises
    ------
    OutputError
        If either cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from m3ae_core import save_prediction, segment
    >>> from m3ae_core.data.builtin import builtin_case
    >>> prediction = segment(flair=builtin_case().images["FLAIR"], device="cpu")
    >>> [path.name for path in save_prediction(prediction, Path("labels.nii.gz"))]
    ['labels.nii.gz', 'labels.json']
    """
    sidecar = sidecar_of(path)
    ensure_writable(sidecar)
    described = {**prediction.provenance.get("labels", {}), "sha256": voxel_sha256(prediction.labels)}
    write_labels(path, prediction.labels, prediction.affine)
    write_json(sidecar, sealed({**prediction.provenance, "labels": described}))
    return path, sidecar
