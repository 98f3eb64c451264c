"""What can be said of arXiv 2006.06626 without learning: decay of Q-functions, its bounds, gradients, best policies.

Appendix B.4 repeated by exact linear algebra (statements Q1 to Q4 of the specification), and on small access networks
where a critic that sees kappa hops ends if it makes no errors. `rows` is called by controllers/papers/access.py; every
instance comes from numpy.random.default_rng of the seed named in its row.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from controllers import access_chain
from controllers.networked import (
    ROUNDING,
    Neighbours,
    Network,
    action_value_table,
    brute_force,
    decay_bound,
    differences,
    distances,
    factor_per_hop,
    gradient,
    grid,
    interaction,
    largest_difference,
    line,
    pair_law,
    random_network,
    solve,
    truncated,
    with_logits,
)
from controllers.papers import Row, write_csv
from controllers.scalable_ac import aloha_policy
from twin.worlds.access import Grid, on_grid

LINE_AGENTS = 10  # appendix B.4
WEAK = 0.3  # coupling at which random lines satisfy the condition of Theorem 1
GAMMA = 0.9  # of Corollary 1's check
ALOHA_SENDS = np.arange(1, 21) / 20  # the send probabilities ALOHA is tuned over
Small = tuple[Literal["interior", "all"], int, int]  # corners, height, width
SMALL: tuple[Small, ...] = (  # the last two take minutes
    ("interior", 2, 2),
    ("all", 1, 3),
    ("interior", 2, 3),
    ("all", 2, 2),
)
STEPS = 300  # of ascent
WAYS = ("uniform", "aloha", "kappa_0", "kappa_1", "contention_1", "best")


def rows(quick: bool, out: Path, say: Callable[[str], None]) -> list[Row]:
    """All rows in the order of the page, tables and figures into `out`; quick: under a minute on one core."""
    found = [*brute_rows(8 if quick else 50)]
    say(f"brute force: largest error {found[0].value:.1e}")
    found += decay_rows(100, 24, out)
    say(f"decay: {found[4].value:.3f} per hop on lines")
    found += bound_rows(50)
    found += gradient_rows(10 if quick else 50)
    say("bounds and gradients checked")
    found += policy_rows(5, out, SMALL[:2] if quick else SMALL)
    say("small access networks solved")
    return found


# ---- Q1: exact values


def brute_rows(n_instances: int) -> list[Row]:
    """Exact values of 4-node lines against the chain over all 1296 states and actions."""
    worst = 0.0
    for seed in range(n_instances):
        network = random_network(line(4), np.random.default_rng(seed))
        for gamma in (1.0, GAMMA):
            solution = solve(network, gamma=gamma)
            average, table = brute_force(network, gamma)
            mine = [action_value_table(network, solution, i) for i in range(4)]
            worst = max(worst, np.abs(average - solution.average_reward).max(), np.abs(np.array(mine) - table).max())
    source = f"4-node lines, seeds 0 to {n_instances - 1}, average reward and gamma {GAMMA}, all 6^4 pairs, all agents"
    return [Row("Q1_exact_values_against_brute_force", float(worst), None, "<= 1e-10", bool(worst <= 1e-10), source)]


# ---- Q2, and appendix B.4: decay with distance


def random_pair(network: Network, rng: np.random.Generator) -> tuple:
    """z and z' of definition 1, each states (n,) and actions (n,): z uniform, z' different from it in every entry."""
    states, actions = (rng.integers(0, sizes) for sizes in (network.n_states, network.n_actions))
    other = (states + 1) % network.n_states, (actions + 1) % network.n_actions
    return (states, actions), other


def decays(neighbours: Neighbours, n_instances: int) -> tuple[np.ndarray, float, float, float]:
    """Left sides of (4) of agent 0 (n_instances, n_kappa), largest residual, largest |J - stationary J|, seconds."""
    lefts, residual, off, begun = [], 0.0, 0.0, time.perf_counter()
    for seed in range(n_instances):
        rng = np.random.default_rng(seed)
        network = random_network(neighbours, rng)
        solution = solve(network, [0])
        lefts.append(differences(network, solution, 0, *random_pair(network, rng)))
        own = solution.stationary.reshape(network.n_states[0], -1).sum(1)
        off = max(off, abs(own @ (network.policy[0] * network.reward[0]).sum(1) - solution.average_reward[0]))
        residual = max(residual, solution.residual)
    return np.array(lefts), residual, float(off), time.perf_counter() - begun


def decay_rows(n_lines: int, n_grids: int, out: Path) -> list[Row]:
    """Figure 3: the line of 10 and the 2 x 6 grid, with its tables."""
    solve(random_network(line(2), np.random.default_rng(0)))  # imports are not part of a measured time
    lefts, residual, off, seconds = decays(line(LINE_AGENTS), n_lines)
    of_grid, grid_residual, grid_off, grid_seconds = decays(grid(2, 6), n_grids)
    residual, off = max(residual, grid_residual), max(off, grid_off)
    factors, grid_factors = (np.array([factor_per_hop(left) for left in part]) for part in (lefts, of_grid))
    median, grid_median = float(np.median(factors)), float(np.median(grid_factors))
    share = float((factors < 0.15).mean())
    thirty = 30.0 * seconds / n_lines
    for name, part in (("line", lefts), ("grid", of_grid)):
        write_csv(
            out / f"decay-{name}.csv",
            ("kappa", "p10", "median", "p90", "n_above_1e_13"),
            zip(*bands(part), strict=True),
        )
    draw(lefts, of_grid, out / "decay.png")
    where = f"{n_lines} lines of {LINE_AGENTS}, |S| = 2, |A| = 3, seeds 0 to {n_lines - 1}"
    both = f"{where}; {n_grids} 2 x 6 grids"
    spread = f"{where}; interval: 10 and 90 % of instances; z' differs from z in every entry"
    return [
        Row("Q1_poisson_residual", residual, None, "< 1e-10", residual < 1e-10, both),
        Row("Q1_average_reward_against_stationary_law", off, None, "<= 1e-12", off <= 1e-12, both),
        Row("Q2_thirty_lines_seconds", thirty, None, "< 15", thirty < 15.0, f"{where}, scaled to 30"),
        Row(
            "Q2_decay_factor_per_hop",
            median,
            _tenths(factors),
            "median in [0.04, 0.15]",
            0.04 <= median <= 0.15,
            spread,
        ),
        Row("decay_factor_below_0.15", share, None, ">= 0.9 of 100 random lines", share >= 0.9, spread),
        Row(
            "decay_factor_per_hop_grid",
            grid_median,
            _tenths(grid_factors),
            "< 0.15, as on the line",
            grid_median < 0.15,
            f"{n_grids} 2 x 6 grids, corner agent, seeds 0 to {n_grids - 1}, {grid_seconds:.1f} s",
        ),
    ]


def _tenths(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (10, 90))
    return float(low), float(high)


def bands(lefts: np.ndarray) -> tuple[Sequence, ...]:
    """kappa, 10 %, median, 90 % of the instances, and how many are above rounding; NaN where it is not most of them."""
    clear = lefts > ROUNDING
    shown = np.where(clear.mean(0) > 0.5, np.percentile(lefts, (10, 50, 90), axis=0), np.nan)
    shown[shown < ROUNDING] = np.nan
    return (range(lefts.shape[1]), *shown, clear.sum(0))


def draw(lefts: np.ndarray, of_grid: np.ndarray, path: Path) -> None:
    """Figure 3 of the paper as PNG: median, and the band from 10 to 90 %, against kappa."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.0), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    titles = (f"line of {LINE_AGENTS}, left end", "2 x 6 grid, corner")
    for panel, part, title in zip(figure.subplots(1, 2, sharey=True), (lefts, of_grid), titles):
        kappa, low, median, high, _ = bands(part)
        panel.fill_between(kappa, np.where(np.isnan(low), ROUNDING, low), high, alpha=0.25, linewidth=0)
        panel.plot(kappa, median, marker="o", markersize=4, linewidth=1.2)
        panel.set_yscale("log")
        panel.set_ylim(bottom=ROUNDING)
        panel.set_xlabel("kappa, hops")
        panel.set_title(f"{title}, {len(part)} instances", fontsize=10)
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("|Q(z) - Q(z')|")
    figure.savefig(path)


