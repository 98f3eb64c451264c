"""Many links at once on the same resource blocks: who hears whom, and what is left of the signal.

Beams belong to satellites and transmit on the blocks they use; a terminal listens to one of them and hears all others
on the same blocks. All paths from a satellite to a terminal leave in one direction (TR 38.811 6.7.2, note 8), so a
beam enters by one number, its gain towards the terminal, and the rest of the link is computed once for all beams of a
satellite. Nothing of the size terminals x beams x blocks is ever held.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from twin.channel.arrays import direction_cosine_pair, side_magnitude
from twin.channel.fading import Fading, draw_fading, stacked
from twin.channel.link import Link, path_gain
from twin.channel.slot import paths_of, room, row_sums, settings_of
from twin.channel.turns import fused
from twin.geometry import Site, pointing
from twin.orbit import Ephemeris
from twin.parallel import spread

TERMINALS_AT_A_TIME = 16  # handed to a thread


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Every link between n_terminals and n_satellites at one instant; links that are not there have gain 0.

    satellite_index    (n_satellites,)                 in the ephemeris: those somebody sees
    elevation_deg      (n_terminals, n_satellites)     deg
    gain               (n_terminals, n_satellites)     linear, of `path_gain`
    tx_direction_deg   (n_terminals, n_satellites, 2)  deg  theta, phi of the terminal in the satellite's frame
    rx_direction_deg   (n_terminals, n_satellites, 2)  deg  theta, phi of the satellite in the terminal's frame
    fading             n_terminals * n_satellites rows, that of terminal u and satellite s is u * n_satellites + s
    """

    satellite_index: np.ndarray
    elevation_deg: np.ndarray
    gain: np.ndarray
    tx_direction_deg: np.ndarray
    rx_direction_deg: np.ndarray
    fading: Fading


def snapshot(
    link: Link, sky: Ephemeris, sites: Sequence[Site], t_s: float, seed: int, *, mask_deg: float = 10.0
) -> Snapshot:
    """Draw all links between the satellites of an ephemeris and some sites at one instant.

    t_s       ()  s    after the ephemeris' start
    seed      draws of a link depend on it, the number of its site and the satellite's catalogue number alone
    mask_deg  ()  deg  satellites below have no link

    Links are independent of each other. Raises ValueError where there is no site, or no satellite is seen from any.
    Checked by tests/channel/test_many.py.
    """
    if not sites:
        raise ValueError("sites must hold at least one, got none")
    position_m, velocity_m_s = (np.ascontiguousarray(part) for part in sky.state(t_s))
    seen = [pointing(position_m, velocity_m_s, site) for site in sites]
    elevation_deg = np.array([each.elevation_deg for each in seen])
    index = np.flatnonzero((elevation_deg >= mask_deg).any(axis=0))
    if not index.size:
        raise ValueError(f"no satellite is above {mask_deg:g} deg for any site at t_s = {t_s:g}")
    elevation_deg = elevation_deg[:, index]
    there = elevation_deg >= mask_deg
    links, gain = [], np.zeros(there.shape)
    for u, s in np.argwhere(there):
        i = index[s]
        rng = np.random.default_rng([seed, u, sky.satellites[i].number])
        drawn, course = draw_fading(rng, link, seen[u][i : i + 1], 1.0), seen[u]
        gain[u, s] = path_gain(link, course.slant_range_m[i], course.elevation_deg[i], drawn.los[0], drawn.shadow_db[0])
        links.append(drawn)
    whole = stacked(links)
    fading = Fading(*(_placed(getattr(whole, field.name), there.ravel()) for field in fields(whole)))
    tx_deg, rx_deg = (
        np.array([getattr(each, side)[index] for each in seen]) for side in ("tx_beam_deg", "rx_beam_deg")
    )
    return Snapshot(index, elevation_deg, gain, tx_deg, rx_deg, fading)


