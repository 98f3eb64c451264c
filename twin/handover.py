"""Who serves a site, and until when: how long satellites stay, and schedules of handovers by two rules.

Elevation is geometric, against the WGS84 normal: no refraction.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from twin.geometry import arctan2, site_at
from twin.orbit import Ephemeris
from twin.overpass import EVENT_S, Passes, passes, sine_elevation

STEP_S = 10.0  # far less than the time between two extremes of the difference of two satellites' elevations


def dwell_times_s(passes: Passes) -> np.ndarray:
    """How long each pass lasts from rise to set, (n_whole,) s, of those that the window does not cut."""
    whole = ~passes.cut
    return passes.set_s[whole] - passes.rise_s[whole]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Who serves a site when, in order of time.

    satellite_index       (n_services,)        in the ephemeris
    from_s, to_s          (n_services,)   s    after the ephemeris' start
    from_elevation_deg    (n_services,)   deg  where it begins to serve
    to_elevation_deg      (n_services,)   deg  and where it ends
    gaps_s                (n_gaps, 2)     s    from when to when nobody serves
    """

    satellite_index: np.ndarray
    from_s: np.ndarray
    to_s: np.ndarray
    from_elevation_deg: np.ndarray
    to_elevation_deg: np.ndarray
    gaps_s: np.ndarray

    def __len__(self) -> int:
        return len(self.satellite_index)

    @property
    def n_handovers(self) -> int:
        """How often a satellite takes over from another without a gap between them."""
        return int((self.from_s[1:] == self.to_s[:-1]).sum())


def handovers(
    sky: Ephemeris,
    *,
    latitude_deg: float,
    longitude_deg: float,
    altitude_m: float = 0.0,
    mask_deg: float = 10.0,
    rule: str = "longest",
    margin_deg: float = 0.0,
    minimum_stay_s: float = 0.0,
    step_s: float = STEP_S,
) -> Schedule:
    """Who serves a site over the ephemeris' window.

    mask_deg        ()  deg  elevation from which a satellite may serve, -90 to 90
    rule                     "longest": a satellite serves until it sets; then, of those that are up, the one that stays
                             longest takes over. "highest": the highest takes over as soon as it is higher than who
                             serves; the instant is found to a microsecond. Ties go to the smaller catalogue number
    margin_deg      ()  deg  "highest": by how much it must be higher, 0 or more
    minimum_stay_s  ()  s    "highest": how long a satellite serves at least, unless it sets
    step_s          ()  s    "highest": what is looked for between two looks: one extreme of the difference of two
                             elevations at most

    Returns a Schedule. Raises ValueError for a site, mask, rule or number that is none. The longest stay is counted on
    the window, so that at its end who is cut is judged alike. Checked by tests/test_handover.py against a walk in
    small steps.
    """
    if rule not in ("longest", "highest"):
        raise ValueError(f'rule must be "longest" or "highest", got {rule!r}')
    if not margin_deg >= 0.0 or not minimum_stay_s >= 0.0 or not step_s >= EVENT_S:
        raise ValueError(
            f"margin_deg and minimum_stay_s must be 0 or more and step_s {EVENT_S:g} or more, got {margin_deg:g}, "
            f"{minimum_stay_s:g} and {step_s:g}"
        )
    if rule == "longest" and (margin_deg or minimum_stay_s):
        raise ValueError(
            'margin_deg and minimum_stay_s are for rule "highest": with "longest" nobody leaves before it sets'
        )
    above = passes(
        sky, latitude_deg=latitude_deg, longitude_deg=longitude_deg, altitude_m=altitude_m, mask_deg=mask_deg
    )
    site = site_at(latitude_deg, longitude_deg, altitude_m)
    where = sky.coefficients_m, sky.first_s, sky.segment_s, site.position_m, site.axes[2]
    numbers = np.array([satellite.number for satellite in sky.satellites], dtype=np.int64)[above.satellite_index]
    if rule == "longest":
        rows = longest_stay(above.rise_s, above.set_s, above.set_s, numbers)
        served = np.array(rows, dtype=float).reshape(-1, 3)
    else:
        served = serve_highest(
            *where, sky.seconds, above.satellite_index, numbers, above.rise_s, above.set_s,
            np.radians(margin_deg), minimum_stay_s, step_s,
        )  # fmt: skip
    index = above.satellite_index[served[:, 0].astype(np.intp)]
    from_s, to_s = served[:, 1].copy(), served[:, 2].copy()
    ends_deg = [
        [np.degrees(elevation(*where[:3], i, t_s, *where[3:])[0]) for i, t_s in zip(index, times_s)]
        for times_s in (from_s, to_s)
    ]
    edges_s = np.stack([np.append(sky.first_s, to_s), np.append(from_s, sky.seconds)], axis=1)
    gaps_s = edges_s[edges_s[:, 1] > edges_s[:, 0]]
    return Schedule(index, from_s, to_s, np.array(ends_deg[0]), np.array(ends_deg[1]), gaps_s)


