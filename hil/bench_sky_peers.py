"""What `ntn-twin bench sky` is held against: others' SGP4, look angles and events, and the processor.

Every peer gets its best public way: its quickest mode, memory that was touched before where it takes an output array,
and two threads where it has any. Peers of the extra `bench` may be missing; `why_not` then says so.

    python -m hil.bench_sky_peers astroz N_SATELLITES N_TIMES [TLE]   astroz by itself, on the threads of ASTROZ_THREADS
    python -m hil.bench_sky_peers peak                                multiply-adds a second on 1 and 2 threads, JSON
"""

import ctypes
import importlib
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, ClassVar

import llvmlite.binding as llvm
import numpy as np
from numba import njit
from sgp4.api import SatrecArray, jday
from skyfield.api import EarthSatellite, Time, load, wgs84
from skyfield.framelib import itrs
from skyfield.sgp4lib import TEME, theta_GMST1982

from twin import sgp4_kernel
from twin.geometry import Site
from twin.tle import Satellite, TleWarning, read_tle
from twin.units import (
    EARTH_ROTATION_RAD_S,
    GIGA,
    KILO,
    MINUTES_PER_DAY,
    SECONDS_PER_DAY,
    SPEED_OF_LIGHT_M_S,
)

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ROOT.parent / "shared" / "tle" / "starlink-2025-07-27.tle"  # reference data beside a checkout, where it is
SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"
N_SATELLITES = 7_996  # of the goals; a larger catalogue is cut to it
DEEP_REV_DAY = 6.4  # slower than this is deep space, which the batch peers leave out
SATKIT_SHARE, SKYFIELD_SHARE = 16, 200  # of the satellites, one in so many: these two go one by one
PATIENCE_S = 60.0


def catalogue(tle: str | Path | None = None, most: int = N_SATELLITES) -> tuple[str, list[Satellite]]:
    """Name of the largest catalogue at hand, and its near-earth satellites, `most` of them."""
    path = Path(tle or (BESIDE if BESIDE.is_file() else SNAPSHOT))
    return path.name, [one for one in read_tle(path) if one.mean_motion_rev_day > DEEP_REV_DAY][:most]


