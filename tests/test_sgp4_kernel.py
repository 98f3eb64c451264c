"""The batch propagator against sgp4 itself, its verification vectors, and its own plain Python."""

import multiprocessing
import re
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
import sgp4
from hypothesis import given, settings
from hypothesis import strategies as st
from sgp4.api import Satrec, SatrecArray

from twin import sgp4_kernel, simd
from twin.sgp4_kernel import TILE, Propagator, near_earth
from twin.simd import stream
from twin.tle import Satellite, TleWarning, read_tle
from twin.units import KILO, MINUTES_PER_DAY

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "tle"
SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"

TEN_MICROMETRES = 1e-5
TEN_NANOMETRES_A_SECOND = 1e-8
ONE_MICROMETRE = 1e-6
ONE_DIGIT_PRINTED_M, ONE_DIGIT_PRINTED_M_S = 2e-4, 2e-6  # sgp4's own test allows 2e-7 km and km/s
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


@pytest.fixture(scope="module")
def plain():
    """A satellite as there are many: round, low, with ordinary drag."""
    return made(15.05, 1.4e-4, 53.05, bstar=2e-4)


def made(rev_day, eccentricity, inclination_deg, raan_deg=20.0, perigee_deg=80.0, anomaly_deg=280.0, bstar=1e-4):
    return Satellite(
        "MADE", 1, 2_459_632.5, 0.25, rev_day, eccentricity, inclination_deg, raan_deg, perigee_deg, anomaly_deg, bstar
    )  # fmt: skip


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
    some = satellites[::5]
    times = around_the_epochs(some, 200)
    assert_equal_states(Propagator(some).propagate(*times), by_sgp4(some, *times))


def test_most_states_are_within_a_micrometre_of_sgp4_because_its_iteration_ends_where_ours_does(satellites):
    some = [s for s in satellites[::5] if s.eccentricity < 0.01]
    times = around_the_epochs(some, 200)
    code, position_m, _ = Propagator(some).propagate(*times)
    off_m = np.abs(position_m - by_sgp4(some, *times)[1]).max(axis=-1)[code == 0]
    assert np.mean(off_m < ONE_MICROMETRE) > 0.99


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared TLE lists are not beside the checkout")
@pytest.mark.parametrize("file", FILES)
def test_every_file_at_hand_flies_as_by_sgp4(file):
    some = read(SHARED / file)[::23]
    times = around_the_epochs(some, 150)
    assert_equal_states(Propagator(some).propagate(*times), by_sgp4(some, *times))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared TLE lists are not beside the checkout")
@pytest.mark.parametrize("file", FILES)
def test_every_near_earth_satellite_of_every_file_flies_as_by_sgp4_within_three_days_of_its_epoch(file):
    satellites = read(SHARED / file)
    satellites = [s for s, deep in zip(satellites, Propagator(satellites).deep) if not deep]
    days = np.concatenate(
        [np.linspace(-3.0, 3.0, 200), *(start + np.arange(256) / 1440.0 for start in (-1.0, 0.0, 2.8))]
    )
    for first in range(0, len(satellites), 500):
        some = satellites[first : first + 500]
        fr = np.stack([s.epoch_fr + days for s in some])
        minutes = (fr - np.array([[s.epoch_fr] for s in some])) * MINUTES_PER_DAY
        theirs = [s.satrec().sgp4_array(np.full(days.size, s.epoch_jd), fr[k]) for k, s in enumerate(some)]
        code, position_km, velocity_km_s = (np.stack([one[k] for one in theirs]) for k in range(3))
        assert_equal_states(
            Propagator(some).propagate_minutes(minutes), (code, position_km * KILO, velocity_km_s * KILO)
        )


def verification_cases():
    """Satellites and times of SGP4-VER.TLE, with the states that tcppver.out prints for them."""
    folder = Path(sgp4.__file__).parent
    printed = {}
    for block in (folder / "tcppver.out").read_text().split(" xx")[1:]:
        rows = [line.split()[:7] for line in block.splitlines()[1:]]
        printed[len(printed)] = np.array([[float(x) for x in row] for row in rows if len(row) == 7])
    lines = [line for line in (folder / "SGP4-VER.TLE").read_text().splitlines() if line[:2] in ("1 ", "2 ")]
    for k, (line_1, line_2) in enumerate(zip(lines[::2], lines[1::2])):
        yield pytest.param(line_1[:69], line_2[:69], line_2[69:].split(), printed[k], id=f"{k}-{line_1[2:7]}")


