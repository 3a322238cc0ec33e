"""A benchmark of tiny models on phantoms: right numbers, nothing computed twice, nothing lost, no change unnoticed."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.errors import BundleError, ConfigError, InputError
from m3ae_core.evaluation import registry
from m3ae_core.evaluation.benchmark import mean_dice, run
from m3ae_core.evaluation.conventions import BRATS_LEGACY, CONVENTIONS, RFNET_PP500
from m3ae_core.evaluation.metrics import dice_by_region, hd95_mm
from m3ae_core.evaluation.plan import hash_case
from m3ae_core.evaluation.registry import METRICS, Metric
from m3ae_core.evaluation.results import PAPER_ROWS, Results, table_order
from m3ae_core.evaluation.slices import read_slices
from m3ae_core.evaluation.statistics import reliability
from m3ae_core.evaluation.store import load_results, measurement_file, scheme_of, slices_file
from m3ae_core.events import CaseMeasured, Progress
from m3ae_core.inference import device
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import Case, find_cases, read_case, read_case_labels
from m3ae_core.io.volume import read_labels, read_volume, write_image, write_labels
from m3ae_core.modalities import BRATS, ModalitySet
from m3ae_core.regions import BRATS_2023, MSD, REGIONS, LabelScheme, encode
from tiny import RECIPE, random_bundle, with_substitute, write_cases

REAL_PREDICT = Predictor.predict


def quick_predict(
    self: Predictor, case: Case, scheme: LabelScheme = BRATS_2023, shared: object = None
) -> SimpleNamespace:
    """Stand-in for the network: brightness thresholds that shift with the substitute wherever sequences are missing."""
    image = np.mean([volume.data for volume in case.volumes.values()], axis=0)
    shift = 100 * float(self.bundle.model.substitute.std()) * len(case.subset.missing) / 4
    labels = np.zeros(case.shape, np.uint8)
    for value, level in ((2, 450), (1, 550), (3, 650)):
        labels[image > level + shift] = value
    return SimpleNamespace(labels=labels)


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """What is tested here is what happens to predictions; tests/cli runs a benchmark of a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "predict", quick_predict)
        yield


def saved(folder: Path, bundle: Bundle, **card) -> Bundle:
    return load_bundle(save_bundle(replace(bundle, card={"name": "random", **card}), folder))


def finish(*arguments, **settings) -> Results:
    *_, results = run(*arguments, device="cpu", **settings)
    return results


