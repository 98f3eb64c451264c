"""A link over a pass for other tools and for the eye: xarray and netCDF, a picture, and a table.

netCDF has no complex numbers: those are pairs of variables that end in _real and _imag. Names, units and shapes are
listed in docs/link.md.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hil.tables import table_of
from twin.channel.trace import LinkTrace
from twin.errors import RecordError, ScenarioError
from twin.scenario import Scenario, build
from twin.units import GIGA, KILO, MEGA

LOSSES = {  # of LinkTrace.loss_db, bottom to top of the picture: variable, meaning, colour
    "free_space": ("free_space_loss_db", "free space", "#c3ccd6"),
    "fixed": ("fixed_loss_db", "air", "C9"),
    "gas": ("gas_loss_db", "gases", "C9"),
    "scintillation": ("scintillation_loss_db", "scintillation", "C4"),
    "rain": ("rain_loss_db", "rain", "C0"),
    "clutter": ("clutter_loss_db", "clutter", "C1"),
    "fault": ("fault_loss_db", "faults of the scenario", "C3"),
    "shadow": ("shadow_fading_db", "shadow fading", "C2"),
}
GAIN_COLOUR = "#d5efcf"  # where shadow fading takes less than nothing
BRIEF_S = 8.0  # a part of a pass so short that whole seconds do not tell its times apart
COLOURS = 256  # of the picture: a third of the bytes
SNR_SHARES = {"snr_p5_db": 5.0, "snr_median_db": 50.0, "snr_p95_db": 95.0}
SHOWN_DB = 40.0  # so far below the best go the picture's colours
COMPLEX = ("amplitude", "path_response", "block_response")
MEANINGS = {  # of the fields of a LinkTrace: dimensions after time, units, meaning
    "elevation_deg": ((), "degree", "elevation of the satellite over the terminal's horizon"),
    "azimuth_deg": ((), "degree", "azimuth of the satellite from north through east"),
    "slant_range_m": ((), "m", "distance between satellite and terminal"),
    "propagation_delay_s": ((), "s", "one-way propagation delay of the direct path"),
    "doppler_hz": ((), "Hz", "Doppler shift of the direct path, received minus sent: negative when receding"),
    "doppler_rate_hz_s": ((), "Hz s-1", "rate of the Doppler shift"),
    "tx_direction_deg": (("angle",), "degree", "the terminal in the frame of the satellite's panel"),
    "rx_direction_deg": (("angle",), "degree", "the satellite in the frame of the terminal's panel"),
    "tx_beam_deg": (("angle",), "degree", "the satellite's beam in its panel's frame"),
    "rx_beam_deg": (("angle",), "degree", "the terminal's beam in its panel's frame"),
    "path_gain": ((), "1", "power gain of the way: all losses and both element gains, without beams and fading"),
    "amplitude": (("path",), "1", "amplitude alpha of each path before the beams, array gain included"),
    "arrival": (("path", "axis"), "1", "direction cosines of each path's arrival, terminal's panel"),
    "departure": (("path", "axis"), "1", "direction cosines of each path's departure, satellite's panel"),
    "delay_s": (("path",), "s", "delay of each path in excess of propagation_delay_s"),
    "path_response": (("path",), "1", "impulse response through both beams, without path_gain"),
    "block_response": (("rb",), "1", "frequency response through both beams, without path_gain"),
    "snr_db": (("rb",), "dB", "signal-to-noise ratio of each resource block"),
    "rate_bps": ((), "bit s-1", "rate of all resource blocks together"),
}
NOTES = (
    "Positive loss_db is loss. Amplitudes are relative to the direct path: multiply block_response of block m by "
    "exp(-2j pi (carrier_hz + frequency_hz[m]) propagation_delay_s) and by sqrt(path_gain) for the whole channel; the "
    "Doppler shift all paths share is in that factor only. snr = snr_per_gain path_gain |block_response|^2. Angles "
    "theta and phi: u = (sin phi cos theta, cos phi, sin phi sin theta), z to the geocentre (satellite) or the zenith "
    "(terminal), x along the satellite's track; direction cosines are u_x and u_y. Complex numbers are pairs of "
    "variables, _real and _imag."
)


def traced(scenario: Scenario) -> Any:
    """The scenario's world, with its seed's draws: `world.link_trace(i)` is the link over `world.services[i]`.

    Raises ScenarioError for a world without one.
    """
    world = build(scenario)
    if not hasattr(world, "link_trace"):
        raise ScenarioError(f"scenario {scenario.name}: world {scenario.world} has no link over passes")
    world.reset(scenario.seed)
    return world


def facts_of(scenario: Scenario, world: Any) -> dict[str, Any]:
    """Attributes that say where a file comes from: scenario, seed, hashes of the element sets."""
    return {"scenario": scenario.name, "seed": scenario.seed, **world.inputs}


def dataset(trace: LinkTrace, attributes: Mapping[str, Any] | None = None) -> Any:
    """The trace as an xarray.Dataset over time, rb (resource block) and path, each variable with units and meaning.

    attributes  more of them for the whole: scenario, seed

    Raises RecordError where xarray is missing. Checked by tests/test_link_files.py.
    """
    xarray = _extra("xarray", "export")
    variables: dict[str, Any] = {}
    for name, (more, units, meaning) in MEANINGS.items():
        values, about = getattr(trace, name), {"units": units, "long_name": meaning}
        if name in COMPLEX:
            for part, word, half in (("real", "real", values.real), ("imag", "imaginary", values.imag)):
                halved = about | {"long_name": f"{meaning}, {word} part"}
                variables[f"{name}_{part}"] = (("time", *more), half, halved)
        else:
            variables[name] = (("time", *more), values, about)
    variables["los"] = (
        ("time",),
        trace.los.astype("i1"),
        {"long_name": "line of sight", "flag_values": np.array([0, 1], "i1"), "flag_meanings": "blocked clear"},
    )
    for term, values in trace.loss_db.items():
        name, meaning, _ = LOSSES[term]
        variables[name] = (("time",), values, {"units": "dB", "long_name": f"loss: {meaning}"})
    n_paths, link = trace.amplitude.shape[1], trace.link
    coordinates = {
        "time": ("time", trace.utc, {"long_name": "UTC"}),
        "t_s": ("time", trace.t_s, {"units": "s", "long_name": "time after slot 0 of the scenario"}),
        "rb": ("rb", np.arange(link.n_rb), {"long_name": "resource block"}),
        "frequency_hz": ("rb", trace.frequency_hz, {"units": "Hz", "long_name": "above the first resource block"}),
        "path": ("path", np.arange(n_paths), {"long_name": "path; 0 is the direct one"}),
        "angle": ("angle", ["theta", "phi"], {"long_name": "angles of a panel"}),
        "axis": ("axis", ["x", "y"], {"long_name": "axes of a panel"}),
    }
    about_all = {
        "title": f"Link of {trace.satellite} to {_place(trace)}",
        "source": f"ntn-twin {_version()}",
        "satellite": trace.satellite,
        "satellite_number": trace.number,
        "start_utc": trace.start_utc.isoformat().replace("+00:00", "Z"),
        "latitude_deg": trace.site.latitude_deg,
        "longitude_deg": trace.site.longitude_deg,
        "altitude_m": trace.site.altitude_m,
        "slot_s": trace.slot_s,
        "samples": trace.samples,
        "carrier_hz": link.carrier_hz,
        "rb_bandwidth_hz": link.rb_bandwidth_hz,
        "snr_per_gain": link.snr_per_gain,
        "array_gain": link.array_gain,
        "link": msgspec.json.encode(link).decode(),
        "notes": NOTES,
    }
    return xarray.Dataset(variables, coordinates, about_all | dict(attributes or {}))


def write_netcdf(
    trace: LinkTrace, path: str | Path, attributes: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """The trace as a netCDF-4 file; see `dataset`.

    Raises RecordError where the file exists and may not be replaced, cannot be written, or a library is missing.
    """
    _extra("h5netcdf", "export")
    _extra("h5py", "export")  # h5netcdf does not bring it along
    found = dataset(trace, attributes)
    squeezed = {"zlib": True, "complevel": 4, "shuffle": True}
    encoding: dict[str, Any] = {name: squeezed for name, of in found.data_vars.items() if of.ndim > 1}
    encoding["time"] = {"dtype": "int64", "units": f"nanoseconds since {np.datetime_as_string(trace.utc[0], 's')}"}
    with _fresh(path, overwrite) as to:
        found.to_netcdf(to, engine="h5netcdf", encoding=encoding)
    return Path(path)


def read_netcdf(path: str | Path) -> Any:
    """A file of `write_netcdf` as an xarray.Dataset, read whole; pairs of _real and _imag are complex again.

    Raises RecordError where there is no such file, or a library is missing.
    """
    xarray = _extra("xarray", "export")
    _extra("h5netcdf", "export")
    _extra("h5py", "export")  # h5netcdf does not bring it along
    try:
        with xarray.open_dataset(path, engine="h5netcdf") as file:
            found = file.load()
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read as netCDF: {error}") from None
    for name in COMPLEX:
        if f"{name}_real" in found:
            about = found[f"{name}_real"].attrs
            found[name] = found[f"{name}_real"] + 1j * found[f"{name}_imag"]
            found[name].attrs = about | {"long_name": about["long_name"].removesuffix(", real part")}
            found = found.drop_vars([f"{name}_real", f"{name}_imag"])
    return found


def summary(trace: LinkTrace) -> dict[str, Any]:
    """What a pass was like, in numbers: for the table and for JSON."""
    total_db = trace.total_loss_db
    stamps = np.datetime_as_string(trace.utc[[0, -1]], "ms")
    snr_db = np.percentile(trace.snr_db, list(SNR_SHARES.values()))
    return {
        "name": trace.satellite,
        "number": trace.number,
        "from_utc": f"{stamps[0]}Z",
        "to_utc": f"{stamps[1]}Z",
        "times": len(trace.t_s),
        "max_elevation_deg": float(trace.elevation_deg.max()),
        "max_slant_range_m": float(trace.slant_range_m.max()),
        "max_propagation_delay_s": float(trace.propagation_delay_s.max()),
        "max_abs_doppler_hz": float(np.abs(trace.doppler_hz).max()),
        "max_abs_doppler_rate_hz_s": float(np.abs(trace.doppler_rate_hz_s).max()),
        "los_share": float(trace.los.mean()),
        "min_loss_db": float(total_db.min()),
        "median_loss_db": float(np.median(total_db)),
        "max_loss_db": float(total_db.max()),
        **{name: float(value) for name, value in zip(SNR_SHARES, snr_db)},
        "mean_rate_bps": float(trace.rate_bps.mean()),
    }


def table(found: Sequence[Mapping[str, Any]]) -> Any:
    """One row for each of some summaries."""
    shown = table_of(
        "pass", "satellite", "from (UTC)", "to", "highest", "range", "Doppler", "in sight",
        "loss: least", "median", "most", "SNR: p5", "median", "p95", "rate",
    )  # fmt: skip
    shown.add_row("", "", "", "", "deg", "km", "kHz", "%", "dB", "dB", "dB", "dB", "dB", "dB", "Mbit/s", style="dim")
    for i, one in enumerate(found, start=1):
        shown.add_row(
            str(i),
            one["name"],
            one["from_utc"][:19].replace("T", " "),
            one["to_utc"][11:19],
            f"{one['max_elevation_deg']:.1f}",
            f"{one['max_slant_range_m'] / KILO:.0f}",
            f"{one['max_abs_doppler_hz'] / KILO:.1f}",
            f"{100 * one['los_share']:.0f}",
            *(f"{one[name]:.1f}" for name in ("min_loss_db", "median_loss_db", "max_loss_db")),
            *(f"{one[name]:.1f}" for name in SNR_SHARES),
            f"{one['mean_rate_bps'] / MEGA:.0f}",
        )
    return shown


def draw(trace: LinkTrace, path: str | Path, about: str = "", overwrite: bool = False) -> Path:
    """The pass as PNG: elevation and range, Doppler shift and its rate, losses one on the other, SNR of every block.

    about  put behind the satellite's name and place, as the seed

    Raises RecordError where the file exists and may not be replaced, for a trace of one time, or where matplotlib is
    missing.
    """
    _extra("matplotlib", "report")
    if len(trace.t_s) < 2:
        raise RecordError("a picture goes over time, and this trace has one: take more slots, or more samples of it")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, DateFormatter, num2date
    from matplotlib.figure import Figure
    from PIL import Image  # matplotlib brings it

    at = trace.utc.astype("datetime64[us]")
    figure = Figure(figsize=(9.0, 10.0), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(4, 1, sharex=True, height_ratios=[1.0, 1.0, 1.5, 1.3])
    _two(panels[0], at, trace.elevation_deg, "elevation, deg", trace.slant_range_m / KILO, "distance, km")
    high = np.abs(trace.doppler_hz).max() >= 10 * KILO
    scale, unit = (KILO, "kHz") if high else (1.0, "Hz")
    rate, per = trace.doppler_rate_hz_s, "Hz/s"
    if np.abs(rate).max() >= 10 * KILO:
        rate, per = rate / KILO, "kHz/s"
    _two(panels[1], at, trace.doppler_hz / scale, f"Doppler shift, {unit}", rate, f"its rate, {per}")
    panels[1].axhline(0.0, color="0.5", linewidth=0.8)
    _losses(panels[2], at, trace)
    _waterfall(panels[3], at, trace)
    for panel in panels[:-1]:
        panel.grid(alpha=0.3)
    across = panels[-1].xaxis
    across.set_major_locator(AutoDateLocator(minticks=4, maxticks=10))
    across.set_major_formatter(DateFormatter("%H:%M:%S"))
    day, minute = (np.datetime_as_string(trace.utc[0], unit) for unit in ("D", "m"))
    panels[-1].set_xlabel(f"UTC, {day}")
    if trace.t_s[-1] - trace.t_s[0] < BRIEF_S:
        across.set_major_formatter(lambda at, _: f"{num2date(at):%S.%f}"[:-3])
        panels[-1].set_xlabel(f"seconds of {minute.replace('T', ' ')} UTC")
    panels[-1].set_xlim(at[0], at[-1])
    link = trace.link
    said = (
        f"{link.carrier_hz / GIGA:g} GHz, {link.n_rb} blocks of {link.rb_bandwidth_hz / KILO:g} kHz, {link.environment}"
    )
    figure.suptitle(f"{trace.satellite} over {_place(trace)}\n{said}{', ' if about else ''}{about}", fontsize=11)
    canvas.draw()
    image = (
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    )
    with _fresh(path, overwrite) as to:
        image.save(to, format="png", optimize=True)
    return Path(path)


def _two(panel: Any, at: np.ndarray, left: np.ndarray, left_label: str, right: np.ndarray, right_label: str) -> None:
    """Two curves over time, each with an axis of its colour."""
    for axes, values, label, colour, style in (
        (panel, left, left_label, "C0", "-"),
        (panel.twinx(), right, right_label, "C1", "--"),
    ):
        axes.plot(at, values, color=colour, linestyle=style, linewidth=1.4)
        axes.set_ylabel(label, color=colour)
        axes.tick_params(axis="y", colors=colour)


def _losses(panel: Any, at: np.ndarray, trace: LinkTrace) -> None:
    """The loss terms one on the other; where shadow fading is a gain, it is what is missing from those below."""
    base_db = np.zeros(len(at))
    for term, (_, meaning, colour) in LOSSES.items():
        if term not in trace.loss_db or not np.any(trace.loss_db[term]):
            continue
        top_db = base_db + trace.loss_db[term]
        panel.fill_between(at, base_db, np.maximum(top_db, base_db), color=colour, linewidth=0, label=meaning)
        if np.any(top_db < base_db):
            panel.fill_between(
                at, np.minimum(top_db, base_db), base_db, color=GAIN_COLOUR, linewidth=0, label=f"{meaning}, gain"
            )
        base_db = top_db
    panel.plot(at, trace.total_loss_db, color="0.1", linewidth=0.7, label="all together")
    lowest_db = min(trace.loss_db["free_space"].min(), trace.total_loss_db.min())
    highest_db = trace.total_loss_db.max()
    bottom_db = 5.0 * np.floor(lowest_db / 5.0 - 0.5)
    panel.set_ylim(bottom_db, highest_db + 0.22 * (highest_db - bottom_db))  # room for the legend
    panel.set_ylabel("loss, dB")
    panel.legend(loc="upper center", ncols=4, fontsize=8, framealpha=0.9)


def _waterfall(panel: Any, at: np.ndarray, trace: LinkTrace) -> None:
    """SNR over time and frequency; what is far below the best is all one colour."""
    from matplotlib import colormaps
    from matplotlib.dates import date2num

    step_mhz = trace.link.rb_step_hz / MEGA
    best_db, least_db = float(np.ceil(trace.snr_db.max())), float(np.floor(trace.snr_db.min()))
    bottom_db = max(best_db - SHOWN_DB, least_db)
    image = panel.imshow(
        trace.snr_db.T,
        aspect="auto",
        origin="lower",
        extent=(*date2num(at[[0, -1]]), -0.5 * step_mhz, (trace.link.n_rb - 0.5) * step_mhz),
        cmap=colormaps["viridis"].resampled(max(1, round(best_db - bottom_db))),  # a colour for each dB
        vmin=bottom_db,
        vmax=best_db,
        interpolation="antialiased",
    )
    panel.xaxis_date()
    panel.set_ylabel("above the first\nresource block, MHz")
    beside = panel.inset_axes((1.012, 0.0, 0.018, 1.0))
    extend = "min" if least_db < bottom_db else "neither"
    panel.figure.colorbar(image, cax=beside, label="SNR, dB", extend=extend)


def check_extras(netcdf: str | Path | None, png: str | Path | None, overwrite: bool) -> None:
    """Raise RecordError before any work if a file that is asked for cannot be written."""
    if netcdf is not None and png is not None and os.path.realpath(netcdf) == os.path.realpath(png):
        raise RecordError(f"{png} cannot be both the netCDF file and the picture; give them two names")
    for path, extra, names in ((netcdf, "export", ("xarray", "h5netcdf", "h5py")), (png, "report", ("matplotlib",))):
        if path is not None:
            _checked(Path(path), overwrite)
            for name in names:
                _extra(name, extra)


def _extra(name: str, extra: str) -> Any:
    """A library that an extra brings; RecordError saying how to get it."""
    try:
        return import_module(name)
    except ImportError:
        raise RecordError(f"{name} is missing; install it with: pip install 'ntn-twin[{extra}]'") from None


def _checked(path: Path, overwrite: bool) -> None:
    try:
        if path.is_dir():
            raise RecordError(f"{path} is a folder; name the file to write in it")
        if path.exists() and not overwrite:
            raise RecordError(f"{path} exists; --overwrite (overwrite=True) replaces it")
        if not path.absolute().parent.is_dir():
            raise RecordError(f"{path} cannot be written: there is no folder {path.absolute().parent}")
        if not os.access(path.absolute().parent, os.W_OK):
            raise RecordError(f"{path} cannot be written: no permission to write in {path.absolute().parent}")
    except OSError as error:  # a name that is too long, a folder we may not look into
        raise RecordError(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def _fresh(path: str | Path, overwrite: bool) -> Iterator[Path]:
    """A name to write to that becomes `path` when all is written: an interruption leaves what was there."""
    path = Path(path)
    _checked(path, overwrite)
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _place(trace: LinkTrace) -> str:
    site = trace.site
    north, east = ("N", "S")[site.latitude_deg < 0], ("E", "W")[site.longitude_deg < 0]
    return f"{abs(site.latitude_deg):g}° {north} {abs(site.longitude_deg):g}° {east}"


def _version() -> str:
    try:
        return version("ntn-twin")
    except PackageNotFoundError:
        return "unknown"