def as_satellite(line_1, line_2):
    """The lines as they are: some carry wrong checksums or impossible numbers on purpose, which our reader refuses."""
    model = Satrec.twoline2rv(line_1, line_2)
    numbers = [float(line_2[a:b]) for a, b in ((52, 63), (8, 16), (17, 25), (34, 42), (43, 51))]
    return Satellite(
        line_1[2:7], model.satnum, model.jdsatepoch, model.jdsatepochF, numbers[0], model.ecco, *numbers[1:],
        bstar=model.bstar, line1=line_1, line2=line_2,
    )  # fmt: skip


@pytest.mark.parametrize(("line_1", "line_2", "span", "printed"), list(verification_cases()))
def test_the_verification_vectors_of_sgp4_come_out_errors_included(line_1, line_2, span, printed):
    start, stop, step = (float(x) for x in span)
    satellite = as_satellite(line_1, line_2)
    minutes = np.concatenate([[0.0], np.arange(start, stop + 1e-9, step)])
    propagator = Propagator([satellite])
    code, position_m, velocity_m_s = (array[0] for array in propagator.propagate_minutes(minutes))

    model = satellite.satrec()
    expected = [model.sgp4_tsince(t)[0] for t in minutes]
    np.testing.assert_array_equal(code, expected)
    for t, *state in printed:
        if not code[0] and t in minutes:
            k = int(np.flatnonzero(minutes == t)[0])
            np.testing.assert_allclose(position_m[k] / KILO, state[:3], rtol=0.0, atol=ONE_DIGIT_PRINTED_M / KILO)
            np.testing.assert_allclose(velocity_m_s[k] / KILO, state[3:], rtol=0.0, atol=ONE_DIGIT_PRINTED_M_S / KILO)

    # the same by Julian dates, as sgp4's own test splits them
    whole, part = np.divmod(minutes / MINUTES_PER_DAY, 1.0)
    times = satellite.epoch_jd + whole, satellite.epoch_fr + part
    assert_equal_states(propagator.propagate(*times), by_sgp4([satellite], *times))


def test_the_verification_set_holds_every_error_the_near_earth_part_can_meet():
    cases = [case.values for case in verification_cases()]
    assert len(cases) == 33
    codes = set()
    for line_1, line_2, span, _ in cases:
        propagator = Propagator([as_satellite(line_1, line_2)])
        minutes = np.arange(*(float(x) for x in span))
        codes |= set(propagator.propagate_minutes(minutes)[0].ravel().tolist())
    assert {1, 3, 4, 6} <= codes


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    rev_day=st.floats(6.5, 17.0),
    eccentricity=st.one_of(st.floats(0.0, 0.9), st.floats(0.0, 0.12), st.sampled_from([0.0, 9.9e-5, 1e-4, 1.01e-4])),
    inclination_deg=st.one_of(st.floats(0.0, 180.0), st.sampled_from([0.0, 90.0, 179.9, 180.0])),
    angles_deg=st.tuples(*[st.floats(0.0, 360.0)] * 3),
    bstar=st.one_of(st.floats(-0.05, 0.2), st.sampled_from([0.0, 1e-5, 1e-3])),
    step_minutes=st.sampled_from([0.01, 1.0, 17.0, 333.0]),
)
def test_random_elements_fly_as_by_sgp4(rev_day, eccentricity, inclination_deg, angles_deg, bstar, step_minutes):
    satellite = made(rev_day, eccentricity, inclination_deg, *angles_deg, bstar=bstar)
    propagator = Propagator([satellite])
    fr = satellite.epoch_fr + np.arange(-20, 20) * step_minutes / MINUTES_PER_DAY
    times = np.full(fr.size, satellite.epoch_jd), fr
    ours, theirs = propagator.propagate(*times), by_sgp4([satellite], *times)
    np.testing.assert_array_equal(ours[0], theirs[0])
    # Near the ground SGP4 multiplies last bits without bound: what a few of them do to sgp4's own answer is allowed
    # for. And sgp4 leaves its iteration once a step is below 1e-12 radians, on which a last bit decides now and then:
    # from 10,000 km up that is more than ten micrometres.
    bits_off = by_sgp4([replace(satellite, mean_motion_rev_day=rev_day * (1.0 + 1e-15))], *times)
    reach = np.maximum(1.0, np.abs(theirs[1]).max(axis=-1) / 1e7)
    for k, tolerance in ((1, TEN_MICROMETRES), (2, TEN_NANOMETRES_A_SECOND)):
        np.testing.assert_array_equal(np.isnan(ours[k]), np.isnan(theirs[k]))
        off, last_bits = (np.abs(states[k] - theirs[k]).max(axis=-1) for states in (ours, bits_off))
        assert not np.any(off[theirs[0] == 0] > (tolerance * reach + 10.0 * last_bits)[theirs[0] == 0])


