"""What `ntn-twin bench channel` is held against: the full matrix by BLAS and by einsum, NumPy without it, and OpenNTN.

Every peer gets its best way: association orders and block sizes are tried and the quickest is kept, memory is touched
before the clock starts, what does not change between slots is made once.

    python -m hil.bench_channel_peers NAME     the most memory that this path adds to a process, bytes, JSON
"""

import gc
import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hil.bench_sky_peers import WEIGHT, Counted, as_python
from twin.channel import Fading, Link, arrays, direction_cosines, path_gain, slot, turns
from twin.channel.slot import block_snr
from twin.channel.sweep import sweep

TX_DEG, RX_DEG = (80.0, 95.0), (100.0, 85.0)  # theta, phi of the direct path, off both panels' axes
BEAM_OFF_DEG = 1.0  # beams miss the direct path by about this
PATHS_SPREAD_DEG = 5.0  # of scattered directions, both sides where they differ
DELAY_SPREAD_S = 100e-9
K_FACTOR = 10.0
SLANT_RANGE_M = 1_000_000.0
BLOCKS_AT_ONCE = (100, 50, 20, 10, 5, 2)  # resource blocks of one BLAS product: smaller ones may stay in a cache
OPENNTN = "openntn"
OPENNTN_CARRIER_HZ, OPENNTN_ELEVATION_DEG, OPENNTN_HEIGHT_M = 20e9, 50.0, 600e3
OPENNTN_SLOTS = (1, 4, 10)  # time samples of one call: OpenNTN then draws its rays once for all of them
PATIENCE_S = 120.0


@dataclass(frozen=True, eq=False)
class Case:
    """Slots of a link and the beams in force; see Fading for the paths.

    gain                      (n,)    linear, of `path_gain`
    tx_beam_deg, rx_beam_deg  (n, 2)  deg  theta, phi
    """

    link: Link
    fading: Fading
    gain: np.ndarray
    tx_beam_deg: np.ndarray
    rx_beam_deg: np.ndarray

    @property
    def n(self) -> int:
        """Slots."""
        return len(self.gain)

    @property
    def n_paths(self) -> int:
        """Paths of each slot."""
        return self.fading.amplitude.shape[1]

    def rows(self, first: int, last: int) -> "Case":
        """Some of the slots."""
        part, fading = slice(first, last), self.fading
        cut = {name: np.ascontiguousarray(value[part]) for name, value in vars(fading).items()}
        return Case(
            self.link, Fading(**cut), self.gain[part], self.tx_beam_deg[part].copy(), self.rx_beam_deg[part].copy()
        )


def draw_case(link: Link, n: int, n_paths: int, common: bool, seed: int) -> Case:
    """A direct path and scattered ones around it, all anew in each slot.

    common  all paths leave the satellite in one direction, as 3GPP's do
    """
    rng = np.random.default_rng([seed, n_paths])
    scatter = rng.standard_normal((n, n_paths - 1, 2)) @ (1.0, 1.0j)
    amplitude = np.empty((n, n_paths), dtype=complex)
    amplitude[:, 0] = np.sqrt(K_FACTOR / (1.0 + K_FACTOR))
    amplitude[:, 1:] = scatter / np.sqrt(2.0 * (n_paths - 1) * (1.0 + K_FACTOR))
    delay_s = np.zeros((n, n_paths))
    delay_s[:, 1:] = rng.exponential(DELAY_SPREAD_S, (n, n_paths - 1))
    directions = {}
    for side, direct_deg in (("departure", TX_DEG), ("arrival", RX_DEG)):
        off_deg = rng.laplace(0.0, PATHS_SPREAD_DEG / np.sqrt(2.0), (n, n_paths, 2))
        off_deg[:, 0] = 0.0
        directions[side] = direction_cosines(direct_deg + off_deg)
    if common:
        directions["departure"] = np.ascontiguousarray(directions["departure"][:, :1])
    fading = Fading(
        los=np.ones(n, dtype=bool),
        shadow_db=np.zeros(n),
        amplitude=amplitude * np.sqrt(link.array_gain),
        delay_s=delay_s,
        **directions,
    )
    gain = path_gain(link, np.full(n, SLANT_RANGE_M), np.full(n, 45.0), fading.los, fading.shadow_db)
    beams_deg = [direct_deg + rng.normal(0.0, BEAM_OFF_DEG, (n, 2)) for direct_deg in (TX_DEG, RX_DEG)]
    return Case(link, fading, gain, *beams_deg)


