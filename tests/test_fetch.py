"""Fetching element sets: from a server in this process that speaks as CelesTrak does, well and badly.

Time is a clock that the test moves; only the tests of a server that is silent wait, for tenths of a second. Every
request is counted, and no test asks anybody outside this machine.
"""

import gzip
import hashlib
import json
import lzma
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from terminal import COMMAND, ROOT, ended, started, wait_for

from hil import cli, fetch
from hil.catalogue_table import read
from twin import parse_tle
from twin.errors import FetchError, NotServed

SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"
LINES = lzma.decompress(SNAPSHOT.read_bytes()).decode().splitlines()
SETS, NEWER = ("".join(f"{line}\r\n" for line in LINES[a:b]).encode() for a, b in ((0, 60), (60, 126)))
MANY = "".join(f"{line}\r\n" for line in LINES[:600]).encode()
NOON = datetime(2025, 7, 27, 12, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
A_MOMENT = 0.2  # s: long for this machine to answer itself, short for us to wait
LONG_S = 10.0  # and this much less than a silent server's pause, however busy the machine


def of(hours_ago):
    """What CelesTrak says to whom it has given the data since the last update."""
    then = f"{NOON - hours_ago * HOUR:%Y-%m-%d %H:%M:%S}"
    return (
        f"GP data has not updated since your last successful\ndownload of GROUP=starlink at {then} UTC.\n"
        "Data is updated once every 2 hours.\n"
    ).encode()


def reply(body=SETS, status=200, length=True, **headers):
    """A server's answer: what it does with a request."""

    def answer(request):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        if length is not False:
            request.send_header("Content-Length", str(len(body) if length is True else length))
        request.end_headers()
        request.wfile.write(body)

    return answer


def raw(*parts):
    """Bytes on the wire, whatever they are."""

    def answer(request):
        for part in parts:
            request.wfile.write(part)

    return answer


def chunked(*parts, end=b"0\r\n\r\n"):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks, end)


class Server:
    """An HTTP server on this machine that answers as it is told, and remembers who asked for what."""

    def __init__(self):
        self.answer, self.asked, self.closing = reply(), [], threading.Event()
        mine = self

        class Handler(BaseHTTPRequestHandler):
            closing = mine.closing

            def do_GET(self):
                mine.asked.append((self.path, dict(self.headers)))
                try:
                    mine.answer(self)
                except OSError:
                    pass  # who asked has left

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.base = f"http://{self.host}/NORAD/elements/gp.php"
        self.url = fetch.group_url("starlink", "tle", self.base)

    def close(self):
        self.closing.set()
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()  # waits for the answers under way


class Clock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def get(server, clock, tmp_path):
    """`fetch` of the server's list into a cache of this test."""

    def call(url=server.url, **options):
        return fetch.fetch(url, tmp_path / "cache", **{"now": clock, "timeout_s": 5.0, **options})

    return call


