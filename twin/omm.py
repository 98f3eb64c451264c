"""Orbit mean-elements messages (OMM): the elements that a TLE holds, as JSON, CSV, XML or KVN instead of two lines.

Fields and units are those of CCSDS 502.0 and of CelesTrak's and Space-Track's general-perturbations data. Catalogue
numbers may have nine digits, which a TLE cannot say. What comes out is dictionaries of fields and, after every check,
values for `twin.tle.Satellite`; files, reports and what is left out stand in twin/tle.py.

Files come from anywhere: XML that declares a document type, and with it entities, is refused before any is expanded.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple
from xml.parsers import expat

from twin.units import SECONDS_PER_DAY

FIRST_YEAR, LAST_YEAR = 1957, 2099  # of an epoch: the first satellite, and as far as SGP4's calendar arithmetic holds
ORDINAL_JD = 1_721_424.5  # Julian date of the midnight before day 1 of datetime's count of days
OTHER_THEORIES = {4: "SGP4-XP", 6: "special perturbations"}  # by ephemeris type; those of SGP4 say 0, or 2

Found = Mapping[str, Any] | str  # the fields of one message, or what is wrong with it


class NotThatForm(ValueError):
    """The text as a whole is not of the form that its beginning promises."""


class _Number(NamedTuple):
    """A number of a message: its keyword, what it is to a Satellite, and its range."""

    key: str
    name: str
    low: float
    high: float
    required: bool = True


_NUMBERS = (
    _Number("MEAN_MOTION", "mean_motion_rev_day", 1e-6, 20.0),
    _Number("ECCENTRICITY", "eccentricity", 0.0, 0.999_999_9),
    _Number("INCLINATION", "inclination_deg", 0.0, 180.0),
    _Number("RA_OF_ASC_NODE", "raan_deg", 0.0, 360.0),
    _Number("ARG_OF_PERICENTER", "argument_of_perigee_deg", 0.0, 360.0),
    _Number("MEAN_ANOMALY", "mean_anomaly_deg", 0.0, 360.0),
    _Number("BSTAR", "bstar", -1e9, 1e9),
    _Number("MEAN_MOTION_DOT", "mean_motion_dot", -1e3, 1e3, required=False),
    _Number("MEAN_MOTION_DDOT", "mean_motion_ddot", -1e9, 1e9, required=False),
)
_ONLY = {  # what a message must say if it says anything; CelesTrak's JSON and CSV leave these out
    "CENTER_NAME": ("EARTH",),
    "REF_FRAME": ("TEME",),
    "TIME_SYSTEM": ("UTC",),
    "MEAN_ELEMENT_THEORY": ("SGP4", "SGP/SGP4", "SGP"),
}
_KNOWN = {number.key for number in _NUMBERS} | _ONLY.keys() | {"CCSDS_OMM_VERS", "OBJECT_NAME", "OBJECT_ID", "EPOCH"}
MOST_VALUES, LEAST_LENGTH = 1_000, 8  # of JSON: so many, and more if each has 8 characters; a keyword alone has 5
XML_PIECE = 1 << 16  # characters
_LINE = re.compile(r"[^\r\n]+(?:\r\n?|\n)?|\r\n?|\n")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_EPOCH = re.compile(
    r"(\d{4})-(?:(\d\d)-(\d\d)|(\d{3}))[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,18}))?Z?",  # day of the month, or of the year
    re.ASCII,
)


def form_of(text: str) -> str | None:
    """What the text seems to be, from its beginning: "json", "csv", "xml", "kvn", or None for anything else."""
    head = text[:4_096].lstrip()
    if re.match(r"\[\s*([{\]]|$)|\{\s*([\"}]|$)", head):
        return "json"
    if re.match(r"<(\?xml|!DOCTYPE|!--|([\w.-]+:)?(ndm|omm)\b)", head):
        return "xml"
    first = head.partition("\n")[0]
    if {"EPOCH", "MEAN_MOTION"} <= set(_header(first)):
        return "csv"
    assignments = (line.partition("=") for line in head.splitlines() if line.strip() and line[:7] != "COMMENT")
    key, equals, _ = next(assignments, ("", "", ""))
    return "kvn" if equals and key.strip() in _KNOWN else None


def messages(text: str, form: str) -> Iterator[tuple[str, Found]]:
    """Of each message: where it stands, and its fields by keyword, or what is wrong with it.

    Raises NotThatForm where it breaks off or is something else.
    """
    return {"json": _json, "csv": _csv, "xml": _xml, "kvn": _kvn}[form](text)


def name_of(fields: Mapping[str, Any]) -> str:
    """The satellite's name as the message gives it; empty where it has none."""
    return _text(fields.get("OBJECT_NAME"))


