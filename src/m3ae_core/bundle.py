"""A bundle is a deployable model: one folder with both networks, the substitute image, and a card.

``bundle.json`` holds the configuration, what the model was trained on, its licence, what was measured, the SHA-256 of
the two tensor files and of itself, and the fingerprint of all that decides about the model's answers;
``weights.safetensors`` the masked autoencoder and (after stage 2) the segmenter; ``substitute.safetensors`` the
substitute image, in half precision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from m3ae_core import __version__
from m3ae_core.card import FORMAT, read_card
from m3ae_core.config import ModelConfig
from m3ae_core.errors import BundleError, ConfigError
from m3ae_core.files import make_folder, sha256, write_json
from m3ae_core.io.weights import load_state, load_tensors, require_fit, save_tensors
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
from m3ae_core.seal import sealed

WEIGHTS, SUBSTITUTE = "weights.safetensors", "substitute.safetensors"

Network = TypeVar("Network", MaskedAutoencoder, Segmenter)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model in memory, on the CPU.

    Attributes
    ----------
    config
        What the model is; inference obeys it.
    substitute
        The substitute image (N, D, H, W) on the template grid.
    autoencoder
        The pretrained masked autoencoder, None if the bundle was imported without it.
    segmenter
        The segmenter, None before stage 2.
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
    >>> bundle.substitute.shape == (4, *bundle.config.grid.shape)
    True
    """

    config: ModelConfig
    substitute: Tensor
    autoencoder: MaskedAutoencoder | None
    segmenter: Segmenter | None
    card: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def name(self) -> str:
        """The model's name on its card."""
        return str(self.card.get("name", "unnamed model"))

    @cached_property
    def fingerprint(self) -> str:
        """The model's identity: the SHA-256 of all that decides about its answers; empty before it is saved."""
        return fingerprint_of(self.sha256, self.substitute, self.config) if self.sha256 else ""


def fingerprint_of(weights: str, substitute: Tensor, config: ModelConfig) -> str:
    """Return the SHA-256 of the hash of a model's `weights`, its substitute as stored, and its configuration.

    Settings at their defaults are left out, so that a setting added later changes no identity.
    """
    image = hashlib.sha256(substitute.half().contiguous().numpy().tobytes()).hexdigest()
    settings = json.dumps(config.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hashlib.sha256("\n".join((weights, image, settings)).encode()).hexdigest()


def save_bundle(bundle: Bundle, folder: Path) -> Path:
    """Write `bundle` into `folder`, made if needed; bundle.json comes last.

    A bundle that is there already can be loaded until that moment, and the new one from then on, even if the program is
    killed: tensors are written under names of their own and renamed when bundle.json speaks of them.

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
    weights: dict[str, Tensor] = {}
    for prefix, network in (("autoencoder", bundle.autoencoder), ("segmenter", bundle.segmenter)):
        if network is not None:
            weights |= {f"{prefix}.{name}": tensor for name, tensor in network.state_dict().items()}
    hashes = {
        WEIGHTS: save_tensors(_fresh(folder, WEIGHTS), weights),
        SUBSTITUTE: save_tensors(_fresh(folder, SUBSTITUTE), {"substitute": bundle.substitute.half()}),
    }
    content = {
        "format": FORMAT,
        "m3ae_core": __version__,
        "model": bundle.config.model_dump(mode="json"),
        "sha256": hashes,
        "fingerprint": fingerprint_of(hashes[WEIGHTS], bundle.substitute, bundle.config),
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
    >>> bundle.card["licence"], bundle.segmenter is not None
    ('CC BY 4.0', True)
    """
    folder = Path(folder)
    content = read_card(folder)
    try:
        config = ModelConfig.model_validate(content["model"])
        hashes = {name: str(content["sha256"][name]) for name in (WEIGHTS, SUBSTITUTE)}
    except (ValidationError, KeyError, TypeError) as error:
        raise BundleError(
            "bundle.json is incomplete.", "Copy the bundle again.", path=folder, code="format"
        ) from error
    path = _stored(folder, WEIGHTS, hashes)
    weights = load_tensors(path, hashes[WEIGHTS])
    if foreign := [name for name in weights if not name.startswith(("autoencoder.", "segmenter."))]:
        raise BundleError(
            f"The file holds weights of no network of this software: {min(foreign)!r}.",
            "Give a bundle made by m3ae.",
            path=path,
            code="architecture",
        )
    image_path = _stored(folder, SUBSTITUTE, hashes)
    image = load_tensors(image_path, hashes[SUBSTITUTE]).get("substitute")
    expected = (len(config.modalities), *config.grid.shape)
    if image is None or tuple(image.shape) != expected:
        raise BundleError(
            f"The substitute image is not of the template's shape {expected}.",
            "Copy the bundle again.",
            path=image_path,
        )
    bundle = Bundle(
        config,
        image.float(),
        _network(MaskedAutoencoder, "autoencoder.", config, weights, path),
        _network(Segmenter, "segmenter.", config, weights, path),
        content["card"],
        hashes[WEIGHTS],
    )
    if (recorded := content.get("fingerprint", bundle.fingerprint)) != bundle.fingerprint:
        raise BundleError(
            f"The model's settings are not those it was saved with (fingerprint {bundle.fingerprint[:12]}, "
            f"not {str(recorded)[:12]}).",
            "Copy the bundle again; settings of a trained model cannot be edited.",
            path=folder / "bundle.json",
            code="hash",
        )
    return bundle


def _fresh(folder: Path, name: str) -> Path:
    """Return where a tensor file lies before bundle.json speaks of it."""
    return (folder / name).with_suffix(".new.safetensors")


def _stored(folder: Path, name: str, hashes: Mapping[str, str]) -> Path:
    """Return the tensor file that bundle.json speaks of by its hash."""
    fresh = _fresh(folder, name)
    return fresh if fresh.is_file() and sha256(fresh) == hashes.get(name) else folder / name


def _settle(folder: Path) -> None:
    """Rename fresh tensor files that bundle.json speaks of, and remove those of a save that was not completed."""
    try:
        hashes = read_card(folder)["sha256"]
    except BundleError:
        hashes = {}
    for name in (WEIGHTS, SUBSTITUTE):
        fresh = _fresh(folder, name)
        for _ in range(2):  # a busy file may be free a moment later; if not, it is settled by the next save
            with suppress(OSError):
                if _stored(folder, name, hashes) == fresh:
                    fresh.replace(folder / name)
                else:
                    fresh.unlink(missing_ok=True)


def _network(
    kind: type[Network], prefix: str, config: ModelConfig, weights: dict[str, Tensor], path: Path
) -> Network | None:
    """Return the network with its weights, or None if there are none; memory is taken only once all of them fit."""
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not own:
        return None
    try:
        with torch.device("meta"):
            planned = kind(config)
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
    network = kind(config)
    load_state(network, own, path)
    network.eval()
    return network
