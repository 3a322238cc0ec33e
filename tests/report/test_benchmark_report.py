"""A benchmark's report: tables in the layout of the paper, data that can be read back, a page that stands alone."""

import base64
import csv
import io
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from m3ae_core import __version__, plugins
from m3ae_core.errors import ConfigError
from m3ae_core.evaluation import registry
from m3ae_core.evaluation.conventions import BRATS_LEGACY, CONVENTIONS
from m3ae_core.evaluation.registry import DICE, HD95, METRICS, Metric, Overlap, registered
from m3ae_core.evaluation.results import PAPER_ROWS, Measurement, Model, Results, table_order
from m3ae_core.evaluation.slices import Slices, write_slices
from m3ae_core.evaluation.statistics import average, compare, summaries
from m3ae_core.evaluation.store import slices_file
from m3ae_core.modalities import BRATS
from m3ae_core.report.benchmark import write_report
from m3ae_core.report.examples import example_cases
from m3ae_core.report.tables import Table, comparison_tables, score_table
from m3ae_core.report.template import render, tex
from paper import paper_tables

ROWS = table_order(BRATS)
MODELS = (Model("ours & <co>", "a" * 64, "1" * 64), Model("theirs_2", "b" * 64, "2" * 64))
CASES = ("good", "middling", "bad")


def measurement(model: Model, index: int, case: str) -> Measurement:
    """Made-up overlaps: worse from case to case, the second model better; nothing enhancing in the bad case."""
    overlaps = {}
    for row, subset in enumerate(ROWS):
        dice = 0.9 - 0.25 * index - 0.01 * row + (0.05 if model is MODELS[1] else 0)
        of_masks = {"lesion_dice": dice, "hd95_mm": 5.0 + index}
        found = Overlap(900, 1100, round(1000 * dice), 1.0, 373.12866, of_masks)
        gone = replace(found, reference=0, shared=0, measured={"lesion_dice": 0.0, "hd95_mm": None})
        overlaps[str(subset)] = {"WT": found, "TC": found, "ET": gone if case == "bad" else found}
    key = {"bundle_sha256": model.sha256, "fingerprint": model.fingerprint, "case": case}
    return Measurement({**key, "case_sha256": "c" * 64, "code_version": __version__}, "cpu", overlaps)


def made_up(folder: Path, models: tuple[Model, ...]) -> Results:
    record = {
        "notice": "Research use only.",
        "made_by": {"napari-m3ae": __version__},
        "bundles": [asdict(model) for model in models],
        "scheme": "brats2023",
        "conventions": {convention.name: convention.description for convention in CONVENTIONS},
        "arithmetic": "float32",
        "devices": ["cpu"],
        "case_list_sha256": "d" * 64,
        "cases": [{"name": case, "sha256": "c" * 64} for case in CASES],
        "versions": {"python": "3"},
    }
    image = np.zeros((20, 16), np.uint8)
    image[2:18, 2:14] = np.arange(12) * 20
    labels = np.zeros((20, 16), np.uint8)
    labels[5:9, 5:9] = 3
    slices = Slices(dict.fromkeys(BRATS.names, image), labels, {str(subset): labels for subset in ROWS})
    for model in models:
        for case in CASES:
            path = slices_file(folder, model.fingerprint, case)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_slices(path, slices)
    measurements = tuple(measurement(m, i, case) for i, case in enumerate(CASES) for m in models)
    return Results(folder, record, models, BRATS.names, ("WT", "TC", "ET"), measurements)


def written(table: Table, ending: str) -> str:
    return render(f"table.{ending}", table=table)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    made = made_up(tmp_path_factory.mktemp("two"), MODELS)
    write_report(made)
    return made


@pytest.mark.parametrize(
    ("name", "expected"),
    [("BraTS2018 (Table 1)", "85.8 77.4 59.9"), ("BraTS2020 (Table S3)", "86.9 79.1 61.7")],
)
def test_the_papers_tables_come_out_as_the_paper_prints_them(name, expected):
    table = score_table(paper_tables()[name], ROWS, DICE, name)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in written(table, "md").splitlines()
    ]
    assert lines[0] == ["FLAIR", "T1", "T1c", "T2", "WT", "TC", "ET"]
    present = [
        frozenset(n for n, dot in zip(BRATS.names, line, strict=False) if dot == "●") for line in lines[2:-1]
    ]
    assert present == [frozenset(row.split("+")) for row in PAPER_ROWS]
    assert lines[-1] == ["**Average**", "", "", "", *(f"**{mean}**" for mean in expected.split())]
    if "2020" in name:
        assert lines[2][4:] == ["86.1 ± 8.5", "71.8 ± 21.4", "47.1 ± 26.8"]
        assert "n = 100" in table.title
    else:
        assert lines[2][4:] == ["84.8", "69.4", "47.6"]
    assert all(mean in written(table, "tex").splitlines()[-4] for mean in expected.split())
    assert all(f"<td>{mean}</td>" in written(table, "html") for mean in expected.split())


