"""What the masked autoencoder is shown and what it answers: every voxel is the case's or the substitute's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.data.preprocess import standardise
from m3ae_core.errors import BundleError, ConfigError, InputError
from m3ae_core.io.case import Case
from m3ae_core.io.grid import Grid
from m3ae_core.io.volume import Volume
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.reconstruction import pretrained_patch, reconstruct
from m3ae_core.methods.m3ae.substitute import SubstituteImage, fill
from m3ae_core.methods.reconstructed import Fidelity, Reconstruction
from m3ae_core.modalities import BRATS
from tiny import RECIPE, random_bundle

CASE = Case("phantom", BRATS, {name: Volume(data, AFFINE) for name, data in phantom()[0].items()})
SHAPE = RECIPE.model.grid.shape


class Echo(nn.Module):
    """Stands in for the autoencoder: keeps its input and answers with it, plus a tenth."""

    def forward(self, x):
        self.seen = x.clone()
        return x + 0.1


@pytest.fixture(scope="module")
def model() -> M3AE:
    return random_bundle().model


def with_autoencoder(model: M3AE, network: nn.Module | None) -> M3AE:
    return M3AE.of(model.config, model.substitute, network)


@pytest.fixture(scope="module")
def echo(model) -> M3AE:
    """For what does not depend on the network."""
    return with_autoencoder(model, Echo())


@pytest.fixture(scope="module")
def found(model) -> Reconstruction:
    return reconstruct(model, CASE.without("T1"), dropped=["T2"], ratio=0.875, seed=3, patch=8)


def cropped_template(model: M3AE, shape: tuple[int, int, int]) -> M3AE:
    """The model on a smaller template whose sides nothing divides."""
    grid = model.config.grid.model_copy(update={"shape": shape})
    image = model.substitute[:, : shape[0], : shape[1], : shape[2]].contiguous()
    return M3AE.restored(
        model.config.model_copy(update={"grid": grid}), model.networks, {"substitute": image}
    )


# --- what goes in ----------------------------------------------------------------------------------


def test_shapes_and_kinds(found):
    for array in (found.image, found.filled, found.output, found.composite, found.error):
        assert array.shape == (4, *SHAPE)
        assert array.dtype == np.float32
    assert found.masked.shape == (4, *SHAPE)
    assert found.masked.dtype == bool
    assert found.modalities == BRATS.names
    assert found.subset == BRATS.subset(["FLAIR", "T1c", "T2"])


def test_the_filled_image_is_the_case_or_the_substitute(model, found):
    standard = standardise(CASE.without("T1"), model.config)
    substitute = model.substitute.numpy()
    assert (found.image == standard.image).all()
    assert (found.filled[~found.masked] == standard.image[~found.masked]).all()
    assert (found.filled[found.masked] == substitute[found.masked]).all()
    assert found.masked[[1, 3]].all()  # T1 is missing, T2 dropped
    assert 0 < found.masked[[0, 2]].mean() < 1


def test_a_dropped_sequence_is_as_good_as_missing(echo):
    """The network cannot tell the two apart; the record can."""
    dropped, missing = reconstruct(echo, CASE, dropped=["T1c"]), reconstruct(echo, CASE.without("T1c"))
    assert (dropped.output == missing.output).all()
    assert (dropped.masked == missing.masked).all()
    assert dropped.image[2].any()
    assert not missing.image[2].any()
    assert list(dropped.fidelity()) == ["FLAIR", "T1", "T1c", "T2"]
    assert list(missing.fidelity()) == ["FLAIR", "T1", "T2"]


def test_without_a_ratio_only_whole_sequences_are_masked(echo):
    found = reconstruct(echo, CASE, dropped=["T1", "T2"], seed=5)
    assert found.masked.all(axis=(1, 2, 3)).tolist() == [False, True, False, True]
    assert not found.masked[[0, 2]].any()


@pytest.mark.parametrize("ratio", [0.5, 0.875])
def test_the_ratio_counts_dropped_sequences(echo, ratio):
    """The template's sides are multiples of the patch, so the share of voxels is that of the patches."""
    found = reconstruct(echo, CASE, dropped=["FLAIR"], ratio=ratio, patch=8)
    assert found.masked.mean() == pytest.approx(ratio, abs=1 / (4 * 5 * 7 * 6))
    cubes = found.masked.reshape(4, 5, 8, 7, 8, 6, 8)
    assert (cubes.all(axis=(2, 4, 6)) == cubes.any(axis=(2, 4, 6))).all()
    assert found.masked[0].all()
    assert (found.masked[1] != found.masked[2]).any()  # drawn for each sequence on its own


