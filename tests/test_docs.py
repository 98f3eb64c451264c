"""The documentation: what is generated is current, what it names exists, and what it shows runs."""

import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import msgspec
import numpy as np
import pytest
import toys

import hil
import twin
from hil import wire
from hil.hub import CLIENT_STAMPS
from hil.latency import COMPONENTS
from twin.record import COUNTS, SOURCES, STATUSES
from twin.runner import Standing
from twin.scenario import CONTROLLERS, controller_class
from twin.schema import options_of, scenario_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
IN = [wire.Hello, wire.Ready, wire.Reply, wire.Heartbeat]
OUT = [wire.Welcome, wire.Asked, wire.Refused, wire.Stop, wire.Slot, wire.Event]
MESSAGES = [*IN, *OUT]


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL)


def table_names(text, column=0):
    """Names in backticks in a column of the tables of a text."""
    rows = [line.split("|")[1 + column] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}


def section(text, heading):
    """The text under a heading, up to the next one."""
    _, _, after = text.partition(f"\n### `{heading}`\n")
    assert after, f"there is no section {heading}"
    return re.split(r"\n#+ ", after)[0]


# what is generated


def test_scenario_page_is_what_the_code_gives():
    assert page("docs/scenario.md") == scenario_page(), "run: python -m twin.schema > docs/scenario.md"


def test_scenario_page_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; from twin.schema import scenario_page; print(scenario_page(), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == scenario_page()


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_options_read_from_source_are_those_of_the_class(name):
    if name in ("rollout", "trpo"):
        pytest.importorskip("torch", reason="the learning controllers need the extra `learn`")
    made = controller_class(name)
    _, rows = options_of(Path(inspect.getfile(made)).read_text(encoding="utf-8"), made.__name__)
    parameters = list(inspect.signature(made.__init__).parameters.values())[3:]
    assert [row.key for row in rows] == [p.name for p in parameters]
    defaults = [{"true": True, "false": False}.get(row.default) for row in rows]
    assert [d if d is not None else float(row.default) for d, row in zip(defaults, rows)] == [
        p.default for p in parameters
    ]
    assert all(row.meaning for row in rows)
    assert all(row.range for row in rows if row.type != "true or false")


# the wire


@pytest.mark.parametrize("struct", MESSAGES, ids=lambda s: s.__name__)
def test_wire_page_names_exactly_the_fields_of_each_message(struct):
    text = section(page("docs/wire.md"), struct.__struct_config__.tag)
    named = [re.match(r"\| `(\w+)`", line) for line in text.split("\n\n`stamps`")[0].split("\n\n| key")[0].splitlines()]
    assert [m[1] for m in named if m] == list(struct.__struct_fields__)


@pytest.mark.parametrize(("heading", "struct"), [("array", wire.Packed), ("spec", wire.Spec)])
def test_wire_page_names_exactly_the_fields_of_what_messages_hold(heading, struct):
    assert table_names(section(page("docs/wire.md"), heading)) == set(struct.__struct_fields__)


def test_wire_page_has_a_section_for_every_message_there_is():
    known = set(MESSAGES)
    assert known == set(wire.Incoming.__args__) | set(wire.Outgoing.__args__)


def test_wire_page_names_stamps_timing_dtypes_and_limits():
    text = page("docs/wire.md")
    assert set(CLIENT_STAMPS) <= table_names(section(text, "answer"))
    timing = Standing({}).timing(0, 0, 0)
    assert set(timing) <= table_names(section(text, "observation"))
    assert all(f"`{dtype}`" in section(text, "array") for dtype in wire.DTYPES)
    assert f"{wire.MAX_BODY_BYTES:,} bytes" in text
    assert f"{wire.MAX_MESSAGE_BYTES:,} bytes" in text
    assert f"Protocol version **{wire.PROTOCOL}**" in text


def test_bytes_on_the_wire_page_are_the_message_they_claim_to_be():
    (shown,) = blocks("docs/wire.md", "hex")
    body = b""
    for line in shown.splitlines():
        offset, rest = line.split(maxsplit=1)
        assert int(offset) == len(body), line
        body += bytes.fromhex(re.match(r"(?:[0-9a-f]{2}\s{1,2})+", rest + " ")[0])
    assert f"{len(body)} bytes" in page("docs/wire.md")
    answer = wire.decode_incoming(body)
    assert (answer.agent, answer.run, answer.slot) == ("ue", "7f3a", 812)
    values = wire.unpack(answer.values)
    np.testing.assert_array_equal(values["rx_beam_deg"], [90.0, 87.5])
    np.testing.assert_array_equal(values["used_rb"], [True, False, True, False, False])
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(body)) == body