# ---- Q3: the bounds


def bound_rows(n_instances: int) -> list[Row]:
    """Theorem 1 and Corollary 1 where their condition holds: lines of 10 at drawn pairs, lines of 4 at all pairs."""
    strengths, found = [], []
    for gamma in (1.0, GAMMA):
        ratios = []
        for seed in range(n_instances):
            rng = np.random.default_rng(seed)
            long, short = (random_network(line(n), rng, coupling=WEAK) for n in (LINE_AGENTS, 4))
            strengths += [interaction(network).sum(1).max() for network in (long, short)]
            c, rho = decay_bound(long, gamma)
            lefts = differences(long, solve(long, [0], gamma), 0, *random_pair(long, rng))
            ratios += list(lefts / (c * rho ** np.arange(1, len(lefts) + 1)))
            c, rho = decay_bound(short, gamma)
            solution = solve(short, gamma=gamma)
            tables = [action_value_table(short, solution, i) for i in range(4)]
            for i, kappa in np.ndindex(4, 3):
                ratios.append(largest_difference(short, tables[i], i, kappa) / (c * rho ** (kappa + 1)))
        name = "Q3_theorem_1" if gamma == 1.0 else "Q3_corollary_1"
        broken = sum(ratio > 1.0 for ratio in ratios)
        source = (
            f"{n_instances} lines of {LINE_AGENTS} at drawn pairs, {n_instances} of 4 at all pairs of all agents, "
            f"coupling {WEAK}, row sums of C up to {max(strengths):.2f}, gamma {gamma}: {len(ratios)} values of (4)"
        )
        found += [
            Row(f"{name}_violations", float(broken), None, "0", broken == 0 and max(strengths) < 1.0, source),
            Row(f"{name}_largest_share_of_bound", float(max(ratios)), None, "<= 1", max(ratios) <= 1.0, source),
        ]
    return found


