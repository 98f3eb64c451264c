"""The messages between the twin and its controllers: MessagePack maps, arrays as {dtype, shape, data}.

Two frames leave the twin, a topic `<agent>.<kind>` and a body; one frame, a body, comes in. docs/wire.md describes the
same structs for any language. Unknown fields are ignored, so a newer peer can say more; what is known is checked to
the byte before anything is done with it.
"""

import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from twin.errors import WireError
from twin.runner import MOST_ARRAYS
from twin.types import Agent, Arrays, Field

PROTOCOL = 1
MAX_BODY_BYTES = 1 << 20  # of an answer we decode; a larger one is an invalid cycle
MAX_MESSAGE_BYTES = 8 << 20  # of anything a peer may send; ZeroMQ disconnects whoever sends more
MOST_AXES = 8
MOST_WORDS = 200  # characters of somebody else's that a message of ours repeats
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("float64", "float32", "int64", "int32", "uint8", "bool")}
ORDERS: tuple[Literal["<"], Literal[">"]] = ("<", ">")
NAMES = {np.dtype(name).newbyteorder(order): name for name in DTYPES for order in ORDERS}


class Packed(msgspec.Struct):
    """An array: little-endian bytes, the last axis fastest."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Bundle = dict[str, Packed]


class Spec(msgspec.Struct):
    """One array an agent observes or acts with; bounds are inclusive, null where there is none."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: float | None = None
    high: float | None = None


class Hello(msgspec.Struct, tag_field="kind", tag="hello"):
    """In: somebody wants a seat. ready: it can answer at once, without waiting for the welcome.

    clock_id: the clock of its stamps (hil.offset.clock_id); empty: that of the twin.
    """

    protocol: int
    agent: str
    client: str = ""
    ready: bool = False
    heartbeat_s: float = 0.0
    clock_id: str = ""


class Ready(msgspec.Struct, tag_field="kind", tag="ready"):
    """In: the welcome was read, everything is loaded and compiled."""

    agent: str
    run: str = ""


Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class Reply(msgspec.Struct, tag_field="kind", tag="answer"):
    """In: the answer to one observation. reason: why there is none; the cycle is invalid, and values are not read."""

    agent: str
    run: str
    slot: int
    values: Bundle
    signals: dict[str, Bundle] = {}
    stamps: dict[str, Count] = {}
    weights: Count = 0
    learning_misses: Count = 0
    reason: str = ""


class Heartbeat(msgspec.Struct, tag_field="kind", tag="heartbeat"):
    """In: the controller that offered heartbeats lives. Out: a probe; read it and forget it."""

    agent: str


class Welcome(msgspec.Struct, tag_field="kind", tag="welcome"):
    """Out: the seat's contract, told before the first observation, again until the controller is ready."""

    protocol: int
    run: str
    agent: str
    seed: int
    slot_s: float
    every: int
    order: int
    delay: int
    observes: list[Spec]
    acts: list[Spec]
    facts: Bundle
    clock: str
    rt_factor: float
    learn: bool
    learn_delay: int
    others: list[str]
    options: dict[str, Any]


class Asked(msgspec.Struct, tag_field="kind", tag="observation"):
    """Out: an observation, which wants an answer unless it is the last."""

    run: str
    agent: str
    slot: int
    t_sim_ns: int
    t_mono_ns: int
    clock_id: str
    values: Bundle
    reward: float | None
    last: bool
    signals: dict[str, Bundle]
    timing: dict[str, Any]


class Refused(msgspec.Struct, tag_field="kind", tag="refused"):
    """Out, to the asker alone: the hello was not accepted, and why."""

    agent: str
    reason: str


class Stop(msgspec.Struct, tag_field="kind", tag="stop"):
    """Out: the run is over; leave."""

    run: str
    reason: str


class Slot(msgspec.Struct, tag_field="kind", tag="slot"):
    """Out, for watchers: what a slot brought. tally: how many cycles of each agent ended how, so far."""

    run: str
    slot: int
    t_sim_ns: int
    t_mono_ns: int
    clock_id: str
    rewards: dict[str, float]
    measures: Bundle
    tally: dict[str, dict[str, int]]


class Event(msgspec.Struct, tag_field="kind", tag="event"):
    """Out, for watchers: a line of the run's events, as it is noted."""

    run: str
    event: str
    t_mono_ns: int
    what: dict[str, Any]


