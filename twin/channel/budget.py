"""Link budgets of the study cases of TR 38.821, and the same links for a simulation.

    print(study_case("SC9").budget("DL"))         # every term, down to the carrier-to-noise ratio
    link = study_case("SC9").link("DL", "urban")  # a scenario's [link] table, as an object

CNR = EIRP + G/T - k - losses - 10 log10(bandwidth), on the sphere of TR 38.811 and at the case's target elevation. The
losses are those of twin/channel/losses.py, so a link in line of sight with both beams on it has the budget's CNR in
each resource block but for the shadow margin: a budget sets it aside, where a pass draws its own shadow fading.
"""

import csv
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from twin.channel.link import Link
from twin.channel.losses import free_space_loss_db, gas_loss_db, scintillation_loss_db
from twin.channel.tables import KA_BAND_FROM_HZ
from twin.units import BOLTZMANN_J_K, GIGA, KILO, MEGA, SPHERE_RADIUS_M, from_db, to_db

Direction = Literal["DL", "UL"]

DATA = Path(__file__).parent / "data"
ALTITUDE_M = {"LEO600": 600 * KILO, "LEO1200": 1_200 * KILO, "GEO": 35_786 * KILO}  # TR 38.821 table 6.1.1.1-1
AMBIENT_K = 290.0  # T0 of TR 38.821 clause 6.1.3.1
SUBCARRIERS_PER_RB = 12  # TS 38.211 clause 4.4.4.1
SUBCARRIER_SPACING_HZ = 15 * KILO  # of numerology 0, doubled by each next one; TS 38.211 table 4.2-1
MOST_GROUPS = 16  # of a Link
MOST_RB = 275  # in one carrier; TS 38.331, maxNrofPhysicalResourceBlocks


@dataclass(frozen=True)
class Payload:
    """A satellite of TR 38.821, tables 6.1.1.1-1 and -2: one orbit, parameter set and band.

    dl_aperture_m, ul_aperture_m  m      diameter of its dish, sending and receiving
    max_gain_dbi                  dBi    of either; contained in the next two
    eirp_density_dbw_mhz          dBW/MHz
    g_over_t_db_k                 dB/K   None where no value was found
    """

    orbit: str
    parameter_set: int
    band: str
    altitude_m: float
    dl_aperture_m: float
    ul_aperture_m: float
    max_gain_dbi: float
    eirp_density_dbw_mhz: float
    g_over_t_db_k: float | None


@dataclass(frozen=True)
class Terminal:
    """A terminal of TR 38.821, table 6.1.1.1-3.

    aperture_m               m    diameter of its dish; 0: a single antenna that hears every direction alike
    rx_gain_dbi, tx_gain_dbi dBi
    noise_figure_db          dB
    antenna_temperature_k    K
    tx_power_dbw             dBW
    shadow_margin_db         dB   set aside for shadow fading, table 6.1.3.2-1
    """

    name: str
    aperture_m: float
    rx_gain_dbi: float
    tx_gain_dbi: float
    noise_figure_db: float
    antenna_temperature_k: float
    tx_power_dbw: float
    shadow_margin_db: float

    @property
    def g_over_t_db_k(self) -> float:
        """Gain over noise temperature, G - NF - 10 log10(T0 + (Ta - T0) 10^(-NF/10)) of clause 6.1.3.1, dB/K."""
        passed = float(from_db(-self.noise_figure_db))
        noise_temperature_k = AMBIENT_K + (self.antenna_temperature_k - AMBIENT_K) * passed
        return self.rx_gain_dbi - self.noise_figure_db - float(to_db(noise_temperature_k))

    @property
    def eirp_dbw(self) -> float:
        return self.tx_power_dbw + self.tx_gain_dbi


