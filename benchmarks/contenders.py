"""What benchmarks/speed.py measures, each in a process of its own: our ways of doing something, and others' ways.

Every contender is a function of the case folder that prepares all that a user would have ready, and returns what is
timed. The 1 mm network is the paper's (16 base channels) with random weights, the same for all: only the time counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from m3ae_core.bundle import load_bundle
from m3ae_core.config import InferenceConfig, ModelConfig, load_recipe
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.preprocess import standardise
from m3ae_core.evaluation.registry import overlap
from m3ae_core.inference.cohort import Cohort
from m3ae_core.inference.predictor import Predictor, save_prediction
from m3ae_core.inference.whatif import SubsetDone, sweep
from m3ae_core.io.case import find_case, find_cases, read_case, read_case_labels
from m3ae_core.io.volume import write_labels
from m3ae_core.memory import keep_freed_memory
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.nn.norm import GroupNorm
from m3ae_core.nn.unet import ResidualUNet
from m3ae_core.nn.windows import Extent, fill_extent, whole_logits, window_starts
from m3ae_core.regions import BRATS_2023, encode
from m3ae_core.stage_config import Shape

Timed = Callable[[], Any]
SIDE = 128
WINDOWS = InferenceConfig(window=(SIDE,) * 3)
ONE_PASS = InferenceConfig(window="brain")
#: Contexts that a contender's process never leaves; one that nothing refers to would be left when it is collected.
FOR_GOOD = ExitStack()


def paper() -> ModelConfig:
    return load_recipe("paper").model


def ours() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(paper()).eval()


def plain() -> Callable[[Tensor], Tensor]:
    """The network as published: contiguous tensors, torch's own group norm, all heads computed."""
    GroupNorm.forward = nn.GroupNorm.forward  # type: ignore[method-assign]
    ResidualUNet.LAYOUT = torch.contiguous_format
    network = ours()
    return lambda x: network(x)[0].full


def case_at_1mm(folder: Path) -> tuple[Tensor, Extent]:
    """The case on the paper's template (4, 155, 240, 240), and the box around its brain."""
    standard = standardise(read_case(find_case(folder)), paper())
    return torch.from_numpy(standard.image), Extent.of(ONE_PASS, paper().grid.shape, standard.brain)


def brain_box(folder: Path) -> Tensor:
    """The brain box alone, padded to the window where it is smaller."""
    image, extent = case_at_1mm(folder)
    return fill_extent(complete, image, extent, WINDOWS).image


def complete(image: Tensor, _: Shape) -> Tensor:
    """What fills a case that lacks nothing."""
    return image


# --- a whole case at 1 mm: network and stitching -----------------------------------------------------


def released(folder: Path) -> Timed:
    """128³ windows over the brain box, half overlapping, logits averaged with equal weights."""
    network, image = plain(), brain_box(folder)
    return lambda: slide(network, image)


