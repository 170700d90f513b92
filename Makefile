# The commands of the README: `make demo`, `make test` and `make bench`, and those of CONTRIBUTING.md.  Each makes .venv
# when it is missing or out of date.
#
# PYTHON: a Python 3.11 or newer; the first one found here unless you name another (make demo PYTHON=/path/to/python3.13).

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test soak style mypy pyright api bench bench-peers bench-guard docs release format clean
.DELETE_ON_ERROR:

# The tests start Python some hundred times, which takes nearly twice as long if each process compiles all modules.
unexport PYTHONDONTWRITEBYTECODE

demo: $(VENV)/.installed
	$(BIN)/mailauth methods

# mypy and pyright use one core each, so they run at the same time.  The output of each is shown as a whole if this make
# can do that: 3.81, which macOS has, cannot.
test: $(VENV)/.tools
	@$(MAKE) --no-print-directory --keep-going --jobs=4 $(WHOLE_OUTPUT) style mypy pyright api
	$(BIN)/pytest -n auto --dist worksteal --quiet

# SOAK: options, as in make soak SOAK="--part mixed --sessions 20000"; see python -m tests.soak --help.
soak: $(VENV)/.tools
	$(BIN)/python -m tests.soak $(SOAK)

WHOLE_OUTPUT := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

style: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mypy: $(VENV)/.tools
	$(BIN)/mypy

pyright: $(VENV)/.tools
	$(BIN)/pyright

api: $(VENV)/.tools
	$(BIN)/python tools/api.py --check

# BENCH: options, as in make bench BENCH=--quick; see benchmarks/bench.py --help.  It writes docs/performance.md.
bench: $(VENV)/.bench
	@$(BIN)/python benchmarks/bench.py $(BENCH)

# The compared servers that pip cannot install, and other versions of Python; see benchmarks/peers.
bench-peers:
	benchmarks/peers/install.sh

bench-guard: $(VENV)/.installed
	$(BIN)/python benchmarks/guard.py

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -E -W --keep-going -b html docs docs/_build/html
	@echo "See docs/_build/html/index.html"

release: $(VENV)/.tools
	$(BIN)/nox -s release

format: $(VENV)/.tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .nox .bench dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamps say which step is done; a changed pyproject.toml does the installing again.  A venv brings the pip of its
# Python, and the one of 3.11 cannot read dependency groups (PEP 735): hence the upgrade.
$(VENV)/.made:
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "mailauth needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.13" >&2; exit 1; }
	'$(PYTHON)' -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[all]'
	@touch $@

$(VENV)/.tools: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.tools pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --group bench
	@touch $@

$(VENV)/.docs: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --group docs
	@touch $@
