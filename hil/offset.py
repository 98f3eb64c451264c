"""Clocks of two hosts: which clock a process stamps by, and how far a controller's clock is ahead of the twin's.

Each answered cycle is an exchange of four stamps: sent (twin), received, replied (controller), arrived (twin). Nothing
arrives before it was sent, so the controller's clock is ahead by at most received - sent and by at least
replied - arrived, whatever the network did. The tightest of these bounds, carried from cycle to cycle at the rate at
which two clocks may drift apart, leave a band for every cycle: its middle is the offset, half its width the
uncertainty. That is half the smallest round trip nearby or less, and assumes nothing about the two ways being equal.
"""

import hashlib
import secrets
from pathlib import Path

import numpy as np

from twin.record import Record
from twin.units import NS_PER_US

DRIFT = 500e-6  # the most by which Linux lets NTP bend a clock (MAXFREQ, 500 ppm); quartz is ten times better
CLIENT_INSTANTS = ("waiting_ns", "received_ns", "decoded_ns", "acted_ns", "replied_ns")


def clock_id() -> str:
    """A name that two processes share exactly when their CLOCK_MONOTONIC is one clock: same boot, same time namespace.

    Where the system does not tell, a name of this process alone: its stamps are then treated as those of another host.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/time").stat().st_ino
    except OSError:
        return secrets.token_hex(8)
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:16]


CLOCK_ID = clock_id()


def offset(
    sent_ns: np.ndarray, received_ns: np.ndarray, replied_ns: np.ndarray, arrived_ns: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """How far the controller's clock is ahead of the twin's, and the uncertainty of that, for every cycle.

    sent_ns, arrived_ns      (n,) int64  on the twin's clock; in order of `sent`
    received_ns, replied_ns  (n,) int64  on the controller's; 0 where somebody did not stamp, here or there

    Returns (n,) int64 and (n,) float64, ns; None where no cycle has all four. Error: within the uncertainty while the
    clocks drift apart by less than DRIFT; a cycle that contradicts this (a clock was set) is judged by its own four
    stamps. Source: those of RFC 5905, section 8, as intervals that are intersected (Marzullo & Owicki 1983).
    """
    whole = (sent_ns > 0) & (received_ns > 0) & (replied_ns > 0) & (arrived_ns > 0)
    whole &= received_ns - sent_ns >= replied_ns - arrived_ns  # a negative round trip is nobody's
    if not whole.any():
        return None
    about = int((received_ns - sent_ns)[whole][0])
    most = np.where(whole, (received_ns - sent_ns - about).astype(float), np.inf)
    least = np.where(whole, (replied_ns - arrived_ns - about).astype(float), -np.inf)
    apart = DRIFT * (sent_ns - sent_ns[0]).astype(float)
    upper, lower = _carried(most, apart), -_carried(-least, apart)
    broken = whole & (upper < lower)
    upper, lower = np.where(broken, most, upper), np.where(broken, least, lower)
    return about + np.rint((upper + lower) / 2).astype(np.int64), np.abs(upper - lower) / 2


def _carried(bound: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """The tightest upper bound that any cycle, before or after, leaves to each."""
    before = np.minimum.accumulate(bound - apart) + apart
    after = np.minimum.accumulate((bound + apart)[::-1])[::-1] - apart
    return np.minimum(before, after)


def to_the_twins_clock(
    record: Record, agent: str, column: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], float | None, float | None]:
    """The columns of an agent's cycles with the controller's instants as the twin's clock would have shown them.

    Returns them with the median offset and the largest uncertainty, us; None for both where it was one clock, or where
    the controller stamped too little to tell: what it did stamp is then left out.
    """
    shifted = dict(column)
    if record.meta["clock"] == "virtual":  # all of its stamps are the model's
        return shifted, None, None
    offsets: list[np.ndarray] = []
    uncertainties: list[np.ndarray] = []
    for cycles in _by_other_clocks(record, agent, column["sent_ns"]):
        arrived_ns = column["arrived_ns"][cycles] - column["emulation_ns"][cycles]
        arrived_ns[column["overrun"][cycles] > 0] = 0  # nobody looked when it came
        stamps = (column["sent_ns"][cycles], column["received_ns"][cycles], column["replied_ns"][cycles], arrived_ns)
        found = offset(*stamps)
        for name in CLIENT_INSTANTS:
            there = column[name][cycles]
            on_ours = np.zeros_like(there) if found is None else there - found[0]
            shifted[name] = shifted[name].copy()
            shifted[name][cycles] = np.where(there > 0, on_ours, 0)
        if found is not None:
            stamped = column["received_ns"][cycles] > 0
            offsets.append(found[0][stamped])
            uncertainties.append(found[1][stamped])
    if not offsets:
        return shifted, None, None
    offset_ns, uncertainty_ns = np.median(np.concatenate(offsets)), np.concatenate(uncertainties).max()
    return shifted, float(offset_ns) / NS_PER_US, float(uncertainty_ns) / NS_PER_US


def _by_other_clocks(record: Record, agent: str, sent_ns: np.ndarray) -> list[np.ndarray]:
    """For each clock that is not the twin's the cycles, (n,) bool, whose controller stamped by it.

    A seat may change hands, and a host may be started again, in the middle of a run: each taking of it says its clock.
    """
    ours = record.meta.get("clock_id", "")
    seated = [e for e in record.events if e.get("event") == "seated" and e.get("agent") == agent]
    since = np.array([e["t_mono_ns"] for e in seated], np.int64)
    clocks = [str(e.get("clock_id", "")) for e in seated]
    which = np.maximum(np.searchsorted(since, sent_ns) - 1, 0)  # who sat there when it was sent
    strangers = sorted({clock for clock in clocks if clock not in ("", ours)})
    return [np.isin(which, [i for i, c in enumerate(clocks) if c == clock]) for clock in strangers]
