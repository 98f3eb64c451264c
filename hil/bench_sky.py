"""`ntn-twin bench sky`: what the sky costs, beside what one would take instead.

Every ratio is between neighbours in one run: the paths take turns, each block of one beside a block of the other, and
the median of the blocks' ratios counts. Errors are measured on the very states that were timed. Where a peer is not
installed its figures are None, and `why_not` says so.

The measurement runs in a process of its own, in which nothing has more threads than is stated: BLAS one, our kernels
and the peers as many as the path's name says, two where nothing else is said.

    python -m hil.bench_sky '{"quick": true, "tle": null}'     JSON on standard output
"""

import contextlib
import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np

import twin
from hil import bench_sky_peers as peers
from hil.bench import THREADS, Say, figure_lines, hand_over, judged, machine, machine_line, of_a_process, usable
from hil.bench_sky_peers import N_SATELLITES, Task, Way
from twin import overpass, visibility
from twin.geometry import Site
from twin.overpass import Pass
from twin.tle import Satellite, TleWarning
from twin.units import GIGA, SECONDS_PER_DAY, US_PER_S

GOALS = {  # key: (sign, limit)
    "sgp4_2t_vs_sgp4": (">=", 25.0),
    "sgp4_1t_vs_astroz": (">=", 1.0),
    "sgp4_2t_vs_astroz": (">=", 2.0),
    "look_1t_vs_sgp4_numpy": (">=", 30.0),
    "look_range_error_m": ("<=", 0.001),
    "slot_all_us": ("<=", 200.0),
    "culling_speedup": (">=", 5.0),
    "passes_vs_skyfield": (">=", 100.0),
}
HERE = Site(latitude_deg=43.5, longitude_deg=-80.5, altitude_m=330.0)
PLACE: dict[str, Any] = {
    "latitude_deg": HERE.latitude_deg,
    "longitude_deg": HERE.longitude_deg,
    "altitude_m": HERE.altitude_m,
}
CARRIER_HZ = 20e9
MASK_DEG = 10.0  # of passes and visible sets: the default of both
HOUR_S = 3600.0
CACHE_ERROR_M = 1e-3  # the default of twin.ephemeris
SAME_S = 0.5  # rise and set agree within this
NEAR_S = 60.0  # further apart they are not the same event at all
CULLED_SATELLITES = 8_000
PACKAGES = ("ntn-twin", "numpy", "numba", "llvmlite", "sgp4", "skyfield", "astroz", "heyoka", "satkit")


@dataclass(frozen=True)
class Effort:
    """How much is measured; None: all there are."""

    satellites: int | None = None
    times: int = 1_000
    rounds: int = 5
    look_blocks: int = 15
    slots: int = 2_000
    error_times: int = 200
    sites: int = 10_000
    passes_satellites: int | None = None


FULL = Effort()
QUICK = Effort(times=200, rounds=3, look_blocks=7, slots=500, error_times=50, passes_satellites=600)


def sky(quick: bool = False, tle: str | None = None) -> dict[str, Any]:
    """Measure everything, in a process of its own; one JSON object. Progress goes to standard error.

    quick  fewer times, slots and satellites
    tle    a catalogue of one's own; otherwise the largest at hand

    Raises TwinError when the catalogue is none, or the process fails.
    """
    asked = {"quick": quick, "tle": tle and os.path.abspath(tle)}
    return of_a_process("hil.bench_sky", asked, ASTROZ_THREADS=str(usable()))


