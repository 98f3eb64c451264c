"""D2D pricing: what the learners of controllers/st_q.py reach, beside the exact checks of d2d_exact.py.

Every learner flies the world `d2d` on one seat, the closed-form leader on the other. As nothing that followers do moves
the world's draws or the leader's prices, these are computed once per case and shared; so is the ceiling. An episode is
50 slots of one run without a reset; after each the learner is flown without exploring over the same 100 slots of
another run in the same place, whose utility is what all curves show. Utility is the mean of the pairs', bit/s/Hz.
"""

import itertools
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from controllers.papers import Row, d2d_exact, plotting, write_csv
from controllers.st_q import StochasticGame, StQ, random_game, relative_error
from controllers.stackelberg import Stackelberg
from twin.stats import estimate
from twin.types import Action, Arrays, Observation
from twin.worlds.d2d import Cell, D2d, Game, Settings, follower_utility

EPISODE, HELD_OUT = 50, 100  # slots
SEEDS = range(5, 10)  # places that nobody looked at while rates and bounds were chosen
S7_GAMES, S7_UPDATES, S7_LIMIT = 20, 200_000, 0.02
S8_SHARE, S8_OF_SEEDS, SETTLED = 0.9, 4, 0.95
LEARNERS: dict[str, dict[str, Any]] = {
    "guided": {},
    "guided, explores at the equilibrium": {"imitate": 0.5},
    "unguided": {"guided": False},
    "independent": {"guided": False, "central": False},
}
STYLES = {"closed form": "-", "full power": "--", "random": ":"}
COLOURS = dict(zip(LEARNERS, ("C0", "C2", "C1", "C3")))


# ---- tables: statement S7


def tabular(n_games: int, updates: list[int], dominance: float) -> tuple[np.ndarray, np.ndarray]:
    """Error of tabular ST-Q as S7 measures it, (n_games, n_updates); where exact values settled, (n_games,) bool."""
    errors, settled = [], []
    for seed in range(n_games):
        game: StochasticGame = random_game(np.random.default_rng([seed, 7]), dominance=dominance)
        exact, found = game.exact()
        errors.append(relative_error(game.learned(updates, seed), exact))
        settled.append(found)
    return np.array(errors), np.array(settled)


# ---- networks


class Slot(NamedTuple):
    """What does not depend on the followers: a slot's game, the leader's prices, and what it tells the critics."""

    game: Game
    price: np.ndarray
    told: Arrays


@dataclass(frozen=True)
class Case:
    """A place with its slots to learn in and to be measured in, and the best mean utility there, at these prices.

    best  NaN where too many joint choices would have to be tried
    """

    layout: int
    n_channels: int
    n_pairs: int
    lessons: list[Slot]
    held_out: list[Slot]
    best: float

    def world(self) -> D2d:
        """The world, at its beginning."""
        return world_of(self.layout, self.n_channels, self.n_pairs)


def world_of(layout: int, n_channels: int, n_pairs: int) -> D2d:
    """The default cell with the places and shadowing of `layout`."""
    cell = Cell(n_channels=n_channels, n_pairs=n_pairs, layout=layout)
    return D2d(Settings(cell=cell), slots=2**40, slot_s=0.01, folder=".")


def seed_of(layout: int, held_out: bool) -> int:
    """Of a world's fading: another for measuring than for learning."""
    return 1000 * held_out + layout


def slots_of(layout: int, n_channels: int, n_pairs: int, held_out: bool, n_slots: int) -> list[Slot]:
    """The leader's part of a run."""
    world = world_of(layout, n_channels, n_pairs)
    world.reset(seed_of(layout, held_out))
    leader = StQ(world.agents[0], 0)
    slots = []
    for slot in range(n_slots):
        posted = leader.act(Observation("cellular", slot, world.observe("cellular")))
        slots.append(Slot(world.game(), posted.values["price"], posted.signals["d2d"]))
        world.step()
    return slots


def case_of(layout: int, n_channels: int, n_pairs: int, n_slots: int) -> Case:
    """A place, ready to learn in for so many slots."""
    where = layout, n_channels, n_pairs
    held_out = slots_of(*where, True, HELD_OUT)
    best = np.mean([exhaustive(slot) for slot in held_out]) if n_pairs <= 2 else np.nan
    return Case(*where, slots_of(*where, False, n_slots), held_out, float(best))


