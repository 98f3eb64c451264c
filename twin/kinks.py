"""Satellites whose path has kinks, and segments of their own for them.

SGP4's path is smooth but for one corner: it keeps the mean eccentricity from falling below 1e-6, and whenever drag
takes it there or lets it go the path has a kink, over which a polynomial would be wrong by up to a metre. When that
happens follows from the elements. Such a satellite gets segments beside those of all, which end at its kinks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
LEAST_S = 0.1  # between two edges: a kink is a few hundredths of a metre a second, and 0.1 s of that below 1 mm
WITHIN = 0.6180339887  # of a segment from -1 to 1: one more place where uneven segments are checked


@dataclass(frozen=True, eq=False)
class Kinked:
    """One satellite with segments of its own, because its path has kinks.

    index         its place among the satellites
    edges_s       (n_segments + 1,)  s  where the segments begin and end; the first and the last reach beyond the window
    store         (1 or 2, n_segments, 3, n_coefficients)  as in Polynomials
    fit_error_m   ()  m  as in Polynomials
    """

    index: int
    edges_s: np.ndarray
    store: np.ndarray
    fit_error_m: float


def kinked(
    satellites: Sequence[Satellite], window: Window, degree: int, segment_s: float, own_velocity: bool = False
) -> list[Kinked]:
    """The satellites whose path has kinks in the window, in segments that end there. Checked by tests/test_orbit.py."""
    propagator = Propagator(satellites)
    n_segments = math.ceil((window.seconds - window.first_s) / segment_s)
    even_s = window.first_s + np.arange(n_segments + 1) * segment_s
    even_s[[0, -1]] += np.array([-1.0, 1.0]) * MARGIN * segment_s
    scan_s = np.append(np.arange(even_s[0], even_s[-1], SCAN_S), even_s[-1])
    jd, fr, _, _ = turns(window.start_utc, scan_s[[0, -1]], window.orientation)
    first_min, last_min = ((jd - propagator.epoch[:, 0] + (at - propagator.epoch[:, 1])) * MINUTES_PER_DAY for at in fr)
    latest_min = np.maximum(abs(first_min), abs(last_min))
    found = []
    constants = propagator.constants.T
    least = (
        constants[ECCENTRICITY_0]
        - abs(constants[ECCENTRICITY_1]) * latest_min
        - 2.0 * abs(constants[ECCENTRICITY_SINE])
    )
    for i in np.flatnonzero(~propagator.deep & (least < LEAST_ECCENTRICITY)).tolist():
        row = propagator.constants[i]
        minutes = first_min[i] + (scan_s - scan_s[0]) / SECONDS_PER_MINUTE
        above = mean_eccentricity(row, minutes) > LEAST_ECCENTRICITY
        at = np.flatnonzero(above[1:] != above[:-1])
        low_min, high_min = minutes[at], minutes[at + 1]
        for _ in range(HALVINGS):
            middle_min = 0.5 * (low_min + high_min)
            same = (mean_eccentricity(row, middle_min) > LEAST_ECCENTRICITY) == above[at]
            low_min, high_min = np.where(same, middle_min, low_min), np.where(same, high_min, middle_min)
        kinks_s = scan_s[0] + (high_min - minutes[0]) * SECONDS_PER_MINUTE
        kinks_s = kinks_s[(kinks_s > even_s[0]) & (kinks_s < even_s[-1])]
        if len(kinks_s):
            apart = np.abs(even_s[1:-1, None] - kinks_s).min(axis=1) > LEAST_S
            edges_s = np.sort(np.concatenate([even_s[:1], even_s[1:-1][apart], kinks_s, even_s[-1:]]))
            edges_s = edges_s[np.concatenate([[True], np.diff(edges_s) > LEAST_S])]
            found.append(_in_segments(satellites[i], i, edges_s, window, degree, own_velocity))
    return found


def _in_segments(
    satellite: Satellite, index: int, edges_s: np.ndarray, window: Window, degree: int, own_velocity: bool
) -> Kinked:
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
    fit_error_m = float(np.linalg.norm(again - values[0, :, n:], axis=-1).max())
    return Kinked(index, edges_s, np.ascontiguousarray(store), fit_error_m)


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
