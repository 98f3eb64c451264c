"""Keys: what is in the files, who gets in, what everybody else is told, and that nobody waits for ever."""

import contextlib
import os
import threading
import time
from contextlib import contextmanager

import msgspec
import pytest
import toys
import zmq
from terminal import COMMAND, ended, free_address, started

import hil
from hil import keys, wire
from hil.hub import Hub, There
from twin import Record
from twin.errors import ControllerError, SeatEmpty, WireError
from twin.units import NS_PER_S

pytestmark = pytest.mark.usefixtures("no_child_left")

LIMIT_S = 10.0


# ---- files


def test_keygen_writes_a_secret_for_us_alone_and_a_line_for_others(tmp_path):
    secret, public = keys.keygen("ue-board", tmp_path / "keys")
    assert secret.stat().st_mode & 0o777 == 0o600
    pair = keys.read_secret(secret)
    assert pair.name == "ue-board"
    assert public.read_text() == f"ue-board {pair.public}\n"
    assert keys.read_public(public) == pair.public
    assert pair.secret not in public.read_text()
    assert pair.secret not in repr(pair)


@pytest.mark.parametrize("there", ["a.secret", "a.public"])
def test_key_is_never_written_over(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(WireError, match=f"{there} exists; a key is never written over"):
        keys.keygen("a", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize("name", ["", "../twin", "a b", ".hidden", "x" * 65, "#"])
def test_name_that_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(WireError, match="a key's name is letters"):
        keys.keygen(name, tmp_path)


def test_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WireError, match="cannot be written in"):
        keys.keygen("a", tmp_path / "file" / "deeper")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file.*ntn-twin keygen makes one"),
        (lambda path: path.chmod(0o640), r"open to others \(mode 0640\): chmod 600"),
        (lambda path: path.chmod(0o604), "open to others"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "it is not text"),
        (lambda path: path.write_text("public ="), "not one that ntn-twin keygen wrote"),
        (lambda path: path.write_text('name = "a"'), "has no text 'public'"),
        (lambda path: path.write_text(path.read_text()[:-3] + '"'), "the secret key is not 40 characters"),
        (lambda path: path.write_text(path.read_text().replace('public = "', 'public = "~')[:-1]), "the public key is"),
        (
            lambda path: path.write_text(
                path.read_text().replace(keys.read_secret(path).public, keys.KeyPair.new("b").public)
            ),
            "not that of the secret one",
        ),
    ],
)
def test_secret_file_that_cannot_be_used_is_refused_by_name(tmp_path, change, complaint):
    secret, _ = keys.keygen("a", tmp_path)
    change(secret)
    with pytest.raises(WireError, match=complaint) as caught:
        keys.read_secret(secret)
    assert str(secret) in str(caught.value)


def test_public_file_of_two_keys_names_no_twin(tmp_path):
    both = tmp_path / "both"
    both.write_text("".join(f"{name} {keys.KeyPair.new(name).public}\n" for name in "ab"))
    with pytest.raises(WireError, match="has 2 keys, expected one line"):
        keys.read_public(both)


def test_allow_list_is_names_keys_seats_and_comments(tmp_path):
    a, b, odd = keys.KeyPair.new("a").public, keys.KeyPair.new("b").public, "0#" + "0" * 38
    path = tmp_path / "clients"
    path.write_text(f"# the lab\n\n  a {a}\nb {b}  ue,leo\nodd {odd} # until May\n")
    allowed = keys.AllowList(path)
    assert allowed.clients == {a: keys.Client("a"), b: keys.Client("b", ("ue", "leo")), odd: keys.Client("odd")}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a", r"clients, line 1: expected NAME KEY"),
        ("# x\na KEY ue leo", r"clients, line 2: expected NAME KEY"),
        ("a tooshort", "line 1: the public key is not 40 characters"),
        ("a " + "~" * 40, "line 1: the public key is not 40 characters"),
        ("a/b KEY", "line 1: expected NAME KEY"),
        ("a KEY\nb KEY", "line 2: this key is there already, as 'a'"),
    ],
)
def test_allow_list_that_is_none_is_refused_with_its_line(tmp_path, text, complaint):
    path = tmp_path / "clients"
    path.write_text(text.replace("KEY", keys.KeyPair.new("a").public))
    with pytest.raises(WireError, match=complaint):
        keys.AllowList(path)