def exhaustive(slot: Slot, n_powers: int = 64) -> float:
    """The largest mean utility of any joint choice of channels and powers (even in dB) at the posted prices.

    Tries (n_channels n_powers)^n_pairs choices. The grid can miss the best by 0.2 % of a bit.
    """
    n_pairs, n_channels = slot.price.shape
    grid = np.geomspace(slot.game.power_w[0], slot.game.power_w[1], n_powers)
    power_w = np.stack(np.meshgrid(*[grid] * n_pairs, indexing="ij"), -1).reshape(-1, n_pairs)
    found = -np.inf
    for channels in itertools.product(range(n_channels), repeat=n_pairs):
        channel = np.broadcast_to(np.array(channels), power_w.shape)
        found = max(found, follower_utility(slot.game, slot.price, channel, power_w).mean(-1).max())
    return float(found)


class Flight(NamedTuple):
    """Means over the slots of the pairs' utility and everyone's capacity; times of each decision, of all learning."""

    utility: float
    capacity: float
    act_s: np.ndarray
    learn_s: float


def fly(world: D2d, slots: Sequence[Slot], followers, learn: bool) -> Flight:
    """Fly on from where the world is, with prices as posted; jobs of `followers` are worked off at once."""
    utility, capacity, act_s, learn_s = [], [], [], 0.0
    earned = None
    for slot in slots:
        world.apply("cellular", {"price": slot.price})
        seen = Observation("d2d", world.slot, world.observe("d2d"), earned, signals={"cellular": slot.told})
        begun = time.perf_counter()
        action = followers.act(seen)
        act_s.append(time.perf_counter() - begun)
        world.apply("d2d", action.values)
        outcome = world.step()
        earned = outcome.reward["d2d"]
        utility.append(earned)
        capacity.append(float(outcome.measures["capacity_bps_hz"]))
        if not learn:
            continue
        begun = time.perf_counter()
        job = followers.learn()
        if job is not None:
            followers.adopt(job())
        learn_s += time.perf_counter() - begun
    return Flight(float(np.mean(utility)), float(np.mean(capacity)), np.array(act_s), learn_s)


class AtRandom:
    """Any channel, any power, even in dB; or, at full power, the channel that then is best for the pair alone."""

    def __init__(self, agent, seed: int, full_power: bool):
        self.rng, self.facts, self.full_power = np.random.default_rng(seed), agent.facts, full_power

    def act(self, seen: Observation) -> Action:
        n, m = seen.values["price"].shape
        low_w, high_w = float(self.facts["power_min_w"]), float(self.facts["power_max_w"])
        if not self.full_power:
            power_w = low_w * (high_w / low_w) ** self.rng.random(n)
            return Action(
                {"channel": np.asarray(self.rng.integers(m, size=n)), "power_w": np.clip(power_w, low_w, high_w)}
            )
        values = seen.values
        snr = high_w * values["direct_gain"][:, None] / (1.0 + values["cellular_interference"])
        cost = float(self.facts["follower_weight"]) * values["price"] * values["interference_gain"] * high_w
        return Action({"channel": np.asarray((np.log2(1.0 + snr) - cost).argmax(1)), "power_w": np.full(n, high_w)})


def baselines(case: Case) -> dict[str, Flight]:
    """Followers that do not learn, over the held-out slots."""
    d2d = case.world().agents[1]
    made = {
        "closed form": Stackelberg(d2d, 0),
        "random": AtRandom(d2d, case.layout, False),
        "full power": AtRandom(d2d, case.layout, True),
    }
    found = {}
    for name, followers in made.items():
        world = case.world()
        world.reset(seed_of(case.layout, True))
        found[name] = fly(world, case.held_out, followers, False)
    return found


