"""Element sets: what is read, what is refused and in which words. The checksum's authority is sgp4.io."""

import gzip
import lzma
import tracemalloc
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sgp4.api import Satrec
from sgp4.conveniences import sat_epoch_datetime
from sgp4.io import fix_checksum

import twin.tle
from twin.catalogue import select
from twin.errors import TleError
from twin.tle import Satellite, TleWarning, parse_tle, read_tle

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"
SHARED = ROOT.parent / "shared" / "tle"

NAME = "STARLINK-1008"
LINE_1 = "1 44714U 19074B   25208.98798532  .00002307  00000+0  17380-3 0  9992"
LINE_2 = "2 44714  53.0548 115.3449 0001134  85.9190 274.1928 15.06383560315059"
OTHER_1 = "1 44057U 19010A   25208.74615185  .00000011  00000+0 -53537-5 0  9995"
OTHER_2 = "2 44057  87.9048 293.4723 0002469 106.3879 253.7523 13.16593281308875"
GOOD = f"ONEWEB-0012\n{OTHER_1}\n{OTHER_2}\n"


def put(line, column, text):
    """The line with `text` from a column (counted from 1) on, its checksum made right again."""
    return fix_checksum(line[: column - 1] + text + line[column - 1 + len(text) :])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param(f"{NAME}\n{LINE_1}\n{LINE_2}\n", [NAME], id="TLE with a name"),
        pytest.param(f"{NAME:<24}\r\n{LINE_1}\r\n{LINE_2}\r\n", [NAME], id="CRLF and a padded name"),
        pytest.param(f"0 {NAME}\n{LINE_1}\n{LINE_2}", [NAME], id="3LE, no newline at the end"),
        pytest.param(f"{LINE_1}\n{LINE_2}\n{OTHER_1}\n{OTHER_2}\n", ["44714", "44057"], id="no names"),
        pytest.param(f"# old\n\n0 {NAME}\n{LINE_1}\n\n{LINE_2}\n\n\n{GOOD}", [NAME, "ONEWEB-0012"], id="blank lines"),
        pytest.param(f"0 {NAME}\n{LINE_1}   \n{LINE_2}\t\n", [NAME], id="blanks at line ends"),
        pytest.param(f"\ufeff{NAME}\n{LINE_1}\n{LINE_2}\n", [NAME], id="byte order mark"),
        pytest.param(f"0 \n{LINE_1}\n{LINE_2}\n", ["44714"], id="3LE with an empty name"),
        pytest.param(f"1\n{LINE_1}\n{LINE_2}\n2\n{OTHER_1}\n{OTHER_2}\n", ["1", "2"], id="names that are numbers"),
        pytest.param(f"{LINE_1}\n{LINE_2}\n1 AB C\n{OTHER_1}\n{OTHER_2}\n", ["44714", "1 AB C"], id="name like a line"),
        pytest.param(f"A\x0bB\x85C\r{LINE_1}\r{LINE_2}\r", ["A\ufffdB\ufffdC"], id="only CR and LF end a line"),
    ],
)
def test_every_common_form_is_read(text, names):
    with warnings.catch_warnings(action="error"):
        assert [satellite.name for satellite in parse_tle(text)] == names


@pytest.mark.parametrize(
    ("field", "number"),
    [("44714", 44714), ("00011", 11), ("   11", 11), ("A0000", 100000), ("T0002", 270002), ("Z9999", 339999)],
)
def test_catalogue_numbers_are_read_as_sgp4_reads_them(field, number):
    line_1, line_2 = put(LINE_1, 3, field), put(LINE_2, 3, field)
    [satellite] = parse_tle(f"{line_1}\n{line_2}\n")
    assert satellite.number == number == Satrec.twoline2rv(line_1, line_2).satnum
    assert satellite.name == str(number)


def test_a_zero_padded_and_a_blank_padded_number_match():
    [satellite] = parse_tle(f"{put(LINE_1, 3, '00011')}\n{put(LINE_2, 3, '   11')}\n")
    assert satellite.number == 11


