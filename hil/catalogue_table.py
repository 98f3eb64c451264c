"""What is in a file of element sets: `ntn-twin tle info`, for a person and for a machine."""

import contextlib
import gzip
import lzma
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sgp4.api import SGP4_ERRORS, SatrecArray, jday

from hil.tables import print_table, table_of
from twin import catalogue
from twin.errors import TleError
from twin.omm import FIRST_YEAR, LAST_YEAR, form_of
from twin.tle import REPORTED, Satellite, TleWarning, parse_tle, read_tle
from twin.units import KILO, MINUTES_PER_DAY, SECONDS_PER_DAY, utc

DEEP_SPACE_REV_DAY = MINUTES_PER_DAY / 225.0  # SGP4 has another model for periods of 225 min and more
FIVE_DIGITS = 99_999  # what the number field of a TLE holds in digits
BEGINNING = 8_192  # bytes that tell the format
LISTED = 12  # constellations and shells in the table; the JSON has all
SHOWN = 5  # broken sets
LEAST = 20  # satellites of a constellation whose shells are looked for, and of a shell
OTHERS = "others"  # names that do not begin with a word


@dataclass(frozen=True)
class PlaneOf:
    """A plane of a shell: its node (at the median epoch), its satellites, its even slots, how many are held, spares."""

    raan_deg: float
    satellites: int
    slots: int
    held: int
    spares: int
    evenness: float


@dataclass(frozen=True)
class ShellOf:
    """A shell of a constellation: mean altitudes (the median, the lowest, the highest), inclination, planes."""

    constellation: str
    satellites: int
    altitude_m: float
    lowest_m: float
    highest_m: float
    inclination_deg: float
    planes: list[PlaneOf]


