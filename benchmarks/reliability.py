"""Puts the table of docs/reliability.json, which `make test-reliability` fills, into docs/reliability.md.

python benchmarks/reliability.py
"""

from __future__ import annotations

import json

from page import DOCS, insert


def main() -> None:
    rows = json.loads((DOCS / "reliability.json").read_text("utf-8"))
    lines = ["| property | goal | tried | failed | tests |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        tests = ", ".join(f"`{test.rsplit('/', 1)[-1]}`" for test in row["parts"])
        lines.append(f"| {name} | {row['goal']} | {row['tried']:,} | {row['failed']} | {tests} |")
    notes = [
        (test, note) for row in rows.values() for test, part in row["parts"].items() for note in part["notes"]
    ]
    lines += ["", *(f"* `{test.rsplit('/', 1)[-1]}`: {note}" for test, note in notes)]
    insert(DOCS / "reliability.md", "figures", "\n".join(lines))


if __name__ == "__main__":
    main()
