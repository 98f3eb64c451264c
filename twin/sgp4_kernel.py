"""SGP4 for many satellites at many times: the sgp4 package's answers, error codes included, many times as fast.

The model is that of Hoots and Roehrich, Spacetrack Report No. 3 (1980), as corrected by Vallado, Crawford, Hujsak and
Kelso, "Revisiting Spacetrack Report #3", AIAA 2006-6753, in its improved mode and with the constants of WGS72, to which
element sets are fitted. Satellites that go round in 225 minutes or more need the deep-space part, which stays with the
sgp4 package; `Propagator` flies both kinds behind one call.

Lengths inside are earth radii and times minutes, as the paper has them; metres and metres per second come out.
"""

import math
import threading
from collections.abc import Sequence
from itertools import count

import numba
import numpy as np
from numba import njit
from sgp4.api import SatrecArray

from twin.tle import Satellite
from twin.units import KILO, MINUTES_PER_DAY

EARTH_RADIUS_M = 6_378_135.0  # this and the next four: WGS72, AIAA 2006-6753, appendix B
EARTH_MU_M3_S2 = 3.986_008e14
RADIUS_KM, MU_KM3_S2 = 6_378.135, 398_600.8
J2 = 0.001_082_616
J3 = -0.000_002_538_81
J4 = -0.000_001_655_97
XKE = 60.0 / np.sqrt(RADIUS_KM * RADIUS_KM * RADIUS_KM / MU_KM3_S2)  # root of mu in earth radii^1.5 per minute
SPEED_M_S = EARTH_RADIUS_M * XKE / 60.0  # of a circular orbit at one earth radius: the model's unit of velocity
DEEP_MINUTES = 225.0  # period from which the deep-space part is flown
TWO_PI = 2.0 * np.pi

ECCENTRICITY, DECAYED, MEAN_MOTION, SEMI_LATUS_RECTUM = 1, 6, 2, 4  # sgp4's error codes of the near-earth part

# Columns of `Propagator.constants`, angles in radians, rates per minute. SGP4's own names stand behind.
(
    MEAN_ANOMALY, MEAN_ANOMALY_RATE,  # mo, mdot
    PERIGEE, PERIGEE_RATE,  # argpo, argpdot: argument of perigee
    NODE, NODE_RATE, NODE_DRAG,  # nodeo, nodedot, nodecf (of t^2)
    MEAN_MOTION_RAD_MIN, SEMI_MAJOR_AXIS, ECCENTRICITY_0,  # no_unkozai, ao (earth radii), ecco
    AXIS_1, AXIS_2, AXIS_3, AXIS_4,  # cc1, d2, d3, d4: drag on the root of the semi-major axis, by powers of t
    LONGITUDE_2, LONGITUDE_3, LONGITUDE_4, LONGITUDE_5,  # t2cof ... t5cof: drag on the mean longitude
    ECCENTRICITY_1, ECCENTRICITY_SINE, SINE_0,  # bstar cc4, bstar cc5, sinmao: drag on the eccentricity
    PERIGEE_DRAG, ANOMALY_DRAG, ETA, CUBE_0,  # omgcof, xmcof, eta, delmo: drag on anomaly and perigee
    INCLINATION, SINE_I, COSINE_I,  # inclo and its sine and cosine
    LONG_PERIOD_LONGITUDE, LONG_PERIOD_Y,  # xlcof, aycof
    X3THM1, X1MTH2, X7THM1,  # con41 = 3 cos^2 i - 1, 1 - cos^2 i, 7 cos^2 i - 1
) = range(33)  # fmt: skip
N_CONSTANTS = 33

CHUNK_STATES = 20_000  # flown at a time by one thread; for fewer than that a second one is not worth starting

States = tuple[np.ndarray, np.ndarray, np.ndarray]  # error_code, position_teme_m, velocity_teme_m_s


