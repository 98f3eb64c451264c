"""Who may speak with the twin: CURVE key pairs, the list of clients that are let in, and the door they come through.

`keygen` writes two files: NAME.secret (TOML, 0600), which stays where it was made, and NAME.public, one line that goes
to whoever has to know this key. Such lines make the twin's allow-list; a line may end with the seats its key may take:

    ue-board   6g2[...]w   ue
    operator   p#8[...]x

ZeroMQ asks the door about every client that proves to have a key (ZAP, ZeroMQ RFC 27). It is asked, and answers, in the
one thread of the hub: a few questions at a time, so that strangers cannot hold the loop up.
"""

import os
import re
import struct
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import zmq
from zmq.utils import z85

from twin.errors import WireError
from twin.units import NS_PER_S

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY_CHARACTERS = 40  # 32 bytes in Z85
SECRET_MODE = 0o600
ENVIRONMENT = "NTN_TWIN_KEYS"  # a controller that the twin starts is told its keys here; `ps` shows command lines
LOOK_EVERY_NS = NS_PER_S // 200  # how often the door is looked at, so no handshake waits longer for a twin that waits
AT_ONCE = 32  # questions answered in one look, about 15 us each
LIST_EVERY_NS = NS_PER_S // 5  # how often the allow-list is looked at for the sake of those who are in
SETTLED_NS = NS_PER_S // 10  # they go when it has been so for so long: an editor may be writing it just now


@dataclass(frozen=True)
class KeyPair:
    """A name and its two keys, each 40 characters of Z85."""

    name: str
    public: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls, name: str) -> "KeyPair":
        """A fresh pair. Raises WireError where ZeroMQ was built without CURVE."""
        try:
            public, secret = zmq.curve_keypair()
        except zmq.ZMQError:
            raise WireError("this ZeroMQ has no CURVE; install pyzmq from PyPI, which has it") from None
        return cls(name, public.decode(), secret.decode())


@dataclass(frozen=True)
class Client:
    """Somebody on the allow-list; no seats named: any."""

    name: str
    seats: tuple[str, ...] = ()


@dataclass(frozen=True)
class TwinKeys:
    """What a twin needs: its own pair, and who may come in."""

    pair: KeyPair
    allowed: "AllowList"

    def lock(self, socket: zmq.Socket) -> None:
        """Make a socket, before it binds, let in only who the door lets in."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.pair.secret.encode())
        socket.setsockopt(zmq.ZAP_DOMAIN, b"ntn-twin")
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)  # ms; a connection that proves nothing is closed


@dataclass(frozen=True)
class ClientKeys:
    """What a controller needs: its own pair, and the public key of the one twin it speaks with."""

    pair: KeyPair
    server: str

    def lock(self, socket: zmq.Socket) -> None:
        """Make a socket, before it connects, speak with nobody but that twin."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.pair.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.pair.secret.encode())


def for_twin(secret_file: str | Path, allow_file: str | Path) -> TwinKeys:
    """The keys of `hil.run(..., keys=...)`. Raises WireError naming the file that cannot be used."""
    return TwinKeys(read_secret(secret_file), AllowList(allow_file))


def for_client(secret_file: str | Path, server_file: str | Path) -> ClientKeys:
    """The keys of `hil.serve(..., keys=...)`; server_file is the twin's .public. Raises WireError."""
    return ClientKeys(read_secret(secret_file), read_public(server_file))


def from_environment() -> ClientKeys | None:
    """What a twin that started this process left for it; taken out, so that no process of ours inherits it."""
    words = os.environ.pop(ENVIRONMENT, "").split()
    return ClientKeys(KeyPair(words[0], words[1], words[2]), words[3]) if len(words) == 4 else None


# files


