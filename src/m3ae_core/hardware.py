"""Where and how a training stage is computed; what is learned is the recipe's business (:mod:`m3ae_core.config`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Hardware:
    """Devices, precision, and how to trade time for memory. Results differ by rounding only.

    Attributes
    ----------
    device
        Kind of device; auto takes CUDA where there is any.
    devices
        Devices on each node, one process each.
    nodes
        Machines; start the command on each with torchrun or SLURM.
    precision
        Arithmetic of the forward and backward passes.
    accumulate
        Parts in which each process computes its share of a batch, one after the other, to save memory.
    checkpointing
        Compute activations again in the backward pass instead of keeping them, to save memory.
    compile
        Compile the backbone with torch.compile.
    workers
        Processes beside each training process that prepare samples.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accumulate: int = 1
    checkpointing: bool = False
    compile: bool = False
    workers: int = 1