def test_deep_and_near_satellites_in_one_call_keep_their_places(plain):
    molniya = made(2.006, 0.7, 63.4)
    mixed = [molniya, plain, molniya, made(13.0, 1e-3, 88.0)]
    propagator = Propagator(mixed)
    assert propagator.deep.tolist() == [True, False, True, False]
    assert propagator.constants.shape == (4, sgp4_kernel.N_CONSTANTS)
    times = around_the_epochs(mixed, 60)
    assert_equal_states(propagator.propagate(*times), by_sgp4(mixed, *times))

    minutes = np.linspace(-1000.0, 1000.0, 11)
    of_each = propagator.propagate_minutes(np.stack([minutes + k for k in range(4)]))
    for k, satellite in enumerate(mixed):
        alone = Propagator([satellite]).propagate_minutes(minutes + k)
        for ours, theirs in zip(of_each, alone):
            np.testing.assert_array_equal(ours[k], theirs[0])


@pytest.mark.parametrize("n_times", [1, 2, 7, 8, 9, 17, TILE, TILE + 1, 3 * TILE + 5])
def test_any_number_of_times_is_flown_to_the_last(plain, n_times):
    times = np.full(n_times, plain.epoch_jd), plain.epoch_fr + np.arange(n_times) / 1440.0
    assert_equal_states(Propagator([plain]).propagate(*times), by_sgp4([plain], *times))


@pytest.mark.parametrize(
    "days",
    [
        np.array([0.3, 0.1, 0.2, 2.0, -1.0, 0.1]),
        np.arange(50) * 7.0,
        np.zeros(20),
        np.linspace(1.0, -1.0, 40),
        np.array([0.1, np.nan, 0.2]),
    ],
    ids=["in disorder", "weeks apart", "all the same", "backwards", "not a number"],
)
def test_times_may_come_as_they_like(plain, days):
    times = np.full(days.size, plain.epoch_jd), days
    assert_equal_states(Propagator([plain]).propagate(*times), by_sgp4([plain], *times))


def test_nothing_asked_for_is_nothing_given(plain):
    none = np.empty(0)
    for satellites, jd in (([], none), ([], np.ones(3)), ([plain], none), ([made(2.0, 0.1, 10.0)], none)):
        for states in (Propagator(satellites).propagate(jd, jd), Propagator(satellites).propagate_minutes(jd)):
            shape = len(satellites), jd.size
            assert [array.shape for array in states] == [shape, (*shape, 3), (*shape, 3)]


def test_arrays_that_do_not_fit_are_refused_with_their_shapes(plain):
    propagator = Propagator([plain])
    jd = np.full(4, plain.epoch_jd)
    with pytest.raises(ValueError, match=r"jd and fr .* got \(4,\) and \(3,\)"):
        propagator.propagate(jd, jd[:3])
    with pytest.raises(ValueError, match=r"got \(\) and \(\)"):
        propagator.propagate(2_459_000.5, 0.0)
    with pytest.raises(ValueError, match=r"with 1 satellites, got \(2, 4\)"):
        propagator.propagate_minutes(np.ones((2, 4)))
    with pytest.raises(ValueError, match="threads must be 1 or more, got 0"):
        propagator.propagate(jd, jd, threads=0)
    code, position_m, velocity_m_s = propagator.propagate(jd, jd)
    with pytest.raises(ValueError, match=r"out's position must be .* shape \(1, 4, 3\), got float64 \(1, 3, 3\)"):
        propagator.propagate(jd, jd, out=(code, position_m[:, :3], velocity_m_s))
    with pytest.raises(ValueError, match=r"three arrays .* got 2"):
        propagator.propagate(jd, jd, out=(code, position_m))


