"""Where the time of a cycle goes: two seconds in real time with a process on each seat, then the report.

python examples/latency_report.py        flies first
python examples/latency_report.py RUN    reports a run folder
"""

import sys

import hil
import twin

if len(sys.argv) > 1:
    record = twin.Record.open(sys.argv[1])
else:
    record = hil.run(twin.load("baseline", {"slots": 40, "rt_factor": 2.0}), clock="realtime")


def us(value):
    return f"{'-':>8}   " if value is None else f"{round(value):8} us"


report = hil.report(record)
for name, agent in report.agents.items():
    print(f"{name}: {agent.cycles} cycles, {agent.on_time} on time, longest run of misses {agent.longest_miss_run}")
    print(f"  {'':<28}        p50          p99")
    rows = {"slack before the deadline": agent.slack_us, "response, from the release": agent.response_us}
    rows |= {f"  {part}": spread for part, spread in agent.components_us.items()} | {"  rest": agent.unaccounted_us}
    for label, spread in rows.items():
        print(f"  {label:<28}{us(spread.p50)}  {us(spread.p99)}")
