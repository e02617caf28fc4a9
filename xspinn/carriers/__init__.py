"""How the bytes of a model reach the processes that need them, once each.

A graph holds a `Shared` in a model's place. Pickled, it says what the model is and where its bytes
are, but leaves the bytes themselves to a carrier: `distributed` moves them from worker to worker,
Ray keeps them in its object store, and other processes of this machine read a file.

Schedulers unpickle graphs without running them, so this package imports neither torch nor the
models.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xspinn.models.base import Model

__all__ = ["LENGTH", "TASK", "Shared", "prepare", "short", "task_name"]

TASK = "spinn-model-"
"""Names of the tasks that hold models begin with this, and a hash of the model's key follows."""

LENGTH = 24
"""Digits of that hash."""


def short(key: str) -> str:
    """Return what stands for a model's key in the names of tasks."""
    return hashlib.sha256(key.encode()).hexdigest()[:LENGTH]


def task_name(key: str, *how: object) -> str:
    """Name the task that holds a model, to be built on some device and in some way."""
    return f"{TASK}{short(key)}{short(str(how))[:8]}"


def prepare() -> None:
    """Make known to what will run a graph, as far as it is there already, that models will come."""
    if "distributed" in sys.modules:
        from xspinn.carriers import cluster

        cluster.watch()
    if "ray" in sys.modules:
        from xspinn.carriers import ray

        ray.use_ray()


class Shared:
    """A model, as all tasks of a graph share it: small wherever it goes."""

    def __init__(self, model: Model) -> None:
        self._model: Model | None = model
        self._raw: bytes | None = None
        self.kept: dict[str, Any] = {}

    @classmethod
    def arrived(cls, raw: bytes, kept: dict[str, Any] | None = None) -> Shared:
        """Return what was pickled elsewhere, and hold on to something as long as it lives."""
        shared = object.__new__(cls)
        shared._model, shared._raw, shared.kept = None, raw, kept or {}
        return shared

    @property
    def model(self) -> Model:
        """The handle itself, unpickled when it is first asked for."""
        if self._model is None:
            import cloudpickle

            assert self._raw is not None
            self._model = cloudpickle.loads(self._raw)
        return self._model

    @property
    def is_here(self) -> bool:
        """Whether this process has the model itself, and was not sent its address."""
        return self._raw is None

    def carried_by(self, carrier: Callable[[Any], Any]) -> bytes:
        """Return the model's pickle, its bytes left to a carrier."""
        if self._raw is not None:  # it arrived here, and whoever brought it has the bytes
            return self._raw
        import cloudpickle

        from xspinn.models.content import carried_by

        with carried_by(carrier):
            raw: bytes = cloudpickle.dumps(self._model)
        return raw

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared.arrived, (self.carried_by(_carrier(self)),)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + len(self._raw or b"")

    def __repr__(self) -> str:
        return f"<Shared {self._model}>" if self._model is not None else "<Shared model>"


def _carrier(shared: Shared) -> Callable[[Any], Any]:
    """Return what carries the bytes when the standard pickle is asked for."""
    if shared.is_here and "distributed" in sys.modules:
        from xspinn.carriers import cluster

        cluster.watch()
        if cluster.clients():
            return cluster.carrier(cluster.clients())
    from xspinn.carriers import spool

    return spool.carry
