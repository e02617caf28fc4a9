"""Every public name of xspinn and its signature, as text.

Run as a program it writes the snapshot down anew::

    PYTHONPATH=tests python -m helpers.public

Do so only where a change is meant, and say it in the changelog. A name goes, or changes what it
takes, by the deprecation rule in CONTRIBUTING.md.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "golden" / "public.txt"

MODULES = ("xspinn", "xspinn.datasets", "xspinn.models", "xspinn.plot", "xspinn.testing")


def public_names() -> str:
    """One line for every name, and one for every method and property of a class."""
    lines = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if not inspect.ismodule(value):
                lines += _lines(f"{module_name}.{name}", value)
    for accessor in ("DataArraySpinn", "DatasetSpinn"):
        kind = getattr(importlib.import_module("xspinn.accessor"), accessor)
        lines += _lines(f"xspinn.accessor.{accessor}", kind)
    return "\n".join(lines) + "\n"


def _lines(name: str, value: Any) -> Iterator[str]:
    if not inspect.isclass(value):
        yield name + str(inspect.signature(value))
        return
    errors = issubclass(value, Exception)  # what users catch; other bases are nobody's business
    bases = f" of {', '.join(base.__name__ for base in value.__bases__)}" if errors else ""
    yield f"class {name}{bases}{_made(value)}"
    for attribute in sorted(dir(value)):
        owner = next(base for base in value.__mro__ if attribute in base.__dict__)
        if attribute.startswith("_") or not _is_ours(owner):
            continue
        held = owner.__dict__[attribute]
        if isinstance(held, staticmethod | classmethod):
            held = held.__func__
        if inspect.isfunction(held):
            yield f"  {name}.{attribute}{inspect.signature(held)}"
        else:
            yield f"  {name}.{attribute}"


def _made(kind: type) -> str:
    """How it is made, where it has a way of its own."""
    own = any("__init__" in base.__dict__ for base in kind.__mro__ if _is_ours(base))
    return str(inspect.signature(kind)) if own else ""


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("xspinn")


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(public_names())
