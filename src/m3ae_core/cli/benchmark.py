"""``m3ae benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from m3ae_core.cli.arguments import Device, OptionalPath, Scheme
from m3ae_core.cli.printed import print_doubts
from m3ae_core.cli.progress import follow
from m3ae_core.errors import printable
from m3ae_core.memory import keep_freed_memory


def benchmark(
    *,
    cases: Path,
    output: Path,
    scheme: Scheme | None = None,
    bundle: Annotated[tuple[Path, ...], arg(metavar="FOLDER ...", help_behavior_hint="")] = (),
    split: OptionalPath = None,
    device: Device = "auto",
    arithmetic: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Measure models on every case of a folder from every subset of its sequences: Dice and HD95 of every region.

    Writes per-case scores (CSV), tables in the layout of the paper's Table 1 (Markdown, LaTeX) and a page with plots
    (HTML). A case that is measured is kept: run the same again to go on after a stop.

    Args:
        cases: Folder of cases or manifest of `m3ae scan`, each with all sequences and a label map.
        output: Folder for the results; made if needed.
        scheme: Label scheme of the cases, which must be stated here or in the manifest: the same numbers mean other
            tissues in other releases.
        bundle: Folders of the models, compared side by side; the built-in model if left out.
        split: Split folder (its test.txt), or a text file with one name a line; all cases if left out.
        device: auto takes CUDA where there is any.
        arithmetic: Numbers the network computes in; float32 gives figures that hold on any machine.
    """
    from m3ae_core.bundle import load_bundle
    from m3ae_core.data.builtin import builtin_bundle
    from m3ae_core.data.splits import read_part, select
    from m3ae_core.evaluation.benchmark import run
    from m3ae_core.io.case import find_cases
    from m3ae_core.io.folders.schemes import scheme_words, schemes_of
    from m3ae_core.report.benchmark import write_report
    from m3ae_core.report.canvas import new_figure
    from m3ae_core.report.template import environment

    new_figure(1, 1), environment()  # tells at once, not after hours, if matplotlib or jinja2 is missing
    bundles = [load_bundle(folder) for folder in bundle or (builtin_bundle(),)]
    chosen = find_cases(cases, bundles[0].config.modality_set)
    if split:
        chosen = select(chosen, read_part(split, "test"))
    schemes = schemes_of(chosen, [scheme] if scheme else [])
    print(scheme_words(schemes))
    print_doubts(chosen)
    events = run(bundles, chosen, output, schemes=schemes, device=device, arithmetic=arithmetic)
    keep_freed_memory()
    results = follow(events)
    print("\n".join(f"wrote {printable(path)}" for path in write_report(results)))
    print(results.record["notice"])
