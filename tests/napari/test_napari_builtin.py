"""The built-in case and the built-in model together, as a newcomer meets them."""

import numpy as np
from napari.components import ViewerModel

from m3ae_core.modalities import BRATS
from m3ae_core.regions import COLOURS, OEDEMA
from napari_m3ae import layers
from napari_m3ae._sample_data import sample_case
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.session import Session


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def test_builtin_model_finds_the_tumour_of_the_sample_in_flair_and_t2():
    viewer = ViewerModel()
    session = Session(viewer, InlineRunner())
    *images, reference = [layers.add(viewer, content) for content in sample_case()]
    assert [layers.modality_of(layer, BRATS) for layer in images] == ["T2", "T1c", "T1", "FLAIR"]
    assert not reference.visible
    np.testing.assert_allclose(
        reference.get_color(2)[:3], [int(COLOURS[OEDEMA][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    )

    session.use("T1", False)
    session.use("T1c", False)
    session.run()
    result = viewer.layers["M3AE segmentation [FLAIR+T2]"]
    assert dice(result.data > 0, reference.data > 0) > 0.6
    assert layers.facts(result)["provenance"]["sequences_substituted"] == ["T1", "T1c"]
