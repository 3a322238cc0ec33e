"""Puts what was measured into the documentation: the text between `<!-- NAME -->` and `<!-- end of NAME -->`."""

from __future__ import annotations

from pathlib import Path

from m3ae_core.files import write_text

DOCS = Path(__file__).parents[1] / "docs"


def insert(page: Path, name: str, text: str) -> None:
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = page.read_text("utf-8").split(begin)
    write_text(page, f"{before}{begin}{text}\n{end}{rest.split(end)[1]}")