def test_allow_list_that_everybody_can_write_is_refused(tmp_path):
    path = tmp_path / "clients"
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(WireError, match="can be written by everybody: chmod o-w"):
        keys.AllowList(path)


def test_allow_list_is_read_again_only_when_it_changed(tmp_path):
    path, a = tmp_path / "clients", keys.KeyPair.new("a").public
    path.write_text("")
    allowed = keys.AllowList(path)
    assert not allowed.refresh()
    path.write_text(f"a {a}\n")
    assert allowed.refresh()
    assert set(allowed.clients) == {a}
    path.unlink()
    assert allowed.refresh()
    assert "cannot be read" in allowed.broken
    assert not allowed.clients
    path.write_text(f"a {a}\n")
    assert allowed.refresh()
    assert (set(allowed.clients), allowed.broken) == ({a}, "")


# ---- who gets in


class Lab:
    """A twin with keys and an allow-list, and key pairs of clients."""

    def __init__(self, folder):
        self.folder, self.list = folder, folder / "clients"
        for name in ("twin", "ue", "other"):
            keys.keygen(name, folder)
        self.allow("ue")

    def allow(self, *names, seats=""):
        lines = [f"{(self.folder / f'{name}.public').read_text().strip()} {seats}\n" for name in names]
        passing = self.folder / "clients.new"
        passing.write_text("".join(lines))
        passing.replace(self.list)

    @property
    def twin(self):
        return keys.for_twin(self.folder / "twin.secret", self.list)

    def client(self, name="ue", server="twin"):
        return keys.for_client(self.folder / f"{name}.secret", self.folder / f"{server}.public")


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "keys").mkdir()
    return Lab(tmp_path / "keys")


@contextmanager
def a_hub(twin_keys, address=None):
    """A hub with one seat, `follower`, that listens in this thread when it is told to."""
    agent, told = toys.TwoTier().agents[1], []
    hub = Hub("run-1", address, lambda kind, **what: told.append((kind, what)), twin_keys)
    shapes = wire.specs(agent.observes), wire.specs(agent.acts)
    welcome = wire.Welcome(1, "run-1", agent.name, 1, 0.01, 1, 1, 0, *shapes, {}, "lockstep", 1.0, False, 10, [], {})
    seat = There(hub, agent, ("leader",), welcome, patience_s=5.0, compute_scale=1.0)
    try:
        yield hub, seat, told
    finally:
        hub.close()


@contextmanager
def a_client(hub, client_keys):
    """The sockets of a controller that does only what a test tells it."""
    context = zmq.Context()
    sub, dealer = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    try:
        for socket, place in zip((sub, dealer), wire.endpoints(hub.here)):
            if client_keys is not None:
                client_keys.lock(socket)
            socket.connect(place)
        sub.subscribe(b"follower.")
        yield dealer
    finally:
        context.destroy(0)


def hello(dealer, agent="follower"):
    dealer.send(wire.encode(wire.Hello(1, agent, ready=True)))


def listen(hub, enough, limit_s=LIMIT_S):
    hub.listen(time.monotonic_ns() + round(limit_s * NS_PER_S), enough)
    return enough()


def turned_away(hub, client_keys, patience_s=LIMIT_S):
    """What a controller is told that does not get in; the twin listens meanwhile."""
    told = []

    def serve():
        try:
            hil.serve(toys.Echo, "follower", hub.here, patience_s, keys=client_keys)
        except ControllerError as error:
            told.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    listen(hub, lambda: not thread.is_alive(), 2 * LIMIT_S)
    thread.join()
    (error,) = told
    return error


