# The commands a developer types. PYTHON and the tools are those on the PATH: activate your virtual environment first.

PYTHON ?= python

.PHONY: check format lint types contracts spelling docs-current tests test bench examples languages docs

check: format lint types contracts spelling tests  ## what CI runs: under five minutes

format:
	ruff format --check .

lint:
	ruff check .

types:
	mypy

contracts:
	lint-imports

spelling:
	codespell

tests:
	$(PYTHON) -m pytest

test:  ## everything, the slow ones too
	$(PYTHON) -m pytest -m "slow or not slow" --ignore=tests/bench --timeout=1800

bench:  ## timings with their thresholds; not part of check
	$(PYTHON) -m pytest tests/bench -m "slow or not slow" -s --timeout=1800

examples:
	$(PYTHON) -m pytest tests/test_examples.py tests/test_languages.py

languages:  ## what examples/controller.js needs, beside it; controller.c needs Debian's libzmq3-dev and libmsgpack-dev
	npm install --no-package-lock --no-audit --no-fund --prefix examples

docs:  ## write the generated pages again
	$(PYTHON) -m twin.schema > docs/scenario.md
	$(PYTHON) -m hil.schema > docs/wire.schema.json
