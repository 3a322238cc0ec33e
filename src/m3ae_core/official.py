"""Imports checkpoints of the released code: their layout, translated name by name into ours.

Only key names and shapes of the published files are used here (they are facts); none of that code is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3ae_core.bundle import Bundle
from m3ae_core.config import ModelConfig, load_recipe
from m3ae_core.errors import BundleError
from m3ae_core.files import sha256
from m3ae_core.model.m3ae import MaskedAutoencoder, Segmenter
from m3ae_core.model.weights import check_finite, load_pickle, load_state

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
    pairs = [(f"backbone.{ours}", theirs) for ours, theirs in backbone_names()]
    pairs += list(heads.items())
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for ours, theirs in pairs for kind in ("weight", "bias")}
    return {names.get(name, name): tensor for name, tensor in released.items()}


def import_official(checkpoint: Path, pretrained: Path | None = None, *, origin: str | None = None) -> Bundle:
    """Turn a released checkpoint into a bundle that runs under the ``official`` preset.

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
    """
    config = load_recipe("official").model
    if origin is not None:
        inference = config.inference.model_copy(update={"substitute_origin": origin})
        config = config.model_copy(update={"inference": inference})
    tensors = _tensors(checkpoint)
    substitute, autoencoder, segmenter = _substitute(tensors, config, checkpoint), None, None
    if tensors.get("up1conv.weight", torch.empty(0)).shape[:1] == (len(config.modalities),):
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
    return Bundle(config, substitute, autoencoder, segmenter, card)


_LAST = ("conv4a", "conv4b", "conv4c", "conv4d")


def _block(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for own, released in (("norm1", "gn1"), ("conv1", "conv1"), ("norm2", "gn2"), ("conv2", "conv2")):
        yield f"{ours}.{own}", f"{theirs}.{released}"


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the released tensors by name, without the prefixes of their wrappers."""
    content = load_pickle(path)
    content = content.get("state_dict", content)
    tensors = {
        name.removeprefix("module.").removeprefix("unet."): tensor
        for name, tensor in content.items()
        if isinstance(tensor, Tensor)
    }
    check_finite(tensors, path)
    return tensors


def _substitute(tensors: dict[str, Tensor], config: ModelConfig, path: Path) -> Tensor:
    image = tensors.pop("limage", torch.empty(0))
    expected = (1, len(config.modalities), *config.grid.shape)
    if tuple(image.shape) != expected:
        raise BundleError(
            f"The checkpoint holds no substitute image 'limage' of shape {expected}.",
            "Give a checkpoint of the released code.",
            path=path,
            code="architecture",
        )
    return image[0].float()


def _autoencoder(tensors: Mapping[str, Tensor], config: ModelConfig, path: Path) -> MaskedAutoencoder:
    network = MaskedAutoencoder(config)
    load_state(network, translate(tensors, RECONSTRUCTION_HEAD), path)
    return network.eval()


def _segmenter(tensors: Mapping[str, Tensor], config: ModelConfig, path: Path) -> Segmenter:
    network = Segmenter(config)
    weights = translate(tensors, SEGMENTATION_HEADS)
    if not any(name.startswith("ds_out.") for name in tensors):
        # Files for inference only come without the deep-supervision heads, which prediction never reads.
        own = network.state_dict()
        weights |= {
            name: torch.zeros_like(own[name]) for name in own if "at_half" in name or "at_quarter" in name
        }
    load_state(network, weights, path)
    return network.eval()
