"""Errors and warnings that xspinn raises.

Every message says what was got, what was expected and how to mend it, with dim names and sizes,
and comes when the plan is made wherever it can.
"""

from __future__ import annotations

__all__ = ["ModelError", "PlanError", "SpinnError", "SpinnWarning"]


class SpinnError(Exception):
    """Base class of all errors that xspinn raises."""


class PlanError(SpinnError, ValueError):
    """The array, the patch, the overlap or another argument cannot make a plan."""


class ModelError(SpinnError, RuntimeError):
    """The model cannot be used: it fails on a patch, or returns something that cannot be placed."""


class SpinnWarning(UserWarning):
    """Something that the user should look at, while the run goes on."""