def test_arrays_to_write_to_that_overlap_or_may_not_be_written_are_refused(plain):
    propagator = Propagator([plain])
    jd = np.full(4, plain.epoch_jd)
    code, position_m, velocity_m_s = propagator.propagate(jd, jd)
    both = np.empty(20)
    with pytest.raises(ValueError, match="overlap"):
        propagator.propagate(jd, jd, out=(code, both[:12].reshape(1, 4, 3), both[8:].reshape(1, 4, 3)))
    velocity_m_s.flags.writeable = False
    with pytest.raises(ValueError, match="out's velocity must be a contiguous, aligned, writeable"):
        propagator.propagate(jd, jd, out=(code, position_m, velocity_m_s))


@pytest.mark.parametrize("eccentricity", [1.5, np.inf, -1.5, 0.999, 1.0, np.nan])
def test_elements_that_are_no_ellipse_get_the_code_of_sgp4(eccentricity):
    satellite = made(15.0, eccentricity, 53.0)
    times = around_the_epochs([satellite], 5)
    code, position_m, _ = Propagator([satellite]).propagate(*times)
    np.testing.assert_array_equal(code, by_sgp4([satellite], *times)[0])
    assert np.isnan(position_m).all()


def test_an_earlier_answer_is_written_over(plain):
    propagator = Propagator([plain, made(2.006, 0.7, 63.4)])
    jd = np.full(30, plain.epoch_jd)
    out = propagator.propagate(jd, np.linspace(0.0, 0.1, 30))
    out[0][:] = 9
    again = propagator.propagate(jd, np.linspace(0.2, 0.3, 30), out=out)
    fresh = propagator.propagate(jd, np.linspace(0.2, 0.3, 30))
    for ours, kept, theirs in zip(again, out, fresh):
        assert ours is kept
        np.testing.assert_array_equal(ours, theirs)


def test_the_answer_is_the_same_to_the_last_bit_for_any_number_of_threads_and_way_of_writing(satellites, monkeypatch):
    some = satellites[::10]
    propagator = Propagator(some)
    times = around_the_epochs(some, 101)  # odd, so that rows begin anywhere in a line of memory
    alone = propagator.propagate(*times, threads=1)
    for threads, stream_bytes in ((2, 1 << 40), (7, 1 << 40), (None, 1 << 40), (1, 0), (3, 0)):
        monkeypatch.setattr(sgp4_kernel, "STREAM_BYTES", stream_bytes)
        for ours, theirs in zip(propagator.propagate(*times, threads=threads), alone):
            np.testing.assert_array_equal(ours, theirs)


def test_what_goes_wrong_in_another_thread_is_raised_by_the_call(satellites, monkeypatch):
    def fails_elsewhere(*arguments):
        if threading.current_thread() is not threading.main_thread():
            tried.set()
            raise MemoryError("elsewhere")
        tried.wait(10.0)

    tried = threading.Event()
    monkeypatch.setattr(sgp4_kernel, "fly", fails_elsewhere)
    monkeypatch.setattr(sgp4_kernel, "CHUNK_STATES", 1)
    with pytest.raises(MemoryError, match="elsewhere"):
        Propagator(satellites[:2]).propagate(*around_the_epochs(satellites[:2], 10), threads=2)


def test_a_process_forked_from_one_with_threads_flies_with_threads(satellites):
    some = satellites[::10]
    times = around_the_epochs(some, 101)
    expected = Propagator(some).propagate(*times, threads=2)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(Propagator(some).propagate(*times, threads=2)[1].sum()))
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child.start()
    assert ours.poll(60)
    np.testing.assert_array_equal(ours.recv(), expected[1].sum())
    child.join(60)
    assert child.exitcode == 0


