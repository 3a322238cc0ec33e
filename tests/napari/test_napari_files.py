"""Reader, writer and sample data."""

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Layer

from m3ae_core.data.phantom import AFFINE, write_phantom
from m3ae_core.errors import InputError
from m3ae_core.io.volume import read_labels, read_volume, write_labels
from m3ae_core.modalities import BRATS
from napari_m3ae import layers
from napari_m3ae._reader import get_reader
from napari_m3ae._writer import write_labels_layer
from napari_m3ae.asking import Answers

OBLIQUE = np.array([[2, 0, 0, 3], [0, 1.8, -0.6, 4], [0, 0.6, 1.8, 5], [0, 0, 0, 1.0]])


def opened(path) -> list[Layer]:
    reader = get_reader(path if isinstance(path, list) else str(path))
    return [Layer.create(*content) for content in reader(path)]


def test_folder_becomes_its_sequences_and_a_hidden_label_map(files):
    found = opened(files.labels.parent)
    assert [layers.modality_of(layer, BRATS) for layer in found] == ["T2", "T1c", "T1", "FLAIR", None]
    assert [layer.name for layer in found[3:]] == ["FLAIR · patient", "reference labels · patient"]
    assert [layer.visible for layer in found] == [True, True, True, True, False]
    assert len({layers.source_of(layer) for layer in found}) == 1


def test_single_files_of_one_folder_belong_to_one_case(files):
    (flair,), (seg,) = opened(files.images["FLAIR"]), opened(files.labels)
    assert layers.modality_of(flair, BRATS) == "FLAIR"
    assert isinstance(seg, Labels)
    assert seg.visible
    assert layers.source_of(flair) == layers.source_of(seg) == str(files.labels.parent)


def test_files_of_two_cases_in_one_folder_are_told_apart(tmp_path):
    for name in ("a", "b"):
        case = write_phantom(tmp_path / "in", name, shape=(16, 16, 16), present=["T1"])
        case.images["T1"].rename(tmp_path / f"{name}-t1n.nii.gz")
    first, second = opened([str(tmp_path / "a-t1n.nii.gz"), str(tmp_path / "b-t1n.nii.gz")])
    assert layers.source_of(first) != layers.source_of(second)
    assert (first.name, second.name) == ("T1 · a", "T1 · b")


def test_file_with_no_telling_name_is_an_image_without_a_sequence(files):
    plain = files.labels.with_name("scan.nii.gz")
    files.images["T2"].rename(plain)
    (layer,) = opened(plain)
    assert layer.name == "scan.nii.gz"
    assert layers.modality_of(layer, BRATS) is None


def test_ambiguous_label_map_is_not_coloured(tmp_path):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 1, 1] = 4
    for values in (labels, labels // 2):
        assert opened(write_labels(tmp_path / "seg.nii.gz", values, np.eye(4)))[0].features.empty


def test_folders_and_files_of_others_are_declined(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert get_reader(str(tmp_path)) is None
    assert get_reader(str(tmp_path / "notes.txt")) is None
    assert get_reader([str(tmp_path / "a.nii"), str(tmp_path / "b.tif")]) is None


def test_folder_with_two_files_for_one_sequence_is_refused_in_words(files):
    files.images["T1"].with_name("again-t1n.nii.gz").write_bytes(files.images["T1"].read_bytes())
    with pytest.raises(InputError, match="look like T1"):
        opened(files.labels.parent)


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["LPS", "oblique"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_written_labels_have_the_grid_and_voxels_of_their_case(tmp_path, affine, ending):
    files = write_phantom(tmp_path, "case", shape=(16, 17, 18), affine=affine)
    layer = opened(files.labels)[0]
    path = tmp_path / f"out{ending}"
    assert write_labels_layer(str(path), *layer.as_layer_data_tuple()[:2]) == [str(path)]
    before, after = read_labels(files.labels), read_labels(path)
    np.testing.assert_array_equal(after.data, before.data)
    np.testing.assert_array_equal(after.affine, read_volume(files.images["T1"]).affine)
    assert nib.load(path).get_data_dtype() == np.uint8


def test_labels_drawn_on_an_image_of_the_case_are_written_on_its_grid(files, tmp_path):
    viewer = ViewerModel()
    image = layers.add(viewer, get_reader(str(files.images["T1"]))(None)[0])
    viewer.layers.selection.active = image
    viewer._new_labels()
    drawn = viewer.layers[-1]
    drawn.data[3, 4, 5] = 2
    write_labels_layer(str(tmp_path / "drawn.nii.gz"), *drawn.as_layer_data_tuple()[:2])
    written = read_labels(tmp_path / "drawn.nii.gz")
    np.testing.assert_allclose(written.affine, AFFINE)
    assert written.data.shape == read_volume(files.images["T1"]).shape
    assert np.argwhere(written.data).tolist() == [[5, 4, 3]]


def test_labels_without_an_orientation_are_not_written(tmp_path):
    layer = Labels(np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(InputError, match="lies in the patient"):
        write_labels_layer(str(tmp_path / "x.nii.gz"), *layer.as_layer_data_tuple()[:2])
    assert not (tmp_path / "x.nii.gz").exists()


@pytest.fixture
def unclear(files):
    """The T1c image of a case under a name that contradicts itself."""
    return files.images["T1c"].rename(files.labels.parent / "patient_post_T1.nii.gz")


def test_file_whose_name_leaves_the_sequence_open_is_said_to_be_a_plain_image(files, unclear, told):
    (layer,) = opened(unclear)
    assert layers.modality_of(layer, BRATS) is None
    assert "patient_post_T1.nii.gz: The name does not tell which sequence it is" in told[-1]
    assert "part Segment" in told[-1]
    (other,) = opened(files.images["T1"])
    assert layers.source_of(layer) == layers.source_of(other)
    assert len(told) == 1


def test_folder_with_such_a_file_is_opened_and_the_file_is_a_plain_image(files, unclear, told):
    plain, *known = opened(files.labels.parent)
    assert plain.name == "patient_post_T1.nii.gz"
    assert [layers.modality_of(layer, BRATS) for layer in known] == ["T2", "T1", "FLAIR", None]
    assert len(told) == 1


def test_what_was_answered_in_the_panel_holds_for_file_and_folder(files, unclear, told):
    Answers().remember(unclear, "T1c")
    assert layers.modality_of(opened(unclear)[0], BRATS) == "T1c"
    assert "T1c" in {layers.modality_of(layer, BRATS) for layer in opened(files.labels.parent)}
    assert not told
