"""What a benchmark will measure: models, modalities, regions and cases, each with the hash that identifies it."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from m3ae_core import __version__
from m3ae_core.bundle import Bundle
from m3ae_core.errors import BundleError, ConfigError, InputError
from m3ae_core.evaluation.conventions import CONVENTIONS
from m3ae_core.evaluation.registry import Metric, registered
from m3ae_core.evaluation.results import Measurement, Model, paper_order
from m3ae_core.files import sha256
from m3ae_core.inference.provenance import NOTICE
from m3ae_core.io.case import CaseFiles, refuse_repeated_names
from m3ae_core.modalities import ModalitySet
from m3ae_core.regions import REGIONS, LabelScheme, Region


@dataclass(frozen=True)
class Plan:
    """What is fixed through a benchmark; `folder` is where its results go, `schemes` are those of the cases by name."""

    folder: Path
    models: tuple[Model, ...]
    modalities: ModalitySet
    regions: tuple[Region, ...]
    schemes: Mapping[str, LabelScheme]
    arithmetic: str
    metrics: tuple[Metric, ...]

    def key(self, model: Model, case: str, case_sha256: str) -> dict[str, str]:
        """Return all that the measurement of a case with a model depends on."""
        return {
            "bundle_sha256": model.sha256,
            "fingerprint": model.fingerprint,
            "case": case,
            "case_sha256": case_sha256,
            "scheme": self.schemes[case].identity,
            "arithmetic": self.arithmetic,
            "modalities": "+".join(self.modalities.names),
            "code_version": __version__,
        }

    def record(self, measurements: Sequence[Measurement]) -> dict[str, Any]:
        """Return the JSON-ready provenance of a finished benchmark."""
        cases = {m.key["case"]: m.key["case_sha256"] for m in measurements}
        return {
            "notice": NOTICE,
            "made_by": {"napari-m3ae": __version__},
            "bundles": [asdict(model) for model in self.models],
            "modalities": list(self.modalities.names),
            "regions": [region.name for region in self.regions],
            "metrics": [metric.name for metric in self.metrics],
            "scheme": ", ".join(sorted({self.schemes[name].identity for name in cases})),
            "schemes": {self.schemes[name].identity: dict(self.schemes[name].values) for name in cases},
            "arithmetic": self.arithmetic,
            "conventions": {convention.name: convention.description for convention in CONVENTIONS},
            "devices": sorted({measurement.device for measurement in measurements}),
            "case_list_sha256": _digest(f"{name} {cases[name]}" for name in sorted(cases)),
            "cases": [
                {"name": name, "sha256": digest, "scheme": self.schemes[name].identity}
                for name, digest in cases.items()
            ],
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "scipy": scipy.__version__,
            },
        }


def make_plan(
    bundles: Sequence[Bundle], folder: Path, schemes: Mapping[str, LabelScheme], arithmetic: str
) -> Plan:
    """Plan a benchmark of bundles that were loaded from disk, on cases whose label schemes are given by name.

    Modalities come in the order of the paper where they are its four, else in that of the first bundle.

    Raises
    ------
    ConfigError
        If there is no bundle, one is given twice (``bundle-repeats``), or they differ in their modalities or regions
        (``bundles-differ``).
    BundleError
        If a bundle was never saved, so that nothing identifies it.
    """
    if not bundles:
        raise ConfigError("No bundle was given.", "Give at least one.", code="arguments")
    first = bundles[0].config
    for other in (bundle.config for bundle in bundles[1:]):
        if {*other.modalities} != {*first.modalities} or {*other.regions} != {*first.regions}:
            problem = "The bundles know other modalities or other regions."
            raise ConfigError(problem, "Compare bundles that share both.", code="bundles-differ")
    modalities = paper_order(first.modality_set)
    regions = tuple(region for region in REGIONS if region.name in first.regions)
    return Plan(folder, _identify(bundles), modalities, regions, schemes, arithmetic, registered())


def check_cases(cases: Sequence[CaseFiles], modalities: ModalitySet) -> None:
    """Refuse, before anything is computed, what could not be measured.

    Raises
    ------
    InputError
        If two cases share a name (``case-repeats``), or one lacks a modality or its label map (``incomplete-case``).
    """
    refuse_repeated_names(cases)
    for files in cases:
        lacking = [name for name in modalities.names if name not in files.images]
        lacking += ["label map"] if files.labels is None else []
        if lacking:
            problem = f"The case {files.name} has no {', no '.join(lacking)}."
            fix = (
                "A benchmark takes modalities away itself and compares with a reference: give complete cases."
            )
            raise InputError(problem, fix, code="incomplete-case")


def hash_case(files: CaseFiles) -> str:
    """Return the SHA-256 that identifies the content of a case's files, whatever they are called.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    named = {**files.images, **({"labels": files.labels} if files.labels else {})}
    lines = []
    for name in sorted(named):
        try:
            lines.append(f"{name} {sha256(named[name])}")
        except OSError as error:
            problem, fix = (
                f"The file cannot be read: {error.strerror}.",
                "Check the path and the permissions.",
            )
            raise InputError(problem, fix, path=named[name], code="unreadable") from error
    return _digest(lines)


def _identify(bundles: Sequence[Bundle]) -> tuple[Model, ...]:
    """Name each bundle by its card, and by its fingerprint too where two share a name."""
    if unsaved := [bundle.name for bundle in bundles if not bundle.fingerprint]:
        problem = f"The bundle {unsaved[0]!r} was never saved."
        raise BundleError(problem, "Save it, then load it.", code="unsaved")
    prints = [bundle.fingerprint for bundle in bundles]
    if len(set(prints)) < len(prints):
        raise ConfigError("The same bundle is given twice.", "Give each once.", code="bundle-repeats")
    names = Counter(bundle.name for bundle in bundles)
    labels = [b.name if names[b.name] == 1 else f"{b.name} ({b.fingerprint[:8]})" for b in bundles]
    return tuple(Model(label, b.sha256, b.fingerprint) for label, b in zip(labels, bundles, strict=True))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