def test_masks_follow_from_the_seed(echo):
    one, same, other = (reconstruct(echo, CASE, ratio=0.7, seed=seed) for seed in (1, 1, 2))
    assert (one.masked == same.masked).all()
    assert (one.output == same.output).all()
    assert (one.masked != other.masked).any()


def side_of(masked) -> int:
    """The largest patch whose borders explain a mask (N, D, H, W)."""
    changes = [np.diff(np.moveaxis(masked, axis, 0), axis=0).any(axis=(1, 2, 3)) for axis in (1, 2, 3)]
    return int(np.gcd.reduce(np.concatenate([np.flatnonzero(change) + 1 for change in changes])))


@pytest.mark.parametrize(
    ("card", "side"),
    [
        ({}, 16),
        ({"recipe": None}, 16),
        ({"recipe": {"pretrain": {"masking": {"patch": "?"}}}}, 16),
        ({"recipe": RECIPE.model_dump(mode="json")}, 8),
    ],
)
def test_the_patch_is_the_models_own(echo, card, side):
    assert pretrained_patch(card) == side
    assert side_of(reconstruct(echo, CASE, ratio=0.5, patch=side).masked) == side
    assert side_of(reconstruct(echo, CASE, ratio=0.5).masked) == 16


def test_patches_are_cut_where_the_template_ends(echo):
    shape = (38, 53, 45)
    found = reconstruct(cropped_template(echo, shape), CASE, ratio=0.5, patch=16, seed=1)
    assert found.masked.shape == (4, *shape)
    padded = np.pad(found.masked, [(0, 0), (0, 10), (0, 11), (0, 3)], mode="edge")
    cubes = padded.reshape(4, 3, 16, 4, 16, 3, 16)
    patches = cubes.all(axis=(2, 4, 6))
    assert (patches == cubes.any(axis=(2, 4, 6))).all()
    assert patches.mean() == 0.5


# --- what the network sees and answers -------------------------------------------------------------


def test_the_answer_is_the_autoencoders(model, found):
    image, masked = torch.from_numpy(found.image)[None], torch.from_numpy(found.masked)[None]
    with torch.no_grad():
        expected = model.autoencoder(fill(image, model.substitute, masked))[0].numpy()
    np.testing.assert_allclose(found.output, expected, atol=1e-6)


def test_a_template_that_does_not_fit_the_network_is_padded_and_cut_back(model):
    """As when segmenting: beyond the template lie background and, for what is missing, the nearest substitute."""
    shape, network = (38, 53, 45), Echo()
    small = with_autoencoder(cropped_template(model, shape), network)
    found = reconstruct(small, CASE, dropped=["T2"])
    assert network.seen.shape == (1, 4, 40, 56, 48)
    seen = network.seen[0].numpy()
    inside = seen[:, 1:39, 1:54, 1:46]
    assert (inside == found.filled).all()
    assert (found.output == inside + np.float32(0.1)).all()
    content = SubstituteImage.fixed(small.substitute).crop([(-1, -1, -1)], (40, 56, 48))[0].numpy()
    assert (seen[3] == content[3]).all()
    assert seen[3, 0].any()
    seen[:, 1:39, 1:54, 1:46] = 0
    assert not seen[:3].any()


def test_the_composite_shows_what_was_visible_and_what_was_answered(found):
    assert (found.composite[~found.masked] == found.image[~found.masked]).all()
    assert (found.composite[found.masked] == found.output[found.masked]).all()
    assert (found.composite != found.output).any()
    assert (found.composite != found.image).any()


def test_nothing_is_known_of_a_missing_sequence(found):
    assert not found.error[1].any()
    rest = [0, 2, 3]
    assert (found.error[rest] == np.abs(found.output - found.image)[rest]).all()
    assert found.error[3].any()