# ---- Q4: the gradient


def difference_gradient(network: Network, step: float = 1e-5) -> list[np.ndarray]:
    """The gradient of J with respect to softmax tables by central differences."""
    logits = [np.log(policy) for policy in network.policy]
    found = []
    for i, theta in enumerate(logits):
        slope = np.empty_like(theta)
        for entry in np.ndindex(theta.shape):
            ends = []
            for sign in (1.0, -1.0):
                moved = [table.copy() for table in logits]
                moved[i][entry] += sign * step
                ends.append(solve(with_logits(network, moved)).average_reward.mean())
            slope[entry] = (ends[0] - ends[1]) / (2.0 * step)
        found.append(slope)
    return found


def gradient_errors(network: Network) -> np.ndarray:
    """(n,) norms of (7) minus the exact gradient, for kappa = 0 to n - 1."""
    solution = solve(network)
    exact = np.concatenate([part.ravel() for part in gradient(network, solution)])
    seen = [gradient(network, solution, kappa) for kappa in range(network.n_agents)]
    return np.array([np.linalg.norm(np.concatenate([part.ravel() for part in parts]) - exact) for parts in seen])


def leftover_terms(network: Network, rng: np.random.Generator) -> float:
    """Largest |E[Qt_j grad log zeta_i]| over j more than kappa hops from i: 0 whatever the weights of (5)."""
    solution, n = solve(network), network.n_agents
    law = pair_law(network, solution)
    hops, worst = distances(network.neighbours), 0.0
    for j in range(n):
        table = action_value_table(network, solution, j)
        for kappa in range(n):
            for weights in (law, np.ones_like(law), rng.random(law.shape)):
                short = truncated(network, table, j, kappa, weights)
                for i in np.flatnonzero(hops[j] > kappa):
                    others = tuple(axis for axis in range(2 * n) if axis not in (i, n + i))
                    value = (law * short).sum(others)
                    term = value - network.policy[i] * value.sum(1, keepdims=True)
                    worst = max(worst, float(np.abs(term).max()))
    return worst


