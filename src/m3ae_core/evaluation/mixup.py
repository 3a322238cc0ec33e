"""The mix-up rule fitted on correctly named cases, and measured on whole collections that took no part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from m3ae_core.bundle import Bundle
from m3ae_core.config import ModelConfig
from m3ae_core.data.preprocess import standardise
from m3ae_core.errors import InputError
from m3ae_core.events import Progress
from m3ae_core.inference.contrast import Pair, Signs, compare, exchanged
from m3ae_core.inference.mixup import CAP, KEY, LeftOut, MixupRule, PairRule, pair_key
from m3ae_core.io.case import CaseFiles, read_case

Array = npt.NDArray[np.floating]

#: A pair of modalities that fewer cases have is not judged.
LEAST_CASES = 9

_PENALTY = 0.3  # of a squared weight
_STEPS = 30


def fit_mixup(
    collections: Sequence[Sequence[CaseFiles]], config: ModelConfig
) -> Iterator[Progress | MixupRule]:
    """Fit the rule for a model; the last event is the :class:`MixupRule`.

    Parameters
    ----------
    collections
        Correctly named cases by origin; each origin is left out once. They may lack modalities and need no labels, and
        the model may have been trained on them: the rule asks nothing of its networks.

    Raises
    ------
    InputError
        If there are fewer than two collections (``too-few-collections``), or a case cannot be used.
    """
    if len(collections) < 2:
        problem = "A mix-up rule is measured on collections that were left out of its fit; there is only one."
        fix = "Give two or more folders, each with the cases of one origin."
        raise InputError(problem, fix, code="too-few-collections")
    total, measured = sum(map(len, collections)), list[Signs]()
    for files in (files for cases in collections for files in cases):
        yield Progress(f"case {files.name}", len(measured), total)
        measured.append(compare(standardise(read_case(files, config.modality_set), config)))
    rest = iter(measured)
    yield rule_of([[next(rest) for _ in cases] for cases in collections])


def with_mixup(bundle: Bundle, rule: MixupRule) -> Bundle:
    """Return `bundle` with the rule on its card."""
    return replace(bundle, card={**bundle.card, KEY: rule.model_dump(mode="json")})


def rule_of(collections: Sequence[Sequence[Signs]]) -> MixupRule:
    """Fit a rule on the signs of all cases, and measure on each collection one that was fitted on the others."""
    left_out = []
    for index, own in enumerate(collections):
        kept = [signs for other in (*collections[:index], *collections[index + 1 :]) for signs in other]
        left_out.append(_measure(own, MixupRule(pairs=_fit(kept), left_out=())))
    return MixupRule(pairs=_fit([signs for own in collections for signs in own]), left_out=tuple(left_out))


def _fit(cases: Sequence[Signs]) -> dict[str, PairRule]:
    pairs: dict[Pair, list[Array]] = {}
    for signs in cases:
        for pair, own in signs.items():
            pairs.setdefault(pair, []).append(own)
    return {pair_key(pair): _weigh(np.stack(own)) for pair, own in pairs.items() if len(own) >= LEAST_CASES}


def _weigh(signs: Array) -> PairRule:
    """Fit the logistic regression, without an intercept, for which the signs (cases, 4) are right, and -signs wrong."""
    scale = np.sqrt(np.mean(np.square(signs), axis=0)) + 1e-9
    design, weights = np.clip(signs / scale, -CAP, CAP), np.zeros(signs.shape[1])
    for _ in range(_STEPS):  # Newton's
        right = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (1 - right) - _PENALTY * weights
        curvature = (design.T * (right * (1 - right))) @ design + _PENALTY * np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, slope)
    return PairRule(scale=tuple(np.round(scale, 9).tolist()), weights=tuple(np.round(weights, 6).tolist()))


def _measure(cases: Sequence[Signs], rule: MixupRule) -> LeftOut:
    """Count the alarms over every set of two and more modalities of every case, as it is and after every exchange."""
    false, found, swaps = [], Counter[str](), Counter[str]()
    for signs in (part for case in cases for part in _parts(case)):
        false.append(rule.accused(signs) is not None)
        for pair in signs:
            swaps[pair_key(pair)] += 1
            found[pair_key(pair)] += rule.accused(exchanged(signs, pair)) == pair
    return LeftOut(
        cases=len(cases), false=sum(false), correct=len(false), found=dict(found), swaps=dict(swaps)
    )


def _parts(signs: Signs) -> Iterator[Signs]:
    """Yield the signs within every set of two and more of a case's modalities."""
    names = list(dict.fromkeys(name for pair in signs for name in pair))
    for size in range(2, len(names) + 1):
        for some in combinations(names, size):
            yield {pair: own for pair, own in signs.items() if set(pair) <= set(some)}
