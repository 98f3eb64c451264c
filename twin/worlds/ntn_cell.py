"""The earth-fixed cell: one terminal, the satellites that pass over it, and two seats on two time scales.

The seat `leo` steers the transmit beam of whichever satellite serves and reserves groups of resource blocks, once per
control cycle; the seat `ue` steers the terminal's beam and uses groups out of the reserved ones, in every slot. A run
is a window of time without jumps: between passes nothing serves, and the seats are still asked.

Who serves is a matter of geometry alone and is settled at construction. Channels and demand follow from the seed alone
and are drawn at reset, so that nothing the seats do can move them and nothing heavy happens inside a slot.
Angles are (theta, phi) in the frames of twin.geometry; the equations numbered here are those of arXiv 2402.04865.
"""

import hashlib
import math
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from twin.channel import Fading, Link, draw_fading, path_gain, slot_link
from twin.channel.trace import LinkTrace, link_trace
from twin.errors import ScenarioError
from twin.faults import ClockSkew, Fault, Span, StaleTle, spans
from twin.geometry import Pointing, Site, pointing
from twin.overpass import Passes
from twin.types import Agent, Arrays, Field, Outcome
from twin.units import MEGA, SPEED_OF_LIGHT_M_S, from_db, to_db
from twin.worlds.sky import Sky, check_length, sky_over, turns
from twin.worlds.sky_faults import Orbit, last_of, loss_db, older, told_orbit

SNR_FLOOR_DB = -30.0  # stands for "no signal", so that observations stay finite
BORESIGHT_DEG = (90.0, 90.0)
MOST_CHANNEL_BYTES = 2**32  # of a run, drawn at reset; ten days in slots of 0.1 s are 2 GB with the default four paths
CYCLE_SLOTS = 10  # control cycle of `leo` where the scenario gives none: T, our choice (docs/papers/ntn_cell.md)