@dataclass(frozen=True)
class Info:
    """A file of element sets at an instant.

    file, format                  format: json, xml, csv, kvn or tle, by what is in it
    sets, broken                  element sets that can be used, and that cannot
    reasons                       what is wrong with the first of those
    names, numbers                how many different ones
    beyond_five_digits            satellites whose number a TLE cannot carry in digits
    deep_space                    satellites with a period of 225 min or more
    first_, median_, last_epoch_utc
    at_utc                        the instant the rest is for
    age_days                      of the median epoch; negative before it
    expected_error_m              median error of positions from elements that old; see `twin.catalogue`
    sgp4_errors                   by code of SGP4, how many satellites cannot be propagated to that instant
    constellations                by the first word of the name, how many; the largest first
    shells                        of each constellation of 20 satellites and more; the largest shell first
    """

    file: str
    format: str
    sets: int
    broken: int
    reasons: list[str]
    names: int
    numbers: int
    beyond_five_digits: int
    deep_space: int
    first_epoch_utc: datetime
    median_epoch_utc: datetime
    last_epoch_utc: datetime
    at_utc: datetime
    age_days: float
    expected_error_m: float
    sgp4_errors: dict[int, int]
    constellations: dict[str, int]
    shells: list[ShellOf]

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON: instants as ISO 8601."""
        return {
            key: value.isoformat(timespec="seconds").replace("+00:00", "Z") if isinstance(value, datetime) else value
            for key, value in asdict(self).items()
        }


def info(path: str | Path, at: datetime | None = None) -> Info:
    """What is in a file of element sets, and what they are worth at an instant.

    at  with its offset from UTC, of a year from 1957 to 2099; default: now

    Raises TleError when there is no such file, no usable set in it, or `at` is of another year: SGP4 says nothing about
    it, and takes minutes for that. Checked by tests/test_tle_info.py.
    """
    path, at_utc = Path(path), datetime.now(UTC) if at is None else _near(at)
    satellites, broken, reasons = read(path)
    epochs_utc = sorted(s.epoch_utc for s in satellites)
    middle_utc = catalogue.median_epoch_utc(satellites)
    age_days = (at_utc - middle_utc).total_seconds() / SECONDS_PER_DAY
    by_name: dict[str, list[Satellite]] = {}
    for satellite in satellites:
        by_name.setdefault(constellation(satellite.name), []).append(satellite)
    by_size = sorted(by_name.items(), key=lambda item: -len(item[1]))
    return Info(
        file=str(path),
        format=format_of(_beginning(path)),
        sets=len(satellites),
        broken=broken,
        reasons=reasons,
        names=len({s.name for s in satellites}),
        numbers=len({s.number for s in satellites}),
        beyond_five_digits=sum(s.number > FIVE_DIGITS for s in satellites),
        deep_space=sum(s.mean_motion_rev_day <= DEEP_SPACE_REV_DAY for s in satellites),
        first_epoch_utc=epochs_utc[0],
        median_epoch_utc=middle_utc,
        last_epoch_utc=epochs_utc[-1],
        at_utc=at_utc,
        age_days=age_days,
        expected_error_m=float(catalogue.expected_error_m(age_days)),
        sgp4_errors=_sgp4_errors(satellites, at_utc),
        constellations={name: len(members) for name, members in by_size},
        shells=sorted((s for name, members in by_size for s in _shells(name, members)), key=lambda s: -s.satellites),
    )


def _near(at: datetime) -> datetime:
    with contextlib.suppress(OverflowError):  # the first and the last day of the calendar
        if FIRST_YEAR <= utc(at).year <= LAST_YEAR:
            return utc(at)
    raise TleError(f"elements can be judged at an instant from {FIRST_YEAR} to {LAST_YEAR}, got {at.isoformat()}")


def read(path: Path) -> tuple[list[Satellite], int, list[str]]:
    """The satellites of a file, how many sets were broken, and of the first of them what was wrong. Raises TleError."""
    return _counted(lambda: read_tle(path))


def parse(text: str, source: str) -> tuple[list[Satellite], int, list[str]]:
    """The same of a text, which messages call `source`."""
    return _counted(lambda: parse_tle(text, source))


def _counted(reader: Callable[[], list[Satellite]]) -> tuple[list[Satellite], int, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TleWarning)
        satellites = reader()
    for warning in caught:
        if found := re.search(r"left out (\d+) broken", str(warning.message)):
            reasons = str(warning.message).splitlines()[1 : REPORTED + 1]
            return satellites, int(found[1]), [reason.strip() for reason in reasons]
    return satellites, 0, []


def format_of(data: bytes) -> str:
    """What a text with element sets is written in, by how it begins: json, xml, csv, kvn or tle."""
    return form_of(data[:BEGINNING].decode("utf-8-sig", errors="replace")) or "tle"


def constellation(name: str) -> str:
    """The first word of a satellite's name, without numbers: STARLINK of STARLINK-1007."""
    word = re.match(r"[^\W\d_]{2,}", name)
    return word[0].upper() if word else OTHERS


def show(found: Info) -> None:
    """Print it for a person."""
    console = Console(highlight=False)
    console.print(
        f"{found.file}: {found.sets:,} element sets, {found.format}", style="bold", soft_wrap=True, markup=False
    )
    table = table_of("", "")
    for label, value in rows(found):
        table.add_row(label, value)
    print_table(console, table)
    for code, n in found.sgp4_errors.items():
        console.print(f"SGP4 error {code}: {n:,}, {SGP4_ERRORS.get(code, 'unknown')}", soft_wrap=True, markup=False)
    for reason in found.reasons[:SHOWN]:
        console.print(f"left out: {reason}", soft_wrap=True, markup=False)
    if found.broken > SHOWN:
        console.print(f"and {found.broken - SHOWN} more; --json names the first 20")
    console.print(f"constellations: {_listed(found.constellations)}", soft_wrap=True, markup=False)
    if found.shells:
        console.print()
        print_table(console, _shell_table(found.shells[:LISTED]))
    if len(found.shells) > LISTED:
        console.print(f"and {len(found.shells) - LISTED} smaller shells; --json has all, and their planes")


def rows(found: Info) -> list[tuple[str, str]]:
    """What the table says, line by line."""
    age, beyond = found.age_days, abs(found.age_days) > catalogue.AGE_DAYS[-1]
    epochs = (found.first_epoch_utc, found.median_epoch_utc, found.last_epoch_utc)
    return [
        ("broken, left out", f"{found.broken:,}"),
        ("different names, numbers", f"{found.names:,}, {found.numbers:,}"),
        ("numbers of six digits and more", f"{found.beyond_five_digits:,}"),
        ("deep space: periods of 225 min and more", f"{found.deep_space:,}"),
        *(
            (f"epoch, {which}", f"{epoch:%Y-%m-%d %H:%M} UTC")
            for which, epoch in zip(("first", "median", "last"), epochs)
        ),
        (
            f"age at {found.at_utc:%Y-%m-%d %H:%M} UTC",
            f"{abs(age):.1f} days" + (" before the median epoch" if age < 0 else ""),
        ),
        ("median error to expect then", f"{'more than' if beyond else 'about'} {found.expected_error_m / KILO:.0f} km"),
        ("not to be propagated to then", f"{sum(found.sgp4_errors.values()):,}"),
    ]


def _shell_table(shells: list[ShellOf]) -> Table:
    """A row for each shell; slots where most planes have the same number of them."""
    table = table_of("shell of", "satellites", "altitude, km", "inclination, deg", "planes", "slots", "held", "spares")
    for shell in shells:
        slots, planes = Counter(plane.slots for plane in shell.planes).most_common(1)[0] if shell.planes else (0, 0)
        alike = slots > 1 and 2 * planes > len(shell.planes) > 1
        table.add_row(
            shell.constellation,
            f"{shell.satellites:,}",
            f"{shell.lowest_m / KILO:.0f} to {shell.highest_m / KILO:.0f}",
            f"{shell.inclination_deg:.1f}",
            str(len(shell.planes)),
            f"{planes} x {slots}" if alike else "-",
            str(sum(plane.held for plane in shell.planes)) if alike else "-",
            str(sum(plane.spares for plane in shell.planes)) if alike else "-",
        )
    return table


def _shells(name: str, satellites: list[Satellite]) -> list[ShellOf]:
    """The shells of one constellation with their planes, if it is one and large enough to have any."""
    if name == OTHERS or len(satellites) < LEAST:
        return []
    return [
        ShellOf(
            constellation=name,
            satellites=len(shell.satellites),
            altitude_m=shell.altitude_m,
            lowest_m=shell.lowest_m,
            highest_m=shell.highest_m,
            inclination_deg=shell.inclination_deg,
            planes=[
                PlaneOf(
                    raan_deg=plane.raan_deg,
                    satellites=len(plane.satellites),
                    slots=len(plane.slot_deg),
                    held=sum(holder is not None for holder in plane.holders),
                    spares=len(plane.spares),
                    evenness=plane.evenness,
                )
                for plane in catalogue.planes(shell)
            ],
        )
        for shell in catalogue.shells(satellites, least=LEAST)
    ]


def _listed(counts: dict[str, int]) -> str:
    """The largest by name, the others in one number."""
    largest = [name for name in counts if name != OTHERS][:LISTED]
    others = sum(n for name, n in counts.items() if name not in largest)
    return ", ".join([*(f"{name} {counts[name]:,}" for name in largest), *([f"{others:,} others"] if others else [])])


def _beginning(path: Path) -> bytes:
    """Of the unpacked file, which `read_tle` has found to be good."""
    with path.open("rb") as file:
        begin = file.read(BEGINNING)
    opened: Any = lzma.open if begin.startswith(b"\xfd7zXZ") else gzip.open if begin.startswith(b"\x1f\x8b") else open
    with opened(path, "rb") as file:
        return file.read(BEGINNING)


def _sgp4_errors(satellites: Sequence[Satellite], at_utc: datetime) -> dict[int, int]:
    """By error code, how many satellites SGP4 does not propagate to this instant."""
    jd, fr = jday(at_utc.year, at_utc.month, at_utc.day, at_utc.hour, at_utc.minute, at_utc.second)
    error, _, _ = SatrecArray([s.satrec() for s in satellites]).sgp4(np.array([jd]), np.array([fr]))
    codes, counts = np.unique(error[error != 0], return_counts=True)
    return {int(code): int(n) for code, n in zip(codes, counts)}
