"""Volumes and diameters: known answers by hand, and a plain reference."""

from __future__ import annotations

from itertools import combinations_with_replacement, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from m3ae_core.measure import (
    Diameters,
    axial_axis,
    rano_diameters,
    region_volumes,
    tissue_volumes,
    voxel_ml,
)
from m3ae_core.regions import (
    BRATS_2021,
    BRATS_2023,
    CAVITY,
    ENHANCING,
    MSD,
    NECROSIS,
    OEDEMA,
    REGIONS,
    SCHEMES,
    LabelScheme,
    encode,
)

ALL_SCHEMES = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
PLANES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)
MASKS = hnp.arrays(np.bool_, PLANES, elements=st.sampled_from([True, False, False]), fill=st.nothing())
ORDERS = list(permutations(range(3)))
SINE = np.sin(np.radians(5))


def turned(degrees: float, about: int = 2) -> np.ndarray:
    """A rotation (4, 4) about a world axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = (axis for axis in range(3) if axis != about)
    matrix = np.eye(4)
    matrix[first, first] = matrix[second, second] = c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix


def scaled(*spacing: float) -> np.ndarray:
    return np.diag([*spacing, 1.0])


def plane(section: np.ndarray, axis: int = 2, index: int = 1, slices: int = 3) -> np.ndarray:
    """A mask that is empty but for one slice."""
    mask = np.zeros((slices, *section.shape), bool)
    mask[index] = section
    return np.moveaxis(mask, 0, axis)


def rectangle(rows: int, columns: int) -> np.ndarray:
    return np.pad(np.ones((rows, columns), bool), 2)


def measured(mask: np.ndarray, affine: np.ndarray | None = None, axis: int = 2) -> Diameters:
    found = rano_diameters(mask, np.eye(4) if affine is None else affine, axis)
    assert found is not None
    return found


# --- volumes ---------------------------------------------------------------------------------------


def test_a_voxel_has_the_volume_of_its_sides_however_it_is_turned() -> None:
    assert voxel_ml(scaled(1, 1, 1)) == 0.001
    affine = turned(30, 0) @ turned(-50) @ scaled(-0.5, 2, 3)
    affine[:3, 3] = 100, -20, 7
    assert voxel_ml(affine) == pytest.approx(0.003)


@ALL_SCHEMES
def test_volumes_of_tissues_and_regions(scheme: LabelScheme) -> None:
    """10, 20 and 40 voxels of 1.5 mm³."""
    labels = np.zeros((10, 10, 2), np.uint8)
    labels[0, :, 0] = scheme.value(NECROSIS)
    labels[1:3, :, 0] = scheme.value(OEDEMA)
    labels[3:7, :, 0] = scheme.value(ENHANCING)
    affine = scaled(-0.5, 1, 3)
    empty = {tissue: 0.0 for tissue, _ in scheme.values}
    found = {NECROSIS: 0.015, OEDEMA: 0.03, ENHANCING: 0.06}
    assert tissue_volumes(labels, scheme, affine) == {**empty, **found}
    assert region_volumes(labels, scheme, affine) == {"WT": 0.105, "TC": 0.075, "ET": 0.06}


def test_volumes_are_rounded_once() -> None:
    """Three voxels of 0.4 µL: each tissue rounds to nothing, their sum to 0.001 mL."""
    labels = np.array([1, 2, 4], np.uint8).reshape(3, 1, 1)
    affine = scaled(1, 1, 0.4)
    assert set(tissue_volumes(labels, BRATS_2021, affine).values()) == {0}
    assert region_volumes(labels, BRATS_2021, affine) == {"WT": 0.001, "TC": 0.001, "ET": 0}


def test_values_of_another_scheme_count_for_nothing() -> None:
    labels = np.full((2, 2, 2), 4, np.uint8)
    assert not any(tissue_volumes(labels, BRATS_2023, np.eye(4)).values())
    assert not any(region_volumes(labels, MSD, np.eye(4)).values())


@ALL_SCHEMES
@given(data=st.data())
def test_volumes_of_regions_are_those_of_their_masks(scheme: LabelScheme, data: st.DataObject) -> None:
    labels = data.draw(hnp.arrays(np.uint8, PLANES, elements=st.sampled_from(sorted(scheme.allowed))))
    affine = scaled(10, 10, 10)
    masks = encode(labels, scheme)
    expected = {region.name: float(mask.sum()) for region, mask in zip(REGIONS, masks, strict=True)}
    assert region_volumes(labels, scheme, affine) == expected
    tissues = tissue_volumes(labels, scheme, affine)
    assert sum(tissues[tissue] for tissue in tissues if tissue != CAVITY) == expected["WT"]


# --- which slices are axial ------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("flip", [1, -1])
def test_axial_slices_lie_across_the_axis_of_the_body(order: tuple[int, ...], flip: int) -> None:
    """Turned by 40 degrees, and with voxels that are ten times longer across it than along it."""
    affine = turned(40, 0) @ scaled(1, 10, 1) @ scaled(1, 1, flip)
    stored = affine[:, [*order, 3]]
    assert axial_axis(stored) == order.index(2)


# --- diameters -------------------------------------------------------------------------------------


def test_an_empty_mask_has_no_diameters() -> None:
    assert rano_diameters(np.zeros((4, 4, 4), bool), np.eye(4), 2) is None


def test_a_voxel_and_a_row_of_voxels_have_no_second_diameter() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 5, 6] = True
    found = measured(mask, scaled(2, 3, 4), axis=0)
    assert found == Diameters(0, 0, 0, 4, (((4, 5, 6), (4, 5, 6)), ((4, 5, 6), (4, 5, 6))))
    mask[4, 2:7, 6] = True
    found = measured(mask, scaled(2, 3, 4), axis=0)
    assert (found.long_mm, found.perpendicular_mm, found.product_mm2) == (12, 0, 0)
    assert found.lines[0] == ((4, 2, 6), (4, 6, 6))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("rows", "columns"), [(1.0, 1.0), (0.5, 1.5)])
def test_a_rectangle_has_the_diameters_of_geometry(axis: int, rows: float, columns: float) -> None:
    """30 × 15 mm between centres: the diagonal, and across it what may lean by 5 degrees.

    A line from side to side that leans by 26.6 degrees would be exactly across; up to 31.6 are allowed, where it is
    9.2 mm off, of which the grids reach 9.
    """
    section = rectangle(round(30 / rows) + 1, round(15 / columns) + 1)
    spacing = np.insert([rows, columns], axis, 7.0)
    affine = turned(33, 1) @ scaled(*spacing)
    found = measured(plane(section, axis), affine, axis)
    assert found.long_mm == pytest.approx(np.hypot(30, 15))
    assert found.perpendicular_mm == pytest.approx(np.hypot(9, 15))
    assert found.product_mm2 == pytest.approx(np.hypot(30, 15) * np.hypot(9, 15))
    assert (found.axis, found.slice_index) == (axis, 1)


def test_a_turned_rectangle_has_the_same_diagonal() -> None:
    """Sides (24, 18) and (-9, 12): 30 and 15 long. Across the diagonal 16.8, and 17.6 leaning by 5 degrees."""
    x, y = np.indices((50, 50)) - np.array([15, 5]).reshape(2, 1, 1)
    along, across = 4 * x + 3 * y, 4 * y - 3 * x
    found = measured(plane((along >= 0) & (along <= 150) & (across >= 0) & (across <= 75)))
    assert found.long_mm == pytest.approx(np.hypot(30, 15))
    assert 16.5 < found.perpendicular_mm <= 15 / np.sin(np.radians(58.43))
    corners = {(15, 5, 1), (39, 23, 1), (30, 35, 1), (6, 17, 1)}
    assert set(found.lines[0]) < corners


@pytest.mark.parametrize("degrees", [0, 30, 77])
def test_an_ellipse_has_the_diameters_of_its_axes(degrees: float) -> None:
    """Half axes of 20 and 10 mm, on pixels of 0.5 × 0.8 mm."""
    x, y = (np.indices((101, 71)) - np.array([50, 35]).reshape(2, 1, 1)) * np.array([0.5, 0.8]).reshape(
        2, 1, 1
    )
    u, v = np.tensordot(turned(degrees)[:2, :2], [x, y], axes=(0, 0))
    section = (u / 20) ** 2 + (v / 10) ** 2 <= 1
    found = measured(plane(section), scaled(0.5, 0.8, 5))
    assert found.long_mm == pytest.approx(40, abs=0.8)
    assert found.perpendicular_mm == pytest.approx(20, abs=0.8)
    assert found.long_mm <= 40


def test_a_ball_is_measured_through_its_middle() -> None:
    index = np.indices((25, 25, 25)) - np.array([12, 11, 13]).reshape(3, 1, 1, 1)
    ball = (index**2).sum(axis=0) <= 100
    for axis, middle in enumerate((12, 11, 13)):
        found = measured(ball, np.eye(4), axis)
        assert (found.long_mm, found.perpendicular_mm, found.slice_index) == (20, 20, middle)


def test_the_largest_product_wins_over_the_longest_line() -> None:
    mask = np.zeros((50, 50, 4), bool)
    mask[2:43, 3:6, 0] = True
    mask[10:21, 10:21, 2] = True
    found = measured(mask)
    assert found.slice_index == 2
    assert found.product_mm2 == pytest.approx(200)


def test_a_smaller_box_may_hold_the_larger_product() -> None:
    """Squared diagonals of 500 and 450; a square fills its own with 450, a rectangle of 20 × 10 about half."""
    mask = np.zeros((30, 30, 4), bool)
    mask[2:23, 2:13, 1] = mask[2:18, 2:18, 2] = True
    assert measured(mask[..., :2]).product_mm2 == pytest.approx(np.sqrt(500 * 136))
    assert measured(mask).product_mm2 == pytest.approx(450)


def test_lesions_of_a_slice_are_measured_apart_and_corners_join() -> None:
    mask = np.zeros((30, 30, 3), bool)
    mask[2:8, 2:8, 1] = mask[20:26, 20:26, 1] = True
    assert measured(mask).long_mm == pytest.approx(np.hypot(5, 5))
    mask[8:14, 8:14, 1] = True
    assert measured(mask).long_mm == pytest.approx(np.hypot(11, 11))


def test_slices_do_not_join_lesions() -> None:
    """Two squares that touch in space only."""
    mask = np.zeros((20, 20, 4), bool)
    mask[2:8, 2:8, 1] = mask[5:14, 5:14, 2] = True
    found = measured(mask)
    assert (found.slice_index, found.long_mm) == (2, pytest.approx(np.hypot(8, 8)))


def test_diameters_cross_necrosis() -> None:
    """The rim that enhances is measured from outer edge to outer edge."""
    x, y = np.indices((31, 31)) - 15
    disc = x**2 + y**2 <= 144
    assert measured(plane(disc & (x**2 + y**2 > 64))) == measured(plane(disc))


@pytest.mark.parametrize("side", [1, 0.1, 1 / 3])
def test_of_equal_longest_diameters_the_one_with_more_across_it_is_taken(side: float) -> None:
    """Both (3, 4) and (5, 0) are 5 long; across the second the triangle measures 4, across the first (3, -2)."""
    triangle = np.zeros((8, 7), bool)
    x, y = np.indices((6, 5))
    triangle[1:7, 1:6] = (3 * y <= 4 * x) & (y <= 2 * (5 - x))
    for section in (triangle, triangle.T, triangle[::-1]):
        found = measured(plane(section), scaled(side, side, 1))
        assert found.product_mm2 == pytest.approx(20 * side**2)


@pytest.mark.parametrize(("radius", "side", "measurable"), [(6, 10 / 12, True), (6, 0.83, False)])
def test_measurable_means_ten_millimetres_both_ways(radius: int, side: float, measurable: bool) -> None:
    """The first disc measures 10 mm, in an affine of single precision a little less."""
    x, y = np.indices((15, 15)) - 7
    affine = scaled(side, side, 1).astype(np.float32).astype(float)
    found = measured(plane(x**2 + y**2 <= radius**2), affine)
    assert found.long_mm < 10
    assert found.measurable is measurable


@pytest.mark.parametrize(("rows", "columns"), [(41, 4), (4, 41)])
def test_a_long_thin_lesion_is_not_measurable(rows: int, columns: int) -> None:
    found = measured(plane(rectangle(rows, columns)))
    assert found.long_mm > 10
    assert not found.measurable


def outline(section: np.ndarray) -> list[np.ndarray]:
    """First and last voxels of each row and column, voxel by voxel."""
    voxels = [tuple(voxel) for voxel in np.argwhere(section)]
    ends = set()
    for axis in (0, 1):
        for line in {voxel[axis] for voxel in voxels}:
            members = sorted(voxel for voxel in voxels if voxel[axis] == line)
            ends |= {members[0], members[-1]}
    return [np.array(voxel) for voxel in sorted(ends)]


def largest_product(mask: np.ndarray, sides: np.ndarray) -> float:
    """The definition, for the slices mask[k]: every pair of points against every other."""
    products = [0.0]
    for section in mask:
        numbered, count = ndimage.label(section, np.ones((3, 3)))
        for number in range(1, count + 1):
            pairs = combinations_with_replacement(outline(numbered == number), 2)
            lines = [(a - b) * sides for a, b in pairs]
            lengths = [float(np.linalg.norm(line)) for line in lines]
            for line, length in zip(lines, lengths, strict=True):
                if length > max(lengths) - 1e-6:
                    across = [
                        other
                        for vector, other in zip(lines, lengths, strict=True)
                        if abs(line @ vector) <= SINE * length * other
                    ]
                    products.append(length * max(across))
    return max(products)


@given(mask=MASKS, axis=st.integers(0, 2))
def test_diameters_are_as_defined(mask: np.ndarray, axis: int) -> None:
    spacing = np.array([1.0, 1.5, 0.7])
    found = rano_diameters(mask, turned(20) @ scaled(*spacing), axis)
    assert (found is None) == (not mask.any())
    if found is None:
        return
    expected = largest_product(np.moveaxis(mask, axis, 0), np.delete(spacing, axis))
    assert found.product_mm2 == pytest.approx(expected)
    lines = np.array(found.lines)
    assert lines.shape == (2, 2, 3)
    assert (lines[..., axis] == found.slice_index).all()
    assert mask[tuple(lines.reshape(-1, 3).T)].all()
    vectors = (lines[:, 0] - lines[:, 1]) * spacing
    lengths = found.long_mm, found.perpendicular_mm
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), lengths)
    assert abs(vectors[0] @ vectors[1]) <= SINE * np.prod(lengths) + 1e-9


@given(mask=MASKS, order=st.sampled_from(ORDERS), flip=st.sampled_from([1, -1]))
def test_how_an_image_is_stored_plays_no_part(mask: np.ndarray, order: tuple[int, ...], flip: int) -> None:
    spacing = np.array([2.0, 1.0, 1.0])
    stored = rano_diameters(mask, scaled(*spacing), 0)
    moved = mask.transpose(order)[:, ::flip]
    again = rano_diameters(moved, scaled(*spacing[list(order)]), order.index(0))
    assert (again is None) == (stored is None)
    if again is not None and stored is not None:
        assert again.product_mm2 == pytest.approx(stored.product_mm2)
