"""The radio link's settings, what a path passes of the power, and the link as a controller may know it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike

from twin.channel.arrays import aperture_ka, beam_gain, pattern_gain
from twin.channel.losses import (
    at_elevation,
    clutter_loss_db,
    free_space_loss_db,
    gas_loss_db,
    scintillation_loss_db,
    slant_gas_db,
    zenith_gas_db,
)
from twin.channel.mcs import McsTable, mcs_table
from twin.channel.rain import Rain, rain_loss_db
from twin.channel.tables import REFERENCE_ELEVATION_DEG, Environment, environment
from twin.errors import ScenarioError
from twin.units import BOLTZMANN_J_K, MEGA, from_db, to_db

if TYPE_CHECKING:
    from twin.geometry import Pointing

RAIN_ELEVATION_DEG = np.arange(5.0, 91.0)  # where rain is computed; linear between, by path_gain and by NominalLink

Antennas = Annotated[int, Meta(ge=1, le=64)]
Polarisation = Literal["vertical", "horizontal", "slant", "rhcp", "lhcp"]
OPPOSITE = ({"vertical", "horizontal"}, {"rhcp", "lhcp"})  # any two others that differ share half the power
Multipath = Literal[
    "scatter", "clusters", "rays",
    "ntn-tdl-a", "ntn-tdl-b", "ntn-tdl-c", "ntn-tdl-d",
    "ntn-cdl-a", "ntn-cdl-b", "ntn-cdl-c", "ntn-cdl-d",
]  # fmt: skip


@lru_cache
def _kinds(struct: type) -> dict[str, Any]:
    """The types of a struct's fields, with their ranges."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The radio link: a scenario's [link] table. Raises ScenarioError for settings out of range or at odds."""

    carrier_hz: Annotated[float, Meta(ge=0.5e9, le=100e9, description="carrier frequency, Hz")] = 20e9
    rb_bandwidth_hz: Annotated[float, Meta(ge=1e3, le=1e9, description="bandwidth of one resource block, Hz")] = 1.44e6
    n_rb: Annotated[int, Meta(ge=1, le=10_000, description="resource blocks")] = 100
    n_groups: Annotated[int, Meta(ge=1, le=16, description="equal groups of neighbouring blocks; divides n_rb")] = 5
    rb_spacing_hz: Annotated[
        float,
        Meta(ge=0, le=1e9, description="from one resource block to the next, Hz; 0: side by side, one bandwidth"),
    ] = 0.0
    tx_antennas: Annotated[
        tuple[Antennas, Antennas],
        Meta(description="satellite's panel, antennas along x and y, half a wavelength apart"),
    ] = (16, 16)
    rx_antennas: Annotated[
        tuple[Antennas, Antennas], Meta(description="terminal's panel, antennas along x and y, half a wavelength apart")
    ] = (8, 8)
    tx_aperture_m: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="diameter of a dish in place of the satellite's panel (one antenna), m; 0: none. It makes the "
            "beam's shape, not its peak: that is element_gain_dbi, or in the EIRP",
        ),
    ] = 0.0
    rx_aperture_m: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="diameter of a dish in place of the terminal's panel (one antenna), m; 0: none. Its peak is "
            "element_gain_dbi, or in G/T",
        ),
    ] = 0.0
    tx_power_w: Annotated[float, Meta(gt=0, le=1e6, description="transmitted power per resource block, W")] = 1.0
    element_gain_dbi: Annotated[
        float, Meta(ge=-20, le=30, description="gain of one antenna element, each side, dBi")
    ] = 5.0
    noise_temperature_k: Annotated[float, Meta(ge=0.1, le=1e5, description="noise temperature of the terminal, K")] = (
        290.0
    )
    eirp_density_dbw_mhz: (
        Annotated[
            float,
            Meta(
                ge=-200,
                le=200,
                description="EIRP at the beam's peak, dBW/MHz; with g_over_t_db_k in place of power, gains and noise",
            ),
        ]
        | None
    ) = None
    g_over_t_db_k: (
        Annotated[
            float,
            Meta(
                ge=-100, le=100, description="the receiver's gain at its beam's peak over its noise temperature, dB/K"
            ),
        ]
        | None
    ) = None
    polarisation: (
        Annotated[
            tuple[Polarisation, Polarisation],
            Meta(description="of satellite and terminal; not set: matched on every path"),
        ]
        | None
    ) = None
    atmosphere: Annotated[
        Literal["fixed", "3gpp"],
        Meta(description="`fixed`: atmosphere_db at every elevation; `3gpp`: gas and scintillation by elevation"),
    ] = "fixed"
    atmosphere_db: Annotated[float, Meta(ge=0, le=100, description="loss of the fixed atmosphere, dB")] = 1.0
    rain: Annotated[Rain, Meta(description="rain on the way; not set: none")] | None = None
    environment: Annotated[
        str, Meta(description="what surrounds the terminal: `dense_urban`, `urban`, `suburban` or `rural`")
    ] = "suburban"
    los: Annotated[
        Literal["dwell", "sojourn", "pass"],
        Meta(
            description="line of sight: `dwell` changes by time, `sojourn` by the satellite's way across the sky, "
            "`pass` is lost at one elevation a pass"
        ),
    ] = "dwell"
    nlos_dwell_s: Annotated[float, Meta(gt=0, le=1e6, description="mean time without line of sight, s (`dwell`)")] = 2.0
    nlos_sojourn_deg: Annotated[
        float, Meta(gt=0, le=180, description="mean way across the sky without line of sight, deg (`sojourn`)")
    ] = 5.0
    shadow: Annotated[
        Literal["dwell", "distance"],
        Meta(description="shadow fading is correlated over shadow_dwell_s, or over 3GPP's decorrelation distance"),
    ] = "dwell"
    shadow_dwell_s: Annotated[float, Meta(gt=0, le=1e6, description="correlation time of the shadow fading, s")] = 5.0
    obstacle_m: Annotated[
        float,
        Meta(
            ge=0,
            le=1e5,
            description="distance to what stands around the terminal, m: a shadow moves by this times the satellite's "
            "way across the sky in radians (`distance`), and no scatterer is further away",
        ),
    ] = 50.0
    multipath: Annotated[
        Multipath,
        Meta(
            description="`scatter`: a direct path and n_paths - 1 scattered ones; `clusters`, `rays`: TR 38.811 6.7.2; "
            "`ntn-tdl-a` to `ntn-cdl-d`: its fixed profiles, 6.9"
        ),
    ] = "scatter"
    k_factor_db: Annotated[
        float,
        Meta(ge=-30, le=100, description="power of the direct path over that of all scattered ones, dB (`scatter`)"),
    ] = 10.0
    n_paths: Annotated[int, Meta(ge=2, le=64, description="paths: one direct, the others scattered (`scatter`)")] = 4
    angle_spread_deg: Annotated[
        float,
        Meta(
            ge=0, le=60, description="standard deviation of the angles of arrival of scattered paths, deg (`scatter`)"
        ),
    ] = 5.0
    departure_spread_deg: Annotated[
        float,
        Meta(
            ge=0, le=60, description="standard deviation of the angles of departure of scattered paths, deg (`scatter`)"
        ),
    ] = 0.01
    delay_spread_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1e-3,
            description="mean excess delay of a scattered path (`scatter`); delay spread of a fixed profile, s",
        ),
    ] = 100e-9
    scatter_correlation: Annotated[
        float, Meta(ge=0, le=1, description="correlation of a scattered path's amplitude over 0.1 s (`scatter`)")
    ] = 0.95
    redraw_s: Annotated[
        float, Meta(gt=0, le=1e6, description="time between new scatterers (angles, delays), s (`scatter`)")
    ] = 2.0
    samples_per_slot: Annotated[
        int, Meta(ge=1, le=1_000, description="how often the channel is looked at within a slot; results are means")
    ] = 1
    speed_m_s: Annotated[float, Meta(ge=0, le=1e3, description="the terminal's speed over ground, m/s")] = 0.0
    heading_deg: Annotated[float, Meta(ge=0, le=360, description="where it goes, degrees from north through east")] = (
        0.0
    )
    rate: Annotated[
        Literal["shannon", "mcs"],
        Meta(description="`shannon`: log2(1 + SNR); `mcs`: the best of TS 38.214 table 5.1.3.1-1 within bler_target"),
    ] = "shannon"
    bler_target: Annotated[float, Meta(ge=1e-6, le=0.5, description="block error rate a scheme may have (`mcs`)")] = 0.1
    mcs_gap_db: Annotated[
        float, Meta(ge=0, le=20, description="what a receiver loses against an ideal code of that length, dB (`mcs`)")
    ] = 1.0

    def __post_init__(self):
        for name, kind in _kinds(type(self)).items():  # msgspec looks at files; a word mistyped in Python is no better
            value = getattr(self, name)
            try:
                msgspec.convert(value.item() if isinstance(value, np.generic) else value, kind)
            except msgspec.ValidationError as error:
                words = [word for word in get_args(get_args(kind)[0]) if isinstance(word, str)]
                there_is = f"; there is: {', '.join(words)}" if words else ""
                raise ScenarioError(f"link.{name}: {error}, got {value!r}{there_is}") from None
        if self.n_rb % self.n_groups:
            raise ScenarioError(
                f"link.n_rb must be a multiple of link.n_groups, got {self.n_rb} in {self.n_groups} groups"
            )
        if (self.eirp_density_dbw_mhz is None) != (self.g_over_t_db_k is None):
            raise ScenarioError("link.eirp_density_dbw_mhz and link.g_over_t_db_k go together: give both or none")
        for side in ("tx", "rx"):
            antennas = getattr(self, f"{side}_antennas")
            if getattr(self, f"{side}_aperture_m") and antennas != (1, 1):
                raise ScenarioError(
                    f"link.{side}_aperture_m is one antenna in place of a panel: set link.{side}_antennas = [1, 1], "
                    f"got {list(antennas)}"
                )
        if self.polarisation and (self.multipath == "scatter" or self.multipath.startswith("ntn-tdl")):
            raise ScenarioError(
                "link.polarisation is for paths that have one: link.multipath must be `clusters`, `rays` or one of "
                f"`ntn-cdl-a` to `ntn-cdl-d`, got `{self.multipath}`"
            )
        environment(self.environment, self.carrier_hz)

    @property
    def tables(self) -> Environment:
        """The environment's tables in this link's band."""
        return environment(self.environment, self.carrier_hz)

    @property
    def rb_step_hz(self) -> float:
        """From one resource block to the next, Hz."""
        return self.rb_spacing_hz or self.rb_bandwidth_hz

    @property
    def array_gain(self) -> float:
        """N_t N_r, linear: the power of all paths together; 1 where EIRP and G/T contain it."""
        return 1.0 if self._by_eirp else float(np.prod(self.tx_antennas) * np.prod(self.rx_antennas))

    @property
    def snr_per_gain(self) -> float:
        """P_t / (k_B T_n B): the SNR of a resource block whose total gain is 1, linear."""
        power_w, noise_temperature_k, _ = self._budget
        return power_w / (BOLTZMANN_J_K * noise_temperature_k * self.rb_bandwidth_hz)

    @property
    def velocity_m_s(self) -> np.ndarray:
        """The terminal's own, east, north and up, (3,)."""
        heading_rad = np.radians(self.heading_deg)
        return self.speed_m_s * np.array([np.sin(heading_rad), np.cos(heading_rad), 0.0])

    @property
    def tx_ka(self) -> float:
        """Circumference of the satellite's dish in wavelengths, k a of TR 38.811 6.4.1; 0 for a panel."""
        return aperture_ka(self.tx_aperture_m, self.carrier_hz)

    @property
    def rx_ka(self) -> float:
        """The same of the terminal's dish."""
        return aperture_ka(self.rx_aperture_m, self.carrier_hz)

    @property
    def mcs(self) -> McsTable:
        """Thresholds and efficiencies of the schemes a rate is chosen from; empty: Shannon's."""
        return mcs_table(self.bler_target, self.mcs_gap_db) if self.rate == "mcs" else McsTable.empty()

    @property
    def _direct_loss_db(self) -> float:
        """What the polarisations of both ends take of the direct path, dB; infinite where they are opposite."""
        if self.polarisation is None or self.polarisation[0] == self.polarisation[1]:
            return 0.0
        return math.inf if set(self.polarisation) in OPPOSITE else to_db(2.0)

    @property
    def _nominal_los_probability(self) -> np.ndarray:
        """By elevation: the tables'; that of a fixed profile, which is always or never in line of sight, is 1 or 0."""
        probability = self.tables.los_probability
        if not self.multipath.startswith("ntn-"):
            return probability
        return np.full_like(probability, self.multipath.endswith(("-c", "-d")))

    @property
    def _by_eirp(self) -> bool:
        return self.eirp_density_dbw_mhz is not None

    @property
    def _budget(self) -> tuple[float, float, float]:
        """Power per block W, noise temperature K, gain of one element dBi: EIRP and G/T are those of 0 dBi elements."""
        if self.eirp_density_dbw_mhz is None or self.g_over_t_db_k is None:
            return self.tx_power_w, self.noise_temperature_k, self.element_gain_dbi
        power_w = float(from_db(self.eirp_density_dbw_mhz)) * self.rb_bandwidth_hz / MEGA
        return power_w, float(from_db(-self.g_over_t_db_k)), 0.0

    def facts(self) -> dict[str, np.ndarray]:
        """What a controller in any language needs for the nominal link: arrays; see NominalLink for their meaning."""
        fixed_db, zenith_db, scintillation_db = self.atmosphere_db, 0.0, np.zeros_like(REFERENCE_ELEVATION_DEG)
        if self.atmosphere == "3gpp":
            fixed_db, zenith_db = 0.0, zenith_gas_db(self.carrier_hz)
            scintillation_db = scintillation_loss_db(REFERENCE_ELEVATION_DEG, self.carrier_hz)
        tables, mcs = self.tables, self.mcs
        power_w, noise_temperature_k, element_gain_dbi = self._budget
        facts: dict[str, Any] = {
            "carrier_hz": self.carrier_hz,
            "rb_bandwidth_hz": self.rb_bandwidth_hz,
            "n_rb": self.n_rb,
            "n_groups": self.n_groups,
            "tx_antennas": self.tx_antennas,
            "rx_antennas": self.rx_antennas,
            "tx_aperture_m": self.tx_aperture_m,
            "rx_aperture_m": self.rx_aperture_m,
            "tx_power_w": power_w,
            "element_gain_dbi": element_gain_dbi,
            "noise_temperature_k": noise_temperature_k,
            "array_gain": self.array_gain,
            "atmosphere_db": fixed_db + self._direct_loss_db,
            "zenith_gas_loss_db": zenith_db,
            "rain_elevation_deg": RAIN_ELEVATION_DEG,
            "rain_loss_db": _rain_table_db(self.rain, self.carrier_hz),
            "table_elevation_deg": tables.elevation_deg,
            "scintillation_loss_db": scintillation_db,
            "los_probability": self._nominal_los_probability,
            "clutter_loss_db": tables.clutter_loss_db,
            "mcs_snr": mcs.snr,
            "mcs_efficiency": mcs.efficiency,
        }
        return {name: np.asarray(value) for name, value in facts.items()}


