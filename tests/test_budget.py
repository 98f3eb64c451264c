"""Compute budgets: who is over, how slow a computer may be, and what the grid leaves in its folder.

Response times are fixed, so every knee is known: an answer of 1 ms is due 16 ms after the start of a slot of 20 ms.
"""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import toys
from scipy import stats
from test_cli import ntn_twin  # noqa: F401  a fixture
from toys import Settings  # noqa: F401  a scenario's tables for `Sky`

import hil
from hil import budget, launch
from hil.curve import Knee, sentences, table
from twin import Action, Outcome, Record, run
from twin.errors import RecordError, RunBroken, ScenarioError
from twin.scenario import load
from twin.stats import estimate, t_quantile

pytestmark = pytest.mark.usefixtures("no_child_left")

MS = 1_000_000
KNOWN = {"latency": {"fixed_s": 0.001}}
GRID = (1, 4, 16, 16.1, 64)  # 16 answers at its deadline, which is in time


class Sky(toys.Toy):
    """The toy world with windows, whose seats earn 10 a slot where the target is met, and a rate beside it."""

    def __init__(self, settings, *, agents, **keys):
        super().__init__(settings, agents=agents, **keys)
        self.agents = tuple(replace(a, window=agents[a.name].window) for a in self.agents)

    def step(self):
        outcome = super().step()
        earned = {name: 10.0 + reward for name, reward in outcome.reward.items()}
        return Outcome(earned, {**outcome.measures, "rate_bps": np.float64(1e6 * earned["leader"])})


class Meets(toys.Echo):
    """Answers what meets the target, whoever else adds `other`."""

    def __init__(self, agent, seed, *, other: float = -1.0):
        super().__init__(agent, seed)
        self.other = other

    def act(self, seen):
        return Action({"number": np.array(seen.values["target"].sum() - self.other)})


class Rests(toys.Echo):
    """Answers -1, the world's default."""

    def act(self, seen):
        return Action({"number": np.array(-1.0)})


TEXT = """
world = "test_budget:Sky"
slots = 20
slot_s = 0.02
seed = 3
agent.leader = { controller = "test_budget:Rests", every = 1, latency = { fixed_s = 0.0 } }
agent.follower = { controller = "test_budget:Meets", latency = { fixed_s = 0.001 } }
"""


@pytest.fixture
def scenario(tmp_path):
    (tmp_path / "sky.toml").write_text(TEXT)
    return lambda **keys: load(tmp_path / "sky.toml", {k.replace("__", "."): v for k, v in keys.items()})


@pytest.fixture
def grid(scenario, tmp_path, monkeypatch):
    """Flies a grid without its plot, which takes longer than the runs."""
    monkeypatch.setattr(budget, "draw", lambda curve, path: None)

    def fly(values=GRID, out="grid", keys=None, **options):
        options = {"n_seeds": 3, **options}
        return budget.fly(scenario(**(keys or {})), "follower", values, tmp_path / out, **options)

    return fly


@pytest.fixture
def launches(monkeypatch):
    """Counts runs that are really flown, but for the one nobody counts; `stop_at` ends one as Ctrl-C would."""

    class Launches:
        stop_at, n = None, 0

        def run(self, scenario, out, **options):
            if out.name != "run":
                self.n += 1
                if self.n == self.stop_at:
                    (out / "decisions").mkdir(parents=True)  # as a kill leaves it
                    raise KeyboardInterrupt
            return flown(scenario, out=out, **options)

    flown, counter = launch.run, Launches()
    monkeypatch.setattr(budget.launch, "run", counter.run)
    return counter


def table_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# ---- statistics


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101])
@pytest.mark.parametrize("probability", [0.6, 0.95, 0.975, 0.9995])
def test_t_quantile_agrees_with_scipy(probability, freedom):
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-10)


