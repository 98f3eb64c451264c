"""The batch propagator against sgp4 itself, its verification vectors, and its own plain Python."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import sgp4
from sgp4.api import SatrecArray

from twin.sgp4_kernel import Propagator
from twin.tle import TleWarning, read_tle
from twin.units import KILO

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "tle"
SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"
VERIFICATION = Path(sgp4.__file__).parent

TEN_MICROMETRES = 1e-5
TEN_NANOMETRES_A_SECOND = 1e-8
FILES = [
    "active-2023-08-22.tle",
    "iridium-next-2025-01-23.tle",
    "oneweb-2025-07-27.tle",
    "spacetrack-leo-2022-02-22.3le",
    "starlink-2020-10-16.tle",
    "starlink-2025-07-27.tle",
    "starlink-shell1-plane-2023-08-22.tle",
    "starlink-shell1-plane-history-2025-07-27_2025-09-23.tle",
]


def read(path):
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        return read_tle(path)


@pytest.fixture(scope="module")
def satellites():
    return read(SNAPSHOT)


def by_sgp4(satellites, jd, fr):
    """Codes, metres and metres per second of the sgp4 package."""
    code, position_km, velocity_km_s = SatrecArray([s.satrec() for s in satellites]).sgp4(jd, fr)
    return code, position_km * KILO, velocity_km_s * KILO


def around_the_epochs(satellites, n_times):
    """Times from three days before the median epoch to three days after."""
    jd = np.full(n_times, np.median([s.epoch_jd for s in satellites]))
    return jd, np.median([s.epoch_fr for s in satellites]) + np.linspace(-3.0, 3.0, n_times)


def assert_equal_states(ours, theirs):
    np.testing.assert_array_equal(ours[0], theirs[0], err_msg="error codes")
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0.0, atol=TEN_MICROMETRES, err_msg="positions, m")
    np.testing.assert_allclose(ours[2], theirs[2], rtol=0.0, atol=TEN_NANOMETRES_A_SECOND, err_msg="velocities, m/s")


def test_the_snapshot_flies_as_by_sgp4_for_three_days_either_way(satellites):
    some = satellites[::7]
    times = around_the_epochs(some, 200)
    assert_equal_states(Propagator(some).propagate(*times), by_sgp4(some, *times))
