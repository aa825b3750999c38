# The two commands, `make tour` and `make test`, need Python 3.11 or later, git and make;
# everything else is installed into .venv from the package index.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# pip compiles one file after the other, this all cores at once; a package may hold old Python
COMPILE := $(BIN)/python -m compileall -q -j 0 -x /tests/ .venv/lib > /dev/null 2>&1 || true
LAB ?= lab

.PHONY: tour test check slow commands notebooks trust golden docs bench wheel wheel-test lower extras real clean

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

# The notebooks of docs/notebooks with what they show, anew
notebooks: .venv/.installed-dev
	$(BIN)/python docs/run_notebooks.py

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
	$(PIP) install --no-compile -c constraints.txt -e .
	@$(COMPILE)
	touch $@

.venv/.installed-dev: .venv/.installed
	@echo "Installing the development tools into .venv"
	$(PIP) install --no-compile -c constraints.txt -e ".[dev]"
	@$(COMPILE)
	touch $@

.venv/.installed-docs: .venv/.installed
	@echo "Installing what writes the site into .venv"
	$(PIP) install --no-compile -c constraints.txt -e ".[docs]"
	@$(COMPILE)
	touch $@

# dist/lmlab-VERSION-py3-none-any.whl
wheel: .venv/.created
	rm -rf dist build
	$(PIP) wheel --no-deps --wheel-dir dist .

# What follows makes an environment of its own each time. CONSTRAINTS says what pip is told there
# beside what to install: nothing (the newest versions), or "-c constraints.txt" (those of .venv).
CONSTRAINTS ?=
FRESH = rm -rf $(1) && $(PYTHON) -m venv $(1)
INTO = bin/python -m pip --disable-pip-version-check --quiet install

# The wheel in an environment with nothing else: README's first commands, and the types that it shows
wheel-test: wheel
	$(call FRESH,.venv-wheel)
	.venv-wheel/$(INTO) $(CONSTRAINTS) dist/lmlab-*.whl
	$(PYTHON) tests/installed_wheel.py .venv-wheel

# Each extra as its user has it: the wheel, and none of the development tools but pytest's
extras: wheel
	$(call FRESH,.venv-extras)
	.venv-extras/$(INTO) $(CONSTRAINTS) "$$(echo dist/lmlab-*.whl)[eval,gguf,slurm,track]" pytest hypothesis
	.venv-extras/bin/python -c "import lm_eval, gguf, submitit, tensorboard, trackio"
	.venv-extras/bin/pytest -W default tests/test_lm_eval.py tests/test_gguf.py tests/test_trackers.py
	.venv-extras/bin/pytest -W default tests/test_workers.py -k slurm

# The suite with the oldest versions that pyproject.toml allows; their own warnings are no errors.
# uv finds versions that go together in seconds, where pip tries old ones for many minutes
TESTS ?= tests
lower:
	$(call FRESH,.venv-lower)
	$(PYTHON) tests/lower_bounds.py eval gguf slurm track > .venv-lower/oldest.txt
	.venv-lower/$(INTO) uv
	.venv-lower/bin/uv pip install --quiet --python .venv-lower -c .venv-lower/oldest.txt -e ".[dev]"
	.venv-lower/bin/pytest -n auto -W default $(TESTS)

# Two real models from the package index against plain transformers; the table of docs/pretrained.md
real: .venv/.installed-dev
	$(BIN)/python tests/real_models.py --work build/real --table docs/pretrained.md

clean:
	rm -rf .venv .venv-wheel .venv-extras .venv-lower build dist
