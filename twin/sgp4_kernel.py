"""SGP4 for many satellites at many times: the sgp4 package's answers, error codes included, many times as fast.

The model is that of Hoots and Roehrich, Spacetrack Report No. 3 (1980), as corrected by Vallado, Crawford, Hujsak and
Kelso, "Revisiting Spacetrack Report #3", AIAA 2006-6753, in its improved mode and with the constants of WGS72, to which
element sets are fitted. Satellites that go round in 225 minutes or more need the deep-space part, which stays with the
sgp4 package; `Propagator` flies both kinds behind one call.

Lengths inside are earth radii and times minutes, as the paper has them; metres and metres per second come out.

How it is fast. The times of one satellite are flown in tiles of 128, part by part of the model, in loops without
questions that the compiler turns into vectors. A tile needs one sine and cosine per time: perigee, node and drag move
slowly, so they are turned from the middle of the tile by short series. Kepler's equation is solved for the small
difference of eccentric and mean longitude, with which true longitude and radius follow without roots or arc tangents.
`holds` tells beforehand whether all that is exact; where it is not, `exact` takes the model's own steps, which cost
twenty times as much: eccentricities above 0.1, decay, times in disorder or hours apart.

How it is exact. The initialisation and `exact` keep sgp4's order of operations; the tiles are closer to the formulae
than sgp4's own rounding. What is left against sgp4, at most 8e-6 m and 9e-9 m/s within three days of the epoch in 20
million states, comes from its solution of Kepler's equation, which ends on a step below 1e-12 radians or just above:
see `kepler`. All but one state in 10,000 are within a micrometre.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numba import njit
from sgp4.api import SatrecArray

from twin.parallel import spread
from twin.simd import LANES, stream, wide_vectors
from twin.tle import Satellite
from twin.units import KILO, MINUTES_PER_DAY

RADIUS_KM = 6_378.135  # this and the next four: WGS72, AIAA 2006-6753, appendix B; in km, for sgp4's last digit
MU_KM3_S2 = 398_600.8
J2 = 0.001_082_616
J3 = -0.000_002_538_81
J4 = -0.000_001_655_97
EARTH_RADIUS_M = RADIUS_KM * KILO
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

kernel = njit(cache=True, nogil=True, error_model="numpy")
loops = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})  # a * b + c at once; nothing reordered

TILE = 128  # times flown together: the work of one tile stays in the nearest cache
(
    MINUTES, SIN_M, COS_M, ROOT,  # time; mean anomaly; root of the semi-major axis over its first value
    E_SIN, E_COS, SIN_D, COS_D, PER_R, E_SIN_D,  # Kepler's equation: see `kepler`; PER_R is a / r
    RADIUS_M, RADIAL_M_S, ACROSS_M_S, SIN_U, COS_U, SIN_NODE, COS_NODE, SIN_I, COS_I,  # what a state is made of
) = (row * TILE for row in range(19))  # fmt: skip
N_ROWS = 19
SMALL_RAD = 0.16  # how far the short series turn an angle

RIGHT_ANGLE, RIGHT_ANGLE_REST = 1.5707963267341256, 6.077100506506192e-11  # pi / 2: its first 33 bits, and the rest
ROUNDER = 6755399441055744.0  # 1.5 * 2^52: adding and subtracting it rounds to a whole number
# Minimax polynomials: sine and cosine on 45 degrees, to 2e-18 and 8e-17; 1 / (1 + sqrt(1 - x)) for x to 0.01, to 5e-15
SIN_3, SIN_5, SIN_7 = -0.166666666666666, 0.008333333333316473, -0.00019841269825928006
SIN_9, SIN_11, SIN_13 = 2.7557312542778707e-06, -2.505059993845903e-08, 1.588856900397007e-10
COS_4, COS_6, COS_8 = 0.04166666666660222, -0.0013888888878270133, 2.4801580969792702e-05
COS_10, COS_12 = -2.7555566784365664e-07, 2.0647715245130737e-09
HALF_ROOT_0, HALF_ROOT_1, HALF_ROOT_2 = 0.5000000000000052, 0.12499999997508567, 0.0625000189470423
HALF_ROOT_3, HALF_ROOT_4 = 0.03905746071949358, 0.027889609665854177

STREAM_BYTES = 32_000_000  # results larger than this are written past the caches
LEAST_TIMES = 20  # a tile of fewer times takes as long
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
    open_orbit = beta2 < 0.0  # computed no further by sgp4: without drag or rates it is error 1 when flown, not NaN
    constants[open_orbit] = 0.0
    constants[open_orbit, MEAN_MOTION_RAD_MIN] = np.nan
    constants[open_orbit, ECCENTRICITY_0] = ecc[open_orbit]
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


@kernel
def near_earth(constants_row, minutes, position_teme_m, velocity_teme_m_s, error_code):
    """Kernel: one near-earth satellite at many times, best in order.

    constants_row      (N_CONSTANTS,)        a row of `Propagator.constants`
    minutes            (n_times,)       min  since the satellite's epoch
    position_teme_m    (3, n_times)     m    written
    velocity_teme_m_s  (3, n_times)     m/s  written; (3, 0) asks for positions alone
    error_code         (n_times,)            written: 0, or sgp4's code

    Whole tiles are cheapest, and eight times cost little more than one. Without the velocities a seventh is saved.
    """
    work = np.empty(N_ROWS * TILE)
    first = 0
    while first < minutes.size:
        n = min(TILE, minutes.size - first)
        for k in range(n):
            work[MINUTES + k] = minutes[first + k]
        n = fly_tile(constants_row, work, n, error_code[first:])
        positions_to_rows(work, position_teme_m[:, first : first + n])
        if velocity_teme_m_s.shape[1] > 0:
            velocities_to_rows(work, velocity_teme_m_s[:, first : first + n])
        first += n


@kernel
def fly(constants, which, epoch, unit, whole, part, streaming, error_code, position_teme_m, velocity_teme_m_s):
    """Kernel: some satellites at all times, written where they belong in the arrays of all.

    constants    (n_satellites, N_CONSTANTS)
    which        (n_some,)          indices of the satellites to fly
    epoch        (n_satellites, 2)  the two parts of each epoch
    unit         ()                 minutes in the unit of epoch and times
    whole, part  (n_rows, n_times)  the two parts of the times; one row for all satellites, or one for each
    streaming    () bool            write past the caches

    The arrays of results are those of all satellites at all times, flat.
    """
    work = np.empty(N_ROWS * TILE)
    position, velocity = np.empty(3 * TILE), np.empty(3 * TILE)
    n_times = whole.shape[1]
    for i in which:
        row = 0 if whole.shape[0] == 1 else i
        first = 0
        while first < n_times:
            n = min(TILE, n_times - first)
            minutes_from(whole[row, first:], part[row, first:], epoch[i, 0], epoch[i, 1], unit, n, work)
            at = i * n_times + first
            n = fly_tile(constants[i], work, n, error_code[at:])
            interleave(work, n, position, velocity)
            if streaming:
                stream(position, 3 * n, position_teme_m, 3 * at)
                stream(velocity, 3 * n, velocity_teme_m_s, 3 * at)
            else:
                put(position, 3 * n, position_teme_m, 3 * at)
                put(velocity, 3 * n, velocity_teme_m_s, 3 * at)
            first += n


@njit(cache=True, nogil=True)
def minutes_since(jd, fr, epoch):
    """Kernel: minutes from an epoch (2,) to an instant, both split Julian dates, in sgp4's order of operations."""
    return (jd - epoch[0]) * MINUTES_PER_DAY + (fr - epoch[1]) * MINUTES_PER_DAY