def test_models_stand_side_by_side(results):
    table = score_table(summaries(results.scores(BRATS_LEGACY), "hd95_mm"), ROWS, HD95, "brats_legacy")
    assert table.columns[:2] == ("WT, ours & <co>", "WT, theirs_2")
    assert table.columns[4:] == ("ET, ours & <co>", "ET, theirs_2")
    assert table.rows[0][1][0] == "6.0 ± 1.0"
    assert (
        table.last[1][4] == f"{(5 + 6 + 373.12866) / 3:.1f}"
    )  # the empty reference counts, it is not dropped


def test_differences_between_models(results):
    tests = compare(results.scores(BRATS_LEGACY), "dice")
    (table,) = comparison_tables(tests, ROWS, DICE, "brats_legacy")
    assert "theirs_2 minus ours & <co>" in table.title
    assert table.columns == ("WT", "TC", "ET")
    assert {texts[0] for _, texts in table.rows} == {"+5.0 (1.000)"}  # three pairs: p = 0.25, times 45


def test_latex_has_as_many_cells_in_every_line(results):
    text = (results.folder / "tables.tex").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    counts = {len(re.findall(r"(?<!\\)&", line)) for line in lines}
    assert counts == {
        4 + 6 - 1,
        6,
        4 + 3 - 1,
    }  # scores; their last row, whose first cell spans four; comparisons
    assert r"ours \& $<$co$>$" in text
    assert r"theirs\_2" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 16
    assert tex("50 % ± 1") == r"50 \% $\pm$ 1"


def test_scores_can_be_read_back(results):
    rows = list(csv.DictReader(io.StringIO((results.folder / "scores.csv").read_text("utf-8"))))
    assert len(rows) == 2 * 3 * 45 * 4
    assert list(rows[0])[2:8] == ["case", "subset", "region", "convention", "dice", "hd95_mm"]
    bad = [row for row in rows if row["case"] == "bad" and row["region"] == "ET" and row["subset"] == "T2"]
    found = {row["convention"]: (row["dice"], row["hd95_mm"]) for row in bad}
    assert found == {
        "brats_legacy": ("0.0", "373.12866"),
        "m3ae_paper": ("0.0", "0.0"),
        "rfnet_pp500": ("0.0", ""),
        "brats_lesions": ("0.0", ""),
    }
    assert {row["reference_empty"] for row in bad} == {"True"}
    dice = [float(row["dice"]) for row in rows if row["bundle"] == "theirs_2" and row["region"] == "WT"]
    mean = average(summaries(results.scores(BRATS_LEGACY), "dice"), "theirs_2", "WT")
    assert np.mean(dice) == pytest.approx(mean)


def test_statistics_are_data(results):
    data = json.loads((results.folder / "statistics.json").read_text("utf-8"))
    assert len(data["summaries"]) == 2 * 45 * 6  # two metrics under two conventions, one under the others
    assert len(data["comparisons"]) == 45 * 6
    assert data["provenance"]["case_list_sha256"] == "d" * 64
    assert "Pratt" in data["test"]


def test_every_file_tells_where_its_figures_come_from(results):
    for path in [path for path in results.folder.iterdir() if path.is_file()]:
        text = path.read_text("utf-8")
        names = [convention.name for convention in CONVENTIONS]
        names += [name.replace("_", r"\_") for name in names] if path.suffix == ".tex" else []
        for wanted in (*names, "a" * 64, "b" * 64, "d" * 64, __version__, "cpu"):
            assert wanted in text, (path.name, wanted)


def test_the_page_needs_nothing_from_outside(results):
    text = (results.folder / "report.html").read_text("utf-8")
    sources = re.findall(r'(?:src|href|srcset|data|action)\s*=\s*["\']([^"\']*)', text)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?:|//\w|@import|url\(|<script|<link", re.sub(r"base64,[^\"]*", "", text))
    assert "ours &amp; &lt;co&gt;" in text
    assert "<co>" not in text


def test_the_pages_pictures_show_something(results):
    from matplotlib.image import imread

    text = (results.folder / "report.html").read_text("utf-8")
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 2 + 2 * 2  # Dice and HD95; two cases with two models
    for picture in pictures:
        image = imread(io.BytesIO(base64.b64decode(picture)))[..., :3]
        assert image.std() > 0.05
        columns = np.array_split(image, 4, axis=1)
        assert all(column.std() > 0.02 for column in columns)


