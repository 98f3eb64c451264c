"""The paths of TR 38.811 6.7.2 (steps 5 to 11 of TR 38.901 7.5), evolving coherently over a satellite's pass.

All chance is drawn once a pass and standardised: exponentials of the delays, normals of the powers, signs and jitters
of the angles, couplings and phases of the rays; one set with line of sight, one without. Each slot evaluates them with
the tables and spreads of its elevation, so that delays, powers and angles change slowly and have the tables' laws.

Paths: 0 is the direct one, of no power without line of sight. Then come the clusters, the pass's two strongest first,
in three sub-clusters each: 1 + 6 + (N - 2) paths, N being the largest number of clusters in the environment's tables.
`clusters` makes one path of every (sub-)cluster, the sum of its rays, from its mean direction; `rays` makes a path of
every ray, 1 + 20 N of them. Departure is one direction for all: a satellite sees no spread (note 8 of the tables).

Phases are geometry. During a slot every scatterer stands still on the Earth: a ray from direction a (unit vector) and
late by tau has met one scatterer at d = c tau / (1 - a.u) from the terminal, u being the direct direction. Its way is
longer than the direct one by d (1 - a.u), so while the satellite moves u by du its phase turns by d a.du / lambda, and
while the terminal moves at v by the integral of (a - u).v / lambda. No derivatives are taken, and the turns of a slot
depend on its ends only: sampled finer, a pass has the same values at the slots' beginnings, to the last bit. From slot
to slot, scatterers move to the angles and delays of the next slot and keep their phase: new ones replace the old.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from twin.channel.arrays import direction_cosines
from twin.channel.large_scale import LargeScale
from twin.channel.link import Link
from twin.channel.losses import at_elevation
from twin.channel.paths import Paths
from twin.channel.tables import N_RAYS, SmallScale, small_scale
from twin.channel.turns import fused, sincos_half_turns
from twin.geometry import Pointing
from twin.units import SPEED_OF_LIGHT_M_S, from_db

# TR 38.901 table 7.5-3: offsets of 20 rays for a root mean square spread of 1 deg, signs alternating
RAY_OFFSETS = np.outer(
    [0.0447, 0.1413, 0.2492, 0.3715, 0.5129, 0.6797, 0.8844, 1.1481, 1.5195, 2.1551], [1.0, -1.0]
).ravel()
SUBCLUSTERS = (  # TR 38.901 table 7.5-5: rays, counted from 0, and delay in c_DS
    ((0, 1, 2, 3, 4, 5, 6, 7, 18, 19), 0.0),
    ((8, 9, 10, 11, 16, 17), 1.28),
    ((12, 13, 14, 15), 2.56),
)
N_SPLIT = 2  # clusters that have sub-clusters
SCALING_CLUSTERS = (2.0, 3.0, 4.0)  # TR 38.811 tables 6.7.2-1aa, -1ab: C_phi and C_theta by the number of clusters
AZIMUTH_SCALING, ZENITH_SCALING = (0.501, 0.680, 0.779), (0.430, 0.594, 0.697)
# TR 38.901 eq. 7.5-3, 7.5-10, 7.5-15: what line of sight makes of them, by powers of K in dB
DELAY_FIT = (0.7705, -0.0433, 0.0002, 0.000017)
AZIMUTH_FIT, ZENITH_FIT = (1.1035, -0.028, -0.002, 0.0001), (1.3086, 0.0339, -0.0077, 0.0002)
FITTED_FROM_DB = -5.0  # below, two of them pass zero (at -10 and -20 dB); here all are near 1, as without direct path

FIELDS = {  # what an antenna sends along its polar and azimuthal unit vectors; these and the wave are right-handed
    "vertical": np.array([1.0, 0.0]),
    "horizontal": np.array([0.0, 1.0]),
    "slant": np.array([1.0, 1.0]) / np.sqrt(2.0),
    "rhcp": np.array([1.0, -1.0j]) / np.sqrt(2.0),
    "lhcp": np.array([1.0, 1.0j]) / np.sqrt(2.0),
}
DIRECT = np.diag([1.0, -1.0])  # TR 38.901 eq. 7.5-29: face to face, one of the two unit vectors is turned round

# rows of a pass's rays: offsets in c_ASA and c_ZSA; factor of equal and (at 0 dB) of crossed polarisation; XPR's normal
AZIMUTH, ZENITH, EQUAL_RE, EQUAL_IM, CROSSED_RE, CROSSED_IM, CROSS_NORMAL = range(7)


@dataclass(frozen=True, eq=False)
class Clusters:
    """N clusters over n slots; powers and `specular` add up to 1 in each slot.

    specular                        (n,)    power of the direct path
    power                           (n, N)
    delay_s                         (n, N)  s, after the direct path or, without line of sight, after the first cluster
    azimuth_deg, zenith_deg         (n, N)  deg, less the direct direction's; azimuth from the frame's x towards its y
    split_s                         (n,)    s, c_DS: the unit of the sub-clusters' delays
    ray_azimuth_deg, ray_zenith_deg (n,)    deg, c_ASA and c_ZSA: the unit of the rays' offsets
    cross_mu_db, cross_sigma_db     (n,)    dB, cross-polarisation power ratio of the rays
    """

    specular: np.ndarray
    power: np.ndarray
    delay_s: np.ndarray
    azimuth_deg: np.ndarray
    zenith_deg: np.ndarray
    split_s: np.ndarray
    ray_azimuth_deg: np.ndarray
    ray_zenith_deg: np.ndarray
    cross_mu_db: np.ndarray
    cross_sigma_db: np.ndarray

    @classmethod
    def empty(cls, n: int, n_clusters: int) -> "Clusters":
        per_cluster = ("power", "delay_s", "azimuth_deg", "zenith_deg")
        return cls(
            **{name: np.zeros((n, n_clusters) if name in per_cluster else n) for name in cls.__dataclass_fields__}
        )

    def put(self, rows: np.ndarray, other: "Clusters") -> None:
        """Set some of the slots."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[rows] = getattr(other, name)