def files(folder):
    """What lies there, by name, but for locks, which are empty and stay."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix != ".lock"}


# ---- the cache


def test_what_came_is_kept_with_a_note_of_where_and_when(get, server, tmp_path):
    server.answer = reply(ETag='"7"', Last_Modified="Sun, 27 Jul 2025 10:00:00 GMT")
    came = get()
    assert (came.source, came.body, came.copy.sets, came.copy.broken) == ("server", SETS, 20, 0)
    assert came.file.read_bytes() == SETS
    assert set(files(tmp_path / "cache")) == {came.file.name, came.file.with_suffix(".json").name}
    assert came.file.name.startswith("starlink-")
    note = json.loads(came.file.with_suffix(".json").read_bytes())
    assert note["url"] == server.url
    assert note["wait"] is None
    assert note["copy"] == {
        "fetched_utc": "2025-07-27T12:00:00Z",
        "checked_utc": "2025-07-27T12:00:00Z",
        "etag": '"7"',
        "last_modified": "Sun, 27 Jul 2025 10:00:00 GMT",
        "sha256": hashlib.sha256(SETS).hexdigest(),
        "sets": 20,
        "broken": 0,
        "median_epoch_utc": note["copy"]["median_epoch_utc"],
    }
    epochs = sorted(s.epoch_utc for s in parse_tle(SETS.decode()))
    assert epochs[9] <= came.copy.median_epoch_utc <= epochs[10]


def test_the_server_is_told_who_asks_and_for_what(get, server):
    get()
    [(path, headers)] = server.asked
    assert path == "/NORAD/elements/gp.php?GROUP=starlink&FORMAT=tle"
    assert headers["User-Agent"].startswith("ntn-twin/")
    assert headers["Accept-Encoding"] == "gzip"
    assert "If-None-Match" not in headers


def test_within_two_hours_the_copy_is_the_answer_and_nobody_is_asked(get, server, clock):
    said = []
    get()
    clock.now += 2 * HOUR - MINUTE
    came = get(say=said.append)
    assert (came.source, came.body, len(server.asked)) == ("cache", SETS, 1)
    assert "nobody is asked" in said[0]
    clock.now += MINUTE
    server.answer = reply(NEWER)
    came = get()
    assert (came.source, came.body, came.copy.sets, len(server.asked)) == ("server", NEWER, 22, 2)
    assert came.file.read_bytes() == NEWER


def test_after_two_hours_the_server_is_asked_whether_the_copy_is_current(get, server, clock):
    server.answer = reply(ETag='"7"', Last_Modified="Sun, 27 Jul 2025 10:00:00 GMT")
    get()
    clock.now += 3 * HOUR
    server.answer = reply(b"", 304)
    came = get()
    headers = server.asked[1][1]
    assert headers["If-None-Match"] == '"7"'
    assert headers["If-Modified-Since"] == "Sun, 27 Jul 2025 10:00:00 GMT"
    assert (came.source, came.body, came.copy.fetched_utc) == ("unchanged", SETS, NOON)
    clock.now += HOUR
    assert get().source == "cache", "what was current an hour ago still is"
    assert len(server.asked) == 2


def test_a_304_that_nobody_asked_for_is_an_error(get, server, clock):
    get()  # with no ETag and no date
    clock.now += 3 * HOUR
    server.answer = reply(b"", 304)
    with pytest.raises(NotServed, match="answers 304"):
        get()


def test_force_asks_within_the_two_hours(get, server):
    get()
    server.answer = reply(NEWER)
    assert get(force=True).body == NEWER
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [403, 200])
def test_not_updated_since_our_download_means_that_the_copy_is_current(get, server, clock, status):
    """CelesTrak's way of saying 304, when its update comes later than ours is old."""
    get()
    clock.now += 2 * HOUR
    server.answer = reply(of(hours_ago=0), status)
    assert get().source == "unchanged"
    clock.now += HOUR
    assert get().source == "cache"
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [403, 200])
def test_not_updated_since_a_later_download_than_ours_is_an_error_that_stands(get, server, clock, status):
    """Somebody else at this network address has it; the copy here is older."""
    get()
    clock.now += 3 * HOUR
    server.answer = reply(of(hours_ago=-2), status)
    with pytest.raises(NotServed, match="to this network address already") as error:
        get()
    assert "GROUP=starlink at 2025-07-27 14:00:00 UTC" in str(error.value)
    for force in (False, True):
        with pytest.raises(NotServed, match="is not asked before 2025-07-27 17:00:00 UTC: "):
            get(force=force)
    assert len(server.asked) == 2


def test_other_queries_have_other_copies(get, server):
    one, two = get(), get(fetch.group_url("oneweb", "tle", server.base))
    assert one.file != two.file
    assert len(server.asked) == 2


@pytest.mark.parametrize("spoil", ["note", "wrong kind of note", "copy", "no copy", "no note"])
def test_a_spoilt_copy_is_fetched_anew(get, server, spoil):
    came = get()
    if spoil == "note":
        came.file.with_suffix(".json").write_text('{"url": ')
    elif spoil == "wrong kind of note":
        came.file.with_suffix(".json").write_text('{"url": 7, "copy": {"fetched_utc": "noon"}}')
    elif spoil == "copy":
        came.file.write_bytes(SETS[:-10])
    else:
        (came.file if spoil == "no copy" else came.file.with_suffix(".json")).unlink()
    again = get()
    assert (again.source, again.file.read_bytes(), len(server.asked)) == ("server", SETS, 2)
    assert "If-None-Match" not in server.asked[1][1]


def test_a_copy_from_the_future_is_asked_about(get, server, clock):
    """This machine's clock was wrong then, or is now."""
    get()
    clock.now -= 24 * HOUR
    get()
    assert len(server.asked) == 2


