"""A scenario in lock-step, in this process: the same seed gives the same trajectory, to the bit.

python examples/lockstep.py
"""

import numpy as np

import twin

scenario = twin.load("baseline", {"slots": 100})
record = twin.run(scenario)

print(f"{scenario.name}: {scenario.slots} slots of {scenario.slot_s:g} s, seats {', '.join(record.decisions)}")
print("slot  satellite  elevation_deg  best snr_db  groups  rate Mbit/s  asked Mbit/s")
for slot in range(0, scenario.slots, 20):
    print(
        f"{slot:4}  {record['satellite'][slot]:9}  {record['elevation_deg'][slot]:13.1f}"
        f"  {record['snr_db'][slot].max():11.1f}  {record['used_rb'][slot].sum():6}"
        f"  {record['rate_bps'][slot] / 1e6:11.1f}  {record['demand_bps'][slot] / 1e6:12.0f}"
    )
served = record["served_bps"].sum() / record["demand_bps"].sum()
print(f"served {100 * served:.1f} % of what was asked for; mean reward of the ue {np.mean(record['reward.ue']):.2f}")

again = twin.run(scenario)
print("flown again:", "the same" if again.meta["trajectory_hash"] == record.meta["trajectory_hash"] else "another")
other = twin.run(twin.load("baseline", {"slots": 100, "seed": 2}))
print("with seed 2:", "the same" if other.meta["trajectory_hash"] == record.meta["trajectory_hash"] else "another")