def initialise(satellites: Sequence[Satellite]) -> tuple[np.ndarray, np.ndarray]:
    """SGP4's constants of each satellite, and which of them are deep-space.

    Returns constants (n_satellites, N_CONSTANTS), columns as named above, and deep (n_satellites,) bool, whose rows of
    constants are not to be used. Source: AIAA 2006-6753, procedures initl and sgp4init.
    """
    elements = [
        (s.mean_motion_rev_day, s.eccentricity, s.inclination_deg, s.raan_deg, s.argument_of_perigee_deg,
         s.mean_anomaly_deg, s.bstar)
        for s in satellites
    ]  # fmt: skip
    rev_day, ecc, inc_deg, node_deg, perigee_deg, anomaly_deg, bstar = np.array(elements).reshape(-1, 7).T
    inclination, node, perigee, anomaly = (x * (np.pi / 180.0) for x in (inc_deg, node_deg, perigee_deg, anomaly_deg))
    with np.errstate(all="ignore"):  # impossible elements become NaN or infinity, as in sgp4, and errors when flown
        # Kozai's mean motion to Brouwer's
        sin_i, cos_i = np.sin(inclination), np.cos(inclination)
        theta2 = cos_i * cos_i
        theta4 = theta2 * theta2
        beta2 = 1.0 - ecc * ecc
        beta = np.sqrt(beta2)
        kozai = rev_day / (MINUTES_PER_DAY / TWO_PI)
        a = _power(XKE / kozai, 2.0 / 3.0)
        d1 = 0.75 * J2 * (3.0 * theta2 - 1.0) / (beta * beta2)
        delta = d1 / (a * a)
        a = a * (1.0 - delta * delta - delta * (1.0 / 3.0 + 134.0 * delta * delta / 81.0))
        n = kozai / (1.0 + d1 / (a * a))
        a = _power(XKE / n, 2.0 / 3.0)
        deep = TWO_PI / n >= DEEP_MINUTES

        # atmosphere: the power law's foot s, lower where the perigee is below 156 km and 98 km
        perigee_radius = a * (1.0 - ecc)
        perigee_km = (perigee_radius - 1.0) * RADIUS_KM
        foot_km = np.where(perigee_km < 98.0, 20.0, np.where(perigee_km < 156.0, perigee_km - 78.0, 78.0))
        simple = perigee_radius < 220.0 / RADIUS_KM + 1.0
        s = foot_km / RADIUS_KM + 1.0
        xi = 1.0 / (a - s)
        eta = a * ecc * xi
        eta2 = eta * eta
        e_eta = ecc * eta
        psi2 = np.abs(1.0 - eta2)
        q = (120.0 - foot_km) / RADIUS_KM
        c0 = q * q * q * q * _power(xi, 4.0)
        c_psi = c0 / _power(psi2, 3.5)
        x3thm1 = -(1.0 - 5.0 * theta2) - theta2 - theta2
        x1mth2 = 1.0 - theta2
        c2 = c_psi * n * (
            a * (1.0 + 1.5 * eta2 + e_eta * (4.0 + eta2))
            + 0.375 * J2 * xi / psi2 * x3thm1 * (8.0 + 3.0 * eta2 * (8.0 + eta2))
        )  # fmt: skip
        c1 = bstar * c2
        round_orbit = ~(ecc > 1e-4)
        c3 = np.where(round_orbit, 0.0, -2.0 * c0 * xi * (J3 / J2) * n * sin_i / ecc)
        c4 = 2.0 * n * c_psi * a * beta2 * (
            eta * (2.0 + 0.5 * eta2) + ecc * (0.5 + 2.0 * eta2)
            - J2 * xi / (a * psi2) * (
                -3.0 * x3thm1 * (1.0 - 2.0 * e_eta + eta2 * (1.5 - 0.5 * e_eta))
                + 0.75 * x1mth2 * (2.0 * eta2 - e_eta * (1.0 + eta2)) * np.cos(2.0 * perigee)
            )
        )  # fmt: skip
        c5 = 2.0 * c_psi * a * beta2 * (1.0 + 2.75 * (eta2 + e_eta) + e_eta * eta2)

        # secular rates of the oblate earth
        p2 = 1.0 / (a * beta2 * (a * beta2))
        j2_1 = 1.5 * J2 * p2 * n
        j2_2 = 0.5 * j2_1 * J2 * p2
        j4_1 = -0.46875 * J4 * p2 * p2 * n
        anomaly_rate = n + 0.5 * j2_1 * beta * x3thm1 + 0.0625 * j2_2 * beta * (13.0 - 78.0 * theta2 + 137.0 * theta4)
        perigee_rate = (
            -0.5 * j2_1 * (1.0 - 5.0 * theta2)
            + 0.0625 * j2_2 * (7.0 - 114.0 * theta2 + 395.0 * theta4)
            + j4_1 * (3.0 - 36.0 * theta2 + 49.0 * theta4)
        )
        node_j2_rate = -j2_1 * cos_i
        node_rate = node_j2_rate + (0.5 * j2_2 * (4.0 - 19.0 * theta2) + 2.0 * j4_1 * (3.0 - 7.0 * theta2)) * cos_i

        # secular drag beyond the first power of time, which the simple model for low perigees leaves out
        c1_2 = c1 * c1
        d2 = 4.0 * a * xi * c1_2
        d_xi = d2 * xi * c1 / 3.0
        d3 = (17.0 * a + s) * d_xi
        d4 = 0.5 * d_xi * a * xi * (221.0 * a + 31.0 * s) * c1
        t3 = d2 + 2.0 * c1_2
        t4 = 0.25 * (3.0 * d3 + c1 * (12.0 * d2 + 10.0 * c1_2))
        t5 = 0.2 * (3.0 * d4 + 12.0 * c1 * d3 + 6.0 * d2 * d2 + 15.0 * c1_2 * (2.0 * d2 + c1_2))
        cube = 1.0 + eta * np.cos(anomaly)
        anomaly_drag = np.where(round_orbit, 0.0, -2.0 / 3.0 * c0 * bstar / e_eta)

        # long-period terms; the guard is against division by zero at 180 degrees
        above = np.where(np.abs(cos_i + 1.0) > 1.5e-12, 1.0 + cos_i, 1.5e-12)
        long_period_longitude = -0.25 * (J3 / J2) * sin_i * (3.0 + 5.0 * cos_i) / above
        long_period_y = -0.5 * (J3 / J2) * sin_i

    constants = np.zeros((len(satellites), N_CONSTANTS))
    always = {
        MEAN_ANOMALY: anomaly, MEAN_ANOMALY_RATE: anomaly_rate, PERIGEE: perigee, PERIGEE_RATE: perigee_rate,
        NODE: node, NODE_RATE: node_rate, NODE_DRAG: 3.5 * beta2 * node_j2_rate * c1,
        MEAN_MOTION_RAD_MIN: n, SEMI_MAJOR_AXIS: a, ECCENTRICITY_0: ecc,
        AXIS_1: c1, LONGITUDE_2: 1.5 * c1, ECCENTRICITY_1: bstar * c4,
        INCLINATION: inclination, SINE_I: sin_i, COSINE_I: cos_i,
        LONG_PERIOD_LONGITUDE: long_period_longitude, LONG_PERIOD_Y: long_period_y,
        X3THM1: x3thm1, X1MTH2: x1mth2, X7THM1: 7.0 * theta2 - 1.0,
    }  # fmt: skip
    not_simple = {
        AXIS_2: d2, AXIS_3: d3, AXIS_4: d4, LONGITUDE_3: t3, LONGITUDE_4: t4, LONGITUDE_5: t5,
        ECCENTRICITY_SINE: bstar * c5, SINE_0: np.sin(anomaly),
        PERIGEE_DRAG: bstar * c3 * np.cos(perigee), ANOMALY_DRAG: anomaly_drag,
        ETA: eta, CUBE_0: cube * cube * cube,
    }  # fmt: skip
    for column, values in always.items():
        constants[:, column] = values
    for column, values in not_simple.items():
        constants[:, column] = np.where(simple, 0.0, values)
    return constants, deep


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    """Powers as the C library gives them to sgp4. NumPy's differ in the last bit once in twenty, of which drag over
    weeks makes a hundredth of a millimetre."""

    def power(x: float) -> float:
        try:
            return math.pow(x, exponent)
        except ValueError:  # impossible elements
            return math.nan
        except OverflowError:
            return math.inf

    return np.array([power(x) for x in values.tolist()])


