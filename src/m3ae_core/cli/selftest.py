"""``m3ae selftest``."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from m3ae_core.cli.arguments import Device, OptionalFolder
from m3ae_core.cli.progress import show


def selftest(*, output: OptionalFolder = None, device: Device = "auto") -> None:
    """Test this installation: the model gives its golden mask, the device agrees, a folder survives killed writes.

    Prints one line for each check and what to do if it failed; the exit code is 0 if all passed, else 1. Nothing in
    the folder is touched, and what the test writes there is removed.

    Args:
        output: The folder where results will be written; the system's folder for temporary files if left out.
        device: auto takes CUDA where there is any.
    """
    from m3ae_core.selftest.check import Check
    from m3ae_core.selftest.run import run_selftest

    started, results = time.monotonic(), []
    with tqdm(desc="starting", leave=False, dynamic_ncols=True, mininterval=0.5, delay=1e-3) as bar:
        for event in run_selftest(output, device):
            if isinstance(event, Check):
                bar.write(
                    f"{'ok' if event.ok else 'FAILED':8}{event.name}: {event.detail} {event.fix}".rstrip()
                )
                results.append(event.ok)
            else:
                show(bar, event)
    print(f"{sum(results)} of {len(results)} checks passed in {time.monotonic() - started:.0f} s")
    if not all(results):
        sys.exit(1)
