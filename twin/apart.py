"""Satellites that the common segments do not meet, and segments of their own for them.

Two kinds. Those that pass their perigee so fast that the polynomials of all others are too long for them: theirs are
halved until they are near enough. And those whose path has kinks: SGP4 keeps the mean eccentricity from falling below
1e-6, and whenever drag takes it there or lets it go, the path bends, over which a polynomial would be wrong by up to a
metre. When that happens follows from the elements, and their segments end there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from twin.fitting import CHECKED_AT, MARGIN, Window, nodes
from twin.frames import turns
from twin.sgp4_kernel import (
    ANOMALY_DRAG,
    CUBE_0,
    ECCENTRICITY_0,
    ECCENTRICITY_1,
    ECCENTRICITY_SINE,
    ETA,
    MEAN_ANOMALY,
    MEAN_ANOMALY_RATE,
    PERIGEE_DRAG,
    SINE_0,
    Propagator,
)
from twin.tle import Satellite
from twin.units import MINUTES_PER_DAY, SECONDS_PER_MINUTE

LEAST_ECCENTRICITY = 1e-6  # AIAA 2006-6753, procedure sgp4
SCAN_S = 60.0  # steps in which kinks are looked for: drag's part of the eccentricity goes round with the orbit
HALVINGS = 40  # of a step: to a nanosecond
SHORTEST_S = 5.0  # of segments that are halved
LEAST_S = 0.1  # between two edges: a kink is a few hundredths of a metre a second, and 0.1 s of that below 1 mm
WITHIN = 0.6180339887  # of a segment from -1 to 1: one more place where uneven segments are checked


@dataclass(frozen=True, eq=False)
class Apart:
    """Satellites with segments of their own.

    index        (n,)                    their places among the satellites
    offsets      (n + 1,)                where each one's segments begin in store
    edges_s      (n_segments + n,)    s  where segments begin and end, one satellite after the other; the first and the
                                         last of each reach beyond the window
    store        (1 or 2, n_segments, 3, n_coefficients)  as in Polynomials
    fit_error_m  (n,)                 m  as in Polynomials
    """

    index: np.ndarray
    offsets: np.ndarray
    edges_s: np.ndarray
    store: np.ndarray
    fit_error_m: np.ndarray

    def of(self, satellite_index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """One satellite's coefficients (n_segments, 3, n_coefficients), m, and edges, s; None if it is not apart."""
        at = np.flatnonzero(self.index == satellite_index)
        if not len(at):
            return None
        k, first, last = at[0], self.offsets[at[0]], self.offsets[at[0] + 1]
        return self.store[0, first:last], self.edges_s[first + k : last + k + 1]


class _Row(NamedTuple):
    """What Apart holds of one satellite."""

    place: int
    edges_s: np.ndarray
    store: np.ndarray
    fit_error_m: float


def set_apart(
    satellites: Sequence[Satellite],
    propagator: Propagator,
    window: Window,
    degree: int,
    segment_s: float,
    error_m: float,
    error_code: np.ndarray,
    rough: np.ndarray,
    own_velocity: bool = False,
) -> Apart | None:
    """Those of the satellites whose path has kinks in the window or that are rough, in segments of their own; or None.

    propagator                        of the satellites
    error_m     ()  m                 how near the polynomials should come
    error_code  (n_satellites,)       of SGP4: those with one are left as they are
    rough       (n_satellites,) bool  whose common segments are too long

    Checked by tests/test_orbit.py.
    """
    n_segments = math.ceil((window.seconds - window.first_s) / segment_s)
    ends_s = window.first_s + np.array([-MARGIN, n_segments + MARGIN]) * segment_s
    kinks = kinks_s(propagator, window, *ends_s)
    rows = []
    for i in sorted(i for i in {*kinks, *np.flatnonzero(rough).tolist()} if error_code[i] == 0):
        length_s, found = segment_s, None
        while length_s >= SHORTEST_S:
            even_s = window.first_s + np.arange(1, round(n_segments * segment_s / length_s)) * length_s
            edges_s = _merged(even_s, kinks.get(i, np.empty(0)), ends_s)
            nearer = _in_segments(satellites[i], i, edges_s, window, degree, own_velocity)
            if found is not None and not nearer.fit_error_m < 0.5 * found.fit_error_m:
                break  # SGP4's path is not smooth enough for any
            found = nearer
            if found.fit_error_m <= error_m:
                break
            length_s /= 2.0
        if found is not None and math.isfinite(found.fit_error_m):  # not so where SGP4 ends in the margin
            rows.append(found)
    if not rows:
        return None
    return Apart(
        np.array([row.place for row in rows]),
        np.cumsum([0, *(len(row.edges_s) - 1 for row in rows)]),
        np.concatenate([row.edges_s for row in rows]),
        np.concatenate([row.store for row in rows], axis=1),
        np.array([row.fit_error_m for row in rows]),
    )


