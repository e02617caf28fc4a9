"""Run neural networks over labelled arrays of any size, patch by patch, without seams."""

from importlib.metadata import version as _version

from xspinn import accessor as _accessor  # noqa: F401 - registers .spinn
from xspinn.api import plan, predict
from xspinn.errors import ModelError, PlanError, SpinnError, SpinnWarning
from xspinn.options import get_options, set_options
from xspinn.plan import Plan

__all__ = [
    "ModelError",
    "Plan",
    "PlanError",
    "SpinnError",
    "SpinnWarning",
    "get_options",
    "plan",
    "predict",
    "set_options",
]

__version__ = _version("xspinn")
