"""The real sky as a random-access system: terminals around a site, the satellites they see as access points.

Terminals stand still, so what changes is the sky. Every `users.refresh_s` the visible sets are found anew: a satellite
keeps its place in a terminal's list while it is seen, and a place that is free goes to the highest satellite that has
none. At the same instants each link's line of sight and shadow fading move on, and from them follows with which
probability a lone packet gets through: how often fading leaves it the SNR that it needs. Between these instants nothing
is computed, and nowhere are there arrays of terminals times satellites or of terminals times terminals.
"""

import math
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numba import njit

from twin.channel import Link, path_gain
from twin.channel.losses import los_probability, shadow_sigma_db
from twin.errors import ScenarioError
from twin.geometry import Site
from twin.orbit import ephemeris
from twin.overpass import sine_of
from twin.units import WGS84_RADIUS_M, from_db
from twin.visibility import Sites, site_array, visible_from
from twin.worlds.sky import Sky, check_length
from twin.worlds.sky_faults import SEGMENT_S

MOST_SATELLITE_S = 4e8  # satellites times seconds: 256 MB of polynomials
MOST_K_DB = 25.0  # the series of `rice_exceeds` begins with exp(-K), which must not vanish; fading is 0.4 dB there
MOST_TERMS = 1_000  # twice what that takes
PLAYED = {"los": "dwell", "shadow": "dwell", "multipath": "scatter"}  # of twin.channel's models, those moved on here

Share = Annotated[float, Meta(ge=0, le=1)]


