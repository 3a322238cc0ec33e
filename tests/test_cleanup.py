"""Edits of a label map: known answers by hand, plain references, and what must hold for any map."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from m3ae_core.cleanup import fill_holes, largest_component, remove_islands, smooth

Edit = Callable[[np.ndarray], np.ndarray]

CUBE = (1.0, 1.0, 1.0)
AROUND = np.ones((3, 3, 3), bool)
EDITS: dict[str, Edit] = {
    "largest_component": largest_component,
    "fill_holes": fill_holes,
    "remove_islands": lambda labels: remove_islands(labels, (1, 2, 0.5), 4),
    "smooth": lambda labels: smooth(labels, (1, 2, 0.5), 1),
}
ALL_EDITS = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)
MAPS = st.sampled_from([(0, 1, 2, 4), (0, 0, 0, 0, 0, 3), (0, 1, 1, 1, 1, 2)]).flatmap(
    lambda values: hnp.arrays(np.uint8, SHAPES, elements=st.sampled_from(values), fill=st.nothing())
)


def background(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def components(mask: np.ndarray) -> list[np.ndarray]:
    numbered, count = ndimage.label(mask, AROUND)
    return [numbered == number for number in range(1, count + 1)]


# --- any edit --------------------------------------------------------------------------------------


@ALL_EDITS
@given(labels=MAPS)
def test_an_edit_returns_a_map_of_the_same_kind(edit: Edit, labels: np.ndarray) -> None:
    given_map = labels.copy()
    edited = edit(labels)
    np.testing.assert_array_equal(labels, given_map)
    assert not np.shares_memory(edited, labels)
    assert (edited.shape, edited.dtype) == (labels.shape, np.uint8)
    assert set(np.unique(edited)) <= {0, *np.unique(labels)}


@ALL_EDITS
def test_an_edit_leaves_an_empty_map_empty(edit: Edit) -> None:
    np.testing.assert_array_equal(edit(background(4, 3, 2)), background(4, 3, 2))


@ALL_EDITS
def test_an_edit_accepts_a_read_only_map_in_any_memory_order(edit: Edit) -> None:
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((7, 8, 9)) < 0.2, rng.integers(1, 4, (7, 8, 9)), 0).astype(np.uint8)
    expected = edit(labels)
    fortran = np.asfortranarray(labels)
    fortran.flags.writeable = False
    np.testing.assert_array_equal(edit(fortran), expected)
    np.testing.assert_array_equal(edit(labels[::-1])[::-1], edit(labels[::-1].copy())[::-1])


# --- largest component -----------------------------------------------------------------------------


def test_the_largest_component_stays_with_its_tissues() -> None:
    """Two tissues of three voxels each outweigh one of five."""
    labels = background(9, 4, 4)
    labels[1:4, 1, 1], labels[1:4, 2, 1] = 1, 4
    labels[7, 1:3, 1:3] = labels[8, 1, 1] = 2
    expected = labels.copy()
    expected[7:] = 0
    np.testing.assert_array_equal(largest_component(labels), expected)


def test_voxels_that_share_a_corner_belong_together() -> None:
    labels = background(7, 4, 4)
    for index in range(3):
        labels[index, index, index] = 1 + index % 2
    labels[5:7, 0, 0] = 2
    expected = labels.copy()
    expected[5:7] = 0
    np.testing.assert_array_equal(largest_component(labels), expected)


def test_of_equal_components_the_first_stays() -> None:
    labels = background(2, 5, 5)
    labels[0, 0, 4], labels[0, 4, 0], labels[1, 2, 2] = 1, 2, 3
    expected = background(2, 5, 5)
    expected[0, 0, 4] = 1
    np.testing.assert_array_equal(largest_component(labels), expected)


@given(labels=MAPS)
def test_the_largest_component_is_one_and_the_largest(labels: np.ndarray) -> None:
    kept = largest_component(labels)
    sizes = [np.count_nonzero(part) for part in components(labels > 0)]
    assert [np.count_nonzero(part) for part in components(kept > 0)] == ([max(sizes)] if sizes else [])
    np.testing.assert_array_equal(kept[kept > 0], labels[kept > 0])
    np.testing.assert_array_equal(largest_component(kept), kept)


# --- holes -----------------------------------------------------------------------------------------


def shell(*side: int) -> np.ndarray:
    """A closed box of label 2 around a cavity, one voxel thick, with a voxel of background around it."""
    labels = background(*(n + 2 for n in side))
    labels[1:-1, 1:-1, 1:-1] = 2
    labels[2:-2, 2:-2, 2:-2] = 0
    return labels


def test_a_cavity_is_filled() -> None:
    labels = shell(5, 6, 7)
    expected = labels.copy()
    expected[2:-2, 2:-2, 2:-2] = 2
    np.testing.assert_array_equal(fill_holes(labels), expected)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("end", [0, -1])
def test_a_cavity_at_the_border_of_the_array_is_no_hole(axis: int, end: int) -> None:
    """Nobody sees what closes it. One slice further in it is one."""
    labels = np.moveaxis(shell(5, 5, 5), axis, 0)
    if end == 0:
        labels = labels[::-1]
    open_to_the_border, closed = labels[:-2], labels[:-1]
    np.testing.assert_array_equal(fill_holes(open_to_the_border), open_to_the_border)
    assert np.count_nonzero(fill_holes(closed)) == 125


def test_a_leak_through_a_face_opens_a_cavity_and_one_through_an_edge_does_not() -> None:
    """Background is 6-connected: it does not pass between voxels that share an edge."""
    labels = shell(4, 4, 4)
    labels[2, 2, 1] = 0
    np.testing.assert_array_equal(fill_holes(labels), labels)
    labels = shell(4, 4, 4)
    labels[1, 1, 2] = 0
    assert np.count_nonzero(fill_holes(labels)) == 4**3 - 1


def test_a_hole_takes_the_commonest_label_around_it() -> None:
    """26 voxels around one: 9 of label 1, 9 of label 4, 8 of label 2, though four of six faces are label 2."""
    labels = background(3, 3, 3)
    labels[0], labels[1], labels[2] = 1, 2, 4
    labels[1, 1, 1] = 0
    assert fill_holes(labels)[1, 1, 1] == 1
    labels[0, 0, 0] = 4
    assert fill_holes(labels)[1, 1, 1] == 4


def test_a_voxel_around_a_hole_has_one_vote() -> None:
    """A hole of three voxels in a row: 26 of label 4 around it, and 16 of label 1 that touch it more often."""
    labels = np.full((5, 3, 3), 4, np.uint8)
    labels[1:3] = 1
    labels[1:4, 1, 1] = 0
    np.testing.assert_array_equal(fill_holes(labels)[1:4, 1, 1], [4, 4, 4])


def test_every_hole_looks_at_its_own_surroundings() -> None:
    labels = background(9, 5, 5)
    labels[1:4, 1:4, 1:4], labels[4:8, 1:4, 1:4] = 1, 3
    labels[2, 2, 2] = labels[6, 2, 2] = 0
    filled = fill_holes(labels)
    assert (filled[2, 2, 2], filled[6, 2, 2]) == (1, 3)


@given(labels=MAPS)
def test_what_is_filled_is_what_tumour_encloses(labels: np.ndarray) -> None:
    filled = fill_holes(labels)
    np.testing.assert_array_equal(filled > 0, ndimage.binary_fill_holes(labels > 0))
    np.testing.assert_array_equal(filled[labels > 0], labels[labels > 0])


# --- islands ---------------------------------------------------------------------------------------


def test_an_isolated_island_vanishes_and_one_in_tissue_takes_its_label() -> None:
    labels = background(12, 6, 6)
    labels[1:6, 1:5, 1:5] = 2
    labels[3, 2, 2] = 1
    labels[9:11, 3, 3] = 4
    expected = labels.copy()
    expected[3, 2, 2], expected[9:11] = 2, 0
    np.testing.assert_array_equal(remove_islands(labels, CUBE, 3), expected)


@pytest.mark.parametrize(("smallest", "left"), [(6, 4), (6.1, 0)])
def test_islands_are_measured_in_mm3(smallest: float, left: int) -> None:
    """Four voxels of 0.5 × 1 × 3 mm, joined by corners: 6 mm³."""
    labels = background(6, 6, 6)
    for index in range(1, 5):
        labels[index, index, index] = 3
    assert np.count_nonzero(remove_islands(labels, (0.5, 1, 3), smallest)) == left


def test_an_island_of_the_smallest_size_stays_in_single_precision() -> None:
    side = float(np.float32(0.7))
    labels = background(10, 1, 1) + np.uint8(1)
    assert 10 * side**3 < 3.43
    np.testing.assert_array_equal(remove_islands(labels, (side, side, side), 3.43), labels)


@pytest.mark.parametrize(("touching", "wins"), [((2, 1), 2), ((1, 2), 4), ((1, 1), 2)])
def test_an_island_takes_the_commonest_label_beside_it(touching: tuple[int, int], wins: int) -> None:
    """Bars of label 2 and 4 reach the island with one voxel or two; of equals, the smaller value."""
    labels = background(9, 9, 3)
    labels[4, 4, 1] = 1
    labels[3, 4 : 4 + touching[0], 1] = labels[0:3, 5, 1] = 2
    labels[5, 4 : 4 + touching[1], 1] = labels[6:9, 5, 1] = 4
    assert remove_islands(labels, CUBE, 4)[4, 4, 1] == wins


def test_islands_do_not_vouch_for_each_other() -> None:
    """Two specks side by side vanish, and within a tissue both take its label."""
    labels = background(7, 7, 7)
    labels[3, 3, 3], labels[3, 3, 4] = 1, 4
    assert not remove_islands(labels, CUBE, 2).any()
    within = np.where(labels, labels, 2).astype(np.uint8)
    assert (remove_islands(within, CUBE, 2) == 2).all()


def islands_removed(labels: np.ndarray, smallest: int) -> np.ndarray:
    """The definition, one island after the other."""
    found = [part for value in (1, 2, 3, 4) for part in components(labels == value) if part.sum() < smallest]
    stays = np.where(np.any(found, axis=0), 0, labels) if found else labels
    result = stays.copy()
    for part in found:
        votes = np.bincount(stays[ndimage.binary_dilation(part, AROUND)], minlength=5)
        result[part] = 0 if not votes[1:].any() else 1 + votes[1:].argmax()
    return result


@given(labels=MAPS, smallest=st.integers(0, 9))
def test_islands_are_removed_as_defined(labels: np.ndarray, smallest: int) -> None:
    cleaned = remove_islands(labels, CUBE, smallest)
    np.testing.assert_array_equal(cleaned, islands_removed(labels, smallest))
    np.testing.assert_array_equal(remove_islands(cleaned, CUBE, smallest), cleaned)
    sizes = [part.sum() for value in (1, 2, 3, 4) for part in components(cleaned == value)]
    assert all(size >= smallest for size in sizes)


@given(labels=MAPS, order=st.sampled_from(list(permutations(range(3)))))
def test_axes_play_no_part_in_islands(labels: np.ndarray, order: tuple[int, ...]) -> None:
    spacing = (0.5, 1.0, 2.0)
    moved = remove_islands(labels.transpose(order)[::-1], [spacing[axis] for axis in order], 4)
    np.testing.assert_array_equal(moved[::-1], remove_islands(labels, spacing, 4).transpose(order))


# --- smoothing -------------------------------------------------------------------------------------


def test_smoothing_takes_off_a_bump_and_keeps_a_flat_face() -> None:
    labels = background(16, 16, 16)
    labels[:8] = 2
    bumpy = labels.copy()
    bumpy[8, 8, 8], bumpy[7, 4, 4] = 2, 0
    np.testing.assert_array_equal(smooth(bumpy, CUBE, 1), labels)


def test_smoothing_settles_by_plurality() -> None:
    """Standard deviation of two voxels: 0.20 for the middle, then 0.18, 0.12, 0.06, … on either side.

    Label 4 has the left side, 0.40; label 2 has 0.18 + 0.06, label 1 its own 0.20, background 0.16.
    """
    labels = np.array([4, 4, 4, 1, 2, 0, 2, 0], np.uint8).reshape(8, 1, 1)
    assert smooth(labels, CUBE, 2)[3, 0, 0] == 4
    labels[:3] = [[[4]], [[2]], [[4]]]
    assert smooth(labels, CUBE, 2)[3, 0, 0] == 2


def test_of_equal_labels_the_smaller_prevails() -> None:
    """The gap in the middle is as near to the one as to the other."""
    labels = np.array([4, 4, 0, 2, 2], np.uint8).reshape(5, 1, 1)
    np.testing.assert_array_equal(smooth(labels, CUBE, 2).ravel(), [4, 4, 2, 2, 2])


@pytest.mark.parametrize("axis", range(3))
def test_the_radius_is_in_mm(axis: int) -> None:
    """A sheet one voxel thin vanishes across 1 mm and stays across 10 mm."""
    labels = background(9, 9, 9)
    labels[(slice(None),) * axis + (4,)] = 1
    spacing = [10.0, 10.0, 10.0]
    np.testing.assert_array_equal(smooth(labels, spacing, 1), labels)
    spacing[axis] = 1
    assert not smooth(labels, spacing, 1).any()


def test_tumour_at_the_border_of_the_array_is_taken_to_go_on() -> None:
    labels = background(8, 8, 8)
    labels[0] = 3
    np.testing.assert_array_equal(smooth(labels, CUBE, 1), labels)


@given(labels=MAPS)
def test_no_radius_changes_nothing(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(smooth(labels, CUBE, 0), labels)


@given(
    labels=MAPS, radius=st.sampled_from([0.4, 0.8, 1.5, 4.0]), low=st.integers(0, 4), high=st.integers(0, 4)
)
def test_smoothing_within_a_box_is_smoothing_the_whole(
    labels: np.ndarray, radius: float, low: int, high: int
) -> None:
    labels = np.pad(labels, [(low, high), (high, low), (0, high)])
    spacing = (1.0, 0.5, 2.0)
    values = np.unique([0, *np.unique(labels)])
    sigma = [radius / side for side in spacing]
    shares = [
        ndimage.gaussian_filter((labels == value).astype(np.float32), sigma, mode="nearest")
        for value in values
    ]
    expected = values[np.argmax(shares, axis=0)]
    np.testing.assert_array_equal(smooth(labels, spacing, radius), expected)
