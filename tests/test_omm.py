"""Orbit mean-elements messages: equal to the TLE of the same satellite to the last digit, in every form they come in.

The authority on fields and units is sgp4.omm (reading) and sgp4.exporter (writing).
"""

import csv
import gzip
import io
import json
import lzma
import tracemalloc
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sgp4.omm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sgp4.api import Satrec
from sgp4.exporter import export_omm

import twin.tle
from twin.errors import TleError
from twin.omm import XML_PIECE, epoch_of, form_of
from twin.tle import TleWarning, parse_tle, read_tle

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"
LINE_1 = "1 44714U 19074B   25208.98798532  .00002307  00000+0  17380-3 0  9992"
LINE_2 = "2 44714  53.0548 115.3449 0001134  85.9190 274.1928 15.06383560315059"
TLE = f"STARLINK-1008\n{LINE_1}\n{LINE_2}\n"
MESSAGE = {  # the same set as CelesTrak's JSON gives it
    "OBJECT_NAME": "STARLINK-1008",
    "OBJECT_ID": "2019-074B",
    "EPOCH": "2025-07-27T23:42:41.931648",
    "MEAN_MOTION": 15.0638356,
    "ECCENTRICITY": 0.0001134,
    "INCLINATION": 53.0548,
    "RA_OF_ASC_NODE": 115.3449,
    "ARG_OF_PERICENTER": 85.919,
    "MEAN_ANOMALY": 274.1928,
    "EPHEMERIS_TYPE": 0,
    "CLASSIFICATION_TYPE": "U",
    "NORAD_CAT_ID": 44714,
    "ELEMENT_SET_NO": 999,
    "REV_AT_EPOCH": 31505,
    "BSTAR": 0.0001738,
    "MEAN_MOTION_DOT": 2.307e-5,
    "MEAN_MOTION_DDOT": 0,
}
METADATA = ("OBJECT_NAME", "OBJECT_ID", "CENTER_NAME", "REF_FRAME", "TIME_SYSTEM", "MEAN_ELEMENT_THEORY")
ELEMENTS = (
    "EPOCH",
    *(key for key in MESSAGE if key.isupper() and key.startswith(("MEAN_M", "EC", "INC", "RA", "ARG", "MEAN_A"))),
)
SPOKEN = {"CENTER_NAME": "EARTH", "REF_FRAME": "TEME", "TIME_SYSTEM": "UTC", "MEAN_ELEMENT_THEORY": "SGP4"}
ONE_CENTIMETRE_KM = 1e-5


def in_digits(satellite):
    """The fields of a satellite that came as lines, as text, with the digits of its lines."""
    first, second = satellite.line1, satellite.line2
    microseconds = round(Fraction("0." + first[24:32]) * 86_400_000_000)
    day = datetime(1957 + (int(first[18:20]) - 57) % 100, 1, 1) + timedelta(days=int(first[20:23]) - 1)

    def power(text):
        return f"{text[0].strip()}0.{text[1:6].strip() or 0}e{text[6:8].strip()}"

    return {
        "OBJECT_NAME": satellite.name,
        "OBJECT_ID": f"{1957 + (int(first[9:11]) - 57) % 100}-{first[11:17].strip()}" if first[9:17].strip() else "",
        **SPOKEN,
        "EPOCH": (day + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds"),
        "MEAN_MOTION": second[52:63].strip(),
        "ECCENTRICITY": "." + second[26:33],
        "INCLINATION": second[8:16].strip(),
        "RA_OF_ASC_NODE": second[17:25].strip(),
        "ARG_OF_PERICENTER": second[34:42].strip(),
        "MEAN_ANOMALY": second[43:51].strip(),
        "EPHEMERIS_TYPE": "0",
        "CLASSIFICATION_TYPE": "U",
        "NORAD_CAT_ID": first[2:7].strip(),
        "ELEMENT_SET_NO": first[64:68].strip(),
        "REV_AT_EPOCH": second[63:68].strip() or "0",
        "BSTAR": power(first[53:61]),
        "MEAN_MOTION_DOT": first[33:43].strip(),
        "MEAN_MOTION_DDOT": power(first[44:52]),
    }


def as_json(messages):
    return json.dumps(messages, indent=1)


def as_csv(messages):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(messages[0]))
    writer.writeheader()
    writer.writerows(messages)
    return text.getvalue()


