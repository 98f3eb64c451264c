"""What `ntn-twin tle info` says of a file, against counts made by hand, sgp4, and the shells that are known."""

import json
import sys
import warnings
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sgp4.api import jday
from terminal import ROOT
from typer.testing import CliRunner

from hil import cli
from hil.catalogue_table import constellation, format_of, info, rows
from hil.cli import app
from twin import read_tle
from twin.errors import TleError
from twin.tle import TleWarning

SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"
THEN = datetime(2022, 2, 22, 13, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def found():
    return info(SNAPSHOT, THEN)


def test_sets_names_and_epochs_are_counted(found):
    assert (found.sets, found.broken, found.numbers, found.format) == (3_343, 1, 3_343, "tle")
    [reason] = found.reasons
    assert reason == "line 10032: TLE line 2 of 'ONEWEB-0094' has 7 characters, expected 69: 2 45450"
    to_minute = [f"{t:%Y-%m-%d %H:%M}" for t in (found.first_epoch_utc, found.median_epoch_utc, found.last_epoch_utc)]
    assert to_minute == ["2022-01-25 02:02", "2022-02-22 13:52", "2022-02-22 22:14"]  # scenarios/tle/SOURCES.md
    assert (found.deep_space, found.beyond_five_digits) == (0, 0)


def test_constellations_are_counted_by_the_first_word_of_the_name(found):
    assert found.constellations["STARLINK"] == 274
    assert found.constellations["ONEWEB"] == 66
    assert sum(found.constellations.values()) == found.sets
    assert list(found.constellations.values()) == sorted(found.constellations.values(), reverse=True)
    names = ("STARLINK-1007", "IRIDIUM 106", "Flock 4x-1", "1998-067NJ", "44714", "", "ISS (ZARYA)")
    assert [constellation(name) for name in names] == [
        "STARLINK",
        "IRIDIUM",
        "FLOCK",
        "others",
        "others",
        "others",
        "ISS",
    ]


@pytest.mark.filterwarnings("ignore:.*left out 1 broken")
def test_errors_of_sgp4_are_those_of_sgp4(found):
    errors = [s.satrec().sgp4(*jday(2022, 2, 22, 13, 0, 0))[0] for s in read_tle(SNAPSHOT)]
    codes, counts = np.unique([e for e in errors if e], return_counts=True)
    assert found.sgp4_errors == dict(zip(codes.tolist(), counts.tolist()))
    assert sum(found.sgp4_errors.values()) == 10


def test_shells_are_those_that_flew_then(found):
    """Starlink's first shell with 18 slots of 20 deg a plane; Iridium NEXT: 66 satellites in six planes."""
    [starlink] = [shell for shell in found.shells if shell.constellation == "STARLINK"]
    assert abs(starlink.altitude_m - 547e3) < 2e3
    assert round(starlink.inclination_deg, 1) == 53.1
    assert {plane.slots for plane in starlink.planes} == {18}
    assert all(plane.held + plane.spares == plane.satellites for plane in starlink.planes)
    [iridium] = [shell for shell in found.shells if shell.constellation == "IRIDIUM"]
    assert [(plane.slots, plane.held) for plane in iridium.planes] == [(11, 11)] * 6


@pytest.mark.parametrize(
    ("after", "says", "age"),
    [
        (timedelta(0), "about 1 km", "0.0 days before the median epoch"),
        (timedelta(days=3, hours=1), "about 14 km", "3.0 days"),
        (timedelta(days=-6, hours=-23), "about 39 km", "7.0 days before the median epoch"),
        (timedelta(days=400), "more than 150 km", "400.0 days"),
    ],
)
def test_age_and_the_error_to_expect_are_said(after, says, age):
    said = dict(rows(info(SNAPSHOT, THEN + after)))
    assert said["median error to expect then"] == says
    assert said[f"age at {THEN + after:%Y-%m-%d %H:%M} UTC"] == age


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (b"", "tle"),
        (b"0 STARLINK-1\n1 44714U", "tle"),
        (b'\xef\xbb\xbf [{"OBJECT_NAME": "X"}]', "json"),
        (b"OBJECT_NAME,OBJECT_ID,EPOCH,MEAN_MOTION\r\n", "csv"),
        (b'<?xml version="1.0"?><ndm>', "xml"),
        (b"CCSDS_OMM_VERS = 2.0\n", "kvn"),
    ],
)
def test_a_format_is_told_by_how_a_text_begins(text, form):
    assert format_of(text) == form


