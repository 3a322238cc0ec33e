"""A model's card, ``bundle.json``, and what was measured of it in a reader's words. No torch is imported here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from m3ae_core.errors import BundleError
from m3ae_core.modalities import Subset
from m3ae_core.seal import record_is_whole

if TYPE_CHECKING:  # so that `m3ae --help` need not wait for it
    from pydantic import BaseModel

Entry = TypeVar("Entry", bound="BaseModel")
FORMAT = 1

#: Least Dice for each word, best first; below the last a region is called unreliable.
GRADES = ((0.8, "good"), (0.6, "fair"), (0.4, "poor"))
_FIGURES = ("median", "q1", "q3", "n")
REGION_WORDS = {"WT": "Whole tumour", "TC": "Tumour core", "ET": "Enhancing tumour"}


def read_card(folder: Path) -> dict[str, Any]:
    """Return the content of a bundle's ``bundle.json``; no weights are read.

    Raises
    ------
    BundleError
        If `folder` is not a bundle, one of a later format, or its card is not what was written (``hash``).
    """
    path = Path(folder) / "bundle.json"
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BundleError(
            "This folder is not a model bundle: it has no readable bundle.json.",
            "Give the folder that `m3ae finetune` or `m3ae import-official` made.",
            path=folder,
            code="no-bundle",
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(
            "bundle.json is damaged.", "Copy the bundle again.", path=folder, code="format"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(
            "bundle.json is not of a format this version knows.",
            "Update napari-m3ae.",
            path=folder,
            code="format",
        )
    complete = all(isinstance(content.get(part), dict) for part in ("model", "sha256", "card"))
    if not complete or not _is_measured(content["card"].get("reliability", {})):
        raise BundleError("bundle.json is incomplete.", "Copy the bundle again.", path=folder, code="format")
    if not record_is_whole(content):
        problem = "bundle.json is not what was written: its SHA-256 is another."
        raise BundleError(problem, "Copy the bundle again.", path=folder, code="hash")
    return content


def grade(dice: float) -> str:
    """Return one word for the lower end of what Dice is to be expected: good, fair, poor or unreliable."""
    return next((word for least, word in GRADES if dice >= least), "unreliable")


def card_entry(card: Mapping[str, Any], key: str, kind: type[Entry], words: tuple[str, str]) -> Entry | None:
    """Return what a card holds under `key`; None if that is nothing.

    `words` say what it is and which command makes it.

    Raises
    ------
    BundleError
        If it is damaged; the code is the key.
    """
    from pydantic import ValidationError

    if card.get(key) is None:
        return None
    try:
        return kind.model_validate(card[key])
    except ValidationError as error:
        name, command = words
        raise BundleError(
            f"The {name} on the model's card is damaged.",
            f"Run `{command}` again, or copy the bundle again.",
            code=key,
        ) from error


def reliability_words(card: Mapping[str, Any], subset: Subset) -> tuple[str, ...]:
    """Say how reliable a model was with the sequences of `subset`: one sentence a region.

    `card` is the ``card`` of a bundle. The figures are those of its validation cases, the word follows the lower
    quartile; where nothing was measured, that is said.
    """
    measured = subset.entry(card.get("reliability", {}))
    if not measured:
        return ("How reliable this model is with these sequences was not measured.",)
    given = f"without {' and '.join(subset.missing)}" if subset.missing else "with all sequences"
    return tuple(
        f"{REGION_WORDS.get(region, region)} {given}: {grade(m['q1'])} (Dice {m['median']:.2f}, half of the "
        f"{m['n']} validation cases between {m['q1']:.2f} and {m['q3']:.2f})."
        for region, m in measured.items()
    )


def expected_words(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Say how good one result is expected to be: one sentence a region, none if its `record` holds no such estimate.

    `record` is the content of a sidecar. The word follows the lower end of the range; of a region that cannot be
    assessed, that is said instead.
    """
    expected, blind = record.get("expected_dice") or {}, record.get("not_assessable") or {}
    said = [
        f"{REGION_WORDS.get(region, region)} in this case: {grade(e['low'])} (expected Dice {e['estimate']:.2f}, "
        f"in four of five cases between {e['low']:.2f} and {e['high']:.2f})."
        for region, e in expected.items()
        if region not in blind.get("regions", ())
    ]
    return (*said, *unassessable_words(record))


def unassessable_words(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Say which regions of a result cannot be assessed, and whether there is enhancing tumour at all."""
    blind = record.get("not_assessable")
    if not blind:
        return ()
    regions = " and ".join(REGION_WORDS.get(region, region) for region in blind["regions"])
    verdict = blind["enhancement"]
    likely = (
        ""
        if verdict is None
        else (
            f" Enhancement {'likely' if verdict['likely'] else 'unlikely'} (balanced accuracy "
            f"{verdict['balanced_accuracy']:.2f} on {verdict['cases']} cases; guessing has 0.50)."
        )
    )
    return (f"{regions}: not assessable. {blind['why']}{likely}",)


def _is_measured(reliability: Any) -> bool:
    """Whether a card's ``reliability`` is what :func:`reliability_words` reads: figures by subset and region."""
    return isinstance(reliability, dict) and all(
        isinstance(regions, dict)
        and all(
            isinstance(figures, dict) and all(isinstance(figures.get(key), int | float) for key in _FIGURES)
            for figures in regions.values()
        )
        for regions in reliability.values()
    )
