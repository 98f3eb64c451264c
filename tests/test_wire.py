"""Messages: arrays survive the way, and what is not exactly right is refused with words."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hil import wire
from twin.errors import WireError
from twin.types import Field


@pytest.mark.parametrize("dtype", sorted(wire.DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_arrays_survive_the_way(dtype, shape):
    value = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    (back,) = wire.unpack(msgspec.msgpack.decode(wire.encode(wire.pack({"x": value})), type=wire.Bundle)).values()
    assert back.dtype == value.dtype
    np.testing.assert_array_equal(back, value)


def test_strided_and_big_endian_arrays_travel_as_little_endian_rows():
    value = np.arange(6, dtype=">f8").reshape(2, 3).T
    packed = wire.pack({"x": value})["x"]
    np.testing.assert_array_equal(np.frombuffer(packed.data, "<f8").reshape(packed.shape), value)


@pytest.mark.parametrize(
    ("packed", "complaint"),
    [
        (wire.Packed("float64", (2,), b"\0" * 15), "15 bytes, which is not shape"),
        (wire.Packed("float64", (-1,), b"\0" * 8), "not shape"),
        (wire.Packed("object", (), b"\0" * 8), "dtype 'object'"),
        (wire.Packed("bool", (2,), b"\1\2"), "bytes other than 0 and 1"),
        (wire.Packed("float64", (2**40, 2**40), b""), "not shape"),
        (wire.Packed("float64", (1,) * 100, b"\0" * 8), "not shape"),
        (wire.Packed("float64", (0, 2**62, 2**62), b""), "not shape"),
        (wire.Packed("uint8", (1,) * 100_000, b"\0"), "not shape"),
    ],
)
def test_array_that_does_not_add_up_is_refused(packed, complaint):
    with pytest.raises(WireError, match=complaint):
        wire.unpack({"x": packed})


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_noise_is_refused_or_read_but_never_anything_else(noise):
    try:
        wire.decode_incoming(noise)
    except WireError:
        pass


def test_text_that_is_not_utf_8_is_refused():
    with pytest.raises(WireError, match="not a message of protocol 1"):
        wire.decode_incoming(b"\x81\xa4kind\xa2\xff\xff")


def test_empty_arrays_of_any_shape_travel():
    assert wire.unpack(wire.pack({"x": np.zeros((0, 5))}))["x"].shape == (0, 5)


def test_empty_array_of_an_absurd_shape_is_refused():
    with pytest.raises(WireError, match="has 0 bytes, which is not shape"):
        wire.unpack({"x": wire.Packed("float64", (1 << 23,) * 7 + (0,), b"")})


def test_more_arrays_than_are_read_are_refused():
    with pytest.raises(WireError, match="65 arrays in one answer, more than the 64"):
        wire.unpack({str(i): wire.Packed("uint8", (0,), b"") for i in range(65)})


def test_a_message_larger_than_the_limit_is_refused_unread():
    with pytest.raises(WireError, match="more than the"):
        wire.decode_incoming(b"\x00" * (wire.MAX_BODY_BYTES + 1))


def test_unknown_fields_are_ignored():
    body = msgspec.msgpack.encode({"kind": "hello", "protocol": 1, "agent": "ue", "mood": "good"})
    assert wire.decode_incoming(body) == wire.Hello(1, "ue")


def test_fields_survive_the_way_with_their_bounds():
    there = (Field("a", (2, 3), "float64", -np.inf, 180.0), Field("b", (), "bool"))
    assert wire.fields(wire.specs(there)) == there


@pytest.mark.parametrize(
    ("address", "out", "into"),
    [
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"),
        ("ipc:///tmp/x", "ipc:///tmp/x.out", "ipc:///tmp/x.in"),
    ],
)
def test_one_address_names_two_sockets(address, out, into):
    assert wire.endpoints(address) == (out, into)


@pytest.mark.parametrize("address", ["127.0.0.1:5555", "tcp://127.0.0.1", "tcp://host:99999", "udp://x:1", ""])
def test_address_that_is_none_is_refused(address):
    with pytest.raises(WireError, match="neither tcp"):
        wire.endpoints(address)
