"""Ray's object store: bytes are put there once, and each node gets them once."""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xspinn.carriers.shared import Shared

if TYPE_CHECKING:
    from xspinn.carriers.content import Buffer, Content

__all__ = ["Stored", "use_ray"]


class Reference:
    """Where in the store bytes are; Ray keeps them as long as it sees its own reference."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference


_references: weakref.WeakValueDictionary[str, Reference] = weakref.WeakValueDictionary()
"""References by key, as long as a graph or a task holds them."""


@dataclass(frozen=True)
class Stored:
    """An object in Ray's store that holds the bytes."""

    key: str

    def fetch(self) -> Buffer:
        """Copy the bytes out of the store, whose own memory cannot be written to."""
        import ray

        return np.array(ray.get(_references[self.key].reference))


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
    held: dict[str, Reference] = {}

    def carry(content: Content) -> Stored:
        import ray

        found = _references.get(content.key)
        if found is None:
            found = _references[content.key] = Reference(ray.put(content.open()))
        held[content.key] = found
        return Stored(content.key)

    raw = shared.carried_by(carry)
    if shared.is_here:
        shared.kept = held
    return raw, {key: reference.reference for key, reference in shared.kept.items()}


def _take(state: tuple[bytes, dict[str, Any]]) -> Shared:
    raw, references = state
    held = {}
    for key, reference in references.items():
        held[key] = _references.get(key) or Reference(reference)
        _references[key] = held[key]
    return Shared.arrived(raw, held)
