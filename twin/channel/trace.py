"""Everything a link does over a pass, in arrays: geometry, losses, paths, response through the beams, SNR and rate.

A trace is computed by the functions that play the link in a world, from the same draws, so it is what the world plays;
NtnCell.link_trace gives that of a scenario. hil/link_files.py writes it to files for other tools.
"""

from dataclasses import dataclass, replace
from datetime import datetime

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from twin.channel.doppler import ground_velocity_m_s, range_motion
from twin.channel.fading import Fading, draw_fading
from twin.channel.link import Link, atmosphere_loss_db, path_gain
from twin.channel.losses import clutter_loss_db, free_space_loss_db
from twin.channel.slot import block_response, block_snr, group_rates
from twin.geometry import Site, look_angles, pointing
from twin.orbit import Orbit
from twin.units import to_db

MOST_BYTES = 2**31  # of a trace; a pass of 240 s in slots of 0.1 s, 100 blocks and 4 paths is 7 MB
PATH_BYTES, BLOCK_BYTES = 72, 24  # per time: of a path (two amplitudes, two directions, delay), of a block
HORIZON_DEG = 0.1  # so far below it a slot may begin: rounding, under a mask of 0


@dataclass(frozen=True, eq=False)
class LinkTrace:
    """One link over n times; rows are `samples` to a slot.

    satellite, number, start_utc, link, site, slot_s, samples
    t_s                        (n,)    s      after start_utc
    elevation_deg              (n,)    deg    of the satellite over the terminal's horizon
    azimuth_deg                (n,)    deg    from north through east
    slant_range_m              (n,)    m
    propagation_delay_s        (n,)    s      one way
    doppler_hz                 (n,)    Hz     of the direct path, received minus sent, the terminal's motion included
    doppler_rate_hz_s          (n,)    Hz/s
    tx_direction_deg           (n, 2)  deg    theta, phi of the terminal in the satellite's frame
    rx_direction_deg           (n, 2)  deg    theta, phi of the satellite in the terminal's
    tx_beam_deg, rx_beam_deg   (n, 2)  deg    theta, phi of the beams
    los                        (n,)    bool   line of sight
    loss_db                    name to (n,)   dB, positive is loss: free_space, terms of the air, clutter, shadow, fault
    path_gain                  (n,)           linear, L_n of eq. (7): all losses and both element gains
    amplitude                  (n, n_paths)     complex, alpha of eq. (1): E|alpha|^2 sums to link.array_gain
    arrival, departure         (n, n_paths, 2)  direction cosines in the terminal's and the satellite's frame
    delay_s                    (n, n_paths)     s, in excess of propagation_delay_s
    path_response              (n, n_paths)     complex, alpha (w_r^H a_r) (a_t^H w_t): impulse response through beams
    block_response             (n, n_rb)        complex, w_r^H H w_t of each resource block, without path_gain
    snr_db                     (n, n_rb)        dB
    rate_bps                   (n,)    bit/s  of all resource blocks together

    Phases leave out what all paths share, exp(-j 2 pi (carrier + m rb_step) propagation_delay_s) of block m, in which
    the common Doppler shift is.
    """

    satellite: str
    number: int
    start_utc: datetime
    link: Link
    site: Site
    slot_s: float
    samples: int
    t_s: np.ndarray
    elevation_deg: np.ndarray
    azimuth_deg: np.ndarray
    slant_range_m: np.ndarray
    propagation_delay_s: np.ndarray
    doppler_hz: np.ndarray
    doppler_rate_hz_s: np.ndarray
    tx_direction_deg: np.ndarray
    rx_direction_deg: np.ndarray
    tx_beam_deg: np.ndarray
    rx_beam_deg: np.ndarray
    los: np.ndarray
    loss_db: dict[str, np.ndarray]
    path_gain: np.ndarray
    amplitude: np.ndarray
    arrival: np.ndarray
    departure: np.ndarray
    delay_s: np.ndarray
    path_response: np.ndarray
    block_response: np.ndarray
    snr_db: np.ndarray
    rate_bps: np.ndarray

    @property
    def utc(self) -> np.ndarray:
        """The times, (n,) datetime64[ns], UTC."""
        start = np.datetime64(self.start_utc.replace(tzinfo=None), "ns")
        return start + np.rint(self.t_s * 1e9).astype("timedelta64[ns]")

    @property
    def total_loss_db(self) -> np.ndarray:
        """The sum of all losses, (n,) dB."""
        return np.sum(list(self.loss_db.values()), axis=0)

    @property
    def frequency_hz(self) -> np.ndarray:
        """Of the resource blocks, (n_rb,) Hz above the first."""
        return np.arange(self.link.n_rb) * self.link.rb_step_hz