def test_two_at_once_ask_once(get, server):
    def slowly(request):
        time.sleep(A_MOMENT)
        reply()(request)

    server.answer = slowly
    with ThreadPoolExecutor(4) as pool:
        came = [future.result(timeout=10) for future in [pool.submit(get) for _ in range(4)]]
    assert sorted(c.source for c in came) == ["cache", "cache", "cache", "server"]
    assert len(server.asked) == 1


def test_a_lock_that_is_never_let_go_is_reported(get, monkeypatch):
    file = get().file
    monkeypatch.setattr(fetch, "PATIENCE", 1)
    with fetch._alone(file.with_suffix(".lock"), 1.0), pytest.raises(NotServed, match="another process is still"):
        get(timeout_s=A_MOMENT)


def test_a_cache_that_cannot_be_used_is_reported(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="choose another folder with --cache"):
        fetch.fetch(server.url, tmp_path / "file" / "cache")
    assert server.asked == []


def test_the_cache_lies_where_desktops_keep_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.default_cache() == tmp_path / "ntn-twin" / "tle"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.default_cache() == tmp_path / ".cache" / "ntn-twin" / "tle"


# ---- what is no answer

PACKED = gzip.compress(SETS)
HTML = b"<!DOCTYPE html>\n<html><head><title>Maintenance</title></head></html>\n"
BROKEN = SETS.replace(LINES[1][20:30].encode(), b"9" * 10).replace(LINES[4][20:30].encode(), b"9" * 10)
BROKEN = BROKEN.replace(LINES[7][20:30].encode(), b"9" * 10)
TWO_HOURS, FIVE_MINUTES = 2 * HOUR, 5 * MINUTE
ALL, FIRM = "server", "server, firmly"
LONG_HEADER = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000
BLOCKED = gzip.compress(b"Blocked.")
LATER = "Sun, 27 Jul 2025 20:00:00 GMT"
NO_ANSWERS = [  # answer, what is said, how long nobody asks again, whether that is for the whole server and stands
    pytest.param(reply(HTML), "gave no element sets but a page of HTML", TWO_HOURS, "", id="HTML"),
    pytest.param(reply(b""), "but an empty answer", TWO_HOURS, "", id="empty"),
    pytest.param(reply(b" \r\n\r\n"), "but an empty answer", TWO_HOURS, "", id="blank"),
    pytest.param(reply(b"No GP data found"), "but 'No GP data found'", TWO_HOURS, "", id="no data"),
    pytest.param(reply(b"No GP data found", 404), "answers 404: No GP data found", TWO_HOURS, "", id="no data, 404"),
    pytest.param(reply(b'Invalid query: "GROUP=x"'), "Invalid query: ", TWO_HOURS, "", id="invalid query"),
    pytest.param(reply(b"\x1b[2J\x07 hello"), "but '[2J hello'", TWO_HOURS, "", id="what a terminal would obey"),
    pytest.param(reply(BROKEN), "of 20 element sets of HOST 3 are broken; line 2:", TWO_HOURS, "", id="broken sets"),
    pytest.param(reply(SETS.decode().encode("utf-16")), "sends what is no text (UTF-8)", TWO_HOURS, "", id="UTF-16"),
    pytest.param(reply(b"\xc9TE\n" + SETS), "(UTF-8): invalid continuation byte at byte 0", TWO_HOURS, "", id="Latin"),
    pytest.param(reply(PACKED), "no text (UTF-8): a packed file", TWO_HOURS, "", id="a gzip file"),
    pytest.param(reply(SETS, Content_Encoding="br"), "packs its answer as br", TWO_HOURS, "", id="brotli"),
    pytest.param(reply(SETS, Content_Encoding="gzip"), "cannot be unpacked", FIVE_MINUTES, "", id="not gzip"),
    pytest.param(reply(PACKED[:-20], Content_Encoding="gzip"), "cannot be unpacked", FIVE_MINUTES, "", id="gzip cut"),
    pytest.param(reply(SETS, length=len(SETS) + 1), "is cut short", FIVE_MINUTES, ALL, id="shorter than announced"),
    pytest.param(reply(SETS[:1000], length=False), "is cut short: its last line", FIVE_MINUTES, "", id="cut in a line"),
    pytest.param(reply(SETS[:-71], length=False), "of 20 element sets of HOST 1 are", TWO_HOURS, "", id="cut after"),
    pytest.param(chunked(SETS, end=b""), "is cut short", FIVE_MINUTES, ALL, id="without its last chunk"),
    pytest.param(chunked(SETS, end=b"zz\r\n"), "is cut short", FIVE_MINUTES, ALL, id="a chunk of no length"),
    pytest.param(raw(b"\x00\x01\x02\n"), "no answer that HTTP knows", FIVE_MINUTES, ALL, id="not HTTP"),
    pytest.param(raw(), "no answer that HTTP knows", FIVE_MINUTES, ALL, id="closed at once"),
    pytest.param(raw(LONG_HEADER), "that HTTP knows", FIVE_MINUTES, ALL, id="a long header"),
    pytest.param(reply(HTML, 301, Location="https://a.b/"), "with 301 to https://a.b/;", TWO_HOURS, "", id="301"),
    pytest.param(reply(b"", 302, Location="file:///etc/passwd"), "302", TWO_HOURS, "", id="302 to a file"),
    pytest.param(reply(b"", 307), "redirects with 307 to nowhere", TWO_HOURS, "", id="307 to nowhere"),
    pytest.param(reply(b"", 204), "answers 204: nothing", TWO_HOURS, "", id="204"),
    pytest.param(reply(SETS, 206), "answers 206: ", TWO_HOURS, "", id="206"),
    pytest.param(reply(b"Blocked.", 403), "refuses with 403: Blocked.; find out why", TWO_HOURS, FIRM, id="403"),
    pytest.param(reply(BLOCKED, 403, Content_Encoding="gzip"), "403: Blocked.;", TWO_HOURS, FIRM, id="403 packed"),
    pytest.param(reply(of(0), 403), "already, and not to this cache", TWO_HOURS, "firmly", id="403, not updated"),
    pytest.param(reply(b"Slow down", 429, Retry_After="10800"), "429: Slow down", 3 * HOUR, FIRM, id="429 with a wait"),
    pytest.param(reply(b"", 429, Retry_After=LATER), "429", 5 * HOUR, FIRM, id="429 until"),
    pytest.param(reply(b"", 429, Retry_After="soon"), "429", TWO_HOURS, FIRM, id="429 with nonsense"),
    pytest.param(reply(b"", 429, Retry_After="9" * 30), "429", 24 * HOUR, FIRM, id="429 for ever"),
    pytest.param(reply(b"", 429, Retry_After="0"), "429", MINUTE, FIRM, id="429 for no time"),
    pytest.param(reply(b"", 429, Retry_After="99999999"), "429", 24 * HOUR, FIRM, id="429 for years"),
    pytest.param(reply(b"oops", 500), "answers 500: oops", TWO_HOURS, ALL, id="500"),
    pytest.param(reply(b"", 503, Retry_After="600"), "answers 503", 10 * MINUTE, ALL, id="503 with a wait"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "says", "wait", "how"), NO_ANSWERS)
