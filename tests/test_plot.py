"""The picture of a plan's lattice."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure

from xspinn.geometry.axis import Axis
from xspinn.plot import lattice

Y = Axis("y", size=100, patch=40, overlap=10, bounds=(0, 50, 100))
X = Axis("x", size=64, patch=32, overlap=8, boundary="reflect", bounds=(0, 64))
Z = Axis("z", size=20, patch=20, overlap=0, bounds=(0, 20))


def plan_of(*axes: Axis) -> Any:
    return SimpleNamespace(axes=axes)


@pytest.fixture
def ax() -> Any:
    axes = Figure().subplots()
    axes.set(xlim=(0, 30), ylim=(20, 0))
    return axes


def boxes_of(ax: Any) -> set[tuple[float, ...]]:
    (patches,) = (c for c in ax.collections if isinstance(c, PatchCollection))
    return {
        (*path.vertices.min(axis=0), *path.vertices.max(axis=0)) for path in patches.get_paths()
    }


def test_every_patch_is_drawn_where_it_lies(ax: Any) -> None:
    assert lattice(plan_of(Y, X), ax) is ax
    assert min(X.starts) < 0  # a patch may begin before the array
    assert boxes_of(ax) == {
        (left - 0.5, top - 0.5, left + 31.5, top + 39.5) for top in Y.starts for left in X.starts
    }


def test_every_block_bound_is_drawn(ax: Any) -> None:
    lattice(plan_of(Y, X), ax)
    (lines,) = (c for c in ax.collections if isinstance(c, LineCollection))
    drawn = {tuple(map(tuple, line.tolist())) for line in lines.get_segments()}
    assert drawn == {
        ((-0.5, -0.5), (-0.5, 99.5)),
        ((63.5, -0.5), (63.5, 99.5)),
        ((-0.5, -0.5), (63.5, -0.5)),
        ((-0.5, 49.5), (63.5, 49.5)),
        ((-0.5, 99.5), (63.5, 99.5)),
    }


def test_limits_of_given_axes_are_kept(ax: Any) -> None:
    lattice(plan_of(Y, X), ax)
    assert ax.get_xlim() == (0, 30)
    assert ax.get_ylim() == (20, 0)


def test_parts_can_be_left_out(ax: Any) -> None:
    lattice(plan_of(Y, X), ax, patches=False)
    assert [type(c) for c in ax.collections] == [LineCollection]
    lattice(plan_of(Y, X), ax, blocks=False)
    assert [type(c) for c in ax.collections] == [LineCollection, PatchCollection]


def test_dims_can_be_chosen(ax: Any) -> None:
    lattice(plan_of(Y, X, Z), ax, x="y", blocks=False)  # z, the last one left, runs down
    assert boxes_of(ax) == {(top - 0.5, -0.5, top + 39.5, 19.5) for top in Y.starts}


def test_new_axes_show_the_whole_array() -> None:
    import matplotlib.pyplot as plt

    try:
        ax = lattice(plan_of(Z, Y, X))
        assert ax.get_xlim() == (-0.5, 63.5)
        assert ax.get_ylim() == (99.5, -0.5)  # rows run down, as in an image
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
        ax.figure.canvas.draw()
        assert np.isfinite(ax.get_tightbbox().bounds).all()
    finally:
        plt.close("all")


@pytest.mark.parametrize(
    ("axes", "chosen", "message"),
    [
        ((Y,), {}, r"has 1: \['y'\]"),
        ((Y, X), {"x": "time"}, r"no core dim 'time'; it has \['y', 'x'\]"),
        ((Y, X), {"x": "y", "y": "y"}, "x and y are both 'y'"),
    ],
)
def test_wrong_dims(axes: tuple[Axis, ...], chosen: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lattice(plan_of(*axes), **chosen)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.collections", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        lattice(plan_of(Y, X))