def measure(effort: Effort = FULL, tle: str | None = None, say: Say = lambda text: None) -> dict[str, Any]:
    """What `sky` hands out, measured in this process: the keys of GOALS, what they were made of, and the machine."""
    about = machine(*PACKAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TleWarning)  # broken sets, age, kinks: see look_error
        name, satellites = peers.catalogue(tle, effort.satellites or N_SATELLITES)
        say("SGP4, one path after the other")
        flown = propagation(satellites, effort, tle, say)
        say("the multiply-adds this processor can do")
        flown["limit"] = limit(satellites[0], flown["ns"], flown.pop("write_ns"))
        say("look angles from the cache, in turn with SGP4 and NumPy")
        seen = looks(satellites, effort)
        say(f"many sites at once, with and without culling, {effort.rounds} rounds")
        culled = culling(satellites, effort)
        say("passes of a day, in turn with skyfield's find_events")
        passed = passes(peers.catalogue(peers.SNAPSHOT)[1], effort)
    figures = {
        **{key: flown[key] for key in ("sgp4_2t_vs_sgp4", "sgp4_1t_vs_astroz", "sgp4_2t_vs_astroz")},
        "look_1t_vs_sgp4_numpy": seen["vs_sgp4_numpy"],
        "look_range_error_m": seen["error"]["worst_m"],
        "slot_all_us": seen["slot_us"]["p50"],
        "culling_speedup": culled["speedup"],
        "passes_vs_skyfield": passed["vs_skyfield"],
    }
    why_not = dict(flown.pop("why_not"))
    goals = judged(figures, GOALS)
    if len(satellites) < N_SATELLITES:
        goals["slot_all_us"]["met"] = None
        why_not["slot_all_us"] = f"{len(satellites):,} satellites at hand, the goal is for {N_SATELLITES:,}: see --tle"
    if not passed["same"]:
        goals["passes_vs_skyfield"]["met"] = False
    return {
        **figures,
        "goals": goals,
        "why_not": why_not,
        "catalogue": {"name": name, "satellites": len(satellites), "of_passes": peers.SNAPSHOT.name},
        "sgp4": flown,
        "look": seen,
        "culling": culled,
        "passes": passed,
        "threads": {"at_most": usable(), "blas": 1, "look": 1, "skyfield": 1},
        "machine": about,
    }


# ---- SGP4


def propagation(satellites: list[Satellite], effort: Effort, tle: str | None, say: Say) -> dict[str, Any]:
    """Every way to propagate, in turn: ns for one propagation, errors, and the ratios."""
    task = Task.of_a_day(satellites, effort.times)
    threads = range(1, usable() + 1)
    with contextlib.ExitStack() as leaving:
        paths, why_not = _paths(task, tle, threads, leaving)
        first_s = {}  # compiles, and touches the memory
        for name, path in paths.items():
            first_s[name] = _timed(path.run)
            path.let_go()
        reference = paths["sgp4"]
        reference.run()
        assert reference.states is not None
        errors: dict[str, Any] = {"sgp4": None}
        for name in paths.keys() - {"sgp4"}:
            paths[name].run()
            errors[name] = peers.error_of(paths[name], reference.states())
            paths[name].let_go()
        reference.let_go()
        took: dict[str, list[float]] = {name: [] for name in paths}
        for number in range(effort.rounds):
            say(f"  round {number + 1} of {effort.rounds}")
            for name, path in paths.items():
                took[name].append(GIGA * _timed(path.run) / path.n)
                path.let_go()
        write_ns = {n: peers.write_ns(task, n) for n in threads}
    ns = {name: float(np.median(blocks)) for name, blocks in took.items()}
    astroz = [name for name in paths if name.startswith("astroz")]
    best = min(astroz, key=lambda name: ns[name], default=None)
    best_1t = min((name for name in astroz if paths[name].threads == 1), key=lambda name: ns[name], default=None)
    several = f"ours_{THREADS}t"
    if several not in paths:
        why_not |= dict.fromkeys(("sgp4_2t_vs_sgp4", "sgp4_2t_vs_astroz"), "one processor is all there is")
    if best is None:
        why_not |= dict.fromkeys(("sgp4_1t_vs_astroz", "sgp4_2t_vs_astroz"), why_not["astroz"])
    return {
        "sgp4_2t_vs_sgp4": _ratio(took, "sgp4", several),
        "sgp4_1t_vs_astroz": _ratio(took, best, "ours_1t"),
        "sgp4_2t_vs_astroz": _ratio(took, best, several),
        "astroz_best": best,
        "at_equal_threads": {
            "sgp4_1t_vs_astroz_1t": _ratio(took, best_1t, "ours_1t"),
            "sgp4_1t_vs_astroz_like_sgp4_1t": _ratio(took, "astroz_like_sgp4_1t", "ours_1t_fresh"),
            "sgp4_1t_vs_sgp4": _ratio(took, "sgp4", "ours_1t"),
            "sgp4_1t_vs_sgp4_in_blocks": _ratio(took, "sgp4_in_blocks", "ours_1t"),
            "sgp4_2t_fresh_vs_sgp4": _ratio(took, "sgp4", f"{several}_fresh"),
        },
        "satellites": len(satellites),
        "times": effort.times,
        "rounds": effort.rounds,
        "ns": ns,
        "blocks_ns": took,
        "threads": {name: path.threads for name, path in paths.items()},
        "memory": {name: path.memory for name, path in paths.items()},
        "propagations": {name: path.n for name, path in paths.items()},
        "error": errors,
        "first_call_s": first_s,
        "write_ns": write_ns,
        "why_not": why_not,
    }


