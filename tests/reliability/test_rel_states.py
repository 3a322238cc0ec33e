"""Whatever a state file holds, it is refused in one sentence, made anew, or believed only if it is what was written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from states import KINDS, Kind, spoiled

from published import Figures, Trials

PROPERTY = "state files spoiled (runs, caches, models, results, manifests, autosaves)"
GOAL = "5,000, 0 tracebacks, 0 believed with another content"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_spoiled_states(kind: Kind, tmp_path: Path, trials: Trials, figures: Figures) -> None:
    found = list(spoiled(kind, tmp_path, trials(ci=12, long=340)))
    outcomes = Counter(outcome for _, outcome, _ in found)
    wrong = [row for row in found if row[1] in ("traceback", "silent")]
    note = f"{kind.name}: {dict(outcomes.most_common())}"
    figures.add(PROPERTY, goal=GOAL, tried=len(found), failed=len(wrong), note=note)
    assert not wrong, wrong[:5]
    assert outcomes["refused"] + outcomes["fresh"] + outcomes["sound"] == len(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("broken", "outcome"),
    [(lambda folder: (folder / "recipe.json").read_text(), "silent"), (lambda _: 1 / 0, "traceback")],
    ids=["believing", "crashing"],
)
def test_what_is_wrong_is_found_out(broken: object, outcome: str, tmp_path: Path) -> None:
    kind = KINDS[0]
    calls = iter(range(100))
    read = lambda folder: broken(folder) if next(calls) else kind.read(folder)  # noqa: E731
    changed = Kind(kind.name, kind.make, kind.file, read, kind.spoil)
    assert outcome in {row[1] for row in spoiled(changed, tmp_path, 12)}
