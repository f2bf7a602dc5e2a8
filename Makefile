# Everything runs in .venv, which is made from uv.lock. Nothing needs to be done by hand before any of these.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 1000
# Most tests wait most of the time. A file's tests share services, so they stay together.
BESIDE ?= -n 2 --dist loadfile
SAMPLES ?= 300


.PHONY: demo guard guards-for-tests wheel roots test sanitized check lint types docs pictures bench chaos inject packages clean

$(VENV)/.ready: pyproject.toml uv.lock scripts/setup
	PYTHON=$(PYTHON) scripts/setup $(VENV)
	touch $@

# Only what has changed is built again; the script compares the sources' hash.
guard: $(VENV)/.ready  ## build the native guard for this machine
	$(BIN)/python scripts/build_guard.py

guards-for-tests: packages guard
	$(BIN)/python scripts/build_guard.py --faults --sanitize

wheel: $(VENV)/.ready  ## one wheel with static guards for every machine
	TETHER_GUARDS=all $(BIN)/uv build --wheel

roots:  ## roots of plain Debian and of musl, in which tests try the wheel: once, some ten minutes
	scripts/debian_root
	scripts/musl_root

demo: guard  ## run the main job on a real server
	$(BIN)/python examples/demo.py

packages:  ## the Debian packages that the tests use
	scripts/packages

# PART=guard runs one room of the tests. Two need what is built once, some ten minutes each: PART=kube a cluster, and
# PART=test_wheel.py what 'make roots' makes.
test: guards-for-tests  ## all tests, the documentation's examples and a short chaos run included
ifdef PART
	$(BIN)/pytest tests/$(PART)
else
	$(BIN)/pytest -q $(BESIDE) --ignore=tests/kube --ignore=tests/test_wheel.py
	$(MAKE) sanitized
	$(BIN)/python benchmarks/chaos.py --seeds 40
	$(BIN)/sphinx-build -q -W -b html docs docs/_build/html
endif

# A fault that a sanitizer finds ends the guard, and with that the test.
sanitized: guards-for-tests  ## what holds trees, with address and undefined behaviour sanitizers in the guard
	TETHER_GUARD=$(CURDIR)/src/tether/guard/bin/sanitized/tether-guard $(BIN)/pytest -q $(BESIDE) \
	    tests/guard tests/drivers/test_process.py tests/owner/test_adoption.py tests/owner/test_ending.py --deselect tests/guard/test_hold.py::test_a_held_tree_is_small

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python scripts/build_guard.py --check

types: $(VENV)/.ready
	$(BIN)/mypy

check: lint types test  ## what must pass before a commit

pictures: guard  ## what commands print, as pictures for the docs
	$(BIN)/python scripts/pictures

docs: pictures
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

# PART=growth measures only how things grow with resources and old rows, and draws that for the docs.
bench: $(VENV)/.ready  ## speeds, side by side with peers and the kernel's own floor
ifdef PART
	$(BIN)/python benchmarks/$(PART).py $(if $(filter growth,$(PART)),--svg docs/growth.svg)
else
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/remote.py
	$(BIN)/python benchmarks/growth.py --svg docs/growth.svg
endif

chaos: $(VENV)/.ready  ## SEEDS=1000 random crashes
	$(BIN)/python benchmarks/chaos.py --seeds $(SEEDS)

inject: $(VENV)/.ready  ## SAMPLES=300 kills and errors at single system calls, by strace
	$(BIN)/python tests/programs/inject.py --samples $(SAMPLES)

clean:
	rm -rf $(VENV) dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
