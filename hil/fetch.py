"""Element sets from a server, and the copies of them that keep us from asking twice.

CelesTrak makes its data anew every two hours, wants no query repeated within that time, and asks programs to stop at
the first answer that is not 200 and to tell a person (https://celestrak.org/usage-policy.php). So

- each query has one copy in the cache, and a note beside it: where from, when, how many sets, what went wrong since;
- a copy less than two hours old is the answer, and nobody is asked; about an older one the server is asked with its
  ETag and date, so that it may say "not modified";
- what comes is read as element sets before it is kept, and whatever cannot be read leaves the copy as it was;
- nothing is tried twice: after an error the server is left alone for a time that the note keeps and the message says;
- redirects are not followed: an address that has moved is for a person to look at.
"""

import contextlib
import fcntl
import gzip
import hashlib
import io
import os
import queue
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import msgspec

from hil.catalogue_table import format_of, parse
from twin.errors import FetchError, NotServed, TleError
from twin.tle import Satellite

CELESTRAK = "https://celestrak.org/NORAD/elements/gp.php"
FORMATS = ("json", "csv", "xml", "kvn", "tle")  # of gp.php, those that read_tle reads
FRESH = timedelta(hours=2)  # CelesTrak: "Data is updated once every 2 hours"
AFTER_AN_ANSWER = timedelta(hours=2)  # that was an error: until the next update nothing will have changed
AFTER_NO_ANSWER = timedelta(minutes=5)  # or half of one: the network may be back
MOST_WAIT = timedelta(days=1)  # whatever Retry-After says
SKEW = timedelta(minutes=5)  # between the server's clock and ours
MOST_BYTES = 200_000_000  # some 400,000 element sets in the longest format
TOO_LONG = f"longer than {MOST_BYTES / 1e6:g} MB: no list of element sets"
MOST_BROKEN = 0.1  # of the sets; a file with more of them is most likely something else
PATIENCE = 20  # the whole answer may take so many times the time-out of a single wait
MOST_TIMEOUT_S = 3600.0
REFUSED = (403, 429)
NAMING = ("GROUP", "CATNR", "INTDES", "NAME", "SPECIAL", "FILE", "SOURCE")  # keys of gp.php and sup-gp.php
MOST_SAID = 2_000  # bytes of it that are looked at, and of these so many characters quoted
QUOTED = 200
GZIP = 31  # zlib's name for the format
NOT_UPDATED = re.compile(r"has\s+not\s+updated\s+since", re.IGNORECASE)  # CelesTrak, with 403 and also seen with 200
LAST_DOWNLOAD = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")


Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Wait(msgspec.Struct, frozen=True):
    """Why a server is left alone: until when, for every query or for one, and whether --force may overrule it."""

    until_utc: Moment
    why: str
    whole_server: bool
    firm: bool


class Copy(msgspec.Struct):
    """What a copy is: what the server gave, when it gave it, and when it last said that it is current."""

    fetched_utc: Moment
    checked_utc: Moment
    etag: str
    last_modified: str
    sha256: str
    sets: int
    broken: int
    median_epoch_utc: Moment


class Note(msgspec.Struct):
    """What stands beside a copy, as JSON."""

    url: str
    copy: Copy | None = None
    wait: Wait | None = None


@dataclass(frozen=True)
class Fetched:
    """Element sets as they came.

    url, file  where from; where the copy lies
    source     "server", "cache" (young enough, nobody was asked) or "unchanged" (the server says so)
    copy       when it came, how many sets, their median epoch, SHA-256
    body       as the server gave it, unpacked
    """

    url: str
    file: Path
    source: str
    copy: Copy
    body: bytes = field(repr=False)

    @property
    def format(self) -> str:
        """json, xml, csv, kvn or tle, by what is in it."""
        return format_of(self.body)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON, without the body."""
        about = {"url": self.url, "copy": str(self.file), "source": self.source, "format": self.format}
        return {**about, **msgspec.to_builtins(self.copy)}


class _Trouble(Exception):
    """Whatever came instead of element sets, and how long the server is left alone for it."""

    def __init__(self, says: str, wait: timedelta, whole_server: bool = False, firm: bool = False) -> None:
        super().__init__(says)
        self.wait, self.whole_server, self.firm = wait, whole_server, firm

    def wait_from(self, now: datetime) -> Wait:
        """The same from now on."""
        return Wait(now + self.wait, str(self), self.whole_server, self.firm)


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Message
    body: bytes
    whole: bool  # the server said where its answer ends, and it ended there


def group_url(group: str, form: str = "json", base: str = CELESTRAK) -> str:
    """The address of one of CelesTrak's groups. Raises FetchError for a name or a format that it cannot have."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", group):
        raise FetchError(f"a group is a word such as starlink, oneweb or iridium-NEXT, not {group!r}")
    if form not in FORMATS:
        raise FetchError(f"--format must be one of {', '.join(FORMATS)}, got {form!r}")
    _server_of(base)
    return f"{base}{'&' if '?' in base else '?'}GROUP={group}&FORMAT={form}"


