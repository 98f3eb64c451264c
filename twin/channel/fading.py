"""The random part of a link over a pass: line of sight, shadow fading and paths.

Whoever makes the paths (`link.multipath`), they end up in one form: at each time so many plane waves, each with an
amplitude, a delay and two directions. Slots, samples within a slot, links and worlds are all rows of that form, and the
kernels of twin/channel/slot.py see nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numba import njit

from twin.channel.arrays import direction_cosines
from twin.channel.clusters import clustered
from twin.channel.large_scale import autoregression, draw_los, draw_shadow, draw_spreads
from twin.channel.link import Link
from twin.channel.paths import Paths
from twin.channel.profiles import profile, profiled
from twin.geometry import Pointing
from twin.parallel import spread
from twin.units import from_db

ROWS_AT_A_TIME = 4096  # handed to a thread; what it works on then stays in its cache
SLOTS_AT_A_TIME = 256  # the same, of slots that are sampled finer
CORRELATION_STEP_S = 0.1  # the slot of the default scenario, to which `scatter_correlation` refers


@dataclass(frozen=True, eq=False)
class Fading:
    """The random part of the channel over the n rows of one pass; path 0 is the direct one.

    los        (n,) bool        line of sight
    shadow_db  (n,)             dB, positive is loss
    amplitude  (n, n_paths)     complex, alpha of eq. (1), Doppler included; E|alpha|^2 sums to link.array_gain, less
                                what link.polarisation takes
    arrival    (n, n_paths, 2)  direction cosines psi_x, psi_y of each path in the terminal's frame
    departure  (n, n_paths, 2)  the same in the satellite's frame; (n, 1, 2) where all paths leave in one direction
    delay_s    (n, n_paths)     s, in excess of the direct path
    """

    los: np.ndarray
    shadow_db: np.ndarray
    amplitude: np.ndarray
    arrival: np.ndarray
    departure: np.ndarray
    delay_s: np.ndarray

    def __getitem__(self, rows: slice | np.ndarray) -> "Fading":
        """Some of the rows."""
        return Fading(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw_fading(rng: np.random.Generator, link: Link, course: Pointing, slot_s: float, samples: int = 1) -> Fading:
    """Draw the fading of one pass.

    course   n * samples rows  the true geometry, every slot_s / samples
    slot_s   ()                s
    samples  ()                rows of a slot; row i * samples is the same as row i of the draw with one row a slot

    Line of sight and shadow fading: twin/channel/large_scale.py. Paths by link.multipath: `scatter` here, 3GPP's in
    twin/channel/clusters.py and profiles.py. A fixed profile is with or without line of sight for all of the pass.
    Without line of sight the scattered paths carry all the power, and clutter loss (path_gain) takes it away. A longer
    course begins as a shorter one, but for the shadow fading within the shorter one's last slot, which stays as it
    began. Raises ValueError where the course is no whole number of slots.
    Source: docs/physics.md, TR 38.811 6.6. Checked by tests/channel/test_link.py (fading statistics).
    """
    n_rows = len(course.elevation_deg)
    if samples < 1:
        raise ValueError(f"samples must be 1 or more, got {samples}")
    if n_rows % samples:
        raise ValueError(f"course must have a whole number of slots of {samples} rows each, got {n_rows} rows")
    slots = course[::samples]
    # a generator each: a longer pass then begins with the very draws of a shorter one
    of_los, of_shadow, *of_paths = rng.spawn(7)
    fixed = profile(link.multipath)
    if fixed is not None:
        los = np.full(len(slots.elevation_deg), fixed.los)
    else:
        los = draw_los(of_los, link, slots, slot_s)
    shadow_db = draw_shadow(of_shadow, link, slots, los, slot_s)
    if fixed is not None:
        paths = profiled(of_paths[0], link, course, slot_s, samples)
    elif link.multipath == "scatter":
        paths = scattered(of_paths, link, course, los, slot_s, samples)
    else:
        large = draw_spreads(of_paths[1], link, slots, los, shadow_db, slot_s)
        paths = clustered(of_paths[0], link, course, large, slot_s, samples)
    amplitude = paths.amplitude
    amplitude *= np.sqrt(link.array_gain)  # in place: with many samples and rays these are hundreds of megabytes
    return Fading(
        np.repeat(los, samples),
        _within_slots(los, shadow_db, samples),
        amplitude,
        paths.arrival,
        paths.departure,
        paths.delay_s,
    )


def _within_slots(los: np.ndarray, shadow_db: np.ndarray, samples: int) -> np.ndarray:
    """Shadow fading of each row: linear between slots, held where the line of sight changes or the pass ends."""
    stays = np.concatenate([los[1:] == los[:-1], [False]])[: len(los)]
    ahead_db = np.where(stays, np.concatenate([shadow_db[1:], shadow_db[-1:]]), shadow_db)
    part = np.arange(samples) / samples
    return (shadow_db[:, None] + part * (ahead_db - shadow_db)[:, None]).ravel()


def stacked(fadings: Sequence[Fading]) -> Fading:
    """Many links, or worlds, in one: their rows one after the other.

    Row i of fading k becomes row i + (rows of those before). Where numbers of paths differ, paths without amplitude are
    added. Raises ValueError for none.
    """
    if not fadings:
        raise ValueError("fadings must hold at least one, got none")
    n_paths = max(fading.amplitude.shape[1] for fading in fadings)
    common = all(fading.departure.shape[1] == 1 for fading in fadings)

    def padded(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, n_paths - array.shape[1]), *[(0, 0)] * (array.ndim - 2)))

    def departures(array: np.ndarray) -> np.ndarray:
        if common or array.shape[1] > 1:
            return array if common else padded(array)
        return np.repeat(array, n_paths, axis=1)

    return Fading(
        np.concatenate([fading.los for fading in fadings]),
        np.concatenate([fading.shadow_db for fading in fadings]),
        np.concatenate([padded(fading.amplitude) for fading in fadings]),
        np.concatenate([padded(fading.arrival) for fading in fadings]),
        np.concatenate([departures(fading.departure) for fading in fadings]),
        np.concatenate([padded(fading.delay_s) for fading in fadings]),
    )


def scattered(rngs, link: Link, course: Pointing, los: np.ndarray, slot_s: float, samples: int) -> Paths:
    """A direct path and link.n_paths - 1 equally strong scattered ones, whose amplitudes are complex Gaussian.

    Amplitudes have exponential correlation; angles and delays are drawn anew every link.redraw_s.
    """
    of_scatter, of_arrival, of_departure, of_delay, of_bridge = rngs
    n, n_scatter = len(los), link.n_paths - 1
    correlation = link.scatter_correlation ** (slot_s / CORRELATION_STEP_S)
    parts = autoregression(of_scatter.standard_normal((n + 1, 2 * n_scatter)), np.full(n + 1, correlation))
    parts = bridged(of_bridge, parts, correlation, samples)
    scatter = (parts[:, :n_scatter] + 1j * parts[:, n_scatter:]) / np.sqrt(2.0)
    k_factor = from_db(link.k_factor_db)
    seen = np.repeat(los, samples)
    amplitude = np.empty((n * samples, link.n_paths), dtype=complex)
    amplitude[:, 0] = np.where(seen, np.sqrt(k_factor / (1.0 + k_factor)), 0.0)
    amplitude[:, 1:] = scatter * np.sqrt(np.where(seen, 1.0 / (1.0 + k_factor), 1.0) / n_scatter)[:, None]

    block = np.repeat(np.arange(n) // max(1, round(link.redraw_s / slot_s)), samples)
    n_blocks = int(block[-1]) + 1 if n else 0
    laplace = 1.0 / np.sqrt(2.0)  # the scale of a Laplace law with standard deviation 1
    drawn = of_arrival.laplace(0.0, laplace * link.angle_spread_deg, (n_blocks, n_scatter, 2))
    arrival = _around(course.rx_beam_deg, drawn, block)
    departure = direction_cosines(course.tx_beam_deg)[:, None]
    if link.departure_spread_deg:
        drawn = of_departure.laplace(0.0, laplace * link.departure_spread_deg, (n_blocks, n_scatter, 2))
        departure = _around(course.tx_beam_deg, drawn, block)
    delay_s = np.zeros((n * samples, link.n_paths))
    delay_s[:, 1:] = of_delay.exponential(link.delay_spread_s, (n_blocks, n_scatter))[block]
    return Paths(amplitude, arrival, departure, delay_s)


def _around(direct_deg: np.ndarray, offset_deg: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Direction cosines (n, n_paths, 2) of the direct path and of those beside it by offset_deg (n_blocks, ., 2).

    Offsets stay for a whole block: sines and cosines of sums, by the addition theorems, need those of each row's direct
    path and of each block's offsets only.
    """
    beside_rad = np.deg2rad(np.concatenate([np.zeros_like(offset_deg[:, :1]), offset_deg], axis=1))
    beside = np.sin(beside_rad), np.cos(beside_rad)
    cosines = np.empty((len(direct_deg), beside_rad.shape[1], 2))

    def some(first: int, last: int) -> None:
        direct_rad = np.deg2rad(direct_deg[first:last, None])
        sine, cosine = np.sin(direct_rad), np.cos(direct_rad)
        sine_by, cosine_by = (part[block[first:last]] for part in beside)
        turned_cosine = cosine * cosine_by - sine * sine_by
        cosines[first:last, :, 0] = (sine * cosine_by + cosine * sine_by)[..., 1] * turned_cosine[..., 0]
        cosines[first:last, :, 1] = turned_cosine[..., 1]

    spread(some, len(direct_deg), step=ROWS_AT_A_TIME)
    return cosines


