"""Lines that several sub-commands print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from m3ae_core.card import unassessable_words
from m3ae_core.errors import printable

if TYPE_CHECKING:
    from m3ae_core.io.folders.matching import CaseFiles


def print_dice(dice: dict[str, float]) -> None:
    """Print the Dice similarity of each region."""
    print("Dice    " + "  ".join(f"{region} {value:.3f}" for region, value in dice.items()))


def print_doubts(cases: Iterable[CaseFiles]) -> None:
    """Name the cases whose files are called after two patients.

    Raises
    ------
    InputError
        If the folders of a case tell so, too (``two-patients``).
    """
    from m3ae_core.io.patients import find_names_of_two_patients

    for files in cases:
        for doubt in find_names_of_two_patients(files.images):
            print(f"warning: {printable(files.name)}: {doubt}")


def print_reliability(measured: dict[str, dict[str, float]] | None) -> None:
    """Say how good the model was with this subset where that was measured."""
    if measured is None:
        print("not measured: how reliable this model is with these sequences")
        return
    quartiles = "  ".join(
        f"{region} {q['median']:.2f} ({q['q1']:.2f}-{q['q3']:.2f})" for region, q in measured.items()
    )
    count = min(int(q["n"]) for q in measured.values())
    print(f"measured with these sequences on {count} validation cases, median Dice (quartiles): {quartiles}")


def print_expected(record: dict[str, Any]) -> None:
    """Say how good this very result should be, and how large the tumour is, from the sidecar's record."""
    blind = (record["not_assessable"] or {}).get("regions", ())
    for key, title, form in (("expected_dice", "expected Dice", ".2f"), ("volume_ml", "volume in mL", ".1f")):
        known = {region: r for region, r in (record[key] or {}).items() if region not in blind}
        if known:
            print(f"{title} (range): {_ranges(known, form)}")
    print(record["calibrated_on"])
    for line in unassessable_words(record):
        print(line)
    if more := record["one_more_sequence"]:
        without, with_it = (_ranges(more[key], ".2f") for key in ("without", "with"))
        print(
            f"one more sequence: with {more['sequence']} the median Dice of {more['cases']} calibration cases "
            f"(10-90 %) goes from {without} to {with_it}"
        )


def _ranges(ranges: dict[str, dict[str, float]], form: str) -> str:
    return "  ".join(
        f"{region} {r['estimate']:{form}} ({r['low']:{form}}-{r['high']:{form}})"
        for region, r in ranges.items()
    )


def seen_words(card: Mapping[str, Any], case: str) -> str:
    """Say what a model saw of a case before, as far as its card names cases."""
    if case in card.get("training_cases", ()):
        return "The model was trained on this case."
    if case in card.get("validation_cases", ()):
        return "The model was not trained on this case, but the case had a say in the choice of the recipe."
    return "Whether the model was trained on this case, its card does not tell."
