"""Shares of a cohort: each case belongs to one, none takes another with it, and the summary is that of one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from m3ae_core.errors import ConfigError
from m3ae_core.inference.shards import Shard, parse_shard, run_shards
from m3ae_core.inference.summary import Record, read_summary, write_summary

CASES = [f"p{number}" for number in range(8)]
#: Segments nothing: share 2 writes of its first case, says something and is killed; share 3 fails before it begins.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from m3ae_core.inference.shards import parse_shard
from m3ae_core.inference.summary import Record, write_summary
shard = parse_shard(sys.argv[-1])
cases = sys.argv[2].split(",")[shard.part]
if shard.number == 3:
    print("warming up\\nno model", file=sys.stderr)
    sys.exit(5)
for count in range(1, len(cases) + 1):
    write_summary(Path(sys.argv[1]) / shard.summary, [Record(case, "done", "T1") for case in cases[:count]])
    if shard.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_every_case_belongs_to_one_share() -> None:
    parts = [CASES[Shard(number, 3).part] for number in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == CASES
    assert Shard().part == slice(0, None, 1)


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("2/8", {}, Shard(2, 8)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4"}, Shard(1, 4)),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"},
            Shard(3, 4),
        ),
    ],
)
def test_a_share_is_read(text: str, environment: dict[str, str], expected: Shard) -> None:
    assert parse_shard(text, environment) == expected


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/2/3", "", "auto"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_shard(text, {})
    assert caught.value.code == "shard"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_share_that_dies_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "summary-1-of-4.csv").write_text("of an earlier run")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), ",".join(CASES)]
    *_, records = run_shards(command, 4, tmp_path, CASES)
    found = {record.case: record for record in records}
    assert sorted(found) == CASES
    assert [name for name in CASES if found[name].state == "done"] == ["p0", "p1", "p3", "p4", "p7"]
    assert "killed by signal 9" in found["p5"].message
    assert "exit code 5; it said: no model" in found["p2"].message
    assert not list(tmp_path.iterdir())


def test_a_summary_comes_back_as_it_was_written(tmp_path: Path) -> None:
    records = [
        Record("=p0", "done", "T1", ("-odd", "a, b")),
        Record("p1", "refused", message='Which is "T1"?\nSay.'),
    ]
    assert read_summary(write_summary(tmp_path / "summary.csv", records)) == records
