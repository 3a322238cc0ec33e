"""Labels become regions and come back; what is ambiguous is never guessed."""

from __future__ import annotations

from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m3ae_core.errors import ConfigError, InputError
from m3ae_core.regions import (
    BRATS_2021,
    BRATS_2023,
    BRATS_2024,
    BRATS_PEDS,
    CAVITY,
    COLOURS,
    CYST,
    ENHANCING,
    ET,
    MSD,
    NECROSIS,
    OEDEMA,
    REGIONS,
    SCHEMES,
    TC,
    WT,
    LabelScheme,
    Region,
    convert,
    decode,
    detect_scheme,
    encode,
    regions_named,
    scheme_named,
)

ALL_SCHEMES = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)


def maps(scheme: LabelScheme) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.uint8, SHAPES, elements=st.sampled_from([0, *map(scheme.value, COLOURS)]))


def powerset(values: list[int]) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(values, size) for size in range(len(values) + 1)))


def test_the_schemes_are_those_of_the_releases() -> None:
    """Numbers as published: BraTS 2017-2021, BraTS 2023-, MSD Task01."""
    table = {
        scheme.name: [scheme.value(t) for t in (NECROSIS, OEDEMA, ENHANCING)] for scheme in SCHEMES.values()
    }
    assert table == {
        "brats2021": [1, 2, 4],
        "brats2023": [1, 2, 3],
        "brats2024": [1, 2, 3],
        "brats-peds": [2, 4, 1],
        "msd": [2, 1, 3],
    }
    assert BRATS_2024.value(CAVITY) == 4
    assert BRATS_PEDS.value(CYST) == 3
    assert BRATS_2021.allowed == {0, 1, 2, 4}
    assert BRATS_2023.allowed == MSD.allowed == {0, 1, 2, 3}
    assert set(COLOURS) == {NECROSIS, OEDEMA, ENHANCING}


def test_the_regions_are_nested() -> None:
    assert ET.tissues < TC.tissues < WT.tissues
    assert [region.name for region in REGIONS] == ["WT", "TC", "ET"]


def test_encode_by_hand() -> None:
    labels = np.array([[[0, 1, 2, 4]]], np.uint8)
    masks = encode(labels, BRATS_2021)
    assert masks.dtype == bool
    assert masks.shape == (3, 1, 1, 4)
    assert masks[:, 0, 0].astype(int).tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    assert encode(np.array([[[1, 2]]]), MSD)[1, 0, 0].tolist() == [False, True]


@given(st.data())
@ALL_SCHEMES
def test_encode_then_decode_is_the_identity(scheme: LabelScheme, data: st.DataObject) -> None:
    labels = data.draw(maps(scheme))
    masks = encode(labels, scheme)
    back = decode(masks, scheme)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels)
    assert (masks[2] <= masks[1]).all()
    assert (masks[1] <= masks[0]).all()


@given(st.data())
@ALL_SCHEMES
def test_decode_then_encode_makes_any_masks_nested(scheme: LabelScheme, data: st.DataObject) -> None:
    masks = data.draw(
        hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=4).map(lambda s: (3, *s)))
    )
    nested = encode(decode(masks, scheme), scheme)
    np.testing.assert_array_equal(nested[2], masks[2])
    np.testing.assert_array_equal(nested[1], masks[1] | masks[2])
    np.testing.assert_array_equal(nested[0], masks.any(axis=0))


@given(st.data())
def test_a_label_map_can_change_its_scheme(data: st.DataObject) -> None:
    labels = data.draw(maps(BRATS_2021))
    for scheme in (BRATS_2023, MSD):
        there = decode(encode(labels, BRATS_2021), scheme)
        np.testing.assert_array_equal(decode(encode(there, scheme), BRATS_2021), labels)
        np.testing.assert_array_equal(there == scheme.value(OEDEMA), labels == 2)


@pytest.mark.parametrize("target", SCHEMES.values(), ids=SCHEMES)
@ALL_SCHEMES
def test_converting_keeps_every_tissue(scheme: LabelScheme, target: LabelScheme) -> None:
    labels = np.array([[[0, *(scheme.value(tissue) for tissue in COLOURS)]]], np.int16)
    converted = convert(labels, scheme, target)
    assert converted.dtype == np.uint8
    assert converted.tolist() == [[[0, *(target.value(tissue) for tissue in COLOURS)]]]


def test_converting_refuses_what_the_scheme_does_not_reach() -> None:
    with pytest.raises(IndexError):
        convert(np.array([[[5]]]), BRATS_2021, MSD)