def test_what_is_no_answer_is_said_once_leaves_the_copy_and_is_not_asked_again_for_a_while(
    get, server, clock, tmp_path, answer, says, wait, how
):
    kept = get()
    before = files(tmp_path / "cache")
    other = fetch.group_url("oneweb", "tle", server.base)
    clock.now += 3 * HOUR
    if "not updated" in says or "to this cache" in says:
        kept.file.unlink()  # with a copy that old it would be no error
        kept = None
    server.answer = answer
    with pytest.raises(NotServed) as error:
        get()
    until = f"{clock.now + wait:%Y-%m-%d %H:%M:%S} UTC"
    message = str(error.value)
    assert says.replace("HOST", server.host) in message
    assert message.isprintable()
    assert f"{server.host} is not asked {'' if 'server' in how else 'for this '}again before {until}" in message
    assert ("--force" in message) == ("firmly" not in how)
    after = files(tmp_path / "cache")
    if kept is not None:
        assert f"; the copy of 3 hours ago is {kept.file}" in message
        assert after[kept.file.name] == before[kept.file.name]
        note = json.loads(after[kept.file.with_suffix(".json").name])
        assert note["copy"] == json.loads(before[kept.file.with_suffix(".json").name])["copy"]
    assert not [name for name in after if "part" in name]

    server.answer = reply(NEWER)
    clock.now += wait - timedelta(seconds=1)
    with pytest.raises(NotServed, match=f"{server.host} is not asked before {until}") as error:
        get()
    assert says.replace("HOST", server.host) in str(error.value), "it still says why"
    assert len(server.asked) == 2
    if "firmly" in how:
        with pytest.raises(NotServed):
            get(force=True)
    if "server" in how:
        with pytest.raises(NotServed):
            get(other)
    assert len(server.asked) == 2
    if "server" not in how:
        assert get(other).source == "server"
    asked = len(server.asked)
    clock.now += timedelta(seconds=1) if "firmly" in how else timedelta(0)
    assert get(force="firmly" not in how).body == NEWER
    assert len(server.asked) == asked + 1
    assert get().source == "cache", "what went wrong is forgotten"


