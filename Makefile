# On a machine with python3 >= 3.11 and make, nothing else. The first call makes .venv: some 20 s.
#   make demo          a simulated engine serves a built-in workload; ends with the report     2 s
#   make test          the whole test suite, on all cores                                      4 min on two cores
# For developers:
#   make lint          ruff, mypy, the import contracts                                        10 s
#   make check         lint, the wheel in an empty environment, then every test                5 min on two cores
#   make soak          what recording promises, at length                                      minutes
#   make terminal      `batchscope top` in a pty, in tmux, with 200 engines                    2 min
#   make browser       the page in a real Chromium, axe-core included (Debian: chromium, npm)  2 min
#   make assets        uPlot for the page's line charts, from the npm registry                 3 s
#   make pictures      the pictures of the documentation
#   make crash         recorded runs whose process was killed, at length                        2 min
#   make spark         a run's figures on Spark, equal to DuckDB's (needs Java)                1 min, once 2 min more
#   make engines       real engines, each in an environment of its own                         vLLM alone: minutes
#   make proofs        what figures promise, at length: is a comparison calibrated?             10 min on two cores
#   make bench         every figure of docs/performance.md; make bench-docs writes them there
#   make report-image  the picture of README.md
#   make clean         everything that these made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := build/bench
READY := $(VENV)/.ready
USABLE := $(VENV)/.usable
SPARK := build/spark

.DELETE_ON_ERROR:
.PHONY: demo help test soak crash terminal check lint package proofs spark browser assets pictures engines foreign bench bench-docs \
  report-image clean

demo: $(USABLE)
	@$(BIN)/batchscope demo

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

# What an engine, a signal or the garbage collector can do to recording, at length: many minutes.
soak: $(READY)
	BATCHSCOPE_SOAK=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/recording

# `batchscope top` in real terminals: a pty, tmux, 200 engines.
terminal: $(READY)
	BATCHSCOPE_TERMINAL=1 $(BIN)/python -m pytest tests/terminal/test_in_a_terminal.py

# Runs of engines that are killed, and files that are cut, anywhere: what was written is read, what is missing is named.
crash: $(READY)
	BATCHSCOPE_CRASH=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/ledger/test_crash.py

# The tests come last: their summary is the last thing on the screen.
check: lint package
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

package: $(READY)
	rm -rf dist build/smoke
	$(BIN)/python -m build --wheel --outdir dist
	$(BIN)/python -m venv build/smoke
	build/smoke/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build && smoke/bin/python ../tests/cli/smoke.py smoke/bin/batchscope

browser: $(READY) assets
	$(BIN)/python -m pytest -n 0 browser_tests

# An installation has them from its build; a checkout whose environment was made without npm gets them so.
assets:
	@$(PYTHON) hatch_build.py

# Deterministic: seeded, at a time that stands still.
pictures: $(READY) assets report-image
	$(BIN)/python browser_tests/pictures.py docs/images
	$(BIN)/python tests/terminal/pictures.py docs/images

# In an environment of its own: Spark has 400 MB, and needs Java.
spark: $(SPARK)/.ready
	$(SPARK)/bin/python -m pytest -W default --disable-warnings tests/ledger/analysis/test_spark.py  # pandas calls old what it uses

$(SPARK)/.ready: pyproject.toml
	@command -v java > /dev/null || { \
	  echo "error: Spark needs Java; on Debian: apt-get install default-jre-headless" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(SPARK)
	$(SPARK)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[spark,analysis]' 'pytest>=8.3,<10' 'hypothesis>=6.100,<7'
	@touch $@

# Real engines, each in an environment of its own (vLLM alone takes minutes to install): make engines ENGINES=llamacpp
engines:
	$(PYTHON) engine_tests/run.py $(ENGINES)

# What takes too long for the test suite: calibration of comparisons, with its negative control; predictions. Minutes.
proofs: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python proofs/compare_calibration.py
	OMP_NUM_THREADS=1 $(BIN)/python proofs/prediction_accuracy.py
	OMP_NUM_THREADS=1 $(BIN)/python proofs/interval_coverage.py
	OMP_NUM_THREADS=1 $(BIN)/python proofs/advice_regret.py
	OMP_NUM_THREADS=1 $(BIN)/python proofs/capacity_search.py

# Schedulers of other engines from their clones: is the inferred cause the one they report? make foreign CLONES=DIR
foreign: $(READY)
	$(BIN)/python engine_tests/foreign/compare.py --clones "$(CLONES)"

bench: $(BENCH)/.ready
	$(BENCH)/bin/python benchmarks/run.py --json build/benchmarks

# Writes what was measured into docs/performance.md.
bench-docs: bench
	$(BENCH)/bin/python benchmarks/report.py build/benchmarks

# An environment of its own: what is only compared with stays out of the developers'.
$(BENCH)/.ready: $(READY) benchmarks/requirements.txt
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt -e .
	@touch $@

report-image: $(READY)
	@mkdir -p docs/images
	$(BIN)/batchscope demo --svg docs/images/report.svg > /dev/null

clean:
	rm -f src/batchscope/dashboard/assets/uplot.*
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# What a user has: the commands, without the tools of developers.
$(USABLE): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	  echo "error: batchscope needs Python 3.11 or newer, '$(PYTHON)' is: $$($(PYTHON) --version 2>&1);" \
	    "name another one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "error: $(PYTHON) cannot make environments; on Debian: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[serve,terminal,analysis]'
	@touch $@

# pip 23 does not know dependency groups: the list is read from pyproject.toml.
$(READY): $(USABLE)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' > $(VENV)/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/dev.txt -e '.[all]'
	@touch $@
