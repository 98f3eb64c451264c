"""Levels of a flown world: windows to fly, a plain drive for learning claims, and the ceilings they are held against.

`fly` is a second, shorter writing of twin.runner.drive for `ntn_cell` with both controllers in this process. The
ceilings look at the true channel, which no controller ever sees.
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np

from controllers.baselines import Greedy, enough_groups
from twin.channel import beam_factor
from twin.geometry import beam_angles_deg
from twin.types import Action, Observation
from twin.units import BOLTZMANN_J_K, MEGA
from twin.worlds.ntn_cell import NtnCell, Settings

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"
HIGH_PASS = "2022-02-22T13:08:55Z"  # STARLINK-1102 stands above 30 deg for 235 s, up to 81.8 deg
BUSY_WINDOW = "2022-02-22T13:25:20Z"  # nobody for 5 s, a pass, a handover at 172 s, a gap from 235 to 331 s, a pass
BUSY_SLOTS = 3_400


def make_world(start_utc=HIGH_PASS, slots=300, agents=None, sky=None, **tables) -> NtnCell:
    """A Starlink window over one site; `agents` by `timing`, `sky` and further tables as in a scenario file."""
    site = {"latitude_deg": 43.5, "longitude_deg": -80.5, "altitude_m": 330.0}
    whole = {"tle": "tle/leo-2022-02-22.tle.xz", "name": "STARLINK", "start_utc": start_utc, **(sky or {})}
    settings = msgspec.convert({"sky": whole, "site": site, **tables}, Settings)
    return NtnCell(settings, slots=slots, slot_s=0.1, folder=SCENARIOS, agents=agents)


def timing(every=None, delay=0) -> SimpleNamespace:
    """What a scenario's table agent.NAME says to the world."""
    return SimpleNamespace(every=every, delay=delay, window=None)


def greedy_pair(world) -> tuple[Greedy, Greedy]:
    """Greedy on both seats."""
    return Greedy(world.agents[0], 1), Greedy(world.agents[1], 2)


@dataclass(frozen=True)
class Level:
    """Means over the slots in which a satellite served.

    served_mbit, omega_mbit  Mbit per slot: carried demand, and demand that was not met
    groups                   groups used
    reward                   per slot, by agent
    measures                 by name, every slot of the flight stacked
    """

    served_mbit: float
    omega_mbit: float
    groups: float
    reward: dict[str, float]
    measures: dict[str, np.ndarray] = field(repr=False)


class Log:
    """Collects the outcomes of a flight."""

    def __init__(self, slot_s: float):
        self.slot_s, self.outcomes = slot_s, []

    def level(self) -> Level:
        measures = {name: np.array([o.measures[name] for o in self.outcomes]) for name in self.outcomes[0].measures}
        serving = measures["satellite"] != 0
        assert serving.any(), "nothing served in this window"
        mbit = self.slot_s / MEGA
        return Level(
            served_mbit=float(measures["served_bps"][serving].mean() * mbit),
            omega_mbit=float(np.maximum(measures["demand_bps"] - measures["rate_bps"], 0.0)[serving].mean() * mbit),
            groups=float(measures["used_rb"].sum(axis=1)[serving].mean()),
            reward={name: float(np.mean([o.reward[name] for o in self.outcomes])) for name in self.outcomes[0].reward},
            measures=measures,
        )


class Seated:
    """A controller with what the runner keeps for it: its learning job, which is adopted `learn_delay` slots later."""

    def __init__(self, controller, learn_delay: int):
        self.controller, self.learn_delay = controller, learn_delay
        self.pending: tuple[int, object] | None = None  # the slot from which the result holds, and the result

    def answer(self, seen: Observation) -> Action:
        self.adopt(seen.slot)
        action = self.controller.act(seen)
        learn = getattr(self.controller, "learn", None)
        if learn is not None and self.pending is None:
            job = learn()
            if callable(job):
                self.pending = (seen.slot + self.learn_delay, job())
        return action

    def adopt(self, slot: float) -> None:
        if self.pending is not None and slot >= self.pending[0]:
            result, self.pending = self.pending[1], None
            self.controller.adopt(result)