def test_one_broken_set_of_many_is_left_out_and_named(get, server):
    said = []
    server.answer = reply(MANY.replace(LINES[4][20:30].encode(), b"9" * 10))
    came = get(say=said.append)
    assert (came.copy.sets, came.copy.broken) == (199, 1)
    assert any("left out: line 5: TLE line 1" in text for text in said)
    assert read(came.file)[1] == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(PACKED, Content_Encoding="gzip"), id="gzip"),
        pytest.param(reply(PACKED, Content_Encoding="X-GZIP", length=False), id="gzip without a length"),
        pytest.param(chunked(SETS[:100], SETS[100:]), id="chunks"),
        pytest.param(reply(SETS, length=False), id="until it closes"),
        pytest.param(reply(SETS, ETag="x" * 10_000), id="a very long ETag"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nETag: a\r\n b\r\n\r\n", SETS), id="an ETag on two lines"),
    ],
)
def test_every_way_to_send_it_is_understood(get, server, clock, answer):
    server.answer = answer
    assert get().body == SETS
    clock.now += 3 * HOUR
    assert get().body == SETS


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("announced", [False, True])
def test_an_answer_without_end_is_not_read_to_it(get, server, monkeypatch, packed, announced):
    monkeypatch.setattr(fetch, "MOST_BYTES", 100_000)
    body = gzip.compress(b"x" * 200_000) if packed else b"x" * 200_000
    server.answer = reply(body, length=announced, **({"Content_Encoding": "gzip"} if packed else {}))
    with pytest.raises(NotServed, match="longer than 200 MB"):
        get()


def test_nobody_at_the_address_is_said(get):
    with socket.socket() as held:  # bound and not listening, so that nobody else takes it
        held.bind(("127.0.0.1", 0))
        with pytest.raises(NotServed, match=r"refuses the connection.*again before 2025-07-27 12:05:00 UTC, unless"):
            get(f"http://127.0.0.1:{held.getsockname()[1]}/x.tle")


def test_a_name_that_nobody_knows_is_said_and_may_be_asked_again(get, monkeypatch):
    def nobody(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    for _ in range(2):
        with pytest.raises(NotServed, match=r"no name server knows example\.invalid: is there a network") as error:
            get("https://example.invalid/x.tle")
        assert "again" not in str(error.value)


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".org"])
def test_a_name_that_nobody_can_have_is_said(get, host):
    with pytest.raises(NotServed, match="no name server knows a"):
        get(f"http://{host}/x.tle")


def test_a_server_without_a_certificate_is_said(get, server):
    with pytest.raises(NotServed, match="cannot prove who it is"):
        get(server.url.replace("http:", "https:"))


def silent(*parts, pause_s=30.0):
    """Sends these, with a pause after each, unless the test is over."""

    def answer(request):
        for part in parts:
            request.wfile.write(part)
            request.wfile.flush()
            if request.closing.wait(pause_s):
                return

    return answer


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(silent(b""), id="before a word"),
        pytest.param(silent(b"HTTP/1.1 200 OK\r\nX"), id="in the headers"),
        pytest.param(silent(HEAD, SETS), id="before the body"),
        pytest.param(silent(HEAD + SETS), id="in the body"),
    ],
)
def test_silence_is_not_waited_for(get, server, answer):
    server.answer = answer
    began = time.monotonic()
    with pytest.raises(NotServed, match=r"was silent for 0\.2 s") as error:
        get(timeout_s=A_MOMENT)
    assert time.monotonic() - began < LONG_S
    assert "again before 2025-07-27 12:05:00 UTC, unless with --force" in str(error.value)


@pytest.mark.parametrize("head", [HEAD, b"HTTP/1.1 200 OK\r\nX: "], ids=["body", "header"])
def test_a_server_that_drips_is_not_waited_for(get, server, monkeypatch, head):
    monkeypatch.setattr(fetch, "PATIENCE", 0.2)
    server.answer = silent(head, *[b"x"] * 1000, pause_s=A_MOMENT / 4)
    began = time.monotonic()
    with pytest.raises(NotServed, match=r"had not given its whole answer after 0\.4 s"):
        get(timeout_s=2.0)
    assert time.monotonic() - began < LONG_S