@lru_cache(maxsize=64)
def _rain_table_db(rain: Rain | None, carrier_hz: float) -> np.ndarray:
    table = np.zeros_like(RAIN_ELEVATION_DEG) if rain is None else rain_loss_db(RAIN_ELEVATION_DEG, carrier_hz, rain)
    table.flags.writeable = False
    return table


def atmosphere_loss_db(link: Link, elevation_deg: ArrayLike) -> dict[str, np.ndarray]:
    """What the air takes at each elevation, term by term: `fixed`, or `gas` and `scintillation`; and `rain`. All dB."""
    elevations_deg = np.asarray(elevation_deg, dtype=float)
    if link.atmosphere == "3gpp":
        terms = {
            "gas": gas_loss_db(elevations_deg, link.carrier_hz),
            "scintillation": scintillation_loss_db(elevations_deg, link.carrier_hz),
        }
    else:
        terms = {"fixed": np.full(elevations_deg.shape, link.atmosphere_db)}
    return terms | {
        "rain": at_elevation(elevations_deg, RAIN_ELEVATION_DEG, _rain_table_db(link.rain, link.carrier_hz))
    }


def path_gain(
    link: Link, slant_range_m: ArrayLike, elevation_deg: ArrayLike, los: ArrayLike, shadow_db: ArrayLike
) -> np.ndarray:
    """L_n of eq. (7), (8), a gain: free space, both element gains, atmosphere, shadow fading and clutter.

    slant_range_m, elevation_deg  any shape  m, deg
    los                           same       bool
    shadow_db                     same       dB, positive is loss

    Returns the same shape, linear, without the array gain (which stands in the paths' amplitudes).
    Source: arXiv 2402.04865 eq. (7), (8) as read in docs/physics.md.
    Checked by tests/channel/test_link.py::test_snr_is_that_of_the_link_budget.
    """
    air_db = sum(atmosphere_loss_db(link, elevation_deg).values())
    loss_db = free_space_loss_db(slant_range_m, link.carrier_hz) + air_db + np.asarray(shadow_db)
    loss_db = loss_db + clutter_loss_db(elevation_deg, los, link.tables)
    _, _, element_gain_dbi = link._budget
    return from_db(2.0 * element_gain_dbi - loss_db)


