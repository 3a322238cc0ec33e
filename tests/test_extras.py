"""What is optional is named before a command computes anything."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from m3ae_core.cli import main
from m3ae_core.errors import ConfigError
from m3ae_core.extras import PACKAGES, require_extra

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_every_extra_is_one_of_the_distribution() -> None:
    declared = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(declared) == {*PACKAGES, "all"}
    for extra, packages in PACKAGES.items():
        listed = " ".join(declared[extra]).replace("-", "_")
        assert all(name in listed for name in packages), extra


@pytest.mark.parametrize("extra", PACKAGES)
def test_what_is_installed_passes(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, extra, ("numpy",))
    require_extra(extra)


@pytest.mark.parametrize("package", ["lightning_fabric", "monai"])
def test_a_missing_package_names_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}.*napari-m3ae\[train\]") as caught:
        require_extra("train")
    assert caught.value.code == "missing-extra"


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("report", "demo --output NEW"),
        ("napari", "demo --viewer --output NEW"),
        ("report", "curves RUN --output NEW"),
        ("train", "pretrain paper --cases CASES --output NEW"),
        ("train", "invert BUNDLE --cases CASES --output NEW"),
        ("train", "finetune paper --pretrained BUNDLE --cases CASES --output NEW"),
    ],
)
def test_commands_ask_before_they_compute(
    extra: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing was read (the inputs do not exist) and nothing written."""
    monkeypatch.chdir(tmp_path)
    for other in PACKAGES:
        monkeypatch.setitem(PACKAGES, other, ("no_such_package",) if other == extra else ())
    assert main(command.split()) == 2
    assert f"pip install 'napari-m3ae[{extra}]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