def bridged(rng: np.random.Generator, at_slots: np.ndarray, correlation: float, samples: int) -> np.ndarray:
    """An autoregressive series between its slots: (n + 1, k) at the slots' edges to (n * samples, k), edges unchanged.

    The law of the finer series given the coarse one: a weighted mean of both edges, and what is left to chance.
    correlation  ()  of neighbouring slots
    """
    n, k = len(at_slots) - 1, at_slots.shape[1]
    if samples == 1:
        return at_slots[:-1]
    part = np.arange(samples) / samples
    with np.errstate(divide="ignore"):
        decay = -np.log(correlation)
    if decay == 0.0:
        before, after = 1.0 - part, part
    else:
        whole = -np.expm1(-2.0 * decay)
        with np.errstate(invalid="ignore"):
            before = np.where(part == 0.0, 1.0, np.exp(-decay * part) * -np.expm1(-2.0 * decay * (1.0 - part)) / whole)
            after = np.where(part == 0.0, 0.0, np.exp(-decay * (1.0 - part)) * -np.expm1(-2.0 * decay * part) / whole)
    noise, fine = rng.standard_normal((n, samples, k)), np.empty((n, samples, k))
    step = float(correlation) ** (1.0 / samples)
    spread(lambda first, last: bridge(first, last, at_slots, before, after, step, noise, fine), n, step=SLOTS_AT_A_TIME)
    return fine.reshape(n * samples, k)


@njit(cache=True, nogil=True)
def bridge(first, last, at_slots, before, after, step, noise, fine):
    """Kernel of `bridged`: slots first to last of fine (n, samples, k).

    at_slots       (n + 1, k)  before, after (samples,)  the weights of both edges
    step           ()          correlation of neighbouring samples
    noise          (n, samples, k)  white
    """
    samples, innovation = before.shape[0], np.sqrt(1.0 - step * step)
    for i in range(first, last):
        for c in range(fine.shape[2]):
            free = 0.0  # a series that begins at 0; less what it leaves at the end, it is 0 at both edges
            for j in range(samples):
                fine[i, j, c] = free
                free = step * free + innovation * noise[i, j, c]
            for j in range(samples):
                fine[i, j, c] += before[j] * at_slots[i, c] + after[j] * (at_slots[i + 1, c] - free)