def default_cache() -> Path:
    """Where copies are kept: $XDG_CACHE_HOME/ntn-twin/tle, or ~/.cache/ntn-twin/tle."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "ntn-twin" / "tle"


def fetch(
    url: str,
    cache: str | Path | None = None,
    force: bool = False,
    timeout_s: float = 30.0,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    say: Callable[[str], None] = lambda text: None,
) -> Fetched:
    """The element sets at an address, from the cache or from the server, which is asked at most once.

    url              http or https
    cache            folder; default: `default_cache`
    force            ask although the copy is young, or the last answer was an error; not after 403 and 429
    timeout_s   s    longest silence of the server, up to 3600; the whole answer may take 20 times as long
    now              the clock, with its offset from UTC
    say              is told what happens, a line at a time

    Raises FetchError for an address or a cache that cannot be used, NotServed when there is no answer or one that holds
    no element sets. The copy that was there is then as it was. Checked by tests/test_fetch.py.
    """
    server = _server_of(url)
    if not 0.0 < timeout_s <= MOST_TIMEOUT_S:
        raise FetchError(f"the time-out must be more than 0 s and at most {MOST_TIMEOUT_S:g}, got {timeout_s:g}")
    folder = default_cache() if cache is None else Path(cache)
    file = folder / f"{label(url)}-{hashlib.sha256(url.encode()).hexdigest()[:8]}.sets"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(file.with_suffix(".lock"), PATIENCE * timeout_s):
            return _fetch(url, server, file, force, timeout_s, now, say)
    except OSError as error:
        raise FetchError(f"the cache {folder} cannot be used: {error}; choose another folder with --cache") from error


def save(fetched: Fetched, out: Path, overwrite: bool = False) -> Path:
    """Write what was fetched to a file, or into a folder under its own name: the path. It is there whole or not at all.

    Raises FetchError when the file is there with other content and is not to be overwritten, or cannot be written.
    """
    if out.is_dir():
        out /= f"{label(fetched.url)}-{fetched.copy.median_epoch_utc:%Y-%m-%d}.{fetched.format}"
    try:
        if out.exists() and not out.is_file():  # a pipe would keep us, and a device would be replaced
            raise FetchError(f"{out} is there, and is no file that could be replaced; name another with --out")
        if out.exists() and not overwrite and out.read_bytes() != fetched.body:
            raise FetchError(
                f"{out} is there, with other element sets; name another file with --out, or --overwrite it"
            )
        _write(out, fetched.body)
    except OSError as error:
        raise FetchError(f"{out} cannot be written: {error}") from error
    return out


def label(url: str) -> str:
    """What to call the answer to a query: its group, number or name, or the name of the file."""
    parts = urllib.parse.urlsplit(url)
    asked = {key.upper(): value for key, value in urllib.parse.parse_qsl(parts.query)}
    name = next(
        (asked[key] for key in NAMING if key in asked),
        Path(urllib.parse.unquote(parts.path)).stem or parts.hostname or "",
    )
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "sets"


def _fetch(
    url: str,
    server: str,
    file: Path,
    force: bool,
    timeout_s: float,
    now: Callable[[], datetime],
    say: Callable[[str], None],
) -> Fetched:
    note, body = _kept(file, url)
    copy = note.copy
    if copy and timedelta(0) <= now() - copy.checked_utc < FRESH and not force:
        say(f"the copy of {_ago(now() - copy.checked_utc)} will do: such data change every two hours; nobody is asked")
        return Fetched(url, file, "cache", copy, body)
    there = f"; the copy of {_ago(now() - copy.fetched_utc)} is {file}" if copy else ""
    wait = _wait(file, note, server, now())
    if wait and (wait.firm or not force):
        raise NotServed(f"{server} is not asked {_until(wait)}: {wait.why}{there}")
    say(f"asking {url}")
    try:
        answer = _ask(url, copy, timeout_s)
        if copy and _unchanged(answer, copy):
            copy.checked_utc, note.wait = now(), None
            _write(file.with_suffix(".json"), _json(note))
            say("the server says that nothing has changed since")
            return Fetched(url, file, "unchanged", copy, body)
        satellites, broken, reasons = _element_sets(answer, server, now())
    except _Trouble as trouble:
        note.wait = trouble.wait_from(now())
        _write(file.with_suffix(".json"), _json(note))
        again = f"; {server} is not asked {'' if note.wait.whole_server else 'for this '}again {_until(note.wait)}"
        raise NotServed(f"{trouble}{again if trouble.wait else ''}{there}") from None
    copy = Copy(
        fetched_utc=now(),
        checked_utc=now(),
        etag=_validator(answer.headers, "ETag"),
        last_modified=_validator(answer.headers, "Last-Modified"),
        sha256=hashlib.sha256(answer.body).hexdigest(),
        sets=len(satellites),
        broken=broken,
        median_epoch_utc=datetime.fromtimestamp(median(s.epoch_utc.timestamp() for s in satellites), UTC),
    )
    _write(file, answer.body)
    _write(file.with_suffix(".json"), _json(Note(url, copy)))
    for reason in reasons:
        say(f"left out: {_quoted(reason)}")
    if broken > len(reasons):
        say(f"and {broken - len(reasons)} more")
    return Fetched(url, file, "server", copy, answer.body)


# what is kept


def _kept(file: Path, url: str) -> tuple[Note, bytes]:
    """The note and the copy; a note without one where the copy is not there, or not what the note says."""
    note, body = Note(url), b""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        note = msgspec.json.decode(file.with_suffix(".json").read_bytes(), type=Note)
    with contextlib.suppress(FileNotFoundError):
        body = file.read_bytes()
    if note.copy and hashlib.sha256(body).hexdigest() != note.copy.sha256:
        note.copy = None
    return note, body


def _wait(file: Path, note: Note, server: str, now: datetime) -> Wait | None:
    """Why the server should not be asked now, for this query or, after another one, for any: the firmest, longest."""
    waits = [note.wait] if note.wait else []
    for path in file.parent.glob("*.json"):
        with contextlib.suppress(OSError, msgspec.MsgspecError, FetchError):
            other = msgspec.json.decode(path.read_bytes(), type=Note)
            if other.wait and other.wait.whole_server and _server_of(other.url) == server:
                waits.append(other.wait)
    standing = [w for w in waits if now < w.until_utc <= now + MOST_WAIT]  # a later one is of a clock that was wrong
    return max(standing, key=lambda w: (w.firm, w.until_utc), default=None)


def _write(path: Path, data: bytes) -> None:
    """The file with this content, or as it was: whatever stops us, nobody ever sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(lock: Path, wait_s: float) -> Iterator[None]:
    """Hold a query for ourselves, so that who asks at the same moment finds our copy. Raises FetchError, NotServed."""
    with lock.open("w") as handle:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise NotServed(f"another process is still fetching the same; it holds {lock}") from None
                time.sleep(0.02)
        yield


