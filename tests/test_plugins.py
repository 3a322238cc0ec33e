"""An outside package adds a backbone through an entry point; a broken one is reported and breaks nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

SRC = Path(__file__).resolve().parent.parent / "src"

POOLING = """
    import torch.nn.functional as F
    from torch import nn

    from m3ae_core.nn.unet import Features
    from m3ae_core.plugins import hook_implementation


    class PoolingNet(nn.Module):
        '''Convolves the image at every scale; the smallest thing that is a backbone.'''

        def __init__(self, in_channels, config):
            super().__init__()
            c = config.base_channels
            self.widths = (c, 2 * c, 4 * c, 8 * c)
            self.levels = nn.ModuleList(nn.Conv3d(in_channels, width, 3, padding=1) for width in self.widths)

        def forward(self, x):
            full, half, quarter, deepest = (
                level(F.avg_pool3d(x, 2**i)) for i, level in enumerate(self.levels)
            )
            return Features(deepest, quarter, half, full)


    @hook_implementation
    def m3ae_backbones():
        return {"pooling-net": PoolingNet}
"""


def offering(name: str, body: str = "") -> str:
    """A plugin without torch that offers the backbone `name`."""
    return dedent(f"""
        from m3ae_core.plugins import hook_implementation

        @hook_implementation
        def m3ae_backbones():
            {body or f"return {{{name!r}: dict}}"}
    """)


def install(site: Path, name: str, module: str) -> None:
    """Write a package as pip would lay it out: the module, and the metadata that announce it."""
    (site / f"{name}.py").write_text(dedent(module))
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[m3ae.plugins]\n{name} = {name}\n")


def run(site: Path, code: str) -> Any:
    """Run `code` where the packages in `site` are installed; return the JSON it printed last."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (site, SRC)))}
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_outside_backbone_segments_from_a_bundle(tmp_path: Path) -> None:
    """Built by name, run, saved in a bundle, loaded and applied to a case: nothing in m3ae_core is touched."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "outside", POOLING)
    found = run(
        site,
        f"""
        import json
        import torch
        from m3ae_core.bundle import Bundle, load_bundle, save_bundle
        from m3ae_core.config import GridConfig, InferenceConfig, ModelConfig, NetworkConfig
        from m3ae_core.io.case import read_case
        from m3ae_core.data.phantom import AFFINE, write_phantom
        from m3ae_core.inference.predictor import Predictor
        from m3ae_core.methods.m3ae.method import M3AE
        from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
        from m3ae_core.plugins import plugin_errors
        from pathlib import Path

        torch.manual_seed(0)
        affine = ((0, 0, -4, -25.5), (0, -4, 0, 229.5), (4, 0, 0, -1), (0, 0, 0, 1))
        config = ModelConfig(
            network=NetworkConfig(name="pooling-net", base_channels=2),
            grid=GridConfig(shape=(16, 24, 20), affine=affine),
            inference=InferenceConfig(window=(16, 16, 16)),
        )
        segmenter = Segmenter(config)
        logits, features = segmenter(torch.randn(1, 4, 16, 8, 8))
        bundle = Bundle(M3AE.of(config, torch.randn(4, 16, 24, 20), MaskedAutoencoder(config), segmenter))
        loaded = load_bundle(save_bundle(bundle, Path({str(tmp_path)!r}) / "bundle"))
        files = write_phantom({str(tmp_path)!r}, shape=(20, 24, 16), present=("T1c", "T2"))
        prediction = Predictor(loaded, "cpu").predict(read_case(files))
        print(json.dumps({{
            "backbone": type(loaded.model.segmenter.backbone).__module__,
            "full": list(logits.full.shape),
            "bottleneck": list(features.bottleneck.shape),
            "labels": list(prediction.labels.shape),
            "weights_kept": bool((loaded.model.segmenter.backbone.levels[0].weight
                                  == segmenter.backbone.levels[0].weight).all()),
            "substituted": prediction.provenance["sequences_substituted"],
            "errors": plugin_errors(),
        }}))
        """,
    )
    assert found == {
        "backbone": "outside",
        "full": [1, 3, 16, 8, 8],
        "bottleneck": [1, 16, 2, 1, 1],
        "labels": [20, 24, 16],
        "weights_kept": True,
        "substituted": ["FLAIR", "T1"],
        "errors": [],
    }
    code, message = run(
        tmp_path,  # where the package is not installed
        f"""
        import json
        from m3ae_core.bundle import load_bundle
        from m3ae_core.errors import BundleError
        try:
            load_bundle({str(tmp_path / "bundle")!r})
        except BundleError as error:
            print(json.dumps([error.code, str(error)]))
        """,
    )
    assert code == "no-backbone"
    assert "'pooling-net'" in message


ASK = """
    import json
    from m3ae_core.errors import ConfigError
    from m3ae_core.plugins import plugin_errors, registered
    try:
        for _ in range(3):
            found = sorted(registered("backbones"))
    except ConfigError as error:
        found = [error.code, str(error)]
    print(json.dumps({"found": found, "errors": plugin_errors()}))
"""


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (offering("", "raise RuntimeError('no licence')"), "no licence"),
        ("raise ImportError('no such library')", "no such library"),
        ("import a_library_that_is_not_there", "a_library_that_is_not_there"),
        (offering("", "return ['a-list']"), "list"),
    ],
    ids=["raises", "import-error", "missing-library", "not-a-dictionary"],
)
def test_a_broken_plugin_is_reported_and_breaks_nothing(tmp_path: Path, broken: str, reason: str) -> None:
    install(tmp_path, "good", offering("good-net"))
    install(tmp_path, "broken", broken)
    install(tmp_path, "fine", offering("fine-net"))
    answer = run(tmp_path, ASK)
    assert answer["found"] == ["fine-net", "good-net"]
    assert len(answer["errors"]) == 1, "reported once, however often the plugins are asked"
    assert answer["errors"][0].startswith("broken: ")
    assert reason in answer["errors"][0]


def test_two_plugins_must_not_share_a_name(tmp_path: Path) -> None:
    install(tmp_path, "first", offering("same-net"))
    install(tmp_path, "second", offering("same-net"))
    code, message = run(tmp_path, ASK)["found"]
    assert code == "plugins"
    assert "same-net" in message
    assert "first" in message
    assert "second" in message


def test_an_outside_metric_is_registered(tmp_path: Path) -> None:
    """What it then does to a benchmark and its report is tested there."""
    module = """
        from m3ae_core.evaluation.registry import Metric
        from m3ae_core.plugins import hook_implementation

        @hook_implementation
        def m3ae_metrics():
            return {"missed": Metric(
                name="missed", title="Missed voxels", both_empty=0, undefined=0,
                from_counts=lambda ours, theirs, both: theirs - both,
            )}
    """
    install(tmp_path, "outside", module)
    code = """
        import json
        from m3ae_core.evaluation.registry import registered
        from m3ae_core.plugins import plugin_errors
        print(json.dumps([[metric.title for metric in registered()], plugin_errors()]))
    """
    assert run(tmp_path, code) == [["Dice", "Dice", "HD95", "Missed voxels"], []]


def test_without_plugins_nothing_is_wrong(tmp_path: Path) -> None:
    assert run(tmp_path, ASK) == {"found": [], "errors": []}