def keygen(name: str, folder: str | Path = ".") -> tuple[Path, Path]:
    """Make a key pair: the paths of NAME.secret and NAME.public. Raises WireError; nothing is ever written over."""
    if not NAME.fullmatch(name):
        raise WireError(f"a key's name is letters, digits, '.', '_' and '-', at most 64 of them, not {name!r}")
    pair, folder = KeyPair.new(name), Path(folder)
    secret, public = folder / f"{name}.secret", folder / f"{name}.public"
    told = f'# Whoever has this file is "{name}". It stays here; {public.name} is the one to hand out.\n'
    texts = {
        secret: (told + f'name = "{name}"\npublic = "{pair.public}"\nsecret = "{pair.secret}"\n', SECRET_MODE),
        public: (f"{name} {pair.public}\n", 0o644),
    }
    for path in texts:
        if path.exists():
            raise WireError(f"key file {path} exists; a key is never written over, choose another name or folder")
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, (text, mode) in texts.items():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
    except OSError as error:
        for path in made:  # half a pair is of no use
            path.unlink()
        raise WireError(f"a key pair cannot be written in {folder}: {error.strerror}") from None
    return secret, public


def read_secret(path: str | Path) -> KeyPair:
    """The pair of a .secret file. Raises WireError when it is unreadable, misshapen, or readable by others."""
    text, stat = _text(path)
    if stat.st_mode & 0o077:
        mode = f"mode {stat.st_mode & 0o777:04o}"
        raise WireError(f"key file {path} is open to others ({mode}): chmod 600 {path}, or make a new pair")
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WireError(f"key file {path} is not one that ntn-twin keygen wrote: {error}") from None
    for key in ("name", "public", "secret"):
        if not isinstance(found.get(key), str):
            raise WireError(f"key file {path} has no text {key!r}; a file with a secret is made by ntn-twin keygen")
    pair = KeyPair(found["name"], _key(found["public"], path, "public"), _key(found["secret"], path, "secret"))
    if zmq.curve_public(pair.secret.encode()).decode() != pair.public:
        raise WireError(f"key file {path}: the public key is not that of the secret one; make a new pair")
    return pair


def read_public(path: str | Path) -> str:
    """The one key of a .public file. Raises WireError."""
    found = _clients(_text(path)[0], path)
    if len(found) != 1:
        raise WireError(f"key file {path} has {len(found)} keys, expected one line: NAME KEY, as in the twin's .public")
    return next(iter(found))


class AllowList:
    """The file of keys that may come in: one `NAME KEY [SEAT,SEAT]` a line; # begins a comment.

    It is read again when it has changed: an added line lets somebody in, a removed one keeps him out from then on.
    clients  by public key
    broken   why it cannot be read at present; then nobody comes in, and who is in may stay
    """

    def __init__(self, path: str | Path):
        self.path, self.broken = Path(path), ""
        self._stamp: tuple[int, ...] = ()
        self.clients: dict[str, Client] = self._read()

    def refresh(self) -> bool:
        """Read the file again if it is not as it was; whether that changed anything."""
        try:
            if _stamp(self.path.stat()) == self._stamp:
                return False
        except OSError:
            pass  # reading it says why
        was = self.clients, self.broken
        try:
            self.clients, self.broken = self._read(), ""
        except WireError as error:
            self.clients, self.broken = {}, str(error)
        return was != (self.clients, self.broken)

    def _read(self) -> dict[str, Client]:
        text, found = _text(self.path)
        self._stamp = _stamp(found)
        if found.st_mode & 0o002:
            raise WireError(f"allow-list {self.path} can be written by everybody: chmod o-w {self.path}")
        return _clients(text, self.path)