def test_a_mask_of_a_tissue_that_is_no_region_tells_nothing() -> None:
    oedema = Region("ED", frozenset({OEDEMA}))
    labels = np.array([[[0, 1, 2, 3]]], np.uint8)
    masks = encode(labels, BRATS_2023, (oedema, ET))
    assert masks[0].ravel().tolist() == [False, False, True, False]
    assert decode(masks, BRATS_2023, (oedema, ET)).ravel().tolist() == [0, 0, 0, 3]


def test_the_order_of_the_regions_is_free() -> None:
    labels = np.array([[[0, 1, 2, 3]]], np.uint8)
    order = (ET, WT, TC)
    np.testing.assert_array_equal(encode(labels, BRATS_2023, order), encode(labels, BRATS_2023)[[2, 0, 1]])
    np.testing.assert_array_equal(decode(encode(labels, BRATS_2023, order), BRATS_2023, order), labels)


def test_fewer_regions_tell_fewer_tissues_apart() -> None:
    labels = np.array([[[0, 1, 2, 3]]], np.uint8)
    assert decode(encode(labels, BRATS_2023, (WT,)), BRATS_2023, (WT,)).ravel().tolist() == [0, 2, 2, 2]
    assert decode(encode(labels, BRATS_2023, (TC, ET)), BRATS_2023, (TC, ET)).ravel().tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64, np.uint16])
def test_any_integer_type(dtype: type) -> None:
    labels = np.array([[[0, 1, 2, 3]]])
    np.testing.assert_array_equal(
        encode(labels.astype(dtype), BRATS_2023), encode(labels.astype(np.uint8), BRATS_2023)
    )


@ALL_SCHEMES
def test_unknown_labels_are_counted(scheme: LabelScheme) -> None:
    labels = np.zeros((2, 2, 2), np.int16)
    labels[0] = 7
    labels[1, 0, 0] = -1
    with pytest.raises(InputError, match=r"-1 \(1 voxels\), 7 \(4 voxels\)") as caught:
        encode(labels, scheme)
    assert caught.value.code == "labels-unknown"
    assert caught.value.problem.startswith(f"The label map holds values that scheme {scheme.name} does not")
    assert (
        caught.value.fix == f"Allowed are {sorted(scheme.allowed)}; correct the map or name another scheme."
    )


def test_a_scheme_is_not_taken_for_another() -> None:
    for scheme, foreign in ((BRATS_2021, 3), (BRATS_2023, 4), (MSD, 4)):
        with pytest.raises(InputError):
            encode(np.full((1, 1, 1), foreign, np.uint8), scheme)


# --- which scheme is it? ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "possible"),
    [
        ((4,), "brats2021, brats2024, brats-peds"),
        ((0, 1, 2, 4), "brats2021, brats2024, brats-peds"),
        ((3, 4), "brats2024, brats-peds"),
    ],
)
def test_label_4_is_a_question_too(values: tuple[int, ...], possible: str) -> None:
    """Enhancing tumour up to 2021, a cavity in 2024, oedema in children."""
    with pytest.raises(InputError) as caught:
        detect_scheme(np.array(values))
    assert caught.value.code == "scheme-ambiguous"
    assert caught.value.fix == f"State the label scheme: {possible}."


def test_a_cavity_belongs_to_no_region_and_a_cyst_to_the_core() -> None:
    labels = np.array([[[0, 1, 2, 3, 4]]], np.uint8)
    assert encode(labels, BRATS_2024)[:, 0, 0].astype(int).tolist() == [
        [0, 1, 1, 1, 0],
        [0, 1, 0, 1, 0],
        [0, 0, 0, 1, 0],
    ]
    assert encode(labels, BRATS_PEDS)[:, 0, 0].astype(int).tolist() == [
        [0, 1, 1, 1, 1],
        [0, 1, 1, 1, 0],
        [0, 1, 0, 0, 0],
    ]
    assert convert(labels, BRATS_2024, BRATS_2021).tolist() == [[[0, 1, 2, 4, 0]]]
    assert convert(labels, BRATS_PEDS, BRATS_2023).tolist() == [[[0, 3, 1, 1, 2]]]


