"""The controllers in C and JavaScript: they fly the trajectories of their Python twins, and live through any noise.

Skipped, with the reason, where gcc, libzmq or msgpack-c is not there, and where node or its two packages are not
(`make languages` installs those beside the examples).
"""

import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
import zmq
from terminal import COMMAND, EXAMPLES, LIMIT_S, ended, free_address, settled, started, wait_for

import hil
from hil import wire
from twin import Record, load, run
from twin.errors import WireError

LANGUAGES = ("c", "javascript")
POLICY = {"c": "test_examples:FollowsTheSatellite", "javascript": "controller_in_20_lines:Thrifty"}
PACKAGES = 'require("zeromq"); require("@msgpack/msgpack")'
GROUPS = 5


def words(*command, **more):
    """Exit code and everything a short command said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, **more)
    return done.returncode, done.stdout + done.stderr


def built_c(folder, more=""):
    """controller.c, built by the line that stands at its top."""
    for tool in ("gcc", "pkg-config"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    msgpack = next((name for name in ("msgpack", "msgpack-c") if words("pkg-config", "--exists", name)[0] == 0), None)
    if msgpack is None or words("pkg-config", "--exists", "libzmq")[0] != 0:
        pytest.skip("pkg-config knows no libzmq or no msgpack (Debian: libzmq3-dev, libmsgpack-dev)")
    lines = (EXAMPLES / "controller.c").read_text().splitlines()
    (line,) = (line.removeprefix(" *").strip() for line in lines if "gcc -std" in line)
    shutil.copy(EXAMPLES / "controller.c", folder)
    line = line.replace("libzmq msgpack)", f"libzmq {msgpack})") + f" {more}"
    code, said = words("sh", "-c", line, cwd=folder)
    assert code == 0, said
    assert said == ""
    return (folder / "controller",)


def javascript():
    """controller.js, with the packages beside it or where NODE_PATH says."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if words("node", "-e", PACKAGES, cwd=EXAMPLES)[0] != 0:
        pytest.skip("the npm packages of examples/package.json are not installed (make languages)")
    return ("node", EXAMPLES / "controller.js")


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request):
    """Which of the two, for tests that fly both."""
    return request.param


@pytest.fixture(scope="module")
def command(language, tmp_path_factory):
    """How that controller is started."""
    return built_c(tmp_path_factory.mktemp("built")) if language == "c" else javascript()


@pytest.mark.parametrize("name", ["controller.c", "controller.js"])
def test_controller_fits_on_a_page(name):
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len(lines) < 120
    assert max(map(len, lines)) <= 120


# in a run


def twin(address, folder, *more):
    return (*COMMAND, "run", "baseline", "--seat", "ue=external", "--bind", address, "--out", folder, *more)


def test_in_lock_step_it_flies_the_trajectory_of_its_policy_in_python(language, command, tmp_path, monkeypatch):
    address = free_address()
    with (
        started(*command, address, cwd=tmp_path) as controller,
        started(*twin(address, "there", "--set", "slots=60"), cwd=tmp_path) as flown,
    ):
        code, _, err = ended(flown)
        assert code == 0, err
        assert ended(controller) == (0, (EXAMPLES / "controller.out").read_text(), "")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    here = run(load("baseline", {"slots": 60, "agent.ue.controller": POLICY[language]}), tmp_path / "here")
    there = Record.open(tmp_path / "there")
    assert there.meta["trajectory_hash"] == here.meta["trajectory_hash"]
    assert (there.decisions["ue"]["status"] == 1).all()
    for name in ("used_rb", "rx_beam_deg"):
        np.testing.assert_array_equal(there.decisions["ue"][f"action.{name}"], here.decisions["ue"][f"action.{name}"])


