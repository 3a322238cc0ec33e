"""Many cases: none stops the others, none is lost, none is computed twice, and nobody's edits are overwritten."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.data.preprocess import Standardiser
from m3ae_core.errors import InputError
from m3ae_core.events import CaseFailed, CaseSegmented
from m3ae_core.inference.cohort import Cohort, Reading, _read_ahead
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import find_cases, read_case, scan_cases
from m3ae_core.io.sidecar import sidecar_of
from m3ae_core.io.volume import read_labels, read_volume, write_image, write_labels
from m3ae_core.regions import BRATS_2021, BRATS_2023, MSD, LabelScheme
from m3ae_core.seal import record_is_whole, sealed
from tiny import random_bundle, write_cases


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    return Predictor(load_bundle(save_bundle(random_bundle(), folder)), "cpu")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_cases(tmp_path / "cases", 3)
    (tmp_path / "cases" / "case-1" / "case-1-t1c.nii.gz").unlink()
    (tmp_path / "out").mkdir()
    for file in (tmp_path / "cases").rglob("*.nii.gz"):
        os.utime(file, (1e9, 1e9))
    return tmp_path


def run(cohort: Cohort, place: Path) -> list[CaseSegmented | CaseFailed]:
    cases, unusable = scan_cases(place / "cases")
    return list(cohort.run(cases, unusable))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize("readers", [1, 2, 5])
def test_every_case_is_segmented_as_if_alone(predictor, place, readers):
    events = run(Cohort(predictor, place / "out", readers=readers), place)
    assert events == [
        CaseSegmented("case-0", 1, 3, "FLAIR+T1+T1c+T2", False),
        CaseSegmented("case-1", 2, 3, "FLAIR+T1+T2", False),
        CaseSegmented("case-2", 3, 3, "FLAIR+T1+T1c+T2", False),
    ]
    for files in find_cases(place / "cases"):
        alone = predictor.predict(read_case(files))
        path = place / "out" / f"{files.name}-m3ae.nii.gz"
        np.testing.assert_array_equal(read_labels(path).data, alone.labels)
        record, expected = json.loads(sidecar_of(path).read_text()), json.loads(json.dumps(alone.provenance))
        assert record["labels"].pop("sha256") == read_labels(path).sha256
        assert record_is_whole(json.loads(sidecar_of(path).read_text()))
        del record["content_sha256"]
        assert record.pop("files_unused") == {}
        assert {**record, "made_at": ""} == {**expected, "made_at": ""}


def test_what_must_be_known_of_a_case_is_told_with_it(predictor, place):
    image = place / "cases" / "case-0" / "case-0-t1n.nii.gz"
    volume = read_volume(image)
    write_image(image, volume.data - 1, volume.affine)
    first, second, _ = run(Cohort(predictor, place / "out"), place)
    assert first.warnings == ("T1: The background was -1 instead of 0; it was set to 0.",)
    assert second.warnings == ()
    assert json.loads((place / "out" / "case-0-m3ae.json").read_text())["warnings"] == list(first.warnings)
    again, *_ = run(Cohort(predictor, place / "out"), place)
    assert (again.reused, again.warnings) == (True, first.warnings)


def test_files_that_were_left_out_are_named(predictor, place):
    shutil.copy(place / "cases/case-0/case-0-t2w.nii.gz", place / "cases/case-0/case-0-adc.nii.gz")
    run(Cohort(predictor, place / "out"), place)
    record = json.loads((place / "out" / "case-0-m3ae.json").read_text())
    assert list(record["files_unused"]) == ["case-0-adc.nii.gz"]
    assert json.loads((place / "out" / "case-1-m3ae.json").read_text())["files_unused"] == {}


def test_other_grids_are_resampled_and_said_or_refused(predictor, place):
    image = place / "cases" / "case-0" / "case-0-t1n.nii.gz"
    volume = read_volume(image)
    write_image(image, volume.data[:-3], volume.affine)
    (place / "strict").mkdir()
    first, *rest = run(Cohort(predictor, place / "strict", reading=Reading(same_grid=True)), place)
    assert first.error.code == "grids-differ"
    assert all(isinstance(event, CaseSegmented) for event in rest)
    first, *_ = run(Cohort(predictor, place / "out"), place)
    assert first.warnings == ("T1: resampled to the grid of FLAIR.",)


def test_a_bad_case_does_not_stop_the_others(predictor, place):
    bad = place / "cases" / "case-1" / "case-1-t2w.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-20])
    twice = place / "cases" / "case-9"
    shutil.copytree(place / "cases" / "case-2", twice)
    shutil.copy(twice / "case-2-t1n.nii.gz", twice / "case-2-t1.nii.gz")
    events = run(Cohort(predictor, place / "out"), place)
    assert [(type(event), event.case, event.done, event.total) for event in events] == [
        (CaseFailed, "case-9", 1, 4),
        (CaseSegmented, "case-0", 2, 4),
        (CaseFailed, "case-1", 3, 4),
        (CaseSegmented, "case-2", 4, 4),
    ]
    assert [event.error.code for event in events if isinstance(event, CaseFailed)] == [
        "ambiguous",
        "truncated",
    ]
    assert bad.name in str(events[2].error)
    assert sorted(contents(place / "out")) == [
        f"case-{n}-m3ae.{end}" for n in (0, 2) for end in ("json", "nii.gz")
    ]


def test_the_same_again_computes_nothing_and_changes_nothing(predictor, place, monkeypatch):
    run(Cohort(predictor, place / "out"), place)
    before = contents(place / "out")
    monkeypatch.setattr(Predictor, "predict", None)
    events = run(Cohort(predictor, place / "out"), place)
    assert [event.reused for event in events] == [True] * 3
    assert contents(place / "out") == before


def test_a_stopped_run_goes_on_where_it_was(predictor, place):
    cohort = Cohort(predictor, place / "out")
    events = cohort.run(find_cases(place / "cases"))
    first = next(events)
    events.close()
    assert first.case == "case-0"
    assert (place / "out" / "case-0-m3ae.json").exists()
    assert next(iter(run(cohort, place))).reused
    assert len(contents(place / "out")) == 6


def record_of(place: Path) -> tuple[Path, dict]:
    path = place / "out" / "case-0-m3ae.json"
    return path, json.loads(path.read_text())


def labels_of(place: Path) -> Path:
    return place / "out" / "case-0-m3ae.nii.gz"


def images_exchanged_with_times_kept(place: Path) -> None:
    source = place / "cases" / "case-0"
    one, two = source / "case-0-t1n.nii.gz", source / "case-0-t2w.nii.gz"
    first, second = one.read_bytes(), two.read_bytes()
    for path, content in ((one, second), (two, first)):
        path.write_bytes(content)
        os.utime(path, (1e9, 1e9))


def of_another_model(place: Path) -> None:
    path, record = record_of(place)
    path.write_text(json.dumps(sealed(record | {"model": record["model"] | {"fingerprint": "0" * 64}})))


def of_version_0_1(place: Path) -> None:
    path, record = record_of(place)
    del record["labels"]["sha256"], record["model"]["fingerprint"], record["content_sha256"]
    path.write_text(json.dumps(record))


def one_more_sequence(place: Path) -> None:
    (place / "cases" / "case-0" / "case-0-t1c.nii.gz").unlink()


@pytest.mark.parametrize(
    "change", [images_exchanged_with_times_kept, of_another_model, of_version_0_1, one_more_sequence]
)
def test_a_stale_result_is_replaced_only_when_asked(predictor, place, change):
    run(Cohort(predictor, place / "out"), place)
    change(place)
    before = contents(place / "out")
    first, *rest = run(Cohort(predictor, place / "out"), place)
    assert isinstance(first, CaseFailed)
    assert first.error.code == "stale"
    assert [event.reused for event in rest] == [True, True]
    assert contents(place / "out") == before
    events = run(Cohort(predictor, place / "out", overwrite=True), place)
    assert [event.reused for event in events] == [False] * 3
    assert [event.reused for event in run(Cohort(predictor, place / "out"), place)] == [True] * 3


def test_another_scheme_of_the_same_name_is_no_reason_to_reuse_a_result(predictor, place):
    own, other = LabelScheme("ours", BRATS_2021.values), LabelScheme("ours", MSD.values)
    run(Cohort(predictor, place / "out", scheme=own), place)
    assert [event.reused for event in run(Cohort(predictor, place / "out", scheme=own), place)] == [True] * 3
    events = run(Cohort(predictor, place / "out", scheme=other), place)
    assert {event.error.code for event in events} == {"stale"}
    assert "other label scheme" in str(events[0].error)


def painted(place: Path) -> None:
    path = labels_of(place)
    volume = read_labels(path)
    data = volume.data.copy()
    data[:2] = 1
    write_labels(path, data, volume.affine)


def marked_as_edited(place: Path) -> None:
    path, record = record_of(place)
    path.write_text(json.dumps(record | {"made_by": record["made_by"] | {"edited": True}}))


def without_record(place: Path) -> None:
    record_of(place)[0].unlink()


def with_broken_record(place: Path) -> None:
    record_of(place)[0].write_text("[1")


@pytest.mark.parametrize("change", [painted, marked_as_edited, without_record, with_broken_record])
@pytest.mark.parametrize("overwrite", [False, True])
def test_edited_labels_stay_and_are_named(predictor, place, change, overwrite):
    run(Cohort(predictor, place / "out"), place)
    change(place)
    before = labels_of(place).read_bytes()
    first, *_ = run(Cohort(predictor, place / "out", overwrite=overwrite), place)
    assert first.reused
    assert "kept" in first.warnings[0]
    assert labels_of(place).read_bytes() == before
    first, *_ = run(Cohort(predictor, place / "out", discard_edits=True), place)
    assert not first.reused
    assert labels_of(place).read_bytes() != before or change is not painted


def test_times_do_not_matter(predictor, place):
    run(Cohort(predictor, place / "out"), place)
    for file in (place / "cases").rglob("*.nii.gz"):
        file.touch()
    assert all(event.reused for event in run(Cohort(predictor, place / "out"), place))


def test_a_result_from_the_future_is_ones_own(predictor, place):
    """A clock that went wrong, or another computer's, decides nothing."""
    run(Cohort(predictor, place / "out"), place)
    for file in (place / "out").iterdir():
        os.utime(file, (4e9, 4e9))
    before = contents(place / "out")
    assert all(event.reused for event in run(Cohort(predictor, place / "out"), place))
    assert contents(place / "out") == before