def escaped(value):
    return str(value).replace("&", "&amp;").replace("<", "&lt;")


def as_xml(messages):
    """As CelesTrak and Space-Track write it: <ndm>, one <omm> with header and body for each."""

    def block(tag, fields, keys):
        return f"<{tag}>" + "".join(f"<{k}>{escaped(fields[k])}</{k}>" for k in keys if k in fields) + f"</{tag}>"

    rest = [k for k in messages[0] if k not in METADATA + ELEMENTS or k.startswith("MEAN_MOTION_")]
    omms = [
        '<omm id="CCSDS_OMM_VERS" version="2.0"><header><CREATION_DATE/><ORIGINATOR/></header><body><segment>'
        + block("metadata", m, METADATA)
        + "<data>"
        + block("meanElements", m, [k for k in ELEMENTS if not k.startswith("MEAN_MOTION_")])
        + block("tleParameters", m, rest)
        + "</data></segment></body></omm>"
        for m in messages
    ]
    return '<?xml version="1.0" encoding="UTF-8"?>\n<ndm>\n' + "\n".join(omms) + "\n</ndm>\n"


def as_kvn(messages):
    return "\n".join(
        "CCSDS_OMM_VERS = 2.0\nCOMMENT from a test\n" + "".join(f"{k:<20} = {v}\n" for k, v in m.items())
        for m in messages
    )


FORMS = {"json": as_json, "csv": as_csv, "xml": as_xml, "kvn": as_kvn}


def bare(satellite):
    return replace(satellite, line1="", line2="")


@pytest.fixture(scope="module")
def snapshot():
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        return read_tle(SNAPSHOT)


@pytest.mark.parametrize("form", FORMS)
def test_a_message_and_a_tle_of_one_satellite_are_equal_to_the_last_digit(snapshot, form):
    some = snapshot[::7]
    text = FORMS[form]([in_digits(satellite) for satellite in some])
    assert form_of(text) == form
    assert parse_tle(text, broken="refuse") == [bare(satellite) for satellite in some]


@pytest.mark.parametrize("form", FORMS)
def test_numbers_as_numbers_and_celestraks_few_fields_are_enough(form):
    [satellite] = parse_tle(FORMS[form]([MESSAGE]), broken="refuse")
    assert satellite == bare(parse_tle(TLE)[0])
    assert satellite.designator == "19074B"
    assert satellite.epoch_utc == datetime(2025, 7, 27, 23, 42, 41, 931648, tzinfo=UTC)


@pytest.mark.parametrize("form", ["csv", "xml"])
def test_elements_fly_where_sgp4s_own_reader_puts_them(snapshot, form):
    some = snapshot[::50]
    text = FORMS[form]([in_digits(satellite) for satellite in some])
    parse = sgp4.omm.parse_csv if form == "csv" else sgp4.omm.parse_xml
    for ours, fields in zip(parse_tle(text), parse(io.StringIO(text)), strict=True):
        theirs = Satrec()
        sgp4.omm.initialize(theirs, fields)
        model = ours.satrec()
        error, at_km, _ = model.sgp4(ours.epoch_jd, ours.epoch_fr + 1.0)
        expected, expected_km, _ = theirs.sgp4(ours.epoch_jd, ours.epoch_fr + 1.0)
        assert (error, model.satnum) == (expected, theirs.satnum)
        np.testing.assert_allclose(at_km, expected_km, rtol=0, atol=ONE_CENTIMETRE_KM)


