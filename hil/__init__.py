"""Everything that touches wall time or a socket: run a scenario with processes on its seats, or become one.

record = hil.run(twin.load("baseline"), clock="realtime")  # a process per seat, deadlines
hil.report(record)["ue"].p99_us                            # LatencyReport: where the time went, who missed what
hil.replay(record.folder).same                             # flown again from what was recorded
hil.serve(Mine, agent="ue", connect="tcp://127.0.0.1:5555")  # become the process on a seat

`hil.keys` encrypts the wire for controllers on other machines, `hil.latency` is what a report is made of.
"""

from hil import keys, latency
from hil.host import serve
from hil.latency import LatencyReport, report
from hil.launch import run
from hil.replay import replay

__all__ = ["LatencyReport", "keys", "latency", "replay", "report", "run", "serve"]