def _paths(
    task: Task, tle: str | None, threads: Sequence[int], leaving: contextlib.ExitStack
) -> tuple[dict[str, Way], dict[str, str]]:
    """All paths that can be had here, and why the others cannot."""
    paths, why_not = peers.sgp4_paths(task) | peers.our_paths(task, threads), {}
    others: dict[str, Callable[[], dict[str, Way]]] = {
        "astroz": lambda: peers.astroz_paths(task, len(threads)) | _alone(task, tle, threads, leaving),
        "heyoka": lambda: peers.heyoka_paths(task, threads),
        "satkit": lambda: peers.satkit_paths(task),
    }
    for name, make in others.items():
        if importlib.util.find_spec(name) is None:
            wanted = name if name == "satkit" else "'ntn-twin[bench]'"
            why_not[name] = f"{name} is not installed: pip install {wanted}"
        elif not all(one.line1 for one in task.satellites):
            why_not[name] = f"{name} is given two-line elements, which this catalogue does not have"
        else:
            paths |= make()
    return paths | peers.skyfield_paths(task), why_not


def _alone(task: Task, tle: str | None, threads: Sequence[int], leaving: contextlib.ExitStack) -> dict[str, Way]:
    """astroz on one thread, where the process at hand has it on more."""
    if len(threads) == 1:
        return {}
    process = peers.Alone(task, tle, 1)
    leaving.callback(process.close)
    return {
        f"astroz_{mode}_1t": Way(partial(process.run, f"astroz_{mode}_1t"), task.n, 1) for mode in peers.ASTROZ_MODES
    }


def limit(satellite: Satellite, ns: dict[str, float], write_ns: dict[int, float]) -> dict[str, Any]:
    """How quick a propagation could be at best, and how much of that is reached.

    The larger of two times: that of its operations if the processor did nothing but multiply and add at its peak rate,
    and that of writing its state.
    """
    counted, peaks = peers.flops_of(satellite), peers.peaks()
    found: dict[str, Any] = {"operations": counted, "peak": peaks}
    for n, written_ns in write_ns.items():
        computed_ns = counted["flops"] / max(peak[f"gflops_{n}t"] for peak in peaks.values())
        least_ns = max(computed_ns, written_ns)
        found[f"on_{n}t"] = {
            "compute_ns": computed_ns,
            "write_ns": written_ns,
            "limit_ns": least_ns,
            "reached": least_ns / ns[f"ours_{n}t"],
        }
    return found


# ---- look angles