def link_trace(
    link: Link,
    site: Site,
    orbit: Orbit,
    *,
    first: int,
    end: int,
    slot_s: float,
    rng: np.random.Generator,
    samples: int | None = None,
    part: tuple[int, int] | None = None,
    tx_beam_deg: ArrayLike | None = None,
    rx_beam_deg: ArrayLike | None = None,
    passed: ArrayLike = 1.0,
    threads: int | None = None,
) -> LinkTrace:
    """What a link does over the slots of a pass.

    orbit        the satellite's true way; slot i begins i * slot_s after its ephemeris' start
    first, end   slots of the pass, `end` is the first one after
    rng          of this pass alone: its fading is drawn from it
    samples      rows of a slot, None: link.samples_per_slot; every `samples`-th row is that of a trace with one
    part         slots (from, to) within first to end, to look closer at a piece of the pass; None: all of it
    tx_beam_deg, rx_beam_deg  (2,) or (n, 2)  deg  theta, phi; None: matched, always at the other end
    passed       () or (end - first,)  linear: what faults leave of the power in each slot, more than 0 and at most 1

    Returns a LinkTrace of n rows, samples to each slot of the part. Raises ValueError for a part outside the pass, for
    beams or `passed` of another shape or range, where the satellite is below the horizon at either end, and where the
    arrays would take more than 2 GiB.
    Checked by tests/channel/test_trace.py: equal to what the world plays.
    """
    low, high = (first, end) if part is None else part
    samples = link.samples_per_slot if samples is None else samples
    if not slot_s > 0.0:
        raise ValueError(f"slot_s must be more than 0, got {slot_s:g}")
    if not (first <= low < high <= end and samples >= 1):
        raise ValueError(
            f"expected slots within {first} to {end} and samples 1 or more, got {low} to {high} and {samples}"
        )
    n_slots = end - first
    share = np.asarray(passed, dtype=float)
    if share.shape not in ((), (n_slots,)):
        raise ValueError(f"passed must be of shape () or ({n_slots},), one for a slot, got {share.shape}")
    wrong = ~((share > 0.0) & (share <= 1.0))
    if wrong.any():
        raise ValueError(f"passed must be more than 0 and at most 1, got {share[wrong][0]}")
    two = pointing(*orbit.state(np.array([first, end - 1]) * slot_s), site)  # to learn how many paths there are
    if (lowest_deg := two.elevation_deg.min()) < -HORIZON_DEG:
        raise ValueError(
            f"the pass begins and ends above the horizon, got an elevation of {lowest_deg:.1f} deg at its first or "
            "last slot; twin.find_passes says when a satellite rises and sets"
        )
    n_paths = draw_fading(np.random.default_rng(0), link, two, slot_s).amplitude.shape[1]
    _check_size(link, n_paths, n_slots * samples, (high - low) * samples)
    t_s = (first + np.arange(n_slots * samples) / samples) * slot_s
    course = pointing(*orbit.state(t_s), site)
    fading = draw_fading(rng, link, course, slot_s, samples)

    rows = slice((low - first) * samples, (high - first) * samples)
    t_s, course, fading = t_s[rows], course[rows], fading[rows]
    share = np.repeat(np.broadcast_to(share, n_slots), samples)[rows]
    gain = share * path_gain(link, course.slant_range_m, course.elevation_deg, fading.los, fading.shadow_db)
    beams_deg = _beams(tx_beam_deg, course.tx_beam_deg), _beams(rx_beam_deg, course.rx_beam_deg)
    moves_m_s = ground_velocity_m_s(site, link.speed_m_s, link.heading_deg)
    position_m, velocity_m_s = orbit.state(t_s)
    motion = range_motion(position_m, velocity_m_s, orbit.acceleration_m_s2(t_s), site.position_m, moves_m_s)
    _, rate_bps = group_rates(link, fading, gain, *beams_deg, threads=threads)
    satellite = orbit.sky.satellites[orbit.index]
    return LinkTrace(
        satellite=satellite.name,
        number=satellite.number,
        start_utc=orbit.sky.start_utc,
        link=link,
        site=site,
        slot_s=slot_s,
        samples=samples,
        t_s=t_s,
        elevation_deg=course.elevation_deg,
        azimuth_deg=look_angles(position_m, velocity_m_s, site, link.carrier_hz).azimuth_deg,
        slant_range_m=course.slant_range_m,
        propagation_delay_s=motion.propagation_delay_s,
        doppler_hz=motion.doppler_hz(link.carrier_hz),
        doppler_rate_hz_s=motion.doppler_rate_hz_s(link.carrier_hz),
        tx_direction_deg=course.tx_beam_deg,
        rx_direction_deg=course.rx_beam_deg,
        tx_beam_deg=beams_deg[0],
        rx_beam_deg=beams_deg[1],
        los=fading.los,
        loss_db={
            "free_space": free_space_loss_db(course.slant_range_m, link.carrier_hz),
            **atmosphere_loss_db(link, course.elevation_deg),
            "clutter": clutter_loss_db(course.elevation_deg, fading.los, link.tables),
            "shadow": fading.shadow_db,
            "fault": 0.0 - to_db(share),
        },
        path_gain=gain,
        amplitude=fading.amplitude,
        arrival=fading.arrival,
        departure=np.broadcast_to(fading.departure, fading.arrival.shape),
        delay_s=fading.delay_s,
        path_response=_path_response(link, fading, *beams_deg, threads),
        block_response=block_response(link, fading, *beams_deg, threads=threads),
        snr_db=to_db(block_snr(link, fading, gain, *beams_deg, threads=threads)),
        rate_bps=rate_bps.sum(axis=1),
    )


