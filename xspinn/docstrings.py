"""One description of each argument: docstrings that take entries over from another one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["takes_parameters", "without_parameter"]

F = TypeVar("F", bound=Callable[..., Any])

_ENTRY = re.compile(r"^    (\w+) : .*\n(?:        .*\n|\n(?=        ))*", re.MULTILINE)
"""One parameter of a numpydoc docstring: its name and type, and what is said of it."""

PLACE = "    {parameters}\n"


def takes_parameters(source: Callable[..., Any], *but: str) -> Callable[[F], F]:
    """Put the parameters of another function's docstring where this one says ``{parameters}``.

    Parameters
    ----------
    source : callable
        Whose docstring describes them.
    *but : str
        Those that it does not take.
    """

    def fill(function: F) -> F:
        if source.__doc__ and function.__doc__:
            found = _ENTRY.finditer(_section(source.__doc__))
            entries = [entry[0] for entry in found if entry[1] not in but]
            function.__doc__ = function.__doc__.replace(PLACE, "".join(entries))
        return function

    return fill


def without_parameter(doc: str | None, name: str) -> str | None:
    """Return a docstring without what it says of one parameter.

    Examples
    --------
    >>> import xspinn
    >>> "obj : " in without_parameter(xspinn.predict.__doc__, "obj")
    False
    """
    return doc and _ENTRY.sub(lambda entry: "" if entry[1] == name else entry[0], doc)


def _section(doc: str) -> str:
    """The part of a docstring that describes its parameters."""
    begin = doc.index("    Parameters\n")
    end = re.compile(r"^    \w[\w ]*\n    -+\n", re.MULTILINE)
    after = next((m.start() for m in end.finditer(doc) if m.start() > begin), len(doc))
    return doc[begin:after]
