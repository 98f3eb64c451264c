"""What all tests share: controllers of tests/toys.py are importable in controller processes, and no process is left."""

import gc
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(HERE), os.environ.get("PYTHONPATH", "")) if p)
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: what tests start would be deaf too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def shared() -> Path:
    """The folder of reference data beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the reference data (../shared) is not beside this checkout")
    return SHARED


@pytest.fixture
def no_child_left():
    """Fails when a test leaves a controller process behind."""
    before = _children()
    yield
    assert _children() <= before, "a controller process was left running"


@pytest.fixture
def nothing_left():
    """Fails when a test leaves a socket, a thread or a process behind."""
    import rough  # loads the package, which must not happen before the variables above are set

    gc.collect()
    before, threads = rough.sockets(), threading.active_count()
    yield
    gc.collect()
    assert rough.sockets() <= before
    assert threading.active_count() <= threads
    assert not rough.children_of(os.getpid())


def _children() -> set[int]:
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if "-m hil " in line}