def test_listed_key_takes_a_seat_and_the_record_names_it(lab):
    with a_hub(lab.twin) as (hub, seat, told), a_client(hub, lab.client()) as dealer:
        hello(dealer)
        assert listen(hub, lambda: seat.taken)
        assert seat.key_name == "ue"
        ((_, what),) = [e for e in told if e[0] == "seated"]
        assert what["key"] == "ue"


def test_key_that_is_not_listed_is_told_at_once_that_it_was_not_accepted(lab):
    with a_hub(lab.twin) as (hub, seat, told):
        begun = time.monotonic()
        error = turned_away(hub, lab.client("other"))
        assert "did not accept our key, 'other'" in str(error)
        assert error.exit_code == 2
        assert time.monotonic() - begun < LIMIT_S / 2
        assert seat.identity is None
        assert hub.refused >= 1
        assert any(kind == "refused" and "not in the allow-list" in what["reason"] for kind, what in told)


def test_wrong_key_of_the_server_is_told_soon(lab):
    with a_hub(lab.twin) as (hub, _, _):
        error = turned_away(hub, lab.client("ue", server="other"))
        assert f"no handshake with {hub.address}: it has another key than --server-key says" in str(error)


def test_no_key_at_all_is_told_so_and_a_twin_without_keys_says_it_too(lab):
    with a_hub(lab.twin) as (hub, _, _):
        assert "a twin with keys wants --keys and --server-key" in str(turned_away(hub, None))
    with a_hub(None) as (hub, _, _):
        assert "it has another key than --server-key says, none at all" in str(turned_away(hub, lab.client()))


def test_handshake_that_never_succeeds_ends_with_the_patience(lab):
    with a_hub(lab.twin) as (hub, _, _):
        error = turned_away(hub, lab.client("ue", server="other"), patience_s=0.5)
        assert isinstance(error, SeatEmpty)
        assert "another key than --server-key says" in str(error)


def test_key_that_is_bound_to_seats_gets_no_other(lab):
    lab.allow("ue", seats="leader,observer")
    with a_hub(lab.twin) as (hub, seat, _):
        assert "the key of 'ue' is for leader, observer, not for 'follower'" in str(turned_away(hub, lab.client()))
        assert seat.identity is None


def test_key_that_was_revoked_does_not_come_in_again(lab):
    with a_hub(lab.twin) as (hub, seat, _):
        with a_client(hub, lab.client()) as dealer:
            hello(dealer)
            assert listen(hub, lambda: seat.taken)
        assert listen(hub, lambda: seat.identity is None)
        lab.allow("other")
        assert "did not accept our key, 'ue'" in str(turned_away(hub, lab.client()))


def test_seat_of_a_revoked_key_is_vacated_and_its_open_connection_gets_none(lab):
    with a_hub(lab.twin) as (hub, seat, told), a_client(hub, lab.client()) as dealer:
        hello(dealer)
        assert listen(hub, lambda: seat.taken)
        lab.allow("other")
        assert listen(hub, lambda: seat.identity is None)
        assert any(kind == "vacant" and "no longer" in what["reason"] for kind, what in told)
        refused = hub.refused
        hello(dealer)
        assert listen(hub, lambda: hub.refused > refused)
        assert seat.identity is None
        last = ""
        while dealer.poll(200):
            last = msgspec.msgpack.decode(dealer.recv_multipart()[1]).get("reason", last)
        assert "no longer, in the allow-list" in last


def test_list_that_cannot_be_read_any_more_keeps_strangers_out_and_everybody_in(lab):
    with a_hub(lab.twin) as (hub, seat, told), a_client(hub, lab.client()) as dealer:
        hello(dealer)
        assert listen(hub, lambda: seat.taken)
        lab.list.write_text("half")
        assert "did not accept our key" in str(turned_away(hub, lab.client("ue")))
        assert not listen(hub, lambda: seat.identity is None, 1.0)
        assert any(kind == "allow_list" and "expected NAME KEY" in what["reason"] for kind, what in told)
        lab.allow("ue")
        assert not listen(hub, lambda: seat.identity is None, 1.0)


