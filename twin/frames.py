"""From SGP4's frame to the Earth's: UTC to UT1, TEME to Earth-fixed axes (ITRF), with polar motion where it is given.

SGP4 gives TEME: true equator of date, mean equinox. A turn by Greenwich mean sidereal time (GMST82, of UT1) leads to
the pseudo-Earth-fixed axes, a tilt by polar motion to the ITRF (AIAA 2006-6753, appendix C). UT1-UTC comes from
skyfield's built-in table, which needs no network; without it a low satellite would be displaced by up to 29 m east or
west in 2022. Polar motion is not in that table. It displaces the pole by up to 18 m on the ground and 20 m in low
orbit, the same way for all satellites at once, and is left out unless an IERS table is given.

Seconds are UTC seconds of 86,400 a day: a window across a leap second is off by one second on the far side of it. None
has been since 2016, and SGP4's elements know none.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
from sgp4.api import jday
from skyfield.api import load
from skyfield.data import iers
from skyfield.sgp4lib import theta_GMST1982

from twin.errors import TwinError
from twin.units import SECONDS_PER_DAY

MJD_JD = 2_400_000.5  # Julian date of the modified Julian date's zero
LEAP_S = 0.9  # a step of UT1-UTC as large as this from one day to the next is a leap second


@dataclass(frozen=True, eq=False)
class EarthOrientation:
    """Earth orientation parameters by day, read between days linearly.

    mjd                     (n_days,)  days    modified Julian date, UTC, rising
    ut1_minus_utc_s         (n_days,)  s
    pole_x_rad, pole_y_rad  (n_days,)  rad     of the celestial intermediate pole in the ITRF, towards 0 and 90 deg west
    """

    mjd: np.ndarray
    ut1_minus_utc_s: np.ndarray
    pole_x_rad: np.ndarray
    pole_y_rad: np.ndarray

    def at(self, mjd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """UT1-UTC (s) and the pole's x and y (rad) at some instants, shaped like mjd.

        Raises TwinError for an instant outside the table, and across a leap second.
        """
        first, last = self.mjd[0], self.mjd[-1]
        if not (np.min(mjd) >= first and np.max(mjd) <= last):
            raise TwinError(
                f"the Earth orientation table holds from {_day(first)} to {_day(last)}, asked for "
                f"{_day(np.min(mjd))} to {_day(np.max(mjd))}; take a newer finals2000A file"
            )
        step_s = np.diff(self.ut1_minus_utc_s, prepend=self.ut1_minus_utc_s[:1])
        leaps_s = np.cumsum(np.where(np.abs(step_s) > LEAP_S, np.round(step_s), 0.0))  # at the midnights of the table
        before, after = leaps_s[np.searchsorted(self.mjd, [np.min(mjd), np.max(mjd)], side="right") - 1]
        if before != after:
            raise TwinError(f"there is a leap second between {_day(np.min(mjd))} and {_day(np.max(mjd))}")
        ut1_minus_utc_s, x_rad, y_rad = (
            np.interp(mjd, self.mjd, column) for column in (self.ut1_minus_utc_s - leaps_s, *self._columns[1:])
        )
        return ut1_minus_utc_s + before, x_rad, y_rad

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.ut1_minus_utc_s, self.pole_x_rad, self.pole_y_rad


def read_earth_orientation(path: str | Path) -> EarthOrientation:
    """Bulletin A's values in an IERS file of the format finals2000A (`finals2000A.all`, `.data` or `.daily`).

    Raises TwinError for a file that cannot be read or has no such table.
    Checked by tests/test_frames.py against skyfield.
    """
    try:
        with open(path, "rb") as file:
            table = iers.parse_x_y_dut1_from_finals_all(file)
    except (OSError, ValueError) as error:
        raise TwinError(f"Earth orientation file {path} cannot be read: {error}") from None
    mjd = table["utc_mjd"]
    if len(mjd) < 2 or not (np.diff(mjd) > 0.0).all():
        raise TwinError(f"{path} holds no table of Earth orientation; expected lines as in IERS' finals2000A.all")
    pole_rad = np.radians(np.stack([table["x_arcseconds"], table["y_arcseconds"]]) / 3600.0)
    return EarthOrientation(mjd, table["dut1"], *pole_rad)


def turns(
    start_utc: datetime, t_s: np.ndarray, orientation: EarthOrientation | None = None
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """The clocks SGP4 asks for, and the matrices that turn its frame into the Earth's.

    t_s  (n_times,)  s  after start_utc

    Returns the Julian date of the first midnight, days since then (n_times,), matrices (n_times, 3, 3) that turn TEME
    into ECEF, and the Earth's rate of turning in rad/s. Checked by tests/test_frames.py against skyfield.
    """
    day = (start_utc.year, start_utc.month, start_utc.day, start_utc.hour, start_utc.minute)
    second = start_utc.second + start_utc.microsecond * 1e-6
    jd, fr_0 = jday(*day, second)
    fr = fr_0 + t_s / SECONDS_PER_DAY
    if orientation is None:
        ut1_minus_utc_s, x_rad, y_rad = _timescale().utc(*day, second + t_s).dut1, None, None
    else:
        ut1_minus_utc_s, x_rad, y_rad = orientation.at(jd - MJD_JD + fr)
    sidereal_rad, rate_rad_day = theta_GMST1982(jd, fr + ut1_minus_utc_s / SECONDS_PER_DAY)
    turn = _about(2, sidereal_rad)
    if x_rad is not None and y_rad is not None:
        turn = _about(0, -y_rad) @ _about(1, -x_rad) @ turn
    return jd, fr, turn, float(np.mean(rate_rad_day)) / SECONDS_PER_DAY


def _about(axis: int, angle_rad: np.ndarray) -> np.ndarray:
    """Matrices (n, 3, 3) that turn the axes of the frame by angle_rad (n,) about one of them."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn = np.zeros((len(angle_rad), 3, 3))
    turn[:, axis, axis] = 1.0
    turn[:, i, i] = turn[:, j, j] = np.cos(angle_rad)
    turn[:, i, j] = np.sin(angle_rad)
    turn[:, j, i] = -turn[:, i, j]
    return turn


def _day(mjd: float) -> str:
    return f"{datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=float(mjd)):%Y-%m-%d}"


@cache
def _timescale():
    return load.timescale(builtin=True)
