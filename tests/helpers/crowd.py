"""Wait for what must happen, and count who is somewhere at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE = 120
"""Seconds after which a test that waits in vain fails; none passes by waiting."""


class Crowd:
    """A place where threads meet: whoever enters stays until so many have been inside at once.

    So it is seen that so many may be inside, however slowly threads are woken up. Who is one too
    many is counted too, and has a moment to come.
    """

    def __init__(self, expected: int) -> None:
        self.expected, self.now, self.most = expected, 0, 0
        self.threads: set[threading.Thread] = set()
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.add(threading.current_thread())
            self._changed.notify_all()
            met = self._changed.wait_for(lambda: self.most >= self.expected, PATIENCE)
            assert met, f"{self.most} of {self.expected} came"

    def __exit__(self, *_: object) -> None:
        time.sleep(0.005)  # for those who must not come, to come
        with self._changed:
            self.now -= 1


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds; in whatever process."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.02)