def gradient_rows(n_instances: int) -> list[Row]:
    """(7) against finite differences, its error against kappa, and the terms that vanish, on 4-node lines."""
    slopes, ratios, leftover = 0.0, [], 0.0
    for seed in range(n_instances):
        rng = np.random.default_rng(seed)
        network = random_network(line(4), rng)
        solution = solve(network)
        if seed < 3:
            exact, slope = gradient(network, solution, 3), difference_gradient(network)
            largest = max(np.abs(part).max() for part in exact)
            slopes = max(slopes, max(np.abs(a - b).max() for a, b in zip(exact, slope)) / largest)
            leftover = max(leftover, leftover_terms(network, rng))
        tables = [action_value_table(network, solution, j) for j in range(4)]
        gaps = [max(largest_difference(network, tables[j], j, kappa) for j in range(4)) for kappa in range(3)]
        ratios.append(factor_per_hop(gradient_errors(network)[:3]) / factor_per_hop(np.array(gaps)))
    lines = f"4-node lines, seeds 0 to {n_instances - 1}"
    slower = sum(ratio > 1.0 for ratio in ratios)
    return [
        Row(
            "Q4_gradient_against_differences",
            float(slopes),
            None,
            "<= 1e-4 of the largest entry",
            bool(slopes <= 1e-4),
            "(7) with kappa = 3, 4-node lines, seeds 0 to 2, all entries, central differences of J with step 1e-5",
        ),
        Row(
            "Q4_gradient_error_falls_with_kappa",
            float(np.median(ratios)),
            (float(min(ratios)), float(max(ratios))),
            "factor per hop <= that of the largest |Q(z) - Q(z')|, all instances: ratio <= 1",
            slower == 0,
            f"{lines}; ratio of the two fitted factors, median and range; above 1 in {slower}",
        ),
        Row(
            "Q4_terms_beyond_kappa",
            leftover,
            None,
            "<= 1e-12",
            leftover <= 1e-12,
            "4-node lines, seeds 0 to 2, every i, j, kappa; weights of (5) stationary, equal, random",
        ),
    ]


# ---- small access networks: what a local policy can earn, and what a view of kappa hops costs


def policy_rows(
    n_instances: int, out: Path, networks: Sequence[tuple[Literal["interior", "all"], int, int]]
) -> list[Row]:
    """Exact rewards of the uniform policy, tuned ALOHA, the ends of ascent along (7), and the best policy found."""
    table = []
    for corners, height, width in networks:
        for seed in range(n_instances):
            access = on_grid(Grid(height=height, width=width, corners=corners, instance=seed))
            table.append((corners, height, width, seed, *policy_levels(access, seed)))
    write_csv(out / "access-small.csv", ("corners", "height", "width", "instance", *WAYS, "at_rest"), table)
    found = []
    for corners in ("interior", "all"):
        part = np.array([row[4:10] for row in table if row[0] == corners])
        alone, ball, contention, best = part.T[2:]
        ratio, to_best, to_ball = ball / alone, ball / best, contention / ball
        where = f"{sum(c == corners for c, *_ in networks)} graphs of 3 to 6 users, instances 0 to {n_instances - 1}"
        goal = "> 1 in every instance" if corners == "interior" else ">= 0.999 in every instance"
        bar = ratio.min() > 1.0 if corners == "interior" else ratio.min() >= 0.999
        source = (
            f"corners = {corners}: {where}; ascent along (7) without errors from the uniform policy; median and range"
        )
        found += [
            Row(f"exact_kappa_1_over_kappa_0_{corners}", *_middle(ratio), goal, bool(bar), source),
            Row(
                f"exact_kappa_1_of_best_{corners}",
                *_middle(to_best),
                ">= 0.99 in every instance",
                bool(to_best.min() >= 0.99),
                source,
            ),
            Row(
                f"exact_contention_over_ball_{corners}",
                *_middle(to_ball),
                ">= 0.99 in every instance",
                bool(to_ball.min() >= 0.99),
                f"{source}; kappa 1, critics that read the contention against critics that read the ball",
            ),
        ]
    return found


def policy_levels(access: access_chain.Instance, seed: int) -> tuple[float, float, float, float, float, float, bool]:
    """Mean rewards in the order of WAYS, and whether both ascents came to rest."""

    def level(policy: np.ndarray) -> float:
        return float(access_chain.earned(access, policy).average_reward.mean())

    ends = [access_chain.ascend(access, kappa, steps=STEPS) for kappa in (0, 1)]
    read = access_chain.ascend(access, 1, steps=STEPS, terms=access_chain.contention_terms)[0]
    best, _ = access_chain.best_local(access, 2, np.random.default_rng(seed), steps=STEPS)
    best = max(best, read, *(end[0] for end in ends))
    aloha = max(level(aloha_policy(access.access_point, access.success, send, 4)) for send in ALOHA_SENDS)
    uniform = level(access_chain.uniform(access))
    return uniform, aloha, ends[0][0], ends[1][0], read, best, ends[0][2] and ends[1][2]


def _middle(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    return float(np.median(values)), (float(values.min()), float(values.max()))