def elements(fields: Mapping[str, Any]) -> dict[str, Any] | str:
    """The checked values of one message, named as twin.tle.Satellite names them, or what is wrong with them."""
    name = name_of(fields)
    says = f"OMM of {name[:69]!r}" if name else "OMM"
    for key, accepted in _ONLY.items():
        said = _text(fields.get(key)) or accepted[0]
        if said.upper() not in accepted:
            return f"{says} has {key} {_short(said)}, but only {' or '.join(accepted)} can be flown by SGP4"
    given = fields.get("EPHEMERIS_TYPE")
    kind = 0 if given is None or given == "" else _whole(given)
    if kind is None or kind in OTHER_THEORIES:
        theory = f", elements of {OTHER_THEORIES[kind]}, which are not SGP4's" if kind else ", expected 0"
        return f"{says} has EPHEMERIS_TYPE {_short(given)}{theory}"
    number = _whole(fields.get("NORAD_CAT_ID"))
    if number is None:
        return f"{says} has {_short(fields.get('NORAD_CAT_ID'))} for NORAD_CAT_ID, expected up to nine digits"
    epoch = epoch_of(_text(fields.get("EPOCH")))
    if epoch is None:
        return f"{says} has {_short(fields.get('EPOCH'))} for EPOCH, expected UTC as in 2025-07-27T23:42:41.931648"
    values: dict[str, Any] = {}
    for key, attribute, low, high, required in _NUMBERS:
        given = fields.get(key)
        if (given is None or given == "") and not required:
            continue
        value = _float(given)
        if value is None:
            return f"{says} has {_short(given)} for {key}, expected a number"
        if not low <= value <= high:
            return f"{says} has {_short(given)} for {key}, expected {low:g} to {high:g}"
        values[attribute] = value
    values.update(name=name, number=number, epoch_jd=epoch[0], epoch_fr=epoch[1])
    values["designator"] = _designator(_text(fields.get("OBJECT_ID")))
    return values


def epoch_of(text: str) -> tuple[float, float] | None:
    """Julian date of the midnight before, and the fraction of the day, of an ISO 8601 or CCSDS date and time in UTC.

    Both are the floats nearest to what the digits say. None where the text is no such date.
    """
    match = _EPOCH.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, of_year, hour, minute, second = (int(part or 0) for part in match.groups()[:7])
    if not (FIRST_YEAR <= year <= LAST_YEAR and hour < 24 and minute < 60 and second < 60):
        return None
    try:
        ordinal = date(year, 1, 1).toordinal() + of_year - 1 if of_year else date(year, month, day).toordinal()
    except ValueError:
        return None
    if date.fromordinal(ordinal).year != year:
        return None
    digits = match[8] or ""
    scale = 10 ** len(digits)
    ticks = ((hour * 60 + minute) * 60 + second) * scale + int(digits or 0)
    return ordinal + ORDINAL_JD, ticks / (
        int(SECONDS_PER_DAY) * scale
    )  # whole numbers divide without a second rounding


def lines(text: str) -> Iterator[str]:
    """Its lines with their ends, one at a time: a list of them takes many times the room of the text."""
    return (match[0] for match in _LINE.finditer(text))


def _json(text: str) -> Iterator[tuple[str, Found]]:
    values = text.count(",") + text.count("[") + text.count("{")
    if values > MOST_VALUES + len(text) // LEAST_LENGTH:  # and would take fifty times the room of the text
        raise NotThatForm(f"is not JSON of messages: {values} values in {len(text)} characters have no keywords")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotThatForm(f"is not JSON: {error}") from None
    for number, fields in enumerate(found if isinstance(found, list) else [found], start=1):
        yield (
            f"record {number}",
            fields if isinstance(fields, dict) else f"{_short(fields)} where an OMM was expected, an object of fields",
        )