def test_its_stamps_are_in_the_report_and_a_slower_computer_is_emulated(command, tmp_path):
    address = free_address()
    slow = ("--clock", "realtime", "--set", "slots=30", "--set", "agent.ue.compute_scale=10", "--set", "max_lag_s=60")
    with (
        started(*command, address, cwd=tmp_path) as controller,
        started(*twin(address, "run", *slow), cwd=tmp_path) as flown,
    ):
        assert ended(flown)[0] == 0
        assert ended(controller)[0] == 0
    record = Record.open(tmp_path / "run")
    report = hil.report(record)["ue"]
    assert report.accounted_share > 0.99  # who stamps nothing has none of what lies between sending and arrival
    assert report.components_us["decode"].p50 > 0
    assert report.compute_us.p50 > 0
    ue = record.decisions["ue"]
    answered = ue["arrived_ns"] > 0
    np.testing.assert_array_equal(ue["emulation_ns"][answered] >= 9 * ue["cpu_ns"][answered], True)
    assert np.median(ue["cpu_ns"][answered]) > 0


def test_killed_it_gets_its_seat_back_and_goes_on(command, tmp_path):
    address, folder = free_address(), tmp_path / "run"
    endless = ("--clock", "realtime", "--set", "slots=2000", "--set", "max_lag_s=60")
    with started(*twin(address, "run", *endless), cwd=tmp_path) as flown:
        with started(*command, address, cwd=tmp_path) as first:
            wait_for(lambda: (settled(folder, "ue") == 1).sum() >= 3, flown)
            first.kill()
            first.wait(LIMIT_S)
        wait_for(lambda: settled(folder, "ue")[-1] == 2, flown)
        with started(*command, address, cwd=tmp_path) as second:
            wait_for(lambda: (settled(folder, "ue")[-3:] == 1).all(), flown)
            flown.send_signal(signal.SIGINT)
            code, _, err = ended(flown)
            assert code == 130, err
            assert ended(second)[0] == 0
    assert (settled(folder, "ue") == 4).sum() == 0


def test_wrong_seat_is_refused_with_the_reason(command, tmp_path):
    address = free_address()
    with (
        started(*twin(address, "run"), cwd=tmp_path) as _,
        started(*command, address, "uf", cwd=tmp_path) as controller,
    ):
        code, out, err = ended(controller)
    assert (code, out) == (1, "")
    assert "refused: no seat 'uf'; there are leo, ue" in err


def test_silent_twin_is_left_after_a_while(command, tmp_path):
    with started(*command, free_address(), "ue", "1", cwd=tmp_path) as controller:
        code, out, err = ended(controller)
    assert (code, out) == (1, "")
    assert "no word from the twin" in err


@pytest.mark.parametrize("address", ["here", "tcp://127.0.0.1", "tcp:5555"])
def test_address_that_is_none_is_said(command, tmp_path, address):
    with started(*command, address, cwd=tmp_path) as controller:
        code, _, err = ended(controller)
    assert code > 0
    assert f"{address} is no tcp://HOST:PORT" in err


# against a twin that says what it likes


def packed(**arrays):
    bundle = wire.pack({name: np.asarray(value) for name, value in arrays.items()})
    return msgspec.to_builtins(bundle, builtin_types=(bytes,))


def observation(slot=0, **changes):
    values = packed(
        predicted_beam_deg=[80.0, 100.0 + slot % 7], snr_db=[10.0] * GROUPS, demand_bps=1e8, reserved_rb=[True] * GROUPS
    )
    now = time.monotonic_ns()
    timing = {"deadline_us": None, "slack_us": None, "status": "", "action_source": "default", "age_slots": 0}
    return {
        "kind": "observation",
        "run": "7f3a",
        "agent": "ue",
        "slot": slot,
        "t_sim_ns": slot * 10**8,
        "t_mono_ns": now,
        "clock_id": "monotonic",
        "values": values,
        "reward": None,
        "last": False,
        "signals": {},
        "timing": timing,
        **changes,
    }


