# make demo      the whole way on a small network: writes runs/demo
# make test      what is checked before a change is merged: format, lint, types and the quick tests
# make test-all  the same with all tests
# make clean     removes the virtual environment, the demo's output and all caches
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check --no-input -qq
RECENT := import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: demo test test-all clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: .venv/installed
	.venv/bin/qffs demo --output runs/demo

test: .venv/installed-test
	@scripts/check

test-all: .venv/installed-test
	@scripts/check --all

# A stamp is written last, so that an installation that failed is tried again.
.venv/installed: pyproject.toml constraints.txt | environment
	@echo "Installing qffs and what it needs into .venv; the first time this takes about a minute."
	@rm -f .venv/installed .venv/installed-test
	@$(PIP) install -c constraints.txt -e .
	@touch $@

.venv/installed-test: pyproject.toml constraints.txt | environment
	@echo "Installing qffs and its test tools into .venv; the first time this takes about a minute."
	@rm -f .venv/installed .venv/installed-test
	@$(PIP) install -c constraints.txt -e '.[test]'
	@touch .venv/installed $@

# Makes .venv unless a sound one is there: Python 3.11 or later, with pip.
.PHONY: environment
environment:
	@.venv/bin/python -c 'import pip; $(RECENT)' 2>/dev/null || { \
	  $(PYTHON) -c '$(RECENT)' 2>/dev/null || { \
	    echo 'qffs needs Python 3.11 or later, which "$(PYTHON)" is not: name one, as in "make PYTHON=python3.11 demo".' >&2; \
	    exit 1; }; \
	  $(PYTHON) -m venv --clear .venv; }

clean:
	rm -rf .venv runs/demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