def test_what_sgp4s_exporter_writes_is_read(snapshot):
    some = snapshot[::50]
    exported = [export_omm(satellite.satrec(), satellite.name) for satellite in some]
    for ours, satellite in zip(parse_tle(json.dumps(exported), broken="refuse"), some, strict=True):
        assert ours.number == satellite.number
        assert abs((ours.epoch_utc - satellite.epoch_utc).total_seconds()) < 1e-5
        for name in ("mean_motion_rev_day", "raan_deg", "mean_anomaly_deg", "bstar", "mean_motion_dot"):
            assert getattr(ours, name) == pytest.approx(getattr(satellite, name), rel=1e-12, abs=1e-13), name


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress])
@pytest.mark.parametrize("form", FORMS)
def test_the_content_tells_the_form_whatever_the_file_is_called(tmp_path, form, pack):
    path = tmp_path / "starlink.txt"
    path.write_bytes(pack(b"\xef\xbb\xbf" + FORMS[form]([MESSAGE]).replace("\n", "\r\n").encode()))
    assert [satellite.name for satellite in read_tle(path)] == ["STARLINK-1008"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param(json.dumps(MESSAGE), ["STARLINK-1008"], id="JSON, one object"),
        pytest.param(json.dumps([MESSAGE | {"OBJECT_NAME": None}]), ["44714"], id="no name"),
        pytest.param(json.dumps([MESSAGE | {"EPHEMERIS_TYPE": "2"}]), ["STARLINK-1008"], id="type 2 is SGP4"),
        pytest.param(
            json.dumps([MESSAGE | SPOKEN | {"TLE_LINE0": "0 X", "TLE_LINE1": "", "DECAY_DATE": None, "USER": [1, {}]}]),
            ["STARLINK-1008"],
            id="more keys, as Space-Track has",
        ),
        pytest.param(json.dumps([MESSAGE | {"EPHEMERIS_TYPE": None}]), ["STARLINK-1008"], id="JSON, no type"),
        pytest.param(as_csv([MESSAGE | {"EPHEMERIS_TYPE": ""}]), ["STARLINK-1008"], id="CSV, no type"),
        pytest.param(as_kvn([MESSAGE | {"EPHEMERIS_TYPE": ""}]), ["STARLINK-1008"], id="KVN, no type"),
        pytest.param(json.dumps([MESSAGE | {"NORAD_CAT_ID": 44714.0}]), ["STARLINK-1008"], id="JSON, 44714.0"),
        pytest.param("\ufeff" + as_csv([MESSAGE]), ["STARLINK-1008"], id="CSV, byte order mark"),
        pytest.param(as_csv([MESSAGE]).rstrip() + "\n\n , ,\n", ["STARLINK-1008"], id="CSV, blank lines"),
        pytest.param(
            as_csv([MESSAGE | {"OBJECT_NAME": "A"}, MESSAGE | {"OBJECT_NAME": "B\r\nC"}]),
            ["A", "B\ufffd\ufffdC"],
            id="CSV, a line end in a name",
        ),
        pytest.param(
            as_csv([MESSAGE | {"OBJECT_NAME": 'A "B", C'}]), ['A "B", C'], id="CSV, commas and quotes in a name"
        ),
        pytest.param(
            as_xml([MESSAGE | {"OBJECT_NAME": "DELTA & <R/B>"}]), ["DELTA & <R/B>"], id="XML, characters escaped"
        ),
        pytest.param(
            as_xml([MESSAGE]).replace("<ndm>", '<n:ndm xmlns:n="urn:x" xmlns="urn:y">').replace("</ndm>", "</n:ndm>"),
            ["STARLINK-1008"],
            id="XML with namespaces",
        ),
        pytest.param(
            as_xml([MESSAGE]).replace("<MEAN_MOTION>", '<MEAN_MOTION units="rev/day">'),
            ["STARLINK-1008"],
            id="XML with units",
        ),
        pytest.param(
            as_xml([MESSAGE]).replace("<ndm>", "<!-- made by hand -->").replace("</ndm>", ""),
            ["STARLINK-1008"],
            id="XML, one omm and no ndm",
        ),
        pytest.param(
            as_xml([MESSAGE]).replace(
                "</segment>",
                "</segment>" + as_xml([MESSAGE | {"OBJECT_NAME": "B"}]).split("<body>")[1].split("</body>")[0],
            ),
            ["STARLINK-1008", "B"],
            id="XML, two segments in one omm",
        ),
        pytest.param(
            as_xml([MESSAGE]).replace("<segment>", "").replace("</segment>", ""),
            ["STARLINK-1008"],
            id="XML, no segment",
        ),
        pytest.param(
            as_kvn([MESSAGE]).replace("= 53.0548", "= 53.0548 [deg]"), ["STARLINK-1008"], id="KVN with a unit"
        ),
        pytest.param(as_kvn([MESSAGE | {"OBJECT_NAME": "S-1 [DTC]"}]), ["S-1 [DTC]"], id="KVN, brackets in a name"),
        pytest.param(as_kvn([MESSAGE, MESSAGE]).replace("CCSDS_OMM_VERS = 2.0\n", ""), 2 * ["STARLINK-1008"], id="KVN"),
    ],
)
def test_every_common_form_is_read(text, names):
    with warnings.catch_warnings(action="error"):
        assert [satellite.name for satellite in parse_tle(text)] == names


