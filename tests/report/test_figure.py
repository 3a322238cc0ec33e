"""The figure shows what it should: as many panels as images and overlays, and no blank picture."""

import numpy as np
import pytest

from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import Case
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import BRATS
from m3ae_core.regions import BRATS_2023, COLOURS
from m3ae_core.report.figure import save_figure
from tiny import random_bundle


@pytest.mark.parametrize("with_reference", [True, False])
def test_figure(tmp_path, with_reference):
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    images, labels = phantom()
    volumes = {name: Volume(images[name], AFFINE) for name in ("FLAIR", "T2")}
    case, bundle = Case("phantom", BRATS, volumes), random_bundle()
    prediction = Predictor(bundle, "cpu").predict(case)
    reference = labels if with_reference else None
    path = save_figure(tmp_path / "figure.png", case, bundle, prediction, reference, BRATS_2023)
    picture = imread(path)[..., :3]
    assert picture.std() > 0.1
    columns = picture.reshape(len(picture), 5 + with_reference, -1, 3).std(axis=(0, 2, 3))
    assert (columns > 0.05).all()  # every panel holds something
    legend = picture[-len(picture) // 4 :]  # in the panels tissues are translucent
    for colour in COLOURS.values():
        assert (np.abs(legend - to_rgb(colour)).max(axis=-1) < 0.01).sum() > 50
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


def test_no_tumour_predicted(tmp_path):
    images, labels = phantom()
    case, bundle = Case("phantom", BRATS, {"T1": Volume(images["T1"], AFFINE)}), random_bundle()
    bundle.model.segmenter.heads.at_full.bias.data.fill_(-100)
    prediction = Predictor(bundle, "cpu").predict(case)
    assert not prediction.labels.any()
    assert save_figure(
        tmp_path / "f.png", case, bundle, prediction, np.zeros_like(labels), BRATS_2023
    ).exists()
