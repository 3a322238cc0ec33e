"""Shows the events of a long job on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from m3ae_core.events import EpochDone, Progress, Resumed, Saved, StepDone, Validated


def follow(events: Iterable[Any]) -> Any:
    """Consume `events`, drawing one progress bar on standard error; return the last one."""
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
        case Validated(epoch, dice, _):
            bar.write(
                f"epoch {epoch}  Dice " + "  ".join(f"{name} {value:.3f}" for name, value in dice.items())
            )
        case Saved(path, epoch):
            bar.write(f"epoch {epoch}  saved {path}")


def _move(bar: Any, what: str, done: int, total: int) -> None:
    bar.set_description_str(what, refresh=False)
    bar.total = total
    bar.update(done - bar.n)
