"""Classes and regions: one-hot, exact sums of probabilities, nested."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3ae_core.methods.tissues import class_masks, memberships, region_logits
from m3ae_core.regions import regions_named

NESTED = ("WT", "TC", "ET")
some_regions = st.lists(st.sampled_from(NESTED), min_size=1, max_size=3, unique=True)


def test_the_classes_of_brats() -> None:
    """Background, necrotic core, oedema and enhancing tumour, in WT, TC and ET."""
    assert memberships(regions_named(NESTED)).tolist() == [
        [False, False, False],
        [True, True, False],
        [True, False, False],
        [True, True, True],
    ]


@given(some_regions, st.integers(0, 99))
def test_regions_are_sums_of_class_probabilities(names: list[str], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    members = memberships(regions_named(names))
    assert len(members) == 1 + len(names)
    logits = 5 * torch.randn(2, len(members), 2, 3, 4, generator=generator, dtype=torch.float64)
    sums = torch.einsum("kr,bkdhw->brdhw", members.double(), logits.softmax(1))
    torch.testing.assert_close(region_logits(logits, members).sigmoid(), sums)


@pytest.mark.parametrize("names", [NESTED, NESTED[::-1], ("WT", "ET"), ("TC",)])
def test_every_voxel_is_of_one_class_that_gives_its_regions_back(names: tuple[str, ...]) -> None:
    depth = torch.arange(4).reshape(1, 1, 4, 1, 1)
    regions = torch.cat([depth > NESTED.index(name) for name in names], 1)
    members = memberships(regions_named(names))
    masks = class_masks(regions, members)
    assert masks.sum(1).eq(1).all()
    assert torch.equal(region_logits(100.0 * masks, members) > 0, regions)


def test_regions_stay_nested_where_logits_are_extreme() -> None:
    logits = 1e4 * torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    wt, tc, et = region_logits(logits, memberships(regions_named(NESTED)))[0]
    assert (wt >= tc).all()
    assert (tc >= et).all()
    assert torch.isfinite(wt).all()