def test_the_grid_leads_to_the_cases_world(echo):
    """A case whose header has another known origin: the template moves along, and its voxels do not."""
    affine = AFFINE.copy()
    affine[:3, 3] += (239, 239, 0)  # an origin that BraTS-Africa uses
    moved = Case("moved", BRATS, {name: Volume(v.data, affine) for name, v in CASE.volumes.items()})
    here, there = reconstruct(echo, CASE), reconstruct(echo, moved)
    assert (here.grid.affine == np.array(RECIPE.model.grid.affine)).all()
    assert there.grid.affine[:3, 3] - here.grid.affine[:3, 3] == pytest.approx([239, 239, 0])
    assert (here.output == there.output).all()


# --- how good it is --------------------------------------------------------------------------------


def made(image, output, masked, present) -> Reconstruction:
    shape = (len(image), 1, 1, -1)
    arrays = [np.array(values, np.float32).reshape(shape) for values in (image, output)]
    of = BRATS.names[: len(image)]
    mask = np.array(masked, bool).reshape(shape)
    subset = replace(BRATS.subset(present), of=of)
    return Reconstruction(arrays[0], arrays[0], mask, arrays[1], Grid((1, 1, 4), np.eye(4)), subset, of)


def test_fidelity_by_hand():
    """The last voxel is zero in every sequence: outside the brain, whatever is answered there."""
    found = made(
        image=[[0.5, 0.0, 2.0, 0.0], [0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]],
        output=[[0.6, 0.2, 2.0, 9.0], [0.0, 1.0, 0.5, 9.0], [0.7, 0.7, 0.7, 0.7]],
        masked=[[True, True, False, True], [False, False, False, False], [True, True, True, True]],
        present=["FLAIR", "T1"],
    )
    fidelity = found.fidelity()
    assert list(fidelity) == ["FLAIR", "T1"]
    mse = (0.1**2 + 0.2**2) / 2
    assert fidelity["FLAIR"][:2] == pytest.approx((mse, 10 * np.log10(2**2 / mse)), rel=1e-5)
    assert fidelity["FLAIR"][2:] == (0.0, float("inf"))
    assert fidelity["T1"] == Fidelity(None, None, 0.0, float("inf"))


def test_fidelity_of_a_whole_reconstruction(model):
    """An answer that is its input plus a tenth errs by 0.01 where it saw the case, and more where it did not."""
    found = reconstruct(with_autoencoder(model, Echo()), CASE, dropped=["T1"], ratio=0.6, patch=8)
    for name, one in found.fidelity().items():
        assert one.masked_mse > 0.1
        if name == "T1":
            assert one.visible_mse is None
        else:
            assert one.visible_mse == pytest.approx(0.01, rel=1e-3)
            peak = np.ptp(found.image[BRATS.names.index(name)])
            assert one.visible_psnr_db == pytest.approx(20 + 20 * np.log10(peak), rel=1e-3)


# --- what is refused -------------------------------------------------------------------------------


def test_a_model_without_autoencoder_is_refused(echo):
    with pytest.raises(BundleError) as caught:
        reconstruct(with_autoencoder(echo, None), CASE)
    assert caught.value.code == "stage"


def test_something_must_be_left(echo):
    with pytest.raises(InputError) as caught:
        reconstruct(echo, CASE.only("T1", "T2"), dropped=["T1", "T2"])
    assert caught.value.code == "no-sequence"
    assert "T1, T2" in caught.value.problem


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"dropped": ["PD"]}, "modalities"),
        ({"ratio": 0.4, "dropped": ["T1", "T2"]}, "masking"),
        ({"ratio": 1.0}, "masking"),
        ({"ratio": -0.1}, "masking"),
        ({"patch": 0, "ratio": 0.5}, "masking"),
    ],
)
def test_settings_out_of_range(echo, arguments, code):
    with pytest.raises(ConfigError) as caught:
        reconstruct(echo, CASE, **arguments)
    assert caught.value.code == code


def test_the_least_ratio_masks_no_patch(echo):
    found = reconstruct(echo, CASE, dropped=["T1", "T2"], ratio=0.5)
    assert not found.masked[[0, 2]].any()


def test_an_answer_that_is_not_finite_is_refused(model):
    broken = with_autoencoder(model, nn.Threshold(float("inf"), float("nan")))
    with pytest.raises(BundleError) as caught:
        reconstruct(broken, CASE)
    assert caught.value.code == "nonfinite"
