"""What is left to gain: operations and bytes of one pass at 1 mm against what this machine can do.

    python benchmarks/roofline.py [--shape 144 176 136] [--threads 2]

Counted: 2 operations per multiplication and addition of every convolution; bytes as in benchmarks/cost.py (every
operator reads its inputs and writes its outputs once, nothing stays in the cache), in 4-byte numbers. Measured: the
highest rate of matrix products and of the network's own kind of convolution (the better one is the peak), the rate of
copying a large array, and the time of every operator in the pass (torch.profiler).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import tyro
from contenders import ours
from cost import count
from torch.profiler import ProfilerActivity, profile

from m3ae_core.memory import keep_freed_memory


def best(run: Callable[[], object], rounds: int = 5) -> float:
    """Return the seconds of the fastest of several runs."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def peaks() -> tuple[float, float]:
    """Return operations and bytes a second: the most that this machine was seen to do."""
    a = torch.randn(3000, 3000)
    rates = [2 * 3000**3 / best(lambda: a @ a)]
    for channels, side in ((32, 64), (64, 32), (128, 16)):
        x = torch.randn(1, channels, side, side, side).contiguous(memory_format=torch.channels_last_3d)
        w = torch.randn(channels, channels, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d)
        rates.append(2 * 27 * channels**2 * side**3 / best(lambda x=x, w=w: F.conv3d(x, w, padding=1)))
    source = torch.ones(64 << 20)
    target = torch.ones_like(source)
    return max(rates), 2 * source.nbytes / best(lambda: target.copy_(source))


@torch.no_grad()
def main(shape: tuple[int, int, int] = (144, 176, 136), threads: int = 2) -> None:
    torch.set_num_threads(threads)
    network, image = ours(), torch.rand(1, 4, *shape)
    with torch.device("meta"):
        planned = ours()
        flops, moved = count(lambda: planned.predict(torch.empty(1, 4, *shape)))
    keep_freed_memory()
    arithmetic, bandwidth = peaks()
    network.predict(image)
    whole = best(lambda: network.predict(image), 3)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        network.predict(image)
    times = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    convolving = times.pop("aten::mkldnn_convolution")
    print(
        f"Peaks: {arithmetic / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s. One pass over {shape}: {whole:.2f} s.\n"
    )
    print("| | counted | floor, s | taken, s | share of peak |\n|---|---|---|---|---|")
    floor = flops / arithmetic
    print(
        f"| convolutions | {flops / 1e9:.0f} GFLOP | {floor:.2f} | {convolving:.2f} | {floor / convolving:.0%} |"
    )
    rest, floor = sum(times.values()), moved / bandwidth
    print(f"| all memory traffic, if nothing overlapped | {moved / 1e9:.1f} GB | {floor:.2f} | | |")
    print(f"| everything but convolutions | | | {rest:.2f} | |")
    print("\n| operator | s |\n|---|---|")
    for name, seconds in sorted(times.items(), key=lambda item: -item[1])[:8]:
        print(f"| `{name}` | {seconds:.3f} |")


if __name__ == "__main__":
    tyro.cli(main)
