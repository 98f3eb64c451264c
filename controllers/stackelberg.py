"""Pricing of D2D pairs that reuse cellular uplinks: both sides' best responses in closed form, and a player of either.

Reads as appendices A and B of "Make Smart Decisions Faster" (Shi, Li, Ohtsuki, Pan, Han, Poor, IEEE TMC 21(12), 2022;
docs/papers/d2d.md lists what is corrected). The base station, leader, asks a price per unit of interference; each pair,
follower, answers with a channel and a power. Noise is 1 and bandwidth is 1 throughout: gains are over the noise power
of a channel, 1/W, rates are in bit/s/Hz. Symbols of the paper, used in this file's kernels alone:

    A  cellular_snr            C  -(interference + 1) interference_gain / direct_gain, below 0
    B  1 / (follower_weight ln 2)          D  1 + what other pairs bring to the base station + C

A pair that answers a price alpha brings B / alpha + C to the base station and pays B + alpha C: that is all the leader
needs to know of it.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit, vectorize

from twin.errors import ControllerError
from twin.types import Action, Agent, Arrays, Observation
from twin.worlds.d2d import Game

NO_GAIN = 1e-100  # 1/W: nothing comes through; also keeps every price finite
CASE_TOLERANCE = 1e-12  # of max(A, |D|): what D and A + D may be off zero by rounding alone
SETTLED, MOST_ROUNDS = 1e-9, 200  # of prices and powers that answer each other: relative change, and when to give up
NASH_SETTLED, NASH_ROUNDS = 1e-14, 20_000  # of powers alone, which contract; slowly where pairs are close together
EXACT_SETS = 256  # channels times sets of pairs that are all tried; beyond it the assignment is a heuristic
MOST_SWEEPS = 10  # of pairs that move from channel to channel in the heuristic
FORGET = 0.9  # per slot: how much a pair still believes of what it once measured on a channel it has left


# ---- one pair, one channel: appendices A and B


@njit(cache=True, nogil=True)
def power_at(price, interference_gain, direct_gain, interference, follower_weight, lowest_w, highest_w):
    """Proposition 1, for scalars: see `best_power`."""
    if not direct_gain > NO_GAIN:
        return lowest_w  # power buys nothing
    cost = follower_weight * price * interference_gain
    if not cost > 0.0:
        return highest_w  # power costs nothing
    power_w = 1.0 / (math.log(2.0) * cost) - (max(interference, 0.0) + 1.0) / direct_gain
    return min(max(power_w, lowest_w), highest_w)


@njit(cache=True, nogil=True)
def range_at(interference_gain, direct_gain, interference, follower_weight, lowest_w, highest_w):
    """Lowest and highest price, for scalars: see `price_range`."""
    if not (interference_gain > NO_GAIN and direct_gain > NO_GAIN and follower_weight > 0.0):
        return 0.0, 0.0
    worth = 1.0 / (follower_weight * math.log(2.0) * interference_gain)
    floor_w = (max(interference, 0.0) + 1.0) / direct_gain
    return worth / (highest_w + floor_w), worth / (lowest_w + floor_w)


@njit(cache=True, nogil=True)
def price_at(
    cellular_snr,
    interference_gain,
    direct_gain,
    interference,
    received,
    leader_weight,
    follower_weight,
    lowest_w,
    highest_w,
):
    """Proposition 2, corrected, for scalars: see `best_price`."""
    lowest, highest = range_at(interference_gain, direct_gain, interference, follower_weight, lowest_w, highest_w)
    if not highest > lowest:
        return lowest
    A = max(cellular_snr, 0.0)
    B = 1.0 / (follower_weight * math.log(2.0))
    C = -(max(interference, 0.0) + 1.0) * interference_gain / direct_gain
    D = 1.0 + max(received, 0.0) + C
    if A + D > 0.0:  # cases 1, 3, 4: the first root of the slope is the one maximum inside; else U is convex
        # the slope (27) has the sign of -(a alpha^2 + b alpha + c)
        weight = -leader_weight * C
        a, b, c = weight * D * (D + A), weight * B * (2.0 * D + A), B * B * (weight - follower_weight * A)
        delta = B * B * weight * A * (weight * A + 4.0 * follower_weight * D * (D + A))  # b^2 - 4 a c, multiplied out
        if delta < 0.0 or (a == 0.0 and b <= 0.0):  # no root: the sign is -c's throughout
            return highest if c < 0.0 else lowest
        # two forms of one root: each where it does not subtract near-equal numbers; the first tends to (29) as D -> 0
        root = -2.0 * c / (b + math.sqrt(delta)) if b > 0.0 else (math.sqrt(delta) - b) / (2.0 * a)
        root = min(max(root, lowest), highest)
        if D >= 0.0:
            return root
    else:
        root = lowest
    # case 4 rises again beyond the root, 2 and 5 beyond somewhere: then the end, with the lowest power, may be better
    brought, at_least = max(B / root + C, 0.0), lowest_w * interference_gain
    around = 1.0 + max(received, 0.0)
    at_root = leader_weight * root * brought + math.log2(1.0 + A / (around + brought))
    at_end = leader_weight * highest * at_least + math.log2(1.0 + A / (around + at_least))
    return highest if at_end > at_root else root


@njit(cache=True, nogil=True)
def case_at(cellular_snr, interference_gain, direct_gain, interference, received):
    """Number of the appendix' case, for scalars: see `price_case`."""
    if not (interference_gain > NO_GAIN and direct_gain > NO_GAIN):
        return 0
    D = 1.0 + max(received, 0.0) - (max(interference, 0.0) + 1.0) * interference_gain / direct_gain
    A = max(cellular_snr, 0.0)
    near = CASE_TOLERANCE * max(A, abs(D))
    if abs(D) <= near:
        return 1
    if abs(A + D) <= near:
        return 2
    if D > 0.0:
        return 3
    return 4 if A + D > 0.0 else 5


@njit(cache=True, nogil=True)
def shut_at(stays, interference_gain, direct_gain, interference, follower_weight, lowest_w):
    """The price that keeps a pair off a channel, whatever other pairs it believes to hear; not below the range's.

    stays         ()  1/W  price times interference gain on the channel it is to stay on
    interference  ()       on this channel, the cellular user's alone

    Here even the lowest power, which it must send with, earns it no more than the lowest power there if it got
    nothing through: log2(1 + g p / (1 + I)) - beta_f alpha p g_jB = -beta_f stays p.
    """
    highest = range_at(interference_gain, direct_gain, interference, follower_weight, lowest_w, lowest_w)[1]
    if not (highest > 0.0 and lowest_w > 0.0):
        return highest
    # log1p: where nothing much comes through, log2(1 + x) would round to 0 and the pair be indifferent
    rate = math.log1p(lowest_w * direct_gain / (max(interference, 0.0) + 1.0)) / math.log(2.0)
    return max(highest, (rate / (follower_weight * lowest_w) + stays) / interference_gain)


_best_power = vectorize(cache=True)(power_at.py_func)
_best_price = vectorize(cache=True)(price_at.py_func)
_price_case = vectorize(cache=True)(case_at.py_func)


@vectorize(cache=True)
def _lowest_price(interference_gain, direct_gain, interference, follower_weight, lowest_w, highest_w):
    return range_at(interference_gain, direct_gain, interference, follower_weight, lowest_w, highest_w)[0]


@vectorize(cache=True)
def _highest_price(interference_gain, direct_gain, interference, follower_weight, lowest_w, highest_w):
    return range_at(interference_gain, direct_gain, interference, follower_weight, lowest_w, highest_w)[1]


def _checked(power_w, **given):
    """The lowest and the highest power, (...) each; ValueError for bounds that are none, and for what is below 0."""
    bounds_w = np.asarray(power_w, float)
    if bounds_w.shape[-1:] != (2,) or not ((bounds_w[..., 0] >= 0.0) & (bounds_w[..., 0] <= bounds_w[..., 1])).all():
        raise ValueError(f"power_w must be the lowest and the highest, 0 or more, in the last axis, got {power_w}")
    for name, value in given.items():
        _demand_positive(name, value, infinite=name == "price")
    return bounds_w[..., 0], bounds_w[..., 1]


def _demand_positive(name: str, value, infinite: bool = False) -> None:
    value = np.asarray(value, float)
    wrong = ~(value >= 0.0) if infinite else ~((value >= 0.0) & np.isfinite(value))
    if wrong.any():
        raise ValueError(f"{name} must be {'' if infinite else 'finite and '}at least 0, got {value[wrong].flat[0]}")


def best_power(price, interference_gain, direct_gain, interference, follower_weight, power_w):
    """The power that maximises a pair's rate less what it pays: log2(1 + SINR) - beta_f alpha p g_jB.

    price              (...)     per unit of interference over noise, at least 0; 0 charges nothing: highest power
    interference_gain  (...)     1/W  g_jB, pair to base station
    direct_gain        (...)     1/W  g_j, transmitter to receiver; 0: lowest power
    interference       (...)          I_ij at the receiver, cellular user and other pairs, without the noise 1
    follower_weight    (...)          beta_f
    power_w            (..., 2)  W    lowest and highest

    All broadcast. Returns (...) W. Source: appendix A, (24) set to 0, kept within the bounds (U is concave in p).
    Raises ValueError for what is below 0 or no number, and for bounds in the wrong order.
    Checked by tests/papers/test_stackelberg.py::test_s1_best_power_is_the_argmax_of_a_refined_grid.
    """
    pair = {"interference_gain": interference_gain, "direct_gain": direct_gain, "interference": interference}
    bounds_w = _checked(power_w, price=price, **pair, follower_weight=follower_weight)
    return _best_power(price, *pair.values(), follower_weight, *bounds_w)


def price_range(interference_gain, direct_gain, interference, follower_weight, power_w):
    """The lowest and highest price, (...) each, between which a pair's best power runs from highest to lowest.

    Arguments as of `best_power`. (0, 0) where a pair has no gain to the base station, or none to its own receiver:
    nothing can be charged, or no price changes anything. Above the range a pair still sends its lowest power, so a
    leader that could leave it would ask for infinity: the game is defined on the range alone. Errors as `best_power`.
    """
    pair = {"interference_gain": interference_gain, "direct_gain": direct_gain, "interference": interference}
    args = (*pair.values(), follower_weight, *_checked(power_w, **pair, follower_weight=follower_weight))
    return _lowest_price(*args), _highest_price(*args)


def best_price(
    cellular_snr, interference_gain, direct_gain, interference, received, leader_weight, follower_weight, power_w
):
    """The price of one pair on one channel that is best for the leader, who knows the pair's answer, all else frozen.

    It maximises beta_l alpha p g_jB + log2(1 + A / (1 + received + p g_jB)), p = best_power(alpha, ...), within
    `price_range`.

    cellular_snr   (...)  A_i of the channel's cellular user; 0: nobody to protect
    received       (...)  interference over noise that the other pairs on the channel bring to the base station
    leader_weight  (...)  beta_l, at least 0
    the rest              as of `best_power`

    All broadcast. Returns (...), finite for gains up to 1e100; 0 where `price_range` is (0, 0). Errors as `best_power`.
    Source: appendix B with its errors corrected (docs/papers/d2d.md); one formula for the five cases, which
    `price_case` names. Checked by tests/papers/test_stackelberg.py, statements S2 to S5.
    """
    around = {"cellular_snr": cellular_snr, "interference_gain": interference_gain, "direct_gain": direct_gain}
    around |= {"interference": interference, "received": received}
    weights = {"leader_weight": leader_weight, "follower_weight": follower_weight}
    return _best_price(*around.values(), *weights.values(), *_checked(power_w, **around, **weights))


def price_case(cellular_snr, interference_gain, direct_gain, interference, received):
    """Which case of appendix B holds, (...) int64; arguments as of `best_price`.

    1: D = 0, 2: A + D = 0 (both to 1e-12 of the larger of A and |D|), 3: D > 0, 4: D < 0 < A + D, 5: A + D < 0;
    0: no gain to the base station or to the own receiver, the game is none. Errors as `best_power`.
    """
    around = {"cellular_snr": cellular_snr, "interference_gain": interference_gain, "direct_gain": direct_gain}
    around |= {"interference": interference, "received": received}
    for name, value in around.items():
        _demand_positive(name, value)
    return _price_case(*around.values())


# ---- several pairs on one channel: `members` lists them; price and power_w (n_pairs,) are theirs, changed in place


class Stage(NamedTuple):
    """A stage game as the kernels take it: arrays and units as twin.worlds.d2d.Game, no gain below 0."""

    cellular_snr: np.ndarray
    interference_gain: np.ndarray
    direct_gain: np.ndarray
    cellular_interference: np.ndarray
    cross_gain: np.ndarray
    leader_weight: float
    follower_weight: float
    lowest_w: float
    highest_w: float


def stage_of(game: Game) -> Stage:
    """The game for the kernels."""
    return Stage(
        np.maximum(game.cellular_snr, 0.0),
        np.maximum(game.interference_gain, 0.0),
        np.maximum(game.direct_gain, 0.0),
        np.maximum(game.cellular_interference, 0.0),
        np.maximum(game.cross_gain, 0.0),
        float(game.leader_weight),
        float(game.follower_weight),
        float(game.power_w[0]),
        float(game.power_w[1]),
    )


@njit(cache=True, nogil=True)
def met(stage, j, i, members, power_w):
    """Interference at the receiver of pair j on channel i, from the cellular user and the other members."""
    total = stage.cellular_interference[j, i]
    for k in members:
        if k != j:
            total += power_w[k] * stage.cross_gain[k, j]
    return total


@njit(cache=True, nogil=True)
def answer_at(stage, price, j, i, interference):
    """`power_at` of pair j on channel i."""
    low, high = stage.lowest_w, stage.highest_w
    gain = stage.interference_gain[j, i]
    return power_at(price, gain, stage.direct_gain[j], interference, stage.follower_weight, low, high)


@njit(cache=True, nogil=True)
def settle_powers(stage, i, members, price, power_w, rounds):
    """Nash equilibrium of the members' powers at given prices, by Jacobi's iteration from the powers given.

    Returns the rounds it took; `rounds`: it did not settle. It contracts where `spectral_radius` is below 1, clipped
    or not.
    """
    answer_w = np.empty(members.size)
    for n in range(rounds):
        change = 0.0
        for m, j in enumerate(members):
            answer_w[m] = answer_at(stage, price[j], j, i, met(stage, j, i, members, power_w))
            change = max(change, abs(answer_w[m] - power_w[j]))
        for m, j in enumerate(members):
            power_w[j] = answer_w[m]
        if change <= NASH_SETTLED * stage.highest_w:
            return n
    return rounds


@njit(cache=True, nogil=True)
def settle_channel(stage, i, members, price, power_w):
    """Price and power of one member after the other, the rest frozen, from the lowest powers on, until none changes.

    Returns (rounds, the leader's utility on this channel). Exact for one pair. For several a heuristic: the leader
    takes the interference between pairs as it stands, not as it will react. There may be several points of rest: with
    others loud already, letting one more be loud costs the cellular user little, so from the highest powers on it can
    end where all shout (400 games of two pairs: at worst 0.71 of the best against 0.90). Where MOST_ROUNDS did not
    settle it, the powers answer the last prices.
    """
    for j in members:
        power_w[j] = stage.lowest_w
        price[j] = 0.0
    n, change = 0, math.inf
    while change > SETTLED and n < MOST_ROUNDS:
        n += 1
        change = 0.0
        for j in members:
            interference = met(stage, j, i, members, power_w)
            received = 0.0
            for k in members:
                if k != j:
                    received += power_w[k] * stage.interference_gain[k, i]
            best = price_at(
                stage.cellular_snr[i],
                stage.interference_gain[j, i],
                stage.direct_gain[j],
                interference,
                received,
                stage.leader_weight,
                stage.follower_weight,
                stage.lowest_w,
                stage.highest_w,
            )
            answer_w = answer_at(stage, best, j, i, interference)
            of_power = abs(answer_w - power_w[j]) / stage.highest_w
            of_price = abs(best - price[j]) / best if best > 0.0 else price[j]
            change = max(change, of_power, of_price)
            price[j], power_w[j] = best, answer_w
        if members.size == 1:
            break  # nobody it could depend on
    if change > SETTLED and members.size > 1:
        settle_powers(stage, i, members, price, power_w, MOST_ROUNDS)
    paid, received = 0.0, 0.0
    for j in members:
        brought = power_w[j] * stage.interference_gain[j, i]
        paid += price[j] * brought
        received += brought
    return n, stage.leader_weight * paid + math.log2(1.0 + stage.cellular_snr[i] / (1.0 + received))


# ---- which pairs on which channel: the leader's utility is a sum over channels, each knowing only the set of its pairs


@njit(cache=True, nogil=True)
def assign_exactly(stage):
    """Channel of each pair, (n_pairs,): the best for the leader where each channel is as `settle_channel` leaves it.

    Every set of pairs is settled on every channel; the best partition by dynamic programming over sets, which are the
    bits of a number.
    """
    n_pairs, n_channels = stage.interference_gain.shape
    price, power_w = np.empty(n_pairs), np.empty(n_pairs)
    everyone = 2**n_pairs - 1
    best, taken = np.empty((n_channels, everyone + 1)), np.zeros((n_channels, everyone + 1), np.int64)
    alone = np.empty(everyone + 1)
    for i in range(n_channels):
        for s in range(everyone + 1):
            members = np.array([j for j in range(n_pairs) if s >> j & 1], np.int64)
            alone[s] = settle_channel(stage, i, members, price, power_w)[1]
        for s in range(everyone + 1):
            best[i, s], taken[i, s] = alone[s], s
            if i > 0:
                best[i, s] += best[i - 1, 0]
                part = s
                while part > 0:  # every part of s but s itself, down to the empty one
                    part = (part - 1) & s
                    together = alone[part] + best[i - 1, s ^ part]
                    if together > best[i, s]:
                        best[i, s], taken[i, s] = together, part
    channel, left = np.empty(n_pairs, np.int64), everyone
    for i in range(n_channels - 1, -1, -1):
        for j in range(n_pairs):
            if taken[i, left] >> j & 1:
                channel[j] = i
        left ^= taken[i, left]
    return channel


@njit(cache=True, nogil=True)
def assign_greedily(stage):
    """The same by a heuristic for many pairs: the strongest direct gain first, each goes where it adds most.

    Then pairs move, one at a time, to where the sum over the two channels rises most, until none does.
    """
    n_pairs, n_channels = stage.interference_gain.shape
    price, power_w = np.empty(n_pairs), np.empty(n_pairs)
    channel = np.full(n_pairs, -1, np.int64)
    value = np.log2(1.0 + stage.cellular_snr)
    order = np.argsort(-stage.direct_gain, kind="mergesort")
    for _ in range(MOST_SWEEPS):
        moved = False
        for j in order:
            old = channel[j]
            channel[j] = -1
            without = value.copy()
            if old >= 0:
                without[old] = settle_channel(stage, old, np.flatnonzero(channel == old), price, power_w)[1]
            to, gain = old, value[old] - without[old] if old >= 0 else -math.inf
            for i in range(n_channels):
                if i != old:
                    channel[j] = i
                    added = settle_channel(stage, i, np.flatnonzero(channel == i), price, power_w)[1] - without[i]
                    if added > gain + SETTLED * abs(gain) or to < 0:
                        to, gain = i, added
            channel[j] = to
            if to != old:
                moved = True
                value = without
                value[to] += gain
        if not moved:
            break
    return channel


@njit(cache=True, nogil=True)
def assign(stage):
    """The best channels for the leader: exactly up to EXACT_SETS sets, beyond by the heuristic."""
    n_pairs, n_channels = stage.interference_gain.shape
    if n_pairs < 16 and n_channels * 2**n_pairs <= EXACT_SETS:
        return assign_exactly(stage)
    return assign_greedily(stage)


@njit(cache=True, nogil=True)
def settle(stage, channel):
    """Prices (n_pairs, n_channels) and powers (n_pairs,) of an assignment, and the rounds of the slowest channel."""
    n_pairs, n_channels = stage.interference_gain.shape
    table = np.empty((n_pairs, n_channels))
    price, power_w = np.empty(n_pairs), np.empty(n_pairs)
    slowest = 0
    for i in range(n_channels):
        slowest = max(slowest, settle_channel(stage, i, np.flatnonzero(channel == i), price, power_w)[0])
    for j in range(n_pairs):
        stays = price[j] * stage.interference_gain[j, channel[j]]
        for i in range(n_channels):
            table[j, i] = price[j]
            if i != channel[j]:
                gain, heard = stage.interference_gain[j, i], stage.cellular_interference[j, i]
                table[j, i] = shut_at(stays, gain, stage.direct_gain[j], heard, stage.follower_weight, stage.lowest_w)
    return table, power_w, slowest


@njit(cache=True, nogil=True)
def follow(stage, price, heard):
    """Each pair's best channel and best power on it, (n_pairs,) each, at these prices and what it believes to hear.

    price, heard  (n_pairs, n_channels)  heard: from other pairs; the cellular users' part is the stage's
    """
    n_pairs, n_channels = price.shape
    channel, power_w = np.zeros(n_pairs, np.int64), np.empty(n_pairs)
    for j in range(n_pairs):
        most = -math.inf
        for i in range(n_channels):
            interference = stage.cellular_interference[j, i] + heard[j, i]
            answer_w = answer_at(stage, price[j, i], j, i, interference)
            cost = stage.follower_weight * price[j, i] * stage.interference_gain[j, i]
            rate = math.log1p(stage.direct_gain[j] * answer_w / (1.0 + interference)) / math.log(2.0)
            utility = rate - cost * answer_w
            if i == 0 or utility > most:
                most, channel[j], power_w[j] = utility, i, answer_w
    return channel, power_w


# ---- the same for people: a Game in, arrays out


def _checked_stage(game: Game) -> Stage:
    """The game for the kernels, which trust it; ValueError for arrays that do not fit, and as `_checked`."""
    n, m = np.size(game.direct_gain), np.size(game.cellular_snr)
    shapes = {
        "cellular_snr": (m,),
        "interference_gain": (n, m),
        "direct_gain": (n,),
        "cellular_interference": (n, m),
        "cross_gain": (n, n),
    }
    for name, shape in shapes.items():
        value = getattr(game, name)
        if np.shape(value) != shape:
            raise ValueError(f"{name} of {n} pairs on {m} channels must be of shape {shape}, got {np.shape(value)}")
        _demand_positive(name, value)
    _checked(game.power_w, leader_weight=game.leader_weight, follower_weight=game.follower_weight)
    return stage_of(game)


def _checked_channel(channel: np.ndarray, n_pairs: int, n_channels: int) -> np.ndarray:
    found = np.asarray(channel)
    if found.shape != (n_pairs,) or not np.isin(found, np.arange(n_channels)).all():
        raise ValueError(f"channel must be {n_pairs} whole numbers from 0 to {n_channels - 1}, got {channel}")
    return found.astype(np.int64)


def powers(game: Game, price: np.ndarray, channel: np.ndarray, start_w: np.ndarray | None = None):
    """The pairs' Nash equilibrium of powers at given prices and channels, by Jacobi's iteration.

    price    (n_pairs, n_channels)  per unit of interference over noise
    channel  (n_pairs,)             each pair's
    start_w  (n_pairs,)  W          where to begin; None: highest powers

    Returns (power_w, n_rounds), (n_pairs,) W and (); unique and reached from everywhere where `spectral_radius` is
    below 1. n_rounds == NASH_ROUNDS: it did not settle.
    Raises ValueError for arrays that do not fit the game.
    Checked by tests/papers/test_stackelberg.py::test_s6_powers_from_two_starts_meet_at_one_nash_equilibrium.
    """
    stage = _checked_stage(game)
    n_pairs, n_channels = stage.interference_gain.shape
    channel, price = _checked_channel(channel, n_pairs, n_channels), np.asarray(price, float)
    power_w = np.full(n_pairs, stage.highest_w) if start_w is None else np.array(start_w, float)
    for name, value, shape in (("price", price, (n_pairs, n_channels)), ("start_w", power_w, (n_pairs,))):
        if value.shape != shape:
            raise ValueError(f"{name} must be of shape {shape}, got {value.shape}")
        _demand_positive(name, value)
    on_channel = price[np.arange(n_pairs), channel]
    rounds = [
        settle_powers(stage, i, np.flatnonzero(channel == i), on_channel, power_w, NASH_ROUNDS) for i in set(channel)
    ]
    return power_w, max(rounds, default=0)


def spectral_radius(game: Game, channel: np.ndarray) -> float:
    """Of the matrix g_kj / g_j over pairs k, j on one channel: below 1, powers have one Nash equilibrium.

    A pair without a direct gain sends its lowest power whatever the others do: its row is 0.
    """
    channel, direct = np.asarray(channel), np.asarray(game.direct_gain, float)
    heard = np.where(channel[:, None] == channel, np.asarray(game.cross_gain, float).T, 0.0)
    matrix = np.divide(heard, direct[:, None], out=np.zeros_like(heard), where=direct[:, None] > NO_GAIN)
    return float(np.abs(np.linalg.eigvals(matrix)).max(initial=0.0))


def equilibrium(game: Game, channel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prices and powers of the Stackelberg game on these channels, (n_pairs, n_channels) and (n_pairs,) W.

    On each pair's channel price and power answer each other (interference between pairs frozen: `settle_channel`). On
    the others stands a price that keeps it off (`shut_at`), so that staying is its best reply in channel as in power.
    Raises ValueError for arrays that do not fit one another, and for channels that are none.
    """
    stage = _checked_stage(game)
    return settle(stage, _checked_channel(channel, *stage.interference_gain.shape))[:2]


def best_assignment(game: Game) -> np.ndarray:
    """The channel of each pair, (n_pairs,) int64, with which `equilibrium` gives the leader most.

    Exact for n_channels 2^n_pairs <= EXACT_SETS (6 pairs on 3 channels); beyond, `assign_greedily`. Errors as
    `equilibrium`.
    """
    return assign(_checked_stage(game))


# ---- the controller


class Stackelberg:
    """Either seat of `d2d`, by the closed forms, slot by slot, without learning.

    On seat `cellular` it assigns channels to the pairs in its head, posts the equilibrium's prices there and on all
    other channels prices that keep the pairs off; what it expects them to do stands in `channel` and `power_w` until
    the next answer. On seat `d2d` each pair takes the channel with the highest utility at this slot's prices and its
    best power there. A pair knows this slot's cellular interference; of other pairs it believes what it last measured
    on a channel, fading by FORGET a slot once it has left.

    Raises ControllerError for a seat of another name.
    """

    def __init__(self, agent: Agent, seed: int):
        if agent.name not in ("cellular", "d2d"):
            raise ControllerError(f"stackelberg sits on cellular or d2d, got seat {agent.name!r}")
        self.leads = agent.name == "cellular"
        facts = agent.facts
        self.n_pairs, self.n_channels = int(facts["n_pairs"]), int(facts["n_channels"])
        self.leader_weight, self.follower_weight = float(facts["leader_weight"]), float(facts["follower_weight"])
        self.range_w = np.array([facts["power_min_w"], facts["power_max_w"]], float)
        self.heard = np.zeros((self.n_pairs, self.n_channels))  # what each pair believes of the others on each channel
        self.before: tuple[int, np.ndarray] | None = None  # the last slot seen, and cellular interference then
        self.channel, self.power_w = np.zeros(self.n_pairs, np.int64), np.full(self.n_pairs, self.range_w[0])
        nothing = {field.name: np.zeros(field.shape, field.dtype) for field in agent.observes}
        self.act(Observation(agent.name, 0, nothing))  # compiles the kernels before a clock starts
        self.before = None

    def act(self, seen: Observation) -> Action:
        values = seen.values
        stage = stage_of(
            Game(
                # the pairs are told neither of the base station's user nor of one another
                values["cellular_snr"] if self.leads else np.zeros(self.n_channels),
                values["interference_gain"],
                values["direct_gain"],
                values["cellular_interference"],
                values["cross_gain"] if self.leads else np.zeros((self.n_pairs, self.n_pairs)),
                self.range_w,
                self.leader_weight,
                self.follower_weight,
            )
        )
        if self.leads:
            self.channel = assign(stage)
            price, self.power_w, _ = settle(stage, self.channel)
            return Action({"price": price})
        self._listen(seen.slot, values, stage.cellular_interference)
        self.channel, self.power_w = follow(stage, np.array(values["price"]), self.heard)
        return Action({"channel": self.channel, "power_w": self.power_w})

    def _listen(self, slot: int, values: Arrays, cellular: np.ndarray) -> None:
        """Take over what the last slot measured: its interference less the cellular user's part, then."""
        then = self.before[1] if self.before is not None and self.before[0] == slot - 1 else cellular
        at = np.arange(self.n_pairs), values["channel"]
        if self.before is not None:
            self.heard *= FORGET ** max(slot - self.before[0], 0)  # slots may be missed, or asked twice
        self.heard[at] = np.maximum(values["interference"] - then[at], 0.0)
        self.before = slot, cellular
