"""Shows the events of a long job on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from m3ae_core.errors import printable
from m3ae_core.events import (
    CaseFailed,
    CaseMeasured,
    CaseSegmented,
    EpochDone,
    Inverted,
    Progress,
    Resumed,
    Saved,
    StepDone,
    Validated,
)


def follow(events: Iterable[Any]) -> Any:
    """Consume `events`, drawing one progress bar on standard error; return the last one."""
    from tqdm import tqdm

    last = None
    with tqdm(desc="starting", leave=False, dynamic_ncols=True, mininterval=0.5, delay=1e-3) as bar:
        for last in events:
            show(bar, last)
    return last


def show(bar: Any, event: Any) -> None:
    """Draw one event: counts move the bar, milestones are printed above it."""
    match event:
        case Progress(what, done, total):
            _move(bar, what, done, total)
        case Resumed(epoch) if epoch:
            bar.write(f"resumed after epoch {epoch}")
        case StepDone(step, total, terms):
            _move(bar, "training", step, total)
            bar.set_postfix({name: f"{value:.3g}" for name, value in terms.items()}, refresh=False)
        case EpochDone(epoch, epochs, terms, seconds):
            losses = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
            bar.write(f"epoch {epoch}/{epochs}  {losses}  {seconds:.1f} s")
        case Inverted(before, after, correlation):
            for name in before:
                deviations = f"deviation {before[name]:.3f} → {after[name]:.3f}"
                bar.write(
                    f"substitute {name}: {deviations}, correlation with what it was {correlation[name]:.2f}"
                )
        case Validated(epoch, dice, _):
            bar.write(
                f"epoch {epoch}  Dice " + "  ".join(f"{name} {value:.3f}" for name, value in dice.items())
            )
        case Saved(path, epoch):
            bar.write(f"epoch {epoch}  saved {path}")
        case CaseSegmented(case, done, total, present, reused, warnings):
            _move(bar, "cases", done, total)
            bar.write(
                f"{done}/{total}  {printable(case)}  from {present}{'  (done before)' if reused else ''}"
            )
            for warning in warnings:
                bar.write(f"  warning: {warning}")
        case CaseFailed(case, done, total, error):
            _move(bar, "cases", done, total)
            bar.write(f"{done}/{total}  {printable(case)}  failed: {error.problem}")
        case CaseMeasured(model, case, done, total, dice, reused):
            scores = "  ".join(f"{name} {value:.3f}" for name, value in dice.items())
            known = "  (measured before)" if reused else ""
            bar.write(f"{done}/{total}  {printable(case)}  {model}  mean Dice {scores}{known}")


def _move(bar: Any, what: str, done: int, total: int) -> None:
    bar.set_description_str(what, refresh=False)
    bar.total = total
    bar.update(done - bar.n)