def test_the_command_prints_a_table_or_one_object(tmp_path):
    def run(*words):
        return CliRunner().invoke(app, ["tle", "info", *map(str, words)])

    told = run(SNAPSHOT, "--at", "2022-02-22T13:00:00Z")
    assert (told.exit_code, told.stderr) == (0, "")
    assert "3,343 element sets, tle" in told.stdout
    assert "left out: line 10032: TLE line 2 of 'ONEWEB-0094'" in told.stdout
    assert "STARLINK 274" in told.stdout
    told = run(SNAPSHOT, "--at", "2022-02-22T14:00:00+01:00", "--json")
    assert (told.exit_code, told.stderr) == (0, "")
    said = json.loads(told.stdout)
    assert said["at_utc"] == "2022-02-22T13:00:00Z"
    assert said["median_epoch_utc"] == "2022-02-22T13:52:52Z"
    assert said["shells"][1]["planes"][0]["slots"] == 18
    for words, says in (
        ((tmp_path / "x.tle",), "there is no TLE file"),
        ((SNAPSHOT, "--at", "9999-12-31T23:59:59-14:00"), "an instant from 1957 to 2099, got 9999-12-31"),
        ((SNAPSHOT, "--at", "0001-01-01T00:00:00+14:00"), "an instant from 1957 to 2099, got 0001-01-01"),
        ((SNAPSHOT, "--at", "2100-01-01T00:00:00Z"), "an instant from 1957 to 2099, got 2100-01-01"),
        ((SNAPSHOT, "--at", "noon"), "--at takes an instant with its offset from UTC"),
        ((SNAPSHOT, "--at", "2022-02-22T13:00:00"), "--at takes an instant with its offset from UTC"),
    ):
        told = run(*words)
        assert isinstance(told.exception, TleError)
        assert says in str(told.exception)
        assert told.stdout == ""


def test_the_first_twenty_reasons_are_named_and_nothing_else(tmp_path):
    lines = "".join(f"LONELY {k}\n" for k in range(25))
    (tmp_path / "x.tle").write_text(
        f"{lines}GOOD\n"
        "1 44714U 19074B   25208.98798532  .00002307  00000+0  17380-3 0  9992\n"
        "2 44714  53.0548 115.3449 0001134  85.9190 274.1928 15.06383560315059\n"
    )
    found = info(tmp_path / "x.tle")
    assert (found.sets, found.broken) == (1, 25)
    assert [reason.split("'")[1] for reason in found.reasons] == [f"LONELY {k}" for k in range(20)]


def test_warnings_of_the_command_are_printed_as_they_are(monkeypatch, capsys, tmp_path):
    """Names such as 'STARLINK-11072 [DTC]' are not the markup of the printer."""

    def warn(*_, **__):
        warnings.warn("the furthest, STARLINK-11072 [DTC] [/b]", TleWarning, stacklevel=1)

    monkeypatch.setattr(cli, "app", warn)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        cli.main()
    assert capsys.readouterr().err == "warning: the furthest, STARLINK-11072 [DTC] [/b]\n"


def test_a_file_without_sets_has_no_info(tmp_path):
    (tmp_path / "x.tle").write_text("No GP data found")
    with pytest.raises(TleError, match="holds no usable element set"):
        info(tmp_path / "x.tle")