# the server


def _server_of(url: str) -> str:
    """Its name and port. Raises FetchError for an address that cannot be asked."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or 0
    except ValueError:  # a port that is no number, brackets that do not close
        port = -1
    plain = url.isascii() and url.isprintable() and " " not in url
    if port < 0 or not plain or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise FetchError(
            f"an address is http://HOST/... or https://HOST/..., percent-encoded, without a user; got {_no_user(url)!r}"
        )
    return parts.netloc.lower()


def _no_user(url: str) -> str:
    """An address for a message, which may end in a log: whatever stands before an @ might be a password."""
    return re.sub(r"^([a-z]+://)?.*@", r"\1...@", url, flags=re.IGNORECASE | re.DOTALL)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow none: the answer is an error like any other."""


def _ask(url: str, known: Copy | None, timeout_s: float) -> _Answer:
    """One question, in a thread of its own: neither a name server nor one that drips bytes holds us up.

    Raises _Trouble when no whole answer came in time; an error of the server is an answer.
    """
    headers = {"User-Agent": f"ntn-twin/{_version()}", "Accept-Encoding": "gzip", "Accept": "*/*"}
    if known and known.etag:
        headers["If-None-Match"] = known.etag
    if known and known.last_modified:
        headers["If-Modified-Since"] = known.last_modified
    request = urllib.request.Request(url, headers=headers)
    server, came, enough = _server_of(url), queue.SimpleQueue[_Answer | Exception](), threading.Event()

    def ask() -> None:
        try:
            came.put(_transfer(request, server, timeout_s, enough))
        except Exception as error:
            came.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        got = came.get(timeout=PATIENCE * timeout_s)
    except queue.Empty:
        says = f"{server} had not given its whole answer after {PATIENCE * timeout_s:g} s"
        raise _Trouble(says, AFTER_NO_ANSWER, whole_server=True) from None
    finally:
        enough.set()
    if isinstance(got, _Trouble):
        raise got
    if isinstance(got, Exception):
        raise _no_answer(got, server, timeout_s) from got
    return got


