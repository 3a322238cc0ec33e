"""Releases with different label numbers in one folder: each case follows its own scheme, and none by default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from m3ae_core.errors import ConfigError
from m3ae_core.io.case import CaseFiles
from m3ae_core.io.folders.schemes import (
    scheme_words,
    schemes_of,
    weights_of,
    with_schemes,
)
from m3ae_core.regions import BRATS_2021, BRATS_2023, MSD, LabelScheme

CASES = [
    CaseFiles("BraTS2021_00002", {"T1": Path("/cohort/brats2021/BraTS2021_00002/t1.nii")}, None),
    CaseFiles("BraTS-GLI-00012-000", {"T1": Path("/cohort/brats2021/BraTS-GLI-00012-000/t1.nii")}, None),
    CaseFiles("BraTS-SSA-00002-000", {"T1": Path("/cohort/africa/BraTS-SSA-00002-000/t1.nii")}, None),
]


def test_the_last_rule_that_fits_holds() -> None:
    found = schemes_of(CASES, ["msd", "brats2021=brats2021", "BraTS-GLI-*=brats2023"])
    assert list(found.values()) == [BRATS_2021, BRATS_2023, MSD]


def test_what_a_manifest_states_of_a_case_goes_before_rules() -> None:
    cases = [replace(CASES[0], scheme="msd"), *CASES[1:]]
    assert list(schemes_of(cases, ["brats2023"]).values()) == [MSD, BRATS_2023, BRATS_2023]
    assert schemes_of(cases[:1], []) == {"BraTS2021_00002": MSD}
    assert scheme_words(schemes_of(cases, ["brats2023"])) == "label scheme (cases): msd (1), brats2023 (2)"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["msd"], [MSD, MSD, MSD]),
        (["msd", "brats2021"], [MSD, BRATS_2021, BRATS_2021]),
        ([], "no-scheme"),
        (["msd", "msd", "msd"], "arguments"),
    ],
)
def test_schemes_of_several_folders(names: list[str], expected: list[LabelScheme] | str) -> None:
    folders = [CASES[:1], CASES[1:]]
    if isinstance(expected, str):
        with pytest.raises(ConfigError) as caught:
            with_schemes(folders, names)
        assert caught.value.code == expected
    else:
        assert with_schemes(folders, names) == list(zip(CASES, expected, strict=True))


def test_schemes_of_one_name_in_two_files_are_told_apart(tmp_path: Path) -> None:
    for folder, number in (("a", 4), ("b", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ours.toml").write_text(
            f'"necrotic core"=1\noedema=2\n"enhancing tumour"={number}'
        )
    cases = [
        replace(case, scheme=str(tmp_path / f / "ours.toml")) for case, f in zip(CASES, "ab", strict=False)
    ]
    assert scheme_words(schemes_of(cases, [])) == (
        "label scheme (cases): ours (enhancing tumour 4, necrotic core 1, oedema 2) (1), "
        "ours (enhancing tumour 5, necrotic core 1, oedema 2) (1)"
    )


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        (["brats2021=brats2021"], "no-scheme"),
        ([], "no-scheme"),
        (["brats2023", "BraTS2020_*=brats2021"], "no-such-case"),
        (["brats2022"], "scheme"),
    ],
)
def test_what_cannot_be_told_is_refused(rules: list[str], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schemes_of(CASES, rules)
    assert caught.value.code == code


def test_weights_are_those_of_the_last_rule_and_else_1() -> None:
    found = weights_of(CASES, ["brats2021=0.5", "BraTS-GLI-*=0.2"])
    assert found == {"BraTS2021_00002": 0.5, "BraTS-GLI-00012-000": 0.2}


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("africa=0", "weight"),
        ("africa=1.5", "weight"),
        ("africa=much", "weight"),
        ("0.5", "weight"),
        ("x=1", "no-such-case"),
    ],
)
def test_what_is_no_weight_is_refused(rule: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        weights_of(CASES, [rule])
    assert caught.value.code == code