def test_one_satellite_by_the_kernel_is_as_in_the_whole(plain):
    propagator = Propagator([plain])
    minutes = np.linspace(-300.0, 2000.0, 301)
    expected = propagator.propagate_minutes(minutes)
    code, position_m, velocity_m_s = np.empty(301, dtype=np.uint8), np.empty((3, 301)), np.empty((3, 301))
    near_earth(propagator.constants[0], minutes, position_m, velocity_m_s, code)
    np.testing.assert_array_equal(code, expected[0][0])
    np.testing.assert_allclose(position_m.T, expected[1][0], rtol=0.0, atol=1e-8)
    np.testing.assert_allclose(velocity_m_s.T, expected[2][0], rtol=0.0, atol=1e-11)

    alone_m = np.empty((3, 301))
    near_earth(propagator.constants[0], minutes, alone_m, np.empty((3, 0)), code)
    np.testing.assert_array_equal(alone_m, position_m)


def test_the_kernels_give_the_same_as_plain_python(plain, monkeypatch):
    falling = made(16.3, 2e-3, 97.0, bstar=0.02)
    propagator = Propagator([plain, falling, made(14.0, 0.3, 30.0), made(15.0, 5e-5, 180.0, bstar=-1e-3)])
    minutes = np.linspace(0.0, 1500.0, 21)
    compiled = propagator.propagate_minutes(minutes)
    row = np.empty(21, dtype=np.uint8), np.empty((3, 21)), np.empty((3, 21))
    near_earth(propagator.constants[0], minutes, row[1], row[2], row[0])
    assert set(compiled[0].ravel()) > {0}
    for module in (sgp4_kernel, simd):
        for name, kernel in list(vars(module).items()):
            if hasattr(kernel, "py_func"):
                monkeypatch.setattr(module, name, kernel.py_func)
    monkeypatch.setattr(sgp4_kernel, "STREAM_BYTES", 0)
    with np.errstate(all="ignore"):
        python = propagator.propagate_minutes(minutes, threads=1)
        alone = np.empty(21, dtype=np.uint8), np.empty((3, 21)), np.empty((3, 21))
        sgp4_kernel.near_earth(propagator.constants[0], minutes, alone[1], alone[2], alone[0])
    assert_equal_states(python, compiled)
    assert_equal_states(alone, row)


def test_streaming_writes_what_it_should_and_no_more_wherever_it_starts():
    values = np.arange(1.0, 101.0)
    for at in range(9):
        for n in (0, 1, 7, 8, 30):
            to = np.zeros(60)
            stream(values, n, to, at)
            np.testing.assert_array_equal(to[at : at + n], values[:n])
            assert np.count_nonzero(to) == n


def test_what_cannot_be_streamed_to_is_stored_to():
    values = np.arange(1.0, 81.0)
    strided = np.zeros(120)[::2]
    unaligned = np.zeros(60 * 8 + 3, dtype=np.uint8)[3:].view(np.float64)
    for to, source in ((strided, values), (unaligned, values), (np.zeros(60), values[::2])):
        stream(source, 40, to, 0)
        np.testing.assert_array_equal(to[:40], source[:40])
        assert not to[40:].any()
    assert not strided.base[1::2].any()


def test_the_loops_are_vectorised_as_wide_as_the_machine_allows():
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        pytest.skip("the processor's abilities are not to be read here")
    config = numba.config
    if "avx2" not in flags or config.CPU_NAME is not None or config.CPU_FEATURES is not None or config.DISABLE_JIT:
        pytest.skip("a processor without AVX2, or numba told not to make full use of one")
    fresh = numba.njit(error_model="numpy")(sgp4_kernel.fly_tile.py_func)  # the cache keeps no assembly
    row = Propagator([made(15.0, 1e-3, 53.0)]).constants[0]
    fresh(row, np.zeros(sgp4_kernel.N_ROWS * TILE), TILE, np.empty(TILE, dtype=np.uint8))
    (assembly,) = fresh.inspect_asm().values()
    # the loops stand in it, not calls of them: some compilers can vectorise `kepler` only there
    assert re.search(r"vdivpd\s.*" + ("zmm" if "avx512dq" in flags else "ymm"), assembly)