class Demand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scenario's table [demand]: what the terminal asks for in a slot, Poisson counts of a unit."""

    unit_bit: Annotated[
        float, Meta(gt=0, le=1e12, description="one unit of demand, bit per slot: scale it with slot_s")
    ] = 10e6
    mean_units: Annotated[float, Meta(ge=0, le=1e6, description="mean number of units per slot")] = 2.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tables and keys of a scenario that belong to this world."""

    sky: Sky
    site: Site
    link: Link = Link()
    demand: Demand = Demand()
    eta: Annotated[float, Meta(ge=0, le=1e6, description="weight of unmet demand in the ue's reward, eq. (23)")] = 1.0
    reward_buffer: (
        Annotated[
            int,
            Meta(
                ge=1, description="the ue's reward is the mean of so many slots; not set: 1, or 10 where paper_literal"
            ),
        ]
        | None
    ) = None
    paper_literal: Annotated[bool, Meta(description="the paper's scheme to the letter, which does not learn")] = False


@dataclass(frozen=True, eq=False)
class Service:
    """One satellite's turn: whole control cycles, all above the mask. Arrays have one row per slot from `first` on.

    index          of the satellite in the ephemeris
    orbit          its way, as whoever is told of this turn knows it
    number         catalogue number
    first, end     slots; `end` is the first one after
    position_m     (n_slots, 3)  at the start of the slot
    now            directions at the start of the slot
    middle_tx_deg  (n_slots, 2)  the terminal in the satellite's frame half a cycle after the start of the slot
    """

    index: int
    orbit: Orbit
    number: int
    first: int
    end: int
    position_m: np.ndarray
    now: Pointing
    middle_tx_deg: np.ndarray


class Truth(NamedTuple):
    """What holds in one slot and no seat is told.

    service, row  who serves, and which row of its arrays this slot is
    fading        of the whole pass; link.samples_per_slot rows a slot
    gain          (samples_per_slot,)  linear, path gain without the array gain, after what blockage and rain take
    """

    service: Service
    row: int
    fading: Fading
    gain: np.ndarray


class NtnCell:
    """The world; see the module. Satisfies twin.types.World.

    settings  the scenario's tables
    slots     length of the run; observations exist up to and including slot `slots`
    slot_s    length of a slot, s
    folder    where a relative path of element sets starts
    agents    timing of the seats "leo" and "ue": objects with every (None for the world's own), delay, window
    faults    the scenario's; those of the sky are played

    Raises ScenarioError for timing that cannot be flown, for a satellite name that fits none and for channels that take
    more than 4 GiB; TleError for a file.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        slots: int,
        slot_s: float,
        folder: str | Path,
        agents: Mapping[str, Any] | None = None,
        faults: Sequence[Fault] = (),
    ):
        self.settings, self.slots, self.slot_s = settings, slots, slot_s
        self.link, self.site = settings.link, settings.site
        self.buffer = settings.reward_buffer or (10 if settings.paper_literal else 1)
        every, delay, window = _timing(agents or {})
        self.cycle_slots = every["leo"]
        self._observed_slots = slots + every["leo"] + max(delay.values())
        check_length(self._observed_slots * slot_s, "slots, slot_s and delays")
        self.sky, above = sky_over(settings.sky, self.site, folder, self._observed_slots * slot_s)
        self.inputs = {"tle_sha256": settings.sky.sha256(folder)}
        self.services = self._services(above)
        self.faults = tuple(faults)
        numbers = [service.number for service in self.services]
        self._older = older(self.faults, Path(folder), numbers, settings.sky.start_utc, self.sky.seconds)
        for i in self._older:
            content = (Path(folder) / str(self.faults[i].tle)).read_bytes()  # type: ignore[union-attr]
            self.inputs[f"faults[{i}].tle_sha256"] = hashlib.sha256(content).hexdigest()
        self._check_size()
        if not self.services:
            warnings.warn("no satellite serves in this window; `ntn-twin passes` says who passes when", stacklevel=2)
        self._service_of = np.full(max([self._observed_slots] + [s.end for s in self.services]), -1)
        for i, service in enumerate(self.services):
            self._service_of[service.first : service.end] = i
        self._told, self._told_at = [self.services], np.zeros(len(self._service_of), dtype=int)
        self.slot = 0
        facts = self._facts(delay)
        spaces = {"leo": (self._leo_observes(), "tx_beam_deg", "reserved_rb")}
        spaces["ue"] = (self._ue_observes(), "rx_beam_deg", "used_rb")
        self.agents = tuple(
            Agent(
                name=name,
                observes=observes,
                acts=(_beam(beam), Field(groups, (self.link.n_groups,), "bool")),
                every=every[name],
                order=order,
                delay=delay[name],
                window=window[name],
                facts=facts | {"start_beam_deg": self._default_beam_deg(name)},
            )
            for order, (name, (observes, beam, groups)) in enumerate(spaces.items())
        )
        self._agent = {agent.name: agent for agent in self.agents}
        self.reset(0)
        if self.services:  # a first call compiles the slot's kernel, or loads it: not when a clock is running
            self.slot = self.services[0].first
            self.group_rates(BORESIGHT_DEG, BORESIGHT_DEG)
            self.slot = 0

    def reset(self, seed: int) -> None:
        """Begin at slot 0. Each pass has a generator of its own: its channel does not depend on the window's length."""
        self.seed, demand = seed, self.settings.demand
        units = np.random.default_rng([seed, 2]).poisson(demand.mean_units, self.slots + 1)
        self._demand_bps = units * demand.unit_bit / self.slot_s
        self._channels = [self._channel(service) for service in self.services]
        found = spans(self.faults, self.slot_s, seed)
        loss = loss_db(found, len(self._service_of), self.slot_s, self.slots * self.slot_s)
        self._passed = from_db(-loss)  # of the serving link's power, in each slot
        self._tell(found, seed)
        self.slot = 0
        n_groups, n_rx = self.link.n_groups, math.prod(self.link.rx_antennas)
        self._beam_deg = {name: self._default_beam_deg(name) for name in ("leo", "ue")}
        self._groups = {name: np.ones(n_groups, bool) for name in ("leo", "ue")}
        self._used_snr_db = np.full(n_groups, SNR_FLOOR_DB)
        self._strength = np.zeros(n_rx)
        self._cycle_snr_db = np.full(self.cycle_slots, SNR_FLOOR_DB)
        self._recent_rewards: deque[float] = deque(maxlen=self.buffer)

    def default(self, agent: str) -> Arrays:
        """The beam where the geometry seats are told has the other end, and all groups; of the ue's, the reserved."""
        beam, groups = (field.name for field in self._agent[agent].acts)
        return {beam: self._default_beam_deg(agent), groups: np.ones(self.link.n_groups, bool)}

    def propagation_delay_s(self, sender: str, receiver: str) -> float:
        """Slant range of the serving satellite over the speed of light, either way, s; infinite where none serves."""
        service = self._serving(self.slot)
        if service is None:
            return math.inf
        return float(service.now.slant_range_m[self.slot - service.first]) / SPEED_OF_LIGHT_M_S

    def observe(self, agent: str) -> Arrays:
        """What a seat sees at the start of this slot: measurements of the slots before, geometry from the ephemeris.

        Of the satellite that serves first while the answer is in force: predicted_beam_deg, ephemeris_m, ephemeris_s.
        These and position_m are what seats are told, which faults may keep apart from the truth.
        """
        every, delay = self._agent[agent].every, self._agent[agent].delay
        now, governed = self._serving(self.slot), slice(self.slot + delay, self.slot + delay + every)
        serving = np.flatnonzero(self._service_of[governed] >= 0)  # a pass may begin inside the cycle that is governed
        from_slot = governed.start + (int(serving[0]) if serving.size else 0)
        told = self._told[self._told_at[self.slot]]
        ahead = self._serving(from_slot, told)
        coefficients_m, span_s = np.zeros((3, 8)), np.array([0.0, 1.0])
        predicted_deg = np.array(BORESIGHT_DEG)
        if ahead is not None:
            row = from_slot - ahead.first
            coefficients_m, span_s = ahead.orbit.segment(from_slot * self.slot_s)
            predicted_deg = (ahead.middle_tx_deg if agent == "leo" else ahead.now.rx_beam_deg)[row]
        seen = {
            "satellite": np.array(now.number if now else 0, dtype=np.int64),
            "serving": np.array(now is not None),
            "new_pass": np.array(now is not None and self.slot - now.first < every),
            "ephemeris_m": np.array(coefficients_m),
            "ephemeris_s": np.array(span_s),
            "predicted_beam_deg": np.array(predicted_deg),
            "reserved_rb": self._groups["leo"].copy(),
        }
        if agent == "leo":
            where = self._serving(self.slot, told)
            return seen | {
                "position_m": np.array(where.position_m[self.slot - where.first]) if where else np.zeros(3),
                "tx_beam_deg": self._beam_deg["leo"].copy(),
                "slot_snr_db": np.roll(self._cycle_snr_db, -(self.slot % self.cycle_slots)),
            }
        return seen | {
            "snr_db": self._used_snr_db.copy(),
            "antenna_strength": self._strength.copy(),
            "demand_bps": np.array(self._demand_bps[self.slot]),
            "rx_beam_deg": self._beam_deg["ue"].copy(),
        }

    def apply(self, agent: str, action: Arrays) -> None:
        """Put a beam and a set of groups in force."""
        beam, groups = (field.name for field in self._agent[agent].acts)
        self._beam_deg[agent] = np.array(action[beam], dtype=float)
        self._groups[agent] = np.array(action[groups], dtype=bool)

    def truth(self) -> Truth | None:
        """What holds in this slot, for ceilings and tests, never for seats; None where nothing serves."""
        service = self._serving(self.slot)
        if service is None:
            return None
        row, samples = self.slot - service.first, self.link.samples_per_slot
        fading, gain = self._channels[self._service_of[self.slot]]
        return Truth(service, row, fading, gain[row * samples : (row + 1) * samples] * self._passed[self.slot])

    def group_rates(self, tx_beam_deg, rx_beam_deg) -> np.ndarray:
        """Rate of every group in this slot with the true channel, without playing it: for ceilings, never for seats.

        tx_beam_deg, rx_beam_deg  (2,)  degrees

        Returns (n_groups,) bit/s; zeros where nothing serves.
        """
        return self._play(self.truth(), tx_beam_deg, rx_beam_deg, np.ones(self.link.n_groups, bool))[1]

    def link_trace(self, turn: int, **options: Any) -> LinkTrace:
        """Everything the link does over one turn of `services` with this seed: for files and plots, never for seats.

        options  samples, part, tx_beam_deg, rx_beam_deg, threads of twin.channel.trace.link_trace
        """
        service = self.services[turn]
        return link_trace(
            self.link,
            self.site,
            service.orbit,
            first=service.first,
            end=service.end,
            slot_s=self.slot_s,
            rng=self._generator(service),
            passed=self._passed[service.first : service.end],
            **options,
        )

    def step(self) -> Outcome:
        """Play one slot: the link with the beams in force, the groups that are used and reserved, eq. (20) and (23)."""
        truth, slot_s = self.truth(), self.slot_s
        tx_deg, rx_deg = self._beam_deg["leo"], self._beam_deg["ue"]
        reserved = self._groups["leo"]
        used = self._groups["ue"] & reserved
        n_used = int(used.sum())
        demand_bps = float(self._demand_bps[self.slot])
        snr, rate_bps, strength = self._play(truth, tx_deg, rx_deg, used)
        snr_db = np.maximum(to_db(snr), SNR_FLOOR_DB)
        total_bps = float(rate_bps @ used)
        mean_bps = total_bps / n_used if n_used else 0.0  # none of an empty set: (20) and (23) would divide by its size
        mean_snr = float(snr @ used) / n_used if n_used else 0.0

        leo = ue = 0.0
        if truth is None:
            self._recent_rewards.clear()
        else:
            met, missing_bps = total_bps >= demand_bps, min(total_bps - demand_bps, 0.0)
            leo = met * mean_bps * slot_s / MEGA / self.cycle_slots
            self._recent_rewards.append((mean_bps + self.settings.eta * missing_bps) * slot_s / MEGA)
            ue = math.fsum(self._recent_rewards) / len(self._recent_rewards)

        self._used_snr_db = np.where(used, snr_db, SNR_FLOOR_DB)
        self._strength = strength
        self._cycle_snr_db[self.slot % self.cycle_slots] = max(float(to_db(mean_snr)), SNR_FLOOR_DB)
        measures = _sky_measures(truth, tx_deg, rx_deg) | {
            "snr_db": snr_db,
            "rate_bps": np.array(total_bps),
            "served_bps": np.array(min(total_bps, demand_bps)),
            "demand_bps": np.array(demand_bps),
            "used_rb": used,
            "reserved_rb": reserved.copy(),
        }
        self.slot += 1
        return Outcome({"leo": leo, "ue": ue}, measures, done=self.slot >= self.slots)

    def _serving(self, slot: int, services: Sequence[Service] | None = None) -> Service | None:
        i = self._service_of[slot]
        return (services or self.services)[i] if i >= 0 else None

    def _tell(self, found: list[Span], seed: int) -> None:
        """Which geometry seats are told in each slot: the true turns, or what faults make of them."""
        n_slots = len(self._service_of)
        self._told, self._told_at = [self.services], np.zeros(n_slots, dtype=int)
        stale, skew = last_of(StaleTle, found, n_slots), last_of(ClockSkew, found, n_slots)
        for i, j in sorted(set(zip(stale.tolist(), skew.tolist())) - {(-1, -1)}):
            self._told_at[(stale == i) & (skew == j)] = len(self._told)
            old, ahead = (self.faults[k] if k >= 0 else None for k in (i, j))
            turns_told = []
            for n, true in enumerate(self.services):
                orbit = Orbit(self._older[i], n) if i in self._older else true.orbit
                orbit = told_orbit(orbit, true.number, true.first * self.slot_s, old, i, ahead, seed)
                turns_told.append(self._service(orbit, true.index, true.number, true.first, true.end))
            self._told.append(turns_told)

    def _play(self, truth: Truth | None, tx_beam_deg, rx_beam_deg, used: np.ndarray):
        """SNR (n_groups,), rate (n_groups,) bit/s and antenna strength (n_rx,); zeros where nothing serves."""
        if truth is None:
            n_groups, n_rx = self.link.n_groups, math.prod(self.link.rx_antennas)
            return np.zeros(n_groups), np.zeros(n_groups), np.zeros(n_rx)
        first = truth.row * self.link.samples_per_slot
        return slot_link(self.link, truth.fading, first, truth.gain, tx_beam_deg, rx_beam_deg, used)

    def _generator(self, service: Service) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1, service.first])

    def _channel(self, service: Service) -> tuple[Fading, np.ndarray]:
        now, samples = service.now, self.link.samples_per_slot
        if samples > 1:
            t_s = (service.first + np.arange(samples * (service.end - service.first)) / samples) * self.slot_s
            now = pointing(*service.orbit.state(t_s), self.site)
        fading = draw_fading(self._generator(service), self.link, now, self.slot_s, samples)
        return fading, path_gain(self.link, now.slant_range_m, now.elevation_deg, fading.los, fading.shadow_db)

    def _check_size(self) -> None:
        for first in self.services[:1]:
            slot = draw_fading(np.random.default_rng(0), self.link, first.now[:1], self.slot_s)
            n_rows = self.link.samples_per_slot * sum(service.end - service.first for service in self.services)
            n_bytes = n_rows * sum(array.nbytes for array in vars(slot).values())
            if n_bytes > MOST_CHANNEL_BYTES:
                raise ScenarioError(
                    f"link.samples_per_slot = {self.link.samples_per_slot}, with the {slot.amplitude.shape[1]} paths "
                    f"of link.multipath = {self.link.multipath!r}, makes {n_bytes / 2**30:.1f} GiB over the whole "
                    f"passes of this run, more than {MOST_CHANNEL_BYTES / 2**30:g}: take fewer samples or paths, or "
                    "fewer slots"
                )

    def _services(self, above: Passes) -> list[Service]:
        cycle_s = self.cycle_slots * self.slot_s
        n_cycles = math.ceil(self._observed_slots / self.cycle_slots)
        return [
            self._service(
                Orbit(self.sky, p.satellite_index),
                p.satellite_index,
                p.number,
                first * self.cycle_slots,
                end * self.cycle_slots,
            )
            for p, first, end in turns(above, cycle_s, n_cycles)
        ]

    def _service(self, orbit: Orbit, index: int, number: int, first: int, end: int) -> Service:
        slot = np.arange(first, end)
        position_m, velocity_m_s = orbit.state(slot * self.slot_s)
        middle = orbit.state(np.minimum(slot + self.cycle_slots / 2, end) * self.slot_s)
        now = pointing(position_m, velocity_m_s, self.site)
        return Service(
            index=index,
            orbit=orbit,
            number=number,
            first=first,
            end=end,
            position_m=position_m,
            now=replace(now, rx_beam_deg=np.clip(now.rx_beam_deg, 0.0, 180.0)),  # old elements may be below the horizon
            middle_tx_deg=np.clip(pointing(*middle, self.site).tx_beam_deg, 0.0, 180.0),
        )

    def _default_beam_deg(self, agent: str) -> np.ndarray:
        service = self._serving(self.slot, self._told[self._told_at[self.slot]])
        if service is None:
            return np.array(BORESIGHT_DEG)
        beams_deg = service.middle_tx_deg if agent == "leo" else service.now.rx_beam_deg
        return np.array(beams_deg[self.slot - service.first])

    def _facts(self, delay: Mapping[str, int]) -> dict[str, np.ndarray]:
        demand = self.settings.demand
        scalars = msgspec.structs.asdict(self.site) | {
            "slot_s": self.slot_s,
            "cycle_slots": self.cycle_slots,
            "leo_delay": delay["leo"],
            "ue_delay": delay["ue"],
            "n_groups": self.link.n_groups,
            "demand_unit_bit": demand.unit_bit,
            "demand_mean_units": demand.mean_units,
            "eta": self.settings.eta,
            "paper_literal": self.settings.paper_literal,
            "snr_floor_db": SNR_FLOOR_DB,
        }
        return (
            dict(self.link.facts())
            | {"site_position_m": np.array(self.site.position_m)}
            | {name: np.array(value) for name, value in scalars.items()}
        )

    def _seat_observes(self) -> tuple[Field, ...]:
        return (
            Field("satellite", (), "int64", 0),
            Field("serving", (), "bool"),
            Field("new_pass", (), "bool"),
            Field("ephemeris_m", (3, 8)),
            Field("ephemeris_s", (2,)),
            _beam("predicted_beam_deg"),
            Field("reserved_rb", (self.link.n_groups,), "bool"),
        )

    def _leo_observes(self) -> tuple[Field, ...]:
        return self._seat_observes() + (
            Field("position_m", (3,)),
            _beam("tx_beam_deg"),
            Field("slot_snr_db", (self.cycle_slots,), low=SNR_FLOOR_DB),
        )

    def _ue_observes(self) -> tuple[Field, ...]:
        return self._seat_observes() + (
            Field("snr_db", (self.link.n_groups,), low=SNR_FLOOR_DB),
            Field("antenna_strength", (math.prod(self.link.rx_antennas),), low=0.0),
            Field("demand_bps", (), low=0.0),
            _beam("rx_beam_deg"),
        )