def _placed(rows: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Rows of those that are there among all, zeros elsewhere."""
    placed = np.zeros((len(there), *rows.shape[1:]), dtype=rows.dtype)
    placed[there] = rows
    return placed


@dataclass(frozen=True, eq=False)
class Heard:
    """What every terminal hears on every resource block, in units of its noise; all (n_terminals, n_rb).

    signal        of the beam it listens to: its SNR; 0 where that beam does not transmit
    interference  of all other beams on the block
    """

    signal: np.ndarray
    interference: np.ndarray

    @property
    def sinr(self) -> np.ndarray:
        """Signal over noise and interference, linear, (n_terminals, n_rb)."""
        return self.signal / (1.0 + self.interference)


def hear(
    link: Link,
    fading: Fading,
    gain: ArrayLike,
    *,
    beam_deg: ArrayLike,
    satellite: ArrayLike,
    used: ArrayLike,
    serving: ArrayLike,
    rx_beam_deg: ArrayLike,
    power: ArrayLike = 1.0,
    threads: int | None = None,
) -> Heard:
    """Signal and interference of terminals under many beams of many satellites.

    fading       row u * n_satellites + s: the link from satellite s to terminal u; departures of one direction
    gain         (n_terminals, n_satellites)  linear, of `path_gain`; 0 for a satellite that is not in sight
    beam_deg     (n_beams, 2)      deg        theta, phi of each beam in its satellite's frame
    satellite    (n_beams,)                   which satellite each beam belongs to
    used         (n_beams, n_rb)   bool       the blocks it transmits on
    serving      (n_terminals,)               the beam each terminal listens to; -1 for none
    rx_beam_deg  (n_terminals, 2)  deg        the terminals' own beams
    power        () or (n_beams,)             of each beam over that of the link's settings

    Returns Heard. Time grows with terminals x satellites in sight x (paths + beams of it) x blocks; memory with the
    arrays given and returned. Raises ValueError for shapes that do not fit, a satellite or a beam that is not there,
    and departures that differ from path to path.
    Checked by tests/channel/test_many.py against the full matrices.
    """
    gain = np.array(gain, dtype=float, order="C")
    if gain.ndim != 2 or gain.size != len(fading.los):
        raise ValueError(
            f"gain must be (n_terminals, n_satellites), {len(fading.los)} in all, one for a row, got {gain.shape}"
        )
    if fading.departure.shape[1] != 1:
        raise ValueError("fading must have one departure for all paths: set link.departure_spread_deg = 0")
    n_terminals, n_satellites = gain.shape
    beams, powers = np.array(beam_deg, dtype=float, order="C"), np.array(power, dtype=float, order="C")
    n_beams = beams.shape[0] if beams.ndim else 1
    if not powers.ndim:
        powers = np.full(n_beams, powers)
    shapes = {
        "beam_deg": (beams, (n_beams, 2)),
        "satellite": (satellite := _whole("satellite", satellite), (n_beams,)),
        "used": (used := np.array(used, dtype=bool, order="C"), (n_beams, link.n_rb)),
        "serving": (serving := _whole("serving", serving), (n_terminals,)),
        "rx_beam_deg": (rx_beams := np.array(rx_beam_deg, dtype=float, order="C"), (n_terminals, 2)),
        "power": (powers, (n_beams,)),
    }
    for name, (array, shape) in shapes.items():
        if array.shape != shape:
            raise ValueError(f"{name} must be of shape {shape}, got {array.shape}")
    if ((satellite < 0) | (satellite >= n_satellites)).any():
        raise ValueError(f"satellite must be 0 to {n_satellites - 1}, got {satellite.min()} to {satellite.max()}")
    if ((serving < -1) | (serving >= n_beams)).any():
        raise ValueError(f"serving must be -1 (none) to {n_beams - 1}, got {serving.min()} to {serving.max()}")
    order = np.argsort(satellite, kind="stable")  # beams of one satellite side by side
    first_beam = np.searchsorted(satellite[order], np.arange(n_satellites + 1))
    scale = gain * link.snr_per_gain
    signal, interference = np.zeros((2, n_terminals, link.n_rb))
    settings, paths = settings_of(link), paths_of(fading)
    listened = np.append(np.argsort(order), -1)[serving]
    given = beams[order], powers[order], used[order], first_beam, listened, rx_beams, scale

    def some(first: int, last: int) -> None:
        arguments = first, last, *settings, *given, *paths, room(link, fading), signal, interference
        heard_kernel(*arguments)

    spread(some, n_terminals, threads, step=TERMINALS_AT_A_TIME)
    return Heard(signal, interference)


def _whole(name: str, numbers: ArrayLike) -> np.ndarray:
    array = np.asarray(numbers)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers, got {array.dtype}")
    return array.astype(np.int64)


@fused
def heard_kernel(
    first, last, n_rb, n_groups, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
    beam_deg, power, used, first_beam, listened, rx_beam_deg, scale,
    amplitude, departure, arrival, delay_s, work, signal, interference,
):  # fmt: skip
    """Kernel of `hear`: terminals first to last; beams sorted by satellite, first_beam (n_satellites + 1,)."""
    n_satellites, total_re, total_im = scale.shape[1], work[2], work[3]
    for u in range(first, last):
        for s in range(n_satellites):
            if scale[u, s] == 0.0:
                continue
            row = u * n_satellites + s
            row_sums(  # as through a satellite antenna that radiates alike in all directions, whatever its beam
                row, u, n_rb, rb_step_hz, 1, 1, n_rx_x, n_rx_y, 0.0, rx_ka,
                rx_beam_deg, rx_beam_deg, amplitude, departure, arrival, delay_s, work,
            )  # fmt: skip
            for m in range(n_rb):
                real, imag = total_re[m], total_im[m]
                total_re[m] = scale[u, s] * (real * real + imag * imag)
            psi_x, psi_y = departure[row, 0, 0], departure[row, 0, 1]
            for b in range(first_beam[s], first_beam[s + 1]):
                beam_x, beam_y = direction_cosine_pair(beam_deg[b, 0], beam_deg[b, 1])
                factor, _ = side_magnitude(n_tx_x, n_tx_y, tx_ka, beam_x, beam_y, psi_x, psi_y)
                towards = power[b] * factor * factor
                for m in range(n_rb):
                    if used[b, m]:
                        if b == listened[u]:
                            signal[u, m] += towards * total_re[m]
                        else:
                            interference[u, m] += towards * total_re[m]