@pytest.mark.parametrize(
    ("line_1", "line_2", "line", "reason"),
    [
        pytest.param(LINE_1, LINE_2[:40], 3, f"TLE line 2 of '{NAME}' has 40 characters, expected 69", id="line 2 cut"),
        pytest.param(LINE_1[:60], LINE_2, 2, f"TLE line 1 of '{NAME}' has 60 characters, expected 69", id="line 1 cut"),
        pytest.param(LINE_1, "2", 3, "has 1 characters, expected 69: 2", id="line 2 almost gone"),
        pytest.param(LINE_1, LINE_2 + "0", 3, "has 70 characters, expected 69", id="line 2 too long"),
        pytest.param(LINE_1[:-1] + "5", LINE_2, 2, "says checksum 5 but adds up to 2", id="checksum of line 1"),
        pytest.param(LINE_1, LINE_2.replace("53", "54"), 3, "says checksum 9 but adds up to 0", id="altered digit"),
        pytest.param(LINE_1, LINE_2[:-1] + "x", 3, "says checksum x but adds up to 9", id="checksum no digit"),
        pytest.param(LINE_1, OTHER_2, 3, "different satellites: line 1 says 44714, line 2 says 44057", id="mismatch"),
        pytest.param(put(LINE_1, 3, "I4714"), LINE_2, 2, "catalogue number 'I4714'", id="a letter alpha-5 leaves out"),
        pytest.param(put(LINE_1, 3, "4 714"), LINE_2, 2, "catalogue number '4 714'", id="a hole in the number"),
        pytest.param(LINE_1, "", 2, f"TLE line 1 of '{NAME}' has no line 2 after it", id="line 2 missing"),
        pytest.param("", LINE_2, 2, f"TLE line 2 of '{NAME}' has no line 1 before it", id="line 1 missing"),
        pytest.param("", "", 1, f"'{NAME}' has no TLE line 1 after its name", id="both missing"),
        pytest.param(LINE_2, LINE_1, 2, "has no line 1 before it", id="lines swapped"),
        pytest.param(LINE_1, put(LINE_2, 9, "x"), 3, "for the inclination (columns 9-16)", id="letter in a number"),
        pytest.param(LINE_1, put(LINE_2, 9, "253.0548"), 3, "'253.0548' for the inclination", id="inclination of 253"),
        pytest.param(LINE_1, put(LINE_2, 53, " 0.00000000"), 3, "for the mean motion", id="no mean motion"),
        pytest.param(LINE_1, put(LINE_2, 27, " " * 7), 3, "for the eccentricity (columns 27-33)", id="blank field"),
        pytest.param(put(LINE_1, 21, "000"), LINE_2, 2, "for the epoch day", id="day 0"),
        pytest.param(LINE_1.replace("U", "\u0665"), LINE_2, 2, "not ASCII", id="a digit of another script"),
        pytest.param(LINE_1.replace("U", "\x1b"), LINE_2, 2, "cannot be printed", id="a control character"),
        pytest.param(put(LINE_1, 34, "+-.000230"), LINE_2, 2, "for the first derivative", id="two signs"),
        pytest.param(put(LINE_1, 45, "x"), LINE_2, 2, "second derivative of mean motion (columns 45-52)", id="letter"),
        pytest.param(put(LINE_1, 63, "4"), LINE_2, 2, "has ephemeris type 4, elements of SGP4-XP", id="of SGP4-XP"),
        pytest.param(LINE_1, put(LINE_2, 43, "<"), 3, "'<' in column 43, expected a blank", id="fields not apart"),
        pytest.param(LINE_1, put(LINE_2, 64, "x"), 3, "for the revolution number", id="letter in a count"),
        pytest.param(LINE_1, put(LINE_2, 27, "9999999"), 3, "SGP4 refuses the elements of", id="SGP4 error at epoch"),
    ],
)
def test_a_broken_set_is_left_out_with_one_warning_or_refused(line_1, line_2, line, reason):
    broken = "\n".join(part for part in (NAME, line_1, line_2) if part)
    with pytest.warns(TleWarning) as caught:
        satellites = parse_tle(f"{broken}\n{GOOD}", source="my.tle")
    assert [satellite.name for satellite in satellites] == ["ONEWEB-0012"], "its neighbour is untouched"
    assert len(caught) == 1
    message = str(caught[0].message)
    assert f"line {line}: " in message
    assert reason in message
    with pytest.raises(TleError) as refused:
        parse_tle(f"{broken}\n{GOOD}", source="my.tle", broken="refuse")
    assert str(refused.value).startswith(f"my.tle, line {line}: ")
    assert reason in str(refused.value)