def middle_utc(satellites: Sequence[Satellite]) -> datetime:
    """Midnight before the median epoch: where a day's measurement begins."""
    epochs = sorted(satellite.epoch_utc for satellite in satellites)
    return epochs[len(epochs) // 2].replace(hour=0, minute=0, second=0, microsecond=0)


@cache
def timescale() -> Any:
    """Skyfield's, offline."""
    return load.timescale(builtin=True)


def instants(start_utc: datetime, t_s: np.ndarray) -> Time:
    """Skyfield's times, t_s seconds after the start."""
    day = start_utc.year, start_utc.month, start_utc.day, start_utc.hour, start_utc.minute
    return timescale().utc(*day, start_utc.second + start_utc.microsecond * 1e-6 + t_s)


def split(start_utc: datetime, t_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Julian dates (UTC) as sgp4 takes them."""
    whole, part = jday(start_utc.year, start_utc.month, start_utc.day, start_utc.hour, start_utc.minute, 0.0)
    part += (start_utc.second + start_utc.microsecond * 1e-6) / SECONDS_PER_DAY
    return np.full(t_s.shape, whole), part + t_s / SECONDS_PER_DAY


def sidereal_rad(start_utc: datetime, t_s: np.ndarray) -> np.ndarray:
    """GMST82 of UT1, with skyfield's table of UT1."""
    when = instants(start_utc, t_s)
    whole, part = split(start_utc, t_s)
    return theta_GMST1982(whole, part + when.dut1 / SECONDS_PER_DAY)[0]


# ---- SGP4


@dataclass
class Task:
    """Satellites at times, and memory for their states that was touched before; all paths write into it in turn.

    jd, fr              (n_times,)                  days, UTC
    position, velocity  (n_satellites, n_times, 3)
    """

    satellites: list[Satellite]
    jd: np.ndarray
    fr: np.ndarray
    position: np.ndarray = field(init=False)
    velocity: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = len(self.satellites), len(self.jd), 3
        self.position, self.velocity = np.zeros(shape), np.zeros(shape)

    @classmethod
    def of_a_day(cls, satellites: list[Satellite], n_times: int) -> "Task":
        """Times spread evenly over the day of the median epoch."""
        t_s = np.arange(n_times) * (SECONDS_PER_DAY / n_times)
        return cls(satellites, *split(middle_utc(satellites), t_s))

    @property
    def n(self) -> int:
        """Propagations."""
        return len(self.satellites) * len(self.jd)

    def minutes_to(self, epochs: Sequence[tuple[float, float]]) -> np.ndarray:
        """From each epoch, in two parts, to the first midnight."""
        whole, part = np.array(epochs).T
        return ((self.jd[0] - whole) - part) * MINUTES_PER_DAY


@dataclass(frozen=True)
class Way:
    """One way to propagate.

    run      does it once
    n        propagations of one run
    threads
    states   position and velocity of the last run, (n_satellites, n_times, 3) each, of the first satellites or all;
             None where they are out of reach or in another frame
    metres   in its unit of length
    memory   "reused": written into memory touched before; "fresh": allocated in the call
    """

    run: Callable[[], Any]
    n: int
    threads: int
    states: Callable[[], Any] | None = None
    metres: float = KILO
    memory: str = "reused"

    def let_go(self) -> None:
        """Of memory that a run allocated, before the clock of the next one starts."""
        if isinstance(self.run, Kept):
            self.run.result = None


class Kept:
    """A call that keeps its last result."""

    def __init__(self, call: Callable[[], Any]):
        self._call = call
        self.result: Any = None

    def __call__(self) -> None:
        """Do it."""
        self.result = self._call()

    def states(self) -> Any:
        """Position and velocity, which come last in everybody's result."""
        return self.result[-2:]


ASTROZ_MODES = ("satellite_major", "satellite_major_exact_epochs", "time_major", "array", "like_sgp4")


def sgp4_paths(task: Task) -> dict[str, Way]:
    """sgp4's SatrecArray: one call for everything, and in blocks of a few times, which need less memory."""
    array = SatrecArray([satellite.satrec() for satellite in task.satellites])
    whole = Kept(lambda: array.sgp4(task.jd, task.fr))

    def blocks() -> None:
        for k in range(0, len(task.jd), 10):
            _, position, velocity = array.sgp4(task.jd[k : k + 10], task.fr[k : k + 10])
            task.position[:, k : k + 10], task.velocity[:, k : k + 10] = position, velocity

    return {
        "sgp4": Way(whole, task.n, 1, whole.states, memory="fresh"),
        "sgp4_in_blocks": Way(blocks, task.n, 1, lambda: (task.position, task.velocity)),
    }


def our_paths(task: Task, threads: Sequence[int]) -> dict[str, Way]:
    """twin.sgp4_kernel: written over an earlier answer, and into memory of its own."""
    propagator = sgp4_kernel.Propagator(task.satellites)
    out = np.zeros(task.position.shape[:2], dtype=np.uint8), task.position, task.velocity
    found = {}
    for n in threads:
        fly = partial(propagator.propagate, task.jd, task.fr, threads=n)
        into, fresh = Kept(partial(fly, out=out)), Kept(fly)
        for name, run, memory in ((f"ours_{n}t", into, "reused"), (f"ours_{n}t_fresh", fresh, "fresh")):
            found[name] = Way(run, task.n, n, run.states, metres=1.0, memory=memory)
    return found


def astroz_paths(task: Task, threads: int) -> dict[str, Way]:
    """astroz in every layout; with the epochs it tells, which are sums of two parts, and with the exact ones."""
    native, drop_in = importlib.import_module("astroz._astroz"), importlib.import_module("astroz.api")
    models = [native.Satrec.twoline2rv(one.line1, one.line2, native.WGS72) for one in task.satellites]
    constellation = native.Sgp4Constellation(models, gravity_model=native.WGS72)
    array, like_sgp4 = native.SatrecArray(models), drop_in.SatrecArray(models)
    minutes = (task.fr - task.fr[0]) * MINUTES_PER_DAY
    told = task.minutes_to([(epoch, -task.fr[0]) for epoch in constellation.epochs])
    exact = task.minutes_to([(one.jdsatepoch, one.jdsatepochF - task.fr[0]) for one in models])
    turned = [x.reshape(len(minutes), len(models), 3) for x in (task.position, task.velocity)]
    like = Kept(lambda: like_sgp4.sgp4(task.jd, task.fr))

    def by_satellite() -> tuple[np.ndarray, np.ndarray]:
        return task.position, task.velocity

    def by_time() -> tuple[np.ndarray, np.ndarray]:
        return turned[0].transpose(1, 0, 2), turned[1].transpose(1, 0, 2)

    runs: list[tuple[Callable[[], Any], Callable[[], Any], str]] = [
        (
            lambda: constellation.propagate_into(minutes, task.position, task.velocity, epoch_offsets=told),
            by_satellite,
            "reused",
        ),
        (
            lambda: constellation.propagate_into(minutes, task.position, task.velocity, epoch_offsets=exact),
            by_satellite,
            "reused",
        ),
        (
            lambda: constellation.propagate_into(minutes, *turned, epoch_offsets=told, time_major=True),
            by_time,
            "reused",
        ),
        (lambda: array.propagate_into(minutes, *turned, epoch_offsets=told), by_time, "reused"),
        (like, like.states, "fresh"),
    ]
    return {
        f"astroz_{mode}_{threads}t": Way(run, task.n, threads, states, memory=memory)
        for mode, (run, states, memory) in zip(ASTROZ_MODES, runs)
    }


def heyoka_paths(task: Task, threads: Sequence[int]) -> dict[str, Way]:
    """heyoka's batch mode: given dates as the others are, and given minutes since each epoch, which is quicker."""
    heyoka = importlib.import_module("heyoka")
    models = [satellite.satrec() for satellite in task.satellites]
    propagator = heyoka.model.sgp4_propagator(models)
    shape = len(task.jd), len(models)
    dates = np.zeros(shape, dtype=propagator.jdtype)
    dates["jd"], dates["frac"] = task.jd[:, None], task.fr[:, None]
    epochs = [(one.jdsatepoch, one.jdsatepochF) for one in models]
    minutes = task.minutes_to(epochs) + task.fr[:, None] * MINUTES_PER_DAY
    out = np.zeros((shape[0], 7, shape[1]))

    def states() -> tuple[np.ndarray, np.ndarray]:
        return out[:, :3].transpose(2, 0, 1), out[:, 3:6].transpose(2, 0, 1)

    def run(times: np.ndarray, n: int) -> None:
        heyoka.set_nthreads(n)
        propagator(times, out)

    return {
        f"heyoka_{name}_{n}t": Way(partial(run, times, n), task.n, n, states)
        for name, times in (("dates", dates), ("minutes", minutes))
        for n in threads
    }


def satkit_paths(task: Task) -> dict[str, Way]:
    """satkit, on some of the satellites."""
    satkit = importlib.import_module("satkit")
    some = task.satellites[: max(1, len(task.satellites) // SATKIT_SHARE)]
    models = [satkit.TLE.from_lines([one.line1, one.line2])[0] for one in some]
    times = [satkit.time.from_jd(whole + part, satkit.timescale.UTC) for whole, part in zip(task.jd, task.fr)]
    run = Kept(lambda: satkit.sgp4(models, times))
    n = len(some) * len(times)
    return {"satkit": Way(run, n, 1, run.states, metres=1.0, memory="fresh")}


def skyfield_paths(task: Task) -> dict[str, Way]:
    """skyfield, one satellite after the other at the same times; its states are in GCRS, so no error is told."""
    some = task.satellites[: max(1, len(task.satellites) // SKYFIELD_SHARE)]
    models = [EarthSatellite(one.line1, one.line2, one.name, timescale()) for one in some]
    when = instants(middle_utc(task.satellites), (task.fr - task.fr[0]) * SECONDS_PER_DAY)
    n = len(some) * len(task.jd)
    return {"skyfield": Way(lambda: [one.at(when) for one in models], n, 1, memory="fresh")}


class Alone:
    """astroz in a process of its own, because it reads the number of its threads once."""

    def __init__(self, task: Task, tle: str | None, threads: int):
        command = [sys.executable, "-m", "hil.bench_sky_peers", "astroz", str(len(task.satellites)), str(len(task.jd))]
        self._process = subprocess.Popen(
            [*command, *([tle] if tle else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "ASTROZ_THREADS": str(threads)},
            text=True,
        )
        self._line()

    def run(self, mode: str) -> None:
        """Once, in that mode."""
        assert self._process.stdin is not None
        self._process.stdin.write(mode + "\n")
        self._process.stdin.flush()
        self._line()

    def _line(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the astroz process ended; try: python -m hil.bench_sky_peers astroz 100 100")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def error_of(path: Way, reference_km: tuple[np.ndarray, np.ndarray]) -> dict[str, float] | None:
    """Largest distance from sgp4's states, m and m/s, and the median one."""
    if path.states is None:
        return None
    states = path.states()
    apart: list[np.ndarray] = []
    fastest = 0.0
    for i in range(0, len(states[0]), 200):  # in blocks: differences of everything would be as large as the states
        rows = slice(i, i + 200)
        metres = states[0][rows] * path.metres - reference_km[0][rows][: len(states[0][rows])] * KILO
        speeds = states[1][rows] * path.metres - reference_km[1][rows][: len(states[1][rows])] * KILO
        apart.append(np.sqrt(np.einsum("ntx,ntx->nt", metres, metres)).ravel())
        fastest = max(fastest, float(np.sqrt(np.nanmax(np.einsum("ntx,ntx->nt", speeds, speeds)))))
    all_m = np.concatenate(apart)
    return {"max_m": float(np.nanmax(all_m)), "median_m": float(np.nanmedian(all_m)), "max_m_s": fastest}


# ---- look angles


class NumpyLook:
    """Look angles of all satellites at one site, by SatrecArray and NumPy as one would write it with some care.

    Everything is done in the rotating frame's axes at each time: the site and its three directions are turned into
    TEME once per time (GMST82), not the satellites out of it, and the components are kept in arrays of their own.
    """

    def __init__(self, satellites: Sequence[Satellite], site: Site, start_utc: datetime, carrier_hz: float):
        self._array = SatrecArray([satellite.satrec() for satellite in satellites])
        self._site_km, self._axes = site.position_m / KILO, site.axes
        self._start_utc, self._per_km_s = start_utc, -carrier_hz / (SPEED_OF_LIGHT_M_S / KILO)

    def prepare(self, t_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dates and sidereal angles of the slots, known beforehand; not timed, as they are not in our own time."""
        return *split(self._start_utc, t_s), sidereal_rad(self._start_utc, t_s)

    def __call__(self, when: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Elevation (deg), azimuth (deg), slant range (m), range rate (m/s), Doppler (Hz), (n_satellites, n_times).

        when  what `prepare` gives
        """
        jd, fr, angle_rad = when
        turn = np.zeros((len(jd), 3, 3))
        turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle_rad)
        turn[:, 0, 1] = np.sin(angle_rad)
        turn[:, 1, 0] = -turn[:, 0, 1]
        turn[:, 2, 2] = 1.0
        axes, site_km = np.moveaxis(self._axes @ turn, 0, -1), (self._site_km @ turn).T
        _, position_km, velocity_km_s = self._array.sgp4(jd, fr)
        x, y, z = np.ascontiguousarray(np.moveaxis(position_km, -1, 0))
        vx, vy, vz = np.moveaxis(velocity_km_s, -1, 0)
        vx, vy = vx + EARTH_ROTATION_RAD_S * y, vy - EARTH_ROTATION_RAD_S * x
        x -= site_km[0]
        y -= site_km[1]
        z -= site_km[2]
        slant_range_km = np.sqrt(x * x + y * y + z * z)
        range_rate_km_s = (x * vx + y * vy + z * vz) / slant_range_km
        east, north, up = (axis[0] * x + axis[1] * y + axis[2] * z for axis in axes)
        return (
            np.degrees(np.arcsin(up / slant_range_km)),
            np.degrees(np.arctan2(east, north)) % 360.0,
            slant_range_km * KILO,
            range_rate_km_s * KILO,
            range_rate_km_s * self._per_km_s,
        )


def ranges_m(satellites: Sequence[Satellite], site: Site, start_utc: datetime, t_s: np.ndarray) -> dict[str, Any]:
    """Slant ranges (n_satellites, n_times) by SGP4 itself: turned by GMST82, and by skyfield's whole chain of frames.

    The chain is TEME to GCRS to ITRS, with precession, nutation, sidereal time and skyfield's UT1; no polar motion.
    Also SGP4's error codes, (n_satellites, n_times).
    """
    error, position_km, _ = SatrecArray([one.satrec() for one in satellites]).sgp4(*split(start_utc, t_s))
    angle_rad, when = sidereal_rad(start_utc, t_s), instants(start_utc, t_s)
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    zero, one = np.zeros_like(cosine), np.ones_like(cosine)
    turns = {
        "gmst82": np.array([[cosine, sine, zero], [-sine, cosine, zero], [zero, zero, one]]),
        "skyfield": np.einsum("ijt,kjt->ikt", itrs.rotation_at(when), TEME.rotation_at(when)),
    }
    found: dict[str, Any] = {"error_code": error}
    for name, turn in turns.items():
        line_m = np.einsum("ijt,ntj->nti", turn, position_km) * KILO - site.position_m
        found[name] = np.sqrt(np.einsum("nti,nti->nt", line_m, line_m))
    return found


# ---- passes


def skyfield_models(satellites: Sequence[Satellite]) -> list[EarthSatellite]:
    """Built before the clock starts."""
    return [EarthSatellite(one.line1, one.line2, one.name, timescale()) for one in satellites]


def skyfield_events(
    models: Sequence[EarthSatellite], site: Site, start_utc: datetime, seconds: float, mask_deg: float
) -> list[tuple[Any, Any]]:
    """find_events of each satellite, as it hands them out."""
    place = wgs84.latlon(site.latitude_deg, site.longitude_deg, site.altitude_m)
    begin, end = instants(start_utc, np.array(0.0)), instants(start_utc, np.array(seconds))
    return [model.find_events(place, begin, end, altitude_degrees=mask_deg) for model in models]


def edges_of(events: Sequence[tuple[Any, Any]], start_utc: datetime) -> list[list[tuple[float, str]]]:
    """Of each satellite, when it rises and sets: seconds after the start, "rise" or "set"."""
    begin = instants(start_utc, np.array(0.0))
    found = []
    for when, kinds in events:
        t_s = ((when.whole - begin.whole) + (when.tt_fraction - begin.tt_fraction)) * SECONDS_PER_DAY
        found.append([(float(t), "rise" if kind == 0 else "set") for t, kind in zip(t_s, kinds) if kind != 1])
    return found


# ---- the processor


SINE_FLOPS = 20  # half of a pair: 3 multiply-adds to reduce, two polynomials of 7, 6 to choose quadrants
ARCTAN_FLOPS = 30  # a division, a polynomial of 12 multiply-adds, the quadrant
TURN_FLOPS = 4  # fmod of an angle: multiply, round, multiply-add


class Counted:
    """A number that counts what is done with it; comparisons, signs and absolute values are free."""

    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self, value: float):
        self.value = float(value)

    def __float__(self) -> float:
        return self.value

    @classmethod
    def _made(cls, kind: str, value: float) -> "Counted":
        cls.tally[kind] += 1
        return cls(value)

    def __add__(self, other: Any) -> "Counted":
        return self._made("add", self.value + float(other))

    def __sub__(self, other: Any) -> "Counted":
        return self._made("add", self.value - float(other))

    def __rsub__(self, other: Any) -> "Counted":
        return self._made("add", float(other) - self.value)

    def __mul__(self, other: Any) -> "Counted":
        return self._made("multiply", self.value * float(other))

    def __truediv__(self, other: Any) -> "Counted":
        return self._made("divide", self.value / float(other))

    def __rtruediv__(self, other: Any) -> "Counted":
        return self._made("divide", float(other) / self.value)

    def __pow__(self, other: Any) -> "Counted":
        return self._made("root", self.value ** float(other))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Counted":
        return Counted(-self.value)

    def __abs__(self) -> "Counted":
        return Counted(abs(self.value))

    def __lt__(self, other: Any) -> bool:
        return self.value < float(other)

    def __le__(self, other: Any) -> bool:
        return self.value <= float(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > float(other)

    def __ge__(self, other: Any) -> bool:
        return self.value >= float(other)

    # NumPy asks an object for these by name
    def sin(self) -> "Counted":
        return self._made("sine", np.sin(self.value))

    def cos(self) -> "Counted":
        return self._made("sine", np.cos(self.value))

    def sqrt(self) -> "Counted":
        return self._made("root", np.sqrt(self.value))

    def arctan2(self, other: Any) -> "Counted":
        return self._made("arctan", np.arctan2(self.value, float(other)))

    def fmod(self, other: Any) -> "Counted":
        return self._made("turn", np.fmod(self.value, float(other)))


WEIGHT = {
    "add": 1,
    "multiply": 1,
    "divide": 1,
    "root": 1,
    "sine": SINE_FLOPS,
    "arctan": ARCTAN_FLOPS,
    "turn": TURN_FLOPS,
}


def flops_of(satellite: Satellite, n_times: int = 128, step_minutes: float = 1.44) -> dict[str, Any]:
    """Floating-point operations of one propagation of our own kernel, counted by running it as Python.

    What is done once for several times is shared among them; conversions of units and the checks are in.
    """
    constants, _ = sgp4_kernel.initialise([satellite])
    row, minutes = _counted(constants[0]), _counted(step_minutes * np.arange(n_times))
    position, velocity = np.empty((3, n_times), dtype=object), np.empty((3, n_times), dtype=object)
    Counted.tally.clear()
    as_python(sgp4_kernel)["near_earth"](row, minutes, position, velocity, np.zeros(n_times, dtype=np.uint8))
    each = {kind: Counted.tally[kind] / n_times for kind in WEIGHT}
    return {"each": each, "weight": WEIGHT, "flops": sum(WEIGHT[kind] * n for kind, n in each.items())}


def _counted(values: np.ndarray) -> np.ndarray:
    counted = np.empty(values.shape, dtype=object)
    counted[:] = [Counted(value) for value in values]
    return counted


def as_python(module: ModuleType | SimpleNamespace) -> dict[str, Any]:
    """A module's names, its kernels as Python that calls Python, its arrays able to hold counted numbers."""
    names = dict(vars(module))
    for name, kernel in vars(module).items():
        if hasattr(kernel, "py_func"):
            names[name] = FunctionType(kernel.py_func.__code__, names)
    names["np"] = SimpleNamespace(**{**vars(np), "empty": partial(np.empty, dtype=object)})
    names["wide_vectors"] = lambda: None  # a word to the compiler
    return names


N_LANES, N_STEPS, N_CHAINS = 256, 16, 8


@njit(fastmath={"contract"}, nogil=True)
def chains(x, n):
    """Kernel: eight chains of 16 multiply-adds per element, n times over; they hide each other's latency."""
    for _ in range(n):
        for j in range(x.size):
            a = x[j]
            c0, c1, c2, c3 = a, a + 1.0, a + 2.0, a + 3.0
            c4, c5, c6, c7 = a + 4.0, a + 5.0, a + 6.0, a + 7.0
            for _step in range(16):
                c0, c1, c2, c3 = c0 * a + 0.5, c1 * a + 0.5, c2 * a + 0.5, c3 * a + 0.5
                c4, c5, c6, c7 = c4 * a + 0.5, c5 * a + 0.5, c6 * a + 0.5, c7 * a + 0.5
            x[j] = ((c0 + c1) + (c2 + c3) + ((c4 + c5) + (c6 + c7))) * 1e-3


def peak_gflops(threads: int, rounds: int = 4_000, blocks: int = 30) -> float:
    """The most multiply-adds a second of the kernel above over short blocks, in units of 1e9 operations (two each)."""
    chains(np.linspace(0.1, 0.2, N_LANES), 1)
    best = 0.0
    for _ in range(blocks):
        work = [threading.Thread(target=chains, args=(np.linspace(0.1, 0.2, N_LANES), rounds)) for _ in range(threads)]
        took_s = _together(work)
        best = max(best, 2.0 * threads * rounds * N_LANES * N_STEPS * N_CHAINS / took_s / GIGA)
    return best


def write_ns(task: Task, threads: int, blocks: int = 5) -> float:
    """The least time to write the states of one propagation into memory, ns: the same arrays, filled with zeros."""
    parts = [np.array_split(array, threads) for array in (task.position, task.velocity)]

    def write(thread: int) -> None:
        for array in parts:
            ctypes.memset(array[thread].ctypes.data, 0, array[thread].nbytes)

    best_s = min(
        _together([threading.Thread(target=write, args=(thread,)) for thread in range(threads)]) for _ in range(blocks)
    )
    return float(GIGA * best_s / task.n)


def _together(work: Sequence[threading.Thread]) -> float:
    """Seconds that threads take, started at once."""
    begin = time.perf_counter()
    for each in work:
        each.start()
    for each in work:
        each.join()
    return time.perf_counter() - begin


def peaks() -> dict[str, Any]:
    """Peak rate with vectors as wide as the compiler likes them, and as wide as the processor has them."""
    wide = {
        "NUMBA_CPU_NAME": llvm.get_host_cpu_name(),
        "NUMBA_CPU_FEATURES": llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit",
    }
    found: dict[str, Any] = {}
    for name, environment in (("as_compiled", {}), ("widest", wide)):
        told = subprocess.run(
            [sys.executable, "-m", "hil.bench_sky_peers", "peak"],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=True,
        ).stdout
        found[name] = json.loads(told)
    return found


def _serve(n_satellites: int, n_times: int, tle: str | None) -> None:
    """Run the modes named on standard input, one a line."""
    paths = astroz_paths(Task.of_a_day(catalogue(tle, n_satellites)[1], n_times), int(os.environ["ASTROZ_THREADS"]))
    print("ready", flush=True)
    for line in sys.stdin:
        paths[line.strip()].run()
        print("done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "peak":
        print(json.dumps({f"gflops_{n}t": peak_gflops(n) for n in (1, 2)}))
    else:
        warnings.simplefilter("ignore", TleWarning)
        _serve(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
