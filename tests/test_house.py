"""The rules of the house that belong to no one module: who imports what, what is where, what ships."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import m3ae_core

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = {path.relative_to(SRC).as_posix(): path for path in sorted(SRC.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
QT_BINDINGS = {"pyqt5", "pyqt6", "pyside2", "pyside6"}


def run_python(code: str) -> str:
    """Run `code` in a fresh interpreter that sees this checkout; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_cli(module: str) -> bool:
    """Is this a module of the command line, the only place that prints and exits?"""
    return module == "m3ae_core/cli.py" or module.startswith("m3ae_core/cli/")


def dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    """`nib.load` → `nibabel.load`, by the module's import aliases; empty for anything but a dotted name."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, aliases)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def names_used(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every dotted name in the module, written out in full, with its line."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            yield dotted(node, aliases), node.lineno


def places(*wanted: str) -> dict[str, list[int]]:
    """Modules of src that use one of the names, with the lines."""
    found: dict[str, list[int]] = {}
    for module, tree in TREES.items():
        for name, line in names_used(tree):
            if name in wanted:
                found.setdefault(module, []).append(line)
    return found


# --- who imports what ------------------------------------------------------------------------------


def test_imports_point_downwards(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    importlinter = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(SRC)
    status = importlinter.lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert status == importlinter.EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_core_loads_without_viewer_and_extras() -> None:
    """Every module of the core loads with the base dependencies alone: MONAI and its like come later."""
    loaded = run_python(
        "import importlib, json, pkgutil, sys, m3ae_core\n"
        "for module in pkgutil.walk_packages(m3ae_core.__path__, 'm3ae_core.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print(json.dumps(sorted({name.partition('.')[0].lower() for name in sys.modules})))\n"
    )
    unwanted = {
        "napari",
        "qtpy",
        "magicgui",
        "superqt",
        "monai",
        "lightning_fabric",
        "lightning",
        "matplotlib",
    }
    assert not (unwanted | QT_BINDINGS) & set(json.loads(loaded))


def test_session_knows_no_qt() -> None:
    pytest.importorskip("napari.utils.notifications", exc_type=ImportError)
    loaded = run_python("import json, sys, napari_m3ae.session; print(json.dumps(sorted(sys.modules)))")
    assert not ({"qtpy", "magicgui", "superqt"} | QT_BINDINGS) & {name.lower() for name in json.loads(loaded)}


def test_plugin_does_not_compute_itself() -> None:
    users = {
        module: sorted({name for name, _ in names_used(tree) if name.partition(".")[0] in {"torch", "monai"}})
        for module, tree in TREES.items()
        if module.startswith("napari_m3ae/")
    }
    assert not {module: names for module, names in users.items() if names}, "tensors belong into m3ae_core"


def test_help_answers_without_torch() -> None:
    """Whoever asks for help does not wait for torch to load."""
    started = time.perf_counter()
    answer = run_python(
        "import contextlib, io, sys\n"
        "from m3ae_core.cli import main\n"
        "sys.argv = ['m3ae', '--help']\n"
        "text = io.StringIO()\n"
        "with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "print('torch' in sys.modules, len(text.getvalue()))\n"
    )
    seconds = time.perf_counter() - started
    torch_loaded, length = answer.split()
    assert torch_loaded == "False"
    assert int(length) > 100
    assert seconds < 20, f"m3ae --help took {seconds:.1f} s"


# --- what is written where -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nibabel.load", "nibabel.save", "torch.load", "torch.save"])
def test_one_door_for_each_kind_of_file(name: str) -> None:
    """One module reads or writes a kind of file, so that its checks cannot be passed by."""
    assert len(places(name)) <= 1, places(name)


def test_torch_load_never_runs_code_from_the_file() -> None:
    unsafe = [
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(
            word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords
        )
    ]
    assert not unsafe
    assert not places("pickle.load", "pickle.loads", "numpy.lib.format.read_array")


def test_only_the_command_line_prints_and_exits() -> None:
    users = places("print", "sys.exit", "exit", "quit", "SystemExit", "sys.stdout", "sys.stderr")
    alone = (
        "m3ae_core/packed/__main__.py"  # a command line of its own, where the other's libraries are missing
    )
    assert not {module: lines for module, lines in users.items() if not in_cli(module) and module != alone}


def test_no_asserts_and_no_globals() -> None:
    """A user's mistake raises an M3AEError; an `assert` may only tell mypy what the code around it ensures."""
    found = []
    for module, tree in TREES.items():
        lines = MODULES[module].read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree):
            explained = isinstance(node, ast.Assert) and re.search(
                r"# noqa: S101  \S", lines[node.lineno - 1]
            )
            if isinstance(node, ast.Assert | ast.Global) and not explained:
                found.append(f"{module}:{node.lineno}")
    assert not found


