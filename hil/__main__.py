"""`python -m hil CONTROLLER AGENT ADDRESS`: what the runner starts on a seat; `ntn-twin control` with less to load."""

import contextlib
import ctypes
import os
import signal
import sys

from hil.host import serve
from hil.keys import from_environment
from twin.errors import TwinError

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def go_with_the_twin() -> None:
    """The kernel ends us when the twin that started us dies, whatever we are at (Linux); else the connection tells."""
    twin = os.environ.get("NTN_TWIN_PID")
    if twin is None:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(twin):  # it died before we could ask for that
        sys.exit("the twin is gone")


def main(arguments: list[str]) -> int:
    """Take the seat; a TwinError is one line on stderr, which the runner repeats, and its exit code."""
    go_with_the_twin()
    controller, agent, address = arguments
    try:
        serve(controller, agent, address, keys=from_environment())
    except TwinError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