@njit(cache=True, nogil=True, error_model="numpy")
def exact(row, t):
    """One satellite at one time by the model's own steps: the answer where the fast path's bounds do not hold.

    row  (N_CONSTANTS,)
    t    ()  minutes since the epoch

    Returns the error code, x, y, z in m and their rates in m/s.
    Source: AIAA 2006-6753, procedure sgp4. Checked by tests/test_sgp4_kernel.py.
    """
    # secular gravity and drag
    anomaly = row[MEAN_ANOMALY] + row[MEAN_ANOMALY_RATE] * t
    perigee = row[PERIGEE] + row[PERIGEE_RATE] * t
    node = row[NODE] + row[NODE_RATE] * t + row[NODE_DRAG] * t * t
    t2 = t * t
    t3 = t2 * t
    t4 = t3 * t
    cube = 1.0 + row[ETA] * np.cos(anomaly)
    periodic = row[PERIGEE_DRAG] * t + row[ANOMALY_DRAG] * (cube * cube * cube - row[CUBE_0])
    perigee = perigee - periodic
    anomaly = anomaly + periodic
    root = 1.0 - row[AXIS_1] * t - row[AXIS_2] * t2 - row[AXIS_3] * t3 - row[AXIS_4] * t4
    lost = row[ECCENTRICITY_1] * t + row[ECCENTRICITY_SINE] * (np.sin(anomaly) - row[SINE_0])
    longitude = row[LONGITUDE_2] * t2 + row[LONGITUDE_3] * t3 + t4 * (row[LONGITUDE_4] + t * row[LONGITUDE_5])
    if row[MEAN_MOTION_RAD_MIN] <= 0.0:
        return MEAN_MOTION, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan
    a = row[SEMI_MAJOR_AXIS] * root * root
    n_xke = 1.0 / a**1.5  # mean motion over XKE
    e = row[ECCENTRICITY_0] - lost
    if e >= 1.0 or e < -0.001:
        return ECCENTRICITY, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan
    if e < 1e-6:
        e = 1e-6
    anomaly = anomaly + row[MEAN_MOTION_RAD_MIN] * longitude

    # long-period terms
    turned = np.fmod(anomaly + perigee + node, TWO_PI)
    node = np.fmod(node, TWO_PI)
    perigee = np.fmod(perigee, TWO_PI)
    anomaly = np.fmod(turned - perigee - node, TWO_PI)
    per_p = 1.0 / (a * (1.0 - e * e))
    ax = e * np.cos(perigee)
    ay = e * np.sin(perigee) + per_p * row[LONG_PERIOD_Y]
    u = np.fmod(anomaly + perigee + node + per_p * row[LONG_PERIOD_LONGITUDE] * ax - node, TWO_PI)

    # Kepler's equation
    eccentric = u
    step = 9999.9
    n_steps = 0
    sin_e, cos_e = 0.0, 0.0
    while abs(step) >= 1e-12 and n_steps < 10:
        sin_e, cos_e = np.sin(eccentric), np.cos(eccentric)
        step = (u - ay * cos_e + ax * sin_e - eccentric) / (1.0 - cos_e * ax - sin_e * ay)
        if abs(step) >= 0.95:
            step = 0.95 if step > 0.0 else -0.95
        eccentric += step
        n_steps += 1

    # short-period terms
    e_cos = ax * cos_e + ay * sin_e
    e_sin = ax * sin_e - ay * cos_e
    e2 = ax * ax + ay * ay
    p = a * (1.0 - e2)
    if p < 0.0:
        return SEMI_LATUS_RECTUM, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan
    r = a * (1.0 - e_cos)
    beta = np.sqrt(1.0 - e2)
    tilt = e_sin / (1.0 + beta)
    sin_u = a / r * (sin_e - ay - ax * tilt)
    cos_u = a / r * (cos_e - ax + ay * tilt)
    sin_2u = (cos_u + cos_u) * sin_u
    cos_2u = 1.0 - 2.0 * sin_u * sin_u
    j2_p = 0.5 * J2 / p
    j2_p2 = j2_p / p
    r_short = r * (1.0 - 1.5 * j2_p2 * beta * row[X3THM1]) + 0.5 * j2_p * row[X1MTH2] * cos_2u
    u = np.arctan2(sin_u, cos_u) - 0.25 * j2_p2 * row[X7THM1] * sin_2u
    node = node + 1.5 * j2_p2 * row[COSINE_I] * sin_2u
    i = row[INCLINATION] + 1.5 * j2_p2 * row[COSINE_I] * row[SINE_I] * cos_2u
    r_rate = np.sqrt(a) * e_sin / r - n_xke * j2_p * row[X1MTH2] * sin_2u
    across = np.sqrt(p) / r + n_xke * j2_p * (row[X1MTH2] * cos_2u + 1.5 * row[X3THM1])

    # position and velocity
    sin_u, cos_u = np.sin(u), np.cos(u)
    sin_node, cos_node = np.sin(node), np.cos(node)
    sin_i, cos_i = np.sin(i), np.cos(i)
    mx, my = -sin_node * cos_i, cos_node * cos_i
    ux = mx * sin_u + cos_node * cos_u
    uy = my * sin_u + sin_node * cos_u
    uz = sin_i * sin_u
    vx = r_rate * ux + across * (mx * cos_u - cos_node * sin_u)
    vy = r_rate * uy + across * (my * cos_u - sin_node * sin_u)
    vz = r_rate * uz + across * (sin_i * cos_u)
    m = r_short * EARTH_RADIUS_M
    code = DECAYED if r_short < 1.0 else 0
    return code, m * ux, m * uy, m * uz, SPEED_M_S * vx, SPEED_M_S * vy, SPEED_M_S * vz


