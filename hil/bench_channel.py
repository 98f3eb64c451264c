"""`ntn-twin bench channel`: what a link costs in closed form, beside building its matrix.

Every ratio is between neighbours in one run: the paths take turns, each block of one beside a block of the other, and
the median of the blocks' ratios counts. Errors are measured on the very inputs that were timed. Where OpenNTN is not
installed its figures are None, and `why_not` says so.

The measurement runs in a process of its own, in which nothing has more threads than is stated: BLAS and OpenNTN one,
our kernels as many as the path's name says, one where nothing else is said.

    python -m hil.bench_channel '{"quick": true}'     JSON on standard output
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import numba
import numpy as np

import twin
from hil import bench_channel_peers as peers
from hil.bench import THREADS, Say, figure_lines, hand_over, judged, machine, machine_line, of_a_process, usable
from hil.bench_channel_peers import Case, OpenNtn
from hil.bench_sky_peers import SNAPSHOT, catalogue, middle_utc, peaks
from twin.channel import Link, direction_cosines, draw_fading, path_gain, slot_link
from twin.channel import sweep as channel_sweep
from twin.channel.slot import block_snr, group_rates
from twin.geometry import Site, pointing
from twin.overpass import find_passes
from twin.tle import Satellite, TleWarning
from twin.units import GIGA, KILO, MEGA, US_PER_S

GOALS = {  # key: (sign, limit)
    "slot_L20_vs_blas": (">=", 900.0),
    "slot_L61_vs_blas": (">=", 250.0),
    "slot_L7_vs_openntn": (">=", 20_000.0),
    "sweep_common_vs_blas": (">=", 150.0),
    "sweep_general_vs_blas": (">=", 3.0),
    "pass_vs_real_time": (">=", 500.0),
    "batch_2t_vs_single": (">=", 5.0),
}
NOT_LIKE_FOR_LIKE = (
    "not like for like: OpenNTN draws its rays anew in every call and makes the coefficients of every pair of antennas"
)
HERE = Site(latitude_deg=43.5, longitude_deg=-80.5, altitude_m=330.0)
SLOT_S, SAMPLES = 0.1, 100  # of a pass: slots, and samples within each
PASS_MASK_DEG = 10.0
SWEEP_PATHS = 20
PACKAGES = ("ntn-twin", "numpy", "numba", "llvmlite", "openntn", "sionna", "sionna-no-rt", "torch")


@dataclass(frozen=True)
class Effort:
    """How much is measured; blocks of each path in a round, in slots or runs.

    rows    slots of one call of ours, which is made `calls` times
    grid    beams along each angle of a codebook
    """

    rounds: int = 21
    rows: int = 500
    calls: int = 10
    full_slots: int = 4
    grid: int = 18
    sweep_rounds: int = 11
    pass_s: float = 240.0
    pass_rounds: int = 9
    links: int = 1_000
    memory: bool = True


FULL = Effort()
QUICK = Effort(rounds=5, full_slots=2, sweep_rounds=3, pass_rounds=3, memory=False)


def channel(quick: bool = False) -> dict[str, Any]:
    """Measure everything, in a process of its own; one JSON object. Progress goes to standard error.

    Raises TwinError when the process fails.
    """
    return of_a_process("hil.bench_channel", {"quick": quick})


@contextlib.contextmanager
def held_to(threads: int) -> Iterator[None]:
    """Meanwhile what chooses its threads itself takes this many: see twin.parallel.default_threads."""
    config: Any = numba.config
    before = config.NUMBA_NUM_THREADS
    config.NUMBA_NUM_THREADS = threads
    try:
        yield
    finally:
        config.NUMBA_NUM_THREADS = before


@held_to(1)
def measure(effort: Effort = FULL, say: Say = lambda text: None, link: Link | None = None) -> dict[str, Any]:
    """What `channel` hands out, measured in this process: the keys of GOALS, what they were made of, and the machine.

    link  None: the default one, of 100 blocks, 16 x 16 and 8 x 8 antennas
    """
    about, link = machine(*PACKAGES), link or Link()
    about["versions"]["blas"] = peers.blas()
    say("the multiply-adds this processor can do")
    peak = max(each["gflops_1t"] for each in peaks().values())
    slots: dict[str, Any] = {}
    why_not: dict[str, str] = {}
    for name, n_paths, common in (("L20", 20, False), ("L61", 61, False), ("L7", 7, True)):
        say(f"a slot of {n_paths} paths, in turn with BLAS and einsum" + (" and OpenNTN" if name == "L7" else ""))
        others: dict[str, Way] = {}
        if name == "L7":
            others, missing = openntn_ways(link)
            why_not |= {"slot_L7_vs_openntn": missing} if missing else {}
        slots[name] = slot(peers.draw_case(link, effort.rows, n_paths, common, seed=1), others, effort, peak)
    say("every pair of beams, in turn with batched BLAS")
    swept = {name: sweep(link, effort, name == "common") for name in ("common", "general")}
    say("a whole pass")
    passed = a_pass(link, effort)
    say("many links at once, and one by one")
    batched = batch(link, effort)
    figures = {
        "slot_L20_vs_blas": slots["L20"]["vs_blas"],
        "slot_L61_vs_blas": slots["L61"]["vs_blas"],
        "slot_L7_vs_openntn": slots["L7"]["vs_openntn_cpu"],
        "sweep_common_vs_blas": swept["common"]["vs_blas"],
        "sweep_general_vs_blas": swept["general"]["vs_blas"],
        "pass_vs_real_time": passed["vs_real_time"],
        "batch_2t_vs_single": batched["2t_vs_single"],
    }
    if usable() < THREADS:
        alone = "one processor is all there is"
        figures |= dict.fromkeys(("pass_vs_real_time", "batch_2t_vs_single"))
        why_not |= dict.fromkeys(("pass_vs_real_time", "batch_2t_vs_single"), alone)
    memory = None
    if effort.memory:
        say("the memory of each path, in a process of its own")
        memory = {name: peers.memory_of(name) for name in peers.MEMORY}
    return {
        **figures,
        "goals": judged(figures, GOALS),
        "why_not": why_not,
        "note": {"slot_L7_vs_openntn": NOT_LIKE_FOR_LIKE},
        "link": {"n_rb": link.n_rb, "tx_antennas": link.tx_antennas, "rx_antennas": link.rx_antennas},
        "slot": slots,
        "sweep": swept,
        "pass": passed,
        "batch": batched,
        "memory_bytes": memory,
        "peak_gflops_1t": peak,
        "threads": {"at_most": usable(), "blas": 1, "openntn": 1},
        "machine": about,
    }


# ---- taking turns


@dataclass(frozen=True)
class Way:
    """One way to do it: `run` does it `n` times over."""

    run: Callable[[], Any]
    n: int = 1


@dataclass
class Took:
    """Seconds of each block, for one time each: by the clock, and of the processor in all threads."""

    wall_s: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def in_turn(cls, ways: dict[str, Way], rounds: int) -> "Took":
        """Every way once before the clock starts, which compiles and touches its memory; then one after the other."""
        for way in ways.values():
            way.run()
        took = cls({name: [] for name in ways}, {name: [] for name in ways})
        for _ in range(rounds):
            for name, way in ways.items():
                wall_s, cpu_s = time.perf_counter(), time.process_time()
                way.run()
                took.cpu_s[name].append((time.process_time() - cpu_s) / way.n)
                took.wall_s[name].append((time.perf_counter() - wall_s) / way.n)
        return took

    def us(self) -> dict[str, float]:
        """The median block of each."""
        return {name: US_PER_S * float(np.median(blocks)) for name, blocks in self.wall_s.items()}

    def cpu_us(self) -> dict[str, float]:
        """The same of the processor."""
        return {name: US_PER_S * float(np.median(blocks)) for name, blocks in self.cpu_s.items()}

    def ratio(self, slow: str, fast: str, cpu: bool = False) -> float:
        """Median over the rounds of how often `fast` fits into `slow`."""
        blocks = self.cpu_s if cpu else self.wall_s
        return float(np.median(np.divide(blocks[slow], blocks[fast])))


# ---- a slot


def slot(case: Case, others: dict[str, Way], effort: Effort, peak_gflops: float) -> dict[str, Any]:
    """SNR of every block of a slot: from the paths and beams in closed form, and by way of H.

    All begin with the paths' amplitudes, delays and direction cosines, the gain and the beams' angles, and end with
    n_rb numbers. Ours are many slots of one call; the others' go one by one. `numpy_beams_first` builds no H either.
    """
    out = np.zeros((case.n, case.link.n_rb))
    ours = partial(block_snr, case.link, case.fading, case.gain, case.tx_beam_deg, case.rx_beam_deg, threads=1, out=out)
    full, single = (peers.quickest_matrix(case, dtype) for dtype in (np.complex128, np.complex64))
    rows = range(min(effort.full_slots, case.n))
    ways = {
        "ours": Way(lambda: [ours() for _ in range(effort.calls)], effort.calls * case.n),
        "blas": Way(lambda: [full.snr(case, row) for row in rows], len(rows)),
        "blas_complex64": Way(lambda: [single.snr(case, row) for row in rows], len(rows)),
        "einsum": Way(lambda: peers.einsum_snr(case, 0)),
        "numpy_beams_first": Way(
            lambda: [peers.beams_first_snr(case, row) for _ in range(5) for row in rows], 5 * len(rows)
        ),
        **others,
    }
    took = Took.in_turn(ways, effort.rounds)
    expected = np.array([full.snr(case, row) for row in rows])
    in_single = np.array([single.snr(case, row) for row in rows])
    us, cpu_us = took.us(), took.cpu_us()
    counted = peers.flops_of(case)
    found = {
        "n_paths": case.n_paths,
        "departures": "common" if case.fading.departure.shape[1] == 1 < case.n_paths else "each its own",
        "vs_blas": took.ratio("blas", "ours"),
        "vs_blas_complex64": took.ratio("blas_complex64", "ours"),
        "vs_einsum": took.ratio("einsum", "ours"),
        "vs_numpy_beams_first": took.ratio("numpy_beams_first", "ours"),
        "us": us,
        "cpu_us": cpu_us,
        "ns_per_block": KILO * us["ours"] / case.link.n_rb,
        "blas_blocks_at_once": {"complex128": full.at_once, "complex64": single.at_once},
        "error": {"ours": error_of(out[: len(rows)], expected), "blas_complex64": error_of(in_single, expected)},
        "limit": {
            **counted,
            "limit_us": US_PER_S * counted["flops"] / (peak_gflops * GIGA),
            "reached": counted["flops"] / (peak_gflops * KILO * us["ours"]),
        },
        "blocks_us": {name: [US_PER_S * s for s in blocks] for name, blocks in took.wall_s.items()},
        "vs_openntn_cpu": None,
    }
    if others:
        alike = [name for name in others if name.startswith("openntn_double") and not name.endswith("_response")]
        best = min(alike, key=lambda name: cpu_us[name])
        found |= {"openntn_best": best, "vs_openntn_cpu": took.ratio(best, "ours", cpu=True)}
        found["openntn_cpu_ratios"] = {name: took.ratio(name, "ours", cpu=True) for name in others}
    return found


def error_of(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Largest difference over the expected value itself, and over the largest value of the same slot."""
    off = np.abs(found - expected)
    peak = expected.max(axis=-1, keepdims=True)
    return {"max_relative": float((off / expected).max()), "max_of_peak": float((off / peak).max())}


def openntn_ways(link: Link) -> tuple[dict[str, Way], str | None]:
    """OpenNTN in both precisions and with few and more slots a call, or why there is none."""
    missing = peers.why_no_openntn()
    if missing:
        return {}, missing
    ways: dict[str, Way] = {}
    for precision in ("double", "single"):
        for slots in peers.OPENNTN_SLOTS:
            try:
                theirs = OpenNtn(link, precision, slots)
            except ImportError as error:
                return {}, f"openntn cannot be imported: {error}"
            name = f"openntn_{precision}_{slots}_a_call"
            ways[name] = Way(theirs.snr, slots)
            if slots == 1:
                ways[f"{name}_impulses"] = Way(theirs.impulses, slots)
                ways[f"{name}_response"] = Way(theirs.snr_by_response, slots)
    return ways, None


# ---- the sweep


def sweep(link: Link, effort: Effort, common: bool) -> dict[str, Any]:
    """Power of every pair of beams of two codebooks over all blocks: from the paths, and by BLAS on H.

    Both begin with the paths and the codebooks; H is made on the way, the codebooks' steering vectors beforehand.
    """
    case = peers.draw_case(link, 1, SWEEP_PATHS, common, seed=3)
    tx_codebook, rx_codebook = (
        direction_cosines(around_deg(direct_deg, effort.grid)) for direct_deg in (peers.TX_DEG, peers.RX_DEG)
    )
    ours = partial(channel_sweep.sweep, link, case.fading, 0, tx_codebook, rx_codebook)
    quickest = {
        name: peers.quickest_sweep(case, peers.quickest_matrix(case, dtype), tx_codebook, rx_codebook)
        for name, dtype in (("blas", np.complex128), ("blas_complex64", np.complex64))
    }
    calls = 50 if common else 5
    ways = {"ours": Way(lambda: [ours() for _ in range(calls)], calls)}
    ways |= {name: Way(partial(each.power, case, 0)) for name, each in quickest.items()}
    ways["blas_making_h"] = Way(lambda: [None for _ in quickest["blas"].full.matrices(case, 0)])
    took = Took.in_turn(ways, effort.sweep_rounds)
    found, expected = ours().power, quickest["blas"].power(case, 0)
    in_single = quickest["blas_complex64"].power(case, 0)
    us = took.us()
    return {
        "vs_blas": took.ratio("blas", "ours"),
        "vs_blas_complex64": took.ratio("blas_complex64", "ours"),
        "n_paths": case.n_paths,
        "departures": "common" if common else "each its own",
        "pairs": expected.size,
        "us": us,
        "cpu_us": took.cpu_us(),
        "ns_per_pair": KILO * us["ours"] / expected.size,
        "blas_order": {name: "W_r^H (H W_t)" if one.tx_first else "(W_r^H H) W_t" for name, one in quickest.items()},
        "error": {
            "ours": error_of(found.ravel(), expected.ravel()),
            "blas_complex64": error_of(in_single.ravel(), expected.ravel()),
        },
        "blocks_us": {name: [US_PER_S * s for s in blocks] for name, blocks in took.wall_s.items()},
    }