# ---- the full matrix


def steering_vectors(cosines: np.ndarray, antennas: tuple[int, int], dtype: Any) -> np.ndarray:
    """(n, n_x * n_y): one row for each direction (n, 2) of a half-wave panel, norm 1, x index slow."""
    n_x, n_y = antennas
    along_x = np.exp(1j * np.pi * np.arange(n_x) * cosines[:, :1]) / np.sqrt(n_x)
    along_y = np.exp(1j * np.pi * np.arange(n_y) * cosines[:, 1:]) / np.sqrt(n_y)
    return (along_x[:, :, None] * along_y[:, None, :]).reshape(len(cosines), -1).astype(dtype)


class FullMatrix:
    """SNR of each resource block by way of H: (n_rx, n_tx) of every block, made of the paths, between the beams.

    at_once  blocks of one product; memory for their H is touched beforehand
    """

    def __init__(self, link: Link, n_paths: int, dtype: Any = np.complex128, at_once: int = 100):
        self.link, self.dtype, self.at_once = link, np.dtype(dtype), min(at_once, link.n_rb)
        self.n_rx, self.n_tx = int(np.prod(link.rx_antennas)), int(np.prod(link.tx_antennas))
        self._frequency_hz = link.rb_step_hz * np.arange(link.n_rb)
        self._left = np.zeros((self.at_once, self.n_rx, n_paths), self.dtype)
        self._matrix = np.zeros((self.at_once * self.n_rx, self.n_tx), self.dtype)

    def matrices(self, case: Case, row: int) -> Iterator[tuple[int, np.ndarray]]:
        """H of one slot, some blocks at a time: the first of them, and (n_blocks, n_rx, n_tx), good until the next."""
        fading = case.fading
        arriving = steering_vectors(fading.arrival[row], self.link.rx_antennas, self.dtype).T
        leaving = steering_vectors(fading.departure[row], self.link.tx_antennas, self.dtype).conj()
        if len(leaving) == 1:
            leaving = np.repeat(leaving, case.n_paths, axis=0)
        turn = np.exp(-2j * np.pi * self._frequency_hz[:, None] * fading.delay_s[row])
        turn = (turn * fading.amplitude[row]).astype(self.dtype)
        for first in range(0, len(turn), self.at_once):
            n = min(self.at_once, len(turn) - first)
            left = np.multiply(arriving, turn[first : first + n, None], out=self._left[:n])
            left = left.reshape(n * self.n_rx, -1)
            yield first, np.matmul(left, leaving, out=self._matrix[: n * self.n_rx]).reshape(n, self.n_rx, self.n_tx)

    def snr(self, case: Case, row: int) -> np.ndarray:
        """(n_rb,) of one slot."""
        sent, heard = beams_of(case, row, self.dtype)
        response = np.empty(self.link.n_rb, self.dtype)
        for first, matrix in self.matrices(case, row):
            at_antennas = matrix.reshape(-1, self.n_tx) @ sent
            response[first : first + len(matrix)] = at_antennas.reshape(len(matrix), self.n_rx) @ heard
        scale = self.link.snr_per_gain * case.gain[row]
        return scale * (response.real**2 + response.imag**2)


def beams_of(case: Case, row: int, dtype: Any = complex) -> tuple[np.ndarray, np.ndarray]:
    """The weights w_t (n_tx,) and the conjugate of w_r (n_rx,) of one slot."""
    sent, heard = (
        steering_vectors(direction_cosines(beam_deg[row])[None], antennas, dtype)[0]
        for beam_deg, antennas in (
            (case.tx_beam_deg, case.link.tx_antennas),
            (case.rx_beam_deg, case.link.rx_antennas),
        )
    )
    return sent, heard.conj()


def einsum_snr(case: Case, row: int) -> np.ndarray:
    """The same as one writes it down first: H of all blocks and the beams around it, each by einsum, optimised."""
    link, fading = case.link, case.fading
    arriving = steering_vectors(fading.arrival[row], link.rx_antennas, complex)
    leaving = steering_vectors(fading.departure[row], link.tx_antennas, complex)
    leaving = np.broadcast_to(leaving, (case.n_paths, leaving.shape[1]))
    frequency_hz = link.rb_step_hz * np.arange(link.n_rb)
    turn = fading.amplitude[row] * np.exp(-2j * np.pi * frequency_hz[:, None] * fading.delay_s[row])
    matrix = np.einsum("ml,lr,lt->mrt", turn, arriving, leaving.conj(), optimize=True)
    sent, heard = beams_of(case, row)
    response = np.einsum("r,mrt,t->m", heard, matrix, sent, optimize=True)
    return link.snr_per_gain * case.gain[row] * np.abs(response) ** 2