class Twin:
    """Both sockets of a twin, without a world behind them."""

    def __init__(self):
        self.address = free_address()
        self.context = zmq.Context()
        self.out, self.into = self.context.socket(zmq.XPUB), self.context.socket(zmq.ROUTER)
        for each, place in zip((self.out, self.into), wire.endpoints(self.address)):
            each.setsockopt(zmq.LINGER, 1000)
            each.bind(place)
        self.peer = b""

    def close(self):
        self.context.destroy()

    def publish(self, message, kind="observation"):
        self.out.send_multipart(
            [f"ue.{kind}".encode(), message if isinstance(message, bytes) else msgspec.msgpack.encode(message)]
        )

    def hear(self):
        """The next message of the controller."""
        assert self.into.poll(LIMIT_S * 1000), "the controller is silent"
        self.peer, body = self.into.recv_multipart()
        return wire.decode_incoming(body)

    def answer_to(self, slot):
        """Its answer to this slot; what it says to noise comes before and is passed over."""
        while True:
            try:
                said = self.hear()
            except WireError:
                continue
            if isinstance(said, wire.Reply) and (said.run, said.slot) == ("7f3a", slot):
                return said

    def asks(self, slot, **changes):
        self.publish(observation(slot, **changes))
        return self.answer_to(slot)

    def welcome(self, protocol=1):
        """What comes before the first observation, up to the controller's being ready."""
        assert self.out.poll(LIMIT_S * 1000)
        assert self.out.recv() == b"\x01ue."
        hello = self.hear()
        assert (hello.protocol, hello.agent, hello.ready) == (1, "ue", False)
        facts = packed(rb_bandwidth_hz=1.44e6, n_rb=100, n_groups=GROUPS)
        welcome = {"kind": "welcome", "protocol": protocol, "run": "7f3a", "agent": "ue", "facts": facts, "new": [{}]}
        self.publish(observation(99))  # of somebody else's time on this seat: no business of ours
        for _ in range(3):
            self.publish(welcome, "welcome")
        return hello


@contextmanager
def hosted(command, folder):
    """A controller under a twin that says what it likes; it ends by itself, and well, when that says stop."""
    host = Twin()
    try:
        with started(*command, host.address, "ue", "30", cwd=folder) as controller:
            yield host, controller
            host.publish({"kind": "stop", "run": "7f3a", "reason": "finished"}, "stop")
            code, _, err = ended(controller)
            said = [line for line in err.splitlines() if "failed to allocate" not in line]  # a sanitizer's warning
            assert (code, said) == (0, [])
    finally:
        host.close()


def test_it_says_hello_and_waits_for_the_welcome(command, tmp_path):
    with hosted(command, tmp_path) as (host, _):
        host.welcome()
        assert isinstance(host.hear(), wire.Ready)
        reply = host.asks(3)
        arrays = wire.unpack(reply.values)
        assert (reply.run, reply.slot, reply.reason) == ("7f3a", 3, "")
        np.testing.assert_array_equal(arrays["rx_beam_deg"], [80.0, 103.0])
        assert arrays["used_rb"].shape == (GROUPS,)
        stamps = reply.stamps
        in_order = [stamps[name] for name in ("waiting", "received", "decoded", "acted", "replied")]
        assert in_order == sorted(in_order)
        assert in_order[-1] <= time.monotonic_ns()


def test_twin_of_another_protocol_is_left(command, tmp_path):
    host = Twin()
    try:
        with started(*command, host.address, cwd=tmp_path) as controller:
            host.welcome(protocol=2)
            code, _, err = ended(controller)
        assert code == 1
        assert "does not speak protocol 1" in err
    finally:
        host.close()


def test_stopped_and_continued_it_answers_what_is_still_wanted(command, tmp_path):
    with hosted(command, tmp_path) as (host, controller):
        host.welcome()
        host.asks(0)
        controller.send_signal(signal.SIGSTOP)
        for slot in range(1, 31):
            host.publish(observation(slot, timing={"deadline_us": 1.0}))
        time.sleep(0.1)
        controller.send_signal(signal.SIGCONT)
        slots = [host.hear().slot]
        while slots[-1] != 30:  # the newest is answered even so: a late answer is better seen than none
            slots.append(host.hear().slot)
        assert len(slots) < 15  # what waited is skipped, but for those that happen to be the newest read so far


def test_last_observation_ends_it(command, tmp_path):
    with hosted(command, tmp_path) as (host, controller):
        host.welcome()
        host.asks(0)
        host.publish(observation(1, last=True))
        assert ended(controller) == (0, "1 observations answered\n", "")


