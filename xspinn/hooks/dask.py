"""Private parts of dask that are used; tried with dask 2025.1.0 and 2026.8.0.

`behind` and `originals`
    how `dask.array.from_array` writes down what it was given: a key ``original-<name>`` in a layer
    of its own, and getters of `dask.array.core` in the other layer. Where dask changes that, arrays
    are taken as dask's chunks, by `dask.array.map_overlap`: the answer is the same, dearer.
`InOrder`
    what `dask.order` looks at. Where dask changes that, answers are the same and more blocks wait
    in memory: of 512 blocks, 3 with 2026.8.0 and 76 with 2025.1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import getitem
from typing import Any

import dask.array as da
from dask.array.core import getter, getter_inline, getter_nofancy
from dask.task_spec import Task, TaskRef

__all__ = ["InOrder", "behind", "originals"]

READERS = (getter, getter_nofancy, getter_inline, getitem)
"""What dask itself reads with, by slices."""

PREFIX = "original-"


def behind(array: da.Array) -> Any | None:
    """Return what `dask.array.from_array` was given, if the array is just that and no more.

    Parameters
    ----------
    array : dask.array.Array

    Returns
    -------
    array-like or None
        None also where dask reads in another way than by plain slices, or under a lock that blocks
        would have to take.
    """
    layers = getattr(array.__dask_graph__(), "layers", {})
    name = PREFIX + array.name
    if set(layers) != {name, array.name}:
        return None
    task = getattr(layers[array.name], "task", None)
    if task is None or task.func not in READERS or task.kwargs.get("lock"):
        return None
    source = _value(layers[name], name)
    fits = getattr(source, "shape", None) == array.shape and hasattr(source, "__getitem__")
    return source if fits and getattr(source, "dtype", None) == array.dtype else None


def originals(array: da.Array) -> Iterator[Any]:
    """Yield all that `dask.array.from_array` was given, anywhere in the graph of an array.

    Parameters
    ----------
    array : dask.array.Array

    Yields
    ------
    array-like
        In the order of their names. What dask was told to inline is not among them.
    """
    layers = getattr(array.__dask_graph__(), "layers", {})
    for name in sorted(str(name) for name in layers if str(name).startswith(PREFIX)):
        yield _value(layers[name], name)


def _value(layer: Any, name: str) -> Any:
    node = layer.get(name)
    return getattr(node, "value", node)


class InOrder:
    """A few tasks that do nothing, so that dask runs blocks in C order.

    dask starts with the task that has the most others below it, counted all the way down. Left
    to itself it starts at the far end and waits everywhere at once, with a tenth of all blocks in
    memory. So each blend is given fewer tasks below it than the blend before: level k of these
    tasks stands on all those of the levels under it, and so counts about 2 ** k.

    It works where all that is wanted stands side by side or below one task. Below a task that
    stands on that one, as with ``to_zarr(compute=False)``, dask takes what is wanted as it comes
    out of a set.

    Parameters
    ----------
    name : str
        What the keys of these tasks begin with.
    blocks : int
        How many blends there are.

    Attributes
    ----------
    tasks : dict
        The tasks, by key.
    """

    SHIFT = 4  # the least difference, 2 ** 4, outweighs the strips of a block's neighbours

    def __init__(self, name: str, blocks: int) -> None:
        self.name, self.blocks = name, blocks
        self.tasks: dict[Any, Task] = {}
        below: list[TaskRef] = []
        for level in range(blocks.bit_length() + self.SHIFT):
            keys = [(name, level, twin) for twin in (0, 1)]
            self.tasks.update({key: Task(key, _nothing, *below) for key in keys})
            below = [TaskRef(key) for key in keys]

    def needs(self, place: int) -> list[tuple[Any, ...]]:
        """Keys that the blend at this place names as dependencies.

        Parameters
        ----------
        place : int
            The place of the blend's block in C order.
        """
        rank = self.blocks - 1 - place
        levels = (level for level in range(rank.bit_length()) if rank >> level & 1)
        return [(self.name, level + self.SHIFT, 0) for level in levels]


def _nothing(*_: None) -> None:
    return None
