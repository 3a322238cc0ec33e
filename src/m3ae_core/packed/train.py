"""Train a stage from packed cases on one device, on torch alone: augmentation there, too, and a schedule of minutes.

Networks, losses, masking and the substitute are those of the library; the two situations of every case go through the
network together. What is left behind is small: the moving average of the weights, the weights and Adam's moments in
bfloat16, the substitute in half precision, so that a resumed run goes on from rounded weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from m3ae_core.data import batched
from m3ae_core.errors import ConfigError, InputError, OutputError
from m3ae_core.files import atomic_write, make_folder, remove, sha256, write_json
from m3ae_core.methods.m3ae.losses import finetuning_loss, reconstruction_loss, substitute_regulariser
from m3ae_core.methods.m3ae.masking import patches_to_voxels, sample_mask, two_situations
from m3ae_core.methods.m3ae.substitute import SubstituteImage, fill
from m3ae_core.nn.heads import ReconstructionHead, ScaledLogits, SegmentationHeads
from m3ae_core.nn.unet import ResidualUNet
from m3ae_core.packed.parts import PackedCase, read_index, read_parts, settings
from m3ae_core.training.schedule import cosine

#: No file that is left behind is larger, in bytes.
FILE_SIZE = 15_000_000
RESULT = "result.json"
#: Seconds between saves, and the share of the minutes that is kept back for the last one.
SAVE_EVERY, KEPT_BACK = 120, 0.03
#: Decay of the weights' moving average where the recipe has none.
EMA = 0.999


class Network(nn.Module):
    """The backbone and the heads of a stage, under the names that bundles know."""

    def __init__(self, model: Any, stage: int) -> None:
        super().__init__()
        self.backbone = ResidualUNet(len(model.modalities), model.network)
        if stage == 1:
            self.head = ReconstructionHead(self.backbone.widths, len(model.modalities))
        else:
            self.heads = SegmentationHeads(self.backbone.widths, len(model.regions))


@dataclass
class PackedRun:
    """A stage in training.

    Attributes
    ----------
    recipe
        Plain attributes; `stage` is 1 or 2.
    span
        The paper's intensity range [0, 1] in units of the images.
    cases
        All cases; those without labels take no part in stage 2.
    seconds, steps
        Spent and done so far, over all calls.
    """

    recipe: Any
    stage: Literal[1, 2]
    cases: list[PackedCase]
    device: torch.device
    precision: torch.dtype
    span: float
    seconds: float = 0.0
    steps: int = 0
    network: Network = field(init=False)
    average: Network = field(init=False)
    substitute: SubstituteImage = field(init=False)
    optimizer: torch.optim.Adam = field(init=False)
    rates: list[float] = field(init=False)

    def __post_init__(self) -> None:
        model, config = self.recipe.model, self.config
        torch.manual_seed(config.seed)
        self.network, self.average = (Network(model, self.stage).to(self.device) for _ in range(2))
        self.average.load_state_dict(self.network.state_dict())
        std = self.recipe.pretrain.substitute.init_std
        noise = std * torch.randn(len(model.modalities), *model.grid.shape)
        self.substitute = SubstituteImage.of(noise).to(self.device).requires_grad_(self.stage == 1)
        self.substitute.smooth_gradients(
            self.recipe.pretrain.substitute.gradient_sd if self.stage == 1 else 0
        )
        groups: list[dict[str, Any]] = [
            {"params": list(self.network.parameters()), "lr": config.learning_rate}
        ]
        if self.stage == 1:
            rate = self.recipe.pretrain.substitute.learning_rate
            groups.append({"params": list(self.substitute.parameters()), "lr": rate})
        self.rates = [group["lr"] for group in groups]
        self.optimizer = torch.optim.Adam(groups, weight_decay=config.weight_decay)
        if self.stage == 2:
            self.cases = [case for case in self.cases if len(case.regions)]

    @property
    def config(self) -> Any:
        """The recipe of this stage."""
        return self.recipe.pretrain if self.stage == 1 else self.recipe.finetune

    def step(self, share: float) -> dict[str, float]:
        """Take the next step, `share` of the time being over; return its loss terms."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * cosine(share)
        rng = np.random.default_rng([self.config.seed, self.stage, self.steps])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**31)))
        chosen = [self.cases[n] for n in rng.choice(len(self.cases), self.config.batch_size)]
        terms = (self._reconstruct if self.stage == 1 else self._segment)(chosen, rng, generator)
        loss = torch.stack(list(terms.values())).sum()
        if not loss.isfinite():
            problem = f"The loss is not finite any more at step {self.steps + 1}; the run stops."
            raise InputError(problem, "Lower the learning rate or compute in float32.", code="nonfinite-loss")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.steps += 1
        decay = min(getattr(self.config, "ema", EMA) or EMA, self.steps / (self.steps + 10))
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)
        return {name: float(term.detach()) for name, term in terms.items()}

    def _crops(
        self, cases: list[PackedCase], rng: np.random.Generator, generator: torch.Generator, *, vary: bool
    ) -> tuple[Tensor, Tensor, list[tuple[int, ...]]]:
        """Return crops (B, N, …), their regions (B, R, …) and first voxels; `vary` turns them and changes scanners."""
        shape, size = tuple(self.recipe.model.grid.shape), tuple(self.config.crop)
        starts = [
            tuple(int(rng.integers(max(0, a - b) + 1)) for a, b in zip(shape, size, strict=True))
            for _ in cases
        ]
        pairs = [case.on_template(shape, self.device) for case in cases]
        both = torch.stack([torch.cat(pair if vary else pair[:1]) for pair in pairs])
        matrices = batched.turns_and_zooms(generator, len(cases), 1.0 if vary else 0.0)
        cropped = batched.cut(both, torch.tensor(starts, device=self.device), size, matrices)
        modalities = len(self.recipe.model.modalities)
        x, regions = cropped[:, :modalities], cropped[:, modalities:] > 0.5
        return batched.vary(generator, x) if vary else x, regions, starts

    def _reconstruct(
        self, cases: list[PackedCase], rng: np.random.Generator, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Eqn. 3 on a batch."""
        x, _, starts = self._crops(cases, rng, generator, vary=False)
        config = self.config
        masks = [sample_mask(rng, case.exists.numpy(), config.crop, config.masking) for case in cases]
        masked = torch.from_numpy(np.stack([patches_to_voxels(mask, config.crop) for mask in masks])).to(
            self.device
        )
        filled = fill(x, self.substitute.crop(starts, config.crop), masked)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            reconstruction = self.network.head(self.network.backbone(filled).full)
        exists = torch.stack([case.exists for case in cases]).to(self.device)
        regulariser = substitute_regulariser(self.substitute.image, config.substitute.regulariser)
        return {
            "reconstruction": reconstruction_loss(x, reconstruction.float(), exists),
            "regulariser": config.substitute.gamma * regulariser,
        }

    def _segment(
        self, cases: list[PackedCase], rng: np.random.Generator, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Eqn. 4 on a batch: both situations of every case, changed alike by intensity and flips."""
        x, regions, starts = self._crops(cases, rng, generator, vary=True)
        config, batch = self.config, len(cases)
        dropped = np.stack([two_situations(rng, case.exists.numpy(), config) for case in cases], 1)
        masked = torch.from_numpy(dropped).to(self.device)[..., None, None, None]
        views = fill(x[None], self.substitute.crop(starts, config.crop)[None], masked)
        per_sequence = (batch, x.shape[1], 1, 1, 1)
        scale = batched.uniform(generator, 1 - config.augment.scale, 1 + config.augment.scale, *per_sequence)
        shift = self.span * batched.uniform(
            generator, -config.augment.shift, config.augment.shift, *per_sequence
        )
        views = (views * scale + shift).flatten(0, 1)
        flips = [axis - 3 for axis in range(3) if rng.random() < config.augment.flip[axis]]
        views, target = (tensor.flip(flips) if flips else tensor for tensor in (views, regions))
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            features = self.network.backbone(views)
            logits = self.network.heads(features)
        return finetuning_loss(
            ScaledLogits(*(part.float() for part in logits)),
            target.repeat(2, 1, 1, 1, 1),
            features.bottleneck.float(),
            config.consistency_weight,
            config.segmentation_loss,
            2 * [case.weight for case in cases],
        )

    def state(self) -> dict[str, Tensor]:
        """Return all that is kept, rounded: average, weights, moments and the substitute."""
        half = {f"average.{name}": value.bfloat16() for name, value in self.average.state_dict().items()}
        half |= {f"weights.{name}": value.bfloat16() for name, value in self.network.state_dict().items()}
        half["substitute"] = self.substitute.image.detach().half()
        for name, parameter in self.network.named_parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                if parameter in self.optimizer.state:
                    half[f"{moment}.{name}"] = self.optimizer.state[parameter][moment].bfloat16()
        return {name: value.cpu().contiguous() for name, value in half.items()}

    def restore(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Go on from a `state`; the substitute's own moments start anew."""
        self.seconds, self.steps = float(about["seconds"]), int(about["steps"])
        for prefix, network in (("average", self.average), ("weights", self.network)):
            network.load_state_dict(
                {name: tensors[f"{prefix}.{name}"].float() for name in network.state_dict()}
            )
        self.substitute.image.data.copy_(tensors["substitute"].float())
        for name, parameter in self.network.named_parameters():
            if f"exp_avg.{name}" in tensors:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.steps)),
                    **{m: tensors[f"{m}.{name}"].float().to(self.device) for m in ("exp_avg", "exp_avg_sq")},
                }

    def start_from(self, first: dict[str, Tensor]) -> None:
        """Begin stage 2 with what stage 1 left: its average's backbone and its substitute."""
        backbone = {
            name.removeprefix("average.backbone."): value.float()
            for name, value in first.items()
            if name.startswith("average.backbone.")
        }
        for network in (self.network, self.average):
            network.backbone.load_state_dict(backbone)
        self.substitute.image.data.copy_(first["substitute"].float())


