# The two commands, `make tour` and `make test`, need Python 3.11 or later, git and make;
# everything else is installed into .venv from the package index.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LAB ?= lab

.PHONY: tour test check slow commands trust golden docs bench wheel clean

tour: .venv/.installed
	$(BIN)/lmlab tour --lab $(LAB)

test: check
	$(BIN)/pytest -n auto

check: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

# Scientific checks of minutes
slow: .venv/.installed-dev
	$(BIN)/pytest -m slow

# Every command of the documentation, in small, and how long each took (LMLAB_SMALL=0: as it stands)
commands: .venv/.installed-dev
	$(BIN)/pytest -s -m "slow or not slow" tests/test_docs_commands.py

# Attacks on what lmlab promises; writes the table of docs/trust.md
trust: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m promise --hypothesis-profile trust --trust-table=docs/trust.md

# Losses that refactors must reproduce, anew: only where a change of them is meant
golden: .venv/.installed-dev
	$(BIN)/python tests/golden_losses.py

# The site, in site/: the page of commands from their table, then all pages, then a look at every link
docs: .venv/.installed-docs
	$(BIN)/python docs/commands.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/check_site.py site

bench: .venv/.installed-dev
	$(BIN)/python benchmarks/overview.py

.venv/.created:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "lmlab needs Python 3.11 or later; name it: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/.installed: .venv/.created pyproject.toml constraints.txt
	@echo "Installing lmlab into .venv (torch is large; the first time takes minutes)"
	$(PIP) install -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	@echo "Installing the development tools into .venv"
	$(PIP) install -c constraints.txt -e ".[dev]"
	touch $@

.venv/.installed-docs: .venv/.installed
	@echo "Installing what writes the site into .venv"
	$(PIP) install -c constraints.txt -e ".[docs]"
	touch $@

# dist/lmlab-VERSION-py3-none-any.whl
wheel: .venv/.created
	$(PIP) wheel --no-deps --wheel-dir dist .

clean:
	rm -rf .venv