class Curve(NamedTuple):
    """A learner's way: after each episode utility and capacity on held-out slots, seconds spent; its answers' times."""

    utility: np.ndarray
    capacity: np.ndarray
    seconds: np.ndarray
    act_s: np.ndarray

    @property
    def final(self) -> float:
        """Mean utility over the last tenth of the episodes."""
        return float(self.utility[-max(1, len(self.utility) // 10) :].mean())

    @property
    def settled(self) -> float:
        """95 % of the final utility; as far below it where that is negative."""
        return self.final - (1.0 - SETTLED) * abs(self.final)

    def episodes_to(self, level: float) -> int:
        """Episodes until the utility first is at a level; one more than there were where it never is."""
        there = np.flatnonzero(self.utility >= level)
        return int(there[0]) + 1 if there.size else len(self.utility) + 1


def train(case: Case, options: dict) -> Curve:
    """Learn through the case's lessons, measured after every episode."""
    world = case.world()
    world.reset(seed_of(case.layout, False))
    d2d = world.agents[1]
    learner = StQ(d2d, case.layout, **options)
    still = StQ(d2d, case.layout, **{**options, "explore": 0.0, "explore_last": 0.0, "noise": 0.0})
    utility, capacity, seconds, act_s, spent = [], [], [], [], 0.0
    for first in range(0, len(case.lessons), EPISODE):
        learned = fly(world, case.lessons[first : first + EPISODE], learner, True)
        spent += learned.learn_s + learned.act_s.sum()
        still.adopt((learner.now, learner.scale))
        other = case.world()
        other.reset(seed_of(case.layout, True))
        measured = fly(other, case.held_out, still, False)
        utility.append(measured.utility)
        capacity.append(measured.capacity)
        seconds.append(spent)
        act_s.append(measured.act_s)
    return Curve(np.array(utility), np.array(capacity), np.array(seconds), np.concatenate(act_s))


class Result(NamedTuple):
    """One place: its ceiling, what does not learn there, and what does."""

    best: float
    fixed: dict[str, Flight]
    curves: dict[str, Curve]


def study(layout: int, n_channels: int, n_pairs: int, n_slots: int, names: Sequence[str]) -> Result:
    """Everything of one place; the work of one process."""
    case = case_of(layout, n_channels, n_pairs, n_slots)
    return Result(case.best, baselines(case), {name: train(case, LEARNERS[name]) for name in names})


# ---- rows and figures


@dataclass(frozen=True)
class Size:
    """How much is run: slots and learners of the two-pair study; slots, places and pairs of the capacity study."""

    slots: int
    learners: tuple[str, ...]
    capacity_slots: int
    capacity_layouts: tuple[int, ...]
    capacity_pairs: tuple[int, ...] = (3, 4, 5, 6)


QUICK = Size(4_000, ("guided", "unguided", "independent"), 1_000, (0, 1, 2))
FULL = Size(12_000, tuple(LEARNERS), 6_000, (0, 1, 2))
COMPARED = ("guided", "unguided")


def reproduce(quick: bool, out: Path, say: Callable[[str], None]) -> list[Row]:
    """The exact checks, then S7, S8 and experiments E2 to E5: figures (PNG), tables (CSV) and rows."""
    size = QUICK if quick else FULL
    rows = [*d2d_exact.rows(quick, out, say), *tabular_rows(out, say)]
    small = [(layout, 2, 2, size.slots, size.learners) for layout in SEEDS]
    large = [
        (layout, 3, n_pairs, size.capacity_slots, COMPARED)
        for n_pairs in size.capacity_pairs
        for layout in size.capacity_layouts
    ]
    say(
        f"learning: {len(small)} places with 2 pairs, {len(large)} with up to {max(size.capacity_pairs)}, two at a time"
    )
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(study, *one) for one in [*small, *large]]
        results = []
        for one, future in zip([*small, *large], running):
            results.append(future.result())
            say(f"  place {one[0]}, {one[2]} pairs: " + summary(results[-1]))
    return (
        rows + learning_rows(size, results[: len(small)], out) + capacity_rows(size, results[len(small) :], large, out)
    )


def summary(result: Result) -> str:
    """Final utilities in words."""
    fixed = [f"{name} {flight.utility:.2f}" for name, flight in result.fixed.items()]
    learned = [f"{name} {curve.final:.2f}" for name, curve in result.curves.items()]
    return f"best {result.best:.2f}, " + ", ".join([*learned, *fixed])


def tabular_rows(out: Path, say: Callable[[str], None]) -> list[Row]:
    """S7, with the figure of how tables converge."""
    say(f"S7: {S7_GAMES} games, {S7_UPDATES:,} updates each")
    updates = np.unique(np.geomspace(100, S7_UPDATES, 30).astype(int)).tolist()
    errors, settled = tabular(S7_GAMES, updates, 1.1)
    any_errors, any_settled = tabular(S7_GAMES, updates, 0.0)
    write_csv(
        out / "d2d-tables.csv",
        ["updates", *(f"dominance_{i}" for i in range(S7_GAMES)), *(f"any_{i}" for i in range(S7_GAMES))],
        np.column_stack([updates, errors.T, any_errors.T]).tolist(),
    )
    plt = plotting()
    fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    band(ax, updates, errors, "C0", "an action of each agent dominates")
    found = any_errors[any_settled]
    if len(found):
        band(ax, updates, found, "C1", f"any game; exact values settle in {len(found)} of {S7_GAMES}")
    ax.axhline(S7_LIMIT, color="grey", linestyle=":", label="S7")
    ax.set(xscale="log", yscale="log", xlabel="updates", ylabel="max |Q - exact| / (1 + |exact|)")
    ax.legend(fontsize=8)
    fig.savefig(out / "d2d-tables.png", dpi=80)
    last = errors[:, -1]
    return [
        Row(
            "S7_tabular_st_q_error",
            float(last.max()),
            (float(last.min()), float(last.max())),
            f"<= {S7_LIMIT} in every game",
            bool(settled.all() and (last <= S7_LIMIT).all()),
            f"spec S7: the largest of {S7_GAMES} games of 3 states and 2x2x2 actions after {S7_UPDATES:,} updates",
        )
    ]


def learning_rows(size: Size, results: list[Result], out: Path) -> list[Row]:
    """S8, E2, E4 and E5 from the two-pair study."""
    n = len(results)
    share = {name: np.array([r.curves[name].utility / r.best for r in results]) for name in size.learners}
    final = {name: np.array([r.curves[name].final / r.best for r in results]) for name in size.learners}
    episodes = {
        name: np.array([r.curves[name].episodes_to(r.curves[name].settled) for r in results]) for name in size.learners
    }
    figure_learning(size, results, share, out)
    how = f"2 channels, 2 pairs, {n} places, {size.slots:,} slots of learning, {HELD_OUT} held-out slots"
    rows = []
    for name in size.learners:
        mean, half = estimate(final[name].tolist(), 0.95)
        reached = int((final[name] >= S8_SHARE).sum())
        label = name.replace(", ", "_").replace(" ", "_")
        asked = name == "guided"
        rows.append(
            Row(
                f"{'S8' if asked else 'E2'}_{label}_utility_over_exhaustive",
                mean,
                (mean - (half or 0.0), mean + (half or 0.0)),
                f">= {S8_SHARE} in >= {S8_OF_SEEDS} of {n} places",
                reached >= S8_OF_SEEDS,
                f"{'spec S8' if asked else 'beside S8, not asked'}: {reached} of {n} places; {how}",
            )
        )
    sooner = int((episodes["guided"] <= episodes["unguided"]).sum())
    rows.append(
        Row(
            "S8_places_where_guided_settles_no_later",
            sooner,
            None,
            f">= {S8_OF_SEEDS} of {n}",
            sooner >= S8_OF_SEEDS,
            f"spec S8: episodes to 95 % of the own final, guided {episodes['guided'].tolist()}, "
            f"unguided {episodes['unguided'].tolist()}; {how}",
        )
    )
    ratio = np.log(episodes["guided"] / episodes["unguided"])
    rows.append(ratio_row("E2_episodes_to_95_guided_over_unguided", ratio, f"spec E2: geometric mean; {how}"))
    times = []
    for r in results:
        level = min(r.curves[name].settled for name in COMPARED)
        at = [r.curves[name].seconds[r.curves[name].episodes_to(level) - 1] for name in COMPARED]
        times.append(np.log(at[0] / at[1]))
    source = f"spec E4: time of act, learn, adopt until 95 % of the lower final, geometric mean; {how}"
    rows.append(ratio_row("E4_training_time_guided_over_unguided", np.array(times), source))
    micros = np.concatenate([r.curves["guided"].act_s for r in results]) * 1e6
    median, low, high = np.quantile(micros, [0.5, 0.01, 0.99])
    rows.append(
        Row(
            "E5_decision_us",
            float(median),
            (float(low), float(high)),
            "p99 < 8000, the window of a slot of 10 ms",
            bool(high < 8000),
            "spec E5: act() of both pairs in process, wall time beside another run; median, 1 % and 99 %",
        )
    )
    return rows


def ratio_row(name: str, logs: np.ndarray, source: str) -> Row:
    """A geometric mean that is to be below 1, and its confidence interval over places with it."""
    mean, half = estimate(logs.tolist(), 0.95)
    interval = None if half is None else (float(np.exp(mean - half)), float(np.exp(mean + half)))
    reached = interval is not None and interval[1] < 1.0
    return Row(name, float(np.exp(mean)), interval, "< 1, the interval too", reached, source)


def figure_learning(size: Size, results: list[Result], share: dict[str, np.ndarray], out: Path) -> None:
    """E2: utility over episodes, with what does not learn; CSV and PNG."""
    plt = plotting()
    n_episodes = share["guided"].shape[1]
    x = np.arange(1, n_episodes + 1)
    table = [
        (name, place, episode + 1, r.curves[name].utility[episode], r.curves[name].seconds[episode], r.best)
        for name in size.learners
        for place, r in enumerate(results)
        for episode in range(n_episodes)
    ]
    write_csv(out / "d2d-learning.csv", ["learner", "place", "episode", "utility", "seconds", "best"], table)
    fig, ax = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    for name in size.learners:
        band(ax, x, share[name], COLOURS[name], name)
    for name, style in STYLES.items():
        level = np.mean([r.fixed[name].utility / r.best for r in results])
        if level > 0:
            ax.axhline(level, color="black", linestyle=style, linewidth=1, label=name)
        else:
            ax.plot([], [], color="black", linestyle=style, linewidth=1, label=f"{name}: {level:.1f}")
    ax.set(xlabel=f"episodes of {EPISODE} slots", ylabel="utility over exhaustive search's", ylim=(0, 1.05))
    ax.legend(fontsize=7, loc="lower right")
    fig.savefig(out / "d2d-learning.png", dpi=80)


def capacity_rows(size: Size, results: list[Result], tasks: list[tuple], out: Path) -> list[Row]:
    """E3: everyone's capacity against the number of pairs."""
    plt = plotting()
    fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    table, logs = [], []
    lines: dict[str, list[float]] = {}
    for n_pairs in size.capacity_pairs:
        here = [r for r, task in zip(results, tasks) if task[2] == n_pairs]
        found = {name: [r.fixed[name].capacity for r in here] for name in here[0].fixed}
        for name in COMPARED:
            found[name] = [
                float(r.curves[name].capacity[-max(1, len(r.curves[name].capacity) // 10) :].mean()) for r in here
            ]
        logs.append(np.log(np.array(found["guided"]) / np.array(found["unguided"])))
        for name, values in found.items():
            table += [(n_pairs, name, place, value) for place, value in enumerate(values)]
            lines.setdefault(name, []).append(float(np.mean(values)))
    write_csv(out / "d2d-capacity.csv", ["pairs", "followers", "place", "capacity_bps_hz"], table)
    for name, values in lines.items():
        look = {"color": COLOURS[name]} if name in COLOURS else {"color": "black", "linestyle": STYLES[name]}
        ax.plot(size.capacity_pairs, values, marker="o", markersize=3, label=name, **look)
    ax.set(xlabel="pairs on 3 channels", ylabel="capacity of all, bit/s/Hz", xticks=size.capacity_pairs)
    ax.legend(fontsize=8)
    fig.savefig(out / "d2d-capacity.png", dpi=80)
    # users and the first pairs stand alike whatever the number of pairs: a place is one sample
    mean, half = estimate(np.mean(logs, axis=0).tolist(), 0.95)
    interval = None if half is None else (float(np.exp(mean - half)), float(np.exp(mean + half)))
    places = len(size.capacity_layouts)
    source = (
        f"spec E3: geometric mean over 3 to 6 pairs, {places} places each, {size.capacity_slots:,} slots of learning"
    )
    return [
        Row(
            "E3_capacity_guided_over_unguided",
            float(np.exp(mean)),
            interval,
            "> 1, the interval too",
            interval is not None and interval[0] > 1.0,
            source,
        )
    ]


def band(ax, x: np.ndarray, curves: np.ndarray, colour: str, label: str) -> None:
    """Mean of curves (n, n_x) and the range of all."""
    ax.plot(x, curves.mean(0), color=colour, label=label)
    ax.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0)
