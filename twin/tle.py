"""Element sets: read in whatever form they come, checked one by one, and kept as mean elements.

TLE and 3LE are read here, orbit mean-elements messages (JSON, CSV, XML, KVN) by twin/omm.py; the content tells which,
not the name of the file. The sgp4 package parses the numbers of a TLE but takes a shortened or altered line without a
word, so whatever can be checked is checked here: that both lines are there, their length, checksum, catalogue number
and number fields, and that SGP4 accepts them. A broken set never spoils its neighbours: it is left out and reported, or
refused, as the caller asks.
"""

import gzip
import io
import lzma
import math
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from sgp4.api import SGP4_ERRORS, WGS72, Satrec

from twin import omm
from twin.errors import TleError
from twin.units import MINUTES_PER_DAY, SGP4_EPOCH_JD, UNIX_EPOCH_JD

LINE_LENGTH = 69
REPORTED = 20  # broken sets named in one warning; a file with more of them is most likely not a TLE file at all
LARGEST_BYTES = (
    512 * 2**20
)  # of a file, unpacked: the whole public catalogue as XML, the longest form, has a fifth of it
LARGEST_SGP4_NUMBER = 339_999  # the sgp4 package refuses a larger one, though it has no part in the model

Broken = Literal["skip", "refuse"]


class TleWarning(UserWarning):
    """Element sets that were left out, or that are too old for the window they are flown in."""


@dataclass(frozen=True)
class Satellite:
    """One satellite as its element set describes it: mean elements of SGP4 (WGS72) at an epoch, in TEME.

    name                      as in the file, what cannot be printed replaced; the number where the file has no names
    number                    catalogue number
    epoch_jd, epoch_fr        days, UTC: Julian date of the midnight before the epoch, and the rest; apart, because
                              their sum in one float64 is exact to 20 microseconds only
    mean_motion_rev_day       Kozai's, as element sets carry it
    eccentricity
    inclination_deg, raan_deg, argument_of_perigee_deg, mean_anomaly_deg
    bstar                     1/earth radii, the drag term
    mean_motion_dot           rev/day^2 and rev/day^3, as the file carries them (halved and divided by six);
    mean_motion_ddot          not used by SGP4
    designator                international, "98067A"; empty where it is not known
    line1, line2              the checked lines, 69 characters each; empty where the elements came without lines (OMM)
    """

    name: str
    number: int
    epoch_jd: float
    epoch_fr: float
    mean_motion_rev_day: float
    eccentricity: float
    inclination_deg: float
    raan_deg: float
    argument_of_perigee_deg: float
    mean_anomaly_deg: float
    bstar: float = 0.0
    mean_motion_dot: float = 0.0
    mean_motion_ddot: float = 0.0
    designator: str = ""
    line1: str = ""
    line2: str = ""

    @property
    def epoch_utc(self) -> datetime:
        """The instant the elements hold for (aware, UTC), rounded to the microsecond."""
        days = timedelta(days=self.epoch_jd - UNIX_EPOCH_JD)
        return datetime(1970, 1, 1, tzinfo=UTC) + days + timedelta(days=self.epoch_fr)

    def satrec(self) -> Satrec:
        """The satellite as the sgp4 package models it, gravity model WGS72."""
        model = Satrec.twoline2rv(self.line1, self.line2) if self.line1 else self._initialised()
        model.jdsatepoch, model.jdsatepochF = self.epoch_jd, self.epoch_fr  # sgp4 keeps eight digits of a day, or fewer
        return model

    def _initialised(self) -> Satrec:
        model = Satrec()
        days = self.epoch_jd - SGP4_EPOCH_JD + self.epoch_fr
        revolution = 2.0 * math.pi / MINUTES_PER_DAY
        model.sgp4init(
            WGS72,
            "i",
            min(self.number, LARGEST_SGP4_NUMBER),
            days,
            self.bstar,
            self.mean_motion_dot * revolution / MINUTES_PER_DAY,
            self.mean_motion_ddot * revolution / MINUTES_PER_DAY**2,
            self.eccentricity,
            math.radians(self.argument_of_perigee_deg),
            math.radians(self.inclination_deg),
            math.radians(self.mean_anomaly_deg),
            self.mean_motion_rev_day * revolution,
            math.radians(self.raan_deg),
        )
        return model


class _Column(NamedTuple):
    """A number field of an element line: where it stands, how it is written, and its range where it has one."""

    first: int
    last: int
    name: str
    pattern: str
    low: float = 0.0
    high: float = 0.0
    may_be_blank: bool = False


