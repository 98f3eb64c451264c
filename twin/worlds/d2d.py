"""The cell with direct links: a base station leases its channels to pairs of terminals that talk past it.

Each of M cellular users sends to the base station on a channel of its own. Each of N pairs, a transmitter with its
receiver near by, sends on one of these channels and disturbs its user there, other pairs on it, and is disturbed by
both. The seat `cellular`, the leader, posts in every slot what a unit of interference costs each pair on each channel;
the seat `d2d`, the followers together, then chooses each pair's channel and power.

Powers are in W, every gain is over the noise power of a channel (1/W), so noise is 1 wherever it stands; rates are in
bit/s/Hz, prices per unit of interference over noise. Where everybody stands and what shadows them is drawn at reset,
the fading in every slot, always as many draws, so nothing the seats do can move them.

With the tables [sky], [site] and [link] the base station is whichever satellite serves the site: the users and pairs
around it reach it over twin.channel's uplink, drawn at reset for whole passes. All else stays as on the ground. Where
no satellite serves, nobody reaches it: its gains are 0, cellular users are silent, and pairs talk on, for nothing.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from twin.channel import Link, draw_fading, path_gain
from twin.channel.slot import group_rates
from twin.errors import ScenarioError
from twin.geometry import Pointing, Site, pointing
from twin.orbit import Orbit
from twin.types import Agent, Arrays, Field, Outcome
from twin.units import KILO, SPEED_OF_LIGHT_M_S, from_db
from twin.worlds.seats import each_slot
from twin.worlds.sky import Sky, check_length, sky_over, turns

SEATS = ("cellular", "d2d")
MOST_GAIN_BYTES = 2**31  # of a run's gains to satellites, drawn at reset
MOST_PRICE = 1e200  # no limit but that payments and rewards stay finite

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
            Meta(
                ge=0,
                description="seed of positions and of the shadowing on the ground, the same in every run; not set: the "
                "run's own",
            ),
        ]
        | None
    ) = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tables and keys of a scenario that belong to this world."""

    cell: Cell = Cell()
    sky: Sky | None = None
    site: Site | None = None
    link: Link | None = None
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


@dataclass(frozen=True, eq=False)
class Turn:
    """While one satellite serves. `course` has link.samples_per_slot rows a slot, one for each slot in `now`.

    number      catalogue number
    first, end  slots; `end` is the first one after
    """

    number: int
    first: int
    end: int
    course: Pointing
    now: Pointing


@dataclass(frozen=True, eq=False)
class Reach:
    """How users reach the satellite over one turn, in each of its n slots.

    gain  (n, n_users, M)  1/W   over the satellite's noise in a channel, of power spread evenly over the channel
    los   (n, n_users)     bool  line of sight
    """

    gain: np.ndarray
    los: np.ndarray


