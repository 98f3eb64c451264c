"""Everything that touches wall time or a socket: run a scenario with processes on its seats, or become one."""

from hil import keys, latency
from hil.host import serve
from hil.latency import LatencyReport, report
from hil.launch import run
from hil.replay import replay

__all__ = ["LatencyReport", "keys", "latency", "replay", "report", "run", "serve"]