@pytest.mark.parametrize("number", [5, 339_999, 340_000, 799_501_234])
def test_catalogue_numbers_may_have_nine_digits(number):
    [satellite] = parse_tle(json.dumps([MESSAGE | {"NORAD_CAT_ID": number}]))
    assert satellite.number == number
    error, at_km, _ = satellite.satrec().sgp4(satellite.epoch_jd, satellite.epoch_fr)
    assert error == 0
    assert 6_800 < np.linalg.norm(at_km) < 7_000


@pytest.mark.parametrize(
    ("text", "seconds", "jd"),
    [
        ("2025-07-27T23:42:41.931648", Fraction(85_361_931_648, 10**6), 2_460_883.5),
        ("2025-07-27T23:42:41.931648Z", Fraction(85_361_931_648, 10**6), 2_460_883.5),
        ("2025-208T23:42:41.931648", Fraction(85_361_931_648, 10**6), 2_460_883.5),
        ("2025-07-27 23:42:41", Fraction(85_361), 2_460_883.5),
        ("2024-366T00:00:00.000001", Fraction(1, 10**6), 2_460_675.5),
        ("1957-10-04T19:28:34.000000000001", Fraction(70_114) + Fraction(1, 10**12), 2_436_115.5),
        ("2025-13-01T00:00:00", None, None),
        ("2025-02-29T00:00:00", None, None),
        ("2025-366T00:00:00", None, None),
        ("2025-000T00:00:00", None, None),
        ("2025-07-27", None, None),
        ("2025-07-27T24:00:00", None, None),
        ("2025-07-27T23:59:60", None, None),
        ("2025-07-27T23:42:41+02:00", None, None),
        ("1900-01-01T00:00:00", None, None),
        ("2025-07-27T23:42:4\u0661", None, None),
        ("", None, None),
    ],
)
def test_epochs_are_the_nearest_floats_to_their_digits(text, seconds, jd):
    assert epoch_of(text) == (None if jd is None else (jd, float(seconds / 86_400)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"EPOCH": "yesterday"}, "has 'yesterday' for EPOCH, expected UTC as in 2025-"),
        ({"MEAN_MOTION": "15.06x"}, "has '15.06x' for MEAN_MOTION, expected a number"),
        ({"MEAN_MOTION": "0.0"}, "for MEAN_MOTION, expected 1e-06 to 20"),
        ({"ECCENTRICITY": "1.5"}, "has '1.5' for ECCENTRICITY, expected 0 to 1"),
        ({"INCLINATION": "-3"}, "for INCLINATION, expected 0 to 180"),
        ({"RA_OF_ASC_NODE": "nan"}, "has 'nan' for RA_OF_ASC_NODE, expected a number"),
        ({"ARG_OF_PERICENTER": "1e999"}, "for ARG_OF_PERICENTER, expected"),
        ({"MEAN_ANOMALY": ""}, "has nothing for MEAN_ANOMALY, expected a number"),
        ({"BSTAR": "1_0"}, "has '1_0' for BSTAR, expected a number"),
        ({"NORAD_CAT_ID": "1234567890"}, "for NORAD_CAT_ID, expected up to nine digits"),
        ({"NORAD_CAT_ID": "T0002"}, "for NORAD_CAT_ID, expected up to nine digits"),
        ({"TIME_SYSTEM": "TAI"}, "has TIME_SYSTEM 'TAI', but only UTC can be flown by SGP4"),
        ({"REF_FRAME": "EME2000"}, "has REF_FRAME 'EME2000', but only TEME"),
        ({"MEAN_ELEMENT_THEORY": "DSST"}, "has MEAN_ELEMENT_THEORY 'DSST', but only SGP4"),
        ({"CENTER_NAME": "MOON"}, "has CENTER_NAME 'MOON', but only EARTH"),
        ({"EPHEMERIS_TYPE": "4"}, "has EPHEMERIS_TYPE '4', elements of SGP4-XP, which are not SGP4's"),
        ({"EPHEMERIS_TYPE": "SGP4"}, "has EPHEMERIS_TYPE 'SGP4', expected 0"),
        ({"ECCENTRICITY": "0.9999999"}, "SGP4 refuses the elements of 'STARLINK-1008' with error"),
    ],
)
def test_a_broken_message_is_left_out_with_one_warning_or_refused(form, change, reason):
    messages = [MESSAGE | SPOKEN | change, MESSAGE | SPOKEN | {"OBJECT_NAME": "GOOD"}]
    text = FORMS[form](messages)
    with pytest.warns(TleWarning) as caught:
        assert [satellite.name for satellite in parse_tle(text, source="my.omm")] == ["GOOD"]
    assert len(caught) == 1
    assert reason in str(caught[0].message)
    with pytest.raises(TleError) as refused:
        parse_tle(text, source="my.omm", broken="refuse")
    where = {"json": "record 1", "csv": "line 2", "xml": "line 3", "kvn": "line 1"}[form]
    assert str(refused.value).startswith(f"my.omm, {where}: ")
    assert "STARLINK-1008" in str(refused.value)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("[", "x is not JSON: Expecting value", id="JSON cut"),
        pytest.param('[{"EPOCH": 1', "x is not JSON: ", id="JSON cut within"),
        pytest.param('[{"A": 1}, 5]', "record 1: OMM has nothing for NORAD_CAT_ID", id="JSON of something else"),
        pytest.param("[]", "x holds no usable element set", id="JSON, nothing found"),
        pytest.param('{"error": "quota"}', "record 1: OMM has nothing for NORAD_CAT_ID", id="JSON, an error"),
        pytest.param('[{"EPOCH":' * 100_000, "x is not JSON", id="JSON without bottom"),
        pytest.param('[{"BSTAR": ' + "9" * 9_999 + "}]", "x is not JSON: Exceeds the limit", id="JSON, endless number"),
        pytest.param(
            '[{"BSTAR":NaN,"NORAD_CAT_ID":[[1]]}]', "has a list for NORAD_CAT_ID", id="JSON, list for a number"
        ),
        pytest.param(
            '[{"A":[' + "[]," * 9_999 + "0]}]", "x is not JSON of messages: 20001 values in", id="JSON, all values"
        ),
        pytest.param("OBJECT_NAME,EPOCH,MEAN_MOTION\n", "x holds no usable element set", id="CSV, only a header"),
        pytest.param("EPOCH,MEAN_MOTION\nA\n", "line 2: OMM of 1 fields, expected 2", id="CSV, row cut"),
        pytest.param(f'EPOCH,MEAN_MOTION\n"{"A" * 200_000}",\n', "x is not CSV at line 2", id="CSV, endless cell"),
        pytest.param(
            "<?xml version='1.0'?>\n<ndm><omm>", "x is not well-formed XML: no element found: line 2", id="cut"
        ),
        pytest.param("<?xml version='1.0'?><html/>", "x is XML, but of <html> where <ndm> or <omm>", id="web page"),
        pytest.param("<!DOCTYPE html>\n<html>", "x declares a document type", id="web page of today"),
        pytest.param("<ndm>&lol;</ndm>", "x is not well-formed XML: undefined entity", id="entity nobody declared"),
        pytest.param("<ndm/>", "x holds no usable element set", id="XML without a message"),
        pytest.param("CCSDS_OMM_VERS = 2.0\nHello\n", "line 2: 'Hello' where KEYWORD = value was expected", id="KVN"),
        pytest.param("No GP data found", "'No GP data found' has no TLE line 1 after its name", id="CelesTrak's no"),
    ],
)
def test_what_is_no_list_of_messages_is_refused_in_words(text, reason):
    with pytest.raises(TleError) as refused:
        parse_tle(text, source="x", broken="refuse")
    assert reason in str(refused.value)
    with pytest.raises(TleError):
        parse_tle(text, source="x")


