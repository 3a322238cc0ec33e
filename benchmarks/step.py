"""One fine-tuning step at 4×128³, two views, 16 channels: the published network in plain torch against ours.

    python benchmarks/step.py [--rounds 3] [--size 128] [--threads 2]

Plain is the same network as it is published: contiguous tensors, torch's own group norm. Ours is what `m3ae finetune`
runs at that size, and ours with gradient checkpointing. Each variant is a process of its own (peak memory is a
process's), all take turns in every round, and the first step of each process is not counted. A step is forward,
backward and Adam on random data, in float32.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Literal, get_args

import tyro

Variant = Literal["plain", "ours", "ours, checkpointing"]


def steps(variant: Variant, size: int, threads: int, count: int) -> Iterator[float]:
    """Yield the seconds of `count` steps, the first of them to warm up."""
    import torch
    from torch import nn

    from m3ae_core.config import load_recipe
    from m3ae_core.memory import keep_freed_memory
    from m3ae_core.methods.m3ae.losses import finetuning_loss
    from m3ae_core.methods.m3ae.networks import Segmenter
    from m3ae_core.nn.norm import GroupNorm
    from m3ae_core.nn.unet import ResidualUNet

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if variant == "plain":
        GroupNorm.forward = nn.GroupNorm.forward  # type: ignore[method-assign]
        ResidualUNet.LAYOUT = torch.contiguous_format
    else:
        keep_freed_memory(4 * 2 * 16 * size**3)
    segmenter = Segmenter(load_recipe("official").model)
    segmenter.backbone.checkpointing = variant == "ours, checkpointing"
    optimizer = torch.optim.Adam(segmenter.parameters(), 3e-4, weight_decay=1e-4, fused=variant != "plain")
    x, target = torch.rand(2, 4, size, size, size), torch.rand(2, 3, size, size, size) > 0.9
    for _ in range(count):
        started = time.perf_counter()
        optimizer.zero_grad()
        logits, features = segmenter(x)
        torch.stack(list(finetuning_loss(logits, target, features.bottleneck, 0.1).values())).sum().backward()
        optimizer.step()
        yield time.perf_counter() - started


def measure(variant: Variant, size: int, threads: int) -> dict[str, float]:
    """Run one variant in a process of its own; return its seconds a step and its peak memory in GiB."""
    command = [sys.executable, __file__, "--child", variant, "--size", str(size), "--threads", str(threads)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(result.stdout)
    print(f"{variant}: {found['seconds']:.2f} s, {found['gib']:.2f} GiB", file=sys.stderr, flush=True)
    return found


def main(rounds: int = 3, size: int = 128, threads: int = 2, child: Variant | None = None) -> None:
    if child:
        _, seconds = steps(child, size, threads, 2)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "gib": peak}))
        return
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in get_args(Variant)}
    for _ in range(rounds):
        for variant, runs in found.items():
            runs.append(measure(variant, size, threads))  # type: ignore[arg-type]
    middle = {
        variant: {name: statistics.median(run[name] for run in runs) for name in ("seconds", "gib")}
        for variant, runs in found.items()
    }
    print("| step | s, median | times as fast | peak GiB | of plain |\n|---|---|---|---|---|")
    for variant, m in middle.items():
        speed, memory = middle["plain"]["seconds"] / m["seconds"], m["gib"] / middle["plain"]["gib"]
        print(f"| {variant} | {m['seconds']:.2f} | {speed:.2f} | {m['gib']:.2f} | {memory:.2f} |")


if __name__ == "__main__":
    tyro.cli(main)
