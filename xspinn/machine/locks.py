"""A lock for each key: what is done once a key is done once, and keys do not wait for others."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

__all__ = ["KeyedLocks"]

K = TypeVar("K", bound=Hashable)


class KeyedLocks(Generic[K]):
    """A lock for every key, there as long as somebody holds it or waits for it.

    Examples
    --------
    >>> from xspinn.machine.locks import KeyedLocks
    >>> locks = KeyedLocks()
    >>> with locks.of("one"):
    ...     locks.of("one").locked(), locks.of("other").locked()
    (True, False)
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[K, threading.Lock] = WeakValueDictionary()

    def of(self, key: K) -> threading.Lock:
        """Return the lock of a key, for a ``with`` statement."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())
