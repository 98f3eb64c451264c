"""The worked examples of the pages run as they stand, and print what stands below them; `...` stands for anything."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
LINES = r"((?:(?!```).*\n)*)"
EXAMPLE = re.compile(rf"^```(sh|python)\n{LINES}```\n\n?```text\n{LINES}```", re.MULTILINE)
HEADING = re.compile(r"^##+ (.*)$", re.MULTILINE)


def examples():
    for page in sorted(path.name for path in DOCS.glob("*.md")):
        text = (DOCS / page).read_text(encoding="utf-8")
        for found in EXAMPLE.finditer(text):
            heading = HEADING.findall(text, 0, found.start())[-1]
            yield pytest.param(*found.groups(), id=f"{page}: {heading}")


@pytest.mark.parametrize(("language", "code", "expected"), list(examples()))
def test_worked_example_prints_what_stands_below_it(tmp_path, language, code, expected):
    if "gcc" in code and subprocess.run(["pkg-config", "--exists", "libzmq", "msgpack"], check=False).returncode:
        pytest.skip("pkg-config knows no libzmq or no msgpack (Debian: libzmq3-dev, libmsgpack-dev)")
    command = {"sh": ["sh", "-c", code], "python": [sys.executable, "-c", code]}[language]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for attempt in range(3):  # those in real time may miss a deadline on a busy machine
        (tmp_path / str(attempt)).mkdir()
        done = subprocess.run(
            command, cwd=tmp_path / str(attempt), env=environment, capture_output=True, text=True, timeout=100
        )
        if doctest.OutputChecker().check_output(expected, done.stdout, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE):
            return
    pytest.fail(f"printed:\n{done.stdout}\nexpected:\n{expected}\nand said:\n{done.stderr}")