HANDHELD = Terminal(
    name="handheld",
    aperture_m=0.0,
    rx_gain_dbi=0.0,
    tx_gain_dbi=0.0,
    noise_figure_db=7.0,
    antenna_temperature_k=290.0,
    tx_power_dbw=-7.0,
    shadow_margin_db=3.0,
)
VSAT = Terminal(
    name="vsat",
    aperture_m=0.6,
    rx_gain_dbi=39.7,
    tx_gain_dbi=43.2,
    noise_figure_db=1.2,
    antenna_temperature_k=150.0,
    tx_power_dbw=3.0,
    shadow_margin_db=0.0,
)
TERMINALS = {terminal.name: terminal for terminal in (HANDHELD, VSAT)}


@dataclass(frozen=True)
class Budget:
    """One direction of a link, term by term; losses are positive. `print` shows it as a table."""

    case: str
    direction: str
    elevation_deg: float
    slant_range_m: float
    carrier_hz: float
    bandwidth_hz: float
    eirp_dbw: float
    g_over_t_db_k: float
    free_space_loss_db: float
    gas_loss_db: float
    shadow_margin_db: float
    scintillation_loss_db: float
    polarisation_loss_db: float = 0.0  # table 6.1.3.2-1, also for a handheld's linear antenna
    additional_loss_db: float = 0.0

    @property
    def loss_db(self) -> float:
        """All losses on the way."""
        on_the_way_db = self.free_space_loss_db + self.gas_loss_db + self.shadow_margin_db + self.scintillation_loss_db
        return on_the_way_db + self.polarisation_loss_db + self.additional_loss_db

    @property
    def cnr_db(self) -> float:
        """Carrier over noise in the whole bandwidth."""
        noise_dbw = float(to_db(BOLTZMANN_J_K * self.bandwidth_hz))
        return self.eirp_dbw + self.g_over_t_db_k - noise_dbw - self.loss_db

    def __str__(self) -> str:
        rows = [
            ("EIRP", self.eirp_dbw, "dBW"),
            ("G/T", self.g_over_t_db_k, "dB/K"),
            ("Boltzmann's constant k", float(to_db(BOLTZMANN_J_K)), "dBW/K/Hz"),
            ("free-space loss", self.free_space_loss_db, "dB"),
            ("gas loss", self.gas_loss_db, "dB"),
            ("shadow margin", self.shadow_margin_db, "dB"),
            ("scintillation loss", self.scintillation_loss_db, "dB"),
            ("polarisation loss", self.polarisation_loss_db, "dB"),
            ("additional losses", self.additional_loss_db, "dB"),
            ("bandwidth", float(to_db(self.bandwidth_hz)), "dBHz"),
            ("CNR", self.cnr_db, "dB"),
        ]
        head = (
            f"{self.case} {self.direction}: {self.carrier_hz / GIGA:g} GHz, {self.bandwidth_hz / MEGA:g} MHz, "
            f"{self.elevation_deg:g} deg, {self.slant_range_m / KILO:.1f} km"
        )
        return "\n".join([head, *(f"  {name:<24}{value:8.2f} {unit}" for name, value, unit in rows)])