@pytest.mark.parametrize("values", powerset([0, 1, 2, 3]))
def test_everything_below_4_is_ambiguous(values: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        detect_scheme(values)
    assert caught.value.code == "scheme-ambiguous"
    assert caught.value.problem == (
        f"The label values {sorted(set(values) - {0})} are ambiguous: "
        "releases of BraTS and MSD number the tissues differently."
    )
    schemes = "brats2023, brats2024, brats-peds, msd" if 3 in values else ", ".join(SCHEMES)
    assert caught.value.fix == f"State the label scheme: {schemes}."


def test_numbers_of_numpy_are_shown_as_numbers() -> None:
    with pytest.raises(InputError, match=r"values \[1, 3\] are"):
        detect_scheme(np.unique([0, 1, 3]))


@pytest.mark.parametrize("values", [(5,), (-1, 4), (0, 255), (10, 1)])
def test_values_of_no_scheme(values: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        detect_scheme(values)
    assert caught.value.code == "labels-unknown"
    assert caught.value.problem == f"The label values {sorted(set(values) - {0})} belong to no known scheme."
    assert caught.value.fix == (
        "Expected one of brats2021 [0, 1, 2, 4], brats2023 [0, 1, 2, 3], brats2024 [0, 1, 2, 3, 4], "
        "brats-peds [0, 1, 2, 3, 4], msd [0, 1, 2, 3]."
    )


# --- names -----------------------------------------------------------------------------------------


def test_regions_by_name() -> None:
    assert regions_named(["ET", "WT"]) == (ET, WT)
    assert regions_named(name for name in ("WT", "TC", "ET")) == REGIONS
    with pytest.raises(ConfigError, match=r"^Unknown region 'NET'. Choose from WT, TC, ET.$") as caught:
        regions_named(["WT", "NET"])
    assert caught.value.code == "regions"


def test_schemes_by_name() -> None:
    for name, scheme in SCHEMES.items():
        assert scheme_named(name) is scheme
    with pytest.raises(
        ConfigError, match=r"^Unknown label scheme 'brats'. Choose from brats2021, "
    ) as caught:
        scheme_named("brats")
    assert caught.value.code == "scheme"
    assert caught.value.fix == f"Choose from {', '.join(SCHEMES)}, or write a scheme into a .toml file."


def test_a_scheme_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text('"necrotic core" = 7\noedema = 9\n"enhancing tumour" = 2\n"resection cavity" = 1\n')
    scheme = scheme_named(str(path))
    assert scheme.name == "ours"
    assert [scheme.value(tissue) for tissue in (NECROSIS, OEDEMA, ENHANCING, CAVITY)] == [7, 9, 2, 1]
    masks = np.array([[True, True, True, False], [True, True, False, False], [True, False, False, False]])
    np.testing.assert_array_equal(encode(decode(masks, scheme), scheme), masks)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("oedema = ", "cannot be read"),
        ("oedema = 1", "lacks a tissue or holds an unknown one: enhancing tumour, necrotic core"),
        ('"necrotic core" = 1\noedema = 2\n"enhancing tumour" = 3\nfat = 4', "unknown one: fat"),
        ('"necrotic core" = 1\noedema = 1\n"enhancing tumour" = 3', "a number of its own"),
        ('"necrotic core" = 0\noedema = 1\n"enhancing tumour" = 3', "a number of its own"),
        ('"necrotic core" = true\noedema = 2\n"enhancing tumour" = 3', "a number of its own"),
        ('"necrotic core" = "1"\noedema = 2\n"enhancing tumour" = 3', "a number of its own"),
    ],
)
def test_a_file_that_holds_no_scheme(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        scheme_named(str(tmp_path / "ours.toml"))
    assert caught.value.code == "scheme"


def test_a_scheme_in_a_file_is_not_taken_for_a_release(tmp_path: Path) -> None:
    """A record names the scheme: the name of a release must mean its numbers."""
    (tmp_path / "msd.toml").write_text('"necrotic core" = 1\noedema = 2\n"enhancing tumour" = 3')
    with pytest.raises(ConfigError, match=r"msd\.toml is called like a release") as caught:
        scheme_named(str(tmp_path / "msd.toml"))
    assert caught.value.code == "scheme"
    assert caught.value.fix == "State msd, or rename the file."


def test_a_scheme_is_identified_by_its_numbers_unless_it_is_a_release() -> None:
    assert MSD.identity == "msd"
    own = LabelScheme("ours", MSD.values)
    assert own.identity == "ours (enhancing tumour 3, necrotic core 2, oedema 1)"
    assert own.identity == LabelScheme("ours", MSD.values[::-1]).identity
    assert (
        LabelScheme("msd", BRATS_2023.values).identity
        == "msd (enhancing tumour 3, necrotic core 1, oedema 2)"
    )


def test_a_scheme_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read"):
        scheme_named("gone.toml")