def _path_response(
    link: Link, fading: Fading, tx_beam_deg: np.ndarray, rx_beam_deg: np.ndarray, threads: int | None
) -> np.ndarray:
    """What each path brings through the beams, (n, n_paths): the response of a link that has this path alone."""
    one_block = msgspec.structs.replace(link, n_rb=1, n_groups=1)
    found = np.empty(fading.amplitude.shape, dtype=complex)
    for i in range(fading.amplitude.shape[1]):
        leaves = slice(i, i + 1) if fading.departure.shape[1] > 1 else slice(None)
        alone = replace(
            fading,
            amplitude=fading.amplitude[:, i : i + 1],
            arrival=fading.arrival[:, i : i + 1],
            departure=fading.departure[:, leaves],
            delay_s=fading.delay_s[:, i : i + 1],
        )
        found[:, i] = block_response(one_block, alone, tx_beam_deg, rx_beam_deg, threads=threads)[:, 0]
    return found


def _beams(given_deg: ArrayLike | None, matched_deg: np.ndarray) -> np.ndarray:
    """A beam for each time, (n, 2)."""
    beam_deg = matched_deg if given_deg is None else np.asarray(given_deg, dtype=float)
    if beam_deg.shape not in ((2,), matched_deg.shape):
        raise ValueError(f"a beam must be of shape (2,) or {matched_deg.shape}, theta and phi, got {beam_deg.shape}")
    return np.array(np.broadcast_to(beam_deg, matched_deg.shape))


def _check_size(link: Link, n_paths: int, n_drawn: int, n: int) -> None:
    drawn_bytes = n_drawn * n_paths * PATH_BYTES  # whatever part of the pass is asked for
    n_bytes = drawn_bytes + n * (n_paths * PATH_BYTES + link.n_rb * BLOCK_BYTES)
    if n_bytes > MOST_BYTES:
        way_out = "take fewer samples" if drawn_bytes > MOST_BYTES else "take fewer samples, or a part of the pass"
        raise ValueError(
            f"a trace of {n} times with {link.n_rb} resource blocks, and the {n_paths} paths of the {n_drawn} times of "
            f"the whole pass, take {n_bytes / 2**30:.1f} GiB, more than {MOST_BYTES / 2**30:g}; {way_out}"
        )
