"""Between grids: whole voxels are copied exactly, everything else keeps its place in millimetres."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from m3ae_core.config import GridConfig
from m3ae_core.io.grid import Grid, locate, resample

#: All 48 ways to lay the axes of an image along those of another: an order of axes, and a flip of each.
ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]
SPACED = np.array([[-1.5, 0, 0, 12.25], [0, 2, 0, -7.5], [0, 0, 3, 100], [0, 0, 0, 1.0]])


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 3], [s, c, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]])


#: As stored in NIfTI, where affines are single precision.
OBLIQUE = (rotation(17) @ SPACED).astype(np.float32).astype(float)


def reoriented(
    data: np.ndarray, grid: Grid, order: tuple[int, ...], flips: tuple[int, ...]
) -> tuple[np.ndarray, Grid]:
    """The same voxels stored with other axes, by numpy's own transpose and flip."""
    moved = data.transpose(order)
    index = np.zeros((4, 4))
    index[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        index[source, axis] = flip
        index[source, 3] = 0 if flip == 1 else data.shape[source] - 1
        moved = np.flip(moved, axis) if flip == -1 else moved
    return moved, Grid(moved.shape, grid.affine @ index)


def numbers(shape: tuple[int, ...], dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 3000, shape).astype(dtype)


# --- a grid ----------------------------------------------------------------------------------------


def test_a_grid_measures_itself() -> None:
    grid = Grid((4, 5, 6), SPACED)
    assert grid.spacing == (1.5, 2, 3)
    np.testing.assert_allclose(Grid((4, 5, 6), OBLIQUE).spacing, (1.5, 2, 3), rtol=1e-6)
    corners = grid.corners()
    assert corners.shape == (8, 3)
    np.testing.assert_allclose(corners.min(axis=0), [12.25 - 3.5 * 1.5, -7.5 - 1, 100 - 1.5])
    np.testing.assert_allclose(corners.max(axis=0), [12.25 + 0.75, -7.5 + 9, 100 + 16.5])
    box = grid.corners((1, 1, 1), (2, 3, 4))
    np.testing.assert_allclose(np.ptp(box, axis=0), [1.5, 4, 9])


def test_moving_and_cropping_leave_the_original_alone() -> None:
    grid = Grid((4, 5, 6), SPACED)
    moved, part = grid.moved((1, 2, 3)), grid.cropped((1, 0, 2), (2, 2, 2))
    np.testing.assert_allclose(moved.affine[:3, 3], [13.25, -5.5, 103])
    np.testing.assert_allclose(part.affine[:3, 3], SPACED[:3] @ [1, 0, 2, 1])
    np.testing.assert_array_equal(part.affine[:3, :3], SPACED[:3, :3])
    assert part.shape == (2, 2, 2)
    assert grid.affine[0, 3] == 12.25


def test_grids_are_alike_within_a_tenth_of_a_voxel_at_every_voxel() -> None:
    grid = Grid((100, 50, 20), SPACED)
    assert grid.is_like(grid.moved((0, 0.14, 0)))  # the smallest side is 1.5 mm
    assert not grid.is_like(grid.moved((0, 0.16, 0)))
    assert not grid.is_like(Grid((100, 50, 21), SPACED))
    larger = Grid(grid.shape, SPACED @ np.diag([1.002, 1, 1, 1]))
    assert not grid.is_like(larger)  # the first voxels agree, the hundredth does not
    assert Grid((2, 50, 20), SPACED).is_like(Grid((2, 50, 20), larger.affine))


# --- whole voxels: exact copies --------------------------------------------------------------------


@pytest.mark.parametrize("affine", [np.eye(4), SPACED, OBLIQUE], ids=["1 mm", "spaced", "oblique"])
@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_reorientation_copies_and_comes_back(
    affine: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    for shape in ((3, 4, 5), (5, 5, 5), (1, 7, 2)):
        data, grid = numbers(shape), Grid(shape, affine)
        expected, target = reoriented(data, grid, order, flips)
        there = resample(data, grid, target)
        assert there.dtype == np.float32
        np.testing.assert_array_equal(there, expected)
        np.testing.assert_array_equal(resample(there, target, grid), data)


@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.integers(-8, 8)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.sampled_from([np.eye(4), SPACED, OBLIQUE]),
)
def test_whole_voxel_crops_and_pads_are_exact(
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    shape: tuple[int, int, int],
    low: tuple[int, int, int],
    size: tuple[int, int, int],
    affine: np.ndarray,
) -> None:
    data, grid = numbers(shape), Grid(shape, affine)
    stored, source = reoriented(data, grid, *orientation)
    padded = np.pad(data, 20)
    where = tuple(slice(20 + first, 20 + first + side) for first, side in zip(low, size, strict=True))
    np.testing.assert_array_equal(resample(stored, source, grid.cropped(low, size)), padded[where])


def test_affines_in_single_precision_still_copy() -> None:
    """-119.7 mm as NIfTI stores it, against the same number in double precision."""
    data = numbers((240, 2, 2))
    stored, exact = np.diag([0.9, 1.1, 1, 1]), np.diag([0.9, 1.1, 1, 1])
    stored[:3, 3] = exact[:3, 3] = -119.7, 33.3, 0.1
    stored = stored.astype(np.float32).astype(float)
    assert (stored != exact).any()
    np.testing.assert_array_equal(resample(data, Grid(data.shape, stored), Grid(data.shape, exact)), data)


def test_masks_stay_masks() -> None:
    mask = numbers((4, 5, 6)) > 1500
    grid = Grid(mask.shape, SPACED)
    there = resample(mask, grid, grid.cropped((1, -1, 0), (4, 5, 6)))
    assert set(np.unique(there)) == {0, 1}


def test_the_input_is_not_changed() -> None:
    data, grid = numbers((4, 5, 6), np.float32), Grid((4, 5, 6), SPACED)
    before = data.copy()
    for target in (grid, grid.cropped((-2, 0, 0), (4, 5, 6)), Grid((2, 2, 2), 2 * SPACED)):
        resample(data, grid, target)[...] = -1
        np.testing.assert_array_equal(data, before)


# --- other voxel sizes -----------------------------------------------------------------------------


def coarse(grid: Grid, factor: int = 2) -> Grid:
    """The grid of blocks of `factor`³ voxels, centred on the blocks."""
    affine = grid.affine @ np.diag([factor, factor, factor, 1.0])
    affine[:3, 3] = (grid.affine @ [*[(factor - 1) / 2] * 3, 1])[:3]
    x, y, z = grid.shape
    return Grid((x // factor, y // factor, z // factor), affine)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::7])
def test_coarser_voxels_are_means_of_blocks(
    factor: int, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    data, grid = numbers((6, 12, 6)), Grid((6, 12, 6), SPACED)
    stored, source = reoriented(data, grid, order, flips)
    blocks = data.reshape(6 // factor, factor, 12 // factor, factor, 6 // factor, factor)
    np.testing.assert_allclose(
        resample(stored, source, coarse(grid, factor)), blocks.mean(axis=(1, 3, 5)), rtol=1e-5
    )


def test_coarser_voxels_that_cut_through_blocks_weigh_by_cover() -> None:
    """2.5 source voxels each: 1 + 1 + a half."""
    data = np.array([4.0, 8.0, 2.0, 6.0, 10.0]).reshape(5, 1, 1)
    target = Grid((2, 1, 1), np.diag([2.5, 1, 1, 1]) + np.array([[0, 0, 0, 0.75], *[[0] * 4] * 3]))
    moved = resample(data, Grid((5, 1, 1), np.eye(4)), target)
    np.testing.assert_allclose(moved.ravel(), [(4 + 8 + 1) / 2.5, (1 + 6 + 10) / 2.5], rtol=1e-6)


def test_voxels_a_half_coarser_weigh_by_cover_too() -> None:
    """Where linear interpolation between two neighbours would be something else."""
    data = np.array([4.0, 8.0, 2.0]).reshape(1, 3, 1)
    target = Grid((1, 2, 1), np.diag([1, 1.5, 1, 1]) + np.array([[0] * 4, [0, 0, 0, 0.25], *[[0] * 4] * 2]))
    moved = resample(data, Grid((1, 3, 1), np.eye(4)), target)
    np.testing.assert_allclose(moved.ravel(), [(4 + 4) / 1.5, (4 + 2) / 1.5], rtol=1e-6)


def test_finer_voxels_are_linear() -> None:
    """At the places scipy's own linear interpolation gives the same, and the mean of the blocks stays."""
    fine = Grid((12, 8, 10), SPACED)
    source = coarse(fine)
    data = numbers(source.shape, np.float32)
    index = np.indices(fine.shape).reshape(3, -1)
    position = (np.linalg.inv(source.affine) @ fine.affine @ np.vstack([index, np.ones(len(index[0]))]))[:3]
    expected = ndimage.map_coordinates(data, position, order=1, mode="grid-constant").reshape(fine.shape)
    np.testing.assert_allclose(resample(data, source, fine), expected, rtol=1e-4, atol=0.01)


def test_axes_may_get_finer_and_coarser_at_once() -> None:
    """Thick slices, as clinics store them: 0.5 × 1 × 4 mm to 1 mm, in another order."""
    ramp = np.arange(8) * 2.0
    data = np.broadcast_to(ramp[None, None, :], (8, 6, 8))
    source = Grid(data.shape, np.diag([0.5, 1, 4, 1.0]))
    affine = np.array([[0, 0, 1, 0.25], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    moved = resample(data, source, Grid((29, 6, 4), affine))
    np.testing.assert_allclose(
        moved, np.broadcast_to(np.arange(29)[:, None, None] / 2, moved.shape), atol=1e-5
    )


def test_voxels_that_are_a_little_finer_are_not_copied() -> None:
    """One in a hundred: over two hundred voxels that is two."""
    data = np.broadcast_to(np.arange(200.0, dtype=np.float32)[:, None, None], (200, 2, 2))
    source = Grid((200, 2, 2), np.eye(4))
    for scale in (0.99, 0.9999):
        moved = resample(data, source, Grid((200, 2, 2), np.diag([scale, 1, 1, 1])))
        np.testing.assert_allclose(moved[:, 0, 0], scale * np.arange(200), rtol=1e-4)


def test_a_part_of_a_voxel_aside_is_not_copied() -> None:
    data = np.broadcast_to(np.arange(10.0, dtype=np.float32)[None, :, None], (3, 10, 3))
    source = Grid((3, 10, 3), np.eye(4))
    moved = resample(data, source, source.moved((0, 0.25, 0)))
    np.testing.assert_allclose(moved[1, :, 1], [*(np.arange(9) + 0.25), 9 * 0.75], rtol=1e-5)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_the_result_lies_in_memory_as_the_source_does(axes: tuple[int, ...]) -> None:
    """Slowest axis first: so nothing is copied on the way, however the file was stored."""
    data = np.ascontiguousarray(numbers((4, 5, 6)).transpose(axes)).transpose(np.argsort(axes))
    grid = Grid(data.shape, SPACED)
    for target in (grid, grid.cropped((1, -1, 0), (4, 5, 6)), grid.moved((0.3, 0.4, 0.5))):
        there = resample(data, grid, target)
        assert np.argsort(there.strides)[::-1].tolist() == list(axes)


# --- oblique ---------------------------------------------------------------------------------------


def centroid_mm(data: np.ndarray, grid: Grid) -> np.ndarray:
    return (grid.affine @ [*ndimage.center_of_mass(data), 1])[:3]


@pytest.mark.parametrize("degrees", [1, 20, 44])
def test_oblique_grids_keep_the_place_of_a_blob(degrees: float) -> None:
    index = np.indices((24, 24, 16)) - np.array([9, 14, 7]).reshape(3, 1, 1, 1)
    blob = np.exp(-(index**2).sum(axis=0) / 8).astype(np.float32)
    source = Grid(blob.shape, SPACED)
    centre = np.diag([1.0, 1.0, 1.0, 1.0])
    centre[:3, 3] = -centroid_mm(blob, source)
    turned = np.linalg.inv(centre) @ rotation(degrees) @ centre @ SPACED
    target = Grid(
        (30, 30, 20), turned @ np.array([[1, 0, 0, -3], [0, 1, 0, -3], [0, 0, 1, -3], [0, 0, 0, 1]])
    )
    there = resample(blob, source, target)
    np.testing.assert_allclose(centroid_mm(there, target), centroid_mm(blob, source), atol=0.2)
    assert there.max() == pytest.approx(1, abs=0.15)
    assert there.sum() == pytest.approx(blob.sum(), rel=0.02)


def test_oblique_grids_are_interpolated_linearly_and_zero_outside() -> None:
    """At every voxel what scipy reads at that place, by a call that knows nothing of affines."""
    data = numbers((9, 8, 7), np.float32)
    source, target = Grid(data.shape, SPACED), Grid((10, 11, 12), rotation(30) @ SPACED)
    index = np.indices(target.shape).reshape(3, -1)
    place = np.linalg.inv(source.affine) @ target.affine @ np.vstack([index, np.ones(len(index[0]))])
    expected = ndimage.map_coordinates(data, place[:3], order=1, cval=0).reshape(target.shape)
    assert (expected == 0).any()
    assert (expected > 0).any()
    np.testing.assert_allclose(resample(data, source, target), expected, rtol=1e-4, atol=0.01)


def test_a_slight_tilt_counts_once_it_shows() -> None:
    """A rotation by which the far corner moves a voxel is not taken for parallel axes."""
    data = np.zeros((100, 100, 1), np.float32)
    data[90, 90] = 1
    tilt = rotation(1.2)
    tilt[:3, 3] = 0
    source, target = Grid(data.shape, np.eye(4)), Grid(data.shape, tilt)
    there = resample(data, source, target)
    np.testing.assert_allclose(centroid_mm(there, target)[:2], [90, 90], atol=0.3)


# --- where a case lies on the template -------------------------------------------------------------

TEMPLATE = GridConfig()
LPS = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])
BRATS_SHAPE = (240, 240, 155)
#: Brain of a BraTS image, in its own (LPS) voxels.
LOW, HIGH = (45, 30, 5), (195, 215, 145)


def at(x: float, y: float, z: float, axes: tuple[int, int, int] = (1, 1, 1)) -> np.ndarray:
    affine = np.diag([*axes, 1.0])
    affine[:3, 3] = x, y, z
    return affine


def test_brats_lies_where_its_header_says() -> None:
    placement = locate(Grid(BRATS_SHAPE, LPS), LOW, HIGH, TEMPLATE)
    assert (placement.method, placement.offset, placement.inside) == ("world", (0, 0, 0), 1)


def test_a_cropped_case_is_placed_by_its_world() -> None:
    grid = Grid(BRATS_SHAPE, LPS).cropped((40, 25, 0), (160, 200, 150))
    placement = locate(grid, (0, 0, 0), grid.shape, TEMPLATE)
    assert (placement.method, placement.offset, placement.inside) == ("world", (0, 0, 0), 1)


def test_brats_africa_lies_in_another_frame() -> None:
    """RAS axes under the LPS origin: the whole space is moved by (239, 239, 0)."""
    placement = locate(Grid(BRATS_SHAPE, at(0, 239, 0)), LOW, HIGH, TEMPLATE)
    assert (placement.method, placement.offset, placement.inside) == ("frame", (239, 239, 0), 1)


@pytest.mark.parametrize(
    ("affine", "offset"),
    [
        (np.eye(4), (239, 0, 0)),
        (at(-500, 77, 1000), (-261, 77, 1000)),
        (at(500, 239 + 77, -1000, (-1, -1, 1)), (500, 77, -1000)),
    ],
    ids=["no origin", "RAS", "LPS"],
)
def test_the_same_field_of_view_under_another_origin(affine: np.ndarray, offset: tuple[float, ...]) -> None:
    placement = locate(Grid(BRATS_SHAPE, affine), LOW, HIGH, TEMPLATE)
    assert (placement.method, placement.offset, placement.inside) == ("field of view", offset, 1)


def test_a_field_of_view_is_the_same_within_a_millimetre() -> None:
    """The brain lies far from the template's world, so that nothing else can place it."""
    for size, method in ((0.9, "field of view"), (1.1, "brain centre"), (-1.1, "brain centre")):
        spacing = 1 + size / 240
        grid = Grid(BRATS_SHAPE, at(5000, 0, 0) @ np.diag([spacing, 1, 1, 1]))
        assert locate(grid, LOW, HIGH, TEMPLATE).method == method


def test_places_are_told_to_the_micrometre() -> None:
    grid = Grid((200, 200, 100), at(1000.12345678, -1000.98765432, 1e-5))
    placement = locate(grid, (20, 40, 10), (180, 180, 90), TEMPLATE)
    assert placement.offset == tuple(round(value, 3) for value in placement.offset)
    brain = grid.corners((20, 40, 10), (180, 180, 90)).mean(axis=0)
    centre = Grid.of(TEMPLATE).corners().mean(axis=0)
    np.testing.assert_allclose(placement.offset, brain - centre, atol=0.00051)


def test_anything_else_is_centred_by_its_brain() -> None:
    grid = Grid((200, 200, 100), at(1000, 1000, 1000))
    placement = locate(grid, (20, 40, 10), (180, 180, 90), TEMPLATE)
    assert placement.method == "brain centre"
    assert placement.inside == 1
    brain = grid.corners((20, 40, 10), (180, 180, 90)).mean(axis=0)
    template = Grid.of(TEMPLATE).moved(placement.offset).corners().mean(axis=0)
    np.testing.assert_allclose(brain, template, atol=1e-3)


def test_a_speck_beside_the_template_is_not_on_it() -> None:
    placement = locate(Grid((3, 3, 3), at(5000, 0, 0)), (0, 0, 0), (1, 1, 1), TEMPLATE)
    assert placement.method == "brain centre"


def test_a_head_larger_than_the_template_is_inside_in_part() -> None:
    grid = Grid((100, 100, 100), at(5000, 0, 0) @ np.diag([4, 2, 1.5, 1]))
    placement = locate(grid, (0, 0, 0), (100, 100, 100), TEMPLATE)
    assert placement.method == "brain centre"
    assert placement.inside == pytest.approx(240 / 400)


@pytest.mark.parametrize("overhang", [0, 10, 14])
def test_inside_is_the_share_of_the_brain_on_the_template(overhang: int) -> None:
    """Of 140 slices a tenth, and no more, may lie above the template."""
    grid = Grid((100, 100, 140), at(-170, 70, 15 + overhang))
    placement = locate(grid, (0, 0, 0), grid.shape, TEMPLATE)
    assert placement.method == "world"
    assert placement.inside == pytest.approx(1 - overhang / 140)
    further = locate(grid.moved((0, 0, 15 - overhang)), (0, 0, 0), grid.shape, TEMPLATE)
    assert further.method == "brain centre"
    assert further.inside == 1


def test_a_placed_case_lands_voxel_on_voxel() -> None:
    """However its header is written, the same head fills the same template voxels."""
    template = GridConfig(
        shape=(15, 24, 24),
        affine=((0, 0, -1, 0), (0, -1, 0, 23), (1, 0, 0, 0), (0, 0, 0, 1)),
        frames=((23, 23, 0),),
        field_of_view=((-23.5, -0.5, -0.5), (0.5, 23.5, 14.5)),
    )
    lps = numbers((24, 24, 15))  # voxels run to left, posterior, superior
    lps[:3] = lps[-2:] = lps[:, :4] = lps[:, -1:] = lps[..., :2] = 0
    ras = lps[::-1, ::-1]
    expected = lps.transpose(2, 1, 0)
    stored = {
        "world": (lps, np.array([[-1, 0, 0, 0], [0, -1, 0, 23], [0, 0, 1, 0], [0, 0, 0, 1.0]])),
        "frame": (ras, at(0, 23, 0)),
        "field of view": (ras, at(70, 80, 90)),
    }
    for method, (data, affine) in stored.items():
        grid = Grid(data.shape, affine)
        used = np.argwhere(data)
        placement = locate(grid, used.min(axis=0), used.max(axis=0) + 1, template)
        assert placement.method == method
        on_template = resample(data, grid, Grid.of(template).moved(placement.offset))
        np.testing.assert_array_equal(on_template, expected)