def looks(satellites: list[Satellite], effort: Effort) -> dict[str, Any]:
    """Look angles of everything at one site, slot after slot: from the cache, and by SGP4 and NumPy."""
    start_utc = peers.middle_utc(satellites)
    first_s = _timed(lambda: twin.look(twin.ephemeris(satellites[:1], start_utc, HOUR_S), **PLACE, t_s=0.0))
    built_s = [_timed(lambda: twin.ephemeris(satellites, start_utc, HOUR_S)) for _ in range(3)]
    cache = twin.ephemeris(satellites, start_utc, HOUR_S)
    n, at_once = len(satellites), {"one_slot": 1, "four_slots": 4}
    careful = peers.NumpyLook(satellites, HERE, start_utc, CARRIER_HZ)
    one_look = partial(twin.look, cache, **PLACE, carrier_hz=CARRIER_HZ)
    ours_ns: dict[str, list[float]] = {name: [] for name in at_once}
    numpy_ns: dict[str, list[float]] = {name: [] for name in at_once}

    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    for block in range(effort.look_blocks + 1):  # the first warms up
        slots_s = 100.0 * block + 0.1 * np.arange(40)
        for name, size in at_once.items():
            mine = [slots_s[k : k + size] if size > 1 else float(slots_s[k]) for k in range(0, len(slots_s), size)]
            ours_ns[name].append(GIGA * _timed(partial(_each, one_look, "t_s", mine)) / (n * len(slots_s)))
            theirs = [careful.prepare(slots_s[k : k + size]) for k in range(0, 8, size)]
            numpy_ns[name].append(GIGA * _timed(partial(_each, careful, "when", theirs)) / (n * 8))
    numba.set_num_threads(threads)
    middle_ns, numpy_middle_ns = ({k: float(np.median(x[1:])) for k, x in y.items()} for y in (ours_ns, numpy_ns))
    best, best_numpy = min(middle_ns, key=middle_ns.__getitem__), min(numpy_middle_ns, key=numpy_middle_ns.__getitem__)
    took_us = np.zeros(effort.slots)
    for slot in range(effort.slots):
        took_us[slot] = US_PER_S * _timed(partial(one_look, t_s=slot * HOUR_S / effort.slots))
    return {
        "vs_sgp4_numpy": float(np.median(np.divide(numpy_ns[best_numpy][1:], ours_ns[best][1:]))),
        "satellites": n,
        "ns": middle_ns,
        "sgp4_numpy_ns": numpy_middle_ns,
        "compared": {"ours": best, "sgp4_numpy": best_numpy},
        "slot_us": {
            "slots": effort.slots,
            **{f"p{part}": float(np.percentile(took_us[1:], part)) for part in (50, 99)},
            "max": float(took_us[1:].max()),
        },
        "error": look_error(cache, effort.error_times),
        "cache": {
            "build_s_per_hour": float(np.median(built_s)),
            "bytes_per_hour": int(cache.coefficients_m.nbytes),
            "segment_s": cache.segment_s,
        },
        "first_call_s": first_s,
    }


def look_error(cache: twin.Ephemeris, times: int) -> dict[str, Any]:
    """Slant ranges from the cache at random times of its hour, held against SGP4 itself with two chains of frames."""
    t_s = np.sort(np.random.default_rng(4).uniform(0.0, HOUR_S, times))
    direct = peers.ranges_m(cache.satellites, HERE, cache.start_utc, t_s)
    seen = twin.look(cache, **PLACE, t_s=t_s)
    flying = (cache.error_code == 0) & (direct.pop("error_code") == 0).all(axis=1)
    found: dict[str, Any] = {"times": times, "satellites": int(flying.sum()), "not_flying": int((~flying).sum())}
    worst = np.zeros(len(flying))
    for name, slant_range_m in direct.items():
        off_m = np.abs(seen.slant_range_m - slant_range_m).max(axis=1)
        found[f"against_{name}_m"] = float(off_m[flying].max())
        worst = np.fmax(worst, np.where(flying, off_m, 0.0))
    ranked = np.argsort(worst)[::-1]
    found["worst_m"] = float(worst[ranked[0]])
    found["worst_satellites"] = {cache.satellites[i].name: float(worst[i]) for i in ranked[:3]}
    found["median_satellite_m"] = float(np.median(worst[flying]))
    within = flying & (cache.fit_error_m <= CACHE_ERROR_M)  # the others were warned of when the cache was built
    found["within_bound"] = {"satellites": int(within.sum()), "worst_m": float(worst[within].max(initial=0.0))}
    return found


# ---- many sites