class Layout(NamedTuple):
    """How rays make paths, the direct path aside: path p has the rays first_ray[p] to first_ray[p + 1] - 1.

    first_ray  (n_paths + 1,)  int
    cluster    (n_paths,)      int, of the path
    split      (n_paths,)      the path's delay after its cluster's, in c_DS
    offset     (n_rays,)       of the rays, in units of their spread, in azimuth
    groups     pairs (first, end) of rays among which offsets in zenith are coupled at random
    """

    first_ray: np.ndarray
    cluster: np.ndarray
    split: np.ndarray
    offset: np.ndarray
    groups: tuple[tuple[int, int], ...]


class Draws(NamedTuple):
    """The chance of one pass's clusters in one state, standardised; (N,) in the order of their paths.

    number                          int, the cluster is there where the tables have more than so many; 0 is the first
    excess                          exponential, 0 for number 0
    shadow                          normal
    azimuth_sign, zenith_sign       -1 or 1
    azimuth_jitter, zenith_jitter   normal
    """

    number: np.ndarray
    excess: np.ndarray
    shadow: np.ndarray
    azimuth_sign: np.ndarray
    zenith_sign: np.ndarray
    azimuth_jitter: np.ndarray
    zenith_jitter: np.ndarray


def clustered(
    rng: np.random.Generator, link: Link, course: Pointing, large: LargeScale, slot_s: float, samples: int
) -> Paths:
    """The paths of a pass by TR 38.811 6.7.2, one for each (sub-)cluster or, where link.multipath is `rays`, each ray.

    course   n * samples rows
    large    n slots, held during each; its spreads within the limits of TR 38.901 7.5 step 4

    Cross-polarisation is drawn ray by ray from the tables (step 9), not taken from `large`.
    Checked by tests/channel/test_clusters.py.
    """
    slots = course[::samples]
    tables = [small_scale(link.environment, link.carrier_hz, los) for los in (False, True)]
    n_clusters = max(int(table.n_clusters.max()) for table in tables)
    layout = lay_out(n_clusters, N_SPLIT, link.multipath == "rays")
    clusters = Clusters.empty(len(large.los), n_clusters)
    rays = []
    for los, of_state in zip((False, True), rng.spawn(2)):
        of_clusters, of_rays = of_state.spawn(2)
        drawn = draw_clusters(of_clusters, tables[los], n_clusters)
        rays.append(draw_rays(of_rays, layout, link.polarisation))
        rows = np.flatnonzero(large.los == los)
        clusters.put(rows, clusters_at(tables[los], drawn, slots.elevation_deg[rows], large, rows, los))
    return trace(link, course, clusters, layout, np.array(rays), large.los.astype(np.int64), slot_s, samples)


