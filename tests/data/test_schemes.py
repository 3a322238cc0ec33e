"""Releases with different label numbers in one folder: each case follows its own scheme, and none by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3ae_core.data.case import CaseFiles
from m3ae_core.data.schemes import schemes_of
from m3ae_core.errors import ConfigError
from m3ae_core.regions import BRATS_2021, BRATS_2023, MSD

CASES = [
    CaseFiles("BraTS2021_00002", {"T1": Path("/cohort/brats2021/BraTS2021_00002/t1.nii")}, None),
    CaseFiles("BraTS-GLI-00012-000", {"T1": Path("/cohort/brats2021/BraTS-GLI-00012-000/t1.nii")}, None),
    CaseFiles("BraTS-SSA-00002-000", {"T1": Path("/cohort/africa/BraTS-SSA-00002-000/t1.nii")}, None),
]


def test_the_last_rule_that_fits_holds() -> None:
    found = schemes_of(CASES, ["msd", "brats2021=brats2021", "BraTS-GLI-*=brats2023"])
    assert list(found.values()) == [BRATS_2021, BRATS_2023, MSD]


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