def kinks_s(propagator: Propagator, window: Window, first_s: float, last_s: float) -> dict[int, np.ndarray]:
    """By place of each satellite that has any: when its path has kinks between two times, s after the start."""
    scan_s = np.append(np.arange(first_s, last_s, SCAN_S), last_s)
    jd, fr, _, _ = turns(window.start_utc, scan_s[[0, -1]])
    first_min, last_min = ((jd - propagator.epoch[:, 0] + (at - propagator.epoch[:, 1])) * MINUTES_PER_DAY for at in fr)
    columns = propagator.constants.T
    drag = abs(columns[ECCENTRICITY_1]) * np.maximum(abs(first_min), abs(last_min))
    drag += 2.0 * abs(columns[ECCENTRICITY_SINE])
    found = {}
    for i in np.flatnonzero(~propagator.deep & (columns[ECCENTRICITY_0] - drag < LEAST_ECCENTRICITY)).tolist():
        row = propagator.constants[i]
        minutes = first_min[i] + (scan_s - scan_s[0]) / SECONDS_PER_MINUTE
        above = mean_eccentricity(row, minutes) > LEAST_ECCENTRICITY
        at = np.flatnonzero(above[1:] != above[:-1])
        low_min, high_min = minutes[at], minutes[at + 1]
        for _ in range(HALVINGS):
            middle_min = 0.5 * (low_min + high_min)
            same = (mean_eccentricity(row, middle_min) > LEAST_ECCENTRICITY) == above[at]
            low_min, high_min = np.where(same, middle_min, low_min), np.where(same, high_min, middle_min)
        if len(at):
            found[i] = scan_s[0] + (high_min - minutes[0]) * SECONDS_PER_MINUTE
    return found


def _merged(even_s: np.ndarray, kinks: np.ndarray, ends_s: np.ndarray) -> np.ndarray:
    """Edges of segments: even ones, but where a kink is close by the kink."""
    away = np.abs(even_s[:, None] - kinks).min(axis=1, initial=math.inf) > LEAST_S
    edges_s = np.sort(np.concatenate([even_s[away], kinks]))
    edges_s = edges_s[np.diff(edges_s, prepend=-math.inf) > LEAST_S]
    inside = (edges_s > ends_s[0] + LEAST_S) & (edges_s < ends_s[1] - LEAST_S)
    return np.concatenate([ends_s[:1], edges_s[inside], ends_s[1:]])


def _in_segments(
    satellite: Satellite, place: int, edges_s: np.ndarray, window: Window, degree: int, own_velocity: bool
) -> _Row:
    n = degree + 1
    u = np.concatenate([nodes(n), CHECKED_AT, [WITHIN]])
    at_s = edges_s[:-1, None] + 0.5 * (1.0 + u) * np.diff(edges_s)[:, None]
    jd, fr, turn, rate_rad_s = turns(window.start_utc, at_s.ravel(), window.orientation)
    _, position_m, velocity_m_s = Propagator([satellite]).propagate(np.full(len(fr), jd), fr)
    states = [position_m[0]]
    if own_velocity:
        states.append(velocity_m_s[0] - np.cross([0.0, 0.0, rate_rad_s], position_m[0]))
    values = np.stack([np.einsum("tij,tj->ti", turn, state).reshape(*at_s.shape, 3) for state in states])
    store = np.einsum("pn,wsnx->wsxp", np.linalg.inv(np.vander(u[:n], increasing=True)), values[:, :, :n])
    again = np.einsum("cp,sxp->scx", np.vander(u[n:], n, increasing=True), store[0])
    return _Row(place, edges_s, store, float(np.linalg.norm(again - values[0, :, n:], axis=-1).max()))


def mean_eccentricity(row: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """SGP4's mean eccentricity under drag before it is kept from falling below 1e-6, shaped like minutes.

    row  of Propagator.constants
    Source: AIAA 2006-6753, procedure sgp4.
    """
    anomaly = row[MEAN_ANOMALY] + row[MEAN_ANOMALY_RATE] * minutes
    cube = (1.0 + row[ETA] * np.cos(anomaly)) ** 3
    anomaly = anomaly + row[PERIGEE_DRAG] * minutes + row[ANOMALY_DRAG] * (cube - row[CUBE_0])
    return (
        row[ECCENTRICITY_0] - row[ECCENTRICITY_1] * minutes - row[ECCENTRICITY_SINE] * (np.sin(anomaly) - row[SINE_0])
    )