def lay_out(n_clusters: int, n_split: int, each_ray: bool) -> Layout:
    """Clusters with 20 rays each, the first n_split in sub-clusters; `each_ray`: every ray is a path."""
    whole = ((tuple(range(N_RAYS)), 0.0),)
    parts = [(c, *part) for c in range(n_clusters) for part in (SUBCLUSTERS if c < n_split else whole)]
    counts = np.array([len(rays) for _, rays, _ in parts])
    ends = np.cumsum(counts)
    cluster, split = np.array([c for c, _, _ in parts]), np.array([delay for _, _, delay in parts])
    offset = np.concatenate([RAY_OFFSETS[list(rays)] for _, rays, _ in parts])
    groups = tuple(zip((ends - counts).tolist(), ends.tolist()))
    if each_ray:
        return Layout(np.arange(offset.size + 1), np.repeat(cluster, counts), np.repeat(split, counts), offset, groups)
    return Layout(np.concatenate([[0], ends]), cluster, split, offset, groups)


def draw_clusters(rng: np.random.Generator, tables: SmallScale, n_clusters: int) -> Draws:
    """Draw a pass's clusters, the two strongest of those that are always there before the others.

    The standard sorts N exponential delays and takes the least from all. What is left is a zero and N - 1 independent
    exponentials, for these have no memory: so they are drawn, and one cluster more or less changes no other's delay.
    """
    of_delay, of_shadow, of_sign, of_jitter = rng.spawn(4)
    excess = np.concatenate([[0.0], of_delay.exponential(size=n_clusters - 1)])
    shadow = of_shadow.standard_normal(n_clusters)
    signs = of_sign.choice([-1.0, 1.0], (n_clusters, 2)).T
    jitters = of_jitter.standard_normal((n_clusters, 2)).T
    # decided once, by the mean of the tables over elevation: paths that changed places would tear their phases
    strength = cluster_strength(excess, shadow, tables.delay_scaling.mean(), tables.cluster_shadow_db.mean())
    strength[int(tables.n_clusters.min()) :] = -1.0
    order = np.argsort(-strength, kind="stable")
    order[N_SPLIT:].sort()
    return Draws(*(values[order] for values in (np.arange(n_clusters), excess, shadow, *signs, *jitters)))


def cluster_strength(excess, shadow, delay_scaling, cluster_shadow_db):
    """Powers before they are made to add up to 1, TR 38.901 eq. 7.5-5: the delay spread cancels."""
    return np.exp(-(delay_scaling - 1.0) * excess) * from_db(-cluster_shadow_db * shadow)


def draw_rays(rng: np.random.Generator, layout: Layout, polarisation: tuple[str, str] | None) -> np.ndarray:
    """The chance of one pass's rays in one state, (7, n_rays), rows AZIMUTH to CROSS_NORMAL."""
    of_coupling, of_phase, of_cross = rng.spawn(3)
    coupled = layout.offset.copy()
    for first, end in layout.groups:
        coupled[first:end] = of_coupling.permutation(coupled[first:end])
    n_rays = layout.offset.size
    matrix = np.exp(2j * np.pi * of_phase.random((n_rays, 2, 2)))
    diagonal = np.eye(2, dtype=bool)
    equal = polarisation_factor(polarisation, np.where(diagonal, matrix, 0.0))
    crossed = polarisation_factor(polarisation, np.where(diagonal, 0.0, matrix))
    normal = of_cross.standard_normal(n_rays)
    return np.array([layout.offset, coupled, equal.real, equal.imag, crossed.real, crossed.imag, normal])


def polarisation_factor(polarisation: tuple[str, str] | None, matrix: np.ndarray) -> np.ndarray:
    """What two antennas of given polarisations make of a wave.

    polarisation  names of FIELDS, satellite's and terminal's; None: antennas that need no telling
    matrix        (..., 2, 2)  what the way makes of the polar and azimuthal field of the satellite at the terminal

    Returns (...) complex; 1 for antennas of the same name and the matrix DIRECT.
    The terminal's antenna is the one that takes what an equal antenna of the satellite sends: in its own unit vectors
    it is the mirror image's conjugate. TR 38.901 eq. 7.5-22 and -29. Checked by tests/channel/test_clusters.py.
    """
    if polarisation is None:
        return matrix[..., 0, 0]
    sent, received = FIELDS[polarisation[0]], np.conj(DIRECT @ FIELDS[polarisation[1]])
    return np.einsum("i,...ij,j->...", received, matrix, sent)


