"""Faults of a sky: losses of the serving link, and the orbits controllers are told, which need not be the true ones.

A told orbit is that of an ephemeris at a later time, turned about the Earth's axis. A clock that is `skew_s` ahead is
the time alone. A satellite that is told to be `d` ahead along its orbit is where it will be in d / v seconds, but the
Earth has not turned meanwhile, so it is turned back by that much.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from twin.errors import ScenarioError, TleError
from twin.faults import Blockage, ClockSkew, Fault, Rain, Span, StaleTle, draws
from twin.orbit import Ephemeris, Orbit, ephemeris
from twin.tle import TleWarning, read_tle
from twin.units import EARTH_ROTATION_RAD_S, KILO

SEGMENT_S = 300.0  # of the polynomials that agents observe: degree 7, within 0.01 mm of SGP4 for round low orbits
MOST_SIGMA = 4.0  # a drawn error along the orbit is cut there, so that it stays within what the ephemeris covers


def loss_db(found: Sequence[Span], n_slots: int, slot_s: float, run_s: float) -> np.ndarray:
    """What blockages and rain take from the serving link in each slot, (n_slots,) dB; rain as in the slot's middle."""
    slot = np.arange(n_slots)
    total_db = np.zeros(n_slots)
    for span in found:
        fault = span.fault
        holds = span.comes & (slot >= span.first) & (slot < span.end)
        if isinstance(fault, Blockage):
            total_db += np.where(holds, fault.loss_db, 0.0)
        elif isinstance(fault, Rain):
            lasts_s = fault.duration_s or max(run_s - fault.start_s, slot_s)
            part = np.clip(((slot + 0.5) * slot_s - fault.start_s) / lasts_s, 0.0, 1.0)
            total_db += np.where(holds, fault.loss_db * np.sin(np.pi * part) ** 2, 0.0)
    return total_db


def last_of(kind: type, found: Sequence[Span], n_slots: int) -> np.ndarray:
    """Of the faults of a kind that hold in each slot, the place of the last in the list, (n_slots,); -1: none does."""
    which = np.full(n_slots, -1)
    for span in found:
        if isinstance(span.fault, kind) and span.comes:
            which[span.first : span.end] = span.index
    return which


def told_orbit(
    true: Orbit, number: int, first_s: float, stale: StaleTle | None, index: int, skew: ClockSkew | None, seed: int
) -> Orbit:
    """The orbit controllers are told instead of the true one, or of an older file's.

    number   of the satellite, whose error is drawn by it
    first_s  when it begins to serve: where its speed is taken
    index    of the stale elements in the scenario's list of faults
    """
    ahead_s = skew.skew_s if skew else 0.0
    if stale is None or stale.tle is not None:
        return replace(true, ahead_s=ahead_s)
    sigma = float(np.clip(draws(seed, index, number).standard_normal(), -MOST_SIGMA, MOST_SIGMA))
    position_m, velocity_m_s = (states[0] for states in true.state(np.array([first_s])))
    inertial_m_s = velocity_m_s + np.cross([0.0, 0.0, EARTH_ROTATION_RAD_S], position_m)
    along_s = sigma * stale.along_track_km * KILO / float(np.linalg.norm(inertial_m_s))
    return replace(true, ahead_s=ahead_s + along_s, turn_rad=EARTH_ROTATION_RAD_S * along_s)


def older(
    faults: Sequence[Fault], folder: Path, numbers: Sequence[int], start_utc, seconds: float
) -> dict[int, Ephemeris]:
    """By place of the fault: the ephemeris of an older file for these satellites, in their order.

    Raises ScenarioError for a file that cannot be read or lacks one of them.
    """
    found = {}
    for i, fault in enumerate(faults):
        if not isinstance(fault, StaleTle) or fault.tle is None or not numbers:
            continue
        try:
            known = {satellite.number: satellite for satellite in read_tle(folder / fault.tle)}
        except TleError as error:
            raise ScenarioError(f"faults[{i}].tle = {fault.tle!r}: {error}") from None
        lacking = [str(number) for number in numbers if number not in known]
        if lacking:
            raise ScenarioError(f"faults[{i}].tle = {fault.tle!r} has no elements of satellite {', '.join(lacking)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TleWarning)  # that they are old is what is asked for
            sky = ephemeris([known[number] for number in numbers], start_utc, seconds, segment_s=SEGMENT_S)
        bad = [str(number) for number, code in zip(numbers, sky.error_code) if code]
        if bad:
            raise ScenarioError(f"faults[{i}].tle = {fault.tle!r}: SGP4 cannot fly satellite {', '.join(bad)} by it")
        found[i] = sky
    return found
