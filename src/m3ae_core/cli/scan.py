"""``m3ae scan``: what would be taken for what, without doing anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from m3ae_core.cli.arguments import OptionalFile
from m3ae_core.errors import InputError, printable

if TYPE_CHECKING:
    from m3ae_core.io.folders.matching import CaseFiles


def scan(
    folder: Positional[Path],
    *,
    csv: OptionalFile = None,
    json_: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Show which cases a folder holds and which file would be taken for which sequence; nothing is segmented.

    Ends with 2 if a folder is refused or a file must be asked for.

    Args:
        folder: A case folder, a folder of cases in any layout, or a manifest.
        csv: Write a manifest here; corrected by hand, it takes the place of a folder of cases in the other commands.
        json_: Print JSON instead of a table.
    """
    from m3ae_core.io.folders.layouts import scan_cases
    from m3ae_core.io.folders.manifest import write_manifest

    try:
        cases, refused = scan_cases(folder)
    except InputError as error:
        cases, refused = (), {str(folder): error}
    if csv is not None:
        write_manifest(cases, csv)
    described: list[dict[str, Any]] = []
    for files in cases:
        try:
            described.append(_described(files))
        except InputError as error:
            refused[files.name] = error
    found = {
        "cases": described,
        "refused": [_refused(name, error, folder) for name, error in refused.items()],
    }
    print(json.dumps(found, indent=2) if json_ else _table(found["cases"], found["refused"]))
    asked = sum(bool(files.questions) for files in cases)
    if asked or refused:
        raise InputError(
            f"{asked} cases have questions, {len(refused)} are refused.",
            "Rename the files, or correct the manifest that --csv writes.",
            path=folder,
            code="unclear" if asked else "refused",
        )


def _described(files: CaseFiles) -> dict[str, Any]:
    """Return what is known about a case, ready for JSON; files are told relative to its folder where they lie there.

    Raises
    ------
    InputError
        If names and folders tell that the files are of two patients (``two-patients``).
    """
    from m3ae_core.io.folders.manifest import folder_of, relative
    from m3ae_core.io.folders.naming import names_disagree
    from m3ae_core.io.patients import find_names_of_two_patients
    from m3ae_core.io.sidecar import saved_scheme

    folder = folder_of(files)
    scheme = saved_scheme(files.labels) if files.labels else None
    doubts = [names_disagree(files.images), *find_names_of_two_patients(files.images)]
    return {
        "case": files.name,
        "folder": printable(folder),
        "images": {name: printable(relative(path, folder)) for name, path in files.images.items()},
        "labels": printable(relative(files.labels, folder)) if files.labels else None,
        "scheme": scheme.name if scheme else None,
        "unused": [{"file": printable(relative(path, folder)), "why": why} for path, why in files.unused],
        "questions": [question for _, question in files.questions],
        "warnings": [*filter(None, doubts)],
    }


def _refused(name: str, error: InputError, folder: Path) -> dict[str, str]:
    path = error.path or folder / name
    return {"path": printable(path), "code": error.code, "why": f"{error.problem} {error.fix}"}


def _table(cases: Sequence[Mapping[str, Any]], refused: Sequence[Mapping[str, str]]) -> str:
    """Return the cases a line each, with what is to be said about them below."""
    lines = []
    for case in cases:
        images = "  ".join(f"{name}={file}" for name, file in case["images"].items())
        lines.append(f"{case['case']}  {images or 'no sequence'}  labels={case['labels'] or '-'}")
        lines += [f"    left out  {left['file']}: {left['why']}" for left in case["unused"]]
        lines += [f"    asked     {question}" for question in case["questions"]]
        lines += [f"    warning   {warning}" for warning in case["warnings"]]
    lines += [f"refused  {bad['path']} [{bad['code']}]: {bad['why']}" for bad in refused]
    asked = sum(bool(case["questions"]) for case in cases)
    lines.append(f"{len(cases)} cases, {asked} asked, {len(refused)} refused")
    return "\n".join(lines)