def culling(satellites: list[Satellite], effort: Effort) -> dict[str, Any]:
    """The visible sets and the best satellite of many sites at one instant, and the same by looking at every pair."""
    many = [satellites[i % len(satellites)] for i in range(CULLED_SATELLITES)]  # a few twice: 8,000 is the task
    if effort.satellites:
        many = satellites
    cache = twin.ephemeris(many, peers.middle_utc(satellites), 600.0)
    k = np.arange(effort.sites) + 0.5  # a spiral of points evenly spread over the globe
    latitude_deg = np.degrees(np.arcsin(1.0 - 2.0 * k / effort.sites))
    longitude_deg = (k * 180.0 * (np.sqrt(5.0) - 1.0) + 180.0) % 360.0 - 180.0
    begin = time.perf_counter()
    sites = visibility.site_array(latitude_deg, longitude_deg)
    prepared_s = time.perf_counter() - begin
    took: dict[bool, list[float]] = {True: [], False: []}
    first_s = _timed(lambda: visibility.visible(cache, sites, 0.0, MASK_DEG))
    same = True
    for number in range(effort.rounds):
        found = {}
        for all_pairs in (True, False):
            begin = time.perf_counter()
            found[all_pairs] = visibility.visible(cache, sites, 10.0 * number, MASK_DEG, all_pairs=all_pairs)
            took[all_pairs].append(time.perf_counter() - begin)
        same &= all(
            np.array_equal(getattr(found[True], key), getattr(found[False], key), equal_nan=True)
            for key in ("offsets", "satellite_index", "best_index", "best_elevation_deg")
        )
    return {
        "speedup": float(np.median(np.divide(took[True], took[False]))),
        "seconds": float(np.median(took[False])),
        "all_pairs_seconds": float(np.median(took[True])),
        "satellites": len(many),
        "sites": effort.sites,
        "mask_deg": MASK_DEG,
        "visible_pairs": len(found[False].satellite_index),
        "pairs_touched": found[False].pairs_touched,
        "same_answer": same,
        "prepare_sites_s": prepared_s,
        "first_call_s": first_s,
    }


# ---- passes


def passes(satellites: list[Satellite], effort: Effort) -> dict[str, Any]:
    """Passes of a day over one site, from elements: skyfield's models are built beforehand, nothing of ours is.

    Beside it, what the same takes by way of an ephemeris of the whole day, which is good for more than one site.
    """
    start_utc, of = peers.middle_utc(satellites), len(satellites)
    if effort.passes_satellites and effort.passes_satellites < of:
        drawn = np.random.default_rng(5).choice(of, effort.passes_satellites, replace=False)
        satellites = [satellites[i] for i in np.sort(drawn)]
    models, n = peers.skyfield_models(satellites), len(satellites)

    def ours(some: list[Satellite]) -> Sequence[Pass]:
        return overpass.find_passes(some, start_utc, SECONDS_PER_DAY, **PLACE, mask_deg=MASK_DEG)

    def cached() -> Sequence[Pass]:
        return overpass.passes(twin.ephemeris(satellites, start_utc, SECONDS_PER_DAY), **PLACE, mask_deg=MASK_DEG)

    first_s = _timed(lambda: ours(satellites[:2]))
    ours_s, cached_s, skyfield_s, ratios, events = [], [], [], [], []
    for part in np.array_split(np.arange(n), effort.rounds):
        some = [models[i] for i in part]
        ours_s.append(_timed(lambda: ours(satellites)))
        begin = time.perf_counter()
        events += peers.skyfield_events(some, HERE, start_utc, SECONDS_PER_DAY, MASK_DEG)
        skyfield_s.append(time.perf_counter() - begin)
        cached_s.append(_timed(cached))
        ratios.append(skyfield_s[-1] * n / len(part) / ours_s[-1])
    lost = twin.ephemeris(satellites, start_utc, SECONDS_PER_DAY).error_code != 0
    found = ours(satellites)
    return {
        "vs_skyfield": float(np.median(ratios)),
        "satellites": n,
        "drawn_from": of,
        "mask_deg": MASK_DEG,
        "seconds": float(np.median(ours_s)),
        "by_ephemeris_seconds": float(np.median(cached_s)),
        "skyfield_seconds": float(np.sum(skyfield_s)),
        "passes": len(found),
        "first_call_s": first_s,
        **same_passes(found, peers.edges_of(events, start_utc), lost),
    }


