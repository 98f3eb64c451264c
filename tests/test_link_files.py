"""A link's files: netCDF and back, the picture, the table, and the verb that writes them."""

import json
import sys
from dataclasses import fields, replace

import msgspec
import numpy as np
import pytest
from terminal import ROOT
from test_cli import ntn_twin  # noqa: F401  a fixture

import twin
from hil import link_files
from twin.channel import Link
from twin.errors import RecordError, ScenarioError

pytestmark = pytest.mark.usefixtures("no_child_left")

SHORT = {"slots": 20, "link.n_rb": 10}
WORDS = ("baseline", "--set", "slots=20", "--set", "link.n_rb=10")


@pytest.fixture(scope="module")
def scenario():
    return twin.load("baseline", SHORT)


@pytest.fixture(scope="module")
def world(scenario):
    return link_files.traced(scenario)


@pytest.fixture(scope="module")
def trace(world):
    return world.link_trace(0, part=(0, 200))


@pytest.fixture
def without(monkeypatch):
    def forget(library):
        for name in [m for m in sys.modules if m.split(".")[0] == library]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, library, None)

    return forget


# netCDF


def test_dataset_has_every_array_with_its_unit_and_meaning(trace):
    pytest.importorskip("xarray")
    found = link_files.dataset(trace)
    arrays = {f.name for f in fields(trace) if isinstance(getattr(trace, f.name), np.ndarray)}
    names = set(found.variables)
    assert {name for name in arrays if not {name, f"{name}_real"} & names} == set()
    assert {f"{name}_loss_db" for name in ("free_space", "fixed", "rain", "clutter", "fault")} | {
        "shadow_fading_db"
    } <= names
    unsaid = [name for name, of in found.variables.items() if not of.attrs.get("long_name")]
    assert unsaid == []
    plain = {"los", "time", "rb", "path", "angle", "axis"}
    assert [name for name, of in found.variables.items() if name not in plain and not of.attrs.get("units")] == []
    assert found.sizes == {"time": 200, "rb": 10, "path": 4, "angle": 2, "axis": 2}


def test_page_names_every_variable_of_the_file(trace):
    pytest.importorskip("xarray")
    page = (ROOT / "docs" / "link.md").read_text(encoding="utf-8")
    names = {*link_files.dataset(trace).variables, *(name for name, _, _ in link_files.LOSSES.values())}
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_file_comes_back_as_it_was_written(scenario, world, trace, tmp_path):
    pytest.importorskip("h5netcdf")
    path = link_files.write_netcdf(trace, tmp_path / "pass.nc", link_files.facts_of(scenario, world))
    found = link_files.read_netcdf(path)
    for name in link_files.MEANINGS:
        np.testing.assert_array_equal(found[name].values, getattr(trace, name), err_msg=name)
    for term, values in trace.loss_db.items():
        np.testing.assert_array_equal(found[link_files.LOSSES[term][0]].values, values, err_msg=term)
    np.testing.assert_array_equal(found["los"].values.astype(bool), trace.los)
    np.testing.assert_array_equal(found["time"].values, trace.utc)
    np.testing.assert_array_equal(found["t_s"].values, trace.t_s)
    np.testing.assert_array_equal(found["frequency_hz"].values, 1.44e6 * np.arange(10))
    assert np.iscomplexobj(found["block_response"].values)
    about = found.attrs
    assert (about["satellite"], about["satellite_number"], about["seed"]) == ("STARLINK-1102", 44920, 1)
    assert about["scenario"] == "baseline"
    assert len(about["tle_sha256"]) == 64
    assert msgspec.json.decode(about["link"], type=Link) == trace.link
    assert about["source"].startswith("ntn-twin ")
    assert "negative when receding" in found["doppler_hz"].attrs["long_name"]