def longest_stay(
    begin: np.ndarray, end: np.ndarray, stay: np.ndarray, number: np.ndarray
) -> list[tuple[int, float, float]]:
    """Who serves when, if who serves stays to its end and then the one that stays longest takes over.

    begin, end  (n,)  when each may serve, begin rising: seconds, or whole cycles as in decision 0008
    stay        (n,)  until when it stays, for the choice; it orders the ends
    number      (n,)  the smaller goes first of those that stay equally long

    Returns (which, from, to) in order of time.
    """
    chosen: list[tuple[int, float, float]] = []
    now, best = -math.inf, -1
    rank = list(zip(np.asarray(stay).tolist(), (-np.asarray(number)).tolist()))
    begins, ends = np.asarray(begin).tolist(), np.asarray(end).tolist()
    i, n = 0, len(begins)
    while True:
        while i < n and begins[i] <= now:  # of all that have come, whoever stays longest is up if anybody is
            best = i if best < 0 or rank[i] > rank[best] else best
            i += 1
        if best >= 0 and ends[best] > now:
            chosen.append((best, now, ends[best]))
            now = ends[best]
        elif i < n:
            now = begins[i]
        else:
            return chosen


@njit(cache=True, nogil=True, error_model="numpy")
def serve_highest(
    coefficients_m, first_s, segment_s, site_m, zenith, end_s, satellite, number, rise_s, set_s, margin_rad,
    minimum_stay_s, step_s,
):  # fmt: skip
    """Kernel: who serves when by the highest elevation, (n_services, 3): which pass, from, to (s).

    coefficients_m, first_s, segment_s, end_s   of the ephemeris
    satellite, number, rise_s, set_s  (n_passes,)  by rise
    """
    where = coefficients_m, first_s, segment_s
    n_passes = len(rise_s)
    up, angle_rad, rate_rad_s = np.empty(n_passes, dtype=np.int64), np.empty(n_passes), np.empty(n_passes)
    rows = np.empty((64, 3))
    n_up, n_rows, coming, serving = 0, 0, 0, -1
    now_s = first_s
    while now_s < end_s:
        if serving >= 0 and set_s[serving] <= now_s:
            serving = -1
        until_s = min(now_s + step_s, end_s)
        kept = 0
        for q in range(n_up):
            up[kept] = up[q]
            kept += set_s[up[q]] > now_s
        n_up = kept
        while coming < n_passes and rise_s[coming] < until_s:
            if set_s[coming] > now_s:
                up[n_up] = coming
                n_up += 1
            coming += 1

        # Now: who must be replaced, and who may be
        ready = serving < 0 or now_s >= rows[n_rows - 1, 1] + minimum_stay_s
        if not ready:
            now_s = min(rows[n_rows - 1, 1] + minimum_stay_s, set_s[serving])
            rows[n_rows - 1, 2] = min(now_s, end_s)
            continue
        best, best_rad, own_rad, own_rate = -1, -np.inf, 0.0, 0.0
        if serving >= 0:
            own_rad, own_rate = elevation(*where, satellite[serving], now_s, site_m, zenith)
        for q in range(n_up):
            p = up[q]
            angle_rad[q], rate_rad_s[q] = elevation(*where, satellite[p], max(now_s, rise_s[p]), site_m, zenith)
            if p == serving or rise_s[p] > now_s or (serving >= 0 and angle_rad[q] - own_rad - margin_rad <= 0.0):
                continue  # the sum is that of `ahead`: rounded otherwise they could disagree, and time stand still
            if angle_rad[q] > best_rad or (angle_rad[q] == best_rad and number[p] < number[best]):
                best, best_rad = p, angle_rad[q]
        best = serving if best < 0 else best
        if best < 0:
            soonest_s = rise_s[coming] if coming < n_passes else end_s
            for q in range(n_up):
                soonest_s = min(soonest_s, rise_s[up[q]])
            now_s = soonest_s
            continue
        if best != serving:
            if n_rows == len(rows):
                longer = np.empty((2 * n_rows, 3))
                for row in range(n_rows):  # one by one: numba takes a second to compile the assignment of a slice
                    for column in range(3):
                        longer[row, column] = rows[row, column]
                rows = longer
            serving = best
            rows[n_rows, 0], rows[n_rows, 1], rows[n_rows, 2] = best, now_s, now_s
            n_rows += 1
            continue

        # From now on: the first that gets higher, by the margin
        until_s = min(until_s, set_s[serving])
        turn_s = until_s
        own_rad, own_end_rate = elevation(*where, satellite[serving], until_s, site_m, zenith)
        for q in range(n_up):
            p = up[q]
            if p == serving or rise_s[p] >= turn_s:
                continue
            from_s, to_s = max(now_s, rise_s[p]), min(until_s, set_s[p])
            end_rad, end_rate = elevation(*where, satellite[p], to_s, site_m, zenith)
            same_span = to_s == until_s and rise_s[p] <= now_s
            tops = rate_rad_s[q] > own_rate and end_rate < own_end_rate
            if same_span and not tops and end_rad - own_rad - margin_rad <= 0.0:
                continue  # as nearly all
            pair = satellite[serving], satellite[p]
            turn_s = min(turn_s, overtaken_s(*where, *pair, from_s, to_s, margin_rad, site_m, zenith))
        now_s = rows[n_rows - 1, 2] = turn_s
    return rows[:n_rows]


