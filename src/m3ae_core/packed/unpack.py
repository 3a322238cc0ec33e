"""Turn what another machine left behind into an ordinary bundle."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from m3ae_core.bundle import Bundle, save_bundle
from m3ae_core.config import Recipe, parse_recipe
from m3ae_core.errors import InputError
from m3ae_core.files import sha256
from m3ae_core.io.weights import check_finite, require_fit
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
from m3ae_core.packed.parts import INDEX, read_index
from m3ae_core.packed.train import read_result, read_state

Network = TypeVar("Network", MaskedAutoencoder, Segmenter)


def bundle_from_packed(folder: Path, stages: tuple[Path, Path], output: Path) -> Path:
    """Write the bundle of both `stages` of a training from the parts in `folder`; each network is the average's.

    Raises
    ------
    InputError, BundleError, ConfigError
        If an output is damaged or does not fit the recipe in the index.
    """
    index = read_index(folder)
    recipe = parse_recipe(index["recipe"])
    parts = [part["sha256"] for part in index["parts"]]
    for path in stages:
        if read_result(path)["parts"] != parts:
            problem = "This run did not learn from the packed cases that were given."
            raise InputError(
                problem, "Give the folder of parts it learned from.", path=path, code="other-cases"
            )
    first, second = map(read_state, stages)
    autoencoder = _load(MaskedAutoencoder(recipe.model), first, stages[0])
    segmenter = _load(Segmenter(recipe.model), second, stages[1])
    check_finite({"substitute": second["substitute"]}, stages[1])
    card = _card(recipe, folder, len(index["cases"]))
    return save_bundle(
        Bundle(M3AE.of(recipe.model, second["substitute"].float(), autoencoder, segmenter), card), output
    )


def _load(network: Network, state: dict[str, Tensor], path: Path) -> Network:
    weights = {
        name.removeprefix("average."): value.float()
        for name, value in state.items()
        if name.startswith("average.")
    }
    require_fit(network, weights, path)
    check_finite(weights, path)
    network.load_state_dict(weights)
    return network


def _card(recipe: Recipe, folder: Path, count: int) -> dict[str, Any]:
    return {
        "name": f"{recipe.model.preset} segmenter",
        "stage": "segmenter",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "training_case_count": count,
        "packed_sha256": sha256(folder / INDEX),
        "recipe": recipe.model_dump(mode="json"),
    }