def test_file_is_plain_netcdf_that_needs_nothing_of_ours(trace, tmp_path):
    """The relation the notes give, by variables of the file alone."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    path = link_files.write_netcdf(trace, tmp_path / "pass.nc")
    with xarray.open_dataset(path, engine="h5netcdf") as file:
        power = file.block_response_real**2 + file.block_response_imag**2
        snr_db = 10.0 * np.log10(file.attrs["snr_per_gain"] * file.path_gain * power)
        np.testing.assert_allclose(snr_db.transpose("time", "rb"), file.snr_db, rtol=0.0, atol=1e-6)
        losses = [file[name] for name in file.data_vars if name.endswith(("_loss_db", "_fading_db"))]
        np.testing.assert_allclose(sum(losses), -10.0 * np.log10(file.path_gain) + 10.0, rtol=0.0, atol=1e-9)
        assert path.stat().st_size < 500_000


def test_file_that_exists_is_replaced_only_when_asked(trace, tmp_path):
    pytest.importorskip("h5netcdf")
    path = tmp_path / "pass.nc"
    path.write_text("mine")
    with pytest.raises(RecordError, match=r"pass\.nc exists; --overwrite"):
        link_files.write_netcdf(trace, path)
    assert path.read_text() == "mine"
    link_files.write_netcdf(trace, path, overwrite=True)
    assert path.read_bytes().startswith(b"\x89HDF")
    with pytest.raises(RecordError, match="there is no folder"):
        link_files.write_netcdf(trace, tmp_path / "none" / "pass.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["pass.nc"]


def test_name_that_cannot_be_a_file_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, complaint in (("folder", "is a folder; name the file"), ("x" * 300, "File name too long")):
        for overwrite in (False, True):
            with pytest.raises(RecordError, match=complaint):
                link_files.check_extras(tmp_path / name, None, overwrite)


def test_folder_without_permission_is_told_before_any_work(ntn_twin, monkeypatch):  # noqa: F811
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(link_files.os, "access", lambda path, mode: False)  # whoever runs the tests may be root
    monkeypatch.setattr(link_files, "traced", None)
    said = ntn_twin("link", *WORDS, "--png", "pass.png")
    assert (said.code, said.out) == (2, "")
    assert "pass.png cannot be written: no permission to write in" in said.err


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(RecordError, match="give them two names"):
        link_files.check_extras(tmp_path / "same", tmp_path / "there" / ".." / "same", True)


def test_file_that_is_no_netcdf_is_told(tmp_path):
    pytest.importorskip("h5netcdf")
    (tmp_path / "no.nc").write_text("no")
    for name in ("no.nc", "missing.nc"):
        with pytest.raises(RecordError, match=rf"{name} cannot be read as netCDF"):
            link_files.read_netcdf(tmp_path / name)


@pytest.mark.parametrize("library", ["xarray", "h5netcdf"])
def test_without_the_extra_it_is_said_how_to_get_it(trace, tmp_path, without, library):
    without(library)
    with pytest.raises(RecordError, match=rf"{library} is missing; install it with: pip install 'ntn-twin\[export\]'"):
        link_files.write_netcdf(trace, tmp_path / "pass.nc")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_is_said_how_to_get_it(trace, tmp_path, without):
    without("matplotlib")
    with pytest.raises(RecordError, match=r"matplotlib is missing; install it with: pip install 'ntn-twin\[report\]'"):
        link_files.draw(trace, tmp_path / "pass.png")


# the picture and the table


def test_picture_shows_something_in_every_panel(trace, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    path = link_files.draw(trace, tmp_path / "pass.png", "seed 1")
    assert path.stat().st_size < 150_000
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape == (1000, 900, 3)
    for rows in (slice(60, 220), slice(250, 420), slice(440, 700), slice(730, 950)):
        panel = pixels[rows, 100:800].reshape(-1, 3)
        assert len(np.unique(panel, axis=0)) > 10
        assert (panel.min(axis=1) < 200).mean() > 0.001


def test_picture_copes_with_a_link_that_has_no_chance(trace, tmp_path):
    """Two times, one loss term, no signal at all in half of the blocks."""
    pytest.importorskip("matplotlib")
    snr_db = trace.snr_db[:2].copy()
    snr_db[:, ::2] = -np.inf
    cut = {f.name: getattr(trace, f.name)[:2] for f in fields(trace) if isinstance(getattr(trace, f.name), np.ndarray)}
    loss_db = {"free_space": trace.loss_db["free_space"][:2], "shadow": np.zeros(2)}
    path = link_files.draw(replace(trace, **(cut | {"snr_db": snr_db, "loss_db": loss_db})), tmp_path / "pass.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_picture_of_one_time_is_refused(world, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(RecordError, match="goes over time, and this trace has one"):
        link_files.draw(world.link_trace(0, part=(3, 4)), tmp_path / "pass.png")
    assert list(tmp_path.iterdir()) == []


def test_summary_says_what_the_arrays_say(trace):
    found = link_files.summary(trace)
    assert found["max_elevation_deg"] == trace.elevation_deg.max()
    assert found["los_share"] == trace.los.mean()
    assert found["min_loss_db"] <= found["median_loss_db"] <= found["max_loss_db"]
    assert found["snr_p5_db"] <= found["snr_median_db"] <= found["snr_p95_db"]
    assert found["max_abs_doppler_hz"] == np.abs(trace.doppler_hz).max()
    assert (found["from_utc"], found["to_utc"]) == ("2022-02-22T13:10:30.000Z", "2022-02-22T13:10:49.900Z")
    json.dumps(found)
    page = (ROOT / "docs" / "link.md").read_text(encoding="utf-8")
    assert [key for key in found if f"`{key}`" not in page] == []


def test_world_without_a_link_is_told():
    import toys

    with pytest.raises(ScenarioError, match="has no link over passes"):
        link_files.traced(toys.scenario())


# the verb


def test_verb_prints_a_table_of_the_passes(ntn_twin):  # noqa: F811
    said = ntn_twin("link", "quickstart", "--set", "slots=6000", "--set", "link.n_rb=10")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "quickstart: seed 1, 20 GHz, suburban, beams matched"
    assert [line.split()[1] for line in lines[3:]] == ["STARLINK-1102", "STARLINK-1111", "STARLINK-1073"]
    assert all(word in lines[1] for word in ("highest", "Doppler", "in sight", "loss", "SNR"))
    assert all(unit in lines[2] for unit in ("deg", "km", "kHz", "dB", "Mbit/s"))


def test_verb_writes_the_files_of_the_pass_that_is_asked_for(ntn_twin, tmp_path):  # noqa: F811
    pytest.importorskip("h5netcdf")
    pytest.importorskip("matplotlib")
    words = ("link", "quickstart", "--set", "slots=6000", "--set", "link.n_rb=10", "--seed", 4, "--json")
    said = ntn_twin(*words, "--pass", 2, "--netcdf", "two.nc", "--png", "two.png").json
    assert (said["pass"], said["seed"], said["netcdf"], said["png"]) == (2, 4, "two.nc", "two.png")
    found = link_files.read_netcdf(tmp_path / "two.nc")
    assert found.attrs["satellite"] == said["passes"][1]["name"]
    assert found.attrs["seed"] == 4
    assert float(found.snr_db.median()) == said["passes"][1]["snr_median_db"]
    assert (tmp_path / "two.png").stat().st_size > 10_000
    again = ntn_twin(*words, "--netcdf", "two.nc")
    assert (again.code, again.out) == (2, "")
    assert "two.nc exists; --overwrite" in again.err
    highest = ntn_twin(*words, "--netcdf", "two.nc", "--overwrite", "--samples", 2).json
    assert highest["pass"] == 1
    found = link_files.read_netcdf(tmp_path / "two.nc")
    assert found.sizes["time"] == 2 * highest["passes"][0]["times"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--pass", 0), "--pass must be from 1 to 1, the passes of this scenario, got 0"),
        (("--pass", 2), "--pass must be from 1 to 1, the passes of this scenario, got 2"),
        (("--png", "none/pass.png"), "there is no folder"),
        (("--set", "link.carrier_hz=1"), "link.carrier_hz"),
        (("--samples", 10**6, "--png", "pass.png"), "take fewer samples"),
        (("--samples", 2), "--samples is of the files: give --netcdf or --png"),
        (("--png", "."), ". is a folder"),
    ],
)
def test_bad_input_is_told_with_exit_code_2(ntn_twin, words, complaint):  # noqa: F811
    if "--png" in words:
        pytest.importorskip("matplotlib")
    said = ntn_twin("link", *WORDS, *words)
    assert (said.code, said.out) == (2, "")
    assert complaint in said.err


@pytest.mark.filterwarnings("ignore:no satellite serves")
def test_window_without_a_pass_says_so(ntn_twin):  # noqa: F811
    words = ("link", *WORDS, "--set", "sky.mask_deg=89")
    said = ntn_twin(*words)
    assert (said.code, "nobody serves" in said.out) == (0, True)
    said = ntn_twin(*words, "--json").json
    assert (said["passes"], said["pass"]) == ([], None)
    assert "--pass 1: nobody serves in this window" in ntn_twin(*words, "--pass", 1).err
    pytest.importorskip("matplotlib")
    assert "nobody serves" in ntn_twin(*words, "--png", "pass.png").err


def test_ctrl_c_ends_it_with_130_and_leaves_what_was_there(ntn_twin, monkeypatch, tmp_path):  # noqa: F811
    Image = pytest.importorskip("PIL.Image", reason="matplotlib brings it").Image
    pytest.importorskip("matplotlib")

    def stop(self, to, **options):
        to.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "save", stop)
    (tmp_path / "pass.png").write_text("mine")
    before = sorted(tmp_path.iterdir())
    said = ntn_twin("link", *WORDS, "--png", "pass.png", "--overwrite")
    assert (said.code, said.out, said.err) == (130, "", "stopped\n")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "pass.png").read_text() == "mine"