def beams_first_snr(case: Case, row: int) -> np.ndarray:
    """The same by NumPy without H: beams on the steering vectors of every path, which is then one number."""
    link, fading = case.link, case.fading
    sent, heard = beams_of(case, row)
    leaving = steering_vectors(fading.departure[row], link.tx_antennas, complex).conj() @ sent
    through = (
        fading.amplitude[row] * (steering_vectors(fading.arrival[row], link.rx_antennas, complex) @ heard) * leaving
    )
    frequency_hz = link.rb_step_hz * np.arange(link.n_rb)
    response = np.exp(-2j * np.pi * frequency_hz[:, None] * fading.delay_s[row]) @ through
    return link.snr_per_gain * case.gain[row] * (response.real**2 + response.imag**2)


def quickest_matrix(case: Case, dtype: Any = np.complex128, tries: int = 3) -> FullMatrix:
    """The full matrix with as many blocks at once as go quickest here."""
    candidates = [FullMatrix(case.link, case.n_paths, dtype, n) for n in BLOCKS_AT_ONCE if n <= case.link.n_rb]
    return min(
        candidates or [FullMatrix(case.link, case.n_paths, dtype)],
        key=lambda one: _least_s(partial(one.snr, case, 0), tries),
    )


def blas() -> str:
    """Name and version of NumPy's."""
    config: Any = np.show_config(mode="dicts")
    found = config["Build Dependencies"]["blas"]
    return f"{found['name']} {found['version']}"


# ---- the sweep over two codebooks


class MatrixSweep:
    """Mean power of every pair of beams over the blocks, from H: (W_r^H H) W_t or W_r^H (H W_t), block by block.

    full                      makes H
    tx_codebook, rx_codebook  (n, 2)  direction cosines of the beams, whose steering vectors are made beforehand
    """

    def __init__(self, full: FullMatrix, tx_codebook: np.ndarray, rx_codebook: np.ndarray, tx_first: bool = True):
        self.full, self.tx_first = full, tx_first
        link, dtype = full.link, full.dtype
        self._sent = np.ascontiguousarray(steering_vectors(tx_codebook, link.tx_antennas, dtype).T)
        self._heard = np.ascontiguousarray(steering_vectors(rx_codebook, link.rx_antennas, dtype).conj())
        n_tx, n_rx = len(tx_codebook), len(rx_codebook)
        self._half = np.zeros((full.n_rx, n_tx) if tx_first else (n_rx, full.n_tx), dtype)
        self._response = np.zeros((n_rx, n_tx), dtype)
        self._parts = self._response.view(self._response.real.dtype)
        self._square, self._sum = np.zeros_like(self._parts), np.zeros_like(self._parts)

    def power(self, case: Case, row: int) -> np.ndarray:
        """(n_tx, n_rx): mean of |w_r^H H w_t|^2."""
        self._sum[:] = 0.0
        for _, matrices in self.full.matrices(case, row):
            for matrix in matrices:
                if self.tx_first:
                    np.matmul(self._heard, np.matmul(matrix, self._sent, out=self._half), out=self._response)
                else:
                    np.matmul(np.matmul(self._heard, matrix, out=self._half), self._sent, out=self._response)
                np.multiply(self._parts, self._parts, out=self._square)
                self._sum += self._square
        return (self._sum[:, ::2] + self._sum[:, 1::2]).T / self.full.link.n_rb


def quickest_sweep(case: Case, full: FullMatrix, tx_codebook: np.ndarray, rx_codebook: np.ndarray) -> MatrixSweep:
    """The sweep by whichever order of its products goes quicker here."""
    both = [MatrixSweep(full, tx_codebook, rx_codebook, tx_first) for tx_first in (True, False)]
    return min(both, key=lambda one: _least_s(partial(one.power, case, 0), 2))


# ---- OpenNTN


def why_no_openntn() -> str | None:
    """What is in the way of OpenNTN, None where nothing is."""
    for name, what in (
        (OPENNTN, "openntn"),
        ("torch", "PyTorch, which openntn needs,"),
        ("sionna", "sionna, which openntn needs,"),
    ):
        if importlib.util.find_spec(name) is None:
            return f"{what} is not installed: pip install 'ntn-twin[bench]'"
    return None


