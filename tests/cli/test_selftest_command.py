"""``m3ae selftest`` says what was found, line by line, and its exit code tells whether all is well."""

from __future__ import annotations

import pytest

from m3ae_core.cli import main
from m3ae_core.events import Progress
from m3ae_core.selftest.check import Check


def run(*arguments) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def test_a_folder_that_is_missing_fails_and_all_else_is_tested(tmp_path, capsys):
    assert run("selftest", "--output", tmp_path / "Jane Doe", "--device", "cpu") == 1
    *lines, summary = capsys.readouterr().out.strip().splitlines()
    assert [line.partition(":")[0].split() for line in lines] == [
        ["ok", "model"],
        ["ok", "device"],
        ["FAILED", "folder"],
        ["ok", "versions"],
    ]
    assert "No such file" in lines[2]
    assert "Choose another folder" in lines[2]
    assert summary.startswith("3 of 4 checks passed in ")
    assert "Jane" not in "".join(lines)


def test_all_well(tmp_path, capsys, monkeypatch):
    asked = []

    def healthy(folder, device):
        asked.append((folder, device))
        yield Progress("killing writes", 1, 2)
        yield Check("folder", True, "It is well.")

    monkeypatch.setattr("m3ae_core.selftest.run.run_selftest", healthy)
    assert run("selftest") == 0
    assert run("selftest", "--output", tmp_path, "--device", "cuda") == 0
    assert asked == [(None, "auto"), (tmp_path, "cuda")]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok      folder: It is well."
    assert lines[1].startswith("1 of 1 checks passed in ")


@pytest.mark.parametrize("arguments", [["--device", "abacus"], ["somewhere"]])
def test_mistakes_of_usage_are_another_exit_code(arguments):
    assert run("selftest", *arguments) == 2