def train_packed(
    folder: Path,
    output: Path,
    stage: Literal[1, 2],
    minutes: float,
    *,
    now: float | None = None,
    pretrained: Path | None = None,
    device: str = "cpu",
    precision: str = "float32",
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Train a stage for `minutes` in all, `now` of them in this call; resume from `output` if it holds a run.

    The state is saved every two minutes and at the end. Returns what ``result.json`` says: steps, seconds, the last
    loss terms, the files.

    Raises
    ------
    InputError
        If parts are damaged, `output` holds a run of another stage, other parts or other minutes (``other-run``), stage
        2 lacks stage 1 or labels, or the loss stops being finite (``nonfinite-loss``); what was saved stays.
    ConfigError
        If the device is not there.
    """
    began = clock()
    index = read_index(folder)
    about = {"stage": stage, "parts": [part["sha256"] for part in index["parts"]], "minutes": minutes}
    run = PackedRun(
        settings(index["recipe"]),
        stage,
        read_parts(folder),
        _device(device),
        getattr(torch, precision),
        index["span"],
    )
    done = _begin(run, output, about, pretrained)
    before, total = run.seconds, 60 * minutes
    limit = min(total, before + 60 * now if now else total) - KEPT_BACK * total
    if done is not None and before >= limit:
        return done
    terms, saved = dict[str, float](), before
    while (spent := before + clock() - began) < limit:
        terms = run.step(spent / total)
        if spent - saved > SAVE_EVERY:
            run.seconds = saved = spent
            save_state(output, run, {**about, "terms": terms})
    run.seconds = before + clock() - began
    return save_state(output, run, {**about, "terms": terms})


def _device(name: str) -> torch.device:
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device here.", "Choose cpu.", code="device")
    return torch.device(name)


def _begin(
    run: PackedRun, output: Path, about: dict[str, Any], pretrained: Path | None
) -> dict[str, Any] | None:
    """Put a run where the last call left it, and return what that said; else where stage 1 or chance leaves it."""
    if not run.cases:
        problem = "No packed case has labels."
        raise InputError(problem, "Pack them with --scheme.", path=output, code="no-labels")
    if (output / RESULT).exists():
        told = read_result(output)
        if other := [name for name in about if told.get(name) != about[name]]:
            raise InputError(
                f"The run in this folder was started with other {' and '.join(other)}.",
                "Choose another output folder, or go on as it was started.",
                path=output,
                code="other-run",
            )
        run.restore(read_state(output), told)
        return told
    if pretrained is not None:
        run.start_from(read_state(pretrained))
    elif run.stage == 2:
        raise InputError("Stage 2 starts from stage 1.", "State its folder.", path=output, code="no-stage-1")
    return None


def save_state(output: Path, run: PackedRun, about: dict[str, Any]) -> dict[str, Any]:
    """Write the state of a run into files of at most :data:`FILE_SIZE` bytes.

    They have names of their own, and ``result.json``, which comes last, names them with their SHA-256: until then
    the former state is the one that counts. Its files go afterwards.
    """
    make_folder(output)
    files: list[dict[str, Tensor]] = [{}]
    room = FILE_SIZE
    for name, tensor in run.state().items():
        size = tensor.numel() * tensor.element_size()
        if size > room and files[-1]:
            files.append({})
            room = FILE_SIZE
        files[-1][name] = tensor
        room -= size
    before = set(output.glob("state-*.safetensors"))
    paths = [output / f"state-{run.steps}-{number}.safetensors" for number in range(len(files))]
    try:
        for path, content in zip(paths, files, strict=True):
            packed = save(content)
            atomic_write(path, lambda temporary, packed=packed: temporary.write_bytes(packed))  # type: ignore[misc]
        hashes = {path.name: sha256(path) for path in paths}
        result = {**about, "steps": run.steps, "seconds": run.seconds, "files": hashes}
        write_json(output / RESULT, result)
    except OutputError:
        remove(set(paths) - before)
        raise
    remove(before - set(paths))
    return result


def read_result(output: Path) -> dict[str, Any]:
    """Return what ``result.json`` says.

    Raises
    ------
    InputError
        If the folder holds no run.
    """
    try:
        told: dict[str, Any] = json.loads((output / RESULT).read_text("utf-8"))
        _ = told["files"].items(), float(told["seconds"]), int(told["steps"]), told["parts"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            "This folder holds no run of packed cases.",
            "Give the output of train-packed.",
            path=output,
            code="packed",
        ) from error
    return told


def read_state(output: Path) -> dict[str, Tensor]:
    """Return the tensors that a run left behind.

    Raises
    ------
    InputError
        If the folder holds no run, or a file is missing or not the one that was written (``hash``).
    """
    tensors: dict[str, Tensor] = {}
    for name, expected in read_result(output)["files"].items():
        path = output / str(name)
        if not path.is_file() or sha256(path) != expected:
            problem = "This file is missing, or is not the one that was written."
            raise InputError(problem, "Bring the folder back again.", path=path, code="hash")
        tensors |= load_file(str(path))
    return tensors
