"""What training at the paper's scale would cost on GPUs: an estimate from counts, never run on a GPU.

    python benchmarks/cost.py

Counted, by running both steps of the recipe `paper` on tensors without content (torch's meta device):

* Arithmetic: 2 operations per multiplication and addition of every convolution, forward and backward
  (torch.utils.flop_counter). A stage-1 step holds 2 crops of 4×128³, a stage-2 step 1 case in 2 situations: the same.
* Memory traffic of the network: every operator reads its inputs and writes its outputs once, in 2-byte numbers; views
  are free. So nothing is fused and nothing stays in the cache between operators, and each is as frugal as it can be.
* Memory traffic of the substitute in 4-byte numbers (stage 1 only; it is frozen in stage 2): the crops, the fill, the
  regulariser over all of it, and their gradients, which are dense. Stage 2 only reads its crop, which is left out.
* Memory traffic of Adam, fused: parameter, gradient and both moments read, all but the gradient written, 4 bytes each.

Assumed:

* An A100 has 312 TFLOP/s of dense bfloat16 and 2.0 TB/s of memory; a step reaches 40 % of the one and 70 % of the
  other, and takes as long as the slower of the two. Convolutions of 16 channels will hardly reach 40 %: read the hours
  as a floor that a real run may exceed several times.
* Autocast costs nothing. In truth it keeps group norms and losses in 4 bytes: up to twice the network's traffic.
* The step never waits for data: decoding, augmentation and copies overlap with it. Validation (a few per cent of the
  arithmetic of stage 2), checkpoints and start-up are left out.
* 199 cases; cases that do not fill an epoch's last batch wait for another epoch. 600 epochs of stage 1, 300 of stage 2.
* 8 GPUs are data parallel, each with the batch of one: 8 times the batch and an eighth of the steps, another recipe
  than the paper's, whose accuracy is unknown. After each step a ring all-reduce moves 2·7/8 of the gradients (4 bytes;
  in stage 1 with the substitute's) at 300 GB/s over NVLink and overlaps with nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from m3ae_core.config import Recipe, load_recipe
from m3ae_core.methods.m3ae.losses import finetuning_loss, reconstruction_loss, substitute_regulariser
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
from m3ae_core.methods.m3ae.substitute import SubstituteImage, fill
from m3ae_core.stage_config import StageConfig

CASES = 199
GPUS = 8
ARITHMETIC = 0.4 * 312e12
BANDWIDTH = 0.7 * 2.0e12
NVLINK = 300e9
ADAM_BYTES = 7 * 4


class Traffic(TorchDispatchMode):
    """Sums the bytes of all tensors that operators read and write; views and empty tensors are free."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and not func.__name__.startswith(
            ("empty", "new_empty", "detach", "_unsafe_view")
        ):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in tensors)
        return result


@dataclass(frozen=True)
class Step:
    """What one optimiser step computes and moves, and how many gradients it has."""

    flops: float
    network_bytes: float
    substitute_bytes: float
    gradients: int

    @property
    def bytes(self) -> float:
        return self.network_bytes + self.substitute_bytes + ADAM_BYTES * self.gradients

    @property
    def seconds(self) -> float:
        return max(self.flops / ARITHMETIC, self.bytes / BANDWIDTH)

    @property
    def exchange_seconds(self) -> float:
        return 2 * (GPUS - 1) / GPUS * 4 * self.gradients / NVLINK


def count(step: Callable[[], None]) -> tuple[float, float]:
    """Return the floating-point operations and the bytes of memory traffic of a step."""
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        step()
    return flops.get_total_flops(), traffic.bytes


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def pretraining_step(recipe: Recipe) -> Step:
    stage, channels = recipe.pretrain, len(recipe.model.modalities)
    network = MaskedAutoencoder(recipe.model).bfloat16()
    substitute = SubstituteImage(channels, recipe.model.grid.shape)
    x = torch.empty(stage.batch_size, channels, *stage.crop, dtype=torch.bfloat16)
    filled = torch.empty_like(x, requires_grad=True)  # its gradient goes on to the substitute

    def train_network() -> None:
        reconstruction_loss(x, network(filled)).backward()

    def train_substitute() -> None:
        content = substitute.crop([(10, 40, 50)] * len(x), stage.crop)
        given = fill(x.float(), content, torch.empty(x.shape, dtype=torch.bool))
        regulariser = stage.substitute.gamma * substitute_regulariser(substitute.image)
        torch.autograd.backward([given, regulariser], [torch.empty_like(given), None])

    flops, network_bytes = count(train_network)
    _, substitute_bytes = count(train_substitute)
    return Step(flops, network_bytes, substitute_bytes, parameters(network) + parameters(substitute))


def finetuning_step(recipe: Recipe) -> Step:
    stage = recipe.finetune
    network = Segmenter(recipe.model).bfloat16()
    x = torch.empty(2 * stage.batch_size, len(recipe.model.modalities), *stage.crop, dtype=torch.bfloat16)
    target = torch.empty(len(x), len(recipe.model.regions), *stage.crop, dtype=torch.bool)

    def train() -> None:
        logits, features = network(x)
        terms = finetuning_loss(logits, target, features.bottleneck, stage.consistency_weight)
        torch.stack(list(terms.values())).sum().backward()

    flops, network_bytes = count(train)
    return Step(flops, network_bytes, 0, parameters(network))


def row(name: str, step: Step, stage: StageConfig) -> str:
    alone, together = (stage.epochs * (CASES // (gpus * stage.batch_size)) for gpus in (1, GPUS))
    bound = "arithmetic" if step.flops / ARITHMETIC > step.bytes / BANDWIDTH else "memory"
    shared = step.seconds + step.exchange_seconds
    rest = step.substitute_bytes + ADAM_BYTES * step.gradients
    return (
        f"| {name} | {step.flops / 1e12:.2f} | {step.network_bytes / 1e9:.1f} | {rest / 1e9:.2f} "
        f"| {step.seconds * 1e3:.1f} ({bound}) | {alone:,} | {alone * step.seconds / 3600:.2f} "
        f"| {shared * 1e3:.1f} | {together:,} | {together * shared / 3600:.2f} |"
    )


def main() -> None:
    recipe = load_recipe("paper")
    with torch.device("meta"):
        first, second = pretraining_step(recipe), finetuning_step(recipe)
    print("Estimate, never run on a GPU.\n")
    print(
        "| stage | TFLOP a step | GB a step, network | GB a step, substitute and Adam | ms a step (bound by) | steps "
        f"| hours, 1 A100 | ms a step on {GPUS} | steps | hours, {GPUS} A100 |"
    )
    print("|---" * 10 + "|")
    print(row("1, pretraining", first, recipe.pretrain))
    print(row("2, fine-tuning", second, recipe.finetune))


if __name__ == "__main__":
    main()
