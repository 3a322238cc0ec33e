"""``m3ae compare-cost``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from m3ae_core.cli.arguments import Device
from m3ae_core.cli.progress import follow
from m3ae_core.extras import require_extra

if TYPE_CHECKING:
    from m3ae_core.evaluation.cost import Cost

HEADER = (
    "method",
    "parameters to train (M)",
    "to deploy (M)",
    "GFLOPs a crop",
    "memory to train (GiB)",
    "to segment (GiB)",
    "seconds a step",
    "seconds a case",
)


def compare_cost(
    methods: Positional[Annotated[tuple[str, ...], arg(metavar="METHOD ...", help_behavior_hint="")]] = (),
    *,
    recipe: str = "paper",
    device: Device = "auto",
    repeats: int = 3,
) -> None:
    """Measure what methods cost on this machine, untrained, on random numbers: the paper's Table S2, as Markdown.

    Each is measured in a process of its own, in float32. A case is the whole template, none of it spared; memory is the
    peak of the process, or of the tensors on a GPU.

    Args:
        methods: Names of methods; all that are registered if left out.
        recipe: A built-in recipe or a TOML file: its model, crops and batches are measured.
        device: auto takes CUDA where there is any.
        repeats: Steps and cases of which the median time is taken.
    """
    require_extra("train")
    from m3ae_core.config import load_recipe
    from m3ae_core.evaluation.cost import compare_costs
    from m3ae_core.methods.registry import method_named
    from m3ae_core.plugins import registered

    settings = load_recipe(recipe)
    method_named(settings.model.method)  # registers ours
    costs = follow(compare_costs(settings, methods or sorted(registered("methods")), device, repeats))
    print("\n".join(cost_lines(costs)))


def cost_lines(costs: tuple[Cost, ...]) -> list[str]:
    """Return the table, in Markdown; stages that follow each other are joined by +."""
    rows = [HEADER, ("---",) * len(HEADER), *map(_row, costs)]
    return [f"| {' | '.join(row)} |" for row in rows]


def _row(cost: Cost) -> tuple[str, ...]:
    stages, case = cost.training.stages, cost.case
    images = f" + {case.image_values / 1e6:.2f} of images" if case.image_values else ""
    return (
        cost.method,
        " + ".join(f"{stage.parameters / 1e6:.2f}" for stage in stages),
        f"{case.parameters / 1e6:.2f}{images}",
        f"{case.flops / 1e9:.3g}",
        f"{cost.training.memory / 2**30:.2f}",
        f"{case.memory / 2**30:.2f}",
        " + ".join(f"{stage.seconds:.3g}" for stage in stages),
        f"{case.seconds:.3g}",
    )
