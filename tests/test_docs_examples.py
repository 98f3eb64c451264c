"""The worked examples of docs/hil.md run as they stand, and print what stands below them; `...` stands for anything."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "hil.md"
EXAMPLE = re.compile(r"^```(sh|python)\n(.*?)^```\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^##+ (.*)$", re.MULTILINE)


def examples():
    text = PAGE.read_text()
    for found in EXAMPLE.finditer(text):
        heading = HEADING.findall(text, 0, found.start())[-1]
        yield pytest.param(*found.groups(), id=heading)


@pytest.mark.parametrize(("language", "code", "expected"), list(examples()))
def test_worked_example_prints_what_stands_below_it(tmp_path, language, code, expected):
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
