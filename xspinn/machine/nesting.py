"""Whether this thread is inside a model's call, which may itself call `predict`.

Calls of models take turns. A call that waited for another run of the same process would wait for
its own turn, for ever, so what runs inside a turn does not wait for one. A context variable tells:
it follows a turn into its thread, and into whatever thread is handed the context of that one.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["apart", "holding", "inside_turn", "turns_held"]

P = ParamSpec("P")
R = TypeVar("R")

_held: contextvars.ContextVar[tuple[Hashable, ...]] = contextvars.ContextVar(
    "xspinn_turns_held", default=()
)


def turns_held() -> tuple[Hashable, ...]:
    """Return what identifies the turns that this thread, or the call it works for, has."""
    return _held.get()


def inside_turn() -> bool:
    """Return whether this thread works for a call of a model that has its turn."""
    return bool(_held.get())


@contextlib.contextmanager
def holding(turn: Hashable) -> Iterator[None]:
    """Have a turn.

    Parameters
    ----------
    turn : hashable
        What identifies it.
    """
    token = _held.set((*_held.get(), turn))
    try:
        yield
    finally:
        _held.reset(token)


def apart(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run in a thread of its own where a model's call calls it.

    The thread of that call is in torch's inference mode, and may be in autocast, which would
    change how another model is built and what it answers. Elsewhere nothing changes.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if not inside_turn():
            return function(*args, **kwargs)
        context = contextvars.copy_context()
        executor = ThreadPoolExecutor(1, "spinn-nested")
        try:
            return executor.submit(lambda: context.run(function, *args, **kwargs)).result()
        finally:
            executor.shutdown(wait=False)  # one who interrupts does not wait

    return wrapped


def _forget() -> None:
    _held.set(())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