def clusters_at(
    tables: SmallScale, drawn: Draws, elevation_deg: np.ndarray, large: LargeScale, rows: np.ndarray, los: bool
) -> Clusters:
    """Clusters in some slots of a pass, all in one state: steps 5 to 7 of TR 38.901 7.5.

    elevation_deg  (k,)  deg, of those slots
    rows           (k,)  int, which of large's slots they are

    Where two reference elevations have different numbers of clusters, the last ones' powers rise linearly between.
    Checked by tests/channel/test_clusters.py against the standard's steps written out.
    """

    def at(table: np.ndarray) -> np.ndarray:
        return at_elevation(elevation_deg, tables.elevation_deg, table)

    n_clusters = at(tables.n_clusters)
    delay_scaling = at(tables.delay_scaling)[:, None]
    strength = cluster_strength(drawn.excess, drawn.shadow, delay_scaling, at(tables.cluster_shadow_db)[:, None])
    power = strength * np.clip(n_clusters[:, None] - drawn.number, 0.0, 1.0)
    total = power.sum(axis=1, keepdims=True)
    power, strength = power / total, strength / total
    delay_s = delay_scaling * large.delay_spread_s[rows, None] * drawn.excess
    azimuth_scaling = np.interp(n_clusters, SCALING_CLUSTERS, AZIMUTH_SCALING)
    zenith_scaling = np.interp(n_clusters, SCALING_CLUSTERS, ZENITH_SCALING)
    specular = np.zeros(len(rows))
    is_first = drawn.number == 0
    if los:
        k_factor_db = large.k_factor_db[rows]
        k_factor, fitted_db = from_db(k_factor_db), np.maximum(k_factor_db, FITTED_FROM_DB)
        specular = k_factor / (1.0 + k_factor)
        power, strength = power / (1.0 + k_factor[:, None]), strength / (1.0 + k_factor[:, None])
        delay_s /= np.polyval(DELAY_FIT[::-1], fitted_db)[:, None]
        azimuth_scaling *= np.polyval(AZIMUTH_FIT[::-1], fitted_db)
        zenith_scaling *= np.polyval(ZENITH_FIT[::-1], fitted_db)
    with_specular = is_first * specular[:, None]  # for the angles, the direct path belongs to the first cluster
    peak = (power + with_specular).max(axis=1, keepdims=True)
    level = -np.log(np.minimum((strength + with_specular) / peak, 1.0))  # not of `power`: that of a rising one is 0
    azimuth_spread_deg, zenith_spread_deg = large.azimuth_spread_deg[rows, None], large.zenith_spread_deg[rows, None]
    azimuth_deg = drawn.azimuth_sign * (azimuth_spread_deg / 0.7 * np.sqrt(level) / azimuth_scaling[:, None])
    zenith_deg = drawn.zenith_sign * (zenith_spread_deg * level / zenith_scaling[:, None])
    azimuth_deg += azimuth_spread_deg / 7.0 * drawn.azimuth_jitter
    zenith_deg += zenith_spread_deg / 7.0 * drawn.zenith_jitter
    if los:
        azimuth_deg -= azimuth_deg[:, is_first]
        zenith_deg -= zenith_deg[:, is_first]
    return Clusters(
        specular, power, delay_s, azimuth_deg, zenith_deg,
        at(tables.cluster_delay_spread_s), at(tables.cluster_azimuth_spread_deg), at(tables.cluster_zenith_spread_deg),
        at(tables.cross_polar_mu_db), at(tables.cross_polar_sigma_db),
    )  # fmt: skip


