"""Stop what is left of a computation that failed or was interrupted.

dask's schedulers of this process leave the tasks that run alone when the computation that they
belong to ends early, as by Ctrl-C. Blocks would go on for minutes and keep their threads and turns
from the next run. A callback of dask sees each computation begin and end: it gives the job a token
for this computation alone, and cancels it if the computation fails. Blocks look at it between
batches.
"""

from __future__ import annotations

from typing import Any

from dask.callbacks import Callback

from xspinn.machine.nesting import inside_turn
from xspinn.plans.job import Job

__all__ = ["watch_computations"]


def watch_computations() -> None:
    """See to it that dask tells of each computation from now on.

    dask keeps callbacks in a global, which it takes away while a computation runs and may lose
    when threads compute at the same time; so this is called again and again.
    """
    _watch.register()


def _begin(_: Any, state: dict[str, Any]) -> None:
    """Give the jobs a token; dask calls it in the thread that asked for the computation."""
    for key, job in _jobs(state):
        state["cache"][key] = job.computed_anew(turns=not inside_turn())


def _end(_: Any, state: dict[str, Any], failed: bool) -> None:
    if failed:
        for _, job in _jobs(state):
            job.cancel.cancelled = True


def _jobs(state: dict[str, Any]) -> list[tuple[Any, Job]]:
    """Return the jobs among what is computed already; graphs hold them as plain data."""
    found = state.get("cache", {}).items()  # empty where it failed before it began
    return [(key, value) for key, value in found if isinstance(value, Job)]


_watch = Callback(start_state=_begin, finish=_end)
