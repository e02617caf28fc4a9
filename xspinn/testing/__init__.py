"""Contracts that extensions of xspinn must keep, as functions to call from their tests."""

from xspinn.testing.combines import check_combine
from xspinn.testing.models import check_model
from xspinn.testing.sources import check_source

__all__ = ["check_combine", "check_model", "check_source"]