@pytest.mark.parametrize("n", [2, 5, 12])
def test_confidence_interval_agrees_with_scipy(n):
    values = np.random.default_rng(n).normal(3.0, 2.0, n)
    mean, half = estimate(values, 0.9)
    expected = stats.t.interval(0.9, n - 1, values.mean(), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx(expected, rel=1e-10)


def test_one_value_has_no_interval_and_what_is_no_number_is_not_left_out():
    assert estimate([2.0], 0.95) == (2.0, None)
    assert np.isnan(estimate([1.0, np.nan, 2.0], 0.95).mean)


# ---- over budget


def follower(folder, processes=False, clock="virtual", controllers=("Echo", "Echo"), **follower):
    leader = {"latency": {"fixed_s": 0.0}}
    scenario = toys.scenario(controllers, slots=12, leader=leader, follower=follower)
    return hil.report(hil.run(scenario, clock, folder, processes=processes))["follower"]


@pytest.mark.parametrize(
    ("budget_s", "scale", "expected"), [(0.003, 3.0, 0), (0.002999, 3.0, 12), (0.003, 3.001, 12), (0.1, 1.0, 0)]
)
def test_over_budget_is_more_processor_time_than_allowed_at_its_scale(tmp_path, budget_s, scale, expected):
    ue = follower(tmp_path / "run", budget_s=budget_s, compute_scale=scale, **KNOWN)
    assert (ue.over_budget.cycles, ue.over_budget.of, ue.over_budget.in_grace) == (expected, 12, 0)
    assert ue.over_budget.budget_us == pytest.approx(budget_s * 1e6)
    assert ue.cpu_us.max == pytest.approx(1000 * scale)
    assert ue.on_time == 12  # apart from any deadline


def test_over_budget_cycles_are_those_drawn_above_it(tmp_path):
    drawn = {"latency": {"lognormal": {"median_s": 0.002, "sigma": 1.0}}}
    ue = follower(tmp_path / "run", budget_s=0.002, startup_grace_cycles=5, **drawn)
    columns = Record.open(tmp_path / "run").decisions["follower"]
    over = np.asarray(columns["cpu_ns"]) > 2 * MS
    assert ue.over_budget.in_grace == over[:5].sum()
    assert ue.over_budget.cycles == over[5:].sum()
    assert 0 < ue.over_budget.cycles < ue.over_budget.of == 7


def test_answer_that_came_too_late_for_anything_was_over_budget_too(tmp_path):
    ue = follower(tmp_path / "run", budget_s=0.03, latency={"fixed_s": 0.05})
    assert ue.statuses["missing"] == 12  # one of two is never looked at: the controller is still at another
    assert ue.over_budget.cycles == ue.over_budget.of > 0


def test_lock_step_measures_processor_time_too(tmp_path):
    burns = {"cpu_s": 0.002, "compute_scale": 2.0}
    assert follower(tmp_path / "a", clock="lockstep", controllers=("Echo", "Burns"), budget_s=0.004, **burns)
    ue = follower(tmp_path / "b", clock="lockstep", controllers=("Echo", "Burns"), budget_s=0.0039, **burns)
    assert ue.over_budget.cycles == ue.over_budget.of == 12


def test_without_a_budget_nothing_is_over_it(tmp_path):
    ue = follower(tmp_path / "run", **KNOWN)
    assert ue.over_budget is None
    assert ue.to_dict()["over_budget"] is None
    assert ue.to_dict()["cpu_us"]["max"] == 1000


# ---- the parts of a cycle on a slower computer


@pytest.mark.parametrize(
    ("clock", "processes"), [("virtual", False), ("virtual", True), ("lockstep", False), ("realtime", True)]
)
def test_parts_of_a_cycle_leave_nothing_unaccounted(tmp_path, clock, processes):
    """With answers that make the next ones queue, and a follower whose release depends on its leader's."""
    slow = {"cpu_s": 0.002, "compute_scale": 6.0, "latency": {"lognormal": {"median_s": 0.006, "sigma": 1.0}}}
    scenario = toys.scenario(("Burns", "Burns"), slots=20, leader=slow, follower=slow)
    report = hil.report(hil.run(scenario, clock, tmp_path / "run", processes=processes))
    for agent in report.agents.values():
        assert agent.response_us.n > 0
        assert (agent.unaccounted_us.p50, agent.unaccounted_us.max) == (0, 0)
        assert agent.accounted_share == 1.0
        assert (agent.components_us["emulation"].max > 0) == (clock != "lockstep")


# ---- the knee


def test_knee_is_between_the_last_value_that_keeps_the_reward_and_the_first_that_does_not(grid):
    curve = grid()
    assert [p.value for p in curve.points] == list(GRID)
    assert [p.means["on_time"].mean for p in curve.points] == [1, 1, 1, 0, 0]
    assert [p.means["reward"].mean for p in curve.points[:3]] == pytest.approx([10.0] * 3)
    assert curve.knees["reward"] == Knee(16, 16.1, 16, 16.1)
    assert curve.knees["rate_bps"].within == 16


def test_budget_is_what_the_deadline_leaves_on_this_computer(grid):
    for point in grid().points:
        assert point.allowed_us == pytest.approx(16_000)
        assert point.budget_us == pytest.approx(16_000 / point.value)
        assert point.cpu_p95_us == pytest.approx(1_000)


def test_losses_are_differences_seed_by_seed(grid, tmp_path):
    curve = grid((1, 64))
    rewards = {(float(r["compute_scale"]), r["seed"]): float(r["reward"]) for r in table_of(tmp_path / "grid/runs.csv")}
    losses = [rewards[1.0, seed] - rewards[64.0, seed] for seed in ("3", "4", "5")]
    low, high = stats.t.interval(0.95, 2, np.mean(losses), stats.sem(losses))
    assert curve.points[1].losses["reward"].mean == pytest.approx(np.mean(losses))
    assert curve.points[1].losses["reward"].half == pytest.approx((high - low) / 2)
    assert curve.points[0].losses["reward"] == (0.0, 0.0)


def test_no_knee_within_the_grid_is_said(grid):
    curve = grid((1, 2, 4))
    assert curve.knees["reward"] == Knee(4, None, 4, None)
    said = sentences(curve)
    assert said[0] == "no cycle is missed up to compute_scale 4"
    assert "no knee within the grid" in said[1]
    assert "at least 4 times slower than this one" in said[-1]


@pytest.mark.slow
def test_grid_is_refined_between_the_neighbours_of_the_knee(grid):
    curve = grid((1, 64), refine=4, n_seeds=2)
    assert [p.value for p in curve.points] == [1, 8, 13.4, 17.4, 22.6, 64]
    assert (curve.knees["reward"].within, curve.knees["reward"].beyond) == (13.4, 17.4)


def test_one_seed_has_a_knee_but_no_interval(grid):
    assert grid(n_seeds=1).knees["reward"] == Knee(16, 16.1, None, None)


@pytest.mark.slow
def test_deadline_can_be_varied_instead(scenario, tmp_path):
    keys = {"agent__leader": {"controller": "test_budget:Meets", "every": 1, "latency": {"fixed_s": 0.005}}}
    keys["agent__follower"] = {"controller": "test_budget:Rests", "latency": {"fixed_s": 0.0}}
    curve = budget.fly(scenario(**keys), "leader", (0.24, 0.5, 0.25), tmp_path / "grid", "window", n_seeds=2)
    assert [p.value for p in curve.points] == [0.5, 0.25, 0.24]
    assert [p.allowed_us for p in curve.points] == pytest.approx([10_000, 5_000, 4_800])
    assert (curve.knees["reward"].within, curve.knees["reward"].beyond) == (0.25, 0.24)
    assert sentences(curve)[-1] == "so leader may be given 5 ms to answer in"
    keys["agent__leader"] |= {"compute_scale": 4.0}
    slower = budget.fly(scenario(**keys), "leader", (0.5, 0.25), tmp_path / "slower", "window", n_seeds=1)
    assert [p.budget_us for p in slower.points] == pytest.approx([2_500, 1_250])  # of this computer, 4 times faster
    with pytest.raises(ScenarioError, match="no window to vary"):
        budget.fly(scenario(agent__leader__delay=1), "leader", (0.2, 0.5), tmp_path / "delayed", "window")


def test_run_that_breaks_a_limit_of_its_agents_is_beyond_the_knee(grid):
    curve = grid(keys={"agent__follower__max_consecutive_misses": 2})
    assert (curve.knees["reward"].within, curve.knees["reward"].beyond) == (16, 16.1)
    assert table(curve)[1][-1][3] == "broke off"
    json.dumps(curve.to_dict(), allow_nan=False)
    assert "broke a limit" in sentences(grid((64, 128), "b", {"agent__follower__on_miss": "abort"}))[0]


@pytest.mark.slow
def test_run_of_the_grid_is_the_run_it_would_be_alone(grid, scenario, tmp_path):
    """Though its world was built for another seed and had flown before."""
    grid((1, 64))
    hashes = {r["run"]: r["trajectory_hash"] for r in table_of(tmp_path / "grid/runs.csv")}
    alone = run(scenario(seed=5), tmp_path / "alone").meta["trajectory_hash"]
    assert hashes["runs/scale-1-seed-5"] == alone
    assert hashes["runs/scale-64-seed-5"] != alone


@pytest.mark.slow
def test_real_time_flies_the_same_grid_one_run_after_the_other(scenario, tmp_path):
    keys = {"agent__follower": {"controller": "toys:Burns", "cpu_s": 0.001}, "slots": 10}
    curve = budget.fly(scenario(**keys), "follower", (1, 64), tmp_path / "grid", n_seeds=1, clock="realtime")
    assert curve.points[1].means["on_time"].mean == 0.0  # 64 ms
    assert curve.points[0].cpu_p95_us >= 1000


# ---- what the folder holds


def test_csv_has_a_row_per_run_and_a_row_per_value(grid, tmp_path):
    grid(keys={"agent__follower__budget_s": 0.02})
    runs = table_of(tmp_path / "grid/runs.csv")
    assert len(runs) == len({(r["compute_scale"], r["seed"]) for r in runs}) == 15
    for row in runs:
        scale, record = float(row["compute_scale"]), Record.open(tmp_path / "grid" / row["run"])
        assert record.meta["resolved"]["agents"]["follower"]["compute_scale"] == scale
        assert record.meta["seed"] == int(row["seed"])
        assert float(row["reward"]) == pytest.approx(record["reward.follower"].mean())
        assert float(row["rate_bps"]) == pytest.approx(record["rate_bps"].mean())
        assert int(row["misses"]) == (20 if scale > 16 else 0)
        assert (row["over_budget"] == "0") == (scale <= 20)
    values = table_of(tmp_path / "grid/curve.csv")
    assert [float(v["compute_scale"]) for v in values] == list(GRID)
    assert [v["seeds"] for v in values] == ["3"] * 5
    assert all(float(v["reward_half"]) >= 0 for v in values)
    assert json.loads((tmp_path / "grid/budget.json").read_text())["knees"]["reward"]["within"] == 16


def test_plot_is_a_small_png(scenario, tmp_path):
    pytest.importorskip("matplotlib")
    budget.fly(scenario(), "follower", (1, 16, 64), tmp_path / "grid", n_seeds=2)
    png = (tmp_path / "grid/curve.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) < 100_000


@pytest.mark.slow
def test_without_matplotlib_the_csv_is_written_and_the_plot_is_said_to_be_missing(scenario, tmp_path, monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = []
    budget.fly(scenario(), "follower", (1, 64), tmp_path / "grid", n_seeds=2, say=said.append)
    assert "pip install 'ntn-twin[report]'" in said[-1]
    assert {p.name for p in (tmp_path / "grid").iterdir()} == {"runs", "runs.csv", "curve.csv", "budget.json"}


def test_interrupted_grid_keeps_what_it_has_and_goes_on_where_it_was(grid, launches, tmp_path):
    values = (1, 16, 64)
    expected = grid(values, "whole", n_seeds=2)
    launches.n, launches.stop_at = 0, 5
    with pytest.raises(KeyboardInterrupt):
        grid(values, n_seeds=2)
    assert len(table_of(tmp_path / "grid/runs.csv")) == 4
    assert [v["seeds"] for v in table_of(tmp_path / "grid/curve.csv")] == ["2", "1", "1"]
    launches.n, launches.stop_at = 0, None
    assert grid(values, n_seeds=2) == expected
    assert launches.n == 2
    grid((*values, 32), n_seeds=3)  # more values, more seeds
    assert launches.n == 2 + 4 + 2


def test_other_scenario_is_not_mixed_in(grid):
    grid((1, 64))
    with pytest.raises(ScenarioError, match=r"agents\.follower\.every was None, now 2"):
        grid((1, 64), keys={"agent__follower__every": 2})
    with pytest.raises(ScenarioError, match="seats was 'here', now 'there'"):  # a process is not as fast
        grid((1, 64), processes=True)
    with pytest.raises(ScenarioError, match="clock was 'virtual', now 'realtime'"):
        grid((1, 64), clock="realtime")


def test_folder_of_somebody_else_is_refused(grid, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("42")
    with pytest.raises(RecordError, match="holds something else"):
        grid(out="mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_folders_of_runs_need_not_be_kept(grid, tmp_path):
    grid((1, 64), keep=False)
    assert list((tmp_path / "grid/runs").iterdir()) == []
    assert len(table_of(tmp_path / "grid/runs.csv")) == 6


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ((1,), {}, "two values"),
        ((1, 1.0), {}, "all different"),
        ((0, 1), {}, "more than 0"),
        ((0.5, 1.5), {"key": "window"}, "at most 1"),
        ((1, 2), {"clock": "lockstep"}, "lock-step has no deadlines"),
        ((1, 2), {"clock": "sundial"}, "sundial"),
        ((1, 2), {"n_seeds": 0}, "seeds"),
        ((1, 2), {"tolerance": 1.0}, "tolerance"),
        ((0.5, 1), {"clock": "realtime"}, "virtual clock"),
    ],
)
def test_grid_that_cannot_be_flown_is_refused(grid, values, options, message):
    with pytest.raises(ScenarioError, match=message):
        grid(values, **options)


def test_error_of_a_run_is_not_taken_for_a_result(grid, monkeypatch):
    def broken(*args, **options):
        raise RunBroken("the twin is behind")

    monkeypatch.setattr(budget, "_warm_up", lambda *args: None)
    monkeypatch.setattr(budget.launch, "run", broken)
    with pytest.raises(RunBroken):
        grid()


# ---- the command


def test_command_prints_a_table_that_fits_and_says_what_it_means(ntn_twin, scenario, tmp_path):  # noqa: F811
    said = ntn_twin("budget", tmp_path / "sky.toml", "--agent", "follower", "--scales", "1,16,16.1", "--out", "grid")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == "sky: follower on clock virtual, 5 seeds, 95 % confidence"
    assert all(len(line) <= 80 for line in lines[1:5])
    assert lines[2].split() == ["1", "16", "100.0", "10.00", "±", "0.00", "0.0", "±", "0.0", "10.0", "±", "0.0"]
    assert "the reward stays within 5 % of that at compute_scale 1 up to 16, and no longer at 16.1" in said.out
    assert "may be 16 times slower than this one" in said.out
    assert "15 of 15: compute_scale 16.1, seed 7" in said.err


@pytest.mark.slow
def test_json_is_one_object(ntn_twin, scenario, tmp_path):  # noqa: F811
    words = ("--agent", "follower", "--points", 3, "--scale-to", 100, "--seeds", 2, "--json")
    found = ntn_twin("budget", tmp_path / "sky.toml", *words).json
    assert [p["value"] for p in found["points"]] == [1, 10, 100]
    assert found["knees"]["reward"] == {"within": 10, "beyond": 100, "surely_within": 10, "surely_beyond": 100}
    assert (tmp_path / found["folder"] / "curve.csv").exists()


@pytest.mark.slow
def test_interrupted_command_says_how_to_go_on(ntn_twin, scenario, launches, tmp_path):  # noqa: F811
    launches.stop_at = 3
    said = ntn_twin("budget", tmp_path / "sky.toml", "--agent", "follower", "--out", "grid")
    assert said.code == 130
    assert "--out grid goes on" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--agent", "nobody"), "nobody is not a seat"),
        (("--agent", "follower", "--scales", "1,two"), "1,2,4"),
        (("--agent", "follower", "--scales", "1,2", "--windows", "0.1,0.2"), "one of the two"),
        (("--agent", "follower", "--scale-from", 200), "--scale-from"),
    ],
)
def test_bad_options_are_told_in_a_line(ntn_twin, scenario, tmp_path, words, message):  # noqa: F811
    said = ntn_twin("budget", tmp_path / "sky.toml", *words)
    assert said.code == 2
    assert message in said.err.replace("\n", " ")