Incoming = Hello | Ready | Reply | Heartbeat
Outgoing = Welcome | Asked | Refused | Stop | Heartbeat | Slot | Event

encode = msgspec.msgpack.Encoder().encode
_incoming = msgspec.msgpack.Decoder(Incoming)
_outgoing = msgspec.msgpack.Decoder(Outgoing)


def decode_incoming(body: bytes) -> Incoming:
    """What a controller sent. Raises WireError saying what is wrong with it."""
    if len(body) > MAX_BODY_BYTES:
        raise WireError(f"a message of {len(body)} bytes, more than the {MAX_BODY_BYTES} that are read")
    return _decode(_incoming, body)


def decode_outgoing(body: bytes) -> Outgoing:
    """What the twin sent. Raises WireError."""
    return _decode(_outgoing, body)


def _decode(decoder: msgspec.msgpack.Decoder, body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # ValidationError is a DecodeError
        raise WireError(f"not a message of protocol {PROTOCOL}: {str(error)[:MOST_WORDS]}") from None


def pack(arrays: Arrays) -> Bundle:
    """Arrays as they travel. Raises WireError for a dtype that does not."""
    packed = {}
    for name, value in arrays.items():
        value = np.asarray(value)
        dtype = NAMES.get(value.dtype)  # the dtype's own .name costs more than the rest
        if dtype is None:
            raise WireError(f"{name} has dtype {value.dtype}; there are {', '.join(DTYPES)}")
        packed[name] = Packed(dtype, value.shape, value.astype(DTYPES[dtype], copy=False).tobytes())
    return packed


def unpack(bundle: Bundle) -> dict[str, np.ndarray]:
    """Arrays as they were packed; read-only. Raises WireError for an unknown dtype or a wrong number of bytes."""
    arrays = {}
    if len(bundle) > MOST_ARRAYS:
        raise WireError(f"{len(bundle)} arrays in one answer, more than the {MOST_ARRAYS} that are read")
    for name, packed in bundle.items():
        dtype = DTYPES.get(packed.dtype)
        if dtype is None:
            raise WireError(f"{name} has dtype {packed.dtype!r}; there are {', '.join(DTYPES)}")
        n_bytes, shape = len(packed.data), packed.shape
        absurd = len(shape) > MOST_AXES or any(n < 0 for n in shape)
        absurd |= math.prod(n or 1 for n in shape) > MAX_MESSAGE_BYTES  # an empty one too: numpy multiplies the others
        if absurd or math.prod(shape) * dtype.itemsize != n_bytes:
            raise WireError(f"{name} has {n_bytes} bytes, which is not shape {shape[:MOST_AXES]} of {packed.dtype}")
        if packed.dtype == "bool" and packed.data.strip(b"\x00\x01"):
            raise WireError(f"{name} is bool, but has bytes other than 0 and 1")
        arrays[name] = np.frombuffer(packed.data, dtype).reshape(packed.shape)
    return arrays


def specs(fields: tuple[Field, ...]) -> list[Spec]:
    """Fields as they travel."""
    return [
        Spec(
            f.name,
            tuple(f.shape),
            f.dtype,
            f.low if math.isfinite(f.low) else None,
            f.high if math.isfinite(f.high) else None,
        )
        for f in fields
    ]


def fields(specs_: list[Spec]) -> tuple[Field, ...]:
    """Fields as they were before they travelled."""
    return tuple(
        Field(
            s.name,
            tuple(s.shape),
            s.dtype,
            -math.inf if s.low is None else s.low,
            math.inf if s.high is None else s.high,
        )
        for s in specs_
    )


def agent_of(welcome: Welcome) -> Agent:
    """The seat's contract out of the welcome."""
    return Agent(
        welcome.agent,
        fields(welcome.observes),
        fields(welcome.acts),
        welcome.every,
        welcome.order,
        welcome.delay,
        facts=unpack(welcome.facts),
    )


def endpoints(address: str) -> tuple[str, str]:
    """Where observations leave and where answers come in, from the one address people are told.

    tcp: observations on the port given, answers on the next one; ipc: the path with .out and .in behind it.
    Raises WireError for anything else.
    """
    if address.startswith("ipc://"):
        return address + ".out", address + ".in"
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not colon or not port.isdigit() or not 0 < int(port) < 65535:
        raise WireError(f"address {address!r} is neither tcp://HOST:PORT (the port below 65535) nor ipc://PATH")
    return address, f"tcp://{host}:{int(port) + 1}"