def test_the_cases_shown_are_the_median_one_and_the_worst(results):
    assert example_cases(results.scores(BRATS_LEGACY), DICE) == {
        "Typical case": "middling",
        "Worst case": "bad",
    }


def test_one_model_is_compared_with_none(tmp_path):
    made = made_up(tmp_path, MODELS[:1])
    paths = write_report(made)
    assert all(path.is_file() for path in paths)
    assert "Wilcoxon" not in (tmp_path / "report.html").read_text("utf-8")
    assert "Wilcoxon" not in (tmp_path / "tables.md").read_text("utf-8")


VOLUME = Metric(
    name="volume_difference",
    title="Volume difference",
    from_counts=lambda ours, theirs, _: abs(ours - theirs) / theirs if theirs else None,
    unit="%",
    factor=100,
    better="lower",
    both_empty=0.0,
    undefined=1.0,
)


@pytest.fixture
def offered():
    """Offer metrics as an outside package does, until the test is over."""
    manager = plugins.plugin_manager()

    def offer(**metrics):
        manager.register({"m3ae_metrics": lambda: metrics}, name="outside")

    yield offer
    manager.unregister("outside")


@pytest.mark.parametrize("way", ["entry", "plugin"])
def test_a_new_metric_is_in_every_file_and_nothing_else_is_touched(tmp_path, monkeypatch, offered, way):
    if way == "entry":
        offered()
        monkeypatch.setattr(registry, "METRICS", (*METRICS, VOLUME))
    else:
        offered(volume_difference=VOLUME)
    write_report(replace(made_up(tmp_path, MODELS), metrics=registered()))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text("utf-8"))))
    assert list(rows[0])[5:9] == ["convention", "dice", "hd95_mm", "volume_difference"]
    found = {(row["case"], row["region"], row["convention"]): row["volume_difference"] for row in rows}
    assert found["good", "ET", "brats_legacy"] == str(200 / 1100)
    assert found["bad", "ET", "brats_legacy"] == "1.0"
    assert found["good", "ET", "m3ae_paper"] == ""
    for name in ("tables.md", "report.html"):
        text = (tmp_path / name).read_text("utf-8")
        assert "Volume difference in %, mean ± SD, n = 3 (brats_legacy)" in text
        assert "Volume difference, theirs_2 minus ours" in text
        assert "18.2 ± 0.0" in text
    assert r"\caption{Volume difference in \%, mean" in (tmp_path / "tables.tex").read_text("utf-8")
    assert text.count("<figcaption>Volume difference (brats_legacy), lower is better.") == 1
    assert text.count("<img") == 3 + 2 * 2
    data = json.loads((tmp_path / "statistics.json").read_text("utf-8"))
    assert sum(row["metric"] == "volume_difference" for row in data["summaries"]) == 2 * 45


@pytest.mark.parametrize("offer", [{"dice": DICE}, {"other": VOLUME}, {"volume_difference": abs}])
def test_a_metric_that_cannot_be_used_is_refused(offered, offer):
    offered(**offer)
    with pytest.raises(ConfigError) as caught:
        registered()
    assert caught.value.code == "plugins"
    assert repr(next(iter(offer))) in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"from_counts": max, "from_masks": max}])
def test_a_metric_is_measured_in_one_way(given):
    with pytest.raises(ConfigError):
        Metric(name="name", title="Title", both_empty=1.0, undefined=0.0, **given)


def test_the_worst_case_of_a_distance_is_the_largest(results):
    assert example_cases(results.scores(BRATS_LEGACY), HD95) == {
        "Typical case": "middling",
        "Worst case": "bad",
    }


def test_names_are_escaped_in_every_kind_of_table():
    table = Table("<t> & 50 %", ("T1",), ("a|<b>_",), (), ("A & B", ("1",)))
    assert r"a\|<b>_" in written(table, "md")
    assert r"a|$<$b$>$\_" in written(table, "tex")
    assert r"\caption{$<$t$>$ \& 50 \%}" in written(table, "tex")
    assert "<th>a|&lt;b&gt;_</th>" in written(table, "html")
    assert "<caption>&lt;t&gt; &amp; 50 %</caption>" in written(table, "html")


def test_without_jinja2(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match=r"napari-m3ae\[report\]"):
        write_report(made_up(tmp_path, MODELS[:1]))
    assert not [path for path in tmp_path.iterdir() if path.is_file()]
