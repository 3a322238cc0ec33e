"""One call from images to labels."""

from __future__ import annotations

from pathlib import Path

from m3ae_core.bundle import Bundle, load_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.inference.predictor import Prediction, Predictor
from m3ae_core.io.case import CaseFiles, read_case
from m3ae_core.io.folders.naming import refuse_names_that_disagree
from m3ae_core.io.sidecar import sidecar_of


def segment(
    *, bundle: Bundle | Path | str | None = None, device: str = "auto", **images: Path | str
) -> Prediction:
    """Segment one case from whichever of its images there are, with all checks, as ``m3ae predict`` does.

    For many cases, load the model once: :class:`~m3ae_core.inference.predictor.Predictor`.

    Parameters
    ----------
    bundle
        The model or its folder; the built-in model if left out.
    device
        ``auto``, ``cpu`` or ``cuda``.
    **images
        NIfTI files by modality, in lower case as in ``t1c=``; skull-stripped and co-registered.

    Returns
    -------
    Prediction
        Labels (X, Y, Z) uint8 of BraTS 2023 and probabilities (X, Y, Z) per region, on the grid of the images; what
        was substituted; and warnings, which the user must see.

    Raises
    ------
    ConfigError
        If the model knows no such modality, or the device is not there.
    InputError
        If no image is given, or one cannot be used (the codes of :func:`~m3ae_core.io.case.read_case` and
        :meth:`~m3ae_core.inference.predictor.Predictor.run`).
    BundleError
        If the model cannot be used.

    Examples
    --------
    >>> from m3ae_core import segment
    >>> from m3ae_core.data.builtin import builtin_case
    >>> files = builtin_case().images
    >>> prediction = segment(flair=files["FLAIR"], t2=files["T2"], device="cpu")
    >>> prediction.subset.missing
    ('T1', 'T1c')
    >>> prediction.labels.shape, sorted(prediction.probabilities)
    ((240, 240, 155), ['ET', 'TC', 'WT'])
    """
    model = bundle if isinstance(bundle, Bundle) else load_bundle(bundle or builtin_bundle())
    modalities = model.config.modality_set
    spelling = {name.lower(): name for name in modalities.names}
    given = {spelling.get(name.lower(), name): Path(path) for name, path in images.items()}
    modalities.subset(given)
    refuse_names_that_disagree(given, modalities)
    name = sidecar_of(next(iter(given.values()))).stem if given else "given"
    case = read_case(CaseFiles(name, given, None), modalities)
    return Predictor(model, device).predict(case, check=True)
