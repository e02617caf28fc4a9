"""Give memory back that the allocator keeps for later."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

__all__ = ["give_back"]


def give_back() -> None:
    """Return what glibc's arenas hold free to the system; elsewhere, do nothing.

    Blocks come and go in arrays of tens of megabytes, on several threads, each with an arena of
    its own. Without this, what a process occupies creeps up with the number of blocks that it has
    run, though it holds no more of them. It takes milliseconds, once a block.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