@pytest.mark.parametrize(
    "declared",
    [
        '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">',
        '<!ENTITY a SYSTEM "file:///etc/hostname">',
        '<!ENTITY % a SYSTEM "http://127.0.0.1:9/">%a;',
    ],
)
def test_entities_are_never_expanded(declared):
    xml = as_xml([MESSAGE]).replace("<ndm>", f"<!DOCTYPE ndm [{declared}]><ndm>").replace("STARLINK-1008", "&b;")
    with pytest.raises(TleError, match="declares a document type"):
        parse_tle(xml)


def test_messages_at_the_seams_of_a_long_file_are_whole():
    many = [MESSAGE | {"OBJECT_NAME": f"\u00dc-{k}"} for k in range(400)]
    text = as_xml(many)
    assert len(text) > 3 * XML_PIECE
    assert [satellite.name for satellite in parse_tle(text, broken="refuse")] == [m["OBJECT_NAME"] for m in many]
    with pytest.raises(TleError, match="is not well-formed XML: no element found"):
        parse_tle(text[: text.rindex("</omm>")])


@pytest.mark.parametrize("form", ["csv", "kvn", "xml"])
def test_a_large_file_of_something_else_takes_little_more_room_than_its_text(form):
    noise = {"csv": "EPOCH,MEAN_MOTION\n" + "a,b\n" * 8_000, "kvn": "EPOCH=1\n" + "a\n" * 16_000}
    text = noise.get(form, "<ndm>" + "<omm><a>1</a></omm>" * 8_000 + "</ndm>")
    tracemalloc.start()
    try:
        with pytest.raises(TleError, match="x holds no usable element set"):
            parse_tle(text, source="x")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text) + (1_500_000 if form == "xml" else 100_000)
    finally:
        tracemalloc.stop()


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(twin.tle, "LARGEST_BYTES", 2**20)
    for suffix, pack in ((".tle", bytes), (".xz", lzma.compress), (".gz", gzip.compress)):
        path = tmp_path / f"bomb{suffix}"
        path.write_bytes(pack(b" " * 2**20 + b"x"))
        with pytest.raises(TleError, match="has more than 1 MiB"):
            read_tle(path)


