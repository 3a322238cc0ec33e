"""Mutation testing: faults put one by one into the modules that guard data; how many do their tests find?

`make test-mutation` runs it. mutmut makes the faulty copies, below mutants/; [tool.mutmut] of pyproject.toml
names the modules and the tests. Those are loaded once, by one process, and each mutant gets a copy of that
process, which runs the tests that call the mutated function until one of them fails.

    python tests/reliability/mutation.py [PATTERN ...] [--sample N] [--log FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import gc
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from mutmut.__main__ import create_mutants
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.file_utils import (
    copy_also_copy_files,
    copy_src_dir,
    setup_source_paths,
    walk_mutatable_files,
)

#: A mutant that takes this many times what its tests take without it (and 30 s more) loops.
PATIENCE = 10
#: One that neither ends nor computes is ended after this many seconds of the parent's waking time.
ASLEEP = 600.0
KILLED, SURVIVED, LOOPS, UNTESTED = "killed", "survived", "loops", "untested"


def made() -> dict[str, Path]:
    """Make the mutants. Returns each one's name with its module."""
    shutil.rmtree("mutants", ignore_errors=True)
    Path("mutants").mkdir()
    with contextlib.redirect_stdout(None):
        copy_src_dir()
        copy_also_copy_files()
        setup_source_paths()
        create_mutants(os.cpu_count() or 1)
    mutants: dict[str, Path] = {}
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        mutants |= dict.fromkeys(data.exit_code_by_key, path)
    return mutants


def changes_text_only(diff: str) -> bool:
    """Whether a mutant differs only in the wording of a message (a literal with a blank within)."""
    old, new = (
        re.findall(
            r'"((?:[^"\\]|\\.)*)"', "\n".join(line[1:] for line in diff.split("\n")[3:] if line[:1] == sign)
        )
        for sign in "-+"
    )
    changed = [a for a, b in zip(old, new, strict=False) if a != b]
    return (
        len(old) == len(new)
        and len(changed) == 1
        and " " in changed[0].strip()
        and all(
            a.lower() == b.lower().removeprefix("xx").removesuffix("xx")
            for a, b in zip(old, new, strict=True)
        )
    )


def function_of(mutant: str) -> str:
    return mutant.partition("__mutmut_")[0]


class Mutation:
    """A pytest plugin that runs the collected tests on each of `mutants`, in copies of the process."""

    def __init__(self, mutants: list[str], log: Path | None) -> None:
        self.mutants, self.log = mutants, log
        self.children = os.cpu_count() or 1
        #: How long each test takes without a mutant, and which tests call each function.
        self.seconds: dict[str, float] = {}
        self.callers: dict[str, set[str]] = defaultdict(set)
        self.fates: dict[str, str] = {}
        #: The tests that found a mutant of a function: the first to try on its others.
        self.finders: dict[str, set[str]] = defaultdict(set)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.freeze()  # else every copy's first collection copies all that was loaded
        self.forked([("stats", session.items)], self.survey)
        order = sorted(session.items, key=lambda item: self.seconds[item.nodeid])
        self.forked([("", order)], self.expect_clean)
        jobs = []
        for name in self.mutants:
            calling = self.callers[function_of(name)]
            tests = [item for item in order if item.nodeid in calling]
            if tests:
                jobs.append((name, tests))
            else:
                self.note(name, UNTESTED)
        self.forked(jobs, self.judge)
        return True

    def survey(self, mutant: str, results: list[list[Any]], status: int) -> None:
        """Learn how long each test takes and what it calls."""
        self.seconds = {test: seconds for test, _, seconds, _ in results}
        for test, _, _, called in results:
            for function in called:
                self.callers[function].add(test)
        self.expect_clean(mutant, results, status)

    def expect_clean(self, mutant: str, results: list[list[Any]], status: int) -> None:
        failed = [[test, problem] for test, problem, _, _ in results if problem]
        if failed or status or len(results) != len(self.seconds):
            raise pytest.UsageError(f"The tests fail without a mutant: {failed or status}")

    def judge(self, mutant: str, results: list[list[Any]], status: int) -> None:
        """Say what became of a mutant, by which test, and what that said."""
        test, problem, _, _ = results[-1] if results else ("", "", 0, [])
        if problem:
            self.finders[function_of(mutant)].add(test)
            self.note(mutant, KILLED, f"{test}: {problem}")
        elif os.WIFSIGNALED(status):
            signal = os.WTERMSIG(status)  # from a limit on computing time, from `forked` below, or of a crash
            self.note(mutant, LOOPS if signal in (9, 24) else KILLED, f"signal {signal} after {test}")
        elif status:
            self.note(mutant, KILLED, f"exit status {os.waitstatus_to_exitcode(status)} after {test}")
        else:
            self.note(mutant, SURVIVED)

    def note(self, mutant: str, fate: str, by: str = "") -> None:
        self.fates[mutant] = fate
        if self.log:
            with self.log.open("a") as log:
                log.write(json.dumps([mutant, fate, by]) + "\n")
        if len(self.fates) % 100 == 0:
            sys.stderr.write(f"{len(self.fates)} of {len(self.mutants)}: {Counter(self.fates.values())}\n")

    def forked(
        self,
        jobs: list[tuple[str, list[pytest.Item]]],
        done: Callable[[str, list[list[Any]], int], None],
    ) -> None:
        """Run each job's tests in a copy of this process, a few at a time; `done` is told what came of them."""
        todo, running = jobs[::-1], dict[int, list[Any]]()
        while todo or running:
            while todo and len(running) < self.children:
                mutant, tests = todo.pop()
                finders = self.finders[function_of(mutant)]
                tests = [
                    *(item for item in tests if item.nodeid in finders),
                    *(item for item in tests if item.nodeid not in finders),
                ]
                folder = Path(tempfile.mkdtemp(prefix="mutant-"))
                if not (pid := os.fork()):
                    self.child(mutant, tests, folder)
                running[pid] = [mutant, folder, 0.0]
            time.sleep(0.01)
            for pid in list(running):
                mutant, folder, waited = running[pid]
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del running[pid]
                    lines = (
                        (folder / "results").read_text().splitlines() if (folder / "results").exists() else []
                    )
                    shutil.rmtree(folder, ignore_errors=True)
                    done(mutant, [json.loads(line) for line in lines], status)
                elif waited > ASLEEP:
                    os.kill(pid, 9)
                else:
                    # Counted in turns, not by the clock: the whole may be stopped for a while.
                    running[pid][2] += 0.01

    def child(self, mutant: str, tests: list[pytest.Item], folder: Path) -> None:
        """Run `tests` until one fails; never returns."""
        try:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.environ["PYTEST_DEBUG_TEMPROOT"] = os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
            set_mutant_under_test(mutant)
            if mutant in self.mutants:
                limit = int(30 + PATIENCE * sum(self.seconds[item.nodeid] for item in tests))
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
            reporter = Reporter()
            tests[0].session.config.pluginmanager.register(reporter)
            with (folder / "results").open("w") as results:
                for item, following in zip(tests, [*tests[1:], None], strict=True):
                    start = time.process_time()
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                    called = sorted(state()._stats)
                    state()._stats.clear()
                    row = [item.nodeid, reporter.problem, time.process_time() - start, called]
                    results.write(json.dumps(row) + "\n")
                    results.flush()
                    if reporter.problem and mutant:
                        break
            os._exit(0)
        except BaseException:  # the mutant broke pytest itself
            os._exit(70)