def test_a_proxy_of_the_environment_is_used(get, server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{server.host}")
    get("http://celestrak.invalid/NORAD/elements/gp.php?GROUP=starlink&FORMAT=tle")
    assert server.asked[0][0].startswith("http://celestrak.invalid/")
    server.answer = reply(SETS, Content_Encoding="br")
    with pytest.raises(NotServed, match=r"^other\.invalid packs its answer"):  # and not the proxy
        get("http://other.invalid/x.tle")


def messages(form):
    """The same sets as CelesTrak gives them in its other formats."""
    rows = [
        {
            "OBJECT_NAME": s.name,
            "OBJECT_ID": "2019-074A",
            "EPOCH": s.epoch_utc.isoformat().removesuffix("+00:00"),
            "MEAN_MOTION": s.mean_motion_rev_day,
            "ECCENTRICITY": s.eccentricity,
            "INCLINATION": s.inclination_deg,
            "RA_OF_ASC_NODE": s.raan_deg,
            "ARG_OF_PERICENTER": s.argument_of_perigee_deg,
            "MEAN_ANOMALY": s.mean_anomaly_deg,
            "EPHEMERIS_TYPE": 0,
            "NORAD_CAT_ID": s.number + 270_000,
            "BSTAR": s.bstar,
        }
        for s in parse_tle(SETS.decode())
    ]
    if form == "json":
        return json.dumps(rows).encode()
    if form == "csv":
        return "\r\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows), ""]).encode()
    if form == "kvn":
        return "\n".join(f"{key} = {value}" for row in rows for key, value in row.items()).encode()
    leaves = ("".join(f"<{key}>{value}</{key}>" for key, value in row.items()) for row in rows)
    return (
        b"<ndm>" + "".join(f"<omm><body><segment>{leaf}</segment></body></omm>" for leaf in leaves).encode() + b"</ndm>"
    )


@pytest.mark.parametrize("form", fetch.FORMATS)
def test_every_format_is_read_and_named_by_what_it_is(get, server, tmp_path, form):
    server.answer = reply(SETS if form == "tle" else messages(form))
    came = get(fetch.group_url("starlink", form, server.base))
    assert (came.copy.sets, came.copy.broken, came.format) == (20, 0, form)
    assert fetch.save(came, tmp_path).suffix == f".{form}"


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_cut_answer_in_a_format_with_an_end_is_never_taken_for_a_whole_one(get, server, form, part):
    body = messages(form)
    server.answer = reply(body[: int(part * len(body))])
    with pytest.raises(NotServed, match="gave no element sets but something else"):
        get()


# ---- no server can leave a file that does not parse

STATUS = st.sampled_from([200, 200, 200, 200, 206, 301, 304, 403, 404, 500])
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Content_Encoding": st.sampled_from(["gzip", "identity", "deflate", ""]),
        "ETag": st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
        "Retry_After": st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    },
)