@njit(cache=True, nogil=True, error_model="numpy")
def near_earth(constants_row, minutes, position_teme_m, velocity_teme_m_s, error_code):
    """Kernel: one near-earth satellite at many times.

    constants_row      (N_CONSTANTS,)        a row of `Propagator.constants`
    minutes            (n_times,)       min  since the satellite's epoch
    position_teme_m    (3, n_times)     m    written
    velocity_teme_m_s  (3, n_times)     m/s  written; (3, 0) asks for positions alone
    error_code         (n_times,)            written: 0, or sgp4's code
    """
    wanted = velocity_teme_m_s.shape[1] > 0
    for k in range(minutes.size):
        code, x, y, z, vx, vy, vz = exact(constants_row, minutes[k])
        error_code[k] = code
        position_teme_m[0, k], position_teme_m[1, k], position_teme_m[2, k] = x, y, z
        if wanted:
            velocity_teme_m_s[0, k], velocity_teme_m_s[1, k], velocity_teme_m_s[2, k] = vx, vy, vz


@njit(cache=True, nogil=True, error_model="numpy")
def fly(constants, which, epoch, unit, whole, part, error_code, position_teme_m, velocity_teme_m_s):
    """Kernel: some satellites at all times, written where they belong in the arrays of all.

    constants    (n_satellites, N_CONSTANTS)
    which        (n_some,)          indices of the satellites to fly
    epoch        (n_satellites, 2)  the two parts of each epoch
    unit         ()                 minutes in the unit of epoch and times
    whole, part  (n_rows, n_times)  the two parts of the times; one row for all satellites, or one for each
    """
    for i in which:
        row = 0 if whole.shape[0] == 1 else i
        for k in range(whole.shape[1]):
            t = (whole[row, k] - epoch[i, 0]) * unit + (part[row, k] - epoch[i, 1]) * unit
            code, x, y, z, vx, vy, vz = exact(constants[i], t)
            error_code[i, k] = code
            position_teme_m[i, k, 0], position_teme_m[i, k, 1], position_teme_m[i, k, 2] = x, y, z
            velocity_teme_m_s[i, k, 0], velocity_teme_m_s[i, k, 1], velocity_teme_m_s[i, k, 2] = vx, vy, vz


