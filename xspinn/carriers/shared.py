"""How the bytes of a model reach the processes that need them, once each.

A graph holds a `Shared` in a model's place. Pickled, it says what the model is and where its bytes
are, but leaves the bytes themselves to a carrier: `distributed` moves them from worker to worker,
Ray keeps them in its object store, and other processes of this machine read a file.

Schedulers unpickle graphs without running them, so this package imports neither torch nor the
models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from xspinn.carriers import spool
from xspinn.carriers.content import carried_by

__all__ = ["Shared"]


class Shared:
    """A model, as all tasks of a graph share it: small wherever it goes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._raw: bytes | None = None
        self.kept: dict[str, Any] = {}

    @classmethod
    def arrived(cls, raw: bytes, kept: dict[str, Any] | None = None) -> Shared:
        """Return what was pickled elsewhere, and hold on to something as long as it lives."""
        shared = object.__new__(cls)
        shared._model, shared._raw, shared.kept = None, raw, kept or {}
        return shared

    @property
    def model(self) -> Any:
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
    return spool.carry