def test_only_the_named_are_read_and_the_faults_of_others_are_not_reported():
    messages = [MESSAGE | {"EPOCH": ""}, MESSAGE | {"OBJECT_NAME": "ONEWEB-0012"}]
    for form in FORMS.values():
        with warnings.catch_warnings(action="error"):
            path_text = form(messages)
            found = twin.tle._parse(path_text, "x", "skip", "oneweb")
        assert [satellite.name for satellite in found] == ["ONEWEB-0012"]


def test_names_and_messages_cannot_move_a_terminals_cursor():
    [satellite] = parse_tle(json.dumps([MESSAGE | {"OBJECT_NAME": "A\x1b[2J\ud800B"}]))
    assert satellite.name == "A\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}B"
    for text in (f"A\x1b[2J\n{LINE_1}\n{LINE_2[:-1]}0\n", f"A\x1b[2J\n{LINE_1[:-9]}\x1b[2J\n{LINE_2}", "\x1b[2J"):
        with pytest.raises(TleError) as refused:
            parse_tle(text)
        assert "\x1b" not in str(refused.value)


SEEDS = [TLE.encode(), f"0 A\n{LINE_1}\n{LINE_2}\n{TLE}".encode()]
SEEDS += [form([MESSAGE | SPOKEN, MESSAGE | {"OBJECT_NAME": "B"} | SPOKEN]).encode() for form in FORMS.values()]
SEEDS += [lzma.compress(SEEDS[0]), gzip.compress(SEEDS[2])]
PIECES = [
    b"",
    b"\x00",
    b"\xff",
    b"-",
    b"1",
    b" ",
    b"\n",
    b"9" * 30,
    b"<",
    b">",
    b'"',
    b",",
    b"=",
    b"[",
    b"{",
    b"null",
    b"\xd9\xa5",
]
PIECES += [
    b"1e999",
    b"NaN",
    b"<ndm>",
    b"</omm>",
    b"<!DOCTYPE ndm>",
    b"&#0;",
    b"\\ud800",
    b"true",
    b"EPOCH",
    b"\xef\xbb\xbf",
]


