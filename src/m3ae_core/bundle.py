"""A bundle is a deployable model: one folder with its networks, the images it keeps beside them, and a card.

``bundle.json`` holds the configuration, what the model was trained on, its licence, what was measured, the SHA-256 of
the tensor files and of itself, and the fingerprint of all that decides about the model's answers;
``weights.safetensors`` the networks, and one file each, in half precision, the images that the method keeps (M3AE:
``substitute.safetensors``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from m3ae_core import __version__
from m3ae_core.card import FORMAT, read_card
from m3ae_core.config import ModelConfig
from m3ae_core.errors import BundleError, ConfigError
from m3ae_core.files import make_folder, sha256, write_json
from m3ae_core.io.weights import load_state, load_tensors, require_fit, save_tensors
from m3ae_core.methods.method import Method
from m3ae_core.methods.registry import method_named
from m3ae_core.seal import sealed

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model in memory, on the CPU, with its card.

    Attributes
    ----------
    model
        Its networks, and what they need.
    card
        Name, training data, licence, recipe and measured figures; free-form JSON.
    sha256
        That of the weights' file; empty before the bundle is saved.

    Examples
    --------
    >>> from m3ae_core import load_bundle
    >>> from m3ae_core.data.builtin import builtin_bundle
    >>> bundle = load_bundle(builtin_bundle())
    >>> bundle.config.modality_set.names, bundle.config.regions
    (('FLAIR', 'T1', 'T1c', 'T2'), ('WT', 'TC', 'ET'))
    >>> bundle.model.images["substitute"].shape == (4, *bundle.config.grid.shape)
    True
    """

    model: Method
    card: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def config(self) -> ModelConfig:
        """What the model is; inference obeys it."""
        return self.model.config

    @property
    def name(self) -> str:
        """The model's name on its card."""
        return str(self.card.get("name", "unnamed model"))

    @cached_property
    def fingerprint(self) -> str:
        """The model's identity: the SHA-256 of all that decides about its answers; empty before it is saved."""
        return fingerprint_of(self.sha256, self.model) if self.sha256 else ""