class Reporter:
    """Keeps what the first failure said."""

    problem = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.problem:
            lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            self.problem = " ".join(lines[:2]) or report.longreprtext[-200:] or "failed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="mutants to try, such as '*.files.*'")
    parser.add_argument("--sample", type=int, help="try that many of them, drawn at random")
    parser.add_argument(
        "--log", type=Path, help="add each mutant's fate, with what found it, as a line of JSON"
    )
    args = parser.parse_args()
    os.environ["CI"] = "1"  # hypothesis draws the same each time
    multiprocessing.set_start_method("fork", force=True)

    modules = made()
    chosen = [name for name in modules if any(fnmatch.fnmatchcase(name, p) for p in args.patterns)]
    random.Random(0).shuffle(chosen)
    plugin = Mutation(chosen[: args.sample], args.log and args.log.absolute())
    options = ["--rootdir=.", "--capture=sys", "-qq", "-o", "timeout=0"]
    with contextlib.chdir("mutants"):
        pytest.main(
            [*options, *config().pytest_add_cli_args, *config().pytest_add_cli_args_test_selection],
            plugins=[plugin],
        )
    fates = {name: (str(modules[name]), fate) for name, fate in sorted(plugin.fates.items())}
    wording = {name for name in fates if changes_text_only(get_diff_for_mutant(name, path=modules[name]))}
    sys.stdout.write(summary(fates, wording) + "\n")
    return 0 if len(plugin.fates) == len(plugin.mutants) else 1


def summary(fates: dict[str, tuple[str, str]], wording: set[str]) -> str:
    """The survivors' names, then a table of each module's mutants, without and with those of wording."""
    lines = [f"{fate}  {name}" for name, (_, fate) in fates.items() if fate in (SURVIVED, UNTESTED)]
    lines.append(f"{'':36}{'mutants':>8}{'killed':>8}{'loops':>8}{'survived':>9}{'untested':>9}{'score':>9}")

    def row(title: str, some: Iterable[str]) -> None:
        n = Counter(fates[name][1] for name in some)
        score = f"{100 * (n[KILLED] + n[LOOPS]) / n.total():.1f} %" if n else ""
        counts = f"{n[KILLED]:8}{n[LOOPS]:8}{n[SURVIVED]:9}{n[UNTESTED]:9}"
        lines.append(f"{title:36}{n.total():8}{counts}{score:>9}")

    rest = fates.keys() - wording
    for module in sorted({module for module, _ in fates.values()}):
        row(module, [name for name in rest if fates[name][0] == module])
    row("all but wording", rest)
    row("wording of messages", wording)
    row("all", fates)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