_DECIMAL = r" *\d*\.\d*"
_POWERS = r"[ +-][ \d]{5}[ +-]\d"
_COLUMNS = {  # by line; columns counted from 1, as CelesTrak's "NORAD Two-Line Element Set Format" does
    1: (
        _Column(19, 20, "epoch year", r"[ \d]\d", 0, 99),
        _Column(21, 32, "epoch day", _DECIMAL, 1, 367),
        _Column(34, 43, "first derivative of mean motion", r" *[+-]? *\.\d+", -1, 1),
        _Column(45, 52, "second derivative of mean motion", _POWERS),
        _Column(54, 61, "drag term", _POWERS),
        _Column(63, 63, "ephemeris type", r"[ \d]", may_be_blank=True),
        _Column(65, 68, "element set number", r"[ \d]*", may_be_blank=True),
    ),
    2: (
        _Column(9, 16, "inclination", _DECIMAL, 0, 180),
        _Column(18, 25, "right ascension of the node", _DECIMAL, 0, 360),
        _Column(27, 33, "eccentricity", r"[ \d]*\d"),
        _Column(35, 42, "argument of perigee", _DECIMAL, 0, 360),
        _Column(44, 51, "mean anomaly", _DECIMAL, 0, 360),
        _Column(53, 63, "mean motion", _DECIMAL, 1e-6, 20),
        _Column(64, 68, "revolution number", r"[ \d]*", may_be_blank=True),
    ),
}
_BLANK = {1: (2, 9, 18, 33, 44, 53, 62, 64), 2: (2, 8, 17, 26, 34, 43, 52)}  # sgp4 reads other numbers where one is not

# A line in the layout that every large catalogue has; any other is looked at column by column, which takes ten times as
# long and finds the words for what is wrong with it. The plain way gives the same satellite: tests/test_tle.py.
_ANGLE = r"(?=.{3}\.) *\d+\.\d{4} "
_USUAL = {
    1: re.compile(
        r"1 [ -~]{6} [ -~]{8} \d\d(?=.{3}\.) *\d+\.\d{8} [ +-]\.\d{8} " + 2 * (_POWERS + " ") + r"[ 0-35] [ \d]{4}.",
        re.ASCII,
    ),
    2: re.compile(r"2 [ -~]{5} " + 2 * _ANGLE + r"\d{7} " + 2 * _ANGLE + r"(?=..\.) *\d+\.\d{8}[ \d]{5}.", re.ASCII),
}
_NO_LINE = ("", "")
_NAME_LIKE_A_LINE = re.compile(r"[12]( (?! {0,4}[A-Z]?\d).{1,24})?")  # "1 OXP", if line 1 follows; no catalogue number
# What a character adds to a checksum: a digit itself, a minus 1, any other nothing.
_WORTH = bytes(int(chr(c)) if chr(c) in "0123456789" else c == ord("-") for c in range(256))