def trace(
    link: Link,
    course: Pointing,
    clusters: Clusters,
    layout: Layout,
    rays: np.ndarray,
    state: np.ndarray,
    slot_s: float,
    samples: int,
) -> Paths:
    """The paths of a pass from its clusters: directions, delays and phases of all rays, summed path by path.

    course    n * samples rows
    clusters  n slots
    rays      (n_states, 7, n_rays)  of `draw_rays`
    state     (n,) int               which of them each slot has

    Powers, delays and offsets from the direct direction are those of the slot; phases run on within it, and the waves'
    directions stay where they are on the Earth. A wave from below the horizon keeps its cosines: the panel takes it
    as it would its mirror image above.
    """
    n_rows, n_paths = len(course.elevation_deg), layout.cluster.size + 1
    turn_rad = np.radians(90.0 - course.heading_deg)  # of the panel's x axis, from east towards north
    panel_x, panel_y = np.cos(turn_rad), np.sin(turn_rad)
    direct = course.east_north_up
    at_slots = direct[::samples]
    azimuth_deg = np.degrees(np.arctan2(at_slots[:, 1], at_slots[:, 0]))
    zenith_deg = np.degrees(np.arctan2(np.hypot(at_slots[:, 0], at_slots[:, 1]), at_slots[:, 2]))
    amplitude = np.empty((n_rows, n_paths), dtype=complex)
    arrival = np.empty((n_rows, n_paths, 2))
    delay_s = np.empty((n_rows, n_paths))
    amplitude[:, 0] = np.repeat(np.sqrt(clusters.specular), samples) * polarisation_factor(link.polarisation, DIRECT)
    arrival[:, 0] = direction_cosines(course.rx_beam_deg)
    delay_s[:, 0] = 0.0
    wavelength_m = SPEED_OF_LIGHT_M_S / link.carrier_hz
    of_clusters = [clusters.power, clusters.delay_s, clusters.azimuth_deg, clusters.zenith_deg]
    of_slots = [
        azimuth_deg, zenith_deg, clusters.split_s, clusters.ray_azimuth_deg, clusters.ray_zenith_deg,
        clusters.cross_mu_db, clusters.cross_sigma_db,
    ]  # fmt: skip
    trace_rays(
        samples, float(slot_s), direct, np.array([panel_x, panel_y]), link.velocity_m_s / wavelength_m, wavelength_m,
        float(link.obstacle_m), layout.first_ray, layout.cluster, layout.split, rays, state,
        np.stack(of_clusters, axis=1), np.stack(of_slots, axis=1), link.polarisation is not None,
        amplitude, arrival, delay_s,
    )  # fmt: skip
    return Paths(amplitude, arrival, direction_cosines(course.tx_beam_deg)[:, None], delay_s)