@kernel
def minutes_from(whole, part, epoch_whole, epoch_part, unit, n, work):
    """Kernel: minutes since the epoch, in sgp4's order of operations, which decides the last digits."""
    wide_vectors()
    for k in range(n):
        work[MINUTES + k] = (whole[k] - epoch_whole) * unit + (part[k] - epoch_part) * unit


@kernel
def put(values, n, to, at):
    """Kernel: values[:n] to to[at:at + n]."""
    place = to[at : at + n]
    for k in range(n):
        place[k] = values[k]


@kernel
def fly_tile(row, work, n, error_code):
    """Kernel: the state of one satellite at the first of n times, as many as can be flown together: returns how many.

    work        (N_ROWS * TILE,)  MINUTES in; RADIUS_M and the rows behind it out
    error_code  (at least n,)     written

    One pass over a tile for each part of the model: short loops keep the arithmetic units busy, where one long loop
    would wait for its own results, half as fast.
    """
    while True:
        first, last = work[MINUTES], work[MINUTES + n - 1]
        middle, half = 0.5 * (first + last), 0.5 * abs(last - first)
        if holds(row, middle, half) and in_reach(work, n, middle, half):
            break
        if n <= LANES or not holds(row, middle, 0.0):
            for k in range(n):
                error_code[k] = exact(row, work, k)
            return n
        n = -(-(n // 2) // LANES) * LANES
    padded = -(-n // LANES) * LANES
    for k in range(n, padded):
        work[MINUTES + k] = last
    mean_anomaly(row, work, padded, middle)
    secular_and_long_period(row, work, padded, middle)
    kepler(work, padded)
    short_period(row, work, padded, middle)
    for k in range(n):
        error_code[k] = 0
    return n


@loops
def in_reach(work, n, middle, half):
    """Kernel: whether n times all lie within `half` minutes of the middle; not so if they are in disorder, or NaN."""
    beyond = 0
    for k in range(n):
        beyond += not abs(work[MINUTES + k] - middle) <= half + 1e-9
    return beyond == 0


@kernel
def holds(row, middle, half):
    """Kernel: whether the short series stand for the model within `half` minutes of `middle`, to 1e-14 radians.

    Bounds by the triangle inequality: none of sgp4's errors can occur, the eccentricity stays below 0.1, and the
    angles that the series turn by stay small. So the loops over times need no questions of their own.
    """
    t = abs(middle) + half
    e = row[ECCENTRICITY_0] + row[ECCENTRICITY_SINE] * row[SINE_0] - row[ECCENTRICITY_1] * middle
    e_swing = abs(row[ECCENTRICITY_1]) * half + abs(row[ECCENTRICITY_SINE])
    e_high = abs(e) + e_swing
    root = 1.0 - middle * (row[AXIS_1] + middle * (row[AXIS_2] + middle * (row[AXIS_3] + middle * row[AXIS_4])))
    root_low = root - half * (
        abs(row[AXIS_1]) + t * (2.0 * abs(row[AXIS_2]) + t * (3.0 * abs(row[AXIS_3]) + t * 4.0 * abs(row[AXIS_4])))
    )
    a_low = row[SEMI_MAJOR_AXIS] * root_low * root_low
    if not (root_low > 0.5 and a_low > 0.9 and e - e_swing > -0.0009 and e_high < 0.1):
        return False
    per_p = 1.0 / (a_low * (1.0 - e_high * e_high))
    e_all = e_high + abs(row[LONG_PERIOD_Y]) * per_p
    long_period = abs(row[LONG_PERIOD_LONGITUDE]) * per_p * e_high
    drag = row[MEAN_MOTION_RAD_MIN] * half * t * (
        2.0 * abs(row[LONGITUDE_2])
        + t * (3.0 * abs(row[LONGITUDE_3]) + t * (4.0 * abs(row[LONGITUDE_4]) + t * 5.0 * abs(row[LONGITUDE_5])))
    )  # fmt: skip
    eta = abs(row[ETA])
    periodic = abs(row[PERIGEE_DRAG]) * half + abs(row[ANOMALY_DRAG]) * ((1.0 + eta) ** 3 - 1.0)
    perigee = abs(row[PERIGEE_RATE]) * half + periodic
    node = (abs(row[NODE_RATE]) + 2.0 * abs(row[NODE_DRAG]) * t) * half + 0.001
    return (
        a_low * (1.0 - e_all) > 1.004  # not decayed: the short-period terms take off less than 0.003 (0.0005 at e = 0)
        and e_all < 0.1
        and perigee < SMALL_RAD
        and drag + long_period < SMALL_RAD
        and node < SMALL_RAD
    )


@kernel
def exact(row, work, k):
    """Kernel: one time by the model's own steps, where the short series do not hold: decay, errors, e above 0.1.

    work  (N_ROWS * TILE,)  column k: MINUTES in; RADIUS_M and the rows behind it out, NaN after an error

    Returns the error code. Source: AIAA 2006-6753, procedure sgp4, whose order of operations this keeps.
    """
    t = work[MINUTES + k]
    work[RADIUS_M + k] = work[RADIAL_M_S + k] = work[ACROSS_M_S + k] = np.nan
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
        return MEAN_MOTION
    a = row[SEMI_MAJOR_AXIS] * root * root
    n_xke = 1.0 / a**1.5  # mean motion over XKE
    e = row[ECCENTRICITY_0] - lost
    if e >= 1.0 or e < -0.001:
        return ECCENTRICITY
    if e < 1e-6:
        e = 1e-6
    anomaly = anomaly + row[MEAN_MOTION_RAD_MIN] * longitude

    # long-period terms
    total = np.fmod(anomaly + perigee + node, TWO_PI)
    node = np.fmod(node, TWO_PI)
    perigee = np.fmod(perigee, TWO_PI)
    anomaly = np.fmod(total - perigee - node, TWO_PI)
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
        return SEMI_LATUS_RECTUM
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

    work[SIN_U + k], work[COS_U + k] = np.sin(u), np.cos(u)
    work[SIN_NODE + k], work[COS_NODE + k] = np.sin(node), np.cos(node)
    work[SIN_I + k], work[COS_I + k] = np.sin(i), np.cos(i)
    work[RADIUS_M + k] = r_short * EARTH_RADIUS_M
    work[RADIAL_M_S + k] = r_rate * SPEED_M_S
    work[ACROSS_M_S + k] = across * SPEED_M_S
    return DECAYED if r_short < 1.0 else 0


@loops
def mean_anomaly(row, work, n, middle):
    """Kernel: sine and cosine of the mean anomaly, its drag terms as of the middle of the tile."""
    wide_vectors()
    at_middle = row[MEAN_ANOMALY] + row[MEAN_ANOMALY_RATE] * middle
    at_middle = at_middle + drag_longitude(row, middle) + drag_perigee(row, middle)
    quarter = 0.25 * np.fmod(at_middle, TWO_PI)
    rate = 0.25 * row[MEAN_ANOMALY_RATE]
    for k in range(n):
        work[SIN_M + k], work[COS_M + k] = sincos_of_four(quarter + rate * (work[MINUTES + k] - middle))


@loops
def secular_and_long_period(row, work, n, middle):
    """Kernel: drag, and the long-period terms of the third zonal harmonic.

    With the eccentricity vector (a_xN, a_yN) and U the mean argument of latitude of the report, Kepler's equation
    needs only a_xN sin U - a_yN cos U and a_xN cos U + a_yN sin U. These are e sin M and e cos M but for the
    long-period part of a_yN, so no angle of perigee has to be taken apart.
    """
    wide_vectors()
    n_0 = row[MEAN_MOTION_RAD_MIN]
    longitude_2, longitude_3 = n_0 * row[LONGITUDE_2], n_0 * row[LONGITUDE_3]
    longitude_4, longitude_5 = n_0 * row[LONGITUDE_4], n_0 * row[LONGITUDE_5]
    drag_m = drag_longitude(row, middle)
    perigee_m = drag_perigee(row, middle)
    sin_back, cos_back = sincos_of_four(0.25 * (drag_m + perigee_m))
    sin_drag, cos_drag = sincos_of_four(0.25 * drag_m)
    sin_w, cos_w = sincos_of_four(0.25 * (row[PERIGEE] + row[PERIGEE_RATE] * middle - perigee_m))
    perigee_rate, perigee_drag = row[PERIGEE_RATE], row[PERIGEE_DRAG]
    eta, anomaly_drag = row[ETA], row[ANOMALY_DRAG]
    axis_1, axis_2, axis_3, axis_4 = row[AXIS_1], row[AXIS_2], row[AXIS_3], row[AXIS_4]
    e_1, e_sine = row[ECCENTRICITY_1], row[ECCENTRICITY_SINE]
    e_0 = row[ECCENTRICITY_0] + e_sine * row[SINE_0]
    per_a = 1.0 / row[SEMI_MAJOR_AXIS]
    long_y, long_longitude = row[LONG_PERIOD_Y], row[LONG_PERIOD_LONGITUDE]
    for k in range(n):
        t = work[MINUTES + k]
        dt = t - middle
        sin_m, cos_m = work[SIN_M + k], work[COS_M + k]
        root = 1.0 - t * (axis_1 + t * (axis_2 + t * (axis_3 + t * axis_4)))
        drag = t * t * (longitude_2 + t * (longitude_3 + t * (longitude_4 + t * longitude_5))) - drag_m
        cube = 1.0 + eta * (cos_m * cos_back + sin_m * sin_back)
        periodic = perigee_drag * dt + anomaly_drag * (cube * cube * cube - 1.0)
        sin_m, cos_m = turned(sin_m, cos_m, periodic)
        e = max(e_0 - e_1 * t - e_sine * (sin_m * cos_drag - cos_m * sin_drag), 1e-6)
        per_p = per_a / (root * root * (1.0 - e * e))

        sin_p, cos_p = turned(sin_w, cos_w, perigee_rate * dt - periodic)
        sin_m, cos_m = turned(sin_m, cos_m, drag + long_longitude * per_p * e * cos_p)
        sin_u, cos_u = rotated(sin_m, cos_m, sin_p, cos_p)
        y = long_y * per_p
        work[E_SIN + k] = e * sin_m - y * cos_u
        work[E_COS + k] = e * cos_m + y * sin_u
        work[SIN_U + k] = sin_u
        work[COS_U + k] = cos_u
        work[ROOT + k] = root


@loops
def kepler(work, n):
    """Kernel: Kepler's equation for the difference D of eccentric and mean longitude, D = s cos D + c sin D.

    One Newton step from zero, what is missing of the root by reversion of the series, and one more Newton step: good
    to rounding up to an eccentricity of 0.1. sgp4 leaves its loop once a step is below 1e-12 and flies on with the
    point from before that step, after one step on round orbits or after two. So does this: it is worth 5 micrometres.
    """
    wide_vectors()
    for k in range(n):
        s, c = work[E_SIN + k], work[E_COS + k]
        per = 1.0 / (1.0 - c)
        newton = s * per
        q = c * per
        p2 = newton * newton
        missing = newton * p2 * (1 / 2 + q * (1 / 6) - p2 * (13 / 24 + q * (17 / 40)))
        enough = abs(missing) < 1e-12
        d = newton if enough else newton - missing
        d2 = d * d
        sin_d = d - d * d2 * (1 / 6 - d2 * (1 / 120 - d2 * (1 / 5040 - d2 * (1 / 362880))))
        cos_d = 1.0 - d2 * (1 / 2 - d2 * (1 / 24 - d2 * (1 / 720 - d2 * (1 / 40320))))
        per_r = 1.0 / (1.0 + s * sin_d - c * cos_d)
        step = 0.0 if enough else (s * cos_d + c * sin_d - d) * per_r
        late = 0.5 * d * per_r * missing * missing  # what sgp4's second step leaves
        step = step + late if abs(late) < 1e-12 else step
        sin_d, cos_d = sin_d + cos_d * step, cos_d - sin_d * step
        e_sin = s * cos_d + c * sin_d
        work[SIN_D + k] = sin_d
        work[COS_D + k] = cos_d
        work[PER_R + k] = per_r - e_sin * step * per_r * per_r
        work[E_SIN_D + k] = e_sin


@loops
def short_period(row, work, n, middle):
    """Kernel: true longitude and radius, and the short-period terms of the second zonal harmonic."""
    wide_vectors()
    a_0 = row[SEMI_MAJOR_AXIS]
    per_a = 1.0 / a_0
    per_root_a = np.sqrt(per_a)
    x3thm1, x1mth2 = row[X3THM1], row[X1MTH2]
    sin_i0, cos_i0 = row[SINE_I], row[COSINE_I]
    radius_2, u_2, node_2, i_2 = -1.5 * x3thm1, -0.25 * row[X7THM1], 1.5 * cos_i0, 1.5 * cos_i0 * sin_i0
    node_m = row[NODE] + row[NODE_RATE] * middle + row[NODE_DRAG] * middle * middle
    sin_node_m, cos_node_m = sincos_of_four(0.25 * node_m)
    node_rate, node_drag = row[NODE_RATE] + 2.0 * row[NODE_DRAG] * middle, row[NODE_DRAG]
    for k in range(n):
        dt = work[MINUTES + k] - middle
        s, c, sin_d, cos_d = work[E_SIN + k], work[E_COS + k], work[SIN_D + k], work[COS_D + k]
        per_r, e_sin, root = work[PER_R + k], work[E_SIN_D + k], work[ROOT + k]
        e_cos = c * cos_d - s * sin_d
        e2 = s * s + c * c
        half_root = HALF_ROOT_0 + e2 * (HALF_ROOT_1 + e2 * (HALF_ROOT_2 + e2 * (HALF_ROOT_3 + e2 * HALF_ROOT_4)))
        beta = 1.0 - e2 * half_root  # root of 1 - e^2; half_root is 1 / (1 + beta)

        # eccentric to true longitude: by D, then by the angle of (cos_f, sin_f)
        tilt = half_root * e_sin
        cos_f, sin_f = per_r * (1.0 - e_cos - tilt * e_sin), per_r * (e_sin - tilt * e_cos)
        sin_u, cos_u = rotated(work[SIN_U + k], work[COS_U + k], sin_d, cos_d)
        sin_u, cos_u = rotated(sin_u, cos_u, sin_f, cos_f)
        sin_2u, cos_2u = 2.0 * sin_u * cos_u, 1.0 - 2.0 * sin_u * sin_u

        e4 = e2 * e2
        per_root = 1.0 / root
        j2_p = 0.5 * J2 * per_a * per_root * per_root * (1.0 + e2) * (1.0 + e4) * (1.0 + e4 * e4)
        j2_p2 = j2_p * j2_p * (2.0 / J2)
        r = a_0 * root * root * (1.0 - e_cos)
        work[RADIUS_M + k] = EARTH_RADIUS_M * (
            r * (1.0 + radius_2 * j2_p2 * beta) + 0.5 * x1mth2 * j2_p * cos_2u
        )  # fmt: skip
        speed = per_root_a * per_root * per_r  # root of a over r
        n_j2 = per_a * per_root_a * per_root * per_root * per_root * j2_p
        work[RADIAL_M_S + k] = SPEED_M_S * (speed * e_sin - n_j2 * x1mth2 * sin_2u)
        work[ACROSS_M_S + k] = SPEED_M_S * (speed * beta + n_j2 * (x1mth2 * cos_2u + 1.5 * x3thm1))
        sin_2u, cos_2u = j2_p2 * sin_2u, j2_p2 * cos_2u
        work[SIN_U + k], work[COS_U + k] = turned_little(sin_u, cos_u, u_2 * sin_2u)
        work[SIN_I + k], work[COS_I + k] = turned_little(sin_i0, cos_i0, i_2 * cos_2u)
        node = dt * (node_rate + node_drag * dt) + node_2 * sin_2u
        work[SIN_NODE + k], work[COS_NODE + k] = turned(sin_node_m, cos_node_m, node)


@loops
def drag_longitude(row, t):
    """Kernel: what drag adds to the mean longitude, in radians."""
    powers = row[LONGITUDE_2] + t * (row[LONGITUDE_3] + t * (row[LONGITUDE_4] + t * row[LONGITUDE_5]))
    return row[MEAN_MOTION_RAD_MIN] * t * t * powers


@loops
def drag_perigee(row, t):
    """Kernel: what drag takes from the argument of perigee and adds to the mean anomaly, but for its periodic part."""
    return row[PERIGEE_DRAG] * t + row[ANOMALY_DRAG] * (1.0 - row[CUBE_0])


@loops
def sincos_of_four(quarter):
    """Kernel: sine and cosine of four times an angle of up to a million radians.

    The quarter is brought to within 45 degrees by multiples of a right angle, in two parts of which the first times
    the multiple is exact, and the series' sine and cosine are doubled twice. No questions asked, so loops vectorise.
    """
    turns = (quarter * (2.0 / np.pi) + ROUNDER) - ROUNDER
    x = (quarter - turns * RIGHT_ANGLE) - turns * RIGHT_ANGLE_REST
    y = x * x
    sine = x + x * y * (SIN_3 + y * (SIN_5 + y * (SIN_7 + y * (SIN_9 + y * (SIN_11 + y * SIN_13)))))
    cosine = 1.0 - y * (0.5 - y * (COS_4 + y * (COS_6 + y * (COS_8 + y * (COS_10 + y * COS_12)))))
    sine, cosine = 2.0 * sine * cosine, 1.0 - 2.0 * sine * sine
    return 2.0 * sine * cosine, 1.0 - 2.0 * sine * sine


@loops
def rotated(sine, cosine, sin_x, cos_x):
    """Kernel: sine and cosine of the sum of two angles."""
    return sine * cos_x + cosine * sin_x, cosine * cos_x - sine * sin_x


@loops
def turned(sine, cosine, x):
    """Kernel: sine and cosine of an angle that is greater by x, up to SMALL_RAD, where the series are off by 3e-15."""
    y = x * x
    sin_x = x - x * y * (1 / 6 - y * (1 / 120 - y * (1 / 5040 - y * (1 / 362880))))
    cos_x = 1.0 - y * (1 / 2 - y * (1 / 24 - y * (1 / 720 - y * (1 / 40320))))
    return rotated(sine, cosine, sin_x, cos_x)


@loops
def turned_little(sine, cosine, x):
    """Kernel: the same for x up to 0.003."""
    y = x * x
    return rotated(sine, cosine, x - x * y * (1 / 6), 1.0 - y * (1 / 2 - y * (1 / 24)))


@loops
def position_of(work, k):
    sin_u, cos_u = work[SIN_U + k], work[COS_U + k]
    sin_node, cos_node = work[SIN_NODE + k], work[COS_NODE + k]
    r, across = work[RADIUS_M + k], work[COS_I + k] * sin_u
    return (
        r * (cos_node * cos_u - sin_node * across),
        r * (sin_node * cos_u + cos_node * across),
        r * (work[SIN_I + k] * sin_u),
    )


@loops
def velocity_of(work, k):
    sin_u, cos_u = work[SIN_U + k], work[COS_U + k]
    sin_node, cos_node = work[SIN_NODE + k], work[COS_NODE + k]
    ahead = work[RADIAL_M_S + k] * cos_u - work[ACROSS_M_S + k] * sin_u
    aside = work[RADIAL_M_S + k] * sin_u + work[ACROSS_M_S + k] * cos_u
    across = work[COS_I + k] * aside
    return cos_node * ahead - sin_node * across, sin_node * ahead + cos_node * across, work[SIN_I + k] * aside


@loops
def positions_to_rows(work, position_m):
    """Kernel: the tile's positions, x, y and z each in a row."""
    wide_vectors()
    x, y, z = position_m
    for k in range(x.size):
        x[k], y[k], z[k] = position_of(work, k)


@loops
def velocities_to_rows(work, velocity_m_s):
    wide_vectors()
    x, y, z = velocity_m_s
    for k in range(x.size):
        x[k], y[k], z[k] = velocity_of(work, k)


@loops
def interleave(work, n, position, velocity):
    """Kernel: the tile's positions and velocities, xyz beside each other; two loops, as each fills the registers."""
    wide_vectors()
    n = -(-n // LANES) * LANES
    for k in range(n):
        position[3 * k], position[3 * k + 1], position[3 * k + 2] = position_of(work, k)
    for k in range(n):
        velocity[3 * k], velocity[3 * k + 1], velocity[3 * k + 2] = velocity_of(work, k)


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
        threads              how many to work on it, `twin.parallel.default_threads()` unless given; the answer is the
                             same to the last bit for any number of them
        out                  an earlier answer for as many satellites and times, to be written over: large results
                             take half the time then, as fresh memory costs as much as the flight

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
                    f"out's {name} must be a contiguous, aligned, writeable {kind} array of shape {fit}, "
                    f"got {array.dtype} {array.shape}"
                )
        if any(np.may_share_memory(one, other) for one, other in combinations(out, 2)):
            raise ValueError("out's arrays must not overlap each other in memory")
        return out

    def _put(self, states: States, code, position_km, velocity_km_s) -> None:
        for array, values in zip(states, (code, position_km * KILO, velocity_km_s * KILO)):
            array[self._deep_at] = values

    def _fly(self, epoch, unit: float, whole, part, threads: int | None, states: States) -> None:
        """Near-earth satellites, by several threads."""
        which = self._near_at
        n_times = whole.shape[1]
        streaming = states[1].nbytes > STREAM_BYTES
        flat = [array.reshape(-1) for array in states]

        def work(first: int, last: int) -> None:
            fly(self.constants, which[first:last], epoch, unit, whole, part, streaming, *flat)

        spread(work, which.size if n_times else 0, threads, step=max(1, CHUNK_STATES // max(n_times, LEAST_TIMES)))
