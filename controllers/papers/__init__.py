"""One file per paper: its experiments, figures and rows, run by `ntn-twin reproduce NAME`.

A module of that name has reproduce(quick, out, say), which writes figures (PNG) and tables (CSV) into the folder
`out` and returns its rows in the order of the paper's page under docs/papers/.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One claim, and what was measured of it.

    name      of the claim, words joined by underscores, behind its acceptance statement (S1, Q7, M8) if any
    value     what was measured, in the claim's unit
    interval  95 % confidence interval, or lowest and highest where the value is no mean; None: exact
    goal      what it is held against, in words: "<= 1e-8", "in [-0.56, -0.44]"
    reached   whether it holds
    source    the paper's or the specification's statement, and how it was measured: seeds, slots, runs
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    goal: str
    reached: bool
    source: str


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """One table of numbers as a CSV file with a head line, floats in full."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def plotting() -> Any:
    """matplotlib.pyplot without a screen. Needs the extra `report`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