# time


def test_hil_page_names_statuses_sources_components_columns_and_keys_of_the_report(tmp_path):
    text = page("docs/hil.md")
    record = twin.run(toys.scenario(), tmp_path / "run")
    report = hil.report(record).to_dict()
    assert {"leader", "follower"} == set(report["agents"])
    keys = {*report, *report["agents"]["leader"]} | set(COMPONENTS) | set(COUNTS)
    assert [key for key in keys if f"`{key}`" not in text] == []
    for codes in (STATUSES, SOURCES):
        assert ", ".join(f"{i} {name}" for i, name in enumerate(codes)) in text


# links and code


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_every_decision_is_in_the_index():
    decisions = {f"decisions/{path.name}" for path in (ROOT / "docs" / "decisions").glob("*.md")}
    assert decisions == set(re.findall(r"\((decisions/[^)]+)\)", page("docs/README.md")))


@pytest.mark.usefixtures("no_child_left")
@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md"])
def test_python_on_the_page_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(name)
    assert len(code.splitlines()) <= 15
    exec(compile(code, name, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out


@pytest.fixture
def controllers_page(monkeypatch):
    """The python of docs/controllers.md as a module, so that a scenario can name its classes."""
    module = types.ModuleType("controllers_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for code in blocks("docs/controllers.md"):
        exec(compile(code, "docs/controllers.md", "exec"), module.__dict__)
    return module


def test_controller_on_the_page_is_the_example():
    example = page("examples/controller_in_20_lines.py")
    code = blocks("docs/controllers.md")[0]
    assert example.endswith(code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize(("name", "learns"), [("Thrifty", False), ("Habit", True)])
def test_controllers_on_the_page_keep_the_contract_and_fly(controllers_page, name, learns, tmp_path):
    scenario = twin.load("baseline", {"slots": 100, "agent.ue.controller": f"controllers_page:{name}"})
    ue = twin.build(scenario).agents[1]
    assert ("learn() and adopt()" in twin.check_controller(getattr(controllers_page, name), ue, ("leo",))) == learns
    record = twin.run(scenario, tmp_path / "run")
    assert (record.decisions["ue"]["status"] == STATUSES.index("on_time")).all()
    assert (record.decisions["ue"]["weights"][-1] > 0) == learns
    assert record["used_rb"][50:].mean() < 1.0


def test_controllers_page_names_exactly_what_the_seats_of_ntn_cell_see_answer_and_know():
    _, _, text = page("docs/controllers.md").partition("## The seats of `ntn_cell`")
    observed, answered, facts = (
        part for part in re.split(r"\n(?=\| (?:observed|answered|fact) )", text.partition("`twin.channel")[0])[1:]
    )
    agents = twin.build(twin.load("baseline", {"slots": 10})).agents
    for listed, fields in ((observed, "observes"), (answered, "acts")):
        assert table_names(listed) == {f.name for a in agents for f in getattr(a, fields)}
        for agent in agents:
            for field in getattr(agent, fields):
                (row,) = (line for line in listed.splitlines() if line.startswith(f"| `{field.name}`"))
                assert field.dtype in row
                assert (agent.name in row.split("|")[2]) or "both" in row.split("|")[2]
    assert table_names(facts) == {name for a in agents for name in a.facts}


def test_readme_gives_the_two_commands_that_are_tried():
    tried = [line for line in page(".ci/run").splitlines() if line.startswith("python -m pip install")]
    assert len(tried) == 2
    assert all(f"\n    {line}\n" in page("README.md") for line in tried)