def test_a_line_cut_off_is_no_name_for_the_next_set():
    for cut in (LINE_1[:8], LINE_1[:5], put(LINE_1, 3, "T0002")[:7], put(LINE_1, 3, "   11")[:7]):
        with pytest.warns(TleWarning, match="line 1: TLE line 1 has no line 2 after it"):
            assert [satellite.name for satellite in parse_tle(f"{cut}\n{OTHER_1}\n{OTHER_2}\n")] == ["44057"]


def test_a_large_file_of_something_else_takes_little_more_room_than_its_text():
    noise = "ab\n" * 20_000
    tracemalloc.start()
    try:
        with pytest.raises(TleError, match="line 1: 'ab' has no TLE line 1 after its name"):
            parse_tle(noise)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(noise)
    finally:
        tracemalloc.stop()


def test_one_warning_names_every_broken_set():
    text = f"{NAME}\n{LINE_1}\n{GOOD}LONELY\n{OTHER_1}\n{OTHER_2[:-1]}0\n"
    with pytest.warns(TleWarning) as caught:
        parse_tle(text)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "left out 2 broken" in message
    assert NAME in message
    assert "LONELY" in message


def test_a_warning_about_a_file_of_something_else_stays_short():
    noise = "\n".join(f"<tr>{'x' * 10_000}</tr>" for _ in range(1_000))
    with pytest.warns(TleWarning) as caught:
        parse_tle(f"{noise}\n{GOOD}")
    assert len(str(caught[0].message)) < 5_000
    assert "and 980 more" in str(caught[0].message)


@pytest.mark.parametrize(
    ("content", "suffix", "reason"),
    [
        (None, ".tle", "there is no TLE file"),
        (b"", ".tle", "is empty"),
        (b" \r\n\r\n", ".tle", "is empty"),
        (b"# nothing but a comment\n", ".tle", "holds no usable element set"),
        (b"<html>\n", ".tle", "'<html>' has no TLE line 1 after its name"),
        (bytes(range(256)), ".tle", "holds no usable element set"),
        (GOOD.encode(), ".xz", "cannot be read"),
        (GOOD.encode(), ".gz", "cannot be read"),
        (lzma.compress(GOOD.encode())[:-20], ".xz", "cannot be read"),
        (gzip.compress(GOOD.encode())[:-20], ".gz", "cannot be read"),
        (lzma.compress(b""), ".xz", "is empty"),
    ],
)
def test_a_file_without_elements_is_refused_by_name(tmp_path, content, suffix, reason):
    path = tmp_path / f"list{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TleError) as refused:
        read_tle(path)
    assert reason in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_folder_is_refused_as_a_file(tmp_path):
    with pytest.raises(TleError, match="cannot be read"):
        read_tle(tmp_path)


def test_an_unknown_way_with_broken_sets_is_refused():
    with pytest.raises(ValueError, match="'skip' or 'refuse', got 'fix'"):
        parse_tle(GOOD, broken="fix")


@pytest.mark.parametrize(("suffix", "pack"), [(".tle", bytes), (".xz", lzma.compress), (".gz", gzip.compress)])
def test_plain_and_packed_files_read_the_same(tmp_path, suffix, pack):
    path = tmp_path / f"list{suffix}"
    path.write_bytes(pack(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()))  # as some editors save it
    assert read_tle(path) == read_tle(str(path)) == parse_tle(GOOD)


def test_epochs_equal_those_of_sgp4_within_a_microsecond():
    old_1 = put(LINE_1, 19, "57")
    for line_1 in (LINE_1, old_1):
        [satellite] = parse_tle(f"{line_1}\n{LINE_2}\n")
        expected = sat_epoch_datetime(Satrec.twoline2rv(line_1, LINE_2))
        assert abs((satellite.epoch_utc - expected).total_seconds()) <= 2e-6
    assert satellite.epoch_utc.year == 1957


def test_lines_in_the_usual_layout_and_column_by_column_give_the_same(monkeypatch):
    with pytest.warns(TleWarning):
        at_once = read_tle(SNAPSHOT)
    monkeypatch.setattr(twin.tle, "_usual", lambda *_: None)
    with pytest.warns(TleWarning):
        assert read_tle(SNAPSHOT) == at_once


