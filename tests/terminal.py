"""What a person does in a terminal, for tests: commands as processes of their own, bounded in time, and ended after."""

import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
LIMIT_S = 60.0  # of any one command: a start with torch on a busy machine takes ten
COMMAND = (sys.executable, "-m", "hil.cli")


@contextmanager
def started(*words, cwd):
    """A command that runs meanwhile; it is ended when the test is done with it, also when the test fails."""
    process = subprocess.Popen(
        [str(word) for word in words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process):
    """Exit code, stdout and stderr of a command that ends by itself."""
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


def python(*words, cwd):
    """`python WORDS` until it ends: exit code, stdout, stderr."""
    with started(sys.executable, *words, cwd=cwd) as process:
        return ended(process)


def free_address():
    """An address whose two ports, side by side, nobody used a moment ago."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return f"tcp://127.0.0.1:{port}"
    raise AssertionError("no two free ports side by side")


def wait_for(condition, process=None):
    """Until the condition holds; fails when it does not in time, or when the process it is awaited from has ended."""
    until = time.monotonic() + LIMIT_S
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.stderr.read()}")
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def settled(folder, agent):
    """Statuses of the cycles that a run, which may be going on, has settled so far."""
    try:
        status = np.load(Path(folder) / "decisions" / agent / "status.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError):  # it is being made
        return np.zeros(0, "uint8")
    return np.array(status[status > 0])


def controllers_of(address):
    """Process ids of the controllers that were started for a twin at this address."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if " -m hil " in line and line.endswith(address)]


def timeless(text):
    """The text with every time in microseconds blotted out: those differ from run to run."""
    return re.sub(r" +\d+ us", "  # us", text)
