"""What a report of a problem should say about where it happened."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TextIO

__all__ = ["show_versions"]

# Extras for those who change xspinn, and the sum of the others, which are what it can make use of.
DEVELOPMENT = {"all", "bench", "docs", "peers", "test", "test-all"}


def show_versions(file: TextIO | None = None) -> None:
    """Print the versions of Python, the system, xspinn and the packages that it can make use of.

    Paste what it prints into a report of a problem. Nothing is imported for it, so it also works
    where a package is broken.

    Parameters
    ----------
    file : file-like, optional
        Where to print, by default the standard output.

    Examples
    --------
    >>> import xspinn
    >>> xspinn.show_versions()
    INSTALLED VERSIONS
    ------------------
    python: ...
    torch: ...
    """
    required = sorted(set(_required(optional=False)), key=str.lower)
    optional = sorted(set(_required(optional=True)) - set(required), key=str.lower)
    lines = {
        "python": sys.version.replace("\n", " "),
        "OS": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processors": str(os.cpu_count()),
        "byteorder": sys.byteorder,
    }
    packages = {name: _version_of(name) for name in ["xspinn", *required, *optional]}
    for title, rows in {"INSTALLED VERSIONS\n------------------": lines, "": packages}.items():
        print(title, *(f"{name}: {value}" for name, value in rows.items()), sep="\n", file=file)


def _required(*, optional: bool) -> Iterator[str]:
    """Name the packages that xspinn's own metadata ask for, always or in an extra for users."""
    for requirement in requires("xspinn") or ():
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", requirement)
        wanted = (extra[1] not in DEVELOPMENT) if optional and extra else not (optional or extra)
        if name and wanted:
            yield name[0]


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