@dataclass(frozen=True, eq=False)
class NominalLink:
    """The link as a controller may know it: line of sight, exact pointing, mean loss, nothing random.

    Built from `Link.facts()`, by the names below; all arrays.
    carrier_hz, rb_bandwidth_hz, tx_power_w, noise_temperature_k   ()    Hz, Hz, W per block, K
    n_rb, n_groups                                                 ()    resource blocks and their equal groups
    tx_antennas, rx_antennas                                       (2,)  along x and y
    tx_aperture_m, rx_aperture_m                                   ()    m, diameter of a dish; 0 for a panel
    element_gain_dbi                                               ()    dBi, each side
    array_gain                                                     ()    N_t N_r, linear; 1 where the power contains it
    atmosphere_db, zenith_gas_loss_db                              ()    dB: constant, with what polarisations take; and
                                                                         scaled by 1/sin(elevation)
    rain_elevation_deg, rain_loss_db                               (86,) deg, dB
    table_elevation_deg                                            (9,)  deg, of the three tables
    scintillation_loss_db, los_probability, clutter_loss_db        (9,)  dB, 0 to 1, dB
    mcs_snr, mcs_efficiency                                        (k,)  linear, bit/s/Hz; none: Shannon's rate
    """

    carrier_hz: np.ndarray
    rb_bandwidth_hz: np.ndarray
    n_rb: np.ndarray
    n_groups: np.ndarray
    tx_antennas: np.ndarray
    rx_antennas: np.ndarray
    tx_aperture_m: np.ndarray
    rx_aperture_m: np.ndarray
    tx_power_w: np.ndarray
    element_gain_dbi: np.ndarray
    noise_temperature_k: np.ndarray
    array_gain: np.ndarray
    atmosphere_db: np.ndarray
    zenith_gas_loss_db: np.ndarray
    rain_elevation_deg: np.ndarray
    rain_loss_db: np.ndarray
    table_elevation_deg: np.ndarray
    scintillation_loss_db: np.ndarray
    los_probability: np.ndarray
    clutter_loss_db: np.ndarray
    mcs_snr: np.ndarray
    mcs_efficiency: np.ndarray

    @classmethod
    def from_facts(cls, facts: Mapping[str, np.ndarray]) -> "NominalLink":
        """Take the link's facts out of an agent's. Raises KeyError naming the first that is not there."""
        return cls(**{field.name: facts[field.name] for field in fields(cls)})

    def matched_snr(self, slant_range_m: ArrayLike, elevation_deg: ArrayLike) -> np.ndarray:
        """SNR with both beams exactly on the direct path, linear; shape of the arguments (m, deg).

        Clutter loss is taken at its expectation, p_LOS + (1 - p_LOS) 10^(-CL / 10).
        """
        loss_db = free_space_loss_db(slant_range_m, float(self.carrier_hz)) + self.atmosphere_db
        loss_db = loss_db + slant_gas_db(elevation_deg, float(self.zenith_gas_loss_db))
        loss_db = loss_db + at_elevation(elevation_deg, self.table_elevation_deg, self.scintillation_loss_db)
        loss_db = loss_db + at_elevation(elevation_deg, self.rain_elevation_deg, self.rain_loss_db)
        p_los = at_elevation(elevation_deg, self.table_elevation_deg, self.los_probability)
        clutter_db = at_elevation(elevation_deg, self.table_elevation_deg, self.clutter_loss_db)
        clutter = p_los + (1.0 - p_los) * from_db(-clutter_db)
        noise_w = BOLTZMANN_J_K * self.noise_temperature_k * self.rb_bandwidth_hz
        return self.tx_power_w / noise_w * self.array_gain * clutter * from_db(2.0 * self.element_gain_dbi - loss_db)

    def group_snr(self, pointing: "Pointing", tx_beam_deg: ArrayLike, rx_beam_deg: ArrayLike) -> np.ndarray:
        """SNR of any group (the nominal channel is flat) with these beams.

        pointing     n slots             elevation, range and true angles, of twin.geometry.pointing
        tx_beam_deg  (..., n, 2)  deg    theta, phi; leading axes broadcast
        rx_beam_deg  (..., n, 2)  deg

        Returns (..., n), linear. Checked by tests/channel/test_link.py (nominal link).
        """
        tx_gain = self._gain("tx", tx_beam_deg, pointing.tx_beam_deg)
        rx_gain = self._gain("rx", rx_beam_deg, pointing.rx_beam_deg)
        return self.matched_snr(pointing.slant_range_m, pointing.elevation_deg) * tx_gain * rx_gain

    def group_rate_bps(self, snr: ArrayLike) -> np.ndarray:
        """Rate of one group, eq. (9) over its resource blocks; any shape, linear SNR to bit/s."""
        rb_per_group = int(self.n_rb) // int(self.n_groups)
        efficiency = McsTable(self.mcs_snr, self.mcs_efficiency).spectral_efficiency(snr)
        return rb_per_group * self.rb_bandwidth_hz * efficiency

    def _gain(self, side: str, beam_deg: ArrayLike, direction_deg: ArrayLike) -> np.ndarray:
        n_x, n_y = (int(n) for n in getattr(self, f"{side}_antennas"))
        gain = beam_gain(beam_deg, direction_deg, (n_x, n_y))
        aperture_m = float(getattr(self, f"{side}_aperture_m"))
        if aperture_m:
            gain = gain * pattern_gain(beam_deg, direction_deg, aperture_m, float(self.carrier_hz))
        return gain