class Users(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scenario's table [users]: terminals scattered around `site`, where there is a `sky`."""

    n: Annotated[int, Meta(ge=1, le=100_000, description="terminals")] = 25
    radius_m: Annotated[
        float,
        Meta(ge=0, le=2e7, description="they are scattered evenly over the ground up to this far from the site, m"),
    ] = 1.5e6
    most: Annotated[int, Meta(ge=1, le=16, description="access points a terminal may have at a time")] = 4
    arrival: Annotated[
        tuple[Share, Share],
        Meta(
            description="lowest and highest probability that a packet comes in a slot, drawn evenly for each terminal"
        ),
    ] = (0.0, 1.0)
    instance: Annotated[int, Meta(ge=0, description="seed of where they stand and of their probabilities")] = 0
    needed_snr_db: Annotated[
        float, Meta(ge=-50, le=100, description="SNR on a resource block that a packet needs to get through, dB")
    ] = 3.0
    refresh_s: Annotated[
        float, Meta(gt=0, le=3600, description="time between two looks at the sky, rounded to whole slots, s")
    ] = 1.0


def scattered_sites(users: Users, site: Site) -> tuple[Sites, np.ndarray]:
    """Where the terminals stand, and each one's probability of arrival (n,).

    Even over a spherical cap around the site (the Earth's flattening moves them by less than 0.4 % of the distance),
    all at the site's altitude, from numpy.random.default_rng(users.instance): n uniforms for the distance, n for the
    direction, n for the arrival. Checked by tests/test_access.py.
    """
    rng = np.random.default_rng(users.instance)
    cap = 1.0 - math.cos(min(users.radius_m / WGS84_RADIUS_M, math.pi))
    cosine = 1.0 - cap * rng.random(users.n)
    sine, direction_rad = np.sqrt(1.0 - cosine * cosine), 2.0 * np.pi * rng.random(users.n)
    up = np.stack([cosine, sine * np.sin(direction_rad), sine * np.cos(direction_rad)], axis=1)
    ecef = up @ site.axes[[2, 0, 1]]  # from zenith, east, north of the site
    latitude_deg = np.degrees(np.arcsin(np.clip(ecef[:, 2], -1.0, 1.0)))
    longitude_deg = np.degrees(np.arctan2(ecef[:, 1], ecef[:, 0]))
    lowest, highest = users.arrival
    arrival = lowest + (highest - lowest) * rng.random(users.n)
    return site_array(latitude_deg, longitude_deg, site.altitude_m), arrival


class SkyGraph:
    """Who sees whom with which success, looked at every `refresh_slots`; between two looks its arrays stand still.

    access_point   (n, K)           int64    satellite (its number in this list) at each place; -1: none
    success        (n, K)           float64  probability that a lone packet gets through; 0 where none
    elevation_deg  (n, K)           float64  0 where none
    los            (n, K)           bool     line of sight
    arrival        (n,)             float64
    satellite      (n_satellites,)  int64    catalogue numbers

    Random draws: at each look n K uniforms for the line of sight, then n K normals for the shadow fading, of
    default_rng([seed, 2]), used or not. Raises ScenarioError for settings that cannot be flown.
    """

    def __init__(
        self, sky: Sky, site: Site, link: Link, users: Users, *, slots: int, slot_s: float, folder: str | Path
    ):
        for key, word in PLAYED.items():
            if getattr(link, key) != word:
                raise ScenarioError(f"link.{key}: world access plays {word!r} only, got {getattr(link, key)!r}")
        if link.k_factor_db > MOST_K_DB:
            raise ScenarioError(
                f"link.k_factor_db: world access plays up to {MOST_K_DB:g} dB, got {link.k_factor_db:g}"
            )
        if users.arrival[0] > users.arrival[1]:
            raise ScenarioError(f"users.arrival is (lowest, highest), got {list(users.arrival)}")
        self.link, self.users, self.slot_s = link, users, slot_s
        self.refresh_slots = max(1, round(users.refresh_s / slot_s))
        seconds = (slots + 1) * slot_s
        check_length(seconds, "slots and slot_s")
        chosen = sky.satellites(folder)
        if len(chosen) * seconds > MOST_SATELLITE_S:
            raise ScenarioError(
                f"{len(chosen)} satellites over {seconds / 3600.0:.1f} h are more than fit in memory: fly fewer slots, "
                "or take fewer satellites with sky.name, sky.altitude_m or sky.inclination_deg"
            )
        self.sky = ephemeris(chosen, sky.start_utc, seconds, segment_s=SEGMENT_S)
        self.satellite = np.array([one.number for one in self.sky.satellites], dtype=np.int64)
        self.sine_mask = sine_of(sky.mask_deg)
        self.sites, self.arrival = scattered_sites(users, site)
        self.needed = float(from_db(users.needed_snr_db)) / (link.snr_per_gain * link.array_gain)
        self.inputs = {"tle_sha256": sky.sha256(folder)}
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin at slot 0, with new lists."""
        shape = (self.users.n, self.users.most)
        self._rng = np.random.default_rng([seed, 2])
        self.access_point = np.full(shape, -1, dtype=np.int64)
        self.los, self._shadow = np.zeros(shape, dtype=bool), np.zeros(shape)
        self.look(0)

    def look(self, slot: int) -> None:
        """Move on to a slot: lists, then line of sight and shadow fading, then success."""
        link, step_s = self.link, self.refresh_slots * self.slot_s
        position_m = self.sky.state(slot * self.slot_s)[0]
        seen = visible_from(position_m, self.sites, self.sine_mask, threads=1)
        fresh = np.empty(self.access_point.shape, dtype=np.bool_)
        settle(self.access_point, seen.offsets, seen.satellite_index, seen.elevation_deg, fresh)
        there = self.access_point >= 0
        uniform, normal = self._rng.random(there.shape), self._rng.standard_normal(there.shape)

        user, place = np.nonzero(there)
        line_m = position_m[self.access_point[user, place]] - self.sites.position_m.T[user]
        range_m = np.sqrt(np.einsum("ij,ij->i", line_m, line_m))
        elevation_deg = np.degrees(
            np.arcsin(np.clip(np.einsum("ij,ij->i", line_m, self.sites.up.T[user]) / range_m, -1, 1))
        )
        self.elevation_deg = np.zeros(there.shape)
        self.elevation_deg[there] = elevation_deg

        began, los = fresh[there], self.los[there]
        los = moved_los(
            los, began, uniform[there], los_probability(elevation_deg, link.tables), step_s / link.nlos_dwell_s
        )
        fade = np.where(began, 0.0, math.exp(-step_s / link.shadow_dwell_s))
        shadow = fade * self._shadow[there] + np.sqrt(1.0 - fade * fade) * normal[there]
        self.los[:], self._shadow[:] = False, 0.0
        self.los[there], self._shadow[there] = los, shadow
        shadow_db = shadow * shadow_sigma_db(elevation_deg, los, link.tables)
        gain = path_gain(link, range_m, elevation_deg, los, shadow_db)
        self.success = np.zeros(there.shape)
        self.success[there] = rice_exceeds(self.needed / gain, np.where(los, from_db(link.k_factor_db), 0.0))


def moved_los(
    los: np.ndarray, began: np.ndarray, uniform: np.ndarray, probability: np.ndarray, share: float
) -> np.ndarray:
    """Line of sight at the next look: one step of twin.channel's `dwell` chain for many links at once; all (n,).

    los          bool   at the look before
    began        bool   a link that was not there then: drawn from the stationary law
    uniform             draws from [0, 1)
    probability         stationary, at the elevation of now
    share        ()     of the mean time without line of sight that has gone by

    Checked by tests/test_access.py against twin.channel.large_scale.draw_los.
    """
    with np.errstate(divide="ignore"):
        leave_nlos = np.minimum(probability / (1.0 - probability), min(1.0, share))
    stays = uniform * probability >= leave_nlos * (1.0 - probability)
    return np.where(began, uniform < probability, np.where(los, stays, uniform < leave_nlos))


def rice_exceeds(needed: np.ndarray, k_factor: np.ndarray) -> np.ndarray:
    """Probability that fading of unit mean power exceeds what is needed: Marcum's Q of order 1.

    needed    (n,)  linear, over the mean power, 0 or more
    k_factor  (n,)  linear: power of the direct path over that of the scattered ones; 0 is Rayleigh's law

    Given that a Poisson count of mean K is j, twice (K + 1) times the power has a chi-square law with 2 j + 2 degrees
    of freedom, whose tail is a Poisson sum too. Terms are added until less than 1e-12 is left of the counts.
    Checked by tests/test_access.py against scipy's non-central chi-square law and against twin.channel's own fading.
    """
    y = (1.0 + k_factor) * needed
    weight, tail_term = np.exp(-k_factor), np.exp(-y)
    tail = tail_term.copy()
    total, left = weight * tail, 1.0 - weight
    for j in range(1, MOST_TERMS):
        if left.max(initial=0.0) < 1e-12:
            break
        weight, tail_term = weight * k_factor / j, tail_term * y / j
        tail = tail + tail_term
        total, left = total + weight * tail, left - weight
    return np.clip(total, 0.0, 1.0)


@njit(cache=True, nogil=True)
def settle(access_point, offsets, satellite_index, elevation_deg, fresh):
    """Kernel: lists of the satellites that are seen now, each of which keeps its place while it is.

    access_point   (n, K)  int64    changed: -1 where nobody is seen for the place
    offsets ... elevation_deg       as in twin.visibility.Visible
    fresh          (n, K)  bool     out: whether who stands there was not on the list before
    """
    n, most = access_point.shape
    for i in range(n):
        first, last = offsets[i], offsets[i + 1]
        for k in range(most):
            fresh[i, k], seen = False, False
            for q in range(first, last):
                seen |= satellite_index[q] == access_point[i, k]
            if not seen:
                access_point[i, k] = -1
        for k in range(most):
            if access_point[i, k] >= 0:
                continue
            best = -1
            for q in range(first, last):
                if best >= 0 and elevation_deg[q] <= elevation_deg[best]:
                    continue
                listed = False
                for other in range(most):
                    listed |= access_point[i, other] == satellite_index[q]
                if not listed:
                    best = q
            if best >= 0:
                access_point[i, k], fresh[i, k] = satellite_index[best], True
