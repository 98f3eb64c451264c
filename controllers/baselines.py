"""Controllers without learning. Hold and Random fit every seat; Greedy those with beams and groups of blocks.

Hold stays where it began, Random does anything that is allowed, around the predicted beam where there is one, Greedy
follows geometry and uses as few groups as it believes will do. A seat of `ntn_cell` acts with a beam and a set of
groups, whatever the two arrays are called.
"""

import numpy as np

from twin.channel import NominalLink
from twin.check import sample
from twin.geometry import Site, pointing
from twin.orbit import track
from twin.types import Action, Agent, Observation
from twin.units import from_db

STEP_DEG = 5.0  # the paper's unit angle: increments of the beam are multiples of it
REACH = {"leo": 1, "ue": 3}  # the largest increment of each tier, in steps: 9 and 49 beams


class Hold:
    """The same for ever: of a seat with a beam, the first predicted one and all groups; of others, the safe action."""

    def __init__(self, agent: Agent, seed: int):
        self.acts = [field.name for field in agent.acts]
        self.first: Action | None = None
        if "predicted_beam_deg" not in [field.name for field in agent.observes]:
            told = [f"default_{name}" for name in self.acts]
            if missing := [name for name in told if name not in agent.facts]:
                raise ValueError(f"the seat tells no safe action among its facts: {', '.join(missing)}")
            self.first = Action({name: np.array(agent.facts[fact]) for name, fact in zip(self.acts, told)})

    def act(self, seen: Observation) -> Action:
        if self.first is None:
            beam, groups = self.acts
            everything = np.ones_like(seen.values["reserved_rb"])
            self.first = Action({beam: seen.values["predicted_beam_deg"].copy(), groups: everything})
        return self.first


class Random:
    """A beam at random around the prediction, in the paper's increments, and a random set of at least one group.

    The leo draws among all groups, the ue among the reserved ones. On other seats: anything allowed.
    """

    def __init__(self, agent: Agent, seed: int):
        self.acts, self.rng = agent.acts, np.random.default_rng(seed)
        if agent.name in REACH:
            self.beam, self.groups = (field.name for field in agent.acts)
            self.reach, self.leads = REACH[agent.name], agent.name == "leo"

    def act(self, seen: Observation) -> Action:
        if "predicted_beam_deg" not in seen.values:
            return Action(sample(self.acts, self.rng))
        steps = self.rng.integers(-self.reach, self.reach + 1, 2)
        beam_deg = np.clip(seen.values["predicted_beam_deg"] + STEP_DEG * steps, 0.0, 180.0)
        reserved = seen.values["reserved_rb"]
        allowed = np.flatnonzero(np.ones_like(reserved) if self.leads else reserved)
        chosen = np.zeros(reserved.shape, bool)
        if allowed.size:
            subset = int(self.rng.integers(1, 2**allowed.size))  # every nonempty subset is as likely
            chosen[allowed] = [bool(subset >> k & 1) for k in range(allowed.size)]
        return Action({self.beam: beam_deg, self.groups: chosen})


class Greedy:
    """The beam where geometry says; the leo reserves all groups, the ue uses the best until the demand is met.

    A group is as good as when it was last used in this pass; one not used yet is as good as the nominal link says.
    """

    def __init__(self, agent: Agent, seed: int):
        facts = agent.facts
        self.beam, self.groups = (field.name for field in agent.acts)
        self.leads, self.delay, self.slot_s = agent.name == "leo", agent.delay, float(facts["slot_s"])
        self.floor_db = float(facts["snr_floor_db"])
        self.site = Site.from_facts(facts)
        self.nominal = NominalLink.from_facts(facts)
        self.last_bps = np.full(int(facts["n_groups"]), np.nan)
        overhead_m = np.zeros((3, 8))
        overhead_m[:, 0], overhead_m[:, 1] = 1.1 * self.site.position_m, 1.0
        once = {"ephemeris_m": overhead_m, "ephemeris_s": np.array([0.0, 1.0])}
        self._nominal_bps(Observation(agent.name, 0, once))  # compiles its kernels before a clock starts

    def act(self, seen: Observation) -> Action:
        values = seen.values
        beam_deg, reserved = values["predicted_beam_deg"], values["reserved_rb"]
        if self.leads:
            return Action({self.beam: beam_deg, self.groups: np.ones_like(reserved)})
        if values["new_pass"]:
            self.last_bps[:] = np.nan
        else:
            heard = values["snr_db"] > self.floor_db
            self.last_bps[heard] = self.nominal.group_rate_bps(from_db(values["snr_db"][heard]))
        expected_bps = self.last_bps.copy()
        if np.isnan(expected_bps).any():
            expected_bps[np.isnan(expected_bps)] = self._nominal_bps(seen)
        demand_bps = float(values["demand_bps"])
        return Action({self.beam: beam_deg, self.groups: enough_groups(expected_bps, demand_bps, reserved)})

    def _nominal_bps(self, seen: Observation) -> float:
        """Rate of a group expected in the slot that this answer governs, both beams as geometry says."""
        coefficients_m, span_s = seen.values["ephemeris_m"], seen.values["ephemeris_s"]
        if not coefficients_m.any():  # nothing will serve
            return 0.0
        at_s = np.array([(seen.slot + self.delay) * self.slot_s])
        where = pointing(*track(coefficients_m, span_s, at_s), self.site)
        snr = self.nominal.group_snr(where, where.tx_beam_deg, where.rx_beam_deg)
        return float(self.nominal.group_rate_bps(snr)[0])


def enough_groups(rate_bps: np.ndarray, demand_bps: float, allowed: np.ndarray) -> np.ndarray:
    """The fewest allowed groups, taken by falling rate, that meet the demand; all where none suffice, at least one.

    rate_bps    (n_groups,)  bit/s
    demand_bps  ()           bit/s
    allowed     (n_groups,)  bool

    Returns (n_groups,) bool. Checked by tests/test_baselines.py.
    """
    used = np.zeros(allowed.shape, bool)
    total_bps = 0.0
    for group in np.argsort(-rate_bps, kind="stable"):
        if allowed[group] and not (used.any() and total_bps >= demand_bps):
            used[group] = True
            total_bps += rate_bps[group]
    return used
