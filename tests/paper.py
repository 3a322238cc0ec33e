"""The paper's own tables (M3AE's rows of Table 1 and Table S3), as the summaries that a benchmark would give."""

import csv
from math import nan
from pathlib import Path

from m3ae_core.evaluation.statistics import Cell, Summary
from m3ae_core.modalities import BRATS

FILE = Path(__file__).parent / "data" / "paper_dice.csv"


def paper_tables() -> dict[str, dict[Cell, Summary]]:
    """Per table, the mean and (where printed) the standard deviation of each subset and region."""
    tables: dict[str, dict[Cell, Summary]] = {}
    with FILE.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            subset = str(BRATS.subset(row["subset"].split("+")))
            sd = float(row["sd"]) / 100 if row["sd"] else None
            summary = Summary(int(row["n"]), float(row["mean"]) / 100, sd, nan, nan, nan)
            tables.setdefault(row["table"], {})["M3AE", subset, row["region"]] = summary
    return tables
