"""The page about one case says what it must, shows the right picture, and stands alone."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest

from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.errors import ConfigError, InputError, OutputError
from m3ae_core.inference.predictor import Prediction
from m3ae_core.io.case import Case
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import BRATS
from m3ae_core.regions import BRATS_2023
from m3ae_core.report.case import write_case_report

MEASURED = {region: {"median": 0.5, "q1": 0.25, "q3": 0.7, "n": 5} for region in ("WT", "TC", "ET")}


def made_up(affine=AFFINE, present=("FLAIR", "T2"), **record):
    """A case and its segmentation: the phantom's own labels."""
    images, labels = phantom()
    case = Case("<patient & co>", BRATS, {name: Volume(images[name], affine) for name in present})
    provenance = {
        "made_by": {"napari-m3ae": "1.2.3", "edited": False},
        "made_at": "2026-11-24T12:00:00+00:00",
        "sequences_present": dict.fromkeys(present, "c" * 64),
        "model": {"name": "model <x>", "sha256": "a" * 64},
        "reliability": MEASURED,
    }
    warnings = ("Something & else.",)
    return case, Prediction(labels, {}, affine, BRATS_2023, case.subset, warnings, {**provenance, **record})


def text_of(path) -> str:
    return path.read_text("utf-8")


def picture(page: str) -> np.ndarray:
    from matplotlib.image import imread

    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return imread(io.BytesIO(base64.b64decode(source)))[..., :3]


def cells(image: np.ndarray, columns: int) -> np.ndarray:
    """Share of strongly coloured pixels in each panel (2, columns)."""
    coloured = (image.max(axis=-1) - image.min(axis=-1)) > 0.25
    rows = np.array_split(coloured, 2, axis=0)
    return np.array([[part.mean() for part in np.array_split(row, columns, axis=1)] for row in rows])


def test_page_says_what_it_must(tmp_path):
    page = text_of(write_case_report(tmp_path / "report.html", *made_up()))
    for sentence in (
        "&lt;patient &amp; co&gt;",
        "Research use only. Not a medical device.",
        "Used: FLAIR, T2. <strong>Missing, substituted by the model: T1, T1c.</strong>",
        "Enhancing tumour without T1 and T1c: unreliable "
        "(Dice 0.50, half of the 5 validation cases between 0.25 and 0.70).",
        "Something &amp; else.",
        "model &lt;x&gt;, SHA-256 " + "a" * 64,
        "no: as the model made it",
        "2026-11-24T12:00:00+00:00",
    ):
        assert sentence in page
    assert "<patient" not in page


def test_page_stands_alone(tmp_path):
    page = text_of(write_case_report(tmp_path / "report.html", *made_up()))
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert "@media print" in page
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_volumes_are_those_of_the_labels(tmp_path):
    case, prediction = made_up()
    page = text_of(write_case_report(tmp_path / "report.html", case, prediction))
    rows = dict(re.findall(r"<tr><td>([^<]+)</td><td>([\d.]+)</td></tr>", page))
    voxel = 0.064
    counts = {value: np.count_nonzero(prediction.labels == value) for value in (1, 2, 3)}
    expected = {
        "Whole tumour (WT)": sum(counts.values()),
        "Tumour core (TC)": counts[1] + counts[3],
        "Enhancing tumour (ET)": counts[3],
        "necrotic core": counts[1],
        "oedema": counts[2],
        "enhancing tumour": counts[3],
    }
    assert rows == {name: f"{count * voxel:.2f}" for name, count in expected.items()}


def test_diameters_of_a_known_block(tmp_path):
    case, prediction = made_up()
    labels = np.zeros_like(prediction.labels)
    labels[10:16, 20:23, 9] = 3  # between voxel centres: the diagonal of 5 × 2 voxels of 4 mm
    page = text_of(write_case_report(tmp_path / "a.html", case, replace(prediction, labels=labels)))
    assert f"{4 * np.hypot(5, 2):.1f} mm × " in page
    assert "(slice 9, counted from 0" in page
    labels[:] = 2
    page = text_of(write_case_report(tmp_path / "b.html", case, replace(prediction, labels=labels)))
    assert "There is no enhancing tumour" in page


def test_edits_are_told(tmp_path):
    made_by = {"napari-m3ae": "1", "edited": True, "edited_voxels": 17}
    page = text_of(write_case_report(tmp_path / "report.html", *made_up(made_by=made_by)))
    assert "yes: 17 voxels differ from what the model said" in page


def test_what_was_not_measured_is_said(tmp_path):
    page = text_of(write_case_report(tmp_path / "report.html", *made_up(reliability=None)))
    assert "was not measured" in page


def test_nothing_missing(tmp_path):
    page = text_of(write_case_report(tmp_path / "report.html", *made_up(present=BRATS.names)))
    assert "No sequence was missing." in page
    assert cells(picture(page), 5).shape == (2, 5)


def test_mask_is_drawn_below_and_not_above(tmp_path):
    image = picture(text_of(write_case_report(tmp_path / "report.html", *made_up())))
    assert image.std() > 0.1
    coloured = cells(image, 3)
    assert (coloured[0, :2] == 0).all()
    assert (coloured[1] > 0.005).all()
    assert coloured[0, 2] > 0.005


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_patients_right_is_on_the_left_however_the_file_is_stored(tmp_path, flips):
    """Oedema high in x (right) and y (anterior) appears in the upper left of the axial picture."""
    shape = (30, 30, 30)
    index = np.stack(np.meshgrid(*(np.arange(30),) * 3, indexing="ij"))
    affine = np.diag([*flips, 1.0])
    affine[:3, 3] = [0 if flip > 0 else 29 for flip in flips]
    world = np.einsum("ij,jabc->iabc", affine[:3, :3], index) + affine[:3, 3][:, None, None, None]
    labels = ((world[0] > 22) & (world[1] > 22) & (world[2] > 10)).astype(np.uint8) * 2
    _, prediction = made_up()
    case = Case("x", BRATS, {"T1": Volume(np.ones(shape, np.float32), affine)})
    prediction = replace(prediction, labels=labels, affine=affine, subset=case.subset)
    image = picture(text_of(write_case_report(tmp_path / "report.html", case, prediction)))
    height, width = image.shape[0] // 2, image.shape[1] // 2
    axial = image[height:, :width]
    blue = (axial[..., 2] - axial[..., 0]) > 0.25
    rows, columns = np.nonzero(blue)
    assert rows.mean() < height * 0.45
    assert columns.mean() < width * 0.4


def test_no_tumour(tmp_path):
    case, prediction = made_up()
    empty = replace(prediction, labels=np.zeros_like(prediction.labels))
    assert cells(picture(text_of(write_case_report(tmp_path / "r.html", case, empty))), 3).max() == 0


def test_other_grid_is_refused(tmp_path):
    case, prediction = made_up()
    with pytest.raises(InputError, match="does not lie on the grid") as caught:
        write_case_report(tmp_path / "r.html", case, replace(prediction, labels=prediction.labels[1:]))
    assert caught.value.code == "grids-differ"
    assert not list(tmp_path.iterdir())


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError):
        write_case_report(tmp_path / "nowhere" / "r.html", *made_up())


def test_without_matplotlib(tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.colors"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ConfigError, match=r"napari-m3ae\[report\]"):
        write_case_report(tmp_path / "r.html", *made_up())
    assert not list(tmp_path.iterdir())