def _clients(text: str, path: str | Path) -> dict[str, Client]:
    found: dict[str, Client] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = list(takewhile(lambda word: not word.startswith("#"), line.split()))  # no Z85 of 32 bytes begins so
        if not words:
            continue
        where = f"{path}, line {number}"
        if len(words) not in (2, 3) or not NAME.fullmatch(words[0]):
            raise WireError(f"{where}: expected NAME KEY, or NAME KEY SEAT,SEAT; a comment begins with #")
        key = _key(words[1], where, "public")
        if key in found:
            raise WireError(f"{where}: this key is there already, as {found[key].name!r}")
        found[key] = Client(words[0], tuple(words[2].split(",")) if len(words) == 3 else ())
    return found


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    """What changes whenever a file does."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _text(path: str | Path) -> tuple[str, os.stat_result]:
    """What is in a file, and what the system said of it just before."""
    try:
        with open(path, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            return file.read(), found
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise WireError(f"key file {path} cannot be read: {why}; ntn-twin keygen makes one") from None


def _key(text: str, where: str | Path, which: str) -> str:
    try:
        if len(text) == KEY_CHARACTERS:
            z85.decode(text)
            return text
    except (KeyError, ValueError, struct.error):
        pass
    raise WireError(f"{where}: the {which} key is not {KEY_CHARACTERS} characters of Z85, as ntn-twin keygen writes it")


# the door


class Door:
    """Lets in whom the allow-list names, and the controllers that the twin itself started.

    context  that of the sockets to be guarded; the door must be there before they bind
    refused  told why somebody was not let in
    note     told of the allow-list: called with the kind of an event and its details
    """

    def __init__(self, context: zmq.Context, keys: TwinKeys, refused: Callable[[str], None], note: Callable[..., None]):
        self.keys, self.allowed, self._refused, self._note = keys, keys.allowed, refused, note
        self._hired: dict[str, Client] = {}
        self._look_ns = self._list_ns = self._changed_ns = 0
        self._questions = context.socket(zmq.REP)
        self._questions.setsockopt(zmq.LINGER, 0)
        self._questions.bind("inproc://zeromq.zap.01")

    def close(self) -> None:
        """Close it; only after the sockets it guards."""
        self._questions.close(0)

    def hire(self, agent: str) -> Mapping[str, str]:
        """Keys for a controller that the twin starts, good for this run and this seat: what its environment needs."""
        pair = KeyPair.new("started-by-the-twin")
        self._hired[pair.public] = Client(pair.name, (agent,))
        return {ENVIRONMENT: f"{pair.name} {pair.public} {pair.secret} {self.keys.pair.public}"}

    def client(self, key: str) -> Client | None:
        """Who has this public key, if he may be here."""
        return self._hired.get(key) or self.allowed.clients.get(key)

    def why_not(self, key: str, agent: str) -> str:
        """Why who has this key may not take a seat, or ""."""
        client = self.client(key)
        if client is None:
            return "your key is not, or no longer, in the allow-list of the twin"
        if client.seats and agent not in client.seats:
            return f"the key of {client.name!r} is for {', '.join(client.seats)}, not for {agent[:40]!r}"
        return ""

    def look(self, now: int) -> bool:
        """Answer who knocks, if it is time for it; True: the allow-list has changed, look who may stay."""
        if now < self._look_ns:
            return False
        self._look_ns = now + LOOK_EVERY_NS
        for _ in range(AT_ONCE):
            try:
                question = self._questions.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._answer(question, now)
        if now < self._list_ns:
            return False
        self._list_ns = now + LIST_EVERY_NS
        self._refresh(now)
        if not self._changed_ns or now - self._changed_ns < SETTLED_NS:
            return False
        self._changed_ns = 0
        return not self.allowed.broken

    def _refresh(self, now: int) -> None:
        if self.allowed.refresh():
            self._changed_ns = now
            self._note("allow_list", reason=self.allowed.broken or f"read again: {len(self.allowed.clients)} keys")

    def _answer(self, question: list[bytes], now: int) -> None:
        version, request, _, address, _, mechanism, *credentials = question
        key = z85.encode(credentials[0]).decode() if mechanism == b"CURVE" else ""
        self._refresh(now)
        if self.client(key) is not None:
            answer = [b"200", b"OK", key.encode()]  # the key is what later messages bear, as "User-Id"
        else:
            answer = [b"400", b"not in the allow-list", b""]
            self._refused(f"key {key} of {address.decode(errors='replace')} is not in the allow-list")
        self._questions.send_multipart([version, request, *answer, b""])
