"""A controller of pyzmq and msgspec alone, up in a tenth of a second: tests kill it, stop it, and let it misbehave.

    python light.py ADDRESS AGENT [HOW] [ALONE_S]

It answers observation n with number(n), whoever it is and however often it was started, and leaves ALONE_S seconds
after it last heard of its twin, with exit code 4. HOW is one of HABITS. It prints the last slot it was asked about.
"""

import struct
import sys
import time
from collections import deque

import msgspec
import zmq

ALONE_S = 5.0  # or so long after its start, when it never did
HELLO_EVERY_S = 0.2
A_SECOND = 10_000  # duplicates of `repeats`
encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


def number(slot):
    """The one right answer to an observation."""
    return slot * 37 % 1000 / 100 - 5


def answer(asked, slot, value=None, **more):
    """An answer as it travels."""
    data = struct.pack("<d", number(slot) if value is None else value)
    return {
        "kind": "answer",
        "agent": asked["agent"],
        "run": asked["run"],
        "slot": slot,
        "values": {"number": {"dtype": "float64", "shape": [], "data": data}},
        "stamps": {"replied": time.monotonic_ns()},
        **more,
    }


def plainly(asked, past):
    """One answer to each observation."""
    return [answer(asked, asked["slot"])]


def in_bursts(asked, past):
    """Nothing for nine observations, then ten answers at once."""
    return [answer(asked, slot) for slot in past] if asked["slot"] % 10 == 9 else []


def to_the_future(asked, past):
    """Fifty answers to what was not asked yet, all of them wrong, then the right one."""
    return [*(answer(asked, asked["slot"] + 1 + i, 9.0) for i in range(50)), answer(asked, asked["slot"])]


def to_the_past(asked, past):
    """The right answer, then another one to each of the last slots."""
    return [answer(asked, asked["slot"]), *(answer(asked, slot, 9.0) for slot in past if slot != asked["slot"])]


def and_noise(asked, past):
    """The right answer between things that are none."""
    return [answer(asked, asked["slot"]), b"\xc1", b"", {"kind": "answer"}, answer(asked, -1), b"\x00" * 5000]


HABITS = {
    "plain": plainly,
    "bursts": in_bursts,
    "future": to_the_future,
    "past": to_the_past,
    "noise": and_noise,
    "repeats": plainly,
}


def main(address, agent, how="plain", alone_s=ALONE_S):
    """Take the seat and answer until the run is over; 0, or 4 when the twin is not heard of any more."""
    into = address + ".in" if address.startswith("ipc://") else f"tcp://127.0.0.1:{int(address.rsplit(':', 1)[1]) + 1}"
    context = zmq.Context()
    sub, dealer = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    sub.subscribe(f"{agent}.")
    sub.connect(address + ".out" if address.startswith("ipc://") else address)
    dealer.connect(into)
    poller = zmq.Poller()
    poller.register(sub, zmq.POLLIN)
    poller.register(dealer, zmq.POLLIN)
    hello = encode({"kind": "hello", "protocol": 1, "agent": agent, "client": how})
    run, heard, said, last = "", time.monotonic(), -HELLO_EVERY_S, None
    past = deque(maxlen=1000 if how == "past" else 10)
    try:
        while (now := time.monotonic()) < heard + (float(alone_s) if run else ALONE_S):
            if not run and now > said + HELLO_EVERY_S:  # also after a refusal: who sat here may just have died
                said = now
                dealer.send(hello)
            ready = dict(poller.poll(0.1 if how == "repeats" and last else 50))
            if dealer in ready:
                dealer.recv_multipart()  # a probe, or a refusal
            if how == "repeats" and last and sub not in ready:
                for _ in range(A_SECOND // 1000):
                    dealer.send(last, zmq.NOBLOCK)
                time.sleep(0.001)
            while sub in ready:
                try:
                    topic, body = sub.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                heard, message = time.monotonic(), decode(body)
                if topic.endswith(b".welcome") and not run:
                    run = message["run"]
                    dealer.send(encode({"kind": "ready", "agent": agent}))
                elif topic.endswith(b".stop") or message.get("last"):
                    return 0
                elif topic.endswith(b".observation") and run:
                    past.append(message["slot"])
                    for each in HABITS[how](message, past):
                        last = each if isinstance(each, bytes) else encode(each)
                        dealer.send(last)
        return 4
    finally:
        print(past[-1] if past else -1, flush=True)
        sub.close(0)
        dealer.close(0)
        context.term()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