@st.composite
def mutated(draw):
    """A good file with pieces of it replaced, repeated or cut out."""
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([0, 1, 1, 2, 8, 100])))
        again = data[at:end] * draw(st.integers(0, 2))
        data = data[:at] + draw(st.sampled_from(PIECES)) + again + data[end:]
    return data


ANY = {"data": st.one_of(mutated(), mutated(), st.binary(max_size=400)), "broken": st.sampled_from(["skip", "refuse"])}
FEW = settings(max_examples=600, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(**ANY)
def test_no_bytes_make_the_reader_do_anything_but_parse_or_raise_its_own_error(tmp_path_factory, data, broken):
    read_anything(tmp_path_factory.getbasetemp() / "fuzz", data, broken)


@pytest.mark.slow
@settings(FEW, max_examples=10_000)
@given(**ANY)
def test_no_bytes_at_greater_length_either(tmp_path_factory, data, broken):
    read_anything(tmp_path_factory.getbasetemp() / "fuzz", data, broken)


def read_anything(path, data, broken):
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", TleWarning)
        try:
            satellites = read_tle(path, broken=broken)
        except TleError as error:
            str(error).encode()  # can be shown
            return
    assert satellites
    for satellite in satellites:
        satellite.name.encode()
        assert 1950 < satellite.epoch_utc.year < 2100
        model = satellite.satrec()
        assert model.error == 0
        assert model.no_kozai == pytest.approx(satellite.mean_motion_rev_day * np.pi / 720.0, rel=1e-14)
        assert model.ecco == satellite.eccentricity
        for angle_rad, angle_deg in (
            (model.inclo, satellite.inclination_deg),
            (model.nodeo, satellite.raan_deg),
            (model.argpo, satellite.argument_of_perigee_deg),
            (model.mo, satellite.mean_anomaly_deg),
        ):
            assert angle_rad == pytest.approx(np.radians(angle_deg), rel=1e-14)
        assert model.bstar == pytest.approx(satellite.bstar, rel=1e-14)
        assert (model.jdsatepoch, model.jdsatepochF) == (satellite.epoch_jd, satellite.epoch_fr)