def _sky_measures(truth: Truth | None, tx_beam_deg: np.ndarray, rx_beam_deg: np.ndarray) -> dict[str, np.ndarray]:
    number, elevation_deg, los, tx_error_deg, rx_error_deg = 0, 0.0, False, 0.0, 0.0
    if truth is not None:
        now, row = truth.service.now, truth.row
        number, elevation_deg, los = (
            truth.service.number,
            now.elevation_deg[row],
            truth.fading.los[row * len(truth.gain)],
        )
        tx_error_deg = _between_deg(tx_beam_deg, now.tx_beam_deg[row])
        rx_error_deg = _between_deg(rx_beam_deg, now.rx_beam_deg[row])
    return {
        "satellite": np.array(number, dtype=np.int64),
        "elevation_deg": np.array(elevation_deg),
        "los": np.array(los),
        "tx_error_deg": np.array(tx_error_deg),
        "rx_error_deg": np.array(rx_error_deg),
    }


def _beam(name: str) -> Field:
    return Field(name, (2,), low=0.0, high=180.0)


def _timing(agents: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int], dict[str, float | None]]:
    every = {"leo": CYCLE_SLOTS, "ue": 1}
    for name in every:
        own = getattr(agents.get(name), "every", None)
        every[name] = own if own is not None else every[name]
        if every[name] < 1:
            raise ScenarioError(f"agent.{name}.every must be a positive whole number of slots, got {every[name]}")
    if every["ue"] != 1:
        raise ScenarioError(f"agent.ue.every must be 1, the ue of ntn_cell decides in every slot, got {every['ue']}")
    delay = {name: getattr(agents.get(name), "delay", 0) for name in every}
    return every, delay, {name: getattr(agents.get(name), "window", None) for name in every}


def _between_deg(a_deg: np.ndarray, b_deg: np.ndarray) -> float:
    """Angle between two beams; by half the chord, which stays exact where the cosine of a small angle does not."""
    (theta_a, phi_a), (theta_b, phi_b) = np.radians(a_deg).tolist(), np.radians(b_deg).tolist()
    half = (
        math.sin((phi_a - phi_b) / 2) ** 2 + math.sin(phi_a) * math.sin(phi_b) * math.sin((theta_a - theta_b) / 2) ** 2
    )
    return math.degrees(2 * math.asin(math.sqrt(min(half, 1.0))))