def noise():
    """What no twin says, or not yet: bodies that a controller has to pass over, or to answer as best it can."""
    generator = np.random.default_rng(1)
    whole = msgspec.msgpack.encode(observation(7))
    yield from (whole[:n] for n in range(len(whole)))
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[generator.integers(len(whole))] ^= 1 << int(generator.integers(8))
        yield bytes(flipped)
    yield from (generator.bytes(int(n)) for n in generator.integers(0, 200, 300))
    for header in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"):  # array, map, text, bytes, extension of absurd length
        yield from (header + count for count in (b"\xff\xff\xff\xff", b"\x10\x00\x00\x00", b"\x00\x00\x00\x01"))
    yield from (b"\x91" * 100_000, b"\x81\xa1x" * 100_000)
    values = observation()["values"]
    beam = values["predicted_beam_deg"]
    odd = [
        None,
        17,
        "observation",
        [],
        {},
        {"kind": 3},
        {"kind": None},
        {"kind": "weather", "rain": True},
        {"kind": "heartbeat", "agent": "ue"},
        {"kind": "observation"},
        {1: 2, None: 3, "kind": "observation"},
        {str(i): i for i in range(100_000)},
        dict.fromkeys(range(70_000)),
        {**observation(), **{f"new {i}": [{"deep": [i]}] for i in range(1_000)}},
        observation(run=None),
        {**observation(), "slot": -1},
        {**observation(), "slot": 2**64 - 1},
        observation(last=None, timing=None, t_mono_ns=None, signals=None),
        observation(timing={"deadline_us": "soon"}, t_mono_ns=-1),
        observation(values={}),
        observation(values=[1, 2, 3]),
        observation(values={**values, "predicted_beam_deg": None}),
        *(
            observation(values={**values, name: {**values[name], **change}})
            for name in values
            for change in (
                {"shape": [0], "data": b""},
                {"shape": [], "data": b"\x01"},
                {"shape": [-1, 2**40], "data": bytes(100_000)},
                {"dtype": "complex512"},
                {"dtype": 8},
                {"data": "text"},
                {"data": None},
                {"shape": None},
                {"dtype": "float64", "data": np.full(GROUPS, np.nan).tobytes()},
            )
        ),
        observation(values={**values, "predicted_beam_deg": {**beam, "data": np.array([np.inf, -np.inf]).tobytes()}}),
    ]
    yield from map(msgspec.msgpack.encode, odd)


def says_goodbye(body):
    """Whether noise happens to be a word that rightly ends the controller."""
    try:
        message = msgspec.msgpack.decode(body, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(message, dict) and (
        message.get("kind") in ("stop", "refused", "welcome") or message.get("last") is True
    )


def lives_through_noise(command, folder):
    with hosted(command, folder) as (host, _):
        host.welcome()
        host.asks(0)
        for count, body in enumerate(noise(), start=1):
            if says_goodbye(body):
                continue
            host.publish(body)
            if count % 10 == 0:
                host.into.send_multipart([host.peer, b"ue.probe", body])
            if count % 100 == 0:  # no faster than it reads: a full socket would drop what is meant to be heard
                host.asks(count + 1_000)
        for frames in ([b"ue."], [b"ue.observation", b"", b""], [b"ue.x"] * 5):
            host.out.send_multipart(frames)
            host.into.send_multipart([host.peer, *frames])
        reply = host.asks(1)
        np.testing.assert_array_equal(wire.unpack(reply.values)["rx_beam_deg"], [80.0, 101.0])


def test_noise_of_every_kind_is_passed_over(command, tmp_path):
    lives_through_noise(command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("under", ["sanitizers", "valgrind"])
def test_no_noise_makes_the_c_controller_touch_memory_that_is_not_its_own(under, tmp_path, monkeypatch):
    plain = built_c(tmp_path)
    if under == "valgrind":
        if shutil.which("valgrind") is None:
            pytest.skip("valgrind is not installed")
        command = ("valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full", *plain)
    else:
        sanitize = "-fsanitize=address,undefined -fno-sanitize-recover=all"
        (tmp_path / "empty.c").write_text("int main(void) { return 0; }")
        if words("sh", "-c", f"gcc {sanitize} empty.c -o empty && ./empty", cwd=tmp_path)[0] != 0:
            pytest.skip("gcc here has no address sanitizer")
        command = built_c(tmp_path, sanitize)
        monkeypatch.setenv("ASAN_OPTIONS", "allocator_may_return_null=1:max_allocation_size_mb=1000")
    lives_through_noise(command, tmp_path)