def test_a_damaged_result_is_done_over_and_kept_aside(predictor, place):
    run(Cohort(predictor, place / "out"), place)
    whole = labels_of(place).read_bytes()
    labels_of(place).write_bytes(whole[:100])
    first, *rest = run(Cohort(predictor, place / "out"), place)
    assert [first.reused, *(event.reused for event in rest)] == [False, True, True]
    assert read_labels(labels_of(place)).shape
    assert (place / "out" / "case-0-m3ae.nii.gz.bad").read_bytes() == whole[:100]


def test_another_scheme_is_another_result(predictor, place):
    run(Cohort(predictor, place / "out", BRATS_2023), place)
    events = run(Cohort(predictor, place / "out", BRATS_2021), place)
    assert {event.error.code for event in events} == {"stale"}


def test_two_cases_of_one_name(predictor, place):
    cases = find_cases(place / "cases")
    with pytest.raises(InputError) as caught:
        next(Cohort(predictor, place / "out").run([*cases, cases[0]]))
    assert caught.value.code == "case-repeats"


def test_reading_stays_ahead_and_no_further():
    """Memory holds the case at hand and `readers` more."""
    started: list[int] = []
    stream = _read_ahead(lambda n: started.append(n) or n, range(9), 2)  # type: ignore[arg-type]
    for n in range(7):
        files, content = next(stream)
        assert (files, content.result()) == (n, n)
        assert len(started) <= n + 3