def test_no_source_from_copyleft_code() -> None:
    """The released M3AE code is AGPL-3.0: nothing in src comes from it, so nothing there need name it."""
    hint = re.compile(r"affero|agpl|\bGPL|ccarliu/m3ae|brats-evaluation", re.IGNORECASE)
    found = [name for name, path in MODULES.items() if hint.search(path.read_text(encoding="utf-8"))]
    assert not found


# --- what ships ------------------------------------------------------------------------------------


def test_metadata_and_package_agree_on_the_version() -> None:
    try:
        installed = importlib.metadata.version("napari-m3ae")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("napari-m3ae is not installed here (scripts/setup does it)")
    assert installed == m3ae_core.__version__, "scripts/setup refreshes the installed metadata"


@pytest.mark.parametrize("extra", [None, "napari", "report", "train"])
def test_no_qt_binding_unless_asked_for(extra: str | None) -> None:
    project = PYPROJECT["project"]
    requirements = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in requirements}
    assert not QT_BINDINGS & {re.sub(r"[-_.].*", "", name) for name in names}
    assert not [line for line in requirements if line.startswith("napari[")], (
        "napari's extras bring a Qt binding"
    )


def test_licence_is_bsd_3_clause() -> None:
    assert PYPROJECT["project"]["license"] == "BSD-3-Clause"
    text = " ".join((ROOT / "LICENSE").read_text(encoding="utf-8").split())
    assert "Redistribution and use in source and binary forms" in text
    assert "Neither the name of the copyright holder nor the names of its contributors" in text


def test_root_manifest_is_the_packaged_one() -> None:
    npe2 = pytest.importorskip("npe2")
    packaged = SRC / "napari_m3ae" / "napari.yaml"
    link = ROOT / "napari.yaml"
    if not link.is_symlink() and sys.platform == "win32":
        pytest.skip("this checkout was made without symbolic links")
    assert link.resolve() == packaged
    manifest = npe2.PluginManifest.from_file(link)
    assert manifest.name == PYPROJECT["project"]["name"]
    assert "napari-m3ae" in PYPROJECT["project"]["entry-points"]["napari.manifest"]


@pytest.mark.viewer
def test_manifest_names_only_what_exists() -> None:
    npe2 = pytest.importorskip("npe2")
    npe2.PluginManifest.from_file(ROOT / "napari.yaml").validate_imports()


def test_torch_build_is_pinned_in_one_place() -> None:
    files = [
        ROOT / "pyproject.toml",
        ROOT / "Makefile",
        ROOT / ".ci" / "run",
        *filter(Path.is_file, ROOT.glob("scripts/**/*")),
    ]
    files += [*ROOT.glob(".github/workflows/*"), *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert not [path.name for path in files if re.search(r"torch==\d", path.read_text(encoding="utf-8"))]
    assert (
        len(re.findall(r"^torch==\d", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
        == 1
    )


def test_the_hook_of_ruff_has_the_version_of_the_constraints() -> None:
    (version,) = re.findall(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert f"ruff-pre-commit\n    rev: v{version}\n" in (ROOT / ".pre-commit-config.yaml").read_text("utf-8")


@pytest.mark.parametrize("command", ["scripts/demo", "scripts/test"])
def test_readme_gives_the_set_up_commands(command: str) -> None:
    assert f"./{command}" in (ROOT / "README.md").read_text(encoding="utf-8")
    if os.name == "posix":
        assert os.access(ROOT / command, os.X_OK)


def test_links_in_the_documentation_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    broken = []
    for page in pages:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        targets = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", prose) + re.findall(
            r'(?:src|href)="([^"]+)"', prose
        )
        for target in targets:
            local = target.partition("#")[0]
            if local and not re.match(r"[a-z]+:", target) and not (page.parent / local).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken
