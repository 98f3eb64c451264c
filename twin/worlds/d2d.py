"""The cell with direct links: a base station leases its channels to pairs of terminals that talk past it.

Each of M cellular users sends to the base station on a channel of its own. Each of N pairs, a transmitter with its
receiver near by, sends on one of these channels and disturbs its user there, other pairs on it, and is disturbed by
both. The seat `cellular`, the leader, posts in every slot what a unit of interference costs each pair on each channel;
the seat `d2d`, the followers together, then chooses each pair's channel and power.

Powers are in W, every gain is over the noise power of a channel (1/W), so noise is 1 wherever it stands; rates are in
bit/s/Hz, prices per unit of interference over noise. Where everybody stands and what shadows them is drawn at reset,
the fading in every slot, always as many draws, so nothing the seats do can move them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from twin.errors import ScenarioError
from twin.types import Agent, Arrays, Field, Outcome
from twin.units import KILO, from_db

SEATS = ("cellular", "d2d")

Level = Annotated[float, Meta(ge=-200, le=100)]
Loss = Annotated[float, Meta(ge=0, le=300)]
Distance = Annotated[float, Meta(ge=0.1, le=1e5)]


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scenario's table [cell]: who is in the cell, with which power, and what the ways on the ground take."""

    n_channels: Annotated[int, Meta(ge=1, le=64, description="channels, and cellular users: one has each")] = 3
    n_pairs: Annotated[int, Meta(ge=1, le=256, description="pairs of a transmitter and its receiver")] = 4
    radius_m: Annotated[
        float, Meta(ge=1, le=1e5, description="users and transmitters are spread evenly over a disc of this radius, m")
    ] = 500.0
    pair_m: Annotated[
        tuple[Distance, Distance],
        Meta(description="least and most distance from a pair's transmitter to its receiver, evenly between, m"),
    ] = (10.0, 50.0)
    nearest_m: Annotated[
        float, Meta(ge=0.1, le=1e3, description="shorter distances count as this, for the laws of path loss, m")
    ] = 10.0
    cellular_dbm: Annotated[float, Meta(ge=-100, le=100, description="power of a cellular user, dBm")] = 24.0
    power_dbm: Annotated[tuple[Level, Level], Meta(description="least and most power of a pair's transmitter, dBm")] = (
        -10.0,
        24.0,
    )
    noise_dbm: Annotated[
        float,
        Meta(
            ge=-200,
            le=100,
            description="noise in a channel, at every receiver on the ground, dBm; a satellite's comes from link",
        ),
    ] = -114.0
    base_loss_db: Annotated[
        tuple[Loss, Loss],
        Meta(description="path loss to the base station: at 1 km, and for every tenfold distance, dB"),
    ] = (128.1, 37.6)
    pair_loss_db: Annotated[
        tuple[Loss, Loss],
        Meta(description="path loss between any two on the ground: at 1 km, and for every tenfold distance, dB"),
    ] = (148.0, 40.0)
    shadow_db: Annotated[
        float, Meta(ge=0, le=30, description="standard deviation of the shadowing of each way on the ground, dB")
    ] = 8.0
    fading: Annotated[
        Literal["rayleigh", "none"],
        Meta(description="of every way on the ground: `rayleigh`: power drawn anew in every slot; `none`: its mean"),
    ] = "rayleigh"
    layout: (
        Annotated[
            int,
            Meta(ge=0, description="seed of positions and shadowing, the same in every run; not set: the run's own"),
        ]
        | None
    ) = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tables and keys of a scenario that belong to this world."""

    cell: Cell = Cell()
    leader_weight: Annotated[
        float, Meta(gt=0, le=1e6, description="weight of what pairs pay in the leader's utility, beta_l")
    ] = 1.0
    follower_weight: Annotated[
        float, Meta(gt=0, le=1e6, description="weight of what a pair pays in its own utility, beta_f")
    ] = 1.0


@dataclass(frozen=True, eq=False)
class Game:
    """One slot's stage game: M channels, each with its cellular user, and N pairs. Gains are over noise, 1/W.

    cellular_snr           (M,)         SNR of each cellular user at the base station where no pair disturbs it
    interference_gain      (N, M)  1/W  from each pair's transmitter to the base station, on each channel
    direct_gain            (N,)    1/W  from each pair's transmitter to its receiver
    cellular_interference  (N, M)       what each channel's cellular user brings to each pair's receiver, over noise
    cross_gain             (N, N)  1/W  [k, j]: from the transmitter of pair k to the receiver of pair j; diagonal 0
    power_w                (2,)    W    least and most power of a pair
    leader_weight          ()           of payments in the leader's utility
    follower_weight        ()           of a pair's payment in its own utility
    """

    cellular_snr: np.ndarray
    interference_gain: np.ndarray
    direct_gain: np.ndarray
    cellular_interference: np.ndarray
    cross_gain: np.ndarray
    power_w: np.ndarray
    leader_weight: float
    follower_weight: float


def interference(game: Game, channel: np.ndarray, power_w: np.ndarray) -> np.ndarray:
    """What disturbs each pair on its channel, over noise (which is not in it): the cellular user and other pairs there.

    channel, power_w  (..., N)  each pair's; leading axes are joint choices, side by side

    Returns (..., N). Source: docs/papers/d2d.md, I_ij. Checked by tests/test_d2d.py.
    """
    together = channel[..., :, None] == channel[..., None, :]
    of_pairs = np.einsum("...k,...kj,kj->...j", power_w, together, game.cross_gain)
    return game.cellular_interference[np.arange(channel.shape[-1]), channel] + of_pairs


def sinr(game: Game, channel: np.ndarray, power_w: np.ndarray) -> np.ndarray:
    """Signal over interference and noise at each pair's receiver, linear; arguments and shape as `interference`."""
    return game.direct_gain * power_w / (1.0 + interference(game, channel, power_w))


def received(game: Game, channel: np.ndarray, power_w: np.ndarray) -> np.ndarray:
    """What each pair brings to the base station, over noise: p_j g_jB, (..., N); arguments as `interference`."""
    return game.interference_gain[np.arange(channel.shape[-1]), channel] * power_w


def payment(game: Game, price: np.ndarray, channel: np.ndarray, power_w: np.ndarray) -> np.ndarray:
    """What each pair pays: its price on its channel for each unit of interference it brings, (..., N).

    price  (..., N, M)  of each pair on each channel, per unit of interference over noise
    """
    chosen = channel[..., None] == np.arange(price.shape[-1])
    return (price * chosen).sum(axis=-1) * received(game, channel, power_w)


def cellular_sinr(game: Game, channel: np.ndarray, power_w: np.ndarray) -> np.ndarray:
    """Signal over interference and noise of each cellular user at the base station, linear, (..., M)."""
    here = channel[..., :, None] == np.arange(game.cellular_snr.size)
    brought = np.einsum("...j,...ji->...i", received(game, channel, power_w), here)
    return game.cellular_snr / (1.0 + brought)


def follower_utility(game: Game, price: np.ndarray, channel: np.ndarray, power_w: np.ndarray) -> np.ndarray:
    """Utility of each pair, its rate less its weighted payment, bit/s/Hz, (..., N).

    price             (..., N, M)  of each pair on each channel, per unit of interference over noise
    channel, power_w  (..., N)     each pair's

    Source: docs/papers/d2d.md, U_j^f. Checked by tests/test_d2d.py.
    """
    paid = payment(game, price, channel, power_w)
    return np.log2(1.0 + sinr(game, channel, power_w)) - game.follower_weight * paid


def leader_utility(game: Game, price: np.ndarray, channel: np.ndarray, power_w: np.ndarray) -> Any:
    """Utility of the base station, what it is paid, weighted, and its users' rates, bit/s/Hz, ().

    Arguments as `follower_utility`; with leading axes the result has them. Source: docs/papers/d2d.md, U^l.
    Checked by tests/test_d2d.py.
    """
    paid = payment(game, price, channel, power_w).sum(axis=-1)
    return game.leader_weight * paid + np.log2(1.0 + cellular_sinr(game, channel, power_w)).sum(axis=-1)


class D2d:
    """The world; see the module. Satisfies twin.types.World.

    settings  the scenario's tables
    slots     length of the run; observations exist up to and including slot `slots`
    slot_s    length of a slot, s
    folder    where a relative path of element sets starts
    agents    timing of the seats "cellular" and "d2d": objects with every (None or 1), delay, window

    Raises ScenarioError for settings that are at odds and timing that cannot be flown.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        slots: int,
        slot_s: float,
        folder: str | Path,
        agents: Mapping[str, Any] | None = None,
    ):
        self.settings, self.slots, self.slot_s = settings, slots, slot_s
        cell = settings.cell
        for name in ("pair_m", "power_dbm"):
            least, most = getattr(cell, name)
            if least >= most:
                raise ScenarioError(f"cell.{name} is the least and the most, in this order, got {[least, most]}")
        self.inputs: dict[str, str] = {}
        self.power_w = from_db(np.array(cell.power_dbm) - 30.0)
        self.power_w.flags.writeable = False
        n, m = cell.n_pairs, cell.n_channels
        self._default: dict[str, dict[str, np.ndarray]] = {
            # left alone, a pair then brings as much interference as there is noise
            "cellular": {"price": np.full((n, m), 1.0 / (settings.follower_weight * math.log(2.0)))},
            "d2d": {"channel": np.arange(n) % m, "power_w": np.full(n, self.power_w[0])},
        }
        self.agents = self._seats(agents or {})
        self.slot = 0
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin at slot 0: everybody takes a place, with what shadows the ways between them."""
        layout = seed if self.settings.cell.layout is None else self.settings.cell.layout
        self._mean = self._ways(np.random.default_rng([layout, 1]))
        self._rng = np.random.default_rng([seed, 2])
        self.slot = 0
        self._game = self._draw()
        n, m = self.settings.cell.n_pairs, self.settings.cell.n_channels
        for agent in SEATS:
            self.apply(agent, self._default[agent])
        self._last = {
            "channel": self._channel,
            "used_power_w": self._used_power_w,
            "sinr": np.zeros(n),
            "interference": np.zeros(n),
            "utility": np.zeros(n),
            "paid": np.zeros(n),
            "cellular_rate_bps_hz": np.zeros(m),
        }

    def default(self, agent: str) -> Arrays:
        """A price at which a pair left alone brings as much interference as there is noise; the least power."""
        return {name: value.copy() for name, value in self._default[agent].items()}

    def propagation_delay_s(self, sender: str, receiver: str) -> float:
        """0: in a cell on the ground nothing takes longer than microseconds."""
        return 0.0

    def game(self) -> Game:
        """This slot's game, for ceilings, tests and training loops, never for seats."""
        return self._game

    def observe(self, agent: str) -> Arrays:
        """The slot's gains as far as a seat measures them, and what the slot before brought; zeros before the first."""
        names = [field.name for field in self._agent[agent].observes]
        return {name: self._seen(name).copy() for name in names}

    def apply(self, agent: str, action: Arrays) -> None:
        """Put prices, or channels and powers, in force."""
        if agent == "cellular":
            self._price = np.array(action["price"], dtype=float)
        else:
            self._channel = np.array(action["channel"], dtype=np.int64)
            self._used_power_w = np.array(action["power_w"], dtype=float)

    def step(self) -> Outcome:
        """Play one slot with the prices, channels and powers in force, and draw the next one's fading."""
        game, channel, power_w = self._game, self._channel, self._used_power_w
        disturbed = interference(game, channel, power_w)
        ratio = game.direct_gain * power_w / (1.0 + disturbed)
        rate = np.log2(1.0 + ratio)
        paid = payment(game, self._price, channel, power_w)
        cellular = np.log2(1.0 + cellular_sinr(game, channel, power_w))
        utility = rate - game.follower_weight * paid
        all_paid, all_cellular, all_pairs = float(paid.sum()), float(cellular.sum()), float(rate.sum())
        leader, followers = game.leader_weight * all_paid + all_cellular, float(utility.mean())
        self._last = {
            "channel": channel,
            "used_power_w": power_w,
            "sinr": ratio,
            "interference": disturbed,
            "utility": utility,
            "paid": paid,
            "cellular_rate_bps_hz": cellular,
        }
        measures = {
            "leader_utility": np.array(leader),
            "follower_utility": np.array(followers),
            "capacity_bps_hz": np.array(all_cellular + all_pairs),
            "cellular_rate_bps_hz": np.array(all_cellular),
            "d2d_rate_bps_hz": np.array(all_pairs),
            "payment": np.array(all_paid),
        }
        self.slot += 1
        self._game = self._draw()
        return Outcome({"cellular": leader, "d2d": followers}, measures, done=self.slot >= self.slots)

    def _seen(self, name: str) -> np.ndarray:
        if name in self._last:
            return self._last[name]
        return self._price if name == "price" else getattr(self._game, name)

    def _ways(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Mean gain of every way over the noise at its end: positions and shadowing, the slow part of a run."""
        cell = self.settings.cell
        n, m = cell.n_pairs, cell.n_channels
        user_m, sender_m = _on_disc(rng.random((m, 2)), cell.radius_m), _on_disc(rng.random((n, 2)), cell.radius_m)
        at = rng.random((n, 2))
        apart_m = cell.pair_m[0] + (cell.pair_m[1] - cell.pair_m[0]) * at[:, 0]
        receiver_m = sender_m + apart_m * np.exp(2j * np.pi * at[:, 1])

        def gain(distance_m: np.ndarray, law_db: tuple[float, float]) -> np.ndarray:
            shadow_db = cell.shadow_db * rng.standard_normal(distance_m.shape)
            distance_km = np.maximum(distance_m, cell.nearest_m) / KILO
            loss_db = law_db[0] + law_db[1] * np.log10(distance_km) + shadow_db
            return from_db(-loss_db - (cell.noise_dbm - 30.0))

        cellular_w = float(from_db(cell.cellular_dbm - 30.0))
        cross = gain(np.abs(sender_m[:, None] - receiver_m), cell.pair_loss_db)
        direct = np.diagonal(cross).copy()
        np.fill_diagonal(cross, 0.0)
        return {
            "cellular_snr": cellular_w * gain(np.abs(user_m), cell.base_loss_db),
            "interference_gain": np.repeat(gain(np.abs(sender_m), cell.base_loss_db)[:, None], m, axis=1),
            "direct_gain": direct,
            "cellular_interference": cellular_w * gain(np.abs(user_m - receiver_m[:, None]), cell.pair_loss_db),
            "cross_gain": cross,
        }

    def _draw(self) -> Game:
        """The next slot's game: every mean gain times the power of its fading."""
        settings = self.settings
        if settings.cell.fading == "none":
            return self._game_of({name: mean.copy() for name, mean in self._mean.items()})
        return self._game_of(
            {name: mean * self._rng.standard_exponential(mean.shape) for name, mean in self._mean.items()}
        )

    def _game_of(self, gains: dict[str, np.ndarray]) -> Game:
        return Game(
            **gains,
            power_w=self.power_w,
            leader_weight=self.settings.leader_weight,
            follower_weight=self.settings.follower_weight,
        )

    def _seats(self, agents: Mapping[str, Any]) -> tuple[Agent, ...]:
        n, m = self.settings.cell.n_pairs, self.settings.cell.n_channels
        least_w, most_w = (float(power_w) for power_w in self.power_w)
        price = Field("price", (n, m), low=0.0)
        gains = (
            Field("interference_gain", (n, m), low=0.0),
            Field("direct_gain", (n,), low=0.0),
            Field("cellular_interference", (n, m), low=0.0),
        )
        before = (
            Field("channel", (n,), "int64", 0, m - 1),
            Field("used_power_w", (n,), "float64", least_w, most_w),
            Field("sinr", (n,), low=0.0),
            Field("utility", (n,)),
        )
        cellular = (
            Field("cellular_snr", (m,), low=0.0),
            *gains,
            Field("cross_gain", (n, n), low=0.0),
            *before,
            Field("cellular_rate_bps_hz", (m,), low=0.0),
        )
        d2d = (price, *gains, *before, Field("interference", (n,), low=0.0), Field("paid", (n,), low=0.0))
        acts = {
            "cellular": (price,),
            "d2d": (Field("channel", (n,), "int64", 0, m - 1), Field("power_w", (n,), "float64", least_w, most_w)),
        }
        scalars = {
            "n_channels": m,
            "n_pairs": n,
            "power_min_w": least_w,
            "power_max_w": most_w,
            "leader_weight": self.settings.leader_weight,
            "follower_weight": self.settings.follower_weight,
        }
        facts = {name: np.array(value) for name, value in scalars.items()}
        seats = []
        for order, (name, observes) in enumerate(zip(SEATS, (cellular, d2d))):
            timing = agents.get(name)
            if (every := getattr(timing, "every", None)) not in (None, 1):
                raise ScenarioError(
                    f"agent.{name}.every must be 1: both seats of d2d decide in every slot, got {every}"
                )
            seats.append(
                Agent(
                    name=name,
                    observes=observes,
                    acts=acts[name],
                    order=order,
                    delay=getattr(timing, "delay", 0),
                    window=getattr(timing, "window", None),
                    facts=facts | {f"default_{field}": value.copy() for field, value in self._default[name].items()},
                )
            )
        self._agent = {agent.name: agent for agent in seats}
        return tuple(seats)


def _on_disc(uniform: np.ndarray, radius_m: float) -> np.ndarray:
    """Points spread evenly over a disc around 0, east + 1j north in m, (n,), from (n, 2) uniform draws."""
    return radius_m * np.sqrt(uniform[:, 0]) * np.exp(2j * np.pi * uniform[:, 1])