def _csv(text: str) -> Iterator[tuple[str, Found]]:
    rows = csv.reader(lines(text))
    keys: list[str] = []
    line = 1
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise NotThatForm(f"is not CSV at line {rows.line_num}: {error}") from None
        if row is None:
            return
        if not keys:
            keys = [key.strip() for key in row]
        elif len(row) == len(keys):
            yield f"line {line}", dict(zip(keys, row))
        elif any(cell.strip() for cell in row):
            yield f"line {line}", f"OMM of {len(row)} fields, expected {len(keys)} as in the first line"
        line = rows.line_num + 1


def _xml(text: str) -> Iterator[tuple[str, Found]]:
    """Every leaf below a <segment>, or below an <omm> without one, is a field; prefixes of namespaces are dropped."""
    found: list[tuple[str, Found]] = []
    fields: dict[str, str] = {}
    words: list[str] = []
    began = depth = 0
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True

    def start(tag: str, _: object) -> None:
        nonlocal began, depth
        tag = tag.rpartition(":")[2]
        if not depth and tag not in ("ndm", "omm"):
            raise NotThatForm(f"is XML, but of <{tag[:69]}> where <ndm> or <omm> was expected")
        depth += 1
        if tag in ("omm", "segment"):
            began = parser.CurrentLineNumber
            fields.clear()
        words.clear()

    def end(tag: str) -> None:
        tag = tag.rpartition(":")[2]
        if tag in ("omm", "segment"):
            if fields:
                found.append((f"line {began}", dict(fields)))
            fields.clear()
        elif words:
            fields[tag] = "".join(words).strip()
        words.clear()

    def refuse(*_: object) -> None:
        raise NotThatForm(
            "declares a document type (DOCTYPE), as web pages do and an OMM does not: it is not read further"
        )

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = words.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        for at in range(0, len(text), XML_PIECE):
            parser.Parse(text[at : at + XML_PIECE].encode("utf-8", "replace"), at + XML_PIECE >= len(text))
            yield from found
            found.clear()
    except expat.ExpatError as error:
        raise NotThatForm(f"is not well-formed XML: {error}") from None


def _kvn(text: str) -> Iterator[tuple[str, Found]]:
    """Lines `KEYWORD = value [unit]`; a keyword that comes again begins the next message."""
    fields: dict[str, str] = {}
    began = 0
    for at, line in enumerate(lines(text), start=1):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not key or key.startswith("COMMENT"):
            continue
        if not equals:
            yield f"line {at}", f"{_short(key)} where KEYWORD = value was expected"
            continue
        if key in fields:
            yield f"line {began}", fields
            fields = {}
        if not fields:
            began = at
        fields[key] = value if key == "OBJECT_NAME" else re.sub(r"\s*\[[^]]*\]$", "", value)
    if fields:
        yield f"line {began}", fields


def _header(line: str) -> list[str]:
    return [key.strip().strip('"') for key in line.split(",")]


def _text(value: Any) -> str:
    """A field as text; empty for what JSON may hold and a message does not: lists, objects, true, null."""
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _whole(value: Any) -> int | None:
    """A whole number of up to nine digits, written as a number, 5.0 too, or as text."""
    text = _text(int(value) if isinstance(value, float) and value.is_integer() else value)
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _float(value: Any) -> float | None:
    if isinstance(value, str):
        return float(value) if _DECIMAL.fullmatch(value := value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _designator(text: str) -> str:
    """ "2019-074A" as a TLE writes it, 19074A; empty where it is none."""
    match = re.fullmatch(r"\d\d(\d\d)-(\d{3}[A-Z]{0,3})", text.strip(), re.ASCII)
    return match[1] + match[2] if match else ""


def _short(value: Any) -> str:
    """A value as messages show it, not longer than a line."""
    if value is None or value == "":
        return "nothing"
    if isinstance(value, str):
        return repr(value if len(value) <= 69 else value[:69] + " ...")
    return f"{value:.10g}" if _float(value) is not None else f"a {type(value).__name__}"
