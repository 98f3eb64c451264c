"""Rain by ITU-R P.838 and P.618: limits one can reason about, and the package itur where it is installed."""

import itertools

import msgspec
import numpy as np
import pytest

from twin.channel.link import Link, path_gain
from twin.channel.rain import Rain, rain_coefficients, rain_loss_db
from twin.units import to_db

HUNDREDTH_OF_A_DB = 0.01
ELEVATION_DEG = np.array([2.0, 5.0, 10.0, 24.9, 25.1, 45.0, 60.0, 89.0, 90.0])


def test_no_rain_takes_nothing():
    np.testing.assert_array_equal(rain_loss_db(ELEVATION_DEG, 20e9, Rain(rate_mm_h=0.0)), np.zeros(9))


@pytest.mark.parametrize("percent", [0.001, 0.01, 5.0])
def test_next_to_no_rain_takes_next_to_nothing(percent):
    """Down to rates at which the attenuation is no floating-point number any more."""
    for rate_mm_h, height_m in itertools.product((5e-324, 1e-300, 1e-9), (5e-324, 1e-9, 3e3)):
        loss_db = rain_loss_db(ELEVATION_DEG, 20e9, Rain(rate_mm_h=rate_mm_h, height_m=height_m, percent=percent))
        assert np.all((loss_db >= 0.0) & (loss_db < 1e-6)), (rate_mm_h, height_m)


def test_coefficients_are_the_published_ones():
    """ITU-R P.838-3 table 5: k and alpha of horizontal and vertical polarisation at a few frequencies."""
    published = {  # GHz: k_H, alpha_H, k_V, alpha_V
        1: (0.0000259, 0.9691, 0.0000308, 0.8592),
        10: (0.01217, 1.2571, 0.01129, 1.2156),
        20: (0.09164, 1.0568, 0.09611, 0.9847),
        30: (0.2403, 0.9485, 0.2291, 0.9129),
        100: (1.3671, 0.6815, 1.3680, 0.6765),
    }
    for frequency_ghz, (k_h, alpha_h, k_v, alpha_v) in published.items():
        for tilt_deg, expected in ((0.0, (k_h, alpha_h)), (90.0, (k_v, alpha_v))):
            ours = rain_coefficients(0.0, frequency_ghz * 1e9, tilt_deg)
            np.testing.assert_allclose(ours, expected, rtol=2e-3, err_msg=f"{frequency_ghz} GHz, {tilt_deg} deg")


def test_polarisation_makes_no_difference_straight_up():
    losses_db = [rain_loss_db(90.0, 20e9, Rain(rate_mm_h=42.0, tilt_deg=tilt_deg)) for tilt_deg in (0.0, 45.0, 90.0)]
    np.testing.assert_allclose(losses_db, losses_db[0], rtol=1e-12)


def test_rarer_rain_takes_more_and_harder_rain_too():
    by_percent_db = [float(rain_loss_db(30.0, 20e9, Rain(rate_mm_h=42.0, percent=p))) for p in (0.001, 0.01, 0.1, 1, 5)]
    assert by_percent_db == sorted(by_percent_db, reverse=True)
    by_rate_db = [float(rain_loss_db(30.0, 20e9, Rain(rate_mm_h=r))) for r in (1.0, 10.0, 42.0, 100.0)]
    assert by_rate_db == sorted(by_rate_db)


def test_rain_is_continuous_down_to_the_horizon():
    elevation_deg = np.arange(0.0, 90.0, 0.01)
    loss_db = rain_loss_db(elevation_deg, 20e9, Rain(rate_mm_h=42.0))
    assert np.isfinite(loss_db).all()
    formula_changes_at_5_deg_db = 0.4
    assert np.abs(np.diff(loss_db)).max() < formula_changes_at_5_deg_db
    np.testing.assert_array_equal(rain_loss_db([-10.0, 0.0], 20e9, Rain(rate_mm_h=42.0)), loss_db[0])


def test_path_gain_loses_what_the_rain_takes():
    dry = Link(atmosphere="3gpp")
    wet = msgspec.structs.replace(dry, rain=Rain(rate_mm_h=42.0))
    gains = [
        path_gain(link, np.full(2, 1e6), np.array([30.0, 70.0]), np.ones(2, bool), np.zeros(2)) for link in (dry, wet)
    ]
    lost_db = to_db(gains[0] / gains[1])
    np.testing.assert_allclose(lost_db, rain_loss_db([30.0, 70.0], 20e9, wet.rain), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "key", [{"rate_mm_h": -1.0}, {"percent": 10.0}, {"height_m": 0.0}, {"tilt_deg": 120.0}, {"latitude_deg": 91.0}]
)
def test_rain_that_cannot_be_is_refused(key):
    with pytest.raises(msgspec.ValidationError, match=next(iter(key))):
        msgspec.convert({"rate_mm_h": 10.0} | key, Rain)


def test_coefficients_equal_those_of_itur():
    itu838 = pytest.importorskip("itur.models.itu838", reason="the package itur is not installed")
    for frequency_ghz, tilt_deg in itertools.product((1, 2, 12, 20, 30, 55, 100), (-30, 0, 45, 90)):
        ours = rain_coefficients(ELEVATION_DEG, frequency_ghz * 1e9, tilt_deg)
        theirs = np.transpose(
            [itu838.rain_specific_attenuation_coefficients(frequency_ghz, el, tilt_deg) for el in ELEVATION_DEG]
        )
        np.testing.assert_allclose(ours, theirs.reshape(2, -1), rtol=1e-9)


@pytest.mark.parametrize("latitude_deg", [0.0, -20.0, 35.0, 36.0, 50.0])
def test_slant_attenuation_equals_that_of_itur(latitude_deg):
    """Over carrier, station height, percentage, polarisation, rain rate and elevation; rain height as itur has it."""
    itur = pytest.importorskip("itur", reason="the package itur is not installed")
    rain_height_km = float(itur.models.itu839.rain_height(latitude_deg, 10.0).value)
    cases = itertools.product((1, 12, 20, 30, 55), (0.0, 1.5), (0.001, 0.01, 0.1, 1.0, 5.0), (0, 45, 90), (5.0, 42.0))
    for frequency_ghz, station_km, percent, tilt_deg, rate_mm_h in cases:
        theirs = itur.models.itu618.rain_attenuation(
            latitude_deg, 10.0, frequency_ghz, ELEVATION_DEG,
            hs=station_km, p=percent, R001=rate_mm_h, tau=tilt_deg,
        )  # fmt: skip
        rain = Rain(
            rate_mm_h=rate_mm_h,
            percent=percent,
            height_m=(rain_height_km - station_km) * 1e3,
            latitude_deg=latitude_deg,
            tilt_deg=tilt_deg,
        )
        ours = rain_loss_db(ELEVATION_DEG, frequency_ghz * 1e9, rain)
        np.testing.assert_allclose(ours, theirs.value, rtol=0, atol=HUNDREDTH_OF_A_DB, err_msg=str(rain))