def test_key_added_in_the_run_comes_in(lab):
    with a_hub(lab.twin) as (hub, seat, _):
        lab.allow("ue", "other")
        with a_client(hub, lab.client("other")) as dealer:
            hello(dealer)
            assert listen(hub, lambda: seat.taken)
            assert seat.key_name == "other"


def test_message_under_the_name_of_a_connection_but_with_another_key_is_nobodys(lab):
    lab.allow("ue", "other")
    with a_hub(lab.twin) as (hub, seat, _), a_client(hub, lab.client()) as dealer:
        hello(dealer)
        assert listen(hub, lambda: seat.taken)
        seat.key = lab.client("other").pair.public
        dealer.send(wire.encode(wire.Heartbeat("follower")))
        assert listen(hub, lambda: hub.refused > 0)
        assert seat.identity is None


def test_strangers_are_answered_a_few_at_a_time(lab, monkeypatch):
    monkeypatch.setattr(keys, "AT_ONCE", 3)
    with a_hub(lab.twin) as (hub, _, _):
        context, stranger = zmq.Context(), lab.client("other")
        try:
            dealers = [context.socket(zmq.DEALER) for _ in range(10)]
            for dealer in dealers:
                stranger.lock(dealer)
                dealer.connect(wire.endpoints(hub.address)[1])
            looks, until, now = [], time.monotonic() + LIMIT_S, 1
            hub.door.look(now)
            looks.append(hub.refused)
            while sum(looks) < 10 and time.monotonic() < until:
                now += keys.LOOK_EVERY_NS
                before = hub.refused
                hub.door.look(now - 1)  # it is not time yet
                assert hub.refused == before
                hub.door.look(now)
                looks.append(hub.refused - before)
                time.sleep(0.001)
            assert sum(looks) == 10
            assert max(looks) <= 3
        finally:
            context.destroy(0)


# ---- addresses


def test_beyond_this_machine_a_twin_needs_keys(lab):
    port = free_address().rsplit(":", 1)[1]
    with pytest.raises(WireError, match="ntn-twin keygen"):
        Hub("run-1", f"tcp://0.0.0.0:{port}")
    for everywhere in ("0.0.0.0", "*"):
        with (
            a_hub(lab.twin, f"tcp://{everywhere}:{port}") as (hub, seat, _),
            a_client(hub, lab.client()) as dealer,
        ):
            assert hub.here == f"tcp://127.0.0.1:{port}"
            assert "--server-key twin.public" in hub.how_to_take("follower")
            assert everywhere not in hub.how_to_take("follower")
            hello(dealer)
            assert listen(hub, lambda: seat.taken)


def test_twin_can_be_bound_by_the_name_of_an_interface(lab):
    port = free_address().rsplit(":", 1)[1]
    with a_hub(lab.twin, f"tcp://lo:{port}") as (hub, _, _):
        assert hub.here == f"tcp://127.0.0.1:{port}"


def test_keys_work_on_a_path_too(lab, tmp_path):
    with a_hub(lab.twin, f"ipc://{tmp_path}/twin") as (hub, seat, _), a_client(hub, lab.client()) as dealer:
        hello(dealer)
        assert listen(hub, lambda: seat.taken)


# ---- whole runs


