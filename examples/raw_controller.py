"""A controller that needs nothing of ours, only ZeroMQ and MessagePack: any language has both (docs/wire.md).

In one terminal  ntn-twin run quickstart --seat ue=external
in another       python examples/raw_controller.py
"""

import sys

import msgspec
import zmq

host, port = (sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555").rsplit(":", 1)
hear, say = zmq.Context.instance().socket(zmq.SUB), zmq.Context.instance().socket(zmq.DEALER)
hear.connect(f"{host}:{port}")
hear.subscribe("ue.")
say.connect(f"{host}:{int(port) + 1}")
say.send(msgspec.msgpack.encode({"kind": "hello", "protocol": 1, "agent": "ue", "client": "raw", "ready": True}))
answered = 0
while hear.poll(60_000):  # a minute of silence: the twin is gone
    seen = msgspec.msgpack.decode(hear.recv_multipart()[1])
    if seen["kind"] == "stop" or seen.get("last"):
        break
    if seen["kind"] == "observation":  # the answer's arrays are sent back as they came: where to look, what is reserved
        values = {"rx_beam_deg": seen["values"]["predicted_beam_deg"], "used_rb": seen["values"]["reserved_rb"]}
        answer = {"kind": "answer", "agent": "ue", "run": seen["run"], "slot": seen["slot"], "values": values}
        say.send(msgspec.msgpack.encode(answer))
        answered += 1
print(answered, "observations answered")