def around_deg(direct_deg: tuple[float, float], n: int) -> np.ndarray:
    """A codebook's angles (n * n, 2), deg: a grid of 10 deg in both, around the direct path's."""
    steps_deg = 10.0 * (np.arange(n) - 0.5 * (n - 1))
    theta_deg, phi_deg = (np.clip(direct + steps_deg, 0.0, 180.0) for direct in direct_deg)
    return np.stack(np.meshgrid(theta_deg, phi_deg, indexing="ij"), axis=-1).reshape(-1, 2)


# ---- a pass


def a_pass(link: Link, effort: Effort) -> dict[str, Any]:
    """From elements to the rate of every slot and group, with samples within the slots; on one thread and on two."""
    satellite, start_utc = highest_pass(effort.pass_s)
    parts_s: dict[str, list[float]] = {}

    def fly(threads: int) -> tuple[np.ndarray, np.ndarray]:
        with held_to(threads):
            return flown(threads)

    def flown(threads: int) -> tuple[np.ndarray, np.ndarray]:
        marks = [time.perf_counter()]

        def done(part: str) -> None:
            marks.append(time.perf_counter())
            parts_s.setdefault(f"{part}_{threads}t", []).append(marks[-1] - marks[-2])

        n_slots = round(effort.pass_s / SLOT_S)
        t_s = np.arange(n_slots * SAMPLES) * (SLOT_S / SAMPLES)
        with warnings.catch_warnings(action="ignore", category=TleWarning):  # of old elements
            sky = twin.ephemeris([satellite], start_utc, effort.pass_s)
        position_m, velocity_m_s = sky.state_of(0, t_s)
        course = pointing(position_m, velocity_m_s, HERE)
        done("geometry")
        fading = draw_fading(np.random.default_rng(3), link, course, SLOT_S, SAMPLES)
        done("draws")
        gain = path_gain(link, course.slant_range_m, course.elevation_deg, fading.los, fading.shadow_db)
        beams_deg = [np.repeat(each[::SAMPLES], SAMPLES, axis=0) for each in (course.tx_beam_deg, course.rx_beam_deg)]
        done("gain_and_beams")
        found = group_rates(link, fading, gain, *beams_deg, samples=SAMPLES, threads=threads)
        done("snr_and_rate")
        return found

    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    ways = {f"{n}t": Way(partial(lambda n: kept.update({n: fly(n)}), n)) for n in range(1, usable() + 1)}
    took = Took.in_turn(ways, effort.pass_rounds)
    several = f"{usable()}t"
    seconds = {name: float(np.median(blocks)) for name, blocks in took.wall_s.items()}
    snr, rate_bps = kept[usable()]
    return {
        "vs_real_time": float(np.median(effort.pass_s / np.array(took.wall_s[several]))),
        "vs_real_time_1t": effort.pass_s / seconds["1t"],
        "seconds": seconds,
        "cpu_seconds": {name: float(np.median(blocks)) for name, blocks in took.cpu_s.items()},
        "parts_s": {name: float(np.median(blocks[1:])) for name, blocks in parts_s.items()},
        "slots": len(snr),
        "samples_a_slot": SAMPLES,
        "n_paths": link.n_paths,
        "satellite": satellite.name,
        "mean_rate_bps": float(rate_bps.sum(axis=1).mean()),
        "same_on_each_number_of_threads": all(np.array_equal(kept[1][1], each[1]) for each in kept.values()),
    }


