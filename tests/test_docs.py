"""The documentation: what is generated is current, what it names exists, and what it shows runs."""

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import types
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
import toys
from typer.main import get_command

import hil
import twin
from hil import bench, bench_channel, bench_sky, wire
from hil.cli import INTERRUPTED, app
from hil.hub import CLIENT_STAMPS
from hil.latency import COMPONENTS, OverBudget
from hil.launch import CLOCKS
from hil.recorded import ShadowReport
from hil.recovery import Hit
from twin import errors
from twin.channel.link import Polarisation
from twin.channel.rain import Rain
from twin.faults import KINDS
from twin.record import COUNTS, SOURCES, STAMPS, STATUSES
from twin.runner import Standing
from twin.scenario import CONTROLLERS, Scenario, Seating, controller_class
from twin.schema import LEARNING, options_of, scenario_page

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


def test_scenario_page_has_every_table_within_a_table_and_units_by_the_whole_end_of_a_name():
    text = page("docs/scenario.md")
    assert table_names(section(text, "link.rain")) == {field.name for field in msgspec.structs.fields(Rain)}
    for key, unit in (("g_over_t_db_k", "dB/K"), ("eirp_density_dbw_mhz", "dBW/MHz"), ("speed_m_s", "m/s")):
        assert f"| `{key}` | number | {unit} |" in section(text, "link")
    (row,) = (line for line in section(text, "link").splitlines() if line.startswith("| `polarisation` |"))
    assert all(f'`"{name}"`' in row for name in get_args(Polarisation))
    assert "each  |" not in text


