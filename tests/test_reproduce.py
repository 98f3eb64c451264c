"""The verb `reproduce`: where a paper's files go, what is printed, and what bad input is told."""

import json
import math
import sys
import types
from importlib.util import find_spec

import pytest
from test_cli import ntn_twin  # noqa: F401

from controllers.papers import Row, write_csv
from hil.reproduce import PAPERS
from twin.stats import estimate

ROWS = [
    Row("S1_power", 1e-12, None, "<= 1e-9", True, "a toy"),
    Row("slope", -0.3, (-0.4, -0.2), "in [-0.56, -0.44]", False, "a toy, 3 seeds"),
    Row("nothing", math.nan, None, "> 0", False, "a toy"),
]


@pytest.fixture
def toy(monkeypatch):
    """A paper of three claims, one of them reached."""
    paper, asked = types.ModuleType("toy_paper"), []

    def reproduce(quick, out, say):
        asked.append(quick)
        say("looking")
        write_csv(out / "table.csv", ["x", "y"], [[0.1, 1], [0.2, 2]])
        return ROWS

    paper.reproduce = reproduce
    monkeypatch.setitem(sys.modules, "toy_paper", paper)
    monkeypatch.setitem(PAPERS, "toy", "toy_paper")
    return asked


def test_rows_are_printed_and_kept_beside_the_files(ntn_twin, toy, tmp_path):  # noqa: F811
    said = ntn_twin("reproduce", "toy", "--quick", "--json", "--out", "found")
    assert (said.code, toy) == (0, [True])
    assert said.json["files"] == ["rows.json", "table.csv"]
    assert [list(row) for row in said.json["rows"]] == [list(Row._fields)] * 3
    assert said.json["rows"][1]["interval"] == [-0.4, -0.2]
    assert said.json["rows"][2]["value"] is None
    kept = json.loads((tmp_path / "found" / "rows.json").read_text())
    assert kept["rows"] == said.json["rows"]
    assert "looking" in said.err
    assert (tmp_path / "found" / "table.csv").read_text().splitlines()[1] == "0.1,1"


def test_a_person_sees_what_is_not_reached(ntn_twin, toy):  # noqa: F811
    said = ntn_twin("reproduce", "toy")
    assert (said.code, toy) == (0, [False])
    assert "1 of 3 reached" in said.out
    (slope,) = (line for line in said.out.splitlines() if line.startswith("slope"))
    assert slope.split() == ["slope", "-0.3", "-0.4", "to", "-0.2", "in", "[-0.56,", "-0.44]", "not", "reached"]
    assert "runs/reproduce-toy-" in said.out


def test_bad_input_says_what_there_is(ntn_twin, toy, tmp_path):  # noqa: F811
    said = ntn_twin("reproduce", "todo")
    assert said.code == 2
    assert "no paper 'todo' to reproduce; there is: d2d, access, robust" in said.err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    said = ntn_twin("reproduce", "toy", "--out", "full")
    assert said.code == 2
    assert "full is there and not empty; give another folder with --out" in said.err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_missing_extra_is_named(ntn_twin, toy, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = ntn_twin("reproduce", "toy")
    assert said.code == 2
    assert "reproduce toy needs matplotlib; install it with: pip install 'ntn-twin[report]'" in said.err


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_every_paper_named_is_there(name):
    assert find_spec(PAPERS[name]) is not None


def test_an_interval_is_student_s_t():
    mean, half = estimate([1.0, 2.0, 3.0], 0.95)
    assert (mean, half) == (2.0, pytest.approx(4.302652729911275 / math.sqrt(3.0)))