@njit(cache=True, nogil=True, error_model="numpy")
def overtaken_s(coefficients_m, first_s, segment_s, serving, other, from_s, to_s, margin_rad, site_m, zenith):
    """Kernel: when `other` first stands higher than `serving` by the margin, from from_s to to_s; infinity if never.

    Within a microsecond, and on the far side: at the answer it is higher.
    """
    where = coefficients_m, first_s, segment_s
    low, low_rate = ahead(*where, serving, other, from_s, margin_rad, site_m, zenith)
    high, high_rate = ahead(*where, serving, other, to_s, margin_rad, site_m, zenith)
    if low > 0.0:
        return from_s
    if high <= 0.0:
        if not (low_rate > 0.0 and high_rate < 0.0):
            return np.inf
        top_s, end_s = from_s, to_s  # between them it gets ahead the most
        while end_s - top_s > EVENT_S:
            middle_s = 0.5 * (top_s + end_s)
            if ahead(*where, serving, other, middle_s, margin_rad, site_m, zenith)[1] > 0.0:
                top_s = middle_s
            else:
                end_s = middle_s
        to_s = end_s
        if ahead(*where, serving, other, to_s, margin_rad, site_m, zenith)[0] <= 0.0:
            return np.inf
    while to_s - from_s > EVENT_S:
        middle_s = 0.5 * (from_s + to_s)
        if ahead(*where, serving, other, middle_s, margin_rad, site_m, zenith)[0] > 0.0:
            to_s = middle_s
        else:
            from_s = middle_s
    return to_s


@njit(cache=True, nogil=True, error_model="numpy")
def ahead(coefficients_m, first_s, segment_s, serving, other, t_s, margin_rad, site_m, zenith):
    """Kernel: how much higher than `serving` and the margin `other` stands, rad, and its rate."""
    one, one_rate = elevation(coefficients_m, first_s, segment_s, serving, t_s, site_m, zenith)
    two, two_rate = elevation(coefficients_m, first_s, segment_s, other, t_s, site_m, zenith)
    return two - one - margin_rad, two_rate - one_rate


@njit(cache=True, nogil=True, error_model="numpy")
def elevation(coefficients_m, first_s, segment_s, satellite, t_s, site_m, zenith):
    """Kernel: elevation of one satellite of an ephemeris at one time, rad, and its rate, rad/s."""
    since = (t_s - first_s) / segment_s
    k = min(max(int(np.floor(since)), 0), len(coefficients_m) - 1)
    sine, rate = sine_elevation(coefficients_m[k, :, :, satellite], 2.0 * (since - k) - 1.0, site_m, zenith)
    cosine = np.sqrt(max((1.0 - sine) * (1.0 + sine), 0.0))
    return arctan2(sine, cosine), rate * 2.0 / segment_s / max(cosine, 1e-12)
