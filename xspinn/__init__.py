"""Run neural networks over labelled arrays of any size, patch by patch, without seams."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from xspinn import accessor as _accessor  # noqa: F401 - registers .spinn
from xspinn.api import plan, predict
from xspinn.environment import show_versions
from xspinn.errors import ModelError, PlanError, SpinnError, SpinnWarning
from xspinn.options import get_options, set_options
from xspinn.plans.plan import Plan
from xspinn.plans.tuning import Tuning

if TYPE_CHECKING:
    from xspinn import datasets, models, plot, testing
    from xspinn.models import as_model

__all__ = [
    "ModelError",
    "Plan",
    "PlanError",
    "SpinnError",
    "SpinnWarning",
    "Tuning",
    "as_model",
    "datasets",
    "get_options",
    "models",
    "plan",
    "plot",
    "predict",
    "set_options",
    "show_versions",
    "testing",
]

__version__ = _version("xspinn")

# Models need torch, which takes longer to import than all the rest: what needs it comes when it
# is asked for.
_MODULES = ("datasets", "models", "plot", "testing")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return _import_module(f"xspinn.{name}")
    if name == "as_model":
        return _import_module("xspinn.models").as_model
    raise AttributeError(f"module 'xspinn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
