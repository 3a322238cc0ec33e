"""What the self-test found: one :class:`Check` for each thing it tested."""

from __future__ import annotations

from dataclasses import dataclass

from m3ae_core.errors import M3AEError

#: What a broken installation, a full memory or a sick GPU raises; torch's errors are RuntimeErrors.
FAILURES = (M3AEError, ImportError, RuntimeError, MemoryError)
REINSTALL = (
    "Reinstall it (pip install --force-reinstall --no-deps napari-m3ae) and rely on no result until then."
)


@dataclass(frozen=True)
class Check:
    """One thing that was tested: whether it is well, one sentence on what was found, and what to do if it is not.

    No path is named but the last part of one, so that all of it can be pasted into a report.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


def failed(name: str, error: Exception, fix: str = "") -> Check:
    """Return the check called `name` that one of :data:`FAILURES` ended; `fix` goes before the error's own advice."""
    if isinstance(error, M3AEError):
        where = "" if error.path is None else f"{error.path.name}: "
        return Check(name, False, f"{where}{error.problem}", fix or error.fix)
    if isinstance(error, ImportError):
        return Check(name, False, f"{error.name} cannot be loaded.", "Reinstall torch and napari-m3ae.")
    told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return Check(name, False, told, fix or "Close other programs and try again; if it stays, report it.")
