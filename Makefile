# make setup   what the others do first; EXTRA=gpu installs an extra of pyproject.toml, too
# make demo    set everything up, run one job on each of the five models, go on serving until Ctrl-C
#              PORT=8000 DATA=.roundtrip HOST=127.0.0.1; ONCE=1 ends after the table
# make test    the suite, ten to fifteen minutes; ARGS="-k masks" goes to pytest
# make test-long
#              what takes as long again: restarts, kills of GPU workers, models on torch, other stacks
# make fuzz    jobs in orders never tried, for SECONDS=180; a failure is printed as steps; ARGS goes to pytest
# make bench   figures of speed and cost, printed; ARGS="--quick" for the short form, --peers beside other stacks,
#              "--growth clients" and others for curves
# make faults  jobs under a seeded schedule of faults; ARGS=--quick for the short form, --seed N for the same again
# make lint    ruff, mypy and the import contracts; make format lays the code out
# make clean   remove what was built, but neither .venv nor any data

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long fuzz bench faults lint format clean

HOST := 127.0.0.1
PORT ?= 8000
DATA ?= .roundtrip
ONCE ?=
ARGS ?=
EXTRA ?=
SECONDS ?= 180

# The first Python that is new enough; looked for only when .venv has to be made.
enough := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$name" -c '$(enough)' 2>/dev/null && echo "$$name" && break; done)

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' Makefile

setup: .venv/.stamp
	@$(if $(EXTRA),.venv/bin/python scripts/setup.py $(EXTRA),:)

.venv/.stamp: uv.lock pyproject.toml scripts/setup.py
	@python='$(PYTHON)'; "$${python:-false}" -c '$(enough)' || \
		{ echo "make: needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	"$$python" scripts/setup.py $(EXTRA)

demo: setup
	@.venv/bin/python -m scripts.demo --host '$(HOST)' --port '$(PORT)' --data '$(DATA)' $(if $(filter-out 0,$(ONCE)),--once)

test: setup
	@.venv/bin/python -m pytest -n 2 -m "not long" $(ARGS)

test-long: setup
	@.venv/bin/python -m pytest -n 2 -m long $(ARGS)

fuzz: setup
	@ROUNDTRIP_FUZZ_SECONDS='$(SECONDS)' .venv/bin/python -m pytest -s tests/jobs/test_machine.py $(ARGS)

bench: setup
	@.venv/bin/python -m bench $(ARGS)

faults: setup
	@.venv/bin/python -m faults $(ARGS)

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: setup
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

clean:
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	@find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +
