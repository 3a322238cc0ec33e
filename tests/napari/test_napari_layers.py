"""Volume ↔ layer: world positions, orientation, colours, and the way back."""

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from m3ae_core.errors import InputError
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import BRATS
from m3ae_core.regions import BRATS_2021, BRATS_2023, COLOURS, ENHANCING, MSD
from napari_m3ae import layers
from napari_m3ae.settings import Settings
from napari_m3ae.view import face_patient

SHAPE = (7, 8, 9)
ORIENTATIONS = ("RAS", "LPS", "LAS", "RPI", "PIR", "ASL", "SLA", "IPL")
#: Which of the axes (S, A, R) a plane lies across.
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}


def affine_of(codes: str) -> np.ndarray:
    """An affine with the given axis directions, unequal voxel sizes and an origin away from zero."""
    turn = inv_ornt_aff(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)), SHAPE)
    affine = np.diag([1.5, 0.5, 3.0, 1.0]) @ turn
    affine[:3, 3] += (12.0, -7.5, 30.25)
    return affine


def rotated(degrees: float) -> np.ndarray:
    """An oblique affine: 1 mm voxels turned about the first axis."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0, 5], [0, cos, -sin, 6], [0, sin, cos, 7], [0, 0, 0, 1.0]])


def marked(codes: str, voxel: tuple[int, int, int] = (1, 6, 3)) -> Volume:
    data = np.zeros(SHAPE, np.float32)
    data[voxel] = 1
    return Volume(data, affine_of(codes))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_marker_is_shown_at_its_ras_millimetres(codes):
    volume = marked(codes)
    layer = Layer.create(*layers.image_layer(volume, "FLAIR"))
    (index,) = np.argwhere(layer.data == 1)
    expected = volume.affine @ (1, 6, 3, 1)
    np.testing.assert_allclose(layer.data_to_world(index), expected[2::-1], atol=1e-9)
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_slice_through_the_marker_shows_it_and_no_other_does(codes, plane):
    viewer, axis = ViewerModel(), PLANES[plane]
    layer = layers.add(viewer, layers.image_layer(marked(codes), "FLAIR"))
    viewer.dims.order = (axis, *(other for other in range(3) if other != axis))
    place = np.argwhere(layer.data == 1)[0]
    for step in range(layer.data.shape[axis]):
        voxel = place.copy()
        voxel[axis] = step
        viewer.dims.set_point(axis, layer.data_to_world(voxel)[axis])
        assert layer._slice.image.raw.sum() == (step == place[axis])
    assert layer.axis_labels == ("S", "A", "R")
    off_diagonal = layer.affine.affine_matrix[:3, :3] - np.diag(np.diag(layer.affine.affine_matrix[:3, :3]))
    assert not off_diagonal.any()


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_what_is_painted_at_the_marker_is_saved_at_its_voxel(codes, plane):
    """The brush is put where the marker lies in the world, in each plane; the file's own voxel must be hit."""
    viewer, axis, volume = ViewerModel(), PLANES[plane], marked(codes)
    empty = np.zeros(SHAPE, np.uint8)
    layer = layers.add(viewer, layers.labels_layer(empty, volume.affine, "mask", BRATS_2023))
    viewer.dims.order = (axis, *(other for other in range(3) if other != axis))
    world = (volume.affine @ (1, 6, 3, 1))[2::-1]
    viewer.dims.set_point(axis, world[axis])
    layer.brush_size = 1
    layer.paint(np.round(layer.world_to_data(world)), 3)
    assert np.argwhere(layers.to_volume(layer).data).tolist() == [[1, 6, 3]]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_layer_and_back_is_the_identity(codes):
    volume = marked(codes)
    layer = Layer.create(*layers.image_layer(volume, "FLAIR"))
    assert np.shares_memory(layer.data, volume.data)
    back = layers.to_volume(layer)
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_array_equal(back.affine, volume.affine)


def test_oblique_volume_is_shown_upright_about_its_centre_and_keeps_its_affine():
    volume = Volume(np.random.default_rng(0).random(SHAPE, np.float32), rotated(20))
    layer = Layer.create(*layers.image_layer(volume, "T2"))
    matrix = layer.affine.affine_matrix
    np.testing.assert_allclose(matrix[:3, :3], np.eye(3), atol=1e-12)
    middle = (np.array(SHAPE) - 1) / 2
    np.testing.assert_allclose(
        layer.data_to_world(middle[::-1])[::-1], volume.affine[:3, :3] @ middle + volume.affine[:3, 3]
    )
    np.testing.assert_array_equal(layers.to_volume(layer).affine, volume.affine)


def test_labels_drawn_by_the_user_on_our_axes_have_an_affine():
    volume = marked("LPS")
    image = Layer.create(*layers.image_layer(volume, "FLAIR"))
    drawn = Labels(
        np.zeros(image.data.shape, np.uint8), affine=image.affine, axis_labels=layers.AXES, units="mm"
    )
    np.testing.assert_allclose(layers.to_volume(drawn).affine, volume.affine)
    assert layers.to_volume(drawn).data.shape == SHAPE


