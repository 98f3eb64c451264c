"""The pricing game's exact part: the closed forms of controllers/stackelberg.py held against grids and scipy.

Statements S1 to S6 and figure E1 of docs/papers/d2d.md, as functions that the tests and `rows` call. Prices and powers
are judged by the two utilities as they are defined, on grids, by golden section, by scipy; nothing uses the appendix'
derivatives but `as_printed`, which is the appendix' own rule.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from controllers.papers import Row, plotting, write_csv
from controllers.stackelberg import (
    MOST_ROUNDS,
    best_power,
    best_price,
    equilibrium,
    powers,
    price_case,
    price_range,
    settle,
    spectral_radius,
    stage_of,
)
from twin.worlds.d2d import Game, follower_utility, leader_utility

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
SECTIONS = 60  # of golden section: the bracket shrinks to 3e-13 of itself
POWER_GRID, PRICE_GRID, SCAN = 2001, 4001, 401


class Draws(NamedTuple):
    """Games of one pair on one channel, all (n,), power_w (n, 2); names and units of controllers.stackelberg."""

    cellular_snr: np.ndarray
    interference_gain: np.ndarray
    direct_gain: np.ndarray
    interference: np.ndarray
    received: np.ndarray
    leader_weight: np.ndarray
    follower_weight: np.ndarray
    power_w: np.ndarray

    def at(self, rows: Any) -> "Draws":
        """Some of the games."""
        return Draws(*(field[rows] for field in self))

    @property
    def case(self) -> np.ndarray:
        """Number of the appendix' case."""
        return price_case(*self[:5])

    @property
    def prices(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest price."""
        return price_range(*self[1:4], self.follower_weight, self.power_w)

    def answer(self, price: np.ndarray) -> np.ndarray:
        """The pair's best power in closed form."""
        return best_power(price, *self[1:4], self.follower_weight, self.power_w)

    def best(self) -> np.ndarray:
        """The leader's best price in closed form."""
        return best_price(*self)


def follower(draws: Draws, price: np.ndarray, power_w: np.ndarray) -> np.ndarray:
    """U^f of one pair, bit/s/Hz: rate less weighted payment. Draws may have a trailing axis of 1, see `columns`."""
    rate = np.log1p(draws.direct_gain * power_w / (1.0 + draws.interference)) / math.log(2.0)
    return rate - draws.follower_weight * price * power_w * draws.interference_gain


def leader(draws: Draws, price: np.ndarray, power_w: np.ndarray) -> np.ndarray:
    """U^l of one channel, bit/s/Hz: weighted payment and the cellular user's rate."""
    brought = power_w * draws.interference_gain
    rate = np.log2(1.0 + draws.cellular_snr / (1.0 + draws.received + brought))
    return draws.leader_weight * price * brought + rate


def columns(draws: Draws) -> Draws:
    """The same with an axis of 1 behind each game, to stand against a grid."""
    return Draws(*(field[:, None] for field in draws))


def draw(n: int, seed: int) -> Draws:
    """Random games of every case and boundary; `counts` says how many of each.

    A tenth each: D = 0 without rounding; A + D = 0 without rounding where D < 0; powers in a narrow range; case 4 with
    a maximum and a minimum of the leader's utility. The rest is spread over decades.
    """
    rng = np.random.default_rng([seed, 31])

    def decades(low: float, high: float) -> np.ndarray:
        return 10.0 ** rng.uniform(low, high, n)

    cellular_snr, interference_gain, direct_gain = decades(-0.5, 2.5), decades(-1.0, 1.5), decades(-0.5, 2.0)
    interference, received = decades(-2.0, 1.5), np.where(rng.random(n) < 0.5, 0.0, decades(-2.0, 1.5))
    leader_weight, follower_weight = decades(-0.7, 0.7), decades(-0.7, 0.7)
    lowest_w = decades(-3.0, -0.5)
    kind = rng.integers(0, 10, n)
    highest_w = lowest_w * np.where(kind == 2, rng.uniform(1.1, 2.0, n), decades(0.7, 3.5))
    # kind 0: with powers of two the sum D = 1 + received + C cancels without rounding
    two = 2.0 ** rng.integers(-3, 4, (3, n))
    dyadic = kind == 0
    interference = np.where(dyadic, np.maximum(two[0], 1.0) * 2.0 - 1.0, interference)
    received = np.where(dyadic, np.maximum(two[1], 1.0) - 1.0, received)
    interference_gain = np.where(dyadic, two[2], interference_gain)
    direct_gain = np.where(dyadic, (interference + 1.0) * interference_gain / (received + 1.0), direct_gain)
    # kind 1: where D < 0 the cellular user's SNR is made -D
    minus_d = (interference + 1.0) * interference_gain / direct_gain - (1.0 + received)
    cellular_snr = np.where((kind == 1) & (minus_d > 0.0), minus_d, cellular_snr)
    # kind 3: both roots of the slope are real and positive for |D| < A / 2 and beta_l |C| / (beta_f A) between
    # 4 |D| (A + D) / A^2 and 1; where the lowest power is no small part of |C| / g_jB the inner maximum can be the best
    d = -cellular_snr * rng.uniform(0.01, 0.45, n)
    bend = (interference + 1.0) * interference_gain / (1.0 + received - d)
    direct_gain = np.where(kind == 3, bend, direct_gain)
    within = (-4.0 * d * (cellular_snr + d) / cellular_snr**2) ** rng.random(n)
    weight = follower_weight * cellular_snr * within / (1.0 + received - d)
    leader_weight = np.where(kind == 3, weight, leader_weight)
    low_w = (1.0 + received - d) / interference_gain * decades(-1.5, 0.5)
    lowest_w, highest_w = (np.where(kind == 3, w, other) for w, other in ((low_w, lowest_w), (1e3 * low_w, highest_w)))
    gains = cellular_snr, interference_gain, direct_gain, interference, received
    return Draws(*gains, leader_weight, follower_weight, np.stack([lowest_w, highest_w], 1))


def golden(f: Callable, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where f is largest between low and high, elementwise, by golden section; exact for one maximum."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    f_left, f_right = f(left), f(right)
    for _ in range(SECTIONS):
        up = f_right > f_left
        low, high = np.where(up, left, low), np.where(up, high, right)
        new = np.where(up, low + GOLDEN * (high - low), high - GOLDEN * (high - low))
        f_new = f(new)
        left, right = np.where(up, right, new), np.where(up, new, left)
        f_left, f_right = np.where(up, f_right, f_new), np.where(up, f_new, f_left)
    return 0.5 * (low + high)


def best_of_grid(f: Callable, low: np.ndarray, high: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Where f is largest on an even grid of each game, refined by golden section between its neighbours, (n,) each.

    f  takes (n, points), games first

    Returns (the grid's best, the refined one or an end of the grid, whichever is best).
    """
    step = (high - low) / (points - 1)
    grid = np.minimum(low[:, None] + step[:, None] * np.arange(points), high[:, None])
    value = f(grid)
    rows, best = np.arange(low.size), np.argmax(value, 1)
    at = grid[rows, best]
    fine = golden(lambda x: f(x[:, None])[:, 0], np.maximum(at - step, low), np.minimum(at + step, high))
    return at, np.where(f(fine[:, None])[:, 0] >= value[rows, best], fine, at)


def share(found: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Difference relative to the value, or to 1 where that is smaller."""
    return (found - other) / np.maximum(1.0, np.abs(other))


def mixed_prices(draws: Draws, seed: int) -> np.ndarray:
    """One price per game to ask a pair: below, in and above its range, and each tenth exactly an end of it."""
    rng = np.random.default_rng([seed, 32])
    lowest, highest = draws.prices
    price = lowest * (highest / lowest) ** rng.uniform(-0.3, 1.3, lowest.size)
    kind = rng.integers(0, 10, lowest.size)
    return np.where(kind == 0, lowest, np.where(kind == 1, highest, price))


def parts(n: int) -> list[slice]:
    """Some hundred games at a time: a grid for each of 10,000 would take gigabytes."""
    return [slice(first, min(first + 500, n)) for first in range(0, n, 500)]


# ---- S1 to S5, one pair


def s1_gap(n: int, seed: int = 1) -> float:
    """Largest relative gap of U^f between the closed-form power and a refined 2001-point grid, in either direction."""
    every, gap = draw(n, seed), 0.0
    prices = mixed_prices(every, seed)
    for rows in parts(n):
        draws, price = every.at(rows), prices[rows]
        best = follower(draws, price, draws.answer(price))
        gap = max(gap, float(np.abs(share(best, follower(draws, price, _searched_power(draws, price)))).max()))
    return gap


def s2_gap(n: int, seed: int = 2, points: int = 201) -> dict[int, float]:
    """Largest relative gap of U^l by case, the price searched on a refined grid, the pair's answer too by search."""
    every, gap = draw(n, seed), np.empty(n)
    for rows in parts(n):
        draws = every.at(rows)
        grid_of = columns(draws)

        def game(price: np.ndarray, draws: Draws = draws, grid_of: Draws = grid_of) -> np.ndarray:
            low_w, high_w = (np.broadcast_to(draws.power_w[:, [k]], price.shape) for k in (0, 1))
            return leader(grid_of, price, golden(lambda p: follower(grid_of, price, p), low_w, high_w))

        low, high = draws.prices
        _, fine = best_of_grid(game, low, high, points)
        best = leader(draws, draws.best(), draws.answer(draws.best()))
        gap[rows] = np.abs(share(best, game(fine[:, None])[:, 0]))
    return {case: float(gap[every.case == case].max(initial=0.0)) for case in range(1, 6)}


def s3_gains(n: int, seed: int = 3) -> tuple[float, float]:
    """Largest relative gain by leaving the equilibrium: a pair's in power, the leader's on 4001 prices."""
    every, pair, base = draw(n, seed), -math.inf, -math.inf
    for rows in parts(n):
        draws = every.at(rows)
        price = draws.best()
        power_w, grid_of = draws.answer(price), columns(draws)
        gain = share(follower(draws, price, _searched_power(draws, price)), follower(draws, price, power_w))
        low, high = draws.prices
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, PRICE_GRID)
        values = leader(grid_of, grid, grid_of.answer(grid))
        pair = max(pair, float(gain.max()))
        base = max(base, float(share(values.max(1), leader(draws, price, power_w)).max()))
    return pair, base


def _searched_power(draws: Draws, price: np.ndarray) -> np.ndarray:
    """Each pair's best power by a refined grid."""
    grid_of, low_w, high_w = columns(draws), draws.power_w[:, 0], draws.power_w[:, 1]
    return best_of_grid(lambda p: follower(grid_of, price[:, None], p), low_w, high_w, POWER_GRID)[1]


def s4_breaches(n: int, seed: int = 4) -> tuple[int, float]:
    """How often a power rises with price, interference or weight, or a payment does not fall; error of B + alpha C."""
    draws = draw(n, seed)
    low, high = draws.prices
    rng = np.random.default_rng([seed, 33])
    price = np.sort(low * (high / low) ** rng.uniform(-0.2, 1.2, (2, n)), 0)
    more = 1.0 + rng.exponential(0.5, n)
    power_w = draws.answer(price[0])
    breaches = np.sum(draws.answer(price[1]) > power_w)
    breaches += np.sum(draws._replace(interference=draws.interference * more).answer(price[0]) > power_w)
    breaches += np.sum(draws._replace(follower_weight=draws.follower_weight * more).answer(price[0]) > power_w)
    inside = low * (high / low) ** np.sort(rng.uniform(0.001, 0.999, (2, n)), 0)
    paid = inside * draws.answer(inside) * draws.interference_gain
    breaches += np.sum(paid[1] >= paid[0])
    b = 1.0 / (draws.follower_weight * math.log(2.0))
    c = -(draws.interference + 1.0) * draws.interference_gain / draws.direct_gain
    return int(breaches), float(np.abs((paid - b - inside * c) / b).max())


def s5_jump(n: int, seed: int = 5) -> float:
    """Largest relative jump of U^l at the best price as D goes from -1e-9 over 0 to 1e-9."""
    draws = draw(n, seed)
    value = []
    for d in (-1e-9, 0.0, 1e-9):
        through = (draws.interference + 1.0) * draws.interference_gain / (1.0 + draws.received - d)  # g with that D
        near = draws._replace(direct_gain=through)
        value.append(leader(near, near.best(), near.answer(near.best())))
    return float(np.abs(share(np.array(value), value[1])).max())


# ---- 10,000 games of every kind: grid and scipy


class Compared(NamedTuple):
    """Best responses against a grid and scipy, the largest over all games.

    power_steps, price_steps      from the grid's best, grid steps
    power_scipy, price_scipy      relative difference from scipy's root of the slope, or the better end
    power_utility, price_utility  relative gap of utility from scipy's bounded minimiser, in either direction
    twins                         games whose two best prices, an inner one and the end, the grid cannot tell apart
    counts                        games of each kind
    """

    power_steps: float
    price_steps: float
    power_scipy: float
    price_scipy: float
    power_utility: float
    price_utility: float
    twins: int
    counts: dict[str, int]


def counts(draws: Draws, price: np.ndarray) -> dict[str, int]:
    """How many games of each kind there are."""
    case, best = draws.case, draws.best()
    (low, high), power_w = draws.prices, draws.answer(price)
    d = 1.0 + draws.received - (draws.interference + 1.0) * draws.interference_gain / draws.direct_gain
    inside = (best > low) & (best < high)
    kinds = {f"case {k}": case == k for k in range(1, 6)}
    kinds |= {"D = 0 exactly": d == 0.0, "A + D = 0 exactly": draws.cellular_snr + d == 0.0}
    kinds |= {"lowest price": best == low, "price inside": inside, "highest price": best == high}
    kinds |= {"case 4, price inside": inside & (case == 4), "case 4, no root": (case == 4) & (_delta(draws) < 0.0)}
    kinds |= {"lowest power": power_w == draws.power_w[:, 0], "highest power": power_w == draws.power_w[:, 1]}
    return {kind: int(np.sum(which)) for kind, which in kinds.items()}


def compare(n: int, seed: int = 6) -> Compared:
    """Both best responses of n games against an even grid and against scipy.optimize.

    Prices and powers are compared with the root that brentq finds of the slope of the utility, which is sharp where
    the maximum itself is flat: a minimiser knows the place of a maximum to the root of the rounding only, so it is
    asked for the utility. The leader's slope is that of U^l(alpha, p*(alpha)) by the chain rule; its sign is looked at
    on 401 points first, and of all roots with falling sign and both ends the one with the highest U^l is taken.
    """
    from scipy.optimize import brentq, minimize_scalar

    draws = draw(n, seed)
    asked, (low, high) = mixed_prices(draws, seed), draws.prices
    best, answer_w = draws.best(), draws.answer(asked)
    on_grid_w, on_grid = np.empty(n), np.empty(n)
    for rows in parts(n):
        part = draws.at(rows)
        every, price = columns(part), asked[rows]
        on_grid_w[rows] = _argmax(
            lambda p, e=every, a=price: follower(e, a[:, None], p), part.power_w[:, 0], part.power_w[:, 1], POWER_GRID
        )
        on_grid[rows] = _argmax(lambda a, e=every: leader(e, a, e.answer(a)), low[rows], high[rows], PRICE_GRID)
    power_steps = np.abs(answer_w - on_grid_w) / ((draws.power_w[:, 1] - draws.power_w[:, 0]) / (POWER_GRID - 1))
    price_steps = np.abs(best - on_grid) / ((high - low) / (PRICE_GRID - 1))
    # far from the grid's best, yet at least as good: two maxima that differ by less than the grid's own coarseness
    at_best, at_grid = (leader(draws, price, draws.answer(price)) for price in (best, on_grid))
    twins = (price_steps > 1.0) & (at_best >= at_grid) & (share(at_best, at_grid) < 1e-5)

    scan = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, SCAN)
    falls = np.diff(np.sign(_slope(columns(draws), scan)), axis=1) < 0
    power_scipy, price_scipy, power_utility, price_utility = np.zeros((4, n))
    for k in range(n):
        one: Any = Draws._make([*(float(field[k]) for field in draws[:7]), draws.power_w[k]])
        a, (low_w, high_w) = float(asked[k]), map(float, draws.power_w[k])

        def of_power(p: float, one: Any = one, a: float = a) -> float:
            ratio = one.direct_gain / (1.0 + one.interference)
            return ratio / (math.log(2.0) * (1.0 + ratio * p)) - one.follower_weight * a * one.interference_gain

        if of_power(low_w) > 0.0 > of_power(high_w):
            root_w = brentq(of_power, low_w, high_w, xtol=1e-300, rtol=1e-15)
        else:
            root_w = high_w if of_power(high_w) >= 0.0 else low_w
        power_scipy[k] = abs(answer_w[k] - root_w) / root_w
        found = minimize_scalar(
            lambda p, o=one, a=a: -_follower(o, a, p), bounds=(low_w, high_w), method="bounded", options=_TIGHT
        )
        top = max(-found.fun, _follower(one, a, low_w), _follower(one, a, high_w))
        power_utility[k] = abs(_follower(one, a, float(answer_w[k])) - top) / max(1.0, abs(top))

        candidates = [float(low[k]), float(high[k])]
        for m in np.flatnonzero(falls[k]):
            candidates.append(
                brentq(lambda a, o=one: _slope(o, a), scan[k, m], scan[k, m + 1], xtol=1e-300, rtol=1e-15)
            )
        utilities = [_leader(one, a) for a in candidates]
        root = candidates[int(np.argmax(utilities))]
        price_scipy[k] = abs(best[k] - root) / root
        step = (high[k] - low[k]) / (PRICE_GRID - 1)
        near = max(on_grid[k] - step, low[k]), min(on_grid[k] + step, high[k])
        found = minimize_scalar(lambda a, o=one: -_leader(o, a), bounds=near, method="bounded", options=_TIGHT)
        top = max(-found.fun, utilities[0], utilities[1])
        price_utility[k] = abs(_leader(one, float(best[k])) - top) / max(1.0, abs(top))
    return Compared(
        float(power_steps.max()),
        float(price_steps[~twins].max()),
        float(power_scipy.max()),
        float(price_scipy.max()),
        float(power_utility.max()),
        float(price_utility.max()),
        int(twins.sum()),
        counts(draws, asked),
    )


_TIGHT = {"xatol": 1e-12, "maxiter": 200}


def _argmax(f: Callable, low: np.ndarray, high: np.ndarray, points: int) -> np.ndarray:
    grid = np.minimum(low[:, None] + ((high - low) / (points - 1))[:, None] * np.arange(points), high[:, None])
    return grid[np.arange(low.size), np.argmax(f(grid), 1)]


def _slope(draws: Any, price: Any) -> Any:
    """dU^l / d alpha along the pair's answer, by the chain rule on the utility as it is defined."""
    worth = 1.0 / (draws.follower_weight * math.log(2.0) * draws.interference_gain)
    power_w, change = worth / price - (1.0 + draws.interference) / draws.direct_gain, -worth / price**2
    around = 1.0 + draws.received + power_w * draws.interference_gain
    of_rate = -draws.cellular_snr / (math.log(2.0) * around * (around + draws.cellular_snr))
    return draws.interference_gain * (draws.leader_weight * (power_w + price * change) + of_rate * change)


def _follower(one: Any, price: float, power_w: float) -> float:
    rate = math.log2(1.0 + one.direct_gain * power_w / (1.0 + one.interference))
    return rate - one.follower_weight * price * power_w * one.interference_gain


def _leader(one: Any, price: float) -> float:
    worth = 1.0 / (one.follower_weight * math.log(2.0) * one.interference_gain)
    brought = (worth / price - (1.0 + one.interference) / one.direct_gain) * one.interference_gain
    rate = math.log2(1.0 + one.cellular_snr / (1.0 + one.received + brought))
    return one.leader_weight * price * brought + rate


# ---- the appendix' rule as it is printed


def _abcd(draws: Draws) -> tuple[np.ndarray, ...]:
    b = 1.0 / (draws.follower_weight * math.log(2.0))
    c = -(draws.interference + 1.0) * draws.interference_gain / draws.direct_gain
    return draws.cellular_snr, b, c, 1.0 + draws.received + c


def _delta(draws: Draws) -> np.ndarray:
    a, b, c, d = _abcd(draws)
    return a**2 * b**2 * (1.0 - 4.0 * draws.follower_weight / (draws.leader_weight * c) * (d**2 / a + d))


def as_printed(draws: Draws) -> np.ndarray:
    """The price by (29), (32) and the five cases to the letter; a candidate out of range goes to the nearer end.

    In case 4 the root has the minus sign and the lowest price is no candidate; without a real root the highest is left.
    """
    a, b, c, d = _abcd(draws)
    low, high = draws.prices
    case, by_29 = draws.case, -b / a - draws.follower_weight * b / (draws.leader_weight * c)
    with np.errstate(divide="ignore", invalid="ignore"):
        sign = np.where(case == 4, -1.0, 1.0)
        root = (-b * (2.0 * d + a) + sign * np.sqrt(_delta(draws))) / (2.0 * d * (d + a))
    inner = np.where(case == 1, by_29, np.where((case == 2) | (case == 5) | np.isnan(root), high, root))
    inner = np.clip(inner, low, high)
    candidates = np.stack([np.where(case == 4, inner, low), inner, high])
    best = np.argmax([leader(draws, price, draws.answer(price)) for price in candidates], 0)
    return candidates[best, np.arange(low.size)]


class Printed(NamedTuple):
    """games, and failures by more than 1e-6 relative, of each case; mean loss of U^l in the failures, bit/s/Hz."""

    games: dict[int, int]
    failures: dict[int, int]
    mean_loss: float


def judge_printed(n: int, seed: int = 7) -> Printed:
    """How the printed rule fares against the corrected one."""
    draws = draw(n, seed)
    right, wrong = (leader(draws, price, draws.answer(price)) for price in (draws.best(), as_printed(draws)))
    fails, case = share(right, wrong) > 1e-6, draws.case
    games, failures = ({k: int(np.sum(which & (case == k))) for k in range(1, 6)} for which in (case > 0, fails))
    return Printed(games, failures, float((right - wrong)[fails].mean()) if fails.any() else 0.0)


# ---- S6, several pairs


def crowd(n_pairs: int, n_channels: int, rng: np.random.Generator) -> Game:
    """A random game of the specification's small kind: gains over a noise power of 0.05 W, powers from 0.01 to 2 W."""
    noise_w = 0.05
    cross = rng.uniform(0.05, 0.3, (n_pairs, n_pairs))
    np.fill_diagonal(cross, 0.0)
    return Game(
        cellular_snr=rng.exponential(2.0, n_channels) / noise_w,
        interference_gain=rng.uniform(0.1, 0.6, (n_pairs, n_channels)) / noise_w,
        direct_gain=rng.uniform(1.0, 4.0, n_pairs) / noise_w,
        cellular_interference=rng.uniform(0.02, 0.2, (n_pairs, n_channels)) / noise_w,
        cross_gain=cross / noise_w,
        power_w=np.array([0.01, 2.0]),
        leader_weight=1.0,
        follower_weight=1.0,
    )


class Nash(NamedTuple):
    """Over many games: largest difference between two starts, W; largest relative gain by a deviation; how slow."""

    apart_w: float
    gain: float
    rounds: int
    highest_radius: float
    clipped: int
    games: int


def s6_nash(n_games: int, seed: int = 8) -> Nash:
    """Powers at random prices from two random starts, where the spectral radius is below 1: one equilibrium, or not."""
    rng = np.random.default_rng([seed, 34])
    apart = gain = highest = 0.0
    rounds = clipped = games = 0
    while games < n_games:
        n_pairs = int(rng.integers(2, 6))
        game = crowd(n_pairs, 1, rng)
        channel = np.zeros(n_pairs, np.int64)
        game.cross_gain[:] *= 10.0 ** rng.uniform(0.0, 1.3)  # up to pairs that hardly have an equilibrium
        radius = spectral_radius(game, channel)
        if radius >= 0.99:
            continue
        price = 10.0 ** rng.uniform(-1.5, 1.0, (n_pairs, 1))
        both = [powers(game, price, channel, rng.uniform(game.power_w[0], game.power_w[1], n_pairs)) for _ in range(2)]
        power_w = both[0][0]
        games, highest, rounds = games + 1, max(highest, radius), max(rounds, both[0][1], both[1][1])
        apart = max(apart, float(np.abs(power_w - both[1][0]).max()))
        clipped += int(np.isin(power_w, game.power_w).any())
        gain = max(gain, deviation_gain(game, price, channel, power_w))
    return Nash(apart, gain, rounds, highest, clipped, games)


def deviation_gain(game: Game, price: np.ndarray, channel: np.ndarray, power_w: np.ndarray) -> float:
    """The most that one pair gains by another channel or power (2001 points), all others as they are; relative."""
    stays = follower_utility(game, price, channel, power_w)
    grid = np.linspace(game.power_w[0], game.power_w[1], POWER_GRID)
    most = -math.inf
    for j in range(channel.size):
        for i in range(game.cellular_snr.size):
            elsewhere = np.tile(channel, (POWER_GRID, 1))
            elsewhere[:, j] = i
            others = np.tile(power_w, (POWER_GRID, 1))
            others[:, j] = grid
            goes = follower_utility(game, price, elsewhere, others)[:, j].max()
            most = max(most, float((goes - stays[j]) / max(1.0, abs(stays[j]))))
    return most


class Loop(NamedTuple):
    """The frozen-interference loop against the leader's true optimum, per game."""

    ratio: np.ndarray
    rounds: np.ndarray


def s6_loop(n_games: int = 50, seed: int = 9) -> Loop:
    """Two pairs on one channel: the leader's utility after the loop over that of a search in both powers.

    A search in the two powers is one in the two prices: to any powers within bounds belong the prices
    B / (g_jB (p_j + (I_j + 1) / g_j)), each within its range, at which they are the Nash equilibrium, and no other
    price within the range gives that power. The search is an even grid in the logarithm of each power, 401 points a
    side, three times refined around its best point.
    """
    rng = np.random.default_rng([seed, 35])
    channel = np.zeros(2, np.int64)
    ratio, rounds = np.empty(n_games), np.empty(n_games, np.int64)
    for k in range(n_games):
        game = crowd(2, 1, rng)
        price, power_w = equilibrium(game, channel)
        rounds[k] = settle(stage_of(game), channel)[2]
        ratio[k] = leader_utility(game, price, channel, power_w) / best_of_two(game)
    return Loop(ratio, rounds)


def best_of_two(game: Game) -> float:
    """The leader's highest utility with two pairs on one channel, by search; see `s6_loop`."""
    b = 1.0 / (game.follower_weight * math.log(2.0))
    low, high = np.log(np.tile(game.power_w, (2, 1))).T
    points = 401
    for _ in range(4):
        axes = [np.linspace(low[j], high[j], points) for j in range(2)]
        p = np.exp(np.stack(np.meshgrid(*axes, indexing="ij")))
        heard = [game.cellular_interference[j, 0] + game.cross_gain[1 - j, j] * p[1 - j] for j in range(2)]
        paid = sum(b * p[j] / (p[j] + (heard[j] + 1.0) / game.direct_gain[j]) for j in range(2))
        around = 1.0 + game.interference_gain[0, 0] * p[0] + game.interference_gain[1, 0] * p[1]
        value = game.leader_weight * paid + np.log2(1.0 + game.cellular_snr[0] / around)
        best = np.unravel_index(np.argmax(value), value.shape)
        at, step = np.array([axes[j][best[j]] for j in range(2)]), (high - low) / (points - 1)
        low, high = (
            np.maximum(at - 2.0 * step, np.log(game.power_w[0])),
            np.minimum(at + 2.0 * step, np.log(game.power_w[1])),
        )
        points = 101
    return float(value.max())


# ---- figure E1


def panels() -> Draws:
    """One game for each case, in order; nobody else on the channel."""
    cellular_snr = np.array([30.0, 3.0, 30.0, 20.0, 2.0])
    interference_gain = np.array([2.0, 4.0, 2.0, 2.0, 8.0])
    direct_gain = np.array([2.0, 4.0, 10.0, 1.0, 2.0])
    interference = np.array([0.0, 3.0, 1.0, 1.0, 1.0])
    leader_weight = np.array([1.0, 1.0, 1.0, 3.2, 1.0])
    power_w = np.array([[0.02, 5.0], [0.02, 5.0], [0.02, 5.0], [0.4, 50.0], [0.02, 5.0]])
    gains = cellular_snr, interference_gain, direct_gain, interference, np.zeros(5)
    return Draws(*gains, leader_weight, np.ones(5), power_w)


def figure_prices(out: Path) -> None:
    """E1: both utilities against the price, one panel per case, the closed-form optimum marked; PNG and CSV."""
    plt = plotting()
    draws = panels()
    low, high = draws.prices
    best, printed, table = draws.best(), as_printed(draws), []
    fig, axes = plt.subplots(1, 5, figsize=(13, 2.8), layout="constrained")
    for k, ax in enumerate(axes):
        one = draws.at([k])
        price = np.geomspace(low[k], high[k], 200)
        power_w = best_power(price, *one[1:4], one.follower_weight, one.power_w)
        of_leader, of_pair = leader(one, price, power_w), follower(one, price, power_w)
        ax.plot(price, of_leader, label="base station")
        ax.plot(price, of_pair, "--", label="pair")
        for price_at, style, color, name in (
            (best, "o", "C0", "best, closed form"),
            (printed, "x", "C3", "as printed"),
        ):
            at = price_at[[k]]
            ax.plot(at, leader(one, at, one.answer(at)), style, color=color, label=name)
        ax.set(xlabel="unit price", title=f"case {one.case[0]}")
        table += [(int(one.case[0]), *row) for row in zip(price, power_w, of_leader, of_pair)]
    axes[0].set_ylabel("utility, bit/s/Hz")
    axes[0].legend(fontsize="small")
    fig.savefig(out / "d2d-price.png", dpi=80)
    plt.close(fig)
    write_csv(out / "d2d-price.csv", ("case", "price", "power_w", "leader_utility", "follower_utility"), table)
    optimum = zip(range(1, 6), best, draws.answer(best), leader(draws, best, draws.answer(best)), low, high, printed)
    names = ("case", "best_price", "power_w", "leader_utility", "lowest_price", "highest_price", "printed_price")
    write_csv(out / "d2d-price-best.csv", names, optimum)


# ---- the rows


def rows(quick: bool, out: Path, say: Callable[[str], None]) -> list[Row]:
    """S1 to S6 and the 10,000 games against grid and scipy, with figure E1; CSV and PNG into `out`."""
    n = 2_000 if quick else 20_000
    say("figure E1: utilities against the price")
    figure_prices(out)
    say(f"S1 to S5 on {n:,} games each")
    gap, by_case, (pair, base), (breaches, identity), jump = (
        s1_gap(n),
        s2_gap(n),
        s3_gains(n),
        s4_breaches(n),
        s5_jump(n),
    )
    printed = judge_printed(20_000)
    write_csv(
        out / "d2d-cases.csv",
        ("case", "s2_gap", "games", "printed_rule_fails"),
        [(k, by_case[k], printed.games[k], printed.failures[k]) for k in by_case],
    )
    say("S6: games of several pairs")
    nash, loop = s6_nash(100 if quick else 1_000), s6_loop(200 if quick else 1_000)
    write_csv(out / "d2d-two-pairs.csv", ("ratio", "rounds"), zip(loop.ratio, loop.rounds))
    least, tenth, median, most = np.quantile(loop.ratio, [0.0, 0.1, 0.5, 1.0])
    say("10,000 games against grid and scipy")
    compared = compare(10_000)
    write_csv(out / "d2d-kinds.csv", ("kind", "games"), compared.counts.items())
    steps = max(compared.power_steps, compared.price_steps)
    scipy = max(compared.power_scipy, compared.price_scipy, compared.power_utility, compared.price_utility)
    unsettled = int((loop.rounds >= MOST_ROUNDS).sum())
    fails, of = printed.failures[4], printed.games[4]
    elsewhere = sum(printed.failures.values()) - fails
    return [
        Row("S1_best_power", gap, None, "<= 1e-9", gap <= 1e-9, f"relative utility gap to a refined grid, {n:,} games"),
        Row(
            "S2_best_price",
            max(by_case.values()),
            None,
            "<= 1e-6 in each case",
            max(by_case.values()) <= 1e-6,
            f"relative utility gap to a refined grid over prices with a searched answer, {n:,} games, all five cases",
        ),
        Row(
            "S2_printed_rule_fails_in_case_4",
            fails / of,
            None,
            "> 0, and in no other case",
            fails > 0 and elsewhere == 0,
            f"{fails} of {of} games of case 4, {elsewhere} elsewhere; mean loss {printed.mean_loss:.2f} bit/s/Hz",
        ),
        Row(
            "S3_no_gain_by_deviation",
            max(pair, base),
            None,
            "<= 1e-9 (pair), <= 1e-6 (base station)",
            pair <= 1e-9 and base <= 1e-6,
            f"relative gain on 2001 powers (refined) and 4001 prices, {n:,} games",
        ),
        Row(
            "S4_monotone",
            float(breaches),
            None,
            "0 breaches",
            breaches == 0 and identity <= 1e-9,
            f"power in price, interference, weight; payment in price; {n:,} games; "
            f"payment = B + alpha C to {identity:.0e} of B",
        ),
        Row("S5_continuous_at_D_0", jump, None, "< 1e-5", jump < 1e-5, f"D = -1e-9, 0, 1e-9 in {n:,} games"),
        Row(
            "S6_one_nash_equilibrium",
            nash.apart_w,
            None,
            "<= 1e-9 W; no deviation gains 1e-9",
            nash.apart_w <= 1e-9 and nash.gain <= 1e-9,
            f"two random starts, {nash.games} games of 2 to 5 pairs, spectral radius up to {nash.highest_radius:.3f}, "
            f"{nash.clipped} of them clipped; largest gain by a deviation {nash.gain:.0e}",
        ),
        Row(
            "S6_price_loop_of_two_pairs",
            float(median),
            (float(least), float(most)),
            "median >= 0.95",
            bool(median >= 0.95),
            f"share of the leader's best utility, {loop.ratio.size} games: least {least:.3f}, 10 % {tenth:.3f}, "
            f"median {median:.4f}, most {most:.4f}; {unsettled} did not settle",
        ),
        Row(
            "best_responses_within_a_grid_step",
            steps,
            None,
            "<= 1 grid step",
            steps <= 1.0,
            f"10,000 games, 2001 powers, 4001 prices; {compared.twins} with twin optima the grid cannot tell apart",
        ),
        Row(
            "best_responses_equal_scipy",
            scipy,
            None,
            "<= 1e-8",
            scipy <= 1e-8,
            "10,000 games of every case and boundary, relative: powers and prices to the roots of the slopes (brentq), "
            "utilities to bounded minimisation",
        ),
    ]
