"""Put cases into compact parts for another machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3ae_core.config import Recipe
from m3ae_core.data.case import CaseFiles
from m3ae_core.data.dataset import CachedCase, cache_case
from m3ae_core.errors import OutputError
from m3ae_core.events import Progress
from m3ae_core.files import make_folder, write_json
from m3ae_core.model.weights import save_tensors
from m3ae_core.packed.parts import FORMAT, INDEX, deflate, quantise
from m3ae_core.regions import BRATS_2023, LabelScheme


def pack(
    recipe: Recipe,
    cases: Sequence[CaseFiles],
    schemes: Mapping[str, LabelScheme],
    folder: Path,
    *,
    weights: Mapping[str, float] | None = None,
    part_size: int = 32_000_000,
    name_cases: bool = False,
) -> Iterator[Progress]:
    """Write `cases` into `folder` as parts of at most `part_size` bytes; the index comes last.

    Cases without a scheme in `schemes` are packed without labels, for stage 1 alone. They are numbered; `name_cases`
    names them in the index.

    Raises
    ------
    InputError
        If a case cannot be read.
    OutputError
        If a case alone is larger than a part, or a file cannot be written.
    """
    make_folder(folder)
    with TemporaryDirectory() as cache:
        yield from _pack(
            recipe, cases, schemes, folder, Path(cache), weights or {}, part_size, name_cases=name_cases
        )


def _pack(
    recipe: Recipe,
    cases: Sequence[CaseFiles],
    schemes: Mapping[str, LabelScheme],
    folder: Path,
    cache: Path,
    weights: Mapping[str, float],
    part_size: int,
    *,
    name_cases: bool,
) -> Iterator[Progress]:
    parts, about = list[dict[str, Any]](), list[dict[str, Any]]()
    waiting, numbers, size = dict[str, Tensor](), list[int](), 0
    for number, files in enumerate(cases):
        labelled = files.name in schemes
        cached = cache_case(
            files, recipe.model, schemes.get(files.name, BRATS_2023), cache, labelled=labelled
        )
        tensors = _tensors(cached, number)
        own = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if own > part_size:
            problem = f"A case takes {own} bytes, more than a part of {part_size}."
            raise OutputError(problem, "Choose larger parts.", path=folder, code="part-size")
        if size + own > part_size:
            parts.append(_write(folder, len(parts), waiting, numbers))
            waiting, numbers, size = {}, [], 0
        waiting, size = waiting | tensors, size + own
        numbers.append(number)
        weight = weights.get(files.name, 1.0)
        about.append(_about(cached, weight) | ({"name": files.name} if name_cases else {}))
        yield Progress("cases packed", number + 1, len(cases))
    parts.append(_write(folder, len(parts), waiting, numbers))
    content = {"recipe": recipe.model_dump(mode="json"), "span": recipe.model.preprocess.span}
    write_json(folder / INDEX, {"format": FORMAT, **content, "parts": parts, "cases": about})


def _box(case: CachedCase) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in zip(*case.brain, strict=True))


def _tensors(case: CachedCase, number: int) -> dict[str, Tensor]:
    box = (slice(None), *_box(case))
    image, levels = quantise(np.asarray(case.image[box]))
    regions = np.packbits(np.asarray(case.regions[box]))
    arrays = {"image": deflate(image), "levels": levels, "regions": deflate(regions)}
    return {f"{number}.{name}": torch.from_numpy(array) for name, array in arrays.items()}


def _about(case: CachedCase, weight: float) -> dict[str, Any]:
    return {
        "start": [int(part.start) for part in _box(case)],
        "shape": [int(part.stop - part.start) for part in _box(case)],
        "exists": list(case.exists),
        "regions": len(case.regions),
        "weight": weight,
    }


def _write(folder: Path, number: int, tensors: dict[str, Tensor], numbers: list[int]) -> dict[str, Any]:
    path = folder / f"part-{number:03d}.safetensors"
    return {"file": path.name, "sha256": save_tensors(path, tensors), "cases": numbers}