@st.composite
def bodies(draw):
    """Good ones, cut ones, ones with foreign bytes in them, packed and not, and noise."""
    body = draw(st.sampled_from([SETS, NEWER, MANY[:20_000], *map(messages, fetch.FORMATS[:-1]), HTML, of(0), b""]))
    a, b = sorted((draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))))
    how = draw(st.sampled_from(["as it is", "cut", "with a hole", "with noise", "packed", "packed and cut"]))
    if how == "cut":
        return body[:b]
    if how == "with a hole":
        return body[:a] + body[b:]
    if how == "with noise":
        return body[:a] + draw(st.binary(max_size=50)) + body[a:]
    packed = gzip.compress(body)
    return {"as it is": body, "packed": packed, "packed and cut": packed[: len(packed) * 2 // 3]}[how]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=STATUS, headers=HEADERS, body=bodies(), length=st.sampled_from([True, False, 10, 3000]))
def test_no_answer_of_a_server_leaves_a_file_that_does_not_parse(server, status, headers, body, length):
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        for server.answer in (reply(body, status, length, **headers), reply(), reply(body, status, length, **headers)):
            try:
                came = fetch.fetch(server.url, folder, force=True, timeout_s=5.0, now=clock)
            except NotServed:
                pass
            else:
                assert read(fetch.save(came, Path(folder) / "mine", overwrite=True))[0]
            clock.now += 25 * HOUR
            left = {path.suffix for path in Path(folder).iterdir()} - {"", ".lock", ".json"}
            assert left <= {".sets"}
            for path in Path(folder).glob("*.sets"):
                satellites, broken, _ = read(path)
                assert len(satellites) >= 9 * broken
        assert len(list(Path(folder).glob("*.sets"))) == 1


# ---- addresses and files


@pytest.mark.parametrize(
    "url",
    [
        "",
        "celestrak.org",
        "file:///etc/passwd",
        "ftp://celestrak.org/x",
        "data:text/plain,x",
        "http://",
        "http:///x",
        "http://me:secret@celestrak.org/",
        "http://celestrak.org:x/",
        "http://celestrak.org:99999/",
        "http://[::1/",
        "http://celestrak.org/a b",
        "http://celestrak.org/\r\nX: y",
        "http://celestrak.org/\u00e9",
    ],
)
def test_an_address_that_cannot_be_asked_is_refused(tmp_path, url):
    with pytest.raises(FetchError, match="an address is http://HOST") as error:
        fetch.fetch(url, tmp_path)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "url", ["http://me:secret@a.b/", "HTTP://me:se/@cret@a.b:1/c", "me:secret@a.b/x", "//:secret@"]
)
def test_a_password_in_an_address_is_not_repeated(tmp_path, url):
    with pytest.raises(FetchError, match=r"without a user; got '.*\.\.\.@") as error:
        fetch.fetch(url, tmp_path)
    assert "cret" not in str(error.value)
    assert "me:" not in str(error.value)


def test_a_server_with_a_bare_address_of_six_is_asked(get, monkeypatch):
    def nobody(address, *_, **__):
        raise ConnectionRefusedError(str(address))

    monkeypatch.setattr(socket, "create_connection", nobody)
    with pytest.raises(NotServed, match=r"\[2001:db8::1\]:8080 refuses the connection"):
        get("http://[2001:db8::1]:8080/x.tle")


def test_a_group_has_an_address():
    assert fetch.group_url("starlink") == "https://celestrak.org/NORAD/elements/gp.php?GROUP=starlink&FORMAT=json"
    assert (
        fetch.group_url("iridium-NEXT", "csv", "http://a/b?key=1") == "http://a/b?key=1&GROUP=iridium-NEXT&FORMAT=csv"
    )
    with pytest.raises(FetchError, match="a group is a word"):
        fetch.group_url("starlink&FORMAT=tle")
    with pytest.raises(FetchError, match="--format must be one of json, csv, xml, kvn, tle, got 'yaml'"):
        fetch.group_url("starlink", "yaml")
    with pytest.raises(FetchError, match="an address is"):
        fetch.group_url("starlink", base="gp.php")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://celestrak.org/NORAD/elements/gp.php?GROUP=iridium-NEXT&FORMAT=json", "iridium-next"),
        ("https://celestrak.org/NORAD/elements/gp.php?CATNR=25544", "25544"),
        ("https://celestrak.org/NORAD/elements/gp.php?format=tle&name=ISS%20(ZARYA)", "iss-zarya"),
        ("https://celestrak.org/NORAD/elements/supplemental/sup-gp.php?FILE=oneweb&FORMAT=csv", "oneweb"),
        ("http://example.org/lists/My List.txt", "my-list"),
        ("http://example.org/", "example-org"),
        ("http://example.org/..%2f..%2fetc", "etc"),
        ("http://example.org/x?GROUP=../../etc/passwd", "etc-passwd"),
        ("http://example.org/?NAME=%00", "sets"),
    ],
)
def test_a_query_has_a_name_that_a_file_can_have(url, name):
    assert fetch.label(url) == name


def test_a_file_of_ones_own_is_never_replaced_unasked(get, server, tmp_path):
    came = get()
    path = fetch.save(came, tmp_path)
    assert path == tmp_path / f"starlink-{came.copy.median_epoch_utc:%Y-%m-%d}.tle"
    assert path.read_bytes() == SETS
    assert fetch.save(came, tmp_path) == path, "the same again is no harm"
    server.answer = reply(NEWER)
    newer = get(force=True)
    with pytest.raises(FetchError, match=f"{path} is there, with other element sets") as error:
        fetch.save(newer, path)
    assert error.value.exit_code == 2
    assert path.read_bytes() == SETS
    assert fetch.save(newer, path, overwrite=True).read_bytes() == NEWER
    with pytest.raises(FetchError, match="cannot be written"):
        fetch.save(newer, tmp_path / "nowhere" / "x.tle")
    assert {p.name for p in tmp_path.iterdir()} == {"cache", path.name}


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_a_file_is_ever_replaced(get, tmp_path, overwrite):
    """As root one could replace /dev/null; and to look what is in a pipe is to wait for who writes to it."""
    came, pipe = get(), tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FetchError, match="pipe is there, and is no file"):
        fetch.save(came, pipe, overwrite)
    assert pipe.is_fifo()