def measured(events) -> list[CaseMeasured]:
    return [event for event in events if isinstance(event, CaseMeasured)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return saved(tmp_path_factory.mktemp("model"), random_bundle())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, bundle) -> tuple[Path, Results]:
    """A folder of two cases, and the results of benchmarking one model on them; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_cases(folder / "cases", 2)
    return folder / "cases", finish([bundle], find_cases(folder / "cases"), folder / "out")


@pytest.fixture
def place(tmp_path, finished) -> tuple[tuple, Path]:
    """Two cases and a finished benchmark of them, free to be changed."""
    cases, results = finished
    for source, name in ((cases, "cases"), (results.folder, "out")):
        for path, content in contents(source).items():
            target = tmp_path / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return find_cases(tmp_path / "cases"), tmp_path / "out"


def test_every_case_subset_and_region_once_under_each_convention(finished):
    _, results = finished
    for convention in CONVENTIONS:
        scores = results.scores(convention)
        places = {(score.case, score.subset, score.region) for score in scores}
        assert len(places) == len(scores) == 2 * 15 * 3
        assert {score.convention for score in scores} == {convention.name}


def test_the_scores_are_those_of_the_masks_a_user_gets(finished, bundle):
    cases, results = finished
    files = find_cases(cases)[0]
    case = read_case(files)
    reference = read_case_labels(files, case)
    labels = Predictor(bundle, "cpu").predict(case.only("FLAIR", "T2")).labels
    dice = dice_by_region(labels, reference.data, BRATS_2023)
    masks = zip(REGIONS, encode(labels, BRATS_2023), encode(reference.data, BRATS_2023), strict=True)
    hd95 = {region.name: hd95_mm(ours, theirs, (4, 4, 4)) for region, ours, theirs in masks}
    found = {
        score.region: score
        for score in results.scores(BRATS_LEGACY)
        if (score.case, score.subset) == (files.name, "FLAIR+T2")
    }
    assert {region: score.values["dice"] for region, score in found.items()} == pytest.approx(dice)
    assert {region: score.values["hd95_mm"] for region, score in found.items()} == pytest.approx(hd95)
    assert found["WT"].reference_voxels == np.count_nonzero(reference.data)
    assert found["WT"].bundle_sha256 == bundle.sha256
    assert found["WT"].case_sha256 == hash_case(files)
    slices = read_slices(slices_file(results.folder, bundle.fingerprint, files.name))
    assert np.count_nonzero(slices.reference) == np.count_nonzero(reference.data, axis=(0, 1)).max()
    assert (slices.predictions["FLAIR+T2"] > 0).any()


def test_events_come_case_by_case_and_each_case_is_safe_when_its_event_comes(tmp_path, bundle):
    write_cases(tmp_path / "cases", 2)
    events = run([bundle], find_cases(tmp_path / "cases"), tmp_path / "out", device="cpu")
    seen = []
    for event in events:
        seen.append(type(event))
        if isinstance(event, CaseMeasured):
            assert measurement_file(tmp_path / "out", bundle.fingerprint, event.case).is_file()
            assert event.total == 2
            assert set(event.dice) == {"WT", "TC", "ET"}
    assert seen == [*([Progress] * 15 + [CaseMeasured]) * 2, Results]


@pytest.mark.parametrize("stop", [1, 16, 20])  # in the first case, after it, in the second
def test_stopped_and_resumed_gives_identical_files(tmp_path, finished, bundle, stop):
    cases, results = finished
    events = run([bundle], find_cases(cases), tmp_path, device="cpu")
    for _ in range(stop):
        next(events)
    events.close()
    assert not (tmp_path / "benchmark.json").exists()
    rest = list(run([bundle], find_cases(cases), tmp_path, device="cpu"))
    assert [event.reused for event in measured(rest)] == [stop >= 16, False]
    assert contents(tmp_path) == contents(results.folder)


def test_a_finished_benchmark_is_not_computed_again(place, bundle, monkeypatch):
    cases, out = place
    before = contents(out)

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(Predictor, "predict", refuse)
    assert all(event.reused for event in measured(run([bundle], cases, out, device="cpu")))
    assert contents(out) == before


def test_a_changed_case_is_noticed_and_measured_again(place, bundle):
    cases, out = place
    before = load_results(out)
    labels = read_labels(cases[1].labels)
    labels.data[labels.data == 3] = 1  # no enhancing tumour any more
    write_labels(cases[1].labels, labels.data, labels.affine)
    events = list(run([bundle], cases, out, device="cpu"))
    assert [event.reused for event in measured(events)] == [True, False]
    after = events[-1]
    assert after.record["case_list_sha256"] != before.record["case_list_sha256"]
    changed = [score for score in after.scores(BRATS_LEGACY) if score.case == cases[1].name]
    assert all(score.reference_empty == (score.region == "ET") for score in changed)
    enhancing = [score for score in changed if score.region == "ET" and not score.predicted_empty]
    assert enhancing
    assert all(score.values["dice"] == 0 and score.values["hd95_mm"] > 100 for score in enhancing)


def test_another_label_scheme_is_another_measurement(place, bundle):
    cases, out = place
    events = run([bundle], cases, out, scheme=MSD, device="cpu")
    assert not measured(islice(events, 16))[0].reused
    with pytest.raises(InputError):  # stopped there, the folder holds neither the old results nor the new
        load_results(out)


def test_a_case_of_two_patients_is_refused_before_it_is_measured(place, bundle):
    cases, out = place
    volume = read_volume(cases[0].images["T2"])
    write_image(cases[0].images["T2"], np.roll(volume.data, 12, axis=0), volume.affine)
    events = run([bundle], cases, out, device="cpu")
    with pytest.raises(InputError) as caught:
        next(events)
    assert caught.value.code == "two-patients"


def test_a_scheme_of_ones_own_is_kept_and_another_of_its_name_is_another_measurement(place, bundle):
    cases, out = place
    own, other = LabelScheme("ours", BRATS_2023.values), LabelScheme("ours", MSD.values)
    results = finish([bundle], cases, out, scheme=own)
    assert load_results(out).measurements == results.measurements
    assert dict(scheme_of(results.record, cases[0].name).values) == dict(own.values)
    assert [event.reused for event in measured(run([bundle], cases, out, scheme=own, device="cpu"))] == [
        True
    ] * 2
    again = run([bundle], cases, out, schemes={cases[0].name: other}, scheme=own, device="cpu")
    assert [event.reused for event in measured(again)] == [False, True]
    assert dict(scheme_of(load_results(out).record, cases[0].name).values) == dict(other.values)


def test_figures_are_of_float32_unless_told_and_another_arithmetic_is_another_measurement(
    place, bundle, monkeypatch
):
    cases, out = place
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: True)
    used = []
    monkeypatch.setattr(
        Predictor, "predict", lambda self, *given: used.append(self.precision) or quick_predict(self, *given)
    )
    assert load_results(out).record["arithmetic"] == "float32"
    finish([bundle], cases, out.parent / "new")
    assert {*used} == {torch.float32}
    events = list(run([bundle], cases, out, device="cpu", arithmetic="bfloat16"))
    assert [event.reused for event in measured(events)] == [False, False]
    assert used[-1] == torch.bfloat16
    assert load_results(out).record["arithmetic"] == "bfloat16"


@pytest.mark.parametrize("damage", ["cut", "gone", "no slices"])
def test_a_damaged_measurement_is_taken_again(place, bundle, damage):
    cases, out = place
    before = contents(out)
    file_of = slices_file if damage == "no slices" else measurement_file
    path = file_of(out, bundle.fingerprint, cases[0].name)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    if damage != "no slices":
        with pytest.raises(InputError):
            load_results(out)
    assert [e.reused for e in measured(run([bundle], cases, out, device="cpu"))] == [False, True]
    assert contents(out) == before


def test_an_unfinished_folder_holds_no_results(tmp_path):
    with pytest.raises(InputError) as caught:
        load_results(tmp_path)
    assert caught.value.code == "no-benchmark"


def test_models_are_told_apart_by_all_that_decides_about_their_answers(tmp_path, place, bundle):
    """Same name, same weights, another substitute: another model, measured beside the first one."""
    cases, out = place
    other = saved(
        tmp_path / "other", with_substitute(random_bundle(), torch.zeros_like(bundle.model.substitute))
    )
    assert other.sha256 == bundle.sha256
    events = list(run([bundle, other], cases, out, device="cpu"))
    assert [event.reused for event in measured(events)] == [True, False, True, False]
    results = events[-1]
    labels = [model.label for model in results.models]
    assert labels == [f"random ({b.fingerprint[:8]})" for b in (bundle, other)]
    scores = {(s.bundle, s.case, s.subset, s.region): s.values["dice"] for s in results.scores(BRATS_LEGACY)}
    assert len(scores) == 2 * 2 * 45
    case = cases[0].name
    full = str(BRATS.full)  # nothing is substituted there
    assert scores[labels[0], case, full, "WT"] == scores[labels[1], case, full, "WT"]
    assert scores[labels[0], case, "T2", "WT"] != scores[labels[1], case, "T2", "WT"]


def test_bundles_that_do_not_go_together(tmp_path, finished, bundle):
    cases = find_cases(finished[0])
    two = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"modalities": ("T1", "T2")})})
    other = saved(tmp_path / "two", random_bundle(two))
    for bundles, code in (
        ([bundle, other], "bundles-differ"),
        ([bundle] * 2, "bundle-repeats"),
        ([], "arguments"),
    ):
        with pytest.raises(ConfigError) as caught:
            next(run(bundles, cases, tmp_path / "out"))
        assert caught.value.code == code
    with pytest.raises(BundleError):
        next(run([random_bundle()], cases, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lacking", ["T1c", "label map"])
def test_incomplete_cases_are_refused_before_anything_is_computed(place, bundle, tmp_path, lacking):
    cases, _ = place
    (cases[1].labels if lacking == "label map" else cases[1].images[lacking]).unlink()
    with pytest.raises(InputError) as caught:
        next(run([bundle], find_cases(tmp_path / "cases"), tmp_path / "new"))
    assert caught.value.code == "incomplete-case"
    assert cases[1].name in str(caught.value)
    assert lacking in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_two_cases_of_one_name_are_refused(finished, bundle, tmp_path):
    cases = find_cases(finished[0])
    with pytest.raises(InputError) as caught:
        next(run([bundle], [cases[0], replace(cases[1], name=cases[0].name)], tmp_path))
    assert caught.value.code == "case-repeats"


def test_any_modality_set(tmp_path):
    two = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"modalities": ("T2", "T1")})})
    bundle = saved(tmp_path / "two", random_bundle(two))
    write_cases(tmp_path / "cases", 1)
    results = finish([bundle], find_cases(tmp_path / "cases", bundle.config.modality_set), tmp_path / "out")
    assert [str(subset) for subset in results.subsets] == ["T1", "T2", "T1+T2"]
    assert set(reliability(results, bundle)) == {"T1", "T2", "T1+T2"}


def test_models_over_one_set_of_modalities_are_compared_whatever_their_order(tmp_path):
    write_cases(tmp_path / "cases", 1)
    bundles = []
    for names in (("T2", "T1"), ("T1", "T2")):
        config = RECIPE.model.model_copy(update={"modalities": names})
        recipe = RECIPE.model_copy(update={"model": config})
        bundles.append(saved(tmp_path / "".join(names), random_bundle(recipe), name="-".join(names)))
    cases = find_cases(tmp_path / "cases", bundles[0].config.modality_set)
    results = finish(bundles, cases, tmp_path / "out")
    scores = results.scores(BRATS_LEGACY)
    found = {(score.bundle, frozenset(score.subset.split("+")), score.region) for score in scores}
    assert len(found) == len(scores) == 2 * 3 * 3
    for bundle in bundles:
        assert {frozenset(name.split("+")) for name in reliability(results, bundle)} == {
            frozenset(subset.present) for subset in bundle.config.modality_set.subsets()
        }


def test_tables_have_the_papers_rows_for_its_sequences_in_any_order():
    other = ModalitySet.named(("T1", "T1c", "T2", "FLAIR"))
    for modalities in (BRATS, other):
        rows = table_order(modalities)
        assert [frozenset(row.present) for row in rows] == [frozenset(row.split("+")) for row in PAPER_ROWS]
    assert set(table_order(BRATS)) == set(BRATS.subsets())


def test_the_order_of_channels_does_not_matter(tmp_path, finished):
    """A model with other channel order gives rows of the same names, and so does its card."""
    names = ("T1", "T1c", "T2", "FLAIR")
    recipe = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"modalities": names})})
    bundle = saved(tmp_path / "other", random_bundle(recipe))
    results = finish([bundle], find_cases(finished[0])[:1], tmp_path / "out")
    assert results.modalities == BRATS.names
    assert {score.subset for score in results.scores(BRATS_LEGACY)} == {str(s) for s in BRATS.subsets()}
    card = reliability(results, bundle)
    assert set(card) == {str(subset) for subset in bundle.config.modality_set.subsets()}
    assert "FLAIR+T2" in card


def test_reliability_is_what_a_prediction_quotes(finished, bundle):
    cases, results = finished
    card = reliability(results, bundle)
    values = [s.values["dice"] for s in results.scores(BRATS_LEGACY) if (s.subset, s.region) == ("T1c", "TC")]
    low, high = sorted(values)
    assert card["T1c"]["TC"] == {
        "median": round((low + high) / 2, 3),
        "q1": round(low + (high - low) / 4, 3),
        "q3": round(low + 3 * (high - low) / 4, 3),
        "n": 2,
    }
    case = read_case(find_cases(cases)[0]).only("T1c")
    prediction = REAL_PREDICT(Predictor(replace(bundle, card={"reliability": card}), "cpu"), case)
    assert prediction.provenance["reliability"] == card["T1c"]


def test_reliability_belongs_to_the_very_bundle(finished, tmp_path):
    other = saved(tmp_path, random_bundle(seed=1))
    with pytest.raises(InputError) as caught:
        reliability(finished[1], other)
    assert caught.value.code == "other-bundle"


def test_mean_dice_counts_empty_pairs_as_agreement(finished):
    measurement = finished[1].measurements[0]
    nothing = replace(measurement.overlaps["T2"]["ET"], predicted=0, reference=0, shared=0)
    overlaps = {"T2": {"ET": nothing}, "T1": {"ET": replace(nothing, predicted=5)}}
    assert mean_dice(replace(measurement, overlaps=overlaps)) == {"ET": 0.5}


EMPTY = {"both_empty": 1.0, "undefined": 0.0}
SENSITIVITY = Metric(
    name="sensitivity",
    title="Sensitivity",
    from_counts=lambda _, reference, shared: shared / reference,
    **EMPTY,
)
VOLUME = Metric(
    name="volume",
    title="Volume",
    from_masks=lambda ours, theirs, mm: float(ours.sum() * np.prod(mm)),
    **EMPTY,
)


@pytest.mark.parametrize(("metric", "again"), [(SENSITIVITY, False), (VOLUME, True)])
def test_a_new_metric_is_computed_again_only_where_counts_are_not_enough(
    place, bundle, monkeypatch, metric, again
):
    cases, out = place
    before = load_results(out)
    monkeypatch.setattr(registry, "METRICS", (*METRICS, metric))
    events = list(run([bundle], cases, out, device="cpu"))
    assert [event.reused for event in measured(events)] == [not again] * 2
    legacy = events[-1].conventions[0]
    for old, new in zip(before.scores(BRATS_LEGACY), events[-1].scores(legacy), strict=True):
        assert old.values.items() < new.values.items()
        expected = new.predicted_voxels * 64
        if metric is SENSITIVITY:  # from the definition of Dice
            shared = new.values["dice"] * (new.predicted_voxels + new.reference_voxels) / 2
            expected = shared / new.reference_voxels
        assert new.values[metric.name] == pytest.approx(expected)
    monkeypatch.undo()
    with pytest.raises(InputError) as caught:
        load_results(out)
    assert caught.value.code == "no-metric"
    assert metric.name in str(caught.value)


def test_results_of_the_first_version_are_read(place):
    _, out = place
    before = load_results(out)
    for path in (out / "measurements").rglob("*.json"):
        content = json.loads(path.read_text("utf-8"))
        for own in (own for regions in content["overlaps"].values() for own in regions.values()):
            total, shared = own["predicted"] + own["reference"], own.pop("shared")
            own |= {"dice": 2 * shared / total if total else None, **own.pop("measured")}
        path.write_text(json.dumps(content))
    index = json.loads((out / "benchmark.json").read_text("utf-8"))
    del index["metrics"]
    (out / "benchmark.json").write_text(json.dumps(index))
    after = load_results(out)
    assert after.measurements == before.measurements
    assert after.metrics == before.metrics


def test_pp500_changes_enhancing_tumour_alone(finished):
    _, results = finished
    for plain, removed in zip(results.scores(BRATS_LEGACY), results.scores(RFNET_PP500), strict=True):
        small = plain.region == "ET" and plain.predicted_voxels * 64 < 500
        assert removed.predicted_empty == (plain.predicted_empty or small)
        assert (removed.values["dice"] == plain.values["dice"]) or small
        assert "hd95_mm" not in removed.values


def test_a_cases_hash_is_that_of_its_content(place):
    (first, second), _ = place
    assert hash_case(first) != hash_case(second)
    moved = {name: path.rename(path.with_name(f"renamed-{path.name}")) for name, path in first.images.items()}
    before = hash_case(replace(first, images=moved))
    swapped = {**moved, "T1": moved["T2"], "T2": moved["T1"]}
    assert hash_case(replace(first, images=swapped)) != before
    with pytest.raises(InputError):
        hash_case(first)