def _transfer(request: urllib.request.Request, server: str, timeout_s: float, enough: threading.Event) -> _Answer:
    try:
        response = urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        said = b""
        with error, contextlib.suppress(OSError, HTTPException, zlib.error):
            said = error.read(MOST_SAID)
            if "gzip" in error.headers.get("Content-Encoding", ""):
                said = zlib.decompressobj(GZIP).decompress(said, MOST_SAID)
        return _Answer(error.code, error.headers, said, whole=False)
    with response:
        body, length = bytearray(), response.length  # before the first byte is read, for it is counted down
        while len(body) <= MOST_BYTES and (length or 0) <= MOST_BYTES and not enough.is_set():
            chunk = response.read(1 << 16)
            body += chunk
            if not chunk and length is not None and len(body) < length:
                raise IncompleteRead(bytes(body), length - len(body))
            if not chunk:
                whole = response.chunked or length is not None
                return _unpacked(_Answer(response.status, response.headers, bytes(body), whole), server)
    raise _Trouble(f"the answer of {server} is {TOO_LONG}", AFTER_AN_ANSWER)


def _unpacked(answer: _Answer, server: str) -> _Answer:
    """The same without its content encoding, whose own end also tells that it is whole."""
    packed = answer.headers.get("Content-Encoding", "").strip().lower()
    if packed in ("", "identity"):
        return answer
    if packed not in ("gzip", "x-gzip"):
        raise _Trouble(f"{server} packs its answer as {_quoted(packed)}, which nobody asked for", AFTER_AN_ANSWER)
    try:
        body = gzip.GzipFile(fileobj=io.BytesIO(answer.body)).read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _Trouble(f"the answer of {server} cannot be unpacked: {error}", AFTER_NO_ANSWER) from None
    if len(body) > MOST_BYTES:
        raise _Trouble(f"the answer of {server} is {TOO_LONG}", AFTER_AN_ANSWER)
    return replace(answer, body=body, whole=True)