def sockets():
    """How many sockets, and what ZeroMQ wakes its threads with, this process has open."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(link.startswith(("socket:", "anon_inode:")) for link in links)


def test_encrypted_run_has_the_trajectory_of_the_plain_one_and_leaves_nothing_behind(lab, tmp_path):
    threads, descriptors = threading.active_count(), sockets()
    plain = hil.run(toys.scenario(), "lockstep", tmp_path / "plain")
    lab.list.write_text("# nobody but those the twin starts\n")
    locked = hil.run(toys.scenario(), "lockstep", tmp_path / "locked", keys=lab.twin)
    assert locked.meta["trajectory_hash"] == plain.meta["trajectory_hash"]
    assert (plain.meta["encrypted"], locked.meta["encrypted"]) == (False, True)
    assert locked.meta["messages"]["follower"]["key"] == "started-by-the-twin"
    assert threading.active_count() == threads
    assert sockets() == descriptors


def test_keys_of_a_started_controller_are_in_its_environment_alone_and_taken_out(lab, monkeypatch):
    with a_hub(lab.twin) as (hub, _, _):
        told = hub.hire("follower")
        assert hub.hire("follower") != told
    monkeypatch.setenv(keys.ENVIRONMENT, told[keys.ENVIRONMENT])
    found = keys.from_environment()
    assert found.server == lab.twin.pair.public
    assert keys.ENVIRONMENT not in os.environ
    assert keys.from_environment() is None


def test_seat_nobody_with_a_key_takes_ends_the_run_in_time(lab, tmp_path):
    scenario = toys.scenario(("Echo", "external"), seat_wait_s=1.0)
    begun = time.monotonic()
    with pytest.raises(SeatEmpty, match=r"--keys NAME\.secret --server-key twin\.public"):
        hil.run(scenario, "lockstep", tmp_path / "run", bind=free_address(), keys=lab.twin)
    assert time.monotonic() - begun < 20


def test_two_terminals_with_keys(tmp_path):
    for name in ("twin", "ue-board"):
        with started(*COMMAND, "keygen", name, cwd=tmp_path) as process:
            code, out, _ = ended(process)
        assert code == 0
        assert f"{name}.secret" in out
    (tmp_path / "clients").write_text((tmp_path / "ue-board.public").read_text().strip() + " ue\n")
    port = free_address().rsplit(":", 1)[1]
    run = [*COMMAND, "run", "baseline", "--set", "slots=20", "--seat", "ue=external", "--out", "run", "--json"]
    run += ["--bind", f"tcp://*:{port}", "--keys", "twin.secret", "--allow", "clients"]
    control = [*COMMAND, "control", "hold", "--agent", "ue", "--connect", f"tcp://127.0.0.1:{port}"]
    with (
        started(*run, cwd=tmp_path) as twin,
        started(*control, "--keys", "ue-board.secret", "--server-key", "twin.public", cwd=tmp_path) as controller,
    ):
        code, _, err = ended(controller)
        assert code == 0, err
        assert "20 observations answered" in err
        code, _, err = ended(twin)
        assert code == 0, err
    record = Record.open(tmp_path / "run")
    assert record.meta["messages"]["ue"]["key"] == "ue-board"
    assert {e["key"] for e in record.events if e["event"] == "seated"} == {"ue-board", "started-by-the-twin"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("run", "baseline", "--keys", "twin.secret"), "--keys and --allow go together"),
        (("control", "hold", "--agent", "ue", "--server-key", "twin.public"), "--keys and --server-key go together"),
        (("run", "baseline", "--keys", "none.secret", "--allow", "clients"), "none.secret cannot be read"),
        (("keygen", "a/b"), "a key's name is letters"),
    ],
)
def test_what_is_missing_on_the_command_line_is_said(words, complaint, tmp_path, monkeypatch, capsys):
    from hil import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ntn-twin", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_secret_of_a_started_controller_is_not_on_its_command_line(lab, tmp_path):
    seen = []

    def look(slot, outcome, tally):
        for pid in os.listdir("/proc"):
            try:
                command = open(f"/proc/{pid}/cmdline", "rb").read() if pid.isdigit() else b""  # noqa: SIM115
                environ = open(f"/proc/{pid}/environ", "rb").read() if b"toys:Echo" in command else b""  # noqa: SIM115
                if keys.ENVIRONMENT.encode() in environ:
                    seen.append((command, environ))
            except OSError:
                continue

    hil.run(toys.scenario(slots=1), "lockstep", tmp_path / "run", watch=look, keys=lab.twin)
    secrets = [env.split(keys.ENVIRONMENT.encode() + b"=")[1].split(b"\0")[0].split()[2] for _, env in seen]
    assert len(secrets) >= 2
    assert all(secret not in command for secret in secrets for command, _ in seen)