class OpenNtn:
    """OpenNTN's urban downlink at 50 deg in line of sight: 7 paths, 16 x 16 by 8 x 8 antennas, one thread.

    precision  "double" as ours is, or "single", its default
    slots      time samples of one call, for which it draws its rays once
    """

    def __init__(self, link: Link, precision: str, slots: int):
        torch, openntn = importlib.import_module("torch"), importlib.import_module(OPENNTN)
        torch.set_num_threads(1)
        self._torch, self.slots, self.link = torch, slots, link
        panels = [
            openntn.PanelArray(
                num_rows_per_panel=rows,
                num_cols_per_panel=columns,
                polarization="single",
                polarization_type="V",
                antenna_pattern="omni",
                carrier_frequency=OPENNTN_CARRIER_HZ,
                precision=precision,
            )
            for rows, columns in (link.rx_antennas, link.tx_antennas)
        ]
        self.channel = openntn.Urban(
            OPENNTN_CARRIER_HZ, *panels, "downlink", OPENNTN_ELEVATION_DEG, precision=precision
        )
        zeros = partial(torch.zeros, dtype=self.channel.dtype)
        away_m = OPENNTN_HEIGHT_M / np.tan(np.radians(OPENNTN_ELEVATION_DEG))
        terminal, satellite = (
            zeros(1, 1, 3),
            torch.tensor([[[-away_m, 0.0, OPENNTN_HEIGHT_M]]], dtype=self.channel.dtype),
        )
        terminal[..., 2] = 1.5
        outdoors = torch.zeros(1, 1, dtype=torch.bool)
        self.channel.set_topology(
            terminal, satellite, zeros(1, 1, 3), zeros(1, 1, 3), zeros(1, 1, 3), outdoors, los=True, latitude=0.0
        )
        cosines = direction_cosines(np.array([RX_DEG, TX_DEG]))
        self._heard, self._sent = (
            torch.tensor(steering_vectors(cosine[None], antennas, complex)[0]).to(self.channel.cdtype)
            for cosine, antennas in zip(cosines, (link.rx_antennas, link.tx_antennas))
        )
        frequency_hz = link.rb_step_hz * np.arange(link.n_rb)
        self._turn_rad_s = torch.tensor(-2.0 * np.pi * frequency_hz, dtype=self.channel.dtype)
        self._scale = float(link.snr_per_gain)

    def impulses(self) -> tuple[Any, Any]:
        """Path coefficients (n_rx, n_tx, n_paths, slots) and delays (n_paths,), s."""
        coefficients, delay_s = self.channel(self.slots, 10.0)
        return coefficients[0, 0, :, 0], delay_s[0, 0, 0]

    def snr(self) -> Any:
        """(slots, n_rb): beams first, which here is the quickest: a path is then one number, and H is not built."""
        coefficients, delay_s = self.impulses()
        at_beams = self._torch.einsum("r,t,rtls->ls", self._heard.conj(), self._sent, coefficients)
        turn_rad = self._turn_rad_s[:, None] * delay_s
        turn = self._torch.polar(self._torch.ones_like(turn_rad), turn_rad)
        return self._scale * (at_beams.T @ turn.T).abs() ** 2

    def snr_by_response(self) -> Any:
        """(slots, n_rb) by the frequency response of every pair of antennas, as its examples do it."""
        response_of = importlib.import_module("sionna.phy.channel").cir_to_ofdm_channel
        coefficients, delay_s = self.channel(self.slots, 10.0)
        frequency_hz = self._turn_rad_s / (-2.0 * np.pi)
        matrix = response_of(frequency_hz, coefficients, delay_s)[0, 0, :, 0]
        response = self._torch.einsum("r,rtsm,t->sm", self._heard.conj(), matrix, self._sent)
        return self._scale * response.abs() ** 2


def _least_s(run: Callable[[], Any], tries: int) -> float:
    took_s = []
    for _ in range(tries):
        begin = time.perf_counter()
        run()
        took_s.append(time.perf_counter() - begin)
    return min(took_s)


# ---- memory


def _slot_of(n_paths: int = 20) -> Case:
    return draw_case(Link(), 1, n_paths, common=False, seed=1)


def _our_slot() -> Callable[[], Any]:
    case = _slot_of()
    return lambda: block_snr(case.link, case.fading, case.gain, case.tx_beam_deg, case.rx_beam_deg, threads=1)


