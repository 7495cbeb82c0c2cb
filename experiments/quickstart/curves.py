"""What the stages logged while they trained."""

import csv
from pathlib import Path

Row = dict[str, float]


def read_curves(folder: Path) -> list[Row]:
    """The rows of a stage's ``metrics.csv``, over all attempts.

    Every attempt writes into a folder ``version_<n>`` of its own. Where a later attempt did a step again, since the
    earlier one had not saved it, the later one counts.

    Args:
        folder: That of the stage.
    """
    rows: list[Row] = []
    for path in sorted(folder.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.rpartition("_")[2])):
        later = _read(path)
        if later:
            first = min(row["step"] for row in later)
            rows = [row for row in rows if row["step"] < first] + later
    return rows


def series(rows: list[Row], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it was logged."""
    found = [(int(row["step"]), row[name]) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