class Propagator:
    """Satellites ready to be flown: SGP4's constants, computed once.

    deep       (n_satellites,) bool                 periods of 225 minutes or more: these fly by the sgp4 package
    constants  (n_satellites, N_CONSTANTS) float64  columns as named above; the rows of deep ones mean nothing
    epoch      (n_satellites, 2)                    days, UTC: epoch_jd and epoch_fr
    """

    def __init__(self, satellites: Sequence[Satellite]):
        self.constants, self.deep = initialise(satellites)
        self.epoch = np.array([(s.epoch_jd, s.epoch_fr) for s in satellites], dtype=float).reshape(-1, 2)
        self._deep_at = np.flatnonzero(self.deep)
        self._near_at = np.flatnonzero(~self.deep)
        self._models = [satellites[i].satrec() for i in self._deep_at.tolist()]

    def propagate(
        self, jd: np.ndarray, fr: np.ndarray, *, threads: int | None = None, out: States | None = None
    ) -> States:
        """States of all satellites at all times, in TEME.

        jd, fr   (n_times,)  days, UTC: Julian dates in two parts, as sgp4 takes them
        threads              how many to work on it, numba.get_num_threads() unless given; the answer is the same to
                             the last bit for any number of them
        out                  an earlier answer for as many satellites and times, to be written over: saves more time
                             than it looks, as fresh memory costs as much as half the flight

        Returns error_code (n_satellites, n_times) uint8, position_teme_m and velocity_teme_m_s (n_satellites, n_times,
        3). The code is sgp4's: 1 to 4 come with NaN, 6 (decayed) with the position all the same. Raises ValueError when
        arrays do not fit. Checked by tests/test_sgp4_kernel.py against sgp4: 1e-5 m, 1e-8 m/s.
        """
        jd, fr = np.array(jd, dtype=float), np.array(fr, dtype=float)
        if jd.ndim != 1 or jd.shape != fr.shape:
            raise ValueError(f"jd and fr must be two arrays of shape (n_times,), got {jd.shape} and {fr.shape}")
        states = self._states(jd.size, out)
        if self._models and jd.size:
            code, position_km, velocity_km_s = SatrecArray(self._models).sgp4(jd, fr)
            self._put(states, code, position_km, velocity_km_s)
        self._fly(self.epoch, MINUTES_PER_DAY, jd[None], fr[None], threads, states)
        return states

    def propagate_minutes(
        self, minutes: np.ndarray, *, threads: int | None = None, out: States | None = None
    ) -> States:
        """States at times counted from each satellite's own epoch; deep-space satellites one by one, so slowly.

        minutes  (n_times,) or (n_satellites, n_times)  min  since the epoch

        Otherwise as `propagate`.
        """
        minutes = np.atleast_2d(np.array(minutes, dtype=float))
        if minutes.ndim != 2 or minutes.shape[0] not in (1, len(self.deep)):
            raise ValueError(
                f"minutes must be of shape (n_times,) or (n_satellites, n_times) with {len(self.deep)} satellites, "
                f"got {minutes.shape}"
            )
        states = self._states(minutes.shape[1], out)
        if self._models and minutes.shape[1]:
            rows = np.broadcast_to(minutes, (len(self.deep), minutes.shape[1]))[self._deep_at]
            flown = [[model.sgp4_tsince(t) for t in row] for model, row in zip(self._models, rows.tolist())]
            self._put(states, *(np.array([[one[k] for one in row] for row in flown]) for k in range(3)))
        self._fly(np.zeros_like(self.epoch), 1.0, minutes, np.zeros_like(minutes), threads, states)
        return states

    def _states(self, n_times: int, out: States | None) -> States:
        shape = len(self.deep), n_times
        if out is None:
            return np.zeros(shape, dtype=np.uint8), np.empty((*shape, 3)), np.empty((*shape, 3))
        wanted = (
            ("error_code", shape, "uint8"),
            ("position", (*shape, 3), "float64"),
            ("velocity", (*shape, 3), "float64"),
        )
        if len(out) != 3:
            raise ValueError(f"out must be the three arrays of an earlier answer, got {len(out)} of them")
        for (name, fit, kind), array in zip(wanted, out):
            if array.shape != fit or array.dtype != kind or not array.flags.carray:
                raise ValueError(
                    f"out's {name} must be a contiguous {kind} array of shape {fit}, got {array.dtype} {array.shape}"
                )
        return out

    def _put(self, states: States, code, position_km, velocity_km_s) -> None:
        for array, values in zip(states, (code, position_km * KILO, velocity_km_s * KILO)):
            array[self._deep_at] = values

    def _fly(self, epoch, unit: float, whole, part, threads: int | None, states: States) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        which = self._near_at
        n_states = which.size * whole.shape[1]
        if not n_states:
            return
        span = max(1, CHUNK_STATES // whole.shape[1])
        starts = count(0, span)  # shared: whoever is free takes the next; who took what does not show in the answer

        def work() -> None:
            while (first := next(starts)) < which.size:
                fly(self.constants, which[first : first + span], epoch, unit, whole, part, *states)

        helpers = []
        if n_states > CHUNK_STATES:
            wanted = numba.get_num_threads() if threads is None else threads
            helpers = [threading.Thread(target=work) for _ in range(min(wanted, -(-which.size // span)) - 1)]
        for helper in helpers:
            helper.start()
        try:
            work()
        finally:
            for helper in helpers:
                helper.join()
