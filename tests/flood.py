"""A peer nobody asked for, as loud as it can: malformed, truncated, oversized, replayed and foreign messages.

    python flood.py ADDRESS SECONDS [CONNECTIONS] [A_SECOND]

Everything is encoded beforehand and sent without waiting; what was sent is printed as one JSON object. It runs at the
ordinary priority, whatever the priority of who started it.
"""

import itertools
import json
import os
import sys
import time

import light
import msgspec
import zmq

encode = msgspec.msgpack.Encoder().encode
HUGE = (1 << 20) + 1  # more than is decoded, less than disconnects
HUGE_EVERY = 5000
AT_ONCE = 50


def messages(asked):
    """A round of what is sent, by kind; `asked` is an observation that was overheard."""
    real = encode(light.answer(asked, asked["slot"]))
    return {
        "malformed": b"\xc1 no message at all",
        "truncated": real[: len(real) // 2],
        "replayed": real,
        "foreign": encode({"kind": "telegram", "agent": asked["agent"], "text": "stop"}),
        "hello": encode({"kind": "hello", "protocol": 1, "agent": asked["agent"], "client": "flood", "ready": True}),
        "beat": encode({"kind": "heartbeat", "agent": asked["agent"]}),
        "long": encode({"kind": "heartbeat", "agent": "x" * 5000}),
    }


def main(address, seconds, connections=4, a_second=0):
    """Flood for some seconds; a_second: no more than so many messages."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    into = address + ".in" if address.startswith("ipc://") else f"tcp://127.0.0.1:{int(address.rsplit(':', 1)[1]) + 1}"
    context = zmq.Context()
    sub = context.socket(zmq.SUB)
    sub.subscribe("")
    sub.connect(address + ".out" if address.startswith("ipc://") else address)
    dealers, poller = [], zmq.Poller()
    for _ in range(int(connections)):
        dealers.append(context.socket(zmq.DEALER))
        dealers[-1].setsockopt(zmq.LINGER, 3000)
        dealers[-1].connect(into)
        poller.register(dealers[-1], zmq.POLLOUT)
    if not sub.poll(20_000):
        return 1
    sent, tried, kinds = dict.fromkeys(messages({"agent": "", "run": "", "slot": 0}), 0) | {"huge": 0}, 0, []
    begun = time.monotonic()
    until, turn, huge = begun + float(seconds), itertools.cycle(dealers), bytes(HUGE)
    while (now := time.monotonic()) < until:
        try:  # the newest observation is what a forged answer must answer
            while True:
                topic, body = sub.recv_multipart(zmq.NOBLOCK)
                if topic.endswith(b".observation"):
                    kinds = list(messages(light.decode(body)).items())
        except zmq.Again:
            pass
        if not kinds:
            continue
        if int(a_second) and tried > int(a_second) * (now - begun):
            time.sleep(0.0005)
            continue
        full = 0
        for _ in range(AT_ONCE):
            dealer = next(turn)
            for kind, body in kinds:
                tried += 1
                try:
                    dealer.send(body, zmq.NOBLOCK)
                    sent[kind] += 1
                except zmq.Again:
                    full += 1
                    break
            if tried // HUGE_EVERY > sent["huge"]:
                try:
                    dealer.send(huge, zmq.NOBLOCK)
                    sent["huge"] += 1
                except zmq.Again:
                    pass
            if full >= len(dealers):
                poller.poll(1)
                break
    took = time.monotonic() - begun
    for dealer in dealers:
        while True:  # what was refused is read, or ZeroMQ would not let us go in peace
            try:
                dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
    time.sleep(1.0)
    print(
        json.dumps({"sent": sent, "all": sum(sent.values()), "a_second": round(sum(sent.values()) / took)}), flush=True
    )
    sub.close(0)
    for dealer in dealers:
        dealer.close()
    context.term()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
