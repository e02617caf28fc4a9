"""What xspinn uses of dask's private parts is still there."""

import dask.array as da
import numpy as np
import pytest
from dask.order import order
from dask.task_spec import Task, TaskRef

from xspinn.hooks.dask import InOrder, behind, originals

CHANGED = "dask writes down otherwise what from_array was given: see xspinn/hooks/dask.py"


class Stored:
    """An array that is none of numpy's: dask keeps it whole."""

    shape, dtype, ndim = (6, 10), np.dtype("f8"), 2

    def __getitem__(self, key):
        return np.zeros(self.shape)[key]


@pytest.mark.parametrize("options", [{}, {"fancy": False}, {"asarray": False}, {"name": "mine"}])
def test_what_from_array_was_given_is_found(options):
    stored = Stored()
    array = da.from_array(stored, chunks=3, **options)
    assert behind(array) is stored, CHANGED
    assert list(originals(array)) == [stored], CHANGED


def test_what_from_array_was_given_is_found_below_computations():
    one, two = Stored(), Stored()
    first = da.from_array(one, chunks=3, name="a")
    second = da.from_array(two, chunks=3, name="b")
    assert list(originals(first * 2 + second[::-1])) == [one, two], CHANGED
    assert behind(first * 2) is None
    assert behind(first[1:]) is None


def test_what_dask_reads_otherwise_is_not_taken():
    def tenfold(array, key, **kwargs):
        return array[key] * 10

    for options in ({"lock": True}, {"getitem": tenfold}, {"inline_array": True}):
        assert behind(da.from_array(Stored(), chunks=3, **options)) is None
    assert behind(da.ones((6, 10), chunks=3)) is None
    assert behind(da.ones((6, 10), chunks=3).persist(scheduler="sync")) is None


def test_dask_runs_blends_in_order():
    """One dim of blocks, each of which needs the strip of the block before."""
    blocks = 40
    settles = InOrder("order", blocks)
    graph = dict(settles.tasks)
    for k in range(blocks):
        graph["run", k] = Task(("run", k), nothing)
        graph["strips", k] = Task(("strips", k), nothing, TaskRef(("run", k)))
        needs = [("run", k), *settles.needs(k), *([("strips", k - 1)] if k else [])]
        graph["blend", k] = Task(("blend", k), nothing, *map(TaskRef, needs))
    graph["all"] = Task("all", nothing, *[TaskRef(("blend", k)) for k in range(blocks)])
    place = order(graph)
    blends = sorted((key for key in graph if key[0] == "blend"), key=place.get)
    message = "dask.order looks at something else now: see InOrder in xspinn/hooks/dask.py"
    assert blends == [("blend", k) for k in range(blocks)], message


def nothing(*args):
    return None
