"""Where training runs: Lightning Fabric for devices, precision and processes, and what our networks add to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from m3ae_core.errors import ConfigError
from m3ae_core.extras import require_extra
from m3ae_core.hardware import Hardware

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def launch(hardware: Hardware) -> Fabric:
    """Return a launched Fabric.

    With several devices Fabric starts one process each by running the same command again; under ``torchrun`` and SLURM
    the processes are there already, and it finds its place among them.

    Raises
    ------
    ConfigError
        If the extra ``train`` is not installed, or the devices asked for are not there.
    """
    require_extra("train")
    from lightning_fabric import Fabric

    try:
        fabric = Fabric(
            accelerator=hardware.device,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy="ddp" if hardware.devices * hardware.nodes > 1 else "auto",
            precision=hardware.precision,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"These devices cannot be used: {error}", "Change device, devices or precision.", code="device"
        ) from error
    # Fabric would round images to half precision before they are augmented; autocast rounds what convolutions read.
    fabric.strategy.precision.convert_input = lambda data: data  # type: ignore[method-assign]
    fabric.launch()
    return fabric


def prepare(network: nn.Module, hardware: Hardware) -> None:
    """Make `network` trade time for memory (gradient checkpointing) or be compiled, as asked for.

    Raises
    ------
    ConfigError
        If the network knows no gradient checkpointing.
    """
    backbone: Any = getattr(network, "backbone", network)
    if hardware.checkpointing:
        if not hasattr(backbone, "checkpointing"):
            problem = f"The network {type(backbone).__name__} knows no gradient checkpointing."
            raise ConfigError(problem, "Train without it.", code="checkpointing")
        backbone.checkpointing = True
    if hardware.compile:
        backbone.compile()