def test_a_result_that_cannot_be_written_is_that_cases_failure(predictor, place):
    (place / "out" / "case-1-m3ae.nii.gz").mkdir()
    events = run(Cohort(predictor, place / "out", overwrite=True), place)
    assert [type(event) for event in events] == [CaseSegmented, CaseFailed, CaseSegmented]
    assert events[1].error.code == "not-writable"


def test_for_a_gpu_the_readers_lay_cases_on_the_template(predictor, place, monkeypatch):
    laid: list[str] = []
    real = Standardiser.standardise

    def standardise(self, names):
        laid.append(threading.current_thread().name)
        return real(self, names)

    monkeypatch.setattr(Standardiser, "standardise", standardise)
    run(Cohort(predictor, place / "out"), place)
    assert set(laid) == {"MainThread"}
    laid.clear()
    monkeypatch.setattr(predictor, "device", torch.device("meta"))  # any that is not the CPU
    run(Cohort(predictor, place / "out", overwrite=True), place)
    assert len(laid) == 6
    assert laid.count("MainThread") == 3  # it finds done what the readers did


def test_a_file_of_another_name_in_a_case_is_warned_of(predictor, place):
    path = place / "cases" / "case-2" / "case-2-t2w.nii.gz"
    path.rename(path.with_name("case-7-t2w.nii.gz"))
    *_, last = run(Cohort(predictor, place / "out"), place)
    assert "case-7-t2w.nii.gz (T2)" in "".join(last.warnings)


def test_a_case_of_two_patients_is_refused_unless_told_otherwise(predictor, place):
    path = place / "cases" / "case-2" / "case-2-t2w.nii.gz"
    image = nib.load(path)
    moved = np.roll(np.asanyarray(image.dataobj), 12, axis=0)
    nib.save(nib.Nifti1Image(moved, image.affine), path)
    *done, failed = run(Cohort(predictor, place / "out"), place)
    assert isinstance(failed, CaseFailed)
    assert failed.error.code == "two-patients"
    assert [event.case for event in done] == ["case-0", "case-1"]
    (place / "told").mkdir()
    assert isinstance(
        run(Cohort(predictor, place / "told", reading=Reading(same_patient=True)), place)[-1], CaseSegmented
    )
    vouched = [
        json.loads((place / folder / f"{name}-m3ae.json").read_text())["same_patient"]
        for folder, name in (("told", "case-2"), ("out", "case-0"))
    ]
    assert vouched == [True, False]
