"""How much memory a process may use, and keeping what was used last within it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import psutil
from zict import LRU

from xspinn.machine.worker import memory_limit

__all__ = ["Latest", "host_memory"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def host_memory() -> int:
    """Return the bytes that this process may use: of a worker, its limit."""
    total = int(psutil.virtual_memory().total)
    limit = memory_limit()
    return total if limit is None else min(total, limit)


class Latest(LRU[K, V]):
    """Keeps what was used last within a budget, and the newest however large it is."""

    def __init__(self, budget: Callable[[], int], weight: Callable[[V], int]) -> None:
        super().__init__(0, {}, weight=lambda _, value: weight(value))
        self.budget = budget

    def __setitem__(self, key: K, value: V) -> None:
        budget = self.budget()  # asked anew each time, in the place of zict's own limit
        with self.lock:
            self.set_noevict(key, value)
            while self.total_weight > budget and len(self) > 1:
                self.evict(next(iter(self.order)))
