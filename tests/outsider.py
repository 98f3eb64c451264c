"""A controller on bare sockets, as one in another language would be: it knows the wire protocol, and nothing of ours.

Tests of the conformance kit run it in a thread or a process, and let children of it break one clause each.
"""

import time

import msgspec
import numpy as np
import zmq

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


class Good:
    """A controller that keeps every clause. Those below differ in one thing each."""

    hello = {"kind": "hello", "protocol": 1, "agent": "follower", "client": "raw"}  # noqa: RUF012
    topic = "follower."
    limits = {}  # noqa: RUF012 - of the kit, other than the quick ones
    welcome = None
    patience_s = 60.0  # without a word from the twin
    heard_s = 0.0

    def sit(self, address, over):
        """One run: connect, say hello, answer until it is over, leave."""
        self.over = over
        host, port = address.rsplit(":", 1)
        with zmq.Context() as context, context.socket(zmq.SUB) as self.sub, context.socket(zmq.DEALER) as self.dealer:
            self.sub.linger = self.dealer.linger = 0
            self.sub.connect(address)
            self.sub.subscribe(self.topic)
            self.dealer.connect(f"{host}:{int(port) + 1}")
            self.say(self.hello)
            self.done, self.left, self.heard_s = set(), False, time.monotonic()
            while not over.is_set() and not self.left and time.monotonic() - self.heard_s < self.patience_s:
                self.look()

    def look(self):
        ready, _, _ = zmq.select([self.sub, self.dealer], [], [], 0.02)
        if self.dealer in ready:
            self.probed(self.dealer.recv_multipart())
        if self.sub in ready:
            frames, self.heard_s = self.sub.recv_multipart(), time.monotonic()
            try:
                self.heard(unpack(frames[1]), frames)
            except (msgspec.DecodeError, IndexError):
                self.garbage()

    def say(self, message):
        self.dealer.send(pack(message))

    def heard(self, message, frames):
        match message.get("kind") if isinstance(message, dict) and len(frames) == 2 else None:
            case "welcome":
                self.welcomed(message)
            case "stop":
                self.stopped()
            case "observation":
                self.observed(message)
            case _:
                self.unknown(message)

    def welcomed(self, message):
        if self.welcome is None or self.welcome["run"] != message["run"]:
            self.welcome, self.rng = message, np.random.default_rng(message["seed"])
            self.say({"kind": "ready", "agent": "follower"})

    def observed(self, seen):
        if seen["run"] != self.welcome["run"] or seen["slot"] in self.done:
            return
        if seen["last"]:
            self.lasted()
            return
        self.done.add(seen["slot"])
        self.answer(seen)

    def answer(self, seen):
        received = time.monotonic_ns()
        try:
            values = self.values(seen)
        except (KeyError, ValueError) as error:
            self.say(self.reply(seen, {}, {}) | {"reason": str(error)})
            return
        stamps = {"waiting": received, "received": received, "decoded": received, "cpu_ns": 0}
        stamps |= {"acted": time.monotonic_ns(), "replied": time.monotonic_ns()}
        self.say(self.reply(seen, values, stamps))

    def values(self, seen):
        return {"number": array(np.clip(numbers(seen, "target").sum() + 0.01 * self.rng.normal(), -10, 10))}

    def reply(self, seen, values, stamps):
        about = {"kind": "answer", "agent": "follower", "run": seen["run"], "slot": seen["slot"]}
        return {**about, "values": values, "stamps": stamps}

    def stopped(self):
        self.left = True

    def lasted(self):
        self.left = True

    def unknown(self, message):
        pass

    def probed(self, frames):
        pass

    def garbage(self):
        pass


def array(value, dtype="<f8"):
    value = np.asarray(value, dtype=dtype)
    return {"dtype": "float64", "shape": list(value.shape), "data": value.tobytes()}


def numbers(seen, name):
    packed = seen["values"][name]
    return np.frombuffer(packed["data"], packed["dtype"]).reshape(packed["shape"])
