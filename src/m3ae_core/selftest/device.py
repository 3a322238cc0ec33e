"""The device: which one will be used, how long a case takes there, and whether CUDA computes what the CPU does."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np

from m3ae_core.errors import ConfigError
from m3ae_core.evaluation.metrics import dice_by_region
from m3ae_core.events import Progress
from m3ae_core.regions import BRATS_2023
from m3ae_core.selftest.check import FAILURES, Check, failed
from m3ae_core.selftest.golden import LEAST_DICE_IN_HALF, Run, segment, told


def check_device(name: str, reference: Run | None) -> Iterator[Progress | Check]:
    """Check the device called `name`, yielding progress and a :class:`Check`.

    `reference` is what the CPU said of the built-in case; None if the model cannot be used.
    """
    try:
        check = yield from _tried(name, reference)
    except ConfigError as error:
        check = failed("device", error)
    except FAILURES as error:
        check = failed("device", error, "Choose the CPU, or update the GPU's driver and torch.")
    yield check


def _tried(name: str, reference: Run | None) -> Generator[Progress, None, Check]:
    import torch

    from m3ae_core.inference.device import choose_device, precision

    device = choose_device(name)
    if device.type == "cpu":
        why = "" if name == "cpu" else f" ({_why_no_cuda(torch.version.cuda)})"
        told_time = "" if reference is None else f" {_takes(reference)}"
        arithmetic = str(precision(device)).removeprefix("torch.")
        said = (
            f"The CPU will be used with {torch.get_num_threads()} threads, in {arithmetic}{why}.{told_time}"
        )
        return Check("device", True, said)
    gpu = torch.cuda.get_device_name(device)
    if reference is None:
        problem = f"{gpu} (CUDA) would be used; it was not tried, because the model cannot be used."
        return Check("device", False, problem, "Repair the model first.")
    run = yield from segment(reference.bundle, name)
    return _compared(gpu, run, reference)


def _compared(gpu: str, run: Run, reference: Run) -> Check:
    if fallbacks := run.prediction.provenance["device"]["fallbacks"]:
        fix = "Close other programs that use the GPU, or choose the CPU."
        return Check("device", False, f"{gpu} (CUDA): {' '.join(fallbacks)}", fix)
    ours, theirs = run.prediction.labels, reference.prediction.labels
    differ, dice = np.count_nonzero(ours != theirs), dice_by_region(ours, theirs, BRATS_2023)
    if min(dice.values()) >= LEAST_DICE_IN_HALF:
        said = f"{gpu} (CUDA) will be used and agrees with the CPU: {differ} voxels differ. {_takes(run)}"
        return Check("device", True, said)
    problem = f"{gpu} (CUDA) does not compute what the CPU does: {differ} voxels differ ({told(dice)})."
    return Check("device", False, problem, "Choose the CPU, and report this with the versions below.")


def _why_no_cuda(built_for: str | None) -> str:
    return "torch finds no CUDA device" if built_for else "this torch was built without CUDA"


def _takes(run: Run) -> str:
    return f"A case takes about {run.seconds:.1f} s with the installed model."
