"""The sub-commands of training on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from m3ae_core.cli.arguments import OptionalPath
from m3ae_core.cli.training import chosen_cases
from m3ae_core.errors import ConfigError, printable

#: Bytes of the units that sizes are stated in.
UNITS = {"KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}


def pack(
    recipe: Positional[str],
    *,
    cases: Path,
    output: Path,
    split: OptionalPath = None,
    scheme: tuple[str, ...] = (),
    weight: tuple[str, ...] = (),
    part_size: str = "32MB",
    name_cases: bool = False,
) -> None:
    """Put training cases into compact parts for another machine: the brain's box, 8 bits a voxel.

    Args:
        recipe: The recipe to train with there: a built-in one or a TOML file.
        cases: Folder of cases, or a manifest of `m3ae scan`.
        output: Folder for the parts and their index.
        split: Split folder (its train.txt), or a text file with one name a line; all cases if left out.
        scheme: Label scheme of the cases, as `m3ae finetune` takes it; without one, no labels are packed.
        weight: PATTERN=WEIGHT for cases whose labels count less.
        part_size: Largest size of a part, as in 32MB.
        name_cases: Name the cases in the index; else they are numbered.
    """
    from m3ae_core.config import load_recipe
    from m3ae_core.io.folders.schemes import schemes_of, weights_of
    from m3ae_core.packed.pack import pack as write

    settings = load_recipe(recipe)
    chosen = chosen_cases(cases, split, settings.model.modality_set)
    schemes = schemes_of(chosen, scheme) if scheme else {}
    for progress in write(
        settings,
        chosen,
        schemes,
        output,
        weights=weights_of(chosen, weight),
        part_size=_bytes(part_size),
        name_cases=name_cases,
    ):
        print(f"{progress.what} {progress.done}/{progress.total}")
    size = sum(path.stat().st_size for path in output.glob("part-*.safetensors"))
    print(f"packed {len(chosen)} cases, {size / 1e6:.1f} MB in {printable(output)}")


def train_packed(
    folder: Positional[Path],
    *,
    output: Path,
    stage: Literal[1, 2],
    minutes: float,
    now: float | None = None,
    pretrained: OptionalPath = None,
    device: str = "cpu",
    precision: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Train a stage from packed cases; `python -m m3ae_core.packed` does it with torch, numpy and safetensors alone.

    Args:
        folder: Folder of parts, made by `m3ae pack`.
        output: Folder for what is learned; resumes if it holds a run.
        stage: 1 (masked autoencoder and substitute) or 2 (segmenter).
        minutes: Minutes of the whole stage, which its schedule is made for.
        now: Minutes of this call; all that are left if not stated.
        pretrained: Output of stage 1, to start stage 2 from.
        device: Where to compute: cpu, cuda.
        precision: Arithmetic of the networks.
    """
    from m3ae_core.packed.train import train_packed as run

    result = run(
        folder, output, stage, minutes, now=now, pretrained=pretrained, device=device, precision=precision
    )
    print(f"{result['steps']} steps in {result['seconds']:.0f} s, {printable(output)}")


def bundle_from_packed(folder: Positional[Path], *, first: Path, second: Path, output: Path) -> None:
    """Turn what another machine learned from packed cases into a bundle.

    Args:
        folder: The folder of parts that it learned from.
        first: Output of stage 1.
        second: Output of stage 2.
        output: Folder for the bundle.
    """
    from m3ae_core.packed.unpack import bundle_from_packed as convert

    print(f"bundle {printable(convert(folder, (first, second), output))}")


def _bytes(text: str) -> int:
    """Return a size like 32MB in bytes."""
    number, unit = text[:-2], text[-2:].upper()
    try:
        return int(float(number) * UNITS[unit])
    except (ValueError, KeyError) as error:
        problem = f"{text!r} is not a size."
        raise ConfigError(problem, "State one like 32MB.", code="size") from error
