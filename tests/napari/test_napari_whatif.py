"""`WhatIf` on a viewer without a window, with a predictor whose results and their Dice are known by hand.

From k sequences it paints k of 4 slabs of every tissue: against the result from n the Dice of each region is
2k / (n + k).
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from opened import open_case

from m3ae_core.bundle import save_bundle
from m3ae_core.data.phantom import write_phantom
from m3ae_core.modalities import BRATS, Subset
from m3ae_core.regions import BRATS_2023
from napari_m3ae import layers
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.session import Session
from napari_m3ae.state import BUILTIN, Model
from napari_m3ae.whatif import WhatIf
from tiny import random_bundle

REGIONS = ("WT", "TC", "ET")
#: One slab of all three tissues: 3 times 4 voxels of 4 mm.
SLAB_ML = 3 * 4 * 0.064


@pytest.fixture
def predictor(predictor):
    """The predictor of all tests, with what else a sweep asks for; it gives probabilities too."""
    run = predictor.run

    def run_in_scheme(case, scheme=BRATS_2023, shared=None, *, check=False, same_patient=False):
        assert scheme == BRATS_2023
        for event in run(case):
            done = hasattr(event, "labels")
            yield replace(event, probabilities={"WT": np.zeros(case.shape, np.float32)}) if done else event

    predictor.run = run_in_scheme
    predictor.config = SimpleNamespace(modality_set=BRATS)
    return predictor


@pytest.fixture
def case(session, viewer, files) -> dict[str, Image]:
    return open_case(viewer, files)


@pytest.fixture
def whatif(session, case) -> WhatIf:
    return WhatIf(session)


@pytest.fixture
def other(tmp_path):
    """Another case, of another shape."""
    return write_phantom(tmp_path, "other", shape=(22, 24, 16), seed=1)


class LateRunner(InlineRunner):
    """Delivers everything after the job has ended; in between, `meanwhile` is done."""

    def __init__(self, meanwhile) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def start(self, events, on_event, on_end) -> None:
        brought = list(events)
        self.meanwhile()
        super().start(iter(brought), on_event, on_end)


def named(viewer: ViewerModel, beginning: str) -> list:
    return [layer for layer in viewer.layers if layer.name.startswith(beginning)]


def when(session: Session, condition, action) -> None:
    """Do something once, as soon as the progress of a job is such."""
    done = []

    def look(state):
        if not done and state.progress is not None and condition(state.progress):
            done.append(True)
            action()

    session.changed.connect(look)


def subset(*names: str) -> Subset:
    return BRATS.subset(names)


def after_three(progress) -> bool:
    return (progress.what, progress.done) == ("subsets", 3)


# --- comparing --------------------------------------------------------------------------------------


def test_comparison_shows_both_results_and_their_difference(whatif, viewer, predictor, session):
    whatif.compare_without(["T1", "T1c"])
    assert [c.subset.present for c in predictor.cases] == [BRATS.names, ("FLAIR", "T2")]
    (base,) = named(viewer, "M3AE segmentation")
    (second,) = named(viewer, "M3AE what if")
    (difference,) = named(viewer, "M3AE difference")
    assert base.name == "M3AE segmentation [FLAIR+T1+T1c+T2]"
    assert second.name == "M3AE what if [FLAIR+T2]"
    assert difference.name == "M3AE difference [FLAIR+T1+T1c+T2 → FLAIR+T2]"
    known = session.predictions
    np.testing.assert_array_equal(layers.to_volume(base).data, known[BRATS.full].labels)
    np.testing.assert_array_equal(layers.to_volume(second).data, known[subset("FLAIR", "T2")].labels)
    lost = layers.to_volume(difference).data
    np.testing.assert_array_equal(lost, (base.data != second.data).transpose(np.argsort((2, 1, 0))))
    assert np.count_nonzero(lost) == 2 * 3 * 4
    assert (second.visible, second.contour, difference.visible) == (False, 2, True)
    assert all(layers.made_here(layer) for layer in (second, difference))


def test_comparison_is_told_in_figures(whatif):
    heard = []
    whatif.changed.connect(lambda: heard.append(whatif.difference))
    whatif.compare_without(["T1", "T1c"])
    assert heard == [whatif.difference]
    assert whatif.compared == (BRATS.full, subset("FLAIR", "T2"))
    assert whatif.difference.dice == pytest.approx(dict.fromkeys(REGIONS, 2 / 3))
    assert whatif.difference.before_ml["WT"] == pytest.approx(4 * SLAB_ML)
    assert whatif.difference.after_ml["WT"] == pytest.approx(2 * SLAB_ML)


def test_changes_have_names_and_colours(whatif, viewer):
    whatif.compare_without(["T2"])
    (layer,) = named(viewer, "M3AE difference")
    assert dict(zip(layer.features["index"], layer.features["name"], strict=True)) == {
        0: "background",
        1: "lost",
        2: "gained",
        3: "other tissue",
    }
    red, cyan, orange = (layer.colormap.color_dict[number][:3] for number in (1, 2, 3))
    assert red.argmax() == 0
    assert cyan.argmin() == 0
    assert orange.argmin() == 2
    assert layer.colormap.color_dict[0][3] == 0


def test_nothing_is_computed_twice(whatif, session, predictor):
    session.run()
    whatif.compare_without(["T2"])
    assert len(predictor.cases) == 2
    whatif.compare_without(["T2"])
    whatif.compare_without(["T1"])
    assert [len(c.subset) for c in predictor.cases] == [4, 3, 3]
    session.use("T1", False)
    whatif.compare_without(["T2"])  # from FLAIR+T1c+T2, which is known
    assert [c.subset for c in predictor.cases[3:]] == [subset("FLAIR", "T1c")]
    assert whatif.compared == (subset("FLAIR", "T1c", "T2"), subset("FLAIR", "T1c"))
    assert whatif.difference.dice["ET"] == pytest.approx(4 / 5)


def test_model_that_lists_its_sequences_in_another_order_computes_nothing_twice(
    whatif, session, predictor, tmp_path
):
    session.use_model(Model("reversed", save_bundle(random_bundle(modalities=BRATS.names[::-1]), tmp_path)))
    for _ in range(2):
        whatif.compare_without(["T2"])
    assert len(predictor.cases) == 2
    assert whatif.cost() == "13 more runs"


def test_probabilities_are_kept_on_display_alone(whatif, session):
    whatif.compare_without(["T2"])
    assert session.shown.prediction.probabilities
    assert not any(prediction.probabilities for prediction in session.predictions.values())


@pytest.mark.parametrize("names", [[], ["FLAIR", "T1", "T1c", "T2"]])
def test_leaving_out_nothing_or_all_is_refused(whatif, predictor, told, names):
    whatif.compare_without(names)
    assert len(told) == 1
    assert "Leave out at least one" in told[0]
    assert not predictor.cases


def test_sequences_that_cannot_be_used_are_said(whatif, session, case, predictor, told):
    session.choose("T1c", case["T1"])
    whatif.compare_without(["T2"])
    whatif.sweep()
    assert [sentence.count("chosen for more than one sequence") for sentence in told] == [1, 1]
    assert not predictor.cases


def test_second_comparison_uses_the_layers_of_the_first(whatif, viewer):
    whatif.compare_without(["T1", "T1c"])
    (second,) = named(viewer, "M3AE what if")
    (difference,) = named(viewer, "M3AE difference")
    second.visible, second.contour = True, 0
    before = list(viewer.layers)
    whatif.compare_without(["T2"])
    assert list(viewer.layers) == before
    assert second.name == "M3AE what if [FLAIR+T1+T1c]"
    assert difference.name == "M3AE difference [FLAIR+T1+T1c+T2 → FLAIR+T1+T1c]"
    assert np.count_nonzero(difference.data) == 3 * 4
    assert (second.visible, second.contour) == (True, 0)


def test_deleted_layer_is_made_anew(whatif, viewer):
    whatif.compare_without(["T2"])
    viewer.layers.remove(named(viewer, "M3AE difference")[0])
    whatif.compare_without(["T2"])
    assert np.count_nonzero(named(viewer, "M3AE difference")[0].data) == 3 * 4


def test_edited_segmentation_is_left_alone(whatif, session, viewer):
    session.run()
    (base,) = named(viewer, "M3AE segmentation")
    base.data_setitem((np.array([0]), np.array([0]), np.array([0])), 3)
    edited = base.data.copy()
    whatif.compare_without(["T2"])
    whatif.sweep()
    assert named(viewer, "M3AE segmentation") == [base]
    np.testing.assert_array_equal(base.data, edited)


def test_edited_segmentation_of_fewer_sequences_is_left_alone_too(whatif, session, viewer):
    session.use("T1c", False)
    session.run()
    (edited,) = named(viewer, "M3AE segmentation")
    edited.data_setitem((np.array([0]), np.array([0]), np.array([0])), 3)
    session.use("T1c", True)
    whatif.compare_without(["T1c"])
    assert [layer.name for layer in named(viewer, "M3AE segmentation")] == [
        "M3AE segmentation [FLAIR+T1+T2]",
        "M3AE segmentation [FLAIR+T1+T1c+T2]",
    ]
    assert edited.data[0, 0, 0] == 3


def test_segmentation_of_another_case_does_not_stand_for_this_one(whatif, session, viewer, other):
    session.run()
    open_case(viewer, other)
    whatif.compare_without(["T2"])
    assert len(named(viewer, "M3AE segmentation")) == 2
    assert session.shown.case == "other"


def test_slice_with_a_difference_is_shown(whatif, session, viewer):
    session.run()
    (base,) = named(viewer, "M3AE segmentation")
    viewer.dims.set_point(0, base.data_to_world((1, 0, 0))[0])
    whatif.compare_without(["T2"])
    (layer,) = named(viewer, "M3AE difference")
    here = round(float(layer.world_to_data(viewer.dims.point)[0]))
    assert layer.data[here].any()


def test_untick_during_the_job_changes_nothing_of_it(whatif, session):
    when(session, lambda progress: progress.done == 2, lambda: session.use("T1", False))
    whatif.compare_without(["T2"])
    assert session.shown.prediction.subset == BRATS.full
    assert whatif.compared == (BRATS.full, subset("FLAIR", "T1", "T1c"))


# --- all subsets ------------------------------------------------------------------------------------


def test_sweep_says_how_each_subset_and_each_sequence_fares(whatif, predictor):
    whatif.sweep()
    assert len(predictor.cases) == 15
    assert [len(s) for s in whatif.dice] == [4] + 4 * [3] + 6 * [2] + 4 * [1]
    for present, dice in whatif.dice.items():
        k = len(present)
        assert dice == pytest.approx(dict.fromkeys(REGIONS, 2 * k / (4 + k)))
    assert whatif.shares == {region: pytest.approx(dict.fromkeys(BRATS.names, 0.25)) for region in REGIONS}


def test_agreement_counts_the_subsets(whatif, session, viewer):
    session.run()
    whatif.sweep()
    (layer,) = named(viewer, "M3AE agreement")
    assert layer.name == "M3AE agreement: tumour in n of 15 subsets"
    counts = layers.to_volume(layer).data
    assert counts[4:8, 5, 6].tolist() == [15, 11, 5, 1]  # subsets of at least 1, 2, 3 and 4 sequences
    assert np.count_nonzero(counts) == 4 * 3 * 4
    assert tuple(layer.contrast_limits) == (0, 15)
    assert layer.blending == "translucent"
    assert layer.colormap.map(0.0)[..., 3] == 0  # nothing hides the image where no subset finds tumour
    assert layer.colormap.map(1.0)[..., 3] == 1
    assert viewer.layers.index(layer) < viewer.layers.index(session.shown.layer)
    assert layer not in session.images


def test_sweep_of_fewer_sequences(whatif, session, predictor, viewer):
    whatif.sweep()
    (layer,) = named(viewer, "M3AE agreement")
    session.use("T1", False)
    whatif.sweep()
    assert len(predictor.cases) == 15
    assert len(whatif.dice) == 7
    assert whatif.dice[subset("T2")]["WT"] == pytest.approx(2 / 4)
    assert whatif.shares["ET"] == pytest.approx(dict.fromkeys(("FLAIR", "T1c", "T2"), 1 / 3))
    assert named(viewer, "M3AE agreement") == [layer]
    assert layer.name == "M3AE agreement: tumour in n of 7 subsets"
    assert tuple(layer.contrast_limits) == (0, 7)
    assert layer.data.max() == 7


def test_second_sweep_computes_nothing_and_uses_its_layer(whatif, session, predictor, viewer):
    whatif.compare_without(["T2"])
    whatif.sweep()
    assert len(predictor.cases) == 15
    before = list(viewer.layers)
    whatif.sweep()
    assert len(predictor.cases) == 15
    assert list(viewer.layers) == before
    assert not any(prediction.probabilities for prediction in session.predictions.values())


def test_cancelled_sweep_keeps_what_was_done(whatif, session, predictor, viewer):
    when(session, after_three, session.cancel)
    whatif.sweep()
    assert (len(session.predictions), len(predictor.cases)) == (3, 3)
    assert not whatif.dice
    assert not named(viewer, "M3AE")
    assert whatif.cost() == "12 more runs"
    whatif.sweep()
    assert len(predictor.cases) == 15
    assert len(whatif.dice) == 15


def test_error_in_a_sweep_is_said_and_what_was_done_is_kept(whatif, session, predictor, told):
    when(session, after_three, lambda: setattr(predictor, "error", RuntimeError("out of memory")))
    whatif.sweep()
    assert "out of memory" in told[0]
    assert len(session.predictions) == 3
    assert not whatif.dice
    assert session.state.can_run


@pytest.mark.parametrize("start", [WhatIf.sweep, lambda whatif: whatif.compare_without(["FLAIR"])])
def test_result_on_the_grid_of_another_sequence_is_computed_again(whatif, session, case, viewer, start):
    whole = layers.to_volume(case["T1"])
    session.choose(
        "T1", layers.add(viewer, layers.image_layer(replace(whole, data=whole.data[:-2]), "my T1"))
    )
    session.use("FLAIR", False)
    session.run()  # T1 comes first: the others are brought onto its grid
    assert {prediction.labels.shape for prediction in session.predictions.values()} == {(18, 24, 16)}
    session.use("FLAIR", True)
    start(whatif)
    assert {prediction.labels.shape for prediction in session.predictions.values()} == {(20, 24, 16)}
    assert whatif.dice or whatif.difference


def test_cost_in_words(whatif, session):
    assert whatif.cost() == "15 more runs"
    session.run()
    session.state = replace(session.state, seconds=6.0)
    assert whatif.cost() == "14 more runs, about 84 s"
    session.state = replace(session.state, seconds=90.0)
    assert whatif.cost() == "14 more runs, about 21 min"
    session.use("T2", False)
    assert whatif.cost() == "7 more runs, about 10 min"  # from all four sequences is no part of it
    session.use("T2", True)
    whatif.sweep()
    assert whatif.cost() == "All 15 combinations are computed"


def test_cost_of_one_run(whatif, session):
    for name in ("T1", "T1c", "T2"):
        session.use(name, False)
    assert whatif.present == ("FLAIR",)
    assert whatif.cost() == "1 more run"


# --- another subset on display ----------------------------------------------------------------------


def test_subsets_are_shown_in_one_layer(whatif, session, viewer):
    whatif.sweep()
    for chosen in (subset("T2"), subset("FLAIR", "T1c")):
        whatif.show_subset(chosen)
        (layer,) = named(viewer, "M3AE what if")
        assert layer.name == f"M3AE what if [{chosen}]"
        np.testing.assert_array_equal(layers.to_volume(layer).data, session.predictions[chosen].labels)
        assert layer.visible
        layer.visible = False


def test_subset_that_was_not_computed_is_not_shown(whatif, viewer):
    whatif.show_subset(subset("T2"))
    assert not named(viewer, "M3AE what if")


def test_what_the_model_said_cannot_be_painted_over(whatif, session, viewer):
    whatif.compare_without(["T2"])
    for _ in range(2):  # new layers, and the same again
        (layer,) = named(viewer, "M3AE what if")
        assert not layer.editable
        assert not named(viewer, "M3AE difference")[0].editable
        layer.data[...] = 1
        assert session.predictions[subset("FLAIR", "T1", "T1c")].labels.max() == 3
        whatif.compare_without(["T2"])


# --- another case -----------------------------------------------------------------------------------


def test_case_switched_in_a_sweep_shows_and_keeps_nothing(whatif, session, predictor, viewer, other):
    when(session, after_three, lambda: open_case(viewer, other))
    whatif.sweep()
    assert len(predictor.cases) <= 4  # the rest would be of use to nobody
    assert not named(viewer, "M3AE")
    assert not session.predictions
    assert not whatif.dice
    assert session.state.can_run


def test_case_switched_in_a_comparison_shows_nothing(whatif, session, viewer, other):
    when(session, lambda progress: progress.what == "comparing", lambda: open_case(viewer, other))
    whatif.compare_without(["T2"])
    assert not named(viewer, "M3AE")
    assert not session.predictions
    assert whatif.difference is None


@pytest.mark.parametrize("start", [WhatIf.sweep, lambda whatif: whatif.compare_without(["T2"])])
def test_result_that_comes_after_the_switch_is_not_shown(viewer, predictor, files, other, start):
    session = Session(viewer, LateRunner(lambda: open_case(viewer, other)), lambda _: predictor)
    open_case(viewer, files)
    whatif = WhatIf(session)
    start(whatif)
    assert predictor.cases
    assert not named(viewer, "M3AE")
    assert not session.predictions
    assert (whatif.dice, whatif.difference) == ({}, None)


def test_findings_of_a_former_case_are_dropped_and_their_layers_used_again(whatif, session, viewer, other):
    whatif.compare_without(["T2"])
    whatif.sweep()
    whatif.show_subset(subset("T2"))
    computed = [layer for layer in viewer.layers if layers.made_here(layer)]
    assert len(computed) == 3
    heard = []
    whatif.changed.connect(lambda: heard.append(True))
    images = open_case(viewer, other)
    assert heard
    assert (whatif.compared, whatif.difference, whatif.dice, whatif.shares) == (None, None, {}, {})
    assert not any(layer.visible for layer in computed)
    whatif.compare_without(["T2"])
    whatif.sweep()
    assert {layer for layer in viewer.layers if layers.made_here(layer)} == set(computed)
    assert [layer.visible for layer in computed] == [
        not layer.name.startswith("M3AE what if") for layer in computed
    ]
    for layer in computed:
        assert layer.data.shape == images["T1"].data.shape
        np.testing.assert_array_equal(layer.affine.affine_matrix, images["T1"].affine.affine_matrix)


def test_findings_of_a_former_model_are_dropped(whatif, session, predictor):
    whatif.compare_without(["T2"])
    session.use_model(BUILTIN)
    assert whatif.difference is None
    whatif.compare_without(["T2"])
    assert len(predictor.cases) == 4


# --- the part of the panel --------------------------------------------------------------------------


@pytest.fixture
def part(qtbot, session, case):
    from napari_m3ae.widgets.whatif import WhatIfPart

    part = WhatIfPart(session)
    qtbot.addWidget(part)
    session.changed.connect(part.render)
    return part


@pytest.mark.viewer
def test_buttons_work_where_they_make_sense(part, session):
    assert not part.compare_button.isEnabled()
    assert part.sweep_button.isEnabled()
    part.without.boxes["T1"].setChecked(True)
    assert part.compare_button.isEnabled()
    session.use("T1", False)  # ticked, but not there to be left out
    assert part.without.boxes["T1"].isHidden()
    assert not part.compare_button.isEnabled()
    for name in ("FLAIR", "T1c", "T2"):
        part.without.boxes[name].setChecked(True)
    assert not part.compare_button.isEnabled()
    part.without.boxes["T2"].setChecked(False)
    assert part.compare_button.isEnabled()
    during = []
    session.changed.connect(
        lambda state: during.append(
            (state.phase, part.compare_button.isEnabled(), part.sweep_button.isEnabled())
        )
    )
    session.run()
    assert ("running", False, False) in during
    assert {row[1:] for row in during if row[0] == "running"} == {(False, False)}
    assert part.compare_button.isEnabled()
    for name in ("FLAIR", "T1c"):
        session.use(name, False)
    assert not part.sweep_button.isEnabled()
    assert part.cost.text() == "At least two sequences are needed."


@pytest.mark.viewer
def test_comparison_is_a_table(part):
    assert part.comparison.isHidden()
    part.without.boxes["T1"].setChecked(True)
    part.without.boxes["T1c"].setChecked(True)
    part.compare_button.click()
    assert not part.comparison.isHidden()
    assert part.compared.text() == "FLAIR+T1+T1c+T2 → FLAIR+T2"
    assert part.comparison.rows == [
        ("WT", "0.67", "3.1 → 1.5 (-50 %)"),
        ("TC", "0.67", "2.0 → 1.0 (-50 %)"),
        ("ET", "0.67", "1.0 → 0.5 (-50 %)"),
    ]


@pytest.mark.viewer
def test_volume_that_appears_has_no_percentage(part):
    from napari_m3ae.widgets.whatif import _change

    assert _change(0.0, 1.26) == "0.0 → 1.3"


@pytest.mark.viewer
def test_sweep_fills_tables_whose_rows_can_be_shown(part, viewer, session):
    assert part.cost.text() == "15 more runs."
    assert part.subsets.isHidden()
    part.sweep_button.click()
    assert part.cost.text() == "All 15 combinations are computed."
    assert part.agreement.text() == (
        "Agreement: in how many of the 15 combinations a voxel is called tumour."
    )
    assert part.shares.rows == [(name, "+0.25", "+0.25", "+0.25") for name in BRATS.names]
    assert part.subsets.rows[0] == ("FLAIR+T1+T1c+T2", "1.00", "1.00", "1.00")
    row = [cells[0] for cells in part.subsets.rows].index("T1c+T2")
    part.subsets.cellClicked.emit(row, 0)
    (layer,) = named(viewer, "M3AE what if")
    assert layer.name == "M3AE what if [T1c+T2]"
    session.use_model(BUILTIN)
    assert part.subsets.isHidden()
    assert part.cost.text() == "15 more runs."
