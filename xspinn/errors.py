"""Errors and warnings that xspinn raises.

Every message says what was got, what was expected and how to mend it, with dim names and sizes,
and comes when the plan is made wherever it can.
"""

from __future__ import annotations

import sys
import warnings

__all__ = ["ModelError", "PlanError", "SpinnError", "SpinnWarning", "warn"]


class SpinnError(Exception):
    """Base class of all errors that xspinn raises."""


class PlanError(SpinnError, ValueError):
    """The array, the patch, the overlap or another argument cannot make a plan."""


class ModelError(SpinnError, RuntimeError):
    """The model cannot be used: it fails on a patch, or returns something that cannot be placed."""


class SpinnWarning(UserWarning):
    """Something that the user should look at, while the run goes on."""


def warn(message: str) -> None:
    """Warn at the line of the user's that led here: the first one that is not xspinn's."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("xspinn."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SpinnWarning, stacklevel=level)