class Uplink:
    """From users around a site to the satellite that serves it. They share its geometry, and nothing else.

    The satellite's beam and the users' stay on each other, as geometry has it. Channel i is group i of the link's
    resource blocks, with the noise temperature of the satellite; the power comes from whoever sends.

    Raises ScenarioError for settings that are at odds and gains that take more than 2 GiB; TleError for a file.
    """

    def __init__(self, cell: Cell, sky: Sky, site: Site, link: Link, *, slots: int, slot_s: float, folder: Path):
        n_slots, n_users = slots + 1, cell.n_channels + cell.n_pairs
        if link.n_groups != cell.n_channels:
            raise ScenarioError(
                "a channel is a group of resource blocks: link.n_groups must be cell.n_channels = "
                f"{cell.n_channels}, got {link.n_groups}"
            )
        if link.rate != "shannon":
            raise ScenarioError(f"link.rate must be `shannon`, by which utilities are defined, got `{link.rate}`")
        check_length(n_slots * slot_s, "slots and slot_s")
        self.link, self.slot_s, self.n_users = link, slot_s, n_users
        self.sky, above = sky_over(sky, site, folder, n_slots * slot_s)
        self.turns = []
        for p, first, end in turns(above, slot_s, n_slots):
            end, samples = min(end, n_slots), link.samples_per_slot
            at_s = (first + np.arange(samples * (end - first)) / samples) * slot_s
            course = pointing(*Orbit(self.sky, p.satellite_index).state(at_s), site)
            self.turns.append(Turn(p.number, first, end, course, course[::samples]))
        n_bytes = 8 * n_users * link.n_groups * sum(turn.end - turn.first for turn in self.turns)
        if n_bytes > MOST_GAIN_BYTES:
            raise ScenarioError(
                f"gains of {n_users} users on {link.n_groups} channels take {n_bytes / 2**30:.1f} GiB over the passes "
                f"of this run, more than {MOST_GAIN_BYTES / 2**30:g}: take fewer slots, pairs or channels"
            )
        if not self.turns:
            warnings.warn("no satellite serves in this window; `ntn-twin passes` says who passes when", stacklevel=3)
        self.turn_of = np.full(n_slots, -1)
        for i, turn in enumerate(self.turns):
            self.turn_of[turn.first : turn.end] = i

    def draw(self, seed: int) -> list[Reach]:
        """The uplink over every turn. Each user has a generator of its own in each turn, whoever else there is."""
        return [self._reach(seed, turn) for turn in self.turns]

    def _reach(self, seed: int, turn: Turn) -> Reach:
        link, course, samples = self.link, turn.course, self.link.samples_per_slot
        power_w = float(link.facts()["tx_power_w"]) * (link.n_rb // link.n_groups)  # that the link's SNR is of
        gain = np.empty((turn.end - turn.first, self.n_users, link.n_groups))
        los = np.empty(gain.shape[:2], bool)
        for user in range(self.n_users):
            rng = np.random.default_rng([seed, 3, turn.first, user])
            fading = draw_fading(rng, link, course, self.slot_s, samples)
            passed = path_gain(link, course.slant_range_m, course.elevation_deg, fading.los, fading.shadow_db)
            beams_deg = course.tx_beam_deg, course.rx_beam_deg
            snr, _ = group_rates(link, fading, passed, *beams_deg, samples=samples)
            gain[:, user], los[:, user] = snr / power_w, fading.los[::samples]
        return Reach(gain, los)


class D2d:
    """The world; see the module. Satisfies twin.types.World.

    settings  the scenario's tables
    slots     length of the run; observations exist up to and including slot `slots`
    slot_s    length of a slot, s
    folder    where a relative path of element sets starts
    agents    timing of the seats "cellular" and "d2d": objects with every (None or 1), delay, window

    Raises ScenarioError for settings that are at odds and timing that cannot be flown; TleError for a file.
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
        self.uplink = self._uplink(Path(folder))
        self.power_w = from_db(np.array(cell.power_dbm) - 30.0)
        self.power_w.flags.writeable = False
        self._cellular_w = float(from_db(cell.cellular_dbm - 30.0))
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
        self._reaches = self.uplink.draw(seed) if self.uplink else []
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
        """Slant range of the serving satellite over the speed of light, s, infinite where none serves; 0 in a cell."""
        if self.uplink is None:
            return 0.0
        turn = self._turn()
        return math.inf if turn is None else float(turn.now.slant_range_m[self.slot - turn.first]) / SPEED_OF_LIGHT_M_S

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
        if self.uplink:
            measures |= self._sky_measures()
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

        cross = gain(np.abs(sender_m[:, None] - receiver_m), cell.pair_loss_db)
        direct = np.diagonal(cross).copy()
        np.fill_diagonal(cross, 0.0)
        ways = {
            "direct_gain": direct,
            "cellular_interference": self._cellular_w * gain(np.abs(user_m - receiver_m[:, None]), cell.pair_loss_db),
            "cross_gain": cross,
        }
        if self.uplink is None:
            ways["cellular_snr"] = self._cellular_w * gain(np.abs(user_m), cell.base_loss_db)
            to_base = gain(np.abs(sender_m), cell.base_loss_db)
            ways["interference_gain"] = np.repeat(to_base[:, None], m, axis=1)
        return ways

    def _draw(self) -> Game:
        """The next slot's game: every mean gain times the power of its fading, or what reaches the satellite."""
        cell = self.settings.cell
        if cell.fading == "rayleigh":
            gains = {name: mean * self._rng.standard_exponential(mean.shape) for name, mean in self._mean.items()}
        else:
            gains = {name: mean.copy() for name, mean in self._mean.items()}
        if self.uplink is not None:
            turn = self._turn()
            if turn is None:
                gains["cellular_snr"] = np.zeros(cell.n_channels)
                gains["interference_gain"] = np.zeros((cell.n_pairs, cell.n_channels))
                gains["cellular_interference"] *= 0.0  # whom nobody serves does not send
            else:
                reach = self._reaches[self.uplink.turn_of[self.slot]].gain[self.slot - turn.first]
                gains["cellular_snr"] = self._cellular_w * np.diagonal(reach)
                gains["interference_gain"] = reach[cell.n_channels :]
        return Game(
            **gains,
            power_w=self.power_w,
            leader_weight=self.settings.leader_weight,
            follower_weight=self.settings.follower_weight,
        )

    def _uplink(self, folder: Path) -> Uplink | None:
        sky, site, link = self.settings.sky, self.settings.site, self.settings.link
        if sky is None and site is None and link is None:
            return None
        if sky is None or site is None or link is None:
            tables = {"sky": sky, "site": site, "link": link}
            missing = [name for name, table in tables.items() if table is None]
            raise ScenarioError(
                "the tables sky, site and link go together, all for a satellite, none for a cell on the ground: "
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            )
        uplink = Uplink(self.settings.cell, sky, site, link, slots=self.slots, slot_s=self.slot_s, folder=folder)
        self.inputs["tle_sha256"] = sky.sha256(folder)
        return uplink

    def _turn(self) -> Turn | None:
        """Who serves in this slot."""
        assert self.uplink is not None
        i = self.uplink.turn_of[self.slot]
        return self.uplink.turns[i] if i >= 0 else None

    def _sky_measures(self) -> dict[str, np.ndarray]:
        """Who serves, how high, and whether most cellular users have line of sight to it; zeros where nobody does."""
        assert self.uplink is not None
        turn, number, elevation_deg, los = self._turn(), 0, 0.0, False
        if turn is not None:
            row = self.slot - turn.first
            seen = self._reaches[self.uplink.turn_of[self.slot]].los[row, : self.settings.cell.n_channels]
            number, elevation_deg, los = turn.number, turn.now.elevation_deg[row], 2 * seen.sum() > seen.size
        return {
            "satellite": np.array(number, dtype=np.int64),
            "elevation_deg": np.array(elevation_deg),
            "los": np.array(los),
        }

    def _seats(self, agents: Mapping[str, Any]) -> tuple[Agent, ...]:
        n, m = self.settings.cell.n_pairs, self.settings.cell.n_channels
        least_w, most_w = (float(power_w) for power_w in self.power_w)
        price = Field("price", (n, m), low=0.0, high=MOST_PRICE)
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
            seats.append(
                Agent(
                    name=name,
                    observes=observes,
                    acts=acts[name],
                    order=order,
                    facts=facts | {f"default_{field}": value.copy() for field, value in self._default[name].items()},
                    **each_slot(agents, name),
                )
            )
        self._agent = {agent.name: agent for agent in seats}
        return tuple(seats)


def _on_disc(uniform: np.ndarray, radius_m: float) -> np.ndarray:
    """Points spread evenly over a disc around 0, east + 1j north in m, (n,), from (n, 2) uniform draws."""
    return radius_m * np.sqrt(uniform[:, 0]) * np.exp(2j * np.pi * uniform[:, 1])