CHANGES = {
    "other voxels": ("layer-replaced", lambda layer: setattr(layer, "data", layer.data + 1)),
    "another shape": ("layer-replaced", lambda layer: setattr(layer, "data", layer.data[:-1])),
    "turned over": ("layer-replaced", lambda layer: setattr(layer, "data", layer.data[::-1])),
    "4-D": ("layer-replaced", lambda layer: setattr(layer, "data", layer.data[None])),
    "translated": ("layer-moved", lambda layer: setattr(layer, "translate", (0, 0, 3))),
    "scaled": ("layer-moved", lambda layer: setattr(layer, "scale", (1, 1, 1.1))),
    "rotated": ("layer-moved", lambda layer: setattr(layer, "rotate", (0, 0, 5))),
    "mirrored": ("layer-moved", lambda layer: setattr(layer, "affine", np.diag([1, 1, -1, 1]))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL"])
def test_image_that_was_replaced_or_moved_is_refused(codes, change):
    code, do = CHANGES[change]
    volume = Volume(np.random.default_rng(0).random(SHAPE, np.float32), affine_of(codes))
    layer = Layer.create(*layers.image_layer(volume, "T1 of A"))
    layers.to_volume(layer)
    do(layer)
    with pytest.raises(InputError, match=r"layer 'T1 of A'.*Open the file again") as caught:
        layers.to_volume(layer)
    assert caught.value.code == code


def test_copy_of_a_layer_and_other_contrast_are_no_change():
    volume = marked("LPS")
    layer = Layer.create(*layers.image_layer(volume, "T1"))
    data, keywords, kind = layer.as_layer_data_tuple()
    copy = Layer.create(np.ascontiguousarray(data), {**keywords, "contrast_limits": (0, 2)}, kind)
    np.testing.assert_array_equal(layers.to_volume(copy).data, volume.data)


def test_layer_of_unknown_orientation_is_refused():
    with pytest.raises(InputError, match=r"how the layer 'scan' lies.*Open its NIfTI") as caught:
        layers.to_volume(Image(np.zeros((3, 4, 5)), name="scan"))
    assert caught.value.code == "no-orientation"


@pytest.mark.parametrize("scheme", [BRATS_2021, BRATS_2023, MSD])
def test_tissues_have_their_colours_and_names_in_every_scheme(scheme):
    labels = np.zeros(SHAPE, np.uint8)
    layer = Layer.create(*layers.labels_layer(labels, np.eye(4), "segmentation", scheme))
    for tissue, value in scheme.values:
        red, green, blue, _ = layer.get_color(value)
        assert COLOURS[tissue] == "#{:02x}{:02x}{:02x}".format(*(round(255 * c) for c in (red, green, blue)))
    assert dict(layer.features.to_numpy().tolist())[scheme.value(ENHANCING)] == "enhancing tumour"
    assert layer.get_color(9)[:3] == pytest.approx((1, 0, 1))  # no such tissue: magenta


@pytest.mark.parametrize(
    ("name", "modality"),
    [("sub-1 T1c", "T1c"), ("x-t2f", "FLAIR"), ("T1", "T1"), ("brain", None), ("ax T2-FLAIR", "FLAIR")],
)
def test_modality_is_told_from_the_name_of_a_layer(name, modality):
    assert layers.modality_of(Image(np.zeros((2, 2, 2)), name=name), BRATS) == modality


def test_modality_noted_by_the_reader_wins_over_the_name():
    layer = Layer.create(*layers.image_layer(marked("RAS"), "renamed T2", modality="T1c"))
    assert layers.modality_of(layer, BRATS) == "T1c"


def test_contrast_ignores_background_and_outliers():
    data = np.zeros((40, 40, 40), np.float32)
    data[10:30, 10:30, 10:30] = np.linspace(100, 200, 8000).reshape(20, 20, 20)
    data[16, 16, 16] = 1e6
    low, high = Layer.create(*layers.image_layer(Volume(data, np.eye(4)), "T1")).contrast_limits
    assert low == 0
    assert 180 < high < 200


def test_camera_faces_the_patient_only_among_our_layers():
    viewer = ViewerModel()
    before = viewer.scene.camera.orientation
    foreign = viewer.add_image(np.zeros((3, 4, 5)))
    face_patient(viewer)
    assert viewer.scene.camera.orientation == before
    viewer.layers.remove(foreign)
    layers.add(viewer, layers.image_layer(marked("RAS"), "T1"))
    face_patient(viewer)
    assert [str(axis) for axis in viewer.scene.camera.orientation] == ["towards", "up", "left"]


def test_camera_takes_the_side_of_the_settings(monkeypatch):
    monkeypatch.setattr("napari_m3ae.view.settings", lambda: Settings(view="neurological"))
    viewer = ViewerModel()
    face_patient(viewer)
    assert [str(axis) for axis in viewer.scene.camera.orientation] == ["away", "up", "right"]


def test_view_moves_to_the_labels_only_if_none_are_in_sight():
    viewer = ViewerModel()
    labels = np.zeros((4, 5, 20), np.uint8)
    labels[1, 1, 14], labels[:, 1, 15] = 1, 1
    layer = layers.add(viewer, layers.labels_layer(labels, affine_of("LPS"), "segmentation", BRATS_2023))
    layers.reveal(viewer, layer)
    assert round(layer.world_to_data(viewer.dims.point)[0]) == 15
    viewer.dims.set_point(0, layer.data_to_world((14, 0, 0))[0])
    layers.reveal(viewer, layer)
    assert round(layer.world_to_data(viewer.dims.point)[0]) == 14
