"""Arrays, dishes and codebooks, against Bessel functions of scipy, printed widths, and the conservation of energy."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import j1

from twin.channel import arrays
from twin.channel.arrays import (
    HALF_POWER_X,
    airy_field,
    aperture_factor,
    aperture_ka,
    axis_factor,
    beam_factor,
    dft_codebook,
    direction_cosine_pair,
    direction_cosines,
    grid_angles_deg,
    grid_codebook,
    half_power_beamwidth_deg,
    pattern_gain,
    side_factor,
    steering_matrix,
    steering_vector,
)
from twin.geometry import unit_vector

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "3gpp"
OF_THE_PEAK = 1e-12  # what rounding may leave, in units of the middle of the beam
ANGLES = st.tuples(st.floats(5.0, 175.0), st.floats(5.0, 175.0))


def jinc(x):
    """2 J1(x) / x of scipy."""
    x = np.asarray(x, dtype=float)
    return np.where(x == 0.0, 1.0, 2.0 * j1(x) / np.where(x == 0.0, 1.0, x))


# Directions and steering vectors


def test_direction_cosines_are_the_first_two_parts_of_the_unit_vector():
    angles_deg = np.random.default_rng(1).uniform(0.0, 180.0, (7, 30, 2))
    cosines = direction_cosines(angles_deg)
    np.testing.assert_allclose(
        cosines, unit_vector(angles_deg[..., 0], angles_deg[..., 1])[..., :2], rtol=0, atol=2e-16
    )
    for (theta, phi), pair in zip(angles_deg.reshape(-1, 2), cosines.reshape(-1, 2)):
        np.testing.assert_allclose(direction_cosine_pair(theta, phi), pair, rtol=0, atol=2e-16)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_angles_that_are_not_pairs_have_no_cosines(shape):
    with pytest.raises(ValueError, match=r"angles_deg must end in an axis of 2 \(theta, phi\), got \("):
        direction_cosines(np.ones(shape))


def test_a_steering_matrix_has_a_steering_vector_for_each_direction():
    angles_deg = np.random.default_rng(2).uniform(0.0, 180.0, (9, 2))
    matrix = steering_matrix(direction_cosines(angles_deg), (3, 5))
    assert matrix.shape == (15, 9)
    for angle_deg, column in zip(angles_deg, matrix.T):
        np.testing.assert_allclose(column, steering_vector(*angle_deg, (3, 5)), rtol=0, atol=1e-15)


@given(ANGLES, ANGLES, st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_side_factor_of_a_panel_is_the_product_of_steering_vectors(beam, direction, n_x, n_y):
    ours = side_factor(n_x, n_y, 0.0, *direction_cosines(beam), *direction_cosines(direction))
    expected = np.vdot(steering_vector(*beam, (n_x, n_y)), steering_vector(*direction, (n_x, n_y)))
    assert abs(ours - expected) < OF_THE_PEAK
    assert abs(ours - beam_factor(beam, direction, (n_x, n_y))) < OF_THE_PEAK


# Codebooks


@pytest.mark.parametrize("antennas", [(1, 1), (2, 3), (8, 8), (5, 16)])
def test_orthogonal_beams_share_out_all_power_of_a_wave(antennas):
    beams, waves = dft_codebook(antennas), direction_cosines(grid_angles_deg(7.0))
    assert beams.shape == (antennas[0] * antennas[1], 2)
    weights = steering_matrix(beams, antennas)
    np.testing.assert_allclose(weights.conj().T @ weights, np.eye(len(beams)), rtol=0, atol=1e-13)
    passed = np.abs(weights.conj().T @ steering_matrix(waves, antennas)) ** 2
    np.testing.assert_allclose(passed.sum(axis=0), 1.0, rtol=0, atol=OF_THE_PEAK)


def test_beams_in_the_corners_look_nowhere_and_are_needed_all_the_same():
    beams = dft_codebook((8, 8))
    nowhere = np.sum(beams**2, axis=1) > 1.0
    assert 0 < nowhere.sum() < len(beams) / 2
    wave = steering_matrix(np.array([[-0.65, -0.72]]), (8, 8))  # towards a rim, between beams
    passed = np.abs(steering_matrix(beams[~nowhere], (8, 8)).conj().T @ wave) ** 2
    assert passed.sum() < 0.8


def test_the_grid_of_ten_degrees_has_the_paper_s_324_beams():
    angles_deg, beams = grid_angles_deg(10.0), grid_codebook(10.0)
    assert angles_deg.shape == beams.shape == (18 * 18, 2)
    np.testing.assert_array_equal(angles_deg[[0, 1, 18, -1]], [[0, 0], [0, 10], [10, 0], [170, 170]])
    np.testing.assert_array_equal(beams, direction_cosines(angles_deg))
    np.testing.assert_array_equal(np.unique(beams[::18], axis=0), [[0.0, 1.0]])  # phi = 0: one direction


@pytest.mark.parametrize("n", [1, 18, 161, 175, 227])
def test_a_grid_of_an_nth_of_the_half_circle_has_n_beams_along_each_angle(n):
    angles_deg = grid_angles_deg(180.0 / n)
    assert len(angles_deg) == n * n
    assert angles_deg.max() == pytest.approx(180.0 - 180.0 / n)


@pytest.mark.parametrize("wrong", [0.0, -10.0, 181.0, float("nan")])
def test_a_grid_without_beams_is_refused(wrong):
    with pytest.raises(ValueError, match="step_deg must be above 0 and at most 180 deg, got"):
        grid_angles_deg(wrong)


# Dishes


def test_field_of_a_dish_is_scipy_s_bessel_function_over_its_argument():
    x = np.concatenate([[0.0], np.logspace(-300, 3, 2001), np.linspace(1e-3, 40.0, 4001), [np.nextafter(16, 0), 16.0]])
    assert np.abs([airy_field(v) for v in x] - jinc(x)).max() < 1e-14


def test_field_of_a_dish_passes_half_the_power_where_its_constant_says():
    assert airy_field(HALF_POWER_X) ** 2 == pytest.approx(0.5, abs=1e-15)


def test_a_dish_has_the_pattern_of_the_report():
    rng = np.random.default_rng(3)
    beam, direction = rng.uniform(0.0, 180.0, (2, 400, 2))
    u, v = (unit_vector(angle[:, 0], angle[:, 1]) for angle in (beam, direction))
    sine, cosine = np.linalg.norm(np.cross(u, v), axis=1), np.sum(u * v, axis=1)
    for aperture_m, carrier_hz in ((2.0, 2e9), (0.5, 20e9), (0.6, 30e9)):
        ka = np.pi * aperture_m * carrier_hz / 299_792_458.0
        assert aperture_ka(aperture_m, carrier_hz) == pytest.approx(ka)
        expected = np.where(cosine >= 0.0, jinc(ka * sine) ** 2, 0.0)
        ours = pattern_gain(beam, direction, aperture_m, carrier_hz)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=OF_THE_PEAK)


@pytest.mark.parametrize("off_deg", [0.0, 2.0**-30, 2.0**-17, 2.0**-10])
def test_the_middle_of_a_narrow_beam_is_smooth(off_deg):
    aperture_m, carrier_hz = 22.0, 100e9  # ka = 23,000: half power at 0.004 deg
    x = aperture_ka(aperture_m, carrier_hz) * np.radians(off_deg)
    for beam in ([90.0, 90.0], [45.0, 90.0], [90.0, 30.0]):
        turned = np.array(beam) + [0.0, off_deg]
        gain = pattern_gain(beam, turned, aperture_m, carrier_hz)
        assert gain == pytest.approx(float(jinc(x)) ** 2, abs=1e-9)
        kernel = aperture_factor(
            aperture_ka(aperture_m, carrier_hz), *direction_cosines(beam), *direction_cosines(turned)
        )
        assert kernel**2 == pytest.approx(gain, abs=1e-9)


@given(ANGLES, ANGLES, st.floats(0.5, 300.0))
@settings(max_examples=100, deadline=None)
def test_kernel_for_direction_cosines_agrees_with_the_angles(beam, direction, ka):
    u, v = unit_vector(*beam), unit_vector(*direction)
    if abs(u @ v) < 1e-9:  # a hair before or behind: either
        return
    expected = jinc(ka * np.linalg.norm(np.cross(u, v))) if u @ v > 0.0 else 0.0
    ours = aperture_factor(ka, *u[:2], *v[:2])
    assert abs(ours - expected) < 10 * OF_THE_PEAK  # 5 deg from the rim the third cosine has lost a digit
    assert side_factor(1, 1, ka, *u[:2], *v[:2]) == ours


def test_lobes_of_a_dish_have_alternating_signs_and_nothing_is_behind_it():
    lobes = [airy_field(x) for x in (1.0, 5.1, 8.4, 11.6)]  # between the zeros 3.83, 7.02, 10.17, 13.32
    assert np.sign(lobes).tolist() == [1, -1, 1, -1]
    assert pattern_gain([10.0, 90.0], [[99.0, 90.0], [101.0, 90.0]], 0.1, 2e9)[0] > 0.0
    assert pattern_gain([10.0, 90.0], [[99.0, 90.0], [101.0, 90.0]], 0.1, 2e9)[1] == 0.0
    assert aperture_factor(1.0, *direction_cosines([10.0, 90.0]), *direction_cosines([101.0, 90.0])) == 0.0


def test_at_the_very_rim_the_kernel_still_answers():
    assert aperture_factor(40.0, 1.0, 0.0, 1.0, 0.0) == 1.0
    assert aperture_factor(40.0, 0.0, 1.0, np.sin(0.01), np.cos(0.01)) == pytest.approx(
        jinc(40 * np.sin(0.01)), abs=1e-6
    )
    assert np.isfinite(aperture_factor(40.0, 0.8, 0.6 + 1e-16, 0.6, 0.8 + 1e-16))


def test_pattern_broadcasts_and_refuses_what_is_not_pairs():
    rng = np.random.default_rng(4)
    beam, direction = rng.uniform(0.0, 180.0, (3, 1, 2)), rng.uniform(0.0, 180.0, (4, 2))
    ours = pattern_gain(beam, direction, 0.5, 20e9)
    assert ours.shape == (3, 4)
    assert ours[2, 1] == pattern_gain(beam[2, 0], direction[1], 0.5, 20e9)
    assert pattern_gain(beam[0, 0], beam[0, 0], 0.5, 20e9).shape == ()
    with pytest.raises(ValueError, match=r"end in an axis of 2 \(theta, phi\), got \[\(3,\), \(2,\)\]"):
        pattern_gain(np.zeros(3), np.zeros(2), 0.5, 20e9)


@pytest.mark.parametrize("ka", [3.0, 42.0, 300.0])
def test_the_pattern_over_all_directions_is_the_reciprocal_of_its_directivity(ka):
    node, weight = np.polynomial.legendre.leggauss(500)
    angle_rad = (node + 1.0) * np.pi / 4
    x = np.sin(angle_rad)
    gain = np.array([aperture_factor(ka, 0.0, 0.0, s, 0.0) for s in x]) ** 2
    over_sphere = 2.0 * np.pi * np.sum(weight * np.pi / 4 * gain * x)
    exact = 4.0 * np.pi / ka**2 * (1.0 - j1(2 * ka) / ka)  # of a piston in a baffle, in closed form
    assert over_sphere == pytest.approx(exact, rel=1e-10)
    if ka > 40:
        assert over_sphere == pytest.approx(4.0 * np.pi / ka**2, rel=3e-3)  # directivity (2 pi a / lambda)^2


@pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference numbers (../shared/reference/3gpp) are not beside this checkout"
)
def test_half_power_beamwidths_are_those_of_the_study_cases():
    lines = (REFERENCE / "satellite_parameters.csv").read_text(encoding="utf-8").splitlines()
    printed = [row for row in csv.DictReader(line for line in lines if not line.startswith("#")) if row["hpbw_deg"]]
    assert len(printed) == 18
    for row in printed:
        ours = half_power_beamwidth_deg(float(row["aperture_m"]), 1e9 * float(row["carrier_ghz"]))
        assert ours == pytest.approx(float(row["hpbw_deg"]), rel=4e-3)  # theirs follow from beams' spacing, rounded


@pytest.mark.parametrize("aperture_m", [0.1, 0.5, 2.0])
def test_half_the_beamwidth_off_half_the_power_is_left(aperture_m):
    off_deg = half_power_beamwidth_deg(aperture_m, 2e9) / 2
    assert pattern_gain([90.0, 90.0], [90.0 + off_deg, 90.0], aperture_m, 2e9) == pytest.approx(0.5, abs=1e-12)


def test_an_aperture_too_small_for_a_half_power_width_is_refused():
    with pytest.raises(ValueError, match=r"aperture_m must be above 0.07712 m to have a half-power width, got 0.05"):
        half_power_beamwidth_deg(0.05, 2e9)


def kernel_cases():
    chord2 = np.array([0.0, 1e-6, 0.3, 2.5])
    return [
        (arrays.airy_field, (0.0,)),
        (arrays.airy_field, (3.0,)),
        (arrays.airy_field, (40.0,)),
        (arrays.aperture_field, (20.0, 0.1)),
        (arrays.aperture_factor, (20.0, 0.1, 0.2, 0.3, -0.2)),
        (arrays.aperture_fields, (20.0, chord2, np.empty(4))),
        (arrays.side_factor, (3, 4, 0.0, 0.1, 0.2, 0.3, -0.2)),
        (arrays.side_factor, (1, 1, 9.0, 0.1, 0.2, 0.3, -0.2)),
        (arrays.direction_cosine_pair, (71.0, 113.0)),
        (axis_factor, (5, 0.3)),
    ]


@pytest.mark.parametrize("case", range(len(kernel_cases())))
def test_kernel_agrees_with_its_python_source(case):
    kernel, arguments = kernel_cases()[case]
    _, again = kernel_cases()[case]
    returned = kernel(*arguments), kernel.py_func(*again)
    if returned[0] is None:
        returned = arguments[-1], again[-1]
    np.testing.assert_allclose(*returned, rtol=0, atol=1e-14)
