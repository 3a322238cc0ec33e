"""The public names: complete, lazy, and each with an example that runs."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import m3ae_core

SOURCE = Path(m3ae_core.__file__)
README = Path(__file__).parents[1] / "README.md"
#: Values have no docstring of their own: the package's shows them.
VALUES = {"BRATS", "__version__"}


def examples(documented: object, name: str) -> list[doctest.DocTest]:
    """The examples of one docstring, those of a class's methods left out; they see no names but their own."""
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=True)
    return finder.find(documented, name, globs={})


@pytest.mark.parametrize("name", sorted({*m3ae_core.__all__} - VALUES))
def test_every_public_name_has_an_example_that_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (test,) = examples(getattr(m3ae_core, name), name)
    assert any(name.lower() in example.source.lower() for example in test.examples), (
        "the example does not show it"
    )
    assert not doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test).failed


def test_the_example_of_the_package_runs_and_shows_its_values() -> None:
    (test,) = examples(m3ae_core, "m3ae_core")
    assert all(any(f".{name}" in example.source for example in test.examples) for name in VALUES)
    assert not doctest.DocTestRunner().run(test).failed


def test_type_checkers_see_the_same_names() -> None:
    """What is imported for them alone is `__all__`, from where it is imported at run time."""
    (block,) = (node for node in ast.parse(SOURCE.read_text("utf-8")).body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*seen, "__version__"} == {*m3ae_core.__all__}
    for name, (module, attribute) in seen.items():
        assert getattr(m3ae_core, name) is getattr(sys.modules[str(module)], attribute), name
    assert {*m3ae_core.__all__} <= {*dir(m3ae_core)}


def test_names_that_are_not_public_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"m3ae_core.*no_such_name"):
        _ = m3ae_core.no_such_name


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, m3ae_core; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    environment = {"PYTHONPATH": str(SOURCE.parents[1])}
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment, check=True
    ).stdout.split()
    assert "m3ae_core" in loaded
    assert not {"torch", "numpy", "nibabel", "pydantic", "scipy"} & {*loaded}


def test_the_readme_imports_public_names_alone() -> None:
    code = README.read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node).split()[1] for node in imports] == ["m3ae_core"]
    assert {alias.name for alias in imports[0].names} <= {*m3ae_core.__all__}


def test_segment_takes_keywords_by_modality() -> None:
    kinds = {parameter.kind for parameter in inspect.signature(m3ae_core.segment).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