def read_tle(path: str | Path, broken: Broken = "skip", name: str = "") -> list[Satellite]:
    """The satellites of a file of element sets, in its order.

    path    TLE, 3LE or OMM (JSON, CSV, XML, KVN), told by the content; plain text, .xz or .gz
    broken  "skip" leaves broken sets out and names them in one TleWarning; "refuse" raises on the first
    name    only those whose name contains this, in either case; the others are not even checked

    Raises TleError when the file is missing, unreadable, empty or larger than 512 MiB, holds no usable set, or is JSON,
    CSV or XML that breaks off. Checked by tests/test_tle.py and tests/test_omm.py.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = _limited(file, path)
        if path.suffix == ".xz" or data.startswith(b"\xfd7zXZ\x00"):
            with lzma.open(io.BytesIO(data)) as file:
                data = _limited(file, path)
        elif path.suffix == ".gz" or data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as file:
                data = _limited(file, path)
    except FileNotFoundError:
        raise TleError(f"there is no TLE file {path}") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise TleError(f"TLE file {path} cannot be read: {error}") from error
    return _parse(data.decode("utf-8-sig", errors="replace"), str(path), broken, name)


def parse_tle(text: str, source: str = "text", broken: Broken = "skip") -> list[Satellite]:
    """The satellites of a text in any of these forms; `source` is what messages call it. Otherwise as `read_tle`."""
    return _parse(text, source, broken, "")


def _limited(file: io.BufferedIOBase, path: Path) -> bytes:
    data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise TleError(
            f"TLE file {path} has more than {LARGEST_BYTES // 2**20} MiB: no list of element sets is so long"
        )
    return data


def _parse(text: str, source: str, broken: Broken, wanted: str) -> list[Satellite]:
    if broken not in ("skip", "refuse"):
        raise ValueError(f"broken must be 'skip' or 'refuse', got {broken!r}")
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise TleError(f"{source} is empty: no element set in it")
    satellites: list[Satellite] = []
    faults: list[str] = []  # the first of them; a large file of something else has millions
    n_faults = 0
    form = omm.form_of(text)
    part = wanted.casefold()
    try:
        for where, found in _each_set(text, part) if form is None else _each_message(text, form, part):
            if isinstance(found, Satellite):
                if part in found.name.casefold():
                    satellites.append(found)
                continue
            if broken == "refuse":
                raise TleError(f"{source}, {where}: {found}")
            n_faults += 1
            if len(faults) < REPORTED:
                faults.append(f"{where}: {found}")
    except omm.NotThatForm as error:
        raise TleError(f"{source} {error}") from None
    if not satellites:
        of = f" of a satellite whose name contains {wanted!r}" if wanted else ""
        raise TleError(f"{source} holds no usable element set{of}" + (f"; {faults[0]}" if faults else ""))
    if faults:
        more = [f"and {n_faults - REPORTED} more"] if n_faults > REPORTED else []
        report = "\n  ".join([f"{source}: left out {n_faults} broken element set(s)", *faults, *more])
        warnings.warn(report, TleWarning, stacklevel=3)
    return satellites


def _each_message(text: str, form: str, wanted: str) -> Iterator[tuple[str, Satellite | str]]:
    """Of each OMM that has no name or a wanted one: where it is, and the satellite or what is wrong with it."""
    for where, fields in omm.messages(text, form):
        if isinstance(fields, str):
            yield where, fields
            continue
        name = _printable(omm.name_of(fields))
        if name and wanted not in name.casefold():
            continue
        values = omm.elements(fields)
        if isinstance(values, str):
            yield where, _printable(values)
            continue
        values["name"] = name or str(values["number"])
        yield where, _flyable(Satellite(**values))


def _each_set(text: str, wanted: str) -> Iterator[tuple[str, Satellite | str]]:
    """Of each set that has no name or a wanted one: where it is, and the satellite or what is wrong with it."""
    numbered = ((f"line {number}", line.rstrip()) for number, line in enumerate(omm.lines(text), start=1))
    lines = ((at, line) for at, line in numbered if line and not line.startswith("#"))
    name = name_at = ""
    at, line = next(lines, _NO_LINE)
    while line:
        next_at, next_line = next(lines, _NO_LINE)
        kind, next_kind = _kind(line), _kind(next_line)
        if kind == 0 or (next_kind == 1 and _NAME_LIKE_A_LINE.fullmatch(line)):
            if name and wanted in name.casefold():
                yield name_at, f"{_shown(name)!r} has no TLE line 1 after its name"
            name, name_at = _printable(re.sub("^0( |$)", "", line).strip()), at
        elif name and wanted not in name.casefold():
            if kind == 2 or next_kind != 2:
                name = ""  # its last line, or the only one it has
        else:
            if kind == 2:
                yield at, f"TLE line 2{_of(name)} has no line 1 before it: {_shown(line)}"
            elif next_kind != 2:
                yield at, f"TLE line 1{_of(name)} has no line 2 after it: {_shown(line)}"
            else:
                usual = _usual(name, line, next_line)
                if usual:
                    yield at, usual
                elif reason := _fault(1, line, name):
                    yield at, reason
                else:
                    yield next_at, _fault(2, next_line, name) or _satellite(name, line, next_line)
                next_at, next_line = next(lines, _NO_LINE)
            name = ""
        at, line = next_at, next_line
    if name and wanted in name.casefold():
        yield name_at, f"{_shown(name)!r} has no TLE line 1 after its name"


def _kind(line: str) -> int:
    """1 or 2 for an element line, 0 for a name; a line cut off after its first character is still told apart."""
    return {"1": 1, "2": 2}.get(line[:2].rstrip(), 0)


def _of(name: str) -> str:
    return f" of {_shown(name)!r}" if name else ""


def _shown(line: str) -> str:
    return _printable(line if len(line) <= LINE_LENGTH else line[:LINE_LENGTH] + " ...")


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor, or what no encoding can write; file content is shown to people."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _usual(name: str, line_1: str, line_2: str) -> Satellite | None:
    """The satellite of two lines in the usual layout; None where a closer look is needed."""
    if not (_USUAL[1].fullmatch(line_1) and _USUAL[2].fullmatch(line_2)):
        return None
    if line_1[68] != _checksum(line_1) or line_2[68] != _checksum(line_2):
        return None
    found = _satellite(name, line_1, line_2)
    if isinstance(found, str) or not (
        1.0 <= float(line_1[20:32]) <= 367.0
        and found.inclination_deg <= 180.0
        and found.raan_deg <= 360.0
        and found.argument_of_perigee_deg <= 360.0
        and found.mean_anomaly_deg <= 360.0
        and 1e-6 <= found.mean_motion_rev_day <= 20.0
    ):
        return None
    return found


def _checksum(line: str) -> str:
    """The last character that an element line should have."""
    return str(sum(line[:68].encode("ascii", "replace").translate(_WORTH)) % 10)


def _fault(which: int, line: str, name: str) -> str | None:
    """What is wrong with one element line by itself, or None."""
    says = f"TLE line {which}{_of(name)}"
    if len(line) != LINE_LENGTH:
        return f"{says} has {len(line)} characters, expected {LINE_LENGTH}: {_shown(line)}"
    if not line.isascii():
        return f"{says} has characters that are not ASCII: {_shown(line)}"
    if not line.isprintable():
        return f"{says} has characters that cannot be printed: {_shown(line)}"
    if line[68] != _checksum(line):
        return f"{says} says checksum {line[68]} but adds up to {_checksum(line)}: {line}"
    if _number(line) is None:
        return f"{says} has catalogue number {line[2:7]!r}, expected five digits or a letter and four: {line}"
    for column in _COLUMNS[which]:
        text = line[column.first - 1 : column.last]
        where = f"{column.name} (columns {column.first}-{column.last})"
        empty = not any(c.isdigit() for c in text)
        if not re.fullmatch(column.pattern, text) or (empty and not column.may_be_blank):
            return f"{says} has {text!r} for the {where}: {line}"
        if column.high and not column.low <= float(text.replace(" ", "")) <= column.high:
            return f"{says} has {text!r} for the {where}, expected {column.low:g} to {column.high:g}: {line}"
    for column_number in _BLANK[which]:
        if line[column_number - 1] != " ":
            return f"{says} has {line[column_number - 1]!r} in column {column_number}, expected a blank: {line}"
    kind = line[62]
    if which == 1 and kind.isdigit() and int(kind) in omm.OTHER_THEORIES:
        return f"{says} has ephemeris type {kind}, elements of {omm.OTHER_THEORIES[int(kind)]}, not SGP4's: {line}"
    return None


def _number(line: str) -> int | None:
    """Catalogue number in columns 3 to 7: digits, padded with zeros or blanks, or alpha-5 (T0002 is 270002)."""
    text = line[2:7]
    if re.fullmatch(r" *\d+", text):
        return int(text)
    if re.fullmatch(r"[A-HJ-NP-Z]\d{4}", text):
        return (10 + "ABCDEFGHJKLMNPQRSTUVWXYZ".index(text[0])) * 10_000 + int(text[1:])
    return None


def _satellite(name: str, line_1: str, line_2: str) -> Satellite | str:
    """The satellite of two good lines, or why they do not belong together."""
    number, number_2 = _number(line_1), _number(line_2)
    if number is None or number != number_2:
        return f"TLE lines{_of(name)} are of different satellites: line 1 says {number}, line 2 says {number_2}"
    year = int(line_1[18:20])
    whole, _, part = line_1[20:32].partition(".")
    return _flyable(
        Satellite(
            name=name or str(number),
            number=number,
            epoch_jd=_new_year_jd(year + (1900 if year >= 57 else 2000)) + int(whole or 0) - 1,
            epoch_fr=float("0." + part),
            mean_motion_rev_day=float(line_2[52:63]),
            eccentricity=float("0." + line_2[26:33].replace(" ", "0")),
            inclination_deg=float(line_2[8:16]),
            raan_deg=float(line_2[17:25]),
            argument_of_perigee_deg=float(line_2[34:42]),
            mean_anomaly_deg=float(line_2[43:51]),
            bstar=_power(line_1[53:61]),
            mean_motion_dot=float(line_1[33:43].replace(" ", "")),
            mean_motion_ddot=_power(line_1[44:52]),
            designator=line_1[9:17].strip(),
            line1=line_1,
            line2=line_2,
        )
    )


def _flyable(satellite: Satellite) -> Satellite | str:
    """The satellite, or why SGP4 refuses it at its own epoch.

    Low orbits whose perigee is 2 % above the equator's radius are not asked: SGP4's periodic terms there are below 1 %,
    and nothing else can fail at the epoch. Checked by tests/test_tle.py over random elements.
    """
    n, e = satellite.mean_motion_rev_day, satellite.eccentricity
    if n > 6.5 and (1.0 - e) * (17.043 / n) ** (2.0 / 3.0) > 1.02:  # 17.043 revolutions a day at the equator's radius
        return satellite
    error = satellite.satrec().error
    if error:
        of = "" if satellite.name == str(satellite.number) else _of(satellite.name)
        return f"SGP4 refuses the elements{of} with error {error}: {SGP4_ERRORS[error]}"
    return satellite


@cache
def _new_year_jd(year: int) -> float:
    return date(year, 1, 1).toordinal() + omm.ORDINAL_JD


def _power(text: str) -> float:
    """A field of five digits behind an unwritten point and a power of ten, as in "-11606-4"; blanks are 0."""
    digits, exponent = text[1:6].replace(" ", "0"), text[6:8].replace(" ", "0")
    return float(f"{text[0].strip()}0.{digits}e{exponent}")
