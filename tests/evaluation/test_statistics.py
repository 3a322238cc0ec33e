"""Summaries, the paper's averages, the signed-rank test and Holm's correction against known results."""

from dataclasses import replace

import pytest

from m3ae_core.errors import InputError
from m3ae_core.evaluation.results import Score
from m3ae_core.evaluation.statistics import average, compare, holm, summaries, summarise, wilcoxon
from paper import paper_tables

SCORE = Score(
    bundle="a",
    bundle_sha256="",
    case="",
    subset="T1",
    region="ET",
    convention="brats_legacy",
    values={"dice": 0.0, "hd95_mm": 0.0},
    predicted_voxels=1,
    reference_voxels=1,
    predicted_empty=False,
    reference_empty=False,
    case_sha256="",
    case_list_sha256="",
    device="cpu",
    code_version="0",
)


def scores(bundle: str, values: list[float]) -> list[Score]:
    return [
        replace(SCORE, bundle=bundle, case=str(i), values={"dice": value}) for i, value in enumerate(values)
    ]


def test_summary_by_hand():
    summary = summarise([1.0, 2.0, 3.0, 6.0])
    assert (summary.n, summary.mean, summary.median) == (4, 3, 2.5)
    assert summary.sd == pytest.approx((14 / 3) ** 0.5)  # squares 4, 1, 0, 9 over n - 1
    assert (summary.q1, summary.q3) == (1.75, 3.75)
    assert summarise([0.5]).sd is None


@pytest.mark.parametrize(
    ("table", "expected"),
    [("BraTS2018 (Table 1)", (85.8, 77.4, 59.9)), ("BraTS2020 (Table S3)", (86.9, 79.1, 61.7))],
)
def test_the_papers_tables_average_to_what_the_paper_prints(table, expected):
    cells = paper_tables()[table]
    assert len(cells) == 45
    means = [round(100 * average(cells, "M3AE", region), 1) for region in ("WT", "TC", "ET")]
    assert tuple(means) == expected


def test_every_case_counts():
    cells = summaries(scores("a", [0.0, 1.0, 0.5]), "dice")
    assert cells["a", "T1", "ET"] == summarise([0.0, 1.0, 0.5])


def test_a_metric_that_the_convention_lacks_is_refused():
    with pytest.raises(InputError):
        summaries([replace(SCORE, values={"dice": 0.0})], "hd95_mm")


def test_holm_by_hand():
    # sorted 0.005·4, 0.01·3, 0.03·2, 0.04·1, then never smaller than the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_wilcoxon_known_values():
    assert wilcoxon([1, 2, 3, 4, 5]) == pytest.approx(2 / 2**5)  # all of one sign: two of 32 sign patterns
    assert wilcoxon([1, -2, 3, -4]) == pytest.approx(wilcoxon([-1, 2, -3, 4]))
    assert wilcoxon([0, 0, 0]) == 1


def test_zeros_take_part_in_the_ranking():
    # Pratt: six zeros take ranks 1 to 6, the others 7 to 12. The negative ones sum to 7 + 8 = 15; of the 64 patterns of
    # signs, 8 have no larger sum (none, one alone, 7 + 8): p = 2 · 8 / 64. With the zeros dropped it would be 10 / 64.
    assert wilcoxon([0] * 6 + [-1, -2, 3, 4, 5, 6]) == pytest.approx(0.25, abs=0.02)
    assert wilcoxon([-1, -2, 3, 4, 5, 6]) == pytest.approx(10 / 64)


def test_compare_pairs_by_case_and_corrects_over_all_rows():
    ours, theirs = scores("a", [0.1, 0.2, 0.3, 0.4, 0.5]), scores("b", [0.2, 0.4, 0.6, 0.8, 1.0])
    rows = [*ours, *reversed(theirs)]
    rows += [replace(row, region="WT") for row in scores("a", [0.5] * 5) + scores("b", [0.5] * 5)]
    first, second = compare(rows, "dice")
    assert (first.first, first.second, first.region, first.n) == ("a", "b", "ET", 5)
    assert first.median_difference == pytest.approx(0.3)
    assert (first.p, first.p_holm) == (pytest.approx(1 / 16), pytest.approx(1 / 8))
    assert (second.region, second.p, second.p_holm) == ("WT", 1, 1)
    assert compare(ours, "dice") == ()