@dataclass(frozen=True)
class StudyCase:
    """A study case of TR 38.821, tables 6.1.1.1-9 and 6.1.3.2-1: who speaks with whom, and over what.

    reuse  "FR1": every beam uses the whole bandwidth; "FR3": a third; "FR2-pol4": half, in one of two polarisations.
           Bandwidths below are what is left to one beam; the budget has no interference
    """

    name: str
    payload: Payload
    terminal: Terminal
    reuse: str
    elevation_deg: float
    dl_carrier_hz: float
    dl_bandwidth_hz: float
    ul_carrier_hz: float
    ul_bandwidth_hz: float

    def budget(self, direction: Direction = "DL") -> Budget:
        """The link budget at the target elevation, downlink or uplink.

        Raises ValueError for another direction, or where no G/T of the satellite was found.
        Source: TR 38.821 clause 6.1.3.1. Checked by tests/channel/test_study_cases.py.
        """
        carrier_hz, bandwidth_hz = self._channel(direction)
        range_m = slant_range_m(self.elevation_deg, self.payload.altitude_m)
        if direction == "DL":
            eirp_dbw = self.payload.eirp_density_dbw_mhz + float(to_db(bandwidth_hz / MEGA))
            g_over_t_db_k = self.terminal.g_over_t_db_k
        else:
            eirp_dbw, g_over_t_db_k = self.terminal.eirp_dbw, self._satellite_g_over_t_db_k()
        return Budget(
            case=self.name,
            direction=direction,
            elevation_deg=self.elevation_deg,
            slant_range_m=range_m,
            carrier_hz=carrier_hz,
            bandwidth_hz=bandwidth_hz,
            eirp_dbw=eirp_dbw,
            g_over_t_db_k=g_over_t_db_k,
            free_space_loss_db=float(free_space_loss_db(range_m, carrier_hz)),
            gas_loss_db=float(gas_loss_db(self.elevation_deg, carrier_hz)),
            shadow_margin_db=self.terminal.shadow_margin_db,
            scintillation_loss_db=float(scintillation_loss_db(self.elevation_deg, carrier_hz)),
        )

    def link(
        self,
        direction: Direction = "DL",
        environment: str = "urban",
        numerology: int | None = None,
        n_groups: int = 5,
    ) -> Link:
        """The link of this case for a simulation: 3GPP's clusters, losses and shadow fading, EIRP and G/T.

        direction    "DL": the satellite sends; "UL": EIRP is the terminal's and G/T the satellite's. What Link calls tx
                     (antennas, aperture) stays the satellite's side: the way is the same in both directions
        environment  as `link.environment`
        numerology   of TS 38.211, 0 to 4: spacing of 15 kHz times 2 to it; not given: 0 in S band, 3 in Ka band
        n_groups     of resource blocks; fewer where fewer blocks fit

        As many whole blocks as fit side by side, in equal groups, at most 275; no guard bands. Since EIRP is a density,
        each block's SNR is the budget's CNR, however many there are. Change a setting with msgspec.structs.replace.
        Raises ValueError as `budget`, or where the bandwidth does not hold one block.
        Checked by tests/channel/test_study_cases.py::test_an_aligned_link_has_the_cnr_of_the_budget.
        """
        budget = self.budget(direction)
        if numerology is None:
            numerology = 3 if budget.carrier_hz >= KA_BAND_FROM_HZ else 0
        if numerology not in range(5):
            raise ValueError(f"numerology must be 0 to 4 (TS 38.211 table 4.2-1), got {numerology}")
        rb_bandwidth_hz = SUBCARRIERS_PER_RB * SUBCARRIER_SPACING_HZ * 2**numerology
        fit = min(math.floor(budget.bandwidth_hz / rb_bandwidth_hz + 1e-9), MOST_RB)
        if fit < 1:
            raise ValueError(
                f"{self.name} {direction} has {budget.bandwidth_hz / MEGA:g} MHz, less than a resource block of "
                f"numerology {numerology}, {rb_bandwidth_hz / MEGA:g} MHz: take a lower one"
            )
        if not 1 <= n_groups <= MOST_GROUPS:
            raise ValueError(f"n_groups must be 1 to {MOST_GROUPS}, got {n_groups}")
        n_groups = min(n_groups, fit)
        payload = self.payload
        return Link(
            carrier_hz=budget.carrier_hz,
            rb_bandwidth_hz=rb_bandwidth_hz,
            n_rb=fit - fit % n_groups,
            n_groups=n_groups,
            tx_antennas=(1, 1),
            rx_antennas=(1, 1),
            tx_aperture_m=payload.dl_aperture_m if direction == "DL" else payload.ul_aperture_m,
            rx_aperture_m=self.terminal.aperture_m,
            eirp_density_dbw_mhz=budget.eirp_dbw - float(to_db(budget.bandwidth_hz / MEGA)),
            g_over_t_db_k=budget.g_over_t_db_k,
            atmosphere="3gpp",
            environment=environment,
            los="pass",
            shadow="distance",
            multipath="clusters",
        )

    def _channel(self, direction: str) -> tuple[float, float]:
        """Carrier and bandwidth, Hz."""
        if direction == "DL":
            return self.dl_carrier_hz, self.dl_bandwidth_hz
        if direction == "UL":
            return self.ul_carrier_hz, self.ul_bandwidth_hz
        raise ValueError(f"direction must be 'DL' or 'UL', got {direction!r}")

    def _satellite_g_over_t_db_k(self) -> float:
        payload = self.payload
        if payload.g_over_t_db_k is None:
            raise ValueError(
                f"{self.name} UL needs the G/T of the {payload.orbit} Set-{payload.parameter_set} {payload.band}-band "
                f"satellite, which was not found for this table (only LEO600 Set-1's were): give your own, dB/K, as in "
                f"study_case({self.name!r}, g_over_t_db_k=...)"
            )
        return payload.g_over_t_db_k


