"""What was chosen before, on disk: one small file a job."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from xspinn.files import cache_folder, write_atomically
from xspinn.plans.tuning import Choice, Tuning

__all__ = ["folder", "keep", "recall"]


def folder() -> Path:
    """Return the folder that choices are kept in: ``tuning`` in the cache folder."""
    return cache_folder() / "tuning"


def recall(key: str) -> Choice | None:
    """Return what was chosen before; None where nothing was, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        held = json.loads(_path(key).read_text())
        return Choice(int(held["batch"]), Tuning(**held["tuning"]))
    return None


def keep(key: str, choice: Choice) -> Choice:
    """Keep a choice, and return the one that is kept: another process may have been first.

    Where the folder cannot be written to, this process alone remembers it.
    """
    held = recall(key)
    if held is not None:
        return held
    with contextlib.suppress(OSError), write_atomically(_path(key)) as file:
        file.write(json.dumps(asdict(choice)).encode())
    return choice


def _path(key: str) -> Path:
    return folder() / f"{key}.json"
