"""The fixed multipath profiles of TR 38.811 6.9: tapped delay lines NTN-TDL-A to -D, clustered ones NTN-CDL-A to -D.

A and B are without line of sight, C and D with it, whatever the elevation. Delays are those of the tables times
link.delay_spread_s, powers those of the tables made to add up to 1 (as printed, those of B add up to 2.07).
Path 0 is the direct one, of no power in A and B.

Taps: every path comes from the direct direction. Each tap is a sum of N_WAVES waves that arrive level with the ground
from all sides, so its spectrum is Jakes' of the terminal's speed; the direct path, to which all phases refer, has its
own Doppler shift. Clusters: twenty rays each, every one a path, moved by the same geometry as those of
twin/channel/clusters.py. Their angles are given for a satellite 50 deg high; here they keep their distance in azimuth
and zenith from the direct direction wherever the satellite is.
"""

from typing import NamedTuple

import numpy as np

from twin.channel.arrays import direction_cosines
from twin.channel.clusters import (
    Clusters,
    draw_rays,
    lay_out,
    sines_and_cosines,
    trace,
)
from twin.channel.link import Link
from twin.channel.paths import Paths
from twin.channel.turns import fused
from twin.geometry import Pointing
from twin.units import SPEED_OF_LIGHT_M_S, from_db

N_WAVES = 32  # of a tap; its fourth moment is 2 - 1/32 of the squared power, 2 for a Gaussian
DIRECT_AZIMUTH_DEG, DIRECT_ZENITH_DEG = 180.0, 40.0  # of the satellite, in the tables of the clustered profiles


class Profile(NamedTuple):
    """A fixed profile, powers as in the tables; (n,) by cluster or tap.

    specular_db                          ()    of the direct path, part of the first tap; None: there is none
    delay                                (n,)  in delay spreads
    power_db                             (n,)
    azimuth_deg, zenith_deg              (n,)  of arrival; of clusters only
    ray_azimuth_deg, ray_zenith_deg      ()    c_ASA, c_ZSA
    cross_polar_db                       ()    of the rays
    """

    specular_db: float | None
    delay: tuple[float, ...]
    power_db: tuple[float, ...]
    azimuth_deg: tuple[float, ...]
    zenith_deg: tuple[float, ...]
    ray_azimuth_deg: float
    ray_zenith_deg: float
    cross_polar_db: float

    @property
    def los(self) -> bool:
        return self.specular_db is not None

    @property
    def powers(self) -> tuple[float, np.ndarray]:
        """Of the direct path and of the others (n,), together 1."""
        specular = 0.0 if self.specular_db is None else float(from_db(self.specular_db))
        others = from_db(self.power_db)
        total = specular + others.sum()
        return specular / total, others / total


PROFILES = {  # TR 38.811 tables 6.9.1-1 to -4 (clusters) and 6.9.2-1 to -4 (taps: the same delays and powers)
    "a": Profile(
        None, (0.0, 1.0811, 2.8416), (0.0, -4.675, -6.482),
        (178.8, -115.7, 111.5), (35.6, 22.9, 127.4), 15.0, 7.0, 10.0,
    ),
    "b": Profile(
        None, (0.0, 0.7249, 0.7410, 5.7392), (0.0, -1.973, -4.332, -11.914),
        (-174.6, 144.9, -119.8, -88.8), (42.2, 63.4, 89.7, 174.1), 15.0, 7.0, 10.0,
    ),
    "c": Profile(
        -0.394, (0.0, 14.8124), (-10.618, -23.373),
        (-180.0, -75.9), (40.0, 87.1), 11.0, 7.0, 16.0,
    ),
    "d": Profile(
        -0.284, (0.0, 0.5596, 7.3340), (-11.991, -9.887, -16.771),
        (-180.0, -135.4, -121.5), (40.0, 146.2, 136.0), 11.0, 7.0, 16.0,
    ),
}  # fmt: skip


def profile(multipath: str) -> Profile | None:
    """The profile of a link.multipath; None where it is not one of these."""
    return PROFILES[multipath[-1]] if multipath.startswith("ntn-") else None


def profiled(rng: np.random.Generator, link: Link, course: Pointing, slot_s: float, samples: int) -> Paths:
    """The paths of a pass by link.multipath, one of NTN-TDL-A to NTN-CDL-D.

    course  n * samples rows

    Checked by tests/channel/test_profiles.py.
    """
    fixed = PROFILES[link.multipath[-1]]
    draw = tapped if link.multipath.startswith("ntn-tdl") else clustered_profile
    return draw(rng, link, fixed, course, slot_s, samples)