def highest_pass(seconds: float) -> tuple[Satellite, Any]:
    """The satellite that rises highest over the site within three hours, and the instant its middle `seconds` begin."""
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        satellites = [one for one in catalogue(SNAPSHOT)[1] if one.name.startswith("STARLINK")][:300]
        start_utc = middle_utc(satellites)
        place = {name: getattr(HERE, name) for name in ("latitude_deg", "longitude_deg", "altitude_m")}
        found = find_passes(satellites, start_utc, 3 * 3600.0, **place, mask_deg=PASS_MASK_DEG)
    best = max((one for one in found if not one.cut), key=lambda one: one.max_elevation_deg)
    return satellites[best.satellite_index], start_utc + timedelta(seconds=best.culmination_s - 0.5 * seconds)


# ---- many links


def batch(link: Link, effort: Effort) -> dict[str, Any]:
    """SNR of every block of many links: in one call, and in as many calls as there are links."""
    case = peers.draw_case(link, effort.links, link.n_paths, common=False, seed=2)
    out = np.zeros((case.n, link.n_rb))
    every = [case.rows(row, row + 1) for row in range(case.n)]
    outs = np.zeros((case.n, 1, link.n_rb))
    used = np.ones(link.n_groups, dtype=bool)

    def at_once(threads: int) -> None:
        block_snr(link, case.fading, case.gain, case.tx_beam_deg, case.rx_beam_deg, threads=threads, out=out)

    def one_by_one() -> None:
        for one, into in zip(every, outs):
            block_snr(link, one.fading, one.gain, one.tx_beam_deg, one.rx_beam_deg, threads=1, out=into)

    def by_slot() -> None:
        for row in range(case.n):
            slot_link(link, case.fading, row, case.gain[row], case.tx_beam_deg[row], case.rx_beam_deg[row], used)

    ways = {f"at_once_{n}t": Way(partial(at_once, n), case.n) for n in range(1, usable() + 1)}
    ways |= {"single": Way(one_by_one, case.n), "single_slot_link": Way(by_slot, case.n)}
    took = Took.in_turn(ways, 2 * effort.rounds)
    return {
        "2t_vs_single": took.ratio("single", f"at_once_{usable()}t"),
        "1t_vs_single": took.ratio("single", "at_once_1t"),
        "links": case.n,
        "n_paths": link.n_paths,
        "us_per_link": took.us(),
        "cpu_us_per_link": took.cpu_us(),
        "same_answer": bool(np.array_equal(out, outs[:, 0])),
    }


# ---- for a person


def table(found: dict[str, Any]) -> str:
    """What `ntn-twin bench channel` prints without --json."""
    link, passed, batched = found["link"], found["pass"], found["batch"]
    (tx_x, tx_y), (rx_x, rx_y) = link["tx_antennas"], link["rx_antennas"]
    lines = [
        machine_line(found["machine"]),
        f"{link['n_rb']} resource blocks, {tx_x} x {tx_y} and {rx_x} x {rx_y} antennas",
        "",
        *figure_lines(found),
        f"slot_L7_vs_openntn is {NOT_LIKE_FOR_LIKE}",
        "",
        f"{'SNR of every block of a slot':<42}{'us':>12}{'CPU us':>12}{'of ours':>10}",
    ]
    for one in found["slot"].values():
        error, limit = one["error"]["ours"], one["limit"]
        lines.append(
            f"  {one['n_paths']} paths, departures {one['departures']}: {one['ns_per_block']:.1f} ns a block, within "
            f"{error['max_relative']:.0e} of the full matrix, {100 * limit['reached']:.0f} % of the multiply-adds"
        )
        lines += _rows(one)
    for one in found["sweep"].values():
        lines.append(
            f"  {one['pairs']:,} pairs of beams, {one['n_paths']} paths, departures {one['departures']}: within "
            f"{one['error']['ours']['max_of_peak']:.0e} of the largest"
        )
        lines += _rows(one)
    parts = ", ".join(f"{name[:-3].replace('_', ' ')} {s:.3f}" for name, s in _of_most(passed).items())  # less _1t, _2t
    lines += [
        "",
        f"a pass, {passed['slots']:,} slots of {passed['samples_a_slot']} samples, {passed['n_paths']} paths: "
        + ", ".join(f"{s:.3f} s on {name[0]} thread{'s' * (name != '1t')}" for name, s in passed["seconds"].items()),
        f"  of which, s: {parts}",
        f"{batched['links']:,} links of {batched['n_paths']} paths, us each: "
        + ", ".join(f"{name.replace('_', ' ')} {us:.2f}" for name, us in batched["us_per_link"].items()),
    ]
    if found["memory_bytes"]:
        shown = ((name, "-" if size is None else f"{size / MEGA:.1f}") for name, size in found["memory_bytes"].items())
        lines.append("memory, MB: " + ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in shown))
    return "\n".join(lines)


def _rows(one: dict[str, Any]) -> list[str]:
    ours_us = one["us"]["ours"]
    return [
        f"    {name:<38}{us:>12,.2f}{one['cpu_us'][name]:>12,.2f}{us / ours_us:>10,.0f}"
        for name, us in one["us"].items()
    ]


def _of_most(passed: dict[str, Any]) -> dict[str, float]:
    """The parts of a pass on the most threads it was flown on."""
    most = max(passed["seconds"])
    return {name: seconds for name, seconds in passed["parts_s"].items() if name.endswith(most)}


# ---- the rest


if __name__ == "__main__":
    hand_over(lambda asked, say: measure(QUICK if asked["quick"] else FULL, say))
