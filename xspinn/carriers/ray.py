"""Ray's object store: bytes are put there once, and each node gets them once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xspinn.carriers import Shared

if TYPE_CHECKING:
    from xspinn.models.content import Buffer, Content

__all__ = ["Stored", "use_ray"]

_references: dict[str, Any] = {}
"""Where in the store the bytes are, by key; Ray must see its references to keep what they name."""


@dataclass(frozen=True)
class Stored:
    """An object in Ray's store that holds the bytes."""

    key: str

    def fetch(self) -> Buffer:
        """Copy the bytes out of the store, whose own memory cannot be written to."""
        import ray

        return np.array(ray.get(_references[self.key]))


_job: list[Any] = []


def use_ray() -> None:
    """Let Ray carry models from now on, if it runs in this process."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    from ray.util.serialization import register_serializer

    job = ray.get_runtime_context().get_job_id()
    if _job != [job]:  # what an earlier run of Ray stored went with it
        _job[:] = [job]
        _references.clear()
    register_serializer(Shared, serializer=_leave, deserializer=_take)


def _leave(shared: Shared) -> tuple[bytes, dict[str, Any]]:
    """Put a model's bytes into the store, and return its pickle and where they are."""
    if shared._kept is not None:  # it arrived here and goes on
        return shared.carried_by(_refuse), shared._kept
    carried: dict[str, Any] = {}

    def carry(content: Content) -> Stored:
        import ray

        if content.key not in _references:
            _references[content.key] = ray.put(content.open())
        carried[content.key] = _references[content.key]
        return Stored(content.key)

    return shared.carried_by(carry), carried


def _take(state: tuple[bytes, dict[str, Any]]) -> Shared:
    raw, references = state
    _references.update(references)
    return Shared.arrived(raw, references)


def _refuse(content: Content) -> None:
    raise AssertionError(f"{content} has a carrier already")
