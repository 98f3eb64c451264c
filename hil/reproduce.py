"""A paper's figures, tables and claims: `ntn-twin reproduce NAME`."""

import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from hil.tables import print_table, table_of
from twin.errors import RecordError, ScenarioError
from twin.stats import plain

PAPERS = {  # strings, because hil and controllers do not import each other
    "d2d": "controllers.papers.d2d",
    "access": "controllers.papers.access",
    "robust": "controllers.papers.robust",
}
NEEDS = {"torch": "learn", "scipy": "learn", "matplotlib": "report"}  # the extra that brings a library


def reproduce(name: str, quick: bool, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run a paper's experiments and return what was found: name, quick, seconds, folder, files, rows.

    out  a new or empty folder, for figures, tables and rows.json

    Raises ScenarioError for a paper there is not or an extra that is not installed, RecordError for a folder in use.
    """
    if name not in PAPERS:
        raise ScenarioError(f"no paper {name!r} to reproduce; there is: {', '.join(PAPERS)}")
    try:
        paper = importlib.import_module(PAPERS[name])
        importlib.import_module("matplotlib")
    except ImportError as error:
        extra = NEEDS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ScenarioError(
            f"reproduce {name} needs {error.name}; install it with: pip install 'ntn-twin[{extra}]'"
        ) from None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecordError(f"{out} is there and not empty; give another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    rows = [row._asdict() for row in paper.reproduce(quick, out, say)]
    found = plain({"name": name, "quick": quick, "seconds": round(time.monotonic() - begun, 1), "rows": rows})
    (out / "rows.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return found | {"folder": str(out), "files": sorted(path.name for path in out.iterdir())}


def show(found: dict[str, Any]) -> None:
    """Print the rows for a person."""
    table = table_of("claim", "measured", "interval", "goal", "")
    for row in found["rows"]:
        interval = "" if row["interval"] is None else "{} to {}".format(*map(_short, row["interval"]))
        table.add_row(row["name"], _short(row["value"]), interval, row["goal"], "" if row["reached"] else "not reached")
    console = Console(highlight=False)
    print_table(console, table)
    reached = sum(row["reached"] for row in found["rows"])
    console.print(f"{reached} of {len(found['rows'])} reached in {found['seconds']:.0f} s; figures, tables and rows in")
    console.print(found["folder"], soft_wrap=True, markup=False)


def _short(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"