def fingerprint_of(weights: str, model: Method) -> str:
    """Return the SHA-256 of the hash of a model's `weights`, its images as stored, and its configuration.

    Settings at their defaults are left out, so that a setting added later changes no identity.
    """
    images = [
        hashlib.sha256(model.images[name].half().contiguous().numpy().tobytes()).hexdigest()
        for name in model.IMAGES
    ]
    settings = json.dumps(model.config.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hashlib.sha256("\n".join((weights, *images, settings)).encode()).hexdigest()


def save_bundle(bundle: Bundle, folder: Path) -> Path:
    """Write `bundle` into `folder`, made if needed; bundle.json comes last.

    A bundle that is there already can be loaded until that moment, and the new one from then on, even if the program is
    killed: tensors are written under names of their own and renamed when bundle.json names them.

    Raises
    ------
    OutputError
        If a file cannot be written; an older bundle stays as it was.
    """
    make_folder(folder)
    _settle(folder)
    try:
        _write(bundle, folder)
    finally:
        _settle(folder)
    return folder


def _write(bundle: Bundle, folder: Path) -> None:
    model = bundle.model
    weights = {
        f"{prefix}.{name}": tensor
        for prefix, network in model.networks.items()
        for name, tensor in network.state_dict().items()
    }
    hashes = {WEIGHTS: save_tensors(_fresh(folder, WEIGHTS), weights)}
    for name in model.IMAGES:
        file = image_file(name)
        hashes[file] = save_tensors(_fresh(folder, file), {name: model.images[name].half()})
    content = {
        "format": FORMAT,
        "m3ae_core": __version__,
        "model": bundle.config.model_dump(mode="json"),
        "sha256": hashes,
        "fingerprint": fingerprint_of(hashes[WEIGHTS], model),
        "card": bundle.card,
    }
    write_json(folder / "bundle.json", sealed(content))


def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle, checking hashes, names, shapes and that every value is finite.

    Raises
    ------
    BundleError
        If a file is missing, damaged, or made for another architecture.

    Examples
    --------
    >>> from m3ae_core import load_bundle
    >>> from m3ae_core.data.builtin import builtin_bundle
    >>> bundle = load_bundle(builtin_bundle())
    >>> bundle.card["licence"], sorted(bundle.model.networks)
    ('CC BY 4.0', ['autoencoder', 'segmenter'])
    """
    folder = Path(folder)
    content = read_card(folder)
    try:
        config = ModelConfig.model_validate(content["model"])
        method = method_named(config.method)
        files = (WEIGHTS, *map(image_file, method.IMAGES))
        hashes = {name: str(content["sha256"][name]) for name in files}
    except (ValidationError, KeyError, TypeError) as error:
        raise BundleError(
            "bundle.json is incomplete.", "Copy the bundle again.", path=folder, code="format"
        ) from error
    networks = _load_networks(method, config, _stored(folder, WEIGHTS, hashes), hashes[WEIGHTS])
    images = {name: _load_image(name, config, folder, hashes) for name in method.IMAGES}
    bundle = Bundle(method.restored(config, networks, images), content["card"], hashes[WEIGHTS])
    if (recorded := content.get("fingerprint", bundle.fingerprint)) != bundle.fingerprint:
        raise BundleError(
            f"The model's settings are not those it was saved with (fingerprint {bundle.fingerprint[:12]}, "
            f"not {str(recorded)[:12]}).",
            "Copy the bundle again; settings of a trained model cannot be edited.",
            path=folder / "bundle.json",
            code="hash",
        )
    return bundle


def image_file(name: str) -> str:
    """Return the name of the file that holds an image of a model."""
    return f"{name}.safetensors"


def _load_image(name: str, config: ModelConfig, folder: Path, hashes: Mapping[str, str]) -> Tensor:
    """Return an image (N, D, H, W) of a model, float32."""
    path = _stored(folder, image_file(name), hashes)
    image = load_tensors(path, hashes[image_file(name)]).get(name)
    expected = (len(config.modalities), *config.grid.shape)
    if image is None or tuple(image.shape) != expected:
        problem = f"The {name} image is not of the template's shape {expected}."
        raise BundleError(problem, "Copy the bundle again.", path=path)
    return image.float()


def _load_networks(
    method: type[Method], config: ModelConfig, path: Path, hashed: str
) -> dict[str, nn.Module]:
    """Return the networks whose weights are in the file."""
    weights = load_tensors(path, hashed)
    prefixes = tuple(f"{name}." for name in method.NETWORKS)
    if foreign := [name for name in weights if not name.startswith(prefixes)]:
        raise BundleError(
            f"The file holds weights of no network of this software: {min(foreign)!r}.",
            "Give a bundle made by m3ae.",
            path=path,
            code="architecture",
        )
    networks = {
        name: _network(build, f"{name}.", config, weights, path) for name, build in method.NETWORKS.items()
    }
    return {name: network for name, network in networks.items() if network is not None}


def _fresh(folder: Path, name: str) -> Path:
    """Return where a tensor file lies before bundle.json names it."""
    return (folder / name).with_suffix(".new.safetensors")


def _stored(folder: Path, name: str, hashes: Mapping[str, str]) -> Path:
    """Return the tensor file that bundle.json names by its hash."""
    fresh = _fresh(folder, name)
    return fresh if fresh.is_file() and sha256(fresh) == hashes.get(name) else folder / name


def _settle(folder: Path) -> None:
    """Rename fresh tensor files that bundle.json names, and remove those of a save that was not completed."""
    try:
        hashes = read_card(folder)["sha256"]
    except BundleError:
        hashes = {}
    for fresh in sorted(folder.glob("*.new.safetensors")):
        name = fresh.name.replace(".new.", ".")
        for _ in range(2):  # a busy file may be free a moment later; if not, it is settled by the next save
            with suppress(OSError):
                if _stored(folder, name, hashes) == fresh:
                    fresh.replace(folder / name)
                else:
                    fresh.unlink(missing_ok=True)


def _network(
    build: Callable[[ModelConfig], nn.Module],
    prefix: str,
    config: ModelConfig,
    weights: dict[str, Tensor],
    path: Path,
) -> nn.Module | None:
    """Return the network with its weights, or None if there are none; memory is taken only once all of them fit."""
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not own:
        return None
    try:
        with torch.device("meta"):
            planned = build(config)
    except ConfigError as error:
        raise BundleError(error.problem, error.fix, path=path.parent, code=error.code) from error
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise BundleError(
            "bundle.json describes a network that cannot be built.",
            "Copy the bundle again.",
            path=path.parent,
            code="architecture",
        ) from error
    require_fit(planned, own, path)
    network = build(config)
    load_state(network, own, path)
    network.eval()
    return network
