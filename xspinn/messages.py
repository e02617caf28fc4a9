"""Tell the user what happens where blocks run."""

from __future__ import annotations

import sys
import warnings

from xspinn.errors import SpinnWarning

__all__ = ["warn_user"]


def warn_user(message: str) -> None:
    """Warn here, and on a distributed worker also at the client."""
    worker = sys.modules.get("distributed.worker")
    if worker is not None:
        try:
            worker.get_worker()
        except ValueError:
            pass
        else:
            worker.warn(message, SpinnWarning)
            return
    warnings.warn(message, SpinnWarning, stacklevel=3)