def test_scenario_page_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; from twin.schema import scenario_page; print(scenario_page(), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == scenario_page()


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_options_read_from_source_are_those_of_the_class(name):
    if LEARNING.search(Path(find_spec(CONTROLLERS[name].partition(":")[0]).origin).read_text(encoding="utf-8")):
        pytest.importorskip("torch", reason="the learning controllers need the extra `learn`")
    made = controller_class(name)
    _, rows = options_of(Path(inspect.getfile(made)).read_text(encoding="utf-8"), made.__name__)
    parameters = list(inspect.signature(made.__init__).parameters.values())[3:]
    assert [row.key for row in rows] == [p.name for p in parameters]
    words = {"true": True, "false": False, "not set": None}
    defaults = [words[row.default] if row.default in words else float(row.default) for row in rows]
    assert defaults == [p.default for p in parameters]
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


# the physics


def test_functions_on_the_physics_page_are_in_the_file_that_stands_before_them():
    _, _, text = page("docs/physics.md").partition("## Equation, function, test")
    text, _, compared = text.partition("\n## Compared with others")
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("| ")]
    wrong, n_named = [], 0
    for _, equation, functions, *_ in rows:
        if equation.strip() in ("equation", "---"):
            continue
        for part in functions.split("; `") if "`" in functions else ():
            file, *names = re.findall(r"[\w./]+(?=`)", part)
            path = file if "/" in file else f"twin/channel/{file}"
            if not path.endswith(".py") or not (ROOT / path).exists():
                wrong.append(f"{equation.strip()}: no file {path}")
                continue
            module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
            n_named += len(names)
            wrong += [f"{path}: {name}" for name in names if not is_of(module, name)]
    assert wrong == []
    assert n_named > 80
    modules = [importlib.import_module(f"twin.channel.{path.stem}") for path in (ROOT / "twin/channel").glob("*.py")]
    rows = [line.split("|")[2] for line in compared.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    names = [name for cell in rows for name in re.findall(r"`(\w+)`", cell)]
    assert names
    assert [name for name in names if not any(is_of(module, name) for module in modules)] == []


def is_of(module, name):
    """Whether a module has what a dotted name says, and did not get it from another one."""
    found = module
    for part in name.split("."):
        if part in getattr(found, "__struct_fields__", ()) or part in getattr(found, "__dataclass_fields__", ()):
            return True
        found = getattr(found, part, None)
    return found is not None and getattr(found, "__module__", module.__name__) == module.__name__


# time


def not_on(name, words):
    """Which of these words the page does not have in backticks."""
    text = page(name)
    return sorted(word for word in words if f"`{word}`" not in text)


def test_record_page_names_statuses_sources_components_columns_and_keys_of_the_report(tmp_path):
    record = twin.run(toys.scenario(), tmp_path / "run")
    report = hil.report(record).to_dict()
    assert {"leader", "follower"} == set(report["agents"])
    of_agent = report["agents"]["leader"]
    keys = {*report, *of_agent, *of_agent["response_us"], *of_agent["age_of_information"]}
    assert not_on("docs/record.md", keys | set(COMPONENTS) | set(COUNTS)) == []
    assert not_on("docs/record.md", {f"{stamp}_ns" for stamp in STAMPS}) == []
    assert not_on("docs/record.md", {field.name for field in dataclasses.fields(ShadowReport)}) == []
    assert not_on("docs/budgets.md", {field.name for field in dataclasses.fields(OverBudget)}) == []
    for codes in (STATUSES, SOURCES):
        assert ", ".join(f"{i} {name}" for i, name in enumerate(codes)) in page("docs/record.md")


def test_record_page_names_the_keys_of_meta(tmp_path):
    meta = twin.run(toys.scenario(), tmp_path / "run").meta
    plain = {"scenario", "slot_s", "slots", "seats", "started_utc"}  # need no explanation
    assert not_on("docs/record.md", set(meta) - plain) == []


def test_record_page_names_every_event_that_the_code_notes():
    """And no other, but for what a reader makes of a line cut short."""
    source = "\n".join(
        path.read_text(encoding="utf-8") for place in ("hil", "twin") for path in (ROOT / place).glob("*.py")
    )
    noted = {
        kind
        for call in re.findall(r"\b_?(?:event|note)\(([^,]*)", source)
        for kind in re.findall(r'^"(\w+)"| "(\w+)"', call)
    }
    kinds = {kind for pair in noted for kind in pair if kind}
    _, _, events = page("docs/record.md").partition("| event | when |")
    assert table_names(events.partition("\n\n")[0]) == kinds
    assert {"seated", "at_least_broken", "fault_hits"} <= kinds


def test_hil_page_names_statuses_sources_clocks_and_defaults():
    words = {*STATUSES[1:], *SOURCES[1:], *CLOCKS}
    assert not_on("docs/hil.md", words) == []
    default = {field.name: field.default for field in msgspec.structs.fields(Scenario)}
    assert f"`patience_s` ({default['patience_s']:g})" in page("docs/hil.md")
    assert f"`max_lag_s` ({default['max_lag_s']:g} s" in page("docs/hil.md")
    assert f"`seat_wait_s` ({default['seat_wait_s']:g})" in page("docs/machines.md")
    seating = {field.name: field.default for field in msgspec.structs.fields(Seating)}
    assert f"`learn_delay` ({seating['learn_delay']})" in page("docs/hil.md")
    assert f'`on_miss = "{seating["on_miss"]}"` (default)' in page("docs/hil.md")


def test_every_exit_code_of_an_error_is_on_the_hil_page():
    _, _, text = page("docs/hil.md").partition("## Exit codes")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    assert codes == {0, INTERRUPTED} | {made.exit_code for made in classes}


def test_faults_page_names_every_fault_with_its_default():
    assert not_on("docs/faults.md", KINDS) == []
    text = page("docs/faults.md")
    for kind in KINDS.values():
        for field in msgspec.structs.fields(kind):
            if field.name in ("loss_db", "along_track_km"):
                assert f"`{field.name}` ({field.default:g})" in text
    assert not_on("docs/faults.md", {field.name for field in dataclasses.fields(Hit)}) == []


@pytest.mark.parametrize("goals", [bench.GOALS, bench_sky.GOALS, bench_channel.GOALS])
def test_machines_page_has_every_goal_of_the_bench(goals):
    _, _, text = page("docs/machines.md").partition("| key of `--json` | what, against what | goal |")
    for key, (sign, limit) in goals.items():
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{key}` |"))
        goal = f"{sign} {limit:g}" if limit else "0"
        assert row.endswith(f"| {goal} |")


# the command


def commands():
    """By verb, its options; a verb below another is named with it, as in "tle fetch"."""
    verbs = {}
    for name, verb in get_command(app).commands.items():
        below = getattr(verb, "commands", {})
        verbs |= {f"{name} {sub}": each for sub, each in below.items()} or {name: verb}
    return {
        name: {option for p in verb.params for option in (*p.opts, *p.secondary_opts)} for name, verb in verbs.items()
    }


def test_every_verb_is_on_a_page():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert [verb for verb in commands() if f"ntn-twin {verb}" not in text] == []


def test_options_on_the_pages_are_options_of_the_verb_they_follow():
    """In commands as one types them; a verb of another program ends the command."""
    known, wrong = commands(), []
    for path in PAGES:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        verbs = "|".join(sorted(known, key=len, reverse=True))
        for verb, rest in re.findall(rf"ntn-twin ({verbs}|\w+)\b([^`\n|;&)]*)", text):
            if verb in known:
                rest = re.sub(r'"[^"]*"', "", rest)  # --command "what --it starts"
                given = set(re.findall(r"(?<= )--[a-z][a-z-]*", rest))
                wrong += [f"{path.name}: {verb} {option}" for option in given - known[verb]]
    assert wrong == []


# links and code


def anchors(path):
    """What a link may name behind the #: the headings, as they are usually shown."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?[^)]*\)", path.read_text(encoding="utf-8"))
    links = [(path.parent / link if link else path, anchor) for link, anchor in links if "://" not in link]
    assert [str(to) for to, _ in links if not to.exists()] == []
    assert [f"{to.name}#{anchor}" for to, anchor in links if anchor and anchor not in anchors(to)] == []


def test_every_page_is_in_the_index():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in (ROOT / "docs" / "README.md").read_text()} == set()


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
    lines = page(".ci/run").splitlines()
    tried = [" && ".join(pair) for pair in pairwise(lines) if pair[0].startswith("python -m pip install")]
    assert len(tried) == 2
    assert all(f"\n    {command}\n" in page("README.md") for command in tried)