@torch.no_grad()
def slide(network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    shape = image.shape[1:]
    total, count = torch.zeros(3, *shape), torch.zeros(shape)
    for d, h, w in product(*(window_starts(side, SIDE, 0.5) for side in shape)):
        where = (slice(None), slice(d, d + SIDE), slice(h, h + SIDE), slice(w, w + SIDE))
        total[where] += network(image[where][None])[0]
        count[where[1:]] += 1
    return total / count


def monai(folder: Path) -> Timed:
    """MONAI's sliding window, Gaussian weights, the plain network."""
    from monai.inferers import sliding_window_inference

    network, image = plain(), brain_box(folder)

    @torch.no_grad()
    def run() -> Tensor:
        return sliding_window_inference(image[None], (SIDE,) * 3, 1, network, overlap=0.5, mode="gaussian")[0]

    return run


def nnunet(folder: Path) -> Timed:
    """nnU-Net's predictor without mirroring, Gaussian weights, the plain network."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.run = plain()

        def forward(self, x: Tensor) -> Tensor:
            return self.run(x)

    predictor.network = Network()
    predictor.configuration_manager = SimpleNamespace(patch_size=[SIDE] * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=3)
    predictor.allowed_mirroring_axes = None
    image = brain_box(folder)
    return lambda: predictor.predict_sliding_window_return_logits(image)


def whole_case(folder: Path, inference: InferenceConfig, keep: bool = True) -> Timed:
    network, (image, extent) = ours(), case_at_1mm(folder)
    if keep:
        keep_freed_memory()

    @torch.no_grad()
    def run() -> Tensor:
        *_, (_, _, logits) = whole_logits(network.predict, complete, image, extent, inference)
        return logits

    return run


def our_windows(folder: Path) -> Timed:
    """The same windows, as ours computes them."""
    return whole_case(folder, WINDOWS)


def our_pass(folder: Path) -> Timed:
    """One pass over the brain box."""
    return whole_case(folder, ONE_PASS)


def our_next_pass(folder: Path) -> Timed:
    """The same for the fourth case of a cohort: the memory is there already."""
    run = our_pass(folder)
    for _ in range(3):
        run()
    return run


def our_half_pass(folder: Path) -> Timed:
    """The same in bfloat16, as `m3ae predict` computes where the processor does."""
    FOR_GOOD.enter_context(torch.autocast("cpu", torch.bfloat16))
    return our_next_pass(folder)


def our_pass_without_allocator(folder: Path) -> Timed:
    """One pass with glibc's own memory settings."""
    return whole_case(folder, ONE_PASS, keep=False)


def plain_pass(folder: Path) -> Timed:
    """One pass with the plain network."""
    network, (image, extent) = plain(), case_at_1mm(folder)
    filled = fill_extent(complete, image, extent, ONE_PASS).image
    return torch.no_grad()(lambda: network(filled[None])[0])


# --- from four files to the saved mask ---------------------------------------------------------------


def released_end_to_end(folder: Path) -> Timed:
    """nibabel, percentiles, the released windows with the 1 mm network, nibabel."""
    import nibabel

    network, files = plain(), find_case(folder)
    target = Path(tempfile.mkdtemp()) / "labels.nii.gz"

    def run() -> None:
        images = [nibabel.load(path) for path in files.images.values()]
        image = np.stack([normalise(image.get_fdata(dtype=np.float32)) for image in images])
        box = np.argwhere(image.any(0))
        low, high = box.min(0), box.max(0) + 1
        high = np.maximum(high, low + SIDE)
        where = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        mask = np.zeros((3, *image.shape[1:]), np.uint8)
        mask[:, *where] = slide(network, torch.from_numpy(image[:, *where].copy())).sigmoid() > 0.5
        nibabel.save(nibabel.Nifti1Image(mask.sum(0, dtype=np.uint8), images[0].affine), target)

    return run


def normalise(data: np.ndarray) -> np.ndarray:
    low, high = np.percentile(data[data != 0], (1, 99))
    return np.where(data != 0, np.clip((data - low) / (high - low), 0, 1), 0).astype(np.float32)


def builtin(folder: Path) -> tuple[Predictor, Callable[[], Any]]:
    predictor, files = Predictor(load_bundle(builtin_bundle()), "cpu"), find_case(folder)
    return predictor, lambda: read_case(files)


def end_to_end(folder: Path) -> Timed:
    """The built-in 2 mm model."""
    predictor, read = builtin(folder)
    target = Path(tempfile.mkdtemp()) / "labels.nii.gz"
    return lambda: save_prediction(predictor.predict(read()), target)


def end_to_end_checked(folder: Path) -> Timed:
    """The same, looking for unprepared images and mixed-up sequences too, as `m3ae predict` does."""
    predictor, read = builtin(folder)
    target = Path(tempfile.mkdtemp()) / "labels.nii.gz"
    return lambda: save_prediction(predictor.predict(read(), check=True), target)


def all_subsets(folder: Path) -> Timed:
    """The built-in model from all 15 subsets, each mask saved."""
    predictor, read = builtin(folder)
    target = Path(tempfile.mkdtemp())

    def run() -> None:
        for event in sweep(predictor, read(), BRATS_2023):
            if isinstance(event, SubsetDone):
                prediction = event.prediction
                write_labels(target / f"{event.subset}.nii.gz", prediction.labels, prediction.affine)

    return run


def load(folder: Path) -> Timed:
    """Four volumes read, checked, normalised and laid on the 2 mm template."""
    predictor, read = builtin(folder)
    return lambda: standardise(read(), predictor.config)


def load_with_nibabel(folder: Path) -> Timed:
    """Four volumes read by nibabel, unchecked, and normalised."""
    import nibabel

    paths = list(find_case(folder).images.values())
    return lambda: [normalise(nibabel.load(path).get_fdata(dtype=np.float32)) for path in paths]


def distances(folder: Path) -> Timed:
    """HD95 of three regions of a predicted against the reference mask, exact."""
    masks, spacing = pair_of_masks(folder)
    return lambda: [overlap(ours, theirs, spacing) for ours, theirs in masks]


def distances_of_the_whole_volume(folder: Path) -> Timed:
    """The same by distance transforms of the whole volume."""
    from scipy import ndimage

    masks, spacing = pair_of_masks(folder)

    def hd95(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (m & ~ndimage.binary_erosion(m) for m in (a, b))
        there = ndimage.distance_transform_edt(~b, sampling=spacing)[a]
        back = ndimage.distance_transform_edt(~a, sampling=spacing)[b]
        return float(max(np.percentile(there, 95), np.percentile(back, 95)))

    return lambda: [hd95(ours, theirs) for ours, theirs in masks]


def pair_of_masks(folder: Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], Any]:
    predictor, _ = builtin(folder)
    files = find_case(folder)
    case = read_case(files)
    pair = (predictor.predict(case).labels, read_case_labels(files, case).data)
    first, second = (encode(labels, BRATS_2023) for labels in pair)
    return list(zip(first, second, strict=True)), next(iter(case.volumes.values())).spacing


# --- a cohort ----------------------------------------------------------------------------------------


def cohort(folder: Path) -> Timed:
    """All cases beside this one, with reading and writing beside the network."""
    predictor, cases = Predictor(load_bundle(builtin_bundle()), "cpu"), find_cases(folder.parent)
    return lambda: list(Cohort(predictor, Path(tempfile.mkdtemp())).run(cases))


def one_by_one(folder: Path) -> Timed:
    """The same cases in a plain loop."""
    predictor, cases = Predictor(load_bundle(builtin_bundle()), "cpu"), find_cases(folder.parent)
    target = Path(tempfile.mkdtemp())

    def run() -> None:
        for files in cases:
            save_prediction(predictor.predict(read_case(files)), target / f"{files.name}.nii.gz")

    return run


# --- cost against size -------------------------------------------------------------------------------


def boxes(count: float) -> Callable[[Path], Timed]:
    """One pass over `count` brain boxes of 144×176×144 voxels, one above the other."""

    def prepare(_: Path) -> Timed:
        network, image = ours(), torch.rand(1, 4, int(144 * count), 176, 144)
        keep_freed_memory()
        return torch.no_grad()(lambda: network.predict(image))

    return prepare


#: Commands of which the start is measured.
STARTS = {
    "empty python": ["-c", ""],
    "m3ae --help": ["-m", "m3ae_core.cli", "--help"],
    "import napari_m3ae": ["-c", "import napari_m3ae, sys; assert 'torch' not in sys.modules"],
}

#: Those that a program does again and again: one run warms up.
WARM = (end_to_end, end_to_end_checked, all_subsets, load_with_nibabel, load, distances, one_by_one, cohort)

CONTENDERS: dict[str, Callable[[Path], Timed]] = {
    contender.__name__: contender
    for contender in (
        released,
        monai,
        nnunet,
        our_windows,
        plain_pass,
        our_pass_without_allocator,
        our_pass,
        our_next_pass,
        our_half_pass,
        released_end_to_end,
        end_to_end,
        end_to_end_checked,
        all_subsets,
        load_with_nibabel,
        load,
        distances_of_the_whole_volume,
        distances,
        one_by_one,
        cohort,
    )
} | {f"boxes {count:g}": boxes(count) for count in (0.5, 1, 2, 4)}
