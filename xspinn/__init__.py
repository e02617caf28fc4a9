"""Run neural networks over labelled arrays of any size, patch by patch, without seams."""

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
    from xspinn.models import as_model

__all__ = [
    "ModelError",
    "Plan",
    "PlanError",
    "SpinnError",
    "SpinnWarning",
    "Tuning",
    "as_model",
    "get_options",
    "plan",
    "predict",
    "set_options",
    "show_versions",
]

__version__ = _version("xspinn")


def __getattr__(name: str) -> Any:
    # Models need torch, which takes longer to import than all the rest.
    if name == "as_model":
        from xspinn.models import as_model

        return as_model
    raise AttributeError(f"module 'xspinn' has no attribute {name!r}")
