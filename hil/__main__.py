"""`python -m hil CONTROLLER AGENT ADDRESS`: what the runner starts on a seat; `ntn-twin control` with less to load."""

import sys

from hil.host import serve
from hil.keys import from_environment
from twin.errors import TwinError


def main(arguments: list[str]) -> int:
    """Take the seat; a TwinError is one line on stderr, which the runner repeats, and its exit code."""
    controller, agent, address = arguments
    try:
        serve(controller, agent, address, keys=from_environment())
    except TwinError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