def fly(world, leo, ue, seed: int, learn_delay: int = 10) -> Level:
    """Drive a world over its whole window with two controllers in this process, signals and learning included.

    The controllers are objects and may be flown again, to learn over several windows: what is still being learned at
    the end of a flight is adopted then. `learn` is skipped for controllers that have none.
    """
    world.reset(seed)
    seats = {"leo": Seated(leo, learn_delay), "ue": Seated(ue, learn_delay)}
    agents = sorted(world.agents, key=lambda a: a.order)
    earned = {a.name: None for a in agents}
    inbox = {a.name: {} for a in agents}
    owed = {a.name: {} for a in agents}  # answers by the slot in which they take effect
    log = Log(world.slot_s)
    for a in agents:
        world.apply(a.name, world.default(a.name))

    def take_effect(a, slot):
        action = owed[a.name].pop(slot, None)
        if action is not None:
            world.apply(a.name, action.values)
            for to, arrays in action.signals.items():
                inbox[to][a.name] = arrays

    for slot in range(world.slots):
        for a in agents:
            take_effect(a, slot)
        for a in agents:
            if slot % a.every == 0:
                seen = Observation(a.name, slot, world.observe(a.name), earned[a.name], False, inbox[a.name])
                earned[a.name], inbox[a.name] = 0.0, {}
                owed[a.name][slot + a.delay] = seats[a.name].answer(seen)
                if a.delay == 0:
                    take_effect(a, slot)
        outcome = world.step()
        for name, reward in outcome.reward.items():
            earned[name] = (earned[name] or 0.0) + reward
        log.outcomes.append(outcome)
    for seat in seats.values():
        seat.adopt(np.inf)
    return log.level()


def genie_greedy(world, seed: int) -> Level:
    """Both beams exact in every slot, groups by falling true rate until the demand is met."""
    return _greedy(world, seed, lambda t: (t.service.now.tx_beam_deg[t.row], t.service.now.rx_beam_deg[t.row]))


def bfs_greedy(world, seed: int, step_deg: float = 10.0) -> Level:
    """The best beams of a grid in every slot, by the true channel, and groups as `genie_greedy`.

    The departures of all paths are one direction to 0.01 deg, so the transmit beam is the grid's best for the LOS
    departure; the receive beam is the best of the whole grid by true summed rate.
    """
    steps = np.arange(0.0, 180.0, step_deg)
    grid_deg = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    return _greedy(world, seed, lambda truth: sweep(world.link, truth, grid_deg))


def angles_deg(cosines: np.ndarray) -> np.ndarray:
    """Theta and phi of direction cosines (..., 2) before a panel."""
    x, y = cosines[..., 0], cosines[..., 1]
    return beam_angles_deg(np.stack([x, y, np.sqrt(np.maximum(0.0, 1.0 - x * x - y * y))], axis=-1))


def sweep(link, truth, grid_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The transmit and receive beams of a grid (n_beams, 2) that are best in a slot whose truth is known."""
    service, row, fading, gain = truth
    towards_tx = service.now.tx_beam_deg[row]
    tx_deg = grid_deg[np.argmax(np.abs(beam_factor(grid_deg, towards_tx, link.tx_antennas)))]
    paths_tx = beam_factor(tx_deg, angles_deg(fading.departure[row]), link.tx_antennas)  # (n_paths,)
    paths_rx = beam_factor(grid_deg[:, None], angles_deg(fading.arrival[row]), link.rx_antennas)  # (n_beams, n_paths)
    frequency_hz = np.arange(link.n_rb) * link.rb_bandwidth_hz
    rotation = np.exp(-2j * np.pi * fading.delay_s[row][:, None] * frequency_hz)  # (n_paths, n_rb)
    h = (paths_rx * (fading.amplitude[row] * np.conj(paths_tx))) @ rotation
    noise_w = BOLTZMANN_J_K * link.noise_temperature_k * link.rb_bandwidth_hz
    snr = link.tx_power_w * gain * np.abs(h) ** 2 / noise_w
    return tx_deg, grid_deg[np.argmax(np.log2(1.0 + snr).sum(axis=1))]


def _greedy(world, seed: int, beams) -> Level:
    world.reset(seed)
    log = Log(world.slot_s)
    everything = np.ones(world.link.n_groups, bool)
    for _ in range(world.slots):
        truth = world.truth()
        tx_deg, rx_deg = beams(truth) if truth else (np.full(2, 90.0), np.full(2, 90.0))
        demand_bps = float(world.observe("ue")["demand_bps"])
        used = enough_groups(world.group_rates(tx_deg, rx_deg), demand_bps, everything)
        world.apply("leo", {"tx_beam_deg": tx_deg, "reserved_rb": everything})
        world.apply("ue", {"rx_beam_deg": rx_deg, "used_rb": used})
        log.outcomes.append(world.step())
    return log.level()