def slant_range_m(elevation_deg: float, altitude_m: float) -> float:
    """From a terminal on the sphere of TR 38.811 to a satellite, eq. 6.6-3, m; for its tables, never for TLE runs."""
    up_m = SPHERE_RADIUS_M * math.sin(math.radians(elevation_deg))
    return math.sqrt(up_m**2 + altitude_m**2 + 2.0 * altitude_m * SPHERE_RADIUS_M) - up_m


def study_case(name: str, g_over_t_db_k: float | None = None) -> StudyCase:
    """A study case of TR 38.821 by name, "SC1" to "SC30".

    g_over_t_db_k  ()  dB/K  of the satellite, in place of the table's

    Another elevation, payload or terminal: dataclasses.replace. Raises ValueError for a name that is not there.
    """
    cases = study_cases()
    if name not in cases:
        raise ValueError(f"study case {name!r} is unknown; there are {', '.join(cases)}")
    case = cases[name]
    if g_over_t_db_k is None:
        return case
    return replace(case, payload=replace(case.payload, g_over_t_db_k=g_over_t_db_k))


@lru_cache(maxsize=1)
def study_cases() -> dict[str, StudyCase]:
    """All study cases by name, in the order of the table."""
    payloads = {(row["orbit"], row["set"], row["band"]): _payload(row) for row in _rows("satellite_parameters.csv")}
    return {
        row["case"]: StudyCase(
            name=row["case"],
            payload=payloads[row["orbit"], row["set"], row["band"]],
            terminal=TERMINALS[row["ue"]],
            reuse=row["reuse"],
            elevation_deg=float(row["target_elevation_deg"]),
            dl_carrier_hz=float(row["dl_ghz"]) * GIGA,
            dl_bandwidth_hz=float(row["dl_bandwidth_mhz"]) * MEGA,
            ul_carrier_hz=float(row["ul_ghz"]) * GIGA,
            ul_bandwidth_hz=float(row["ul_bandwidth_mhz"]) * MEGA,
        )
        for row in _rows("study_cases.csv")
    }


def _payload(row: dict[str, str]) -> Payload:
    g_over_t_db_k = row["g_over_t_db_k"]
    return Payload(
        orbit=row["orbit"],
        parameter_set=int(row["set"]),
        band=row["band"],
        altitude_m=ALTITUDE_M[row["orbit"]],
        dl_aperture_m=float(row["dl_aperture_m"]),
        ul_aperture_m=float(row["ul_aperture_m"]),
        max_gain_dbi=float(row["max_gain_dbi"]),
        eirp_density_dbw_mhz=float(row["eirp_density_dbw_mhz"]),
        g_over_t_db_k=float(g_over_t_db_k) if g_over_t_db_k else None,
    )


def _rows(name: str) -> list[dict[str, str]]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))