@pytest.mark.parametrize(
    ("line_1", "line_2"),
    [
        (put(LINE_1, 63, " "), LINE_2),
        (put(LINE_1, 65, "    "), LINE_2),
        (LINE_1, put(LINE_2, 64, "     ")),
        (LINE_1, put(LINE_2, 9, "53.05480")),
        (put(LINE_1, 21, "8.9879853201"), LINE_2),
    ],
)
def test_a_line_in_a_rarer_layout_is_read_as_sgp4_reads_it(line_1, line_2):
    [satellite] = parse_tle(f"{line_1}\n{line_2}\n")
    model = Satrec.twoline2rv(line_1, line_2)
    assert model.inclo == np.radians(satellite.inclination_deg)
    assert model.jdsatepoch == satellite.epoch_jd
    assert model.jdsatepochF == pytest.approx(satellite.epoch_fr, abs=0.5e-8), "sgp4 keeps eight digits"
    assert satellite.satrec().jdsatepochF == satellite.epoch_fr


def test_sgp4_accepts_every_low_orbit_that_is_not_asked():
    rng = np.random.default_rng(1)
    asked = 0
    for _ in range(3_000):
        drawn = {
            "mean_motion_rev_day": rng.uniform(6.0, 17.2),
            "eccentricity": rng.uniform(0.0, 0.5) ** 2 * 2,
            "inclination_deg": rng.choice([0.0, 63.4, 180.0, rng.uniform(0, 180)]),
            "raan_deg": rng.uniform(0, 360),
            "argument_of_perigee_deg": rng.choice([90.0, 270.0, rng.uniform(0, 360)]),
            "mean_anomaly_deg": rng.choice([0.0, rng.uniform(0, 360)]),
            "bstar": rng.choice([0.0, -1.0, 1.0, 1e9]),
        }
        satellite = Satellite("A", 1, 2_460_883.5, 0.5, **drawn)
        refused = satellite.satrec().error != 0
        assert isinstance(twin.tle._flyable(satellite), str) == refused, drawn
        asked += refused
    assert asked > 100


def test_select_looks_for_part_of_the_name_in_either_case():
    satellites = parse_tle(f"{GOOD}{NAME}\n{LINE_1}\n{LINE_2}\n")
    assert [satellite.name for satellite in select(satellites, "starlink")] == [NAME]
    assert select(satellites, "") == satellites


def test_the_snapshot_has_exactly_one_broken_set():
    with pytest.warns(TleWarning) as caught:
        satellites = read_tle(SNAPSHOT)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "left out 1 broken element set(s)" in message
    assert "line 10032: TLE line 2 of 'ONEWEB-0094' has 7 characters" in message
    assert len(satellites) == 3_344 - 1
    assert len({satellite.number for satellite in satellites}) == len(satellites)
    assert len(select(satellites, "STARLINK")) == 274
    middle_utc = sorted(satellite.epoch_utc for satellite in satellites)[len(satellites) // 2]
    assert middle_utc.replace(second=0, microsecond=0) == datetime(2022, 2, 22, 13, 52, tzinfo=UTC)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared TLE lists are not beside the checkout")
@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("active-2023-08-22.tle", 8_404),
        ("starlink-2025-07-27.tle", 7_996),
        ("oneweb-2025-07-27.tle", 651),
        ("iridium-next-2025-01-23.tle", 80),
        ("starlink-2020-10-16.tle", 732),
        ("starlink-shell1-plane-2023-08-22.tle", 21),
        ("starlink-shell1-plane-history-2025-07-27_2025-09-23.tle", 1_001),
    ],
)
def test_no_good_set_of_other_lists_is_refused(file, count):
    assert len(read_tle(SHARED / file, broken="refuse")) == count


def test_only_the_named_are_read_and_the_faults_of_others_are_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = read_tle(SNAPSHOT, name="starlink")
    assert len(named) == 274
    with pytest.warns(TleWarning, match="ONEWEB-0094"):
        read_tle(SNAPSHOT, name="ONEWEB")
    with pytest.raises(TleError, match="no usable element set of a satellite whose name contains 'GALILEO'"):
        read_tle(SNAPSHOT, name="GALILEO")