@fused
def trace_rays(
    samples, slot_s, direct, panel, velocity, wavelength_m, obstacle_m, first_ray, cluster, split, rays, state,
    of_clusters, of_slots, polarised, amplitude, arrival, delay_s,
):  # fmt: skip
    """Kernel of `trace`: fills paths 1 to n_paths - 1 of amplitude, arrival and delay_s.

    direct       (n * samples, 3)  u, east, north, up
    panel        (2, n * samples)  the panel's x axis, east and north
    velocity     (3,)              wavelengths/s
    first_ray, cluster, split      of a Layout
    rays, state                    (n_states, 7, n_rays), (n,)
    of_clusters  (n, 4, N)         power, delay_s, azimuth_deg, zenith_deg
    of_slots     (n, 7)            azimuth and zenith of u; c_DS, c_ASA, c_ZSA; mean and sigma of XPR
    polarised    ()                False: rays have no crossed part
    """
    n_slots, n_rays, n_paths = of_slots.shape[0], rays.shape[2], cluster.shape[0]
    turns = np.zeros((rays.shape[0], n_rays))  # of each ray's phase, at the beginning of the slot
    (
        east, north, up, sine, cosine, reach_east, reach_north, reach_up, rate, now, real, imag,
    ) = np.empty((12, n_rays))  # fmt: skip
    side, late_s = np.empty((2, n_paths)), np.empty(n_paths)
    for i in range(n_slots):
        ray, start = rays[state[i]], turns[state[i]]
        first_row = i * samples
        u_east, u_north, u_up = direct[first_row]
        # azimuths, zeniths and factors of the rays
        azimuth_deg, zenith_deg, split_s, ray_azimuth_deg, ray_zenith_deg, cross_mu_db, cross_sigma_db = of_slots[i]
        for p in range(n_paths):
            c = cluster[p]
            path_azimuth_deg, path_zenith_deg = azimuth_deg + of_clusters[i, 2, c], zenith_deg + of_clusters[i, 3, c]
            strength = np.sqrt(of_clusters[i, 0, c] / N_RAYS)
            for k in range(first_ray[p], first_ray[p + 1]):  # azimuth in `now`, zenith in `rate`, whole turns
                now[k] = (path_azimuth_deg + ray_azimuth_deg * ray[AZIMUTH, k]) / 360.0
                rate[k] = (path_zenith_deg + ray_zenith_deg * ray[ZENITH, k]) / 360.0
                real[k], imag[k] = ray[EQUAL_RE, k], ray[EQUAL_IM, k]
                if polarised:
                    crossed = 10.0 ** (-0.05 * (cross_mu_db + cross_sigma_db * ray[CROSS_NORMAL, k]))
                    real[k] += crossed * ray[CROSSED_RE, k]
                    imag[k] += crossed * ray[CROSSED_IM, k]
                real[k] *= strength
                imag[k] *= strength
            late_s[p] = of_clusters[i, 1, c] + split[p] * split_s
            path_zenith_rad, path_azimuth_rad = np.deg2rad(path_zenith_deg), np.deg2rad(path_azimuth_deg)
            level = abs(np.sin(path_zenith_rad))  # a zenith beyond 0 or 180 deg is mirrored there
            side[0, p], side[1, p] = level * np.cos(path_azimuth_rad), level * np.sin(path_azimuth_rad)
        # their directions
        sines_and_cosines(now, north, east)
        sines_and_cosines(rate, sine, up)
        for k in range(n_rays):
            east[k] *= abs(sine[k])
        for k in range(n_rays):
            north[k] *= abs(sine[k])
        # how they turn: with the satellite over the scatterer's distance, with the terminal's motion
        for p in range(n_paths):
            late_m = SPEED_OF_LIGHT_M_S * late_s[p]
            for k in range(first_ray[p], first_ray[p + 1]):
                gap = 1.0 - (east[k] * u_east + north[k] * u_north + up[k] * u_up)
                distance_m = obstacle_m if late_m >= obstacle_m * gap else late_m / gap
                reach = distance_m / wavelength_m
                reach_east[k], reach_north[k], reach_up[k] = reach * east[k], reach * north[k], reach * up[k]
                rate[k] = east[k] * velocity[0] + north[k] * velocity[1] + up[k] * velocity[2]
            if first_ray[p + 1] - first_ray[p] == 1:
                side[0, p], side[1, p] = east[first_ray[p]], north[first_ray[p]]
        for j in range(samples + 1):
            row = first_row + j
            if row == direct.shape[0]:
                break
            elapsed_s = slot_s * (j / samples)  # of a whole slot slot_s to the last bit, however fine
            moved = direct[row, 0] - u_east, direct[row, 1] - u_north, direct[row, 2] - u_up
            along = u_east * velocity[0] + u_north * velocity[1] + u_up * velocity[2]
            along += 0.5 * (moved[0] * velocity[0] + moved[1] * velocity[1] + moved[2] * velocity[2])
            advance(start, reach_east, reach_north, reach_up, rate, moved, elapsed_s, elapsed_s * along, now)
            if j == samples:  # the next slot's beginning
                for k in range(n_rays):
                    start[k] = now[k]
                break
            sines_and_cosines(now, sine, cosine)
            x_east, x_north = panel[0, row], panel[1, row]
            for p in range(n_paths):
                total_re, total_im = 0.0, 0.0
                for k in range(first_ray[p], first_ray[p + 1]):
                    total_re += real[k] * cosine[k] - imag[k] * sine[k]
                    total_im += real[k] * sine[k] + imag[k] * cosine[k]
                amplitude[row, p + 1] = complex(total_re, total_im)
                delay_s[row, p + 1] = late_s[p]
                arrival[row, p + 1, 0] = side[0, p] * x_east + side[1, p] * x_north
                arrival[row, p + 1, 1] = side[1, p] * x_east - side[0, p] * x_north


@fused
def advance(start, reach_east, reach_north, reach_up, rate, moved, elapsed_s, common, now):
    """Kernel: turns of the rays after a while, within half a turn; all (n_rays,) but the satellite's way and time."""
    d_east, d_north, d_up = moved
    for k in range(start.size):
        turns = reach_east[k] * d_east + reach_north[k] * d_north + reach_up[k] * d_up
        turns += start[k] + (rate[k] * elapsed_s - common)
        now[k] = turns - np.floor(turns + 0.5)


@fused
def sines_and_cosines(turns, sine, cosine):
    """Kernel: of whole turns, all (n,)."""
    for k in range(turns.size):
        sine[k], cosine[k] = sincos_half_turns(2.0 * turns[k])