def _no_answer(error: Exception, server: str, timeout_s: float) -> _Trouble:
    """What kept the answer from us, for a person."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror | UnicodeError):  # the latter: of no form that a name can have
        return _Trouble(f"no name server knows {server}: is there a network, and is the name right?", timedelta(0))
    if isinstance(reason, ConnectionRefusedError):
        says = f"{server} refuses the connection: is the address right, and is a proxy needed (https_proxy)?"
    elif isinstance(reason, TimeoutError):
        says = f"{server} was silent for {timeout_s:g} s; it may be slow (--timeout), down, or closed to this address"
    elif isinstance(reason, ssl.SSLError):
        says = f"{server} cannot prove who it is: {_quoted(str(reason))}"
    elif isinstance(reason, IncompleteRead):
        says = f"the answer of {server} is cut short: {_quoted(str(reason))}"
    else:
        says = f"{server} gave no answer that HTTP knows: {_quoted(f'{type(reason).__name__}: {reason}')}"
    return _Trouble(says, AFTER_NO_ANSWER, whole_server=True)


def _unchanged(answer: _Answer, copy: Copy) -> bool:
    """Whether the server says that our copy is still the newest.

    CelesTrak seldom says 304. It refuses what this network address has had since the last update, and says when that
    was: a copy that is no older is that download.
    """
    if answer.status == 304:
        return bool(copy.etag or copy.last_modified)
    text = answer.body[:MOST_SAID].decode("utf-8", errors="replace")
    last = LAST_DOWNLOAD.search(text)
    if answer.status not in (200, *REFUSED) or not NOT_UPDATED.search(text) or not last:
        return False
    try:
        return copy.fetched_utc > datetime.fromisoformat(last[1]).replace(tzinfo=UTC) - SKEW
    except ValueError:
        return False


def _element_sets(answer: _Answer, server: str, now: datetime) -> tuple[list[Satellite], int, list[str]]:
    """The satellites of an answer, how many sets are broken, and why. Raises _Trouble for anything else."""
    status, said = answer.status, _quoted(answer.body[:MOST_SAID].decode("utf-8", errors="replace"))
    wait = _retry_after(answer.headers, now) or AFTER_AN_ANSWER
    if NOT_UPDATED.search(said):
        says = f"{server} has given these data to this network address already, and not to this cache: {said}"
        raise _Trouble(says, wait, firm=True)
    if status in REFUSED:
        says = f"{server} refuses with {status}: {said}; find out why before you ask again"
        raise _Trouble(says, wait, whole_server=True, firm=True)
    if 300 <= status < 400 and status != 304:
        to = _quoted(answer.headers.get("Location", "nowhere"))
        raise _Trouble(f"{server} redirects with {status} to {to}; if that is right, fetch it with --url", wait)
    if status != 200:
        raise _Trouble(f"{server} answers {status}: {said}", wait, whole_server=status >= 500)
    body = answer.body
    if body.strip() and not answer.whole and body.rstrip(b" ")[-1:] not in b"\n]}>":
        raise _Trouble(f"the answer of {server} is cut short: its last line does not end", AFTER_NO_ANSWER)
    try:
        satellites, broken, reasons = parse(body.decode("utf-8"), "it")
    except UnicodeDecodeError as error:
        packed = body.startswith((b"\x1f\x8b", b"\xfd7zXZ"))
        what = "a packed file, which is not unpacked here" if packed else f"{error.reason} at byte {error.start}"
        says = f"{server} sends what is no text (UTF-8): {what}"
        raise _Trouble(says, AFTER_AN_ANSWER) from None
    except TleError as error:
        says = f"{server} gave no element sets but {_kind(body, str(error))}"
        raise _Trouble(says, AFTER_AN_ANSWER) from None
    of = len(satellites) + broken
    if broken > (MOST_BROKEN * of if answer.whole else 0):
        says = f"of {of} element sets of {server} {broken} are broken; {_quoted(reasons[0])}"
        raise _Trouble(says, AFTER_AN_ANSWER)
    return satellites, broken, reasons


def _kind(body: bytes, why: str) -> str:
    """What a body without element sets is, in a few words."""
    if not body.strip():
        return "an empty answer"
    if re.search(rb"<!doctype html|<html", body[:1000], re.IGNORECASE):
        return "a page of HTML"
    if len(body) <= QUOTED:
        return f"{_quoted(body.decode('utf-8', errors='replace'))!r}"
    return f"something else: {_quoted(why)}"


def _quoted(text: str) -> str:
    """One line of what a stranger says, fit for a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return (line if len(line) <= QUOTED else line[:QUOTED] + " ...") or "nothing"


def _retry_after(headers: Message, now: datetime) -> timedelta | None:
    """How long the server wants to be left alone, in seconds or as a date; a minute to a day."""
    said = headers.get("Retry-After", "").strip()
    try:
        asked = timedelta(seconds=int(said[:9])) if said.isdigit() else parsedate_to_datetime(said) - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(asked, timedelta(minutes=1)), MOST_WAIT)


def _validator(headers: Message, name: str) -> str:
    """A header that we may send back as it came; empty where there is none, or it could break ours."""
    value = headers.get(name, "")
    return value if value.isascii() and value.isprintable() and len(value) <= QUOTED else ""


def _json(note: Note) -> bytes:
    return msgspec.json.format(msgspec.json.encode(note))


def _until(wait: Wait) -> str:
    return f"before {wait.until_utc:%Y-%m-%d %H:%M:%S} UTC" + ("" if wait.firm else ", unless with --force")


def _ago(age: timedelta) -> str:
    seconds = age.total_seconds()
    for name, length in (("days", 86_400), ("hours", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name} ago"
    return f"{max(seconds, 0):.0f} s ago"


def _version() -> str:
    try:
        return version("ntn-twin")
    except PackageNotFoundError:
        return "unknown"