def _our_sweep() -> Callable[[], Any]:
    case, book = _slot_of(), np.random.default_rng(1).uniform(-0.9, 0.9, (324, 2))
    return lambda: sweep(case.link, case.fading, 0, book, book)


def _matrix_slot(at_once: int) -> Callable[[], Any]:
    case = _slot_of()
    return lambda: FullMatrix(case.link, case.n_paths, at_once=at_once).snr(case, 0)


def _matrix_sweep() -> Callable[[], Any]:
    case, book = _slot_of(), np.random.default_rng(1).uniform(-0.9, 0.9, (324, 2))
    return lambda: MatrixSweep(FullMatrix(case.link, case.n_paths, at_once=5), book, book).power(case, 0)


def _openntn(what: str, slots: int) -> Callable[[], Any]:
    return lambda: getattr(OpenNtn(Link(), "double", slots), what)()


MEMORY: dict[str, Callable[[], Callable[[], Any]]] = {  # inputs are made beforehand and not counted
    "ours_slot": _our_slot,
    "blas_slot": partial(_matrix_slot, 100),
    "blas_slot_5_blocks_at_once": partial(_matrix_slot, 5),
    "einsum_slot": lambda: partial(einsum_snr, _slot_of(), 0),
    "ours_sweep": _our_sweep,
    "blas_sweep": _matrix_sweep,
    "openntn_slot": partial(_openntn, "snr", 1),
    "openntn_slot_response": partial(_openntn, "snr_by_response", 1),
    "openntn_10_slots": partial(_openntn, "snr", 10),
}


def memory_of(name: str) -> int | None:
    """Bytes by which a path of MEMORY makes its process larger at most, in its second run; None where nobody can tell.

    Linux tells it: the peak of the resident memory, set back between the runs; the first run loads code.
    """
    if name.startswith(OPENNTN) and why_no_openntn():
        return None
    command = [sys.executable, "-m", "hil.bench_channel_peers", name]
    told = subprocess.run(
        command,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # so that what is let go of leaves the process
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=True,
    ).stdout
    size: int | None = json.loads(told)
    return size


def _memory_here(name: str) -> int | None:
    run = MEMORY[name]()
    run()
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back, proc(5)
        before = _resident_bytes("VmRSS")
        run()
        return max(0, _resident_bytes("VmHWM") - before)
    except OSError:
        return None


def _resident_bytes(key: str) -> int:
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


# ---- the processor


class Tallied(Counted):
    """A counted number that also knows what our kernels ask of one; rounding is free."""

    def __int__(self) -> int:
        return int(self.value)

    def __floor__(self) -> int:
        return math.floor(self.value)

    def deg2rad(self) -> Counted:
        return self._made("multiply", np.deg2rad(self.value))


def flops_of(case: Case) -> dict[str, Any]:
    """Floating-point operations of one slot of `block_snr`, counted by running its kernel as Python."""
    kernels = as_python(SimpleNamespace(**{**vars(turns), **vars(arrays), **vars(slot)}))
    link, one = case.link, case.rows(0, 1)
    fading, work = one.fading, tuple(each.astype(object) for each in slot.room(link, one.fading))
    amplitude = np.empty((1, case.n_paths), dtype=object)
    amplitude[0] = [SimpleNamespace(real=Tallied(each.real), imag=Tallied(each.imag)) for each in fading.amplitude[0]]
    given = (_tallied(each) for each in (one.tx_beam_deg, one.rx_beam_deg))
    paths = (amplitude, *(_tallied(each) for each in (fading.departure, fading.arrival, fading.delay_s)))
    scale, out = _tallied(link.snr_per_gain * one.gain), np.empty((1, link.n_rb), dtype=object)
    Counted.tally.clear()
    kernels["snr_kernel"](0, 1, 1, *slot.settings_of(link), *given, *paths, scale, work, out)
    each = {kind: Counted.tally[kind] for kind in WEIGHT}
    return {"each": each, "weight": WEIGHT, "flops": sum(WEIGHT[kind] * n for kind, n in each.items())}


def _tallied(values: np.ndarray) -> np.ndarray:
    counted = np.empty(values.size, dtype=object)
    counted[:] = [Tallied(value) for value in values.ravel()]
    return counted.reshape(values.shape)


if __name__ == "__main__":
    print(json.dumps(_memory_here(sys.argv[1])))
