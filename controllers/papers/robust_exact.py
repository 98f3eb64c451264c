"""What can be had exactly of the robust learning paper: the operators, their fixed points, and what robustness costs.

Figures F1 (error of the approximation against the radius) and F3 (values and orders of the store), and the reservation
of resource blocks under demand that differs from what was believed, every policy evaluated by solving its linear
equations. `rows` is what `ntn-twin reproduce robust` takes from here; tests/papers/test_kl_robust.py calls the parts.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from controllers.kl_robust import (
    approximate_operator,
    approximation_bound,
    average_reward,
    contraction_factor,
    first_order_bounds,
    greedy,
    kl_worst_mean,
    moments,
    nominal_operator,
    policy_value,
    solve,
    worst_kernel,
)
from controllers.papers import Row, plotting, write_csv
from twin.stats import Estimate, estimate
from twin.worlds.demand import KINDS, Deployed, Kind, at_divergence, differing, divergence, tilted
from twin.worlds.finite import Finite, Inventory, Reservation, Settings, Tables, inventory, reservation

RADII = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
LINEAR_UP_TO = 0.04  # the radii of M4
GAMMA, RADIUS, EPSILON = 0.6, 0.02, 1e-3  # of the tests on the store of set 1
MOST_LOSS = 2.0  # per cent of the nominal policy's cost on nominal demand
FARTHER = 4  # times the believed radius, where the gains are told too
N_MEMBERS = 100  # random laws of the ball's surface

CYCLE_GAMMA = 0.9  # ten decisions ahead
FORMULATIONS = {  # the first is the scenario `reservation`, the second the one that the claims are about
    "slot, 5 groups": Reservation(),
    "cycle, 50 groups": Reservation(
        n_groups=50, mean_units=20.0, backlog_limit=20, group_cost=0.4, waiting_cost=10.0, overflow_cost=100.0
    ),
    "cycle, 13 groups": Reservation(
        n_groups=13,
        group_units=4,
        mean_units=20.0,
        backlog_limit=20,
        group_cost=1.6,
        waiting_cost=10.0,
        overflow_cost=100.0,
    ),
    "slot, ten terminals, 50 groups": Reservation(n_groups=50, mean_units=20.0, backlog_limit=50),
}
CLAIMED = "cycle, 50 groups"


def rows(quick: bool, out: Path, say: Callable[[str], None]) -> list[Row]:
    """Check, draw, and judge; the same work in both modes, some ten seconds."""
    say("operators and dual")
    found = operator_rows()
    say("error of the approximation against the radius")
    errors = approximation_errors((0.6, 0.7, 0.9), RADII)
    found += error_rows(errors)
    draw_errors(out, errors)
    found += [order_row(out)]
    say("reservation under demand that differs")
    cases = list(reservation_cases(CLAIMED, n_members=N_MEMBERS))
    for name in FORMULATIONS:
        if name != CLAIMED:
            cases += reservation_cases(name)
    write_csv(out / "robust_reservation.csv", Case._fields, cases)
    draw_price(out, cases)
    return found + price_rows(cases)


# M1 to M3: the operators


def contraction_excess(n_pairs: int = 1000, seed: int = 0) -> float:
    """Largest of |T(Q) - T(Q')| - gamma (1 + kappa) |Q - Q'| over random pairs, over |Q - Q'|; M1 wants <= 1e-12."""
    tables, rng = inventory(gamma=GAMMA), np.random.default_rng(seed)
    worst = -np.inf
    for i in range(n_pairs):
        a = rng.normal(size=tables.reward.shape) * 10.0 ** rng.uniform(-2, 2)
        b = a + rng.normal(size=a.shape) * 10.0 ** rng.uniform(-6, 1)
        epsilon = EPSILON * (i % 2)
        one, other = (approximate_operator(q, *laws(tables), GAMMA, RADIUS, epsilon) for q in (a, b))
        ratio = np.abs(one - other).max() / np.abs(a - b).max()
        worst = max(worst, ratio - contraction_factor(GAMMA, RADIUS))
    return float(worst)


def laws(tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """What the operators take: transition and reward."""
    return tables.transition, tables.reward


def random_problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """A law on 1 to 6 states, a value, and a radius."""
    n = int(rng.integers(1, 7))
    radius = float(np.exp(rng.uniform(np.log(1e-3), np.log(0.5))))
    return rng.dirichlet(np.ones(n)), rng.normal(size=n) * 10.0 ** rng.uniform(-1, 2), radius


def worst_mean_plain(probability: np.ndarray, value: np.ndarray, radius: float) -> float:
    """The least mean within the ball by bisection of the tilt, in plain NumPy: what the kernel is held against."""
    on = probability > 0.0
    p, v = probability[on], value[on] - value[on].min()
    low, high = -12.0, 20.0  # decimal logarithm of theta times the largest value
    for _ in range(100):
        middle = (low + high) / 2.0
        law = tilted(p, -(10.0**middle) * v / max(float(v.max()), 1e-300))
        low, high = (middle, high) if divergence(law, p) < radius else (low, middle)
    return float(law @ v + value[on].min())


def dual_error(n_draws: int = 200, seed: int = 0) -> float:
    """Largest difference between the kernel and the plain bisection; M2 wants <= 1e-7."""
    rng = np.random.default_rng(seed)
    problems = [random_problem(rng) for _ in range(n_draws)]
    return max(abs(float(kl_worst_mean(p, v, d)) - worst_mean_plain(p, v, d)) for p, v, d in problems)


def expansion_use(n_draws: int = 1000, seed: int = 0) -> float:
    """How far the exact worst mean less m - kappa sigma goes towards its bounds, 1 at a bound; M3 wants <= 1."""
    rng = np.random.default_rng(seed)
    most = 0.0
    for _ in range(n_draws):
        p, v, radius = random_problem(rng)
        mean, deviation = moments(p, v)
        low, high = first_order_bounds(p, v, radius)
        off = float(kl_worst_mean(p, v, radius) - (mean - np.sqrt(2.0 * radius) * deviation))
        rounding = 1e-12 * float(np.abs(v).max())
        most = max(most, (off - rounding) / max(float(high), 1e-300), (off + rounding) / min(float(low), -1e-300))
    return most


def order_excess() -> float:
    """Largest of Q_KL - Q_nominal on the store, and of T(Q) - the nominal operator at random Q; M3 wants <= 0."""
    tables, rng = inventory(gamma=GAMMA), np.random.default_rng(0)
    excess = [float((solve(*laws(tables), GAMMA, RADIUS) - solve(*laws(tables), GAMMA)).max())]
    for _ in range(100):
        q = rng.normal(size=tables.reward.shape) * 10.0
        approximate = approximate_operator(q, *laws(tables), GAMMA, RADIUS)
        excess.append(float((approximate - nominal_operator(q, *laws(tables), GAMMA)).max()))
    return max(excess)


def operator_rows() -> list[Row]:
    """M1, M2, M3."""
    tables = inventory(gamma=GAMMA)
    fixed = solve(*laws(tables), GAMMA, RADIUS, epsilon=EPSILON)
    residual = float(np.abs(approximate_operator(fixed, *laws(tables), GAMMA, RADIUS, EPSILON) - fixed).max())
    excess, dual, use, order = contraction_excess(), dual_error(), expansion_use(), order_excess()
    store = "store of set 1, gamma 0.6, radius 0.02"
    return [
        Row("M1_contraction_excess", excess, None, "<= 1e-12", excess <= 1e-12, f"1,000 random pairs, {store}"),
        Row("M1_fixed_point_residual", residual, None, "< 1e-10", residual < 1e-10, store),
        Row("M2_dual_against_tilting", dual, None, "<= 1e-7", dual <= 1e-7, "200 random laws on 1 to 6 states"),
        Row("M3_robust_is_never_above_nominal", order, None, "<= 0", order <= 0.0, f"{store}; 100 random Q"),
        Row("M3_expansion_within_its_bounds", use, None, "<= 1", use <= 1.0, "part of the bound used, 1,000 draws"),
    ]


# M4, M10, F1, F3: the store


class Error(NamedTuple):
    """How far the approximate fixed point lies from the exact one, sup norm, and Theorem 2's bound on it."""

    gamma: float
    radius: float
    error: float
    bound: float


def approximation_errors(
    gammas: tuple[float, ...],
    radii: tuple[float, ...],
    settings: Inventory = Inventory(),  # noqa: B008
) -> list[Error]:
    """One Error for each gamma and radius."""
    found = []
    for gamma in gammas:
        tables = inventory(settings, gamma)
        for radius in radii:
            approximate = solve(*laws(tables), gamma, radius, epsilon=0.0)
            error = float(np.abs(approximate - solve(*laws(tables), gamma, radius)).max())
            bound = approximation_bound(approximate, tables.transition, gamma, radius)
            found.append(Error(gamma, radius, error, bound))
    return found


def log_slope(errors: list[Error], gamma: float) -> float:
    """Slope of log error against log radius, for one gamma, over the radii that M4 names."""
    chosen = [e for e in errors if e.gamma == gamma and e.radius <= LINEAR_UP_TO]
    return float(np.polyfit(np.log([e.radius for e in chosen]), np.log([e.error for e in chosen]), 1)[0])


def error_rows(errors: list[Error]) -> list[Row]:
    """M4."""
    gammas = sorted({e.gamma for e in errors})
    slopes = [log_slope(errors, gamma) for gamma in gammas]
    used = max(e.error / e.bound for e in errors)
    at = {(e.gamma, e.radius): e.error for e in errors}
    grows = min(at[b, d] - at[a, d] for a, b in pairwise(gammas) for d in RADII)
    farthest = max(slopes, key=lambda slope: abs(slope - 1.0))
    where = "store of set 1, gamma 0.6, 0.7, 0.9, radius 0.0025 to 0.16"
    return [
        Row(
            "M4_error_is_linear_in_the_radius",
            farthest,
            (min(slopes), max(slopes)),
            "log-log slope in [0.95, 1.08]",
            all(0.95 <= slope <= 1.08 for slope in slopes),
            "store of set 1, gamma 0.6, 0.7, 0.9, radius 0.0025 to 0.04; the slope farthest from 1",
        ),
        Row("M4_error_below_theorem_2", used, None, "part of the bound < 1", used < 1.0, where),
        Row("M4_error_grows_with_gamma", grows, None, "smallest growth > 0", grows > 0.0, where),
    ]


def base_stock(order: np.ndarray) -> bool:
    """Whether the order never grows with the level, and stays 0 from where it first is; (nS,) by rising level."""
    return bool((np.diff(order) <= 0).all() and not order[np.argmin(order) :].any())


def order_row(out: Path) -> Row:
    """M10, and figure F3 of the approximate fixed point with gamma 0.7."""
    held = []
    for gamma in (0.6, 0.7, 0.9):
        tables = inventory(gamma=gamma)
        both = solve(*laws(tables), gamma, RADIUS, epsilon=EPSILON), solve(*laws(tables), gamma, RADIUS)
        held += [base_stock(greedy(q)) for q in both]
        if gamma == 0.7:
            draw_values(out, tables, both[0])
    source = "store of set 1, gamma 0.6, 0.7, 0.9, radius 0.02, approximate and exact"
    return Row("M10_orders_are_base_stock", float(np.mean(held)), None, "all of 6", all(held), source)


def draw_errors(out: Path, errors: list[Error]) -> None:
    """F1: error against the radius for gamma 0.6 and 0.9, with the line through the origin that fits them best."""
    plt = plotting()
    write_csv(out / "robust_error.csv", Error._fields, errors)
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for gamma, mark in ((0.6, "o"), (0.9, "s")):
        chosen = [e for e in errors if e.gamma == gamma]
        radius, error = np.array([e.radius for e in chosen]), np.array([e.error for e in chosen])
        small = radius <= LINEAR_UP_TO
        slope = float(radius[small] @ error[small] / (radius[small] @ radius[small]))
        (points,) = axes.plot(radius, error, mark, label=f"gamma {gamma:g}")
        axes.plot(radius, slope * radius, "--", lw=1, color=points.get_color(), label=f"{slope:.2f} radius")
    axes.set(xlabel="KL radius, nats", ylabel="largest |Q approximate - Q exact|")
    axes.legend(frameon=False)
    figure.savefig(out / "robust_error.png", dpi=110)
    plt.close(figure)


def draw_values(out: Path, tables: Tables, q: np.ndarray) -> None:
    """F3: Q as a heat map with the greedy order of each level marked, and v with its order written on."""
    plt = plotting()
    level, order = tables.level, greedy(q)
    table = [[level[s], a, q[s, a], int(a == order[s])] for s in range(len(q)) for a in range(q.shape[1])]
    write_csv(out / "robust_values.csv", ("level", "order", "q", "greedy"), table)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    image = left.imshow(q.T, origin="lower", aspect="auto", extent=(level[0] - 0.5, level[-1] + 0.5, -0.5, 4.5))
    left.plot(level, order, "rs", ms=4)
    left.set(xlabel="level, units in store", ylabel="order, units", title="Q; red: greedy")
    figure.colorbar(image, ax=left)
    right.plot(level, q.max(axis=1), "o-", ms=3)
    for x, v, a in zip(level, q.max(axis=1), order):
        right.annotate(str(a), (x, v), textcoords="offset points", xytext=(0, 5), ha="center", fontsize=8)
    right.set(xlabel="level, units in store", ylabel="v; the order is written on")
    figure.savefig(out / "robust_values.png", dpi=110)
    plt.close(figure)


# The reservation of resource blocks, and what robustness costs there


class Case(NamedTuple):
    """One policy pair under one demand. Costs are per decision; discounted ones from an empty buffer.

    believed       radius that the robust policy was made for, nats
    operator       "exact" or "approximate" (epsilon 1e-3)
    demand         what came: "nominal", a kind of twin.worlds.demand, "worst" (the nominal policy's worst kernel of the
                   ball), "random" (one law of the ball's surface in a random direction)
    radius         KL divergence of what came from what was told, nats
    nominal_cost, robust_cost    discounted cost of either policy
    gain_percent                 of the nominal policy's discounted cost; negative: a loss
    average_gain_percent         the same of the cost per decision in the long run
    harm_percent                 by how much the difference raises the nominal policy's own discounted cost
    """

    formulation: str
    believed: float
    operator: str
    demand: str
    radius: float
    nominal_cost: float
    robust_cost: float
    gain_percent: float
    average_gain_percent: float
    harm_percent: float


def reservation_cases(name: str, radii: tuple[float, ...] = RADII, n_members: int = 0) -> Iterator[Case]:
    """Every robust policy of a formulation against the nominal one, under every demand.

    n_members  random laws for each radius, met by the policies that believe in it or in a quarter of it
    """
    settings = FORMULATIONS[name]
    told = reservation(settings, CYCLE_GAMMA)
    nominal = greedy(solve(*laws(told), CYCLE_GAMMA))
    policies = list(robust_policies(told, radii))
    undisturbed = costs(told.transition, told, nominal)[0]
    for kind, radius, transition in demands(settings, told, nominal, radii, n_members):
        cost, average = costs(transition, told, nominal)
        of: dict[bytes, tuple[float, float]] = {nominal.tobytes(): (cost, average)}  # many policies are the same
        for believed, operator, policy in policies:
            if kind == "random" and radius not in (believed, FARTHER * believed):
                continue
            key = policy.tobytes()
            of[key] = of.get(key) or costs(transition, told, policy)
            gain, average_gain = (100.0 * (1.0 - mine / his) for mine, his in zip(of[key], (cost, average)))
            harm = 100.0 * (cost / undisturbed - 1.0)
            yield Case(name, believed, operator, kind, radius, cost, of[key][0], gain, average_gain, harm)


def robust_policies(told: Tables, radii: tuple[float, ...]) -> Iterator[tuple[float, str, np.ndarray]]:
    """The greedy policy of the exact and of the approximate operator, for each believed radius."""
    for radius in radii:
        yield radius, "exact", greedy(solve(*laws(told), CYCLE_GAMMA, radius))
        yield radius, "approximate", greedy(solve(*laws(told), CYCLE_GAMMA, radius, epsilon=EPSILON))


def demands(
    settings: Reservation, told: Tables, nominal: np.ndarray, radii: tuple[float, ...], n_members: int
) -> Iterator[tuple[str, float, np.ndarray]]:
    """(kind, radius, transition) of everything that may come; the reward of a reservation is the same under all."""
    yield "nominal", 0.0, told.transition
    rng = np.random.default_rng(0)
    for radius in radii:
        for kind in KINDS[1:]:
            law = differing(told.demand, kind, radius)
            yield kind, radius, reservation(settings, CYCLE_GAMMA, law).transition
        yield "worst", radius, worst_kernel(*laws(told), CYCLE_GAMMA, nominal, radius)
        for _ in range(n_members):
            law = at_divergence(told.demand, _along(told.demand, rng.normal(size=told.demand.size)), radius)
            yield "random", radius, reservation(settings, CYCLE_GAMMA, law).transition


def _along(law: np.ndarray, direction: np.ndarray) -> Callable[[float], np.ndarray]:
    return lambda t: tilted(law, t * direction)


def costs(transition: np.ndarray, told: Tables, policy: np.ndarray) -> tuple[float, float]:
    """Of a policy: discounted cost from an empty buffer, and cost per decision in the long run."""
    discounted = policy_value(transition, told.reward, CYCLE_GAMMA, policy)[told.start]
    return -float(discounted), -average_reward(transition, told.reward, policy)


def price_rows(cases: list[Case]) -> list[Row]:
    """What robustness costs and brings, at the largest believed radius that costs at most 2 % on nominal demand.

    Judged with the exact operator's policy. The goal is taken literally, every demand tried at the believed radius. No
    policy but the nominal one can reach it: on nominal demand that one is the best, and so it is on all demands near
    it. What is gained where demand is four times farther away than believed is told beside it.
    """
    mine = [c for c in cases if c.formulation == CLAIMED and c.operator == "exact"]
    loss = {c.believed: -c.gain_percent for c in mine if c.demand == "nominal"}
    believed = max(radius for radius, percent in loss.items() if 0.0 < percent <= MOST_LOSS)
    ball = [c for c in mine if c.believed == believed and c.radius == believed]
    beyond = [c for c in mine if c.believed == believed and c.radius == FARTHER * believed]
    where = f"{CLAIMED}, believed radius {believed:g}"

    def gains(name: str, goal: str, chosen: list[Case], what: str) -> Row:
        percent = [c.gain_percent for c in chosen]
        told = ", ".join(f"{c.demand} {c.gain_percent:.2f}" for c in chosen if c.demand != "random")
        source = f"{where}; least of {len(chosen)} demands {what}; interval: least and most; {told}"
        return Row(name, min(percent), (min(percent), max(percent)), goal, min(percent) > 0.0, source)

    return [
        Row(
            "robust_reservation_loss_on_nominal_demand_percent",
            loss[believed],
            (min(loss.values()), max(loss.values())),
            f"<= {MOST_LOSS:g} %",
            loss[believed] <= MOST_LOSS,
            f"{where}; interval: over believed radii {RADII[0]:g} to {RADII[-1]:g}",
        ),
        gains("robust_reservation_least_gain_in_the_ball_percent", "> 0 %", ball, "at the believed radius"),
        gains(
            "robust_reservation_gain_in_the_nominal_policy_s_worst_case_percent",
            "> 0 %",
            [c for c in ball if c.demand == "worst"],
            "at the believed radius",
        ),
        gains(
            "robust_reservation_least_gain_of_harmful_kinds_farther_away_percent",
            "> 0 %",
            [c for c in beyond if c.demand != "random" and c.harm_percent > 0.0],
            f"at {FARTHER} times that radius, of the kinds that raise the nominal policy's cost (not the goal: "
            "added when the results were known)",
        ),
        flown_row(believed, next(c for c in beyond if c.demand == "wider")),
    ]


def flown_gain(
    kind: Kind, radius: float, believed: float, *, name: str = CLAIMED, slots: int = 5_000, seeds: int = 10
) -> Estimate:
    """Gain of the robust policy, % of the nominal one's cost per slot, in the world itself: 95 % over seeds."""
    settings = Settings(reservation=FORMULATIONS[name], deployed=Deployed(kind=kind, radius=radius), gamma=CYCLE_GAMMA)
    world = Finite(settings, slots=slots, slot_s=1.0)
    policies = [greedy(solve(*laws(world.told), CYCLE_GAMMA, r)) for r in (0.0, believed)]
    gains = []
    for seed in range(seeds):
        cost, other = (flown_cost(world, policy, seed) for policy in policies)  # the same demand comes to both
        gains.append(100.0 * (1.0 - other / cost))
    return estimate(gains, 0.95)


def flown_row(believed: float, exact: Case) -> Row:
    """The world's own runs against the exact average."""
    mean, half = flown_gain("wider", exact.radius, believed)
    assert half is not None
    return Row(
        "robust_reservation_gain_flown_in_the_world_percent",
        mean,
        (mean - half, mean + half),
        f"exact {exact.average_gain_percent:.2f} % within two half widths",
        abs(mean - exact.average_gain_percent) <= 2.0 * half,
        f"{CLAIMED}, believed radius {believed:g}, wider demand at {exact.radius:g}; 10 seeds of 5,000 slots",
    )


def flown_cost(world: Finite, policy: np.ndarray, seed: int) -> float:
    """Cost per slot of a policy over a run of a world."""
    world.reset(seed)
    total, done = 0.0, False
    while not done:
        world.apply("agent", {"action": policy[world.observe("agent")["state"]]})
        reward, _, done = world.step()
        total -= reward["agent"]
    return total / world.slots


def draw_price(out: Path, cases: list[Case]) -> None:
    """Loss on nominal demand, and gain under each kind of demand as far away as believed, and farther, by radius."""
    plt = plotting()
    mine = [c for c in cases if c.formulation == CLAIMED and c.operator == "exact"]
    figure, axes = plt.subplots(1, 2, figsize=(8.8, 3.6), layout="constrained", sharey=True)
    far = 0.04
    for axis, title, at in (
        (axes[0], "demand as far away as believed", lambda c: c.radius == c.believed),
        (axes[1], f"demand at divergence {far:g}", lambda c: c.radius == far),
    ):
        for kind in (*KINDS[1:], "worst"):
            line = [(c.believed, c.gain_percent) for c in mine if c.demand == kind and at(c)]
            axis.plot(*zip(*line), "o-", ms=3, lw=1, label=kind.replace("_", " "))
        line = [(c.believed, c.gain_percent) for c in mine if c.demand == "nominal"]
        axis.plot(*zip(*line), "k--", lw=1.5, label="nominal: the price")
        axis.axhline(0.0, color="0.6", lw=0.8)
        axis.set(xscale="log", xlabel="believed KL radius, nats", title=title, ylim=(-18, 22))
    members = [(c.believed, c.gain_percent) for c in mine if c.demand == "random" and c.radius == c.believed]
    if members:
        axes[0].plot(*zip(*members), ".", ms=2, color="0.7", zorder=0, label="random")
    axes[0].set(ylabel="gain over the nominal policy, % of its cost")
    axes[0].legend(frameon=False, fontsize=7)
    figure.savefig(out / "robust_reservation.png", dpi=90)
    plt.close(figure)
