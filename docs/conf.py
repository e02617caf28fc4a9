"""Sphinx configuration: Markdown pages, notebooks run at build time, API from docstrings."""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path

DOCS = Path(__file__).parent
NOTEBOOKS = DOCS.parent / "notebooks"
COPIES = DOCS / "tutorials"
IPYTHON = DOCS / "_build" / "ipython"

# ------------------------------------------------------------------------------------- project

project = "xspinn"
author = "The xspinn developers"
copyright = author
version = release = installed_version("xspinn")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_nb",
]
exclude_patterns = ["_build", "Thumbs.db", ".DS_Store", "**.ipynb_checkpoints"]

# -------------------------------------------------------------------------------------- output

html_theme = "furo"
html_title = f"xspinn {release}"
html_copy_source = False
html_show_copyright = False

# --------------------------------------------------------------------------- pages and notebooks

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Every notebook runs at every build, since a change of xspinn may break it though its own text is
# the same. It runs in an empty folder, so what it writes never lands beside the pages. A cell that
# raises is a warning, which -W makes an error once all notebooks have run.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = False
nb_execution_show_tb = True
nb_execution_timeout = 600
nb_merge_streams = True

# ----------------------------------------------------------------------------------- reference

autodoc_member_order = "bysource"
# The sections of a docstring say the types; signatures stay short.
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_use_plots = False
# With warnings as errors, a public docstring that leaves a parameter out, or names one that does
# not exist, stops the build. Left out is what is not always needed, and what is a matter of taste.
numpydoc_validation_checks = {
    "all",
    "ES01",  # an extended summary
    "EX01",  # an example
    "GL01",  # a summary on a line of its own, below the opening quotes
    "GL02",  # closing quotes on a line of their own, on one-line docstrings too
    "RT01",  # a section "Returns", where the summary says what is returned
    "SA01",  # a section "See Also"
    "SA04",  # descriptions in it
    "SS05",  # no first word in the third person, for which any plural is taken
}
# Users do not construct classes themselves, so these list attributes and no parameters.
# set_options takes **options, but its docstring names each of them. And plan takes what predict
# does, and refers to it.
numpydoc_validation_exclude = {r"\.[A-Z]\w*$", r"\.set_options$", r"^xspinn\.plan$"}


def copy_notebooks() -> None:
    """Bring ``docs/tutorials`` in line with ``notebooks``, where the sources stay untouched."""
    COPIES.mkdir(exist_ok=True)
    sources = {path.name: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    for old in COPIES.iterdir():
        if old.name not in sources:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for name, source in sources.items():
        copy = COPIES / name
        if not copy.exists() or not filecmp.cmp(source, copy, shallow=False):
            shutil.copyfile(source, copy)


def quieten_kernels() -> None:
    """Give notebooks settings of their own: the user's might print into pages.

    Kernels would also warn that they talk to this process without encryption.
    """
    settings = IPYTHON / "profile_default" / "ipython_kernel_config.py"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("c = get_config()\nc.IPKernelApp.log_level = 'ERROR'\n")
    os.environ["IPYTHONDIR"] = str(IPYTHON)
    # accessible-pygments, which furo needs, lets every logger print its INFO.
    logging.getLogger("traitlets").setLevel(logging.WARNING)


# Sphinx looks for pages right after it has read this file.
copy_notebooks()
quieten_kernels()