def same_passes(ours: Sequence[Pass], theirs: list[list[tuple[float, str]]], lost: np.ndarray) -> dict[str, Any]:
    """Our passes' rises and sets held against skyfield's, satellite by satellite.

    theirs  n_satellites     seconds after the start, "rise" or "set"
    lost    (n_satellites,)  those that SGP4 loses within the day are left out

    An event is missing when skyfield has one and we have none of its kind within a minute, extra the other way round.
    """
    mine: list[list[tuple[float, str]]] = [[] for _ in theirs]
    for one in ours:
        mine[one.satellite_index] += [(one.rise_s, "rise")] * (one.rise_s > 0.0)
        mine[one.satellite_index] += [(one.set_s, "set")] * (one.set_s < SECONDS_PER_DAY)
    agreeing, apart, missing, extra, worst_s = 0, 0, 0, 0, 0.0
    for i in np.flatnonzero(~lost):
        left = list(mine[i])
        for t_s, kind in theirs[i]:
            near = [event for event in left if event[1] == kind and abs(event[0] - t_s) <= NEAR_S]
            if not near:
                missing += 1
                continue
            closest = min(near, key=lambda event: abs(event[0] - t_s))
            left.remove(closest)
            off_s = abs(closest[0] - t_s)
            worst_s = max(worst_s, off_s)
            agreeing, apart = agreeing + (off_s <= SAME_S), apart + (off_s > SAME_S)
        extra += len(left)
    return {
        "same": not (missing or extra or apart),
        "agreeing": agreeing,
        "further_apart": apart,
        "missing": missing,
        "extra": extra,
        "worst_difference_s": worst_s,
        "left_out_satellites": int(lost.sum()),
    }


# ---- for a person


def table(found: dict[str, Any]) -> str:
    """What `ntn-twin bench sky` prints without --json."""
    flown, seen, culled, passed = (found[key] for key in ("sgp4", "look", "culling", "passes"))
    bound, batch = flown["limit"], f"SGP4, {flown['satellites']:,} x {flown['times']:,}"
    lines = [
        machine_line(found["machine"]),
        f"{found['catalogue']['name']}: {found['catalogue']['satellites']:,} satellites",
        "",
        *figure_lines(found),
        "",
        f"{batch:<42}{'threads':>8}{'ns each':>10}{'error m':>11}",
    ]
    for name, ns in flown["ns"].items():
        error = flown["error"][name]
        shown = f"{error['max_m']:.1e}" if error else "-"
        best = "  (its best)" if name == flown["astroz_best"] else ""
        lines.append(f"  {name:<40}{flown['threads'][name]:>8}{ns:>10.1f}{shown:>11}{best}")
    for name in ("astroz", "heyoka", "satkit"):
        if name in found["why_not"]:
            lines.append(f"  {name}: {found['why_not'][name]}")
    for n in range(1, THREADS + 1):
        if f"on_{n}t" in bound:
            on = bound[f"on_{n}t"]
            lines.append(
                f"  at best, {n} thread{'s' * (n > 1)}: {on['compute_ns']:.1f} ns at the peak rate of multiply-adds, "
                f"{on['write_ns']:.1f} ns to write the state; {100 * on['reached']:.0f} % reached"
            )
    cache, slot = seen["cache"], seen["slot_us"]
    return "\n".join(
        [
            *lines,
            "",
            f"one slot of {seen['satellites']:,} look angles: p50 {slot['p50']:.0f}, p99 {slot['p99']:.0f} us",
            f"an hour of cache: {cache['build_s_per_hour']:.2f} s to build, {cache['bytes_per_hour'] / 1e6:.1f} MB",
            f"{culled['satellites']:,} satellites x {culled['sites']:,} sites: {culled['seconds']:.3f} s, "
            f"{100 * culled['pairs_touched']:.2f} % of the pairs touched",
            f"passes of a day, {passed['satellites']:,} satellites: {passed['seconds']:.2f} s, skyfield "
            f"{passed['skyfield_seconds']:.1f} s; {passed['agreeing']:,} rises and sets agree, "
            f"{passed['further_apart']} are further apart, {passed['missing']} missing, {passed['extra']} extra; "
            f"at most {passed['worst_difference_s']:.2f} s apart",
        ]
    )


# ---- the rest


def _timed(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _each(do: Callable[..., Any], name: str, values: Sequence[Any]) -> None:
    for value in values:
        do(**{name: value})


def _ratio(took: dict[str, list[float]], slow: str | None, fast: str) -> float | None:
    """Median over the rounds of how often `fast` fits into `slow`; None where one of them is not there."""
    if slow is None or slow not in took or fast not in took:
        return None
    return float(np.median(np.divide(took[slow], took[fast])))


if __name__ == "__main__":
    hand_over(lambda asked, say: measure(QUICK if asked["quick"] else FULL, asked["tle"], say))
