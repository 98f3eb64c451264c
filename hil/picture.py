"""What a person sees while a run flies: the sky over the site with its real satellites, the link, and who kept up.

On a terminal the picture is drawn anew four times a second by a thread beside the loop; in a log it is a line now and
then. The loop only hands over what it has (`Picture.watch`).
"""

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TextIO

import numpy as np

from twin.errors import TwinError
from twin.geometry import Look, look
from twin.orbit import Rolling
from twin.scenario import Scenario
from twin.tle import Satellite
from twin.types import Outcome

EVERY_S = 0.25
LOG_EVERY_S = 5.0
RADIUS = 8  # of the sky, lines from the zenith to the horizon
NARROW = 80
TOLD = ("satellite", "elevation_deg", "los")  # measures that have words of their own
MOST_SHOWN = 6  # other measures
SWITCH_S = 0.0005  # the interpreter lets the loop in within this, when it wakes while we draw


class Picture:
    """Says where a run is, on `stream`; use as a context around it."""

    def __init__(self, scenario: Scenario, stream: TextIO = sys.stderr):
        self.scenario, self.stream = scenario, stream
        self._columns, rows = os.get_terminal_size(stream.fileno()) if stream.isatty() else (0, 0)
        self.live = self._columns >= NARROW and rows > 2 * RADIUS + 2
        self._now: tuple[int, Outcome, dict[str, dict[str, int]]] | None = None
        self._drawn_lines = 0
        self._sky: Rolling | None = None
        self._satellites: list[Satellite] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> "Picture":
        self._read_sky()
        if self.live:
            sys.setswitchinterval(SWITCH_S)
            self._show()  # compiles what it needs before any clock starts
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self._now is not None:
            self._show()
        if self._sky is not None:
            self._sky.close()

    def _read_sky(self) -> None:
        """The scenario's satellites, and for drawing where they fly; none where the world has no sky.

        What is wrong with it the world says, which reads it too.
        """
        sky = getattr(self.scenario.settings, "sky", None)
        if sky is None:
            return
        with warnings.catch_warnings(), contextlib.suppress(TwinError):
            warnings.simplefilter("ignore")
            self._satellites = sky.satellites(self.scenario.folder)
            if self.live:
                self._sky = Rolling(self._satellites, sky.start_utc)

    def say(self, text: str) -> None:
        """Tell what is going on before the first slot."""
        self._erase()
        self.stream.write(text + "\n")
        self.stream.flush()

    def watch(self, slot: int, outcome: Outcome, tally: Mapping[str, Mapping[str, int]]) -> None:
        """Called by the loop after each slot: keeps what it is given, and nothing more."""
        self._now = slot, outcome, {name: dict(counts) for name, counts in tally.items()}

    def _draw(self) -> None:
        while not self._done.wait(EVERY_S if self.live else LOG_EVERY_S):
            if self._now is not None:
                self._show()

    def _show(self) -> None:
        lines = self.lines() if self.live else [self.line()]
        self._erase()
        self.stream.write("\n".join(lines) + "\n")
        self.stream.flush()
        self._drawn_lines = len(lines)

    def _erase(self) -> None:
        if self.live and self._drawn_lines:
            self.stream.write(f"\x1b[{self._drawn_lines}A\x1b[J")
        self._drawn_lines = 0

    def line(self) -> str:
        """The state of the run in one line."""
        done, total = (self._now[0] + 1 if self._now else 0), self.scenario.slots
        text = f"slot {done}/{total}  {done * self.scenario.slot_s:.1f} s"
        return "  ".join([text, *self._link(), *self._cycles()])

    def lines(self) -> list[str]:
        """The sky beside the state of the run."""
        done, total = (self._now[0] + 1 if self._now else 0), self.scenario.slots
        bar = "#" * (30 * done // total)
        side = [
            self.scenario.name,
            f"[{bar:.<30}] {done}/{total}",
            *self._when(done),
            "",
            *self._link(),
            "",
            *self._cycles(),
        ]
        if self._sky is None:
            return side
        site = self.scenario.settings.site
        at_s = done * self.scenario.slot_s
        seen = look(
            self._sky.at(at_s),
            latitude_deg=site.latitude_deg,
            longitude_deg=site.longitude_deg,
            altitude_m=site.altitude_m,
            t_s=at_s,
        )
        sky = sky_plot(seen, self._serving_index(), self.scenario.settings.sky.mask_deg)
        rows = max(len(sky), len(side))
        sky += [" " * len(sky[0])] * (rows - len(sky))
        side += [""] * (rows - len(side))
        return [f"{left}   {right}".rstrip()[: self._columns or None] for left, right in zip(sky, side)]

    def _when(self, slot: int) -> list[str]:
        if self._sky is None:
            return [f"{slot * self.scenario.slot_s:.1f} s"]
        now = self._sky.start_utc + timedelta(seconds=slot * self.scenario.slot_s)
        pace = f"real time x {self.scenario.rt_factor:g}" if self.scenario.clock == "realtime" else self.scenario.clock
        return [f"{now:%Y-%m-%d %H:%M:%S} UTC, {pace}"]

    def _serving_index(self) -> int:
        number = int(self._measure("satellite", 0))
        return next((i for i, s in enumerate(self._satellites) if s.number == number), -1)

    def _link(self) -> list[str]:
        """Who serves, where somebody does; then rate and demand, or what else this world measures."""
        if self._now is None:
            return []
        said = []
        if self._measure("elevation_deg") is not None and self._measure("satellite") is not None:
            i = self._serving_index()
            if i < 0:
                return ["nobody serves"]
            sight = "in sight" if self._measure("los") else "blocked"
            said = [f"@ {self._satellites[i].name}  {float(self._measure('elevation_deg')):.1f} deg high, {sight}"]
        rates = [self._measure(name) for name in ("rate_bps", "demand_bps")]
        if all(rate is not None for rate in rates):
            return [*said, "{:.0f} Mbit/s, {:.0f} asked".format(*(float(rate) / 1e6 for rate in rates))]
        numbers = {name: np.asarray(value) for name, value in self._now[1].measures.items() if name not in TOLD}
        shown = [
            f"{name} {value:.4g}" for name, value in numbers.items() if value.ndim == 0 and value.dtype.kind in "fiu"
        ]
        return said + shown[:MOST_SHOWN]

    def _cycles(self) -> list[str]:
        tally = self._now[2] if self._now else {}
        return [
            f"{name}: {counts.get('on_time', 0)} of {sum(counts.values())} on time" for name, counts in tally.items()
        ]

    def _measure(self, name: str, otherwise: Any = None) -> Any:
        return self._now[1].measures.get(name, otherwise) if self._now else otherwise


def sky_plot(seen: Look, serving: int, mask_deg: float, radius: int = RADIUS) -> list[str]:
    """The sky as lines of text: zenith in the middle, horizon outside, north up, east right, as on a map.

    seen      looks of all satellites at one instant, arrays (n_satellites,)
    serving   index of the one that serves, drawn @; -1 for none
    mask_deg  elevation from which satellites may serve: those are drawn o, the others above the horizon .

    Returns 2 radius + 1 lines of 4 radius + 1 characters.
    """
    canvas = [[" "] * (4 * radius + 1) for _ in range(2 * radius + 1)]

    def put(azimuth_deg: float, elevation_deg: float, mark: str) -> None:
        r, azimuth = radius * (90.0 - elevation_deg) / 90.0, np.radians(azimuth_deg)
        canvas[round(radius - r * np.cos(azimuth))][round(2 * (radius + r * np.sin(azimuth)))] = mark

    for azimuth in np.arange(0.0, 360.0, 3.0):
        put(azimuth, 0.0, "·")
    for name, azimuth in (("N", 0.0), ("E", 90.0), ("S", 180.0), ("W", 270.0)):
        put(azimuth, 0.0, name)
    above = np.flatnonzero(seen.elevation_deg > 0.0)
    for i in above[np.argsort(seen.elevation_deg[above])]:
        put(seen.azimuth_deg[i], seen.elevation_deg[i], "o" if seen.elevation_deg[i] >= mask_deg else ".")
    if serving >= 0 and seen.elevation_deg[serving] > 0.0:
        put(seen.azimuth_deg[serving], seen.elevation_deg[serving], "@")
    return ["".join(row) for row in canvas]