def tapped(rng, link: Link, fixed: Profile, course: Pointing, slot_s: float, samples: int) -> Paths:
    """The paths of a tapped delay line."""
    specular, powers = fixed.powers
    n_rows, n_taps = len(course.elevation_deg), len(powers)
    of_azimuth, of_phase = rng.spawn(2)
    # one wave in each of N_WAVES equal parts of the horizon: fewer suffice than if they could crowd
    azimuth = (np.arange(N_WAVES) + of_azimuth.random((n_taps, N_WAVES))) / N_WAVES
    phase = of_phase.random((n_taps, N_WAVES))
    doppler_hz = link.speed_m_s * link.carrier_hz / SPEED_OF_LIGHT_M_S * np.cos(2.0 * np.pi * azimuth)
    amplitude = np.empty((n_rows, n_taps + 1), dtype=complex)
    amplitude[:, 0] = np.sqrt(specular)
    time_s = np.repeat(np.arange(n_rows // samples) * slot_s, samples) + np.tile(
        np.arange(samples) * slot_s / samples, n_rows // samples
    )
    sum_waves(time_s, direct_turns(link, course, slot_s, samples), doppler_hz, phase, np.sqrt(powers), amplitude)
    arrival = np.repeat(direction_cosines(course.rx_beam_deg)[:, None], n_taps + 1, axis=1)
    delay_s = np.zeros((n_rows, n_taps + 1))
    delay_s[:, 1:] = link.delay_spread_s * np.array(fixed.delay)
    return Paths(amplitude, arrival, direction_cosines(course.tx_beam_deg)[:, None], delay_s)


def direct_turns(link: Link, course: Pointing, slot_s: float, samples: int) -> np.ndarray:
    """Turns of the direct path by the terminal's motion since the pass began, the integral of u.v / lambda.

    Returns (n * samples,). Trapezoids over whole slots, and from a slot's beginning to a row within it, as those of
    twin/channel/clusters.py are.
    """
    along_hz = np.einsum("ni,i->n", course.east_north_up, link.velocity_m_s) * (link.carrier_hz / SPEED_OF_LIGHT_M_S)
    at_slots = along_hz[::samples]
    whole = np.concatenate([np.zeros(1), np.cumsum(0.5 * slot_s * (at_slots[:-1] + at_slots[1:]))])[: len(at_slots)]
    elapsed_s = np.arange(samples) * slot_s / samples
    part = 0.5 * elapsed_s * (at_slots[:, None] + along_hz.reshape(-1, samples))
    return (whole[:, None] + part).ravel()


def clustered_profile(rng, link: Link, fixed: Profile, course: Pointing, slot_s: float, samples: int) -> Paths:
    """The paths of a clustered delay line."""
    specular, powers = fixed.powers
    n, n_clusters = len(course.elevation_deg) // samples, len(powers)
    clusters = Clusters.empty(n, n_clusters)
    clusters.specular[:] = specular
    clusters.power[:] = powers
    clusters.delay_s[:] = link.delay_spread_s * np.array(fixed.delay)
    clusters.azimuth_deg[:] = np.array(fixed.azimuth_deg) - DIRECT_AZIMUTH_DEG
    clusters.zenith_deg[:] = np.array(fixed.zenith_deg) - DIRECT_ZENITH_DEG
    clusters.ray_azimuth_deg[:] = fixed.ray_azimuth_deg
    clusters.ray_zenith_deg[:] = fixed.ray_zenith_deg
    clusters.cross_mu_db[:] = fixed.cross_polar_db
    layout = lay_out(n_clusters, 0, each_ray=True)
    rays = draw_rays(rng, layout, link.polarisation)[None]
    return trace(link, course, clusters, layout, rays, np.zeros(n, dtype=np.int64), slot_s, samples)


@fused
def sum_waves(time_s, direct_turns, doppler_hz, phase, strength, amplitude):
    """Kernel: amplitudes of taps, (n, n_taps + 1) from the second on: sums of waves of equal strength.

    time_s, direct_turns  (n,)               s; turns that the direct path has made, which the others are seen against
    doppler_hz, phase     (n_taps, n_waves)  Hz, turns at time 0
    strength              (n_taps,)          root of the mean power
    """
    n_taps, n_waves = doppler_hz.shape
    turns, sine, cosine = np.empty(n_waves), np.empty(n_waves), np.empty(n_waves)
    for tap in range(n_taps):
        level = strength[tap] / np.sqrt(n_waves)
        rate, start = doppler_hz[tap], phase[tap]
        for i in range(time_s.size):
            t, seen = time_s[i], direct_turns[i]
            for k in range(n_waves):
                turns[k] = rate[k] * t + start[k] - seen
            sines_and_cosines(turns, sine, cosine)
            total_re, total_im = 0.0, 0.0
            for k in range(n_waves):
                total_re += cosine[k]
                total_im += sine[k]
            amplitude[i, tap + 1] = complex(level * total_re, level * total_im)
