"""What keeps a crowd from costing anybody a deadline: who is heard out, and what has surely been read."""

from twin.units import NS_PER_S

HEARD_OUT = 20  # messages of one stranger in a second that are decoded and answered; the others are counted
ALL_HEARD_OUT = 1000  # the same, all strangers together
MOST_TURNS = 1000  # peers beyond this: nobody waits to see all of them read


class Strangers:
    """Peers without a seat. Each is heard out a few times a second; who says much more is not, until it is calm."""

    def __init__(self) -> None:
        self._said: dict[bytes, int] = {}  # messages since the last count
        self._left = 0  # of ALL_HEARD_OUT
        self._recount_ns = 0

    def heard_out(self, who: bytes, now: int) -> bool:
        """Whether the message that `who` sent is worth our time. `now` is monotonic, ns."""
        if now >= self._recount_ns:
            # who flooded begins with nothing left, or a crowd of floods would leave nothing to a newcomer's hello
            self._said = {each: HEARD_OUT for each, said in self._said.items() if said >= 2 * HEARD_OUT}
            self._left, self._recount_ns = ALL_HEARD_OUT, now + NS_PER_S
        said = self._said.get(who)
        if said is None and not self._left:
            return False
        self._said[who] = (said or 0) + 1
        if (said or 0) >= HEARD_OUT or not self._left:
            return False
        self._left -= 1
        return True


class Turns:
    """Peers are read in turn: when one comes again, whatever had come by its last turn has been read.

    So a flood, in which the socket is never found empty, does not hide when an answer came.
    """

    def __init__(self) -> None:
        self._whose: bytes | None = None
        self._turn_ns = self._since = 0

    def forget(self) -> None:
        """The socket was found empty."""
        self._whose = None

    def next(self, who: bytes, now: int) -> int:
        """`who` was read at `now` or a little later, ns. Returns by when everything was read; 0: nothing is known."""
        seen_ns, self._since = self._turn_ns if who == self._whose else 0, self._since + 1
        if seen_ns or self._whose is None or self._since > MOST_TURNS:
            self._whose, self._turn_ns, self._since = who, now, 0
        return seen_ns