# ---- the command


@pytest.fixture
def ntn_twin(monkeypatch, capsys, tmp_path):
    """The command, in a folder of its own: exit code, stdout, stderr."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("warnings.showwarning", lambda *_: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    handler = signal.getsignal(signal.SIGTERM)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["ntn-twin", "tle", *(str(word) for word in words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        return code, *capsys.readouterr()

    yield call
    signal.signal(signal.SIGTERM, handler)


def test_fetch_writes_a_dated_file_and_says_so(ntn_twin, server, tmp_path):
    code, out, err = ntn_twin("fetch", "--group", "starlink", "--format", "tle", "--base", server.base)
    [path] = (tmp_path / "here").iterdir()
    assert (code, path.read_bytes()) == (0, SETS)
    assert out.startswith(f"{path.name}  20 element sets, median epoch 2022-02-2")
    assert err == f"asking {server.url}\n"
    code, out, err = ntn_twin("fetch", "--url", server.url, "--json")
    assert code == 0
    said = json.loads(out)
    assert said == {
        "file": path.name,
        "url": server.url,
        "copy": str(next((tmp_path / "xdg" / "ntn-twin" / "tle").glob("*.sets"))),
        "source": "cache",
        "format": "tle",
        **{key: said[key] for key in ("fetched_utc", "checked_utc", "median_epoch_utc")},
        "etag": "",
        "last_modified": "",
        "sha256": hashlib.sha256(SETS).hexdigest(),
        "sets": 20,
        "broken": 0,
    }
    assert "nobody is asked" in err
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "fetch takes --group NAME, or --url URL"),
        (("--group", "a", "--url", "http://b"), 2, "fetch takes --group NAME, or --url URL"),
        (("--url", "http://b", "--format", "csv"), 2, "--base and --format go with --group"),
        (("--group", "a b"), 2, "a group is a word"),
        (("--url", "celestrak.org"), 2, "an address is http://HOST"),
        (("--url", "URL", "--timeout", "0"), 2, "the time-out must be more than 0 s and at most 3600, got 0"),
        (("--url", "URL", "--timeout", "nan"), 2, "most 3600, got nan"),
        (("--url", "URL", "--timeout", "inf"), 2, "most 3600, got inf"),
        (("--url", "URL"), 3, "answers 404: No GP data found"),
    ],
)
def test_what_cannot_be_fetched_has_one_message_and_an_exit_code(ntn_twin, server, tmp_path, words, code, says):
    server.answer = reply(b"No GP data found", 404)
    got, out, err = ntn_twin("fetch", *(server.url if word == "URL" else word for word in words))
    assert (got, out) == (code, "")
    assert f"ntn-twin: {says}" in err or says in err
    assert "Traceback" not in err
    assert list((tmp_path / "here").iterdir()) == []


def test_ctrl_c_leaves_nothing_behind(server, tmp_path):
    server.answer = silent(HEAD + SETS)
    words = (*COMMAND, "tle", "fetch", "--url", server.url, "--cache", "cache")
    with started(*words, cwd=tmp_path) as process:
        wait_for(lambda: server.asked, process)
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert err.endswith("stopped\n")
    assert files(tmp_path / "cache") == {}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_group_comes_as_json_unless_another_format_is_asked_for(ntn_twin, server):
    server.answer = reply(messages("json"))
    code, out, _ = ntn_twin("fetch", "--group", "starlink", "--base", server.base)
    assert code == 0
    assert out.partition(" ")[0].endswith(".json")
    assert server.asked[0][0].endswith("?GROUP=starlink&FORMAT=json")


@pytest.mark.parametrize("verb", ["fetch", "info"])
def test_the_verbs_explain_themselves(ntn_twin, verb):
    code, out, err = ntn_twin(verb, "--help")
    assert (code, err) == (0, "")
    assert f"ntn-twin tle {verb} [OPTIONS]" in out
    assert "--json" in out
