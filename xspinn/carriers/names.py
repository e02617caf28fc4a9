"""What stands for a model in the names of tasks.

Schedulers see these names and nothing else of a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

__all__ = ["LENGTH", "TASK", "short", "task_name", "when_released"]

TASK = "spinn-model-"
"""Names of the tasks that hold models begin with this, and a hash of the model's key follows."""

LENGTH = 24
"""Digits of that hash."""


def short(key: str) -> str:
    """Return what stands for a model's key in the names of tasks."""
    return hashlib.sha256(key.encode()).hexdigest()[:LENGTH]


def task_name(key: str, *how: object) -> str:
    """Name the task that holds a model, to be built on some device and in some way."""
    return f"{TASK}{short(key)}{short(str(how))[:8]}"


when_released: list[Callable[..., None]] = []
"""Called with what `short` returned of models that nobody uses any more, to forget them.

Whoever keeps models adds itself; a process that never built any imports no torch for it.
"""
