"""Imports checkpoints of the released code: their layout, translated name by name into ours.

Only key names and shapes of the published files are used here (they are facts); none of that code is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from m3ae_core.config import ModelConfig, load_recipe
from m3ae_core.errors import BundleError, ConfigError
from m3ae_core.files import sha256
from m3ae_core.io.weights import check_finite, load_pickle
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter

Network = TypeVar("Network", MaskedAutoencoder, Segmenter)

#: Our head modules and the released ones, for :func:`translate`.
RECONSTRUCTION_HEAD = {"head": "up1conv"}
SEGMENTATION_HEADS = {"heads.at_full": "up1conv", "heads.at_quarter": "ds_out.0", "heads.at_half": "ds_out.1"}


def backbone_names() -> Iterator[tuple[str, str]]:
    """Yield (our module, released module) for every part of the backbone."""
    for level, (down, blocks) in enumerate(
        (
            ("conv1a", ("conv1b",)),
            ("ds1", ("conv2a", "conv2b")),
            ("ds2", ("conv3a", "conv3b")),
            ("ds3", _LAST),
        )
    ):
        yield f"down.{level}", down
        for index, block in enumerate(blocks):
            yield from _block(f"encoder.{level}.{index}", block)
    for index, level in enumerate((4, 3, 2)):
        yield f"reduce.{index}", f"up{level}conva"
        yield from _block(f"decoder.{index}.0", f"up{level}convb")


def translate(released: Mapping[str, Tensor], heads: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename released network weights; `heads` maps our head modules to theirs."""
    ours = {theirs: name for name, theirs in _released_names(heads).items()}
    return {ours.get(name, name): tensor for name, tensor in released.items()}


def import_official(
    checkpoint: Path, pretrained: Path | None = None, *, origin: str | None = None
) -> tuple[M3AE, dict[str, Any]]:
    """Turn a released checkpoint into a model that runs under the ``official`` preset, and its card.

    Parameters
    ----------
    checkpoint
        A pretraining or fine-tuning checkpoint (``.pth.tar``), told apart by the width of its last layer.
    pretrained
        The pretraining checkpoint that belongs to a fine-tuned one, to show reconstructions from.
    origin
        ``template`` or ``window`` for the substitute's origin; None keeps the preset's.

    Raises
    ------
    BundleError
        If a file is unreadable, holds code, or has other weights than the released network's.
    ConfigError
        If `pretrained` is given with a pretraining checkpoint.
    """
    config = _config(origin)
    tensors = _tensors(checkpoint)
    substitute, autoencoder, segmenter = _substitute(tensors, config, checkpoint), None, None
    if tensors.get("up1conv.weight", torch.empty(0)).shape[:1] == (len(config.modalities),):
        if pretrained is not None:
            raise _two_of_stage_1(checkpoint)
        autoencoder = _autoencoder(tensors, config, checkpoint)
    else:
        segmenter = _segmenter(tensors, config, checkpoint)
        if pretrained is not None:
            first_stage = _tensors(pretrained)
            _substitute(first_stage, config, pretrained)
            autoencoder = _autoencoder(first_stage, config, pretrained)
    card: dict[str, Any] = {
        "name": f"imported {checkpoint.name}",
        "stage": "pretrained" if segmenter is None else "segmenter",
        "source_sha256": sha256(checkpoint),
        "licence": "that of the imported file; not stated by its authors",
    }
    return M3AE.of(config, substitute, autoencoder, segmenter), card


_LAST = ("conv4a", "conv4b", "conv4c", "conv4d")


def _block(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for own, released in (("norm1", "gn1"), ("conv1", "conv1"), ("norm2", "gn2"), ("conv2", "conv2")):
        yield f"{ours}.{own}", f"{theirs}.{released}"


def _config(origin: str | None) -> ModelConfig:
    config = load_recipe("official").model
    if origin is None:
        return config
    inference = config.inference.model_copy(update={"substitute_origin": origin})
    return config.model_copy(update={"inference": inference})


def _released_names(heads: Mapping[str, str]) -> dict[str, str]:
    """Return the released name of each of our weights."""
    pairs = [(f"backbone.{ours}", theirs) for ours, theirs in backbone_names()]
    pairs += list(heads.items())
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in pairs for kind in ("weight", "bias")}


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the released tensors by name, without the prefixes of their wrappers."""
    content = load_pickle(path)
    content = content.get("state_dict", content)
    if not isinstance(content, dict):
        raise _misfit("The entry 'state_dict' is no dictionary of tensors", path)
    tensors: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if isinstance(tensor, Tensor):
            bare = str(name).removeprefix("module.").removeprefix("unet.")
            if bare in tensors:
                raise _misfit(f"The checkpoint holds {bare!r} twice, once as {name!r}", path)
            tensors[bare] = tensor
    check_finite(tensors, path)
    return tensors


def _substitute(tensors: dict[str, Tensor], config: ModelConfig, path: Path) -> Tensor:
    image = tensors.pop("limage", torch.empty(0))
    expected = (1, len(config.modalities), *config.grid.shape)
    if tuple(image.shape) != expected:
        raise _misfit(f"The checkpoint holds no substitute image 'limage' of shape {expected}", path)
    return image[0].float()


def _autoencoder(tensors: Mapping[str, Tensor], config: ModelConfig, path: Path) -> MaskedAutoencoder:
    return _load(MaskedAutoencoder(config), tensors, RECONSTRUCTION_HEAD, path)


def _segmenter(tensors: Mapping[str, Tensor], config: ModelConfig, path: Path) -> Segmenter:
    network = Segmenter(config)
    if not any(name.startswith("ds_out.") for name in tensors):
        # Files for inference only come without the deep-supervision heads, which prediction never reads.
        own, names = network.state_dict(), _released_names(SEGMENTATION_HEADS)
        coarse = {names[name]: own[name] for name in own if names[name].startswith("ds_out.")}
        tensors = {**tensors, **{name: torch.zeros_like(tensor) for name, tensor in coarse.items()}}
    return _load(network, tensors, SEGMENTATION_HEADS, path)


def _load(network: Network, tensors: Mapping[str, Tensor], heads: Mapping[str, str], path: Path) -> Network:
    """Load released weights, every one of them and no other, into one of our networks."""
    names = _released_names(heads)
    expected = {names[name]: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := sorted(n for n in expected.keys() | given.keys() if expected.get(n) != given.get(n)):
        name = wrong[0]
        raise _misfit(
            f"{len(wrong)} weights are not the released network's, the first being {name!r}: "
            f"expected {expected.get(name, 'nothing')}, found {given.get(name, 'nothing')}",
            path,
        )
    network.load_state_dict(translate(tensors, heads))
    return network.eval()


def _misfit(problem: str, path: Path) -> BundleError:
    return BundleError(
        f"{problem}.",
        "Give a checkpoint of the released code, written by its pretraining or its fine-tuning with 16 base channels.",
        path=path,
        code="architecture",
    )


def _two_of_stage_1(path: Path) -> ConfigError:
    return ConfigError(
        "This is a pretraining checkpoint itself.",
        "Give the fine-tuned one, and this one as pretrained.",
        path=path,
        code="arguments",
    )
