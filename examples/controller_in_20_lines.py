"""A whole controller: the beam follows the satellite, and as few groups are used as the demand asks for.

In one terminal  ntn-twin run quickstart --seat ue=external
in another       python examples/controller_in_20_lines.py
"""

import sys

import numpy as np

import hil
import twin


class Thrifty:
    def __init__(self, agent, seed):
        self.group_hz = agent.facts["rb_bandwidth_hz"] * agent.facts["n_rb"] / agent.facts["n_groups"]

    def act(self, seen):
        snr_db, reserved = seen.values["snr_db"].max(), seen.values["reserved_rb"]
        group_bps = self.group_hz * np.log2(1 + 10 ** (snr_db / 10))
        enough = max(1, np.ceil(seen.values["demand_bps"] / group_bps))
        used = reserved & (np.cumsum(reserved) <= enough)
        return twin.Action({"rx_beam_deg": seen.values["predicted_beam_deg"], "used_rb": used})


if __name__ == "__main__":
    connect = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555"
    print(hil.serve(Thrifty, agent="ue", connect=connect), "observations answered")
