"""The figures of docs/trust.md, from what `benchmarks/trust.py` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from m3ae_core.bundle import load_bundle
from m3ae_core.card import grade
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import find_cases, read_case, read_case_labels
from m3ae_core.modalities import ModalitySet
from m3ae_core.regions import REGIONS, encode, scheme_named
from trust import Word, collection

mpl.use("Agg")
COLOURS = {"WT": "#1f77b4", "TC": "#2ca02c", "ET": "#d62728"}
WORST = 5


def draw(
    by_case: Mapping[str, Sequence[Word]],
    by_collection: Mapping[str, Sequence[Word]],
    folders: Mapping[Path, str],
    bundle: Path,
    figures: Path,
) -> None:
    """Draw calibration, coverage and the worst cases into `figures`; `folders` of cases have a label scheme each."""
    _save(
        _calibration({"one case": by_case["dice"], "one collection": by_collection["dice"]}),
        figures / "trust-calibration.png",
    )
    _save(_coverage(by_case["dice"], by_collection["dice"]), figures / "trust-coverage.png")
    _save(_worst(by_case["dice"], folders, bundle), figures / "trust-worst.png")


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=80, metadata={"Software": None})
    plt.close(figure)


def _calibration(said: Mapping[str, Sequence[Word]]) -> plt.Figure:
    """True over expected Dice; lines join the means of fifths of the results."""
    figure, axes = plt.subplots(1, len(said), figsize=(9, 4.5), sharey=True, layout="constrained")
    for axis, (title, words) in zip(axes, said.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="grey", lw=1)
        for region, colour in COLOURS.items():
            own = np.array([(w.estimate, w.truth) for w in words if w.region == region])
            axis.plot(*own.T, ".", color=colour, alpha=0.25, ms=4)
            parts = np.array_split(own[np.argsort(own[:, 0])], 5)
            axis.plot(*np.array([part.mean(axis=0) for part in parts]).T, "o-", color=colour, label=region)
        axis.set(title=f"{title} left out", xlabel="expected Dice", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes[0].set_ylabel("Dice with the reference")
    axes[0].legend()
    return figure


def _coverage(by_case: Sequence[Word], by_collection: Sequence[Word]) -> plt.Figure:
    """How often the 80 % range holds the Dice: by subset, and by the collection that was left out."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), width_ratios=(3, 1), layout="constrained")
    subsets = list(dict.fromkeys(word.subset for word in by_case))
    _bars(left, [(s, [w for w in by_case if w.subset == s]) for s in subsets], "one case left out")
    origins = sorted({collection(word.case) for word in by_collection})
    groups = [(origin, [w for w in by_collection if collection(w.case) == origin]) for origin in origins]
    _bars(right, groups, "this collection left out")
    left.set_ylabel("share of results within the 80 % range")
    left.legend(loc="upper right", ncols=3)
    return figure


def _bars(axis: plt.Axes, groups: Sequence[tuple[str, Sequence[Word]]], title: str) -> None:
    for shift, (region, colour) in enumerate(COLOURS.items()):
        heights = [np.mean([w.covered for w in words if w.region == region]) for _, words in groups]
        axis.bar(np.arange(len(groups)) + 0.27 * (shift - 1), heights, 0.25, color=colour, label=region)
    axis.axhline(0.8, color="black", lw=1)
    axis.set_xticks(range(len(groups)), [name.replace("+", "\n") for name, _ in groups], fontsize=8)
    axis.set(title=title, ylim=(0, 1.15))


def _worst(said: Sequence[Word], folders: Mapping[Path, str], bundle: Path) -> plt.Figure:
    """The worst result of each of the five worst cases: reference, mask, and what a fit on the others said of it."""
    predictor = Predictor(load_bundle(bundle), "cpu", arithmetic="float32")
    figure, axes = plt.subplots(2, WORST, figsize=(13, 6.4), layout="constrained")
    for (case, subset), (above, below) in zip(_worst_results(said), axes.T, strict=True):
        _show(predictor, case, subset, folders, above, below)
        words = [word for word in said if (word.case, word.subset) == (case, subset)]
        above.set_title(f"{case}\nfrom {subset}", fontsize=8)
        below.set_xlabel("\n".join(_told(word) for word in words), fontsize=9)
    axes[0][0].set_ylabel("reference")
    axes[1][0].set_ylabel("mask")
    return figure


def _worst_results(said: Sequence[Word]) -> list[tuple[str, str]]:
    """Return case and subset of the lowest mean Dice over the regions, of different cases."""
    scores: dict[tuple[str, str], list[float]] = {}
    for word in said:
        scores.setdefault((word.case, word.subset), []).append(word.truth)
    ranked = sorted(scores, key=lambda place: float(np.mean(scores[place])))
    return list({case: (case, subset) for case, subset in reversed(ranked)}.values())[::-1][:WORST]


def _told(word: Word) -> str:
    mark = "" if word.covered else " ✗"
    return f"{word.region} {word.truth:.2f}: {grade(word.low)}, {word.low:.2f}-{word.high:.2f}{mark}"


def _show(
    predictor: Predictor,
    name: str,
    subset: str,
    folders: Mapping[Path, str],
    above: plt.Axes,
    below: plt.Axes,
) -> None:
    modalities: ModalitySet = predictor.config.modality_set
    files, scheme = next(
        (files, scheme_named(scheme))
        for folder, scheme in folders.items()
        for files in find_cases(folder, modalities)
        if files.name == name
    )
    case = read_case(files, modalities)
    truth = encode(read_case_labels(files, case).data, scheme)
    maps = predictor.predict(case.only(*subset.split("+"))).probabilities
    level = int(truth[0].sum(axis=(0, 1)).argmax())
    image = case.volumes[subset.split("+")[0]].data[:, :, level]
    for axis, masks in ((above, truth), (below, [maps[region.name] > 0.5 for region in REGIONS])):
        axis.imshow(image.T, cmap="gray", vmin=0, vmax=np.percentile(image[image != 0], 99))
        for region, mask in zip(REGIONS, masks, strict=True):
            if mask[:, :, level].any():
                axis.contour(mask[:, :, level].T, [0.5], colors=COLOURS[region.name], linewidths=1)
        axis.set(xticks=[], yticks=[])
