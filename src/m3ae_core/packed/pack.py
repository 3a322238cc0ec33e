"""Put cases into compact parts for another machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m3ae_core.config import Recipe
from m3ae_core.data.dataset import prepare_case
from m3ae_core.data.preprocess import Box, brain_box
from m3ae_core.errors import ConfigError, OutputError
from m3ae_core.events import Progress
from m3ae_core.files import make_folder, remove, write_json
from m3ae_core.io.case import CaseFiles
from m3ae_core.io.weights import save_tensors
from m3ae_core.packed.parts import FORMAT, INDEX, deflate, quantise
from m3ae_core.regions import LabelScheme


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
    ConfigError
        If a modality has a preprocessing step of its own: the training on packed cases knows one for all (``recipe``).
    InputError
        If a case cannot be read.
    OutputError
        If the folder is not empty (``exists``), a case alone is larger than a part (``part-size``), or a file cannot be
        written; no part is left then.
    """
    if own := [step.scale for step in recipe.model.steps if step != recipe.model.preprocess.default]:
        problem = f"Packed cases share one preprocessing step, and the recipe has {own[0]!r} beside it."
        raise ConfigError(problem, "Train it with `m3ae pretrain` and `m3ae finetune`.", code="recipe")
    make_folder(folder)
    if any(folder.iterdir()):
        problem = "The folder is not empty, and packed cases are never replaced."
        raise OutputError(problem, "Choose another one.", path=folder, code="exists")
    with _all_or_nothing(folder):
        yield from _pack(recipe, cases, schemes, folder, weights or {}, part_size, name_cases=name_cases)


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Remove the parts that were written if not all can be."""
    try:
        yield
    except BaseException:
        remove(folder.glob("part-*"))
        raise


def _pack(
    recipe: Recipe,
    cases: Sequence[CaseFiles],
    schemes: Mapping[str, LabelScheme],
    folder: Path,
    weights: Mapping[str, float],
    part_size: int,
    *,
    name_cases: bool,
) -> Iterator[Progress]:
    parts, about = list[dict[str, Any]](), list[dict[str, Any]]()
    waiting, numbers, size = dict[str, Tensor](), list[int](), 0
    for number, files in enumerate(cases):
        image, regions = prepare_case(files, recipe.model, schemes.get(files.name))
        box = brain_box(np.asarray(image.any(axis=0)))
        tensors = _tensors(number, image, regions, box)
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
        about.append(
            _about(files, recipe, box, len(regions), weight) | ({"name": files.name} if name_cases else {})
        )
        yield Progress("cases packed", number + 1, len(cases))
    parts.append(_write(folder, len(parts), waiting, numbers))
    content = {"recipe": recipe.model_dump(mode="json"), "span": recipe.model.preprocess.default.span}
    write_json(folder / INDEX, {"format": FORMAT, **content, "parts": parts, "cases": about})


def _tensors(
    number: int, image: npt.NDArray[np.float32], regions: npt.NDArray[np.bool_], box: Box
) -> dict[str, Tensor]:
    inside = (slice(None), *(slice(low, high) for low, high in zip(*box, strict=True)))
    steps, levels = quantise(image[inside])
    arrays = {"image": deflate(steps), "levels": levels, "regions": deflate(np.packbits(regions[inside]))}
    return {f"{number}.{name}": torch.from_numpy(array) for name, array in arrays.items()}


def _about(case: CaseFiles, recipe: Recipe, box: Box, regions: int, weight: float) -> dict[str, Any]:
    return {
        "start": [int(low) for low in box[0]],
        "shape": [int(high - low) for low, high in zip(*box, strict=True)],
        "exists": [name in case.images for name in recipe.model.modalities],
        "regions": regions,
        "weight": weight,
    }


def _write(folder: Path, number: int, tensors: dict[str, Tensor], numbers: list[int]) -> dict[str, Any]:
    path = folder / f"part-{number:03d}.safetensors"
    return {"file": path.name, "sha256": save_tensors(path, tensors), "cases": numbers}
