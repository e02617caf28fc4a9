"""Pictures of a plan."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xspinn.geometry.axis import Axis
    from xspinn.plans.plan import Plan

__all__ = ["lattice"]


def lattice(
    plan: Plan,
    ax: Axes | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
    patches: bool = True,
    blocks: bool = True,
    patch_color: str = "tab:cyan",
    block_color: str = "tab:orange",
    alpha: float = 0.12,
) -> Axes:
    """Draw the patches and the blocks of a plan.

    Patches are drawn see-through, so that the overlap of two is darker than either. Positions are
    voxels of the input: voxel ``i`` reaches from ``i - 0.5`` to ``i + 0.5``, as in
    `matplotlib.axes.Axes.imshow`, so that the lattice fits over an image drawn there.

    Parameters
    ----------
    plan : Plan
        The plan to draw, with at least two core dims.
    ax : matplotlib Axes, optional
        Where to draw; its limits are kept. By default, new axes that show the whole array.
    x, y : str, optional
        The core dims that run to the right and down. By default, the last two of the plan, the
        last one to the right.
    patches : bool, default True
        Whether to draw the patches.
    blocks : bool, default True
        Whether to draw the bounds of the blocks.
    patch_color, block_color : str
        Colours of the patches and of the bounds of the blocks.
    alpha : float, default 0.12
        Opacity of one patch, 0 to 1.

    Returns
    -------
    matplotlib Axes
        The axes drawn on.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    ValueError
        If the plan has fewer than two core dims, or none of the name given.
    """
    try:
        from matplotlib.collections import LineCollection, PatchCollection
        from matplotlib.colors import to_rgba
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise ModuleNotFoundError(
            "drawing needs matplotlib, which is not installed; "
            "install it with: pip install matplotlib"
        ) from error
    across, down = _two_axes(plan, x, y)
    if ax is None:
        ax = _new_axes(across, down)
    limits = ax.get_xlim(), ax.get_ylim()
    if patches:
        boxes = [
            Rectangle((left - 0.5, top - 0.5), across.patch, down.patch)
            for top, left in itertools.product(down.starts, across.starts)
        ]
        face, edge = to_rgba(patch_color, alpha), to_rgba(patch_color, 0.9)
        ax.add_collection(
            PatchCollection(boxes, facecolor=face, edgecolor=edge, linewidth=0.8, label="patches")
        )
    if blocks:
        right, bottom = across.size - 0.5, down.size - 0.5
        lines = [[(cut - 0.5, -0.5), (cut - 0.5, bottom)] for cut in across.bounds]
        lines += [[(-0.5, cut - 0.5), (right, cut - 0.5)] for cut in down.bounds]
        ax.add_collection(LineCollection(lines, color=block_color, linewidth=1.2, label="blocks"))
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])
    return ax


def _two_axes(plan: Plan, x: str | None, y: str | None) -> tuple[Axis, Axis]:
    axes = {axis.dim: axis for axis in plan.axes}
    if len(axes) < 2:
        raise ValueError(
            f"a lattice is drawn over two core dims, but the plan has {len(axes)}: {list(axes)}"
        )
    for name in (x, y):
        if name is not None and name not in axes:
            raise ValueError(f"the plan has no core dim {name!r}; it has {list(axes)}")
    if x is not None and x == y:
        raise ValueError(f"x and y are both {x!r}; name two dims out of {list(axes)}")
    right = x or next(dim for dim in reversed(axes) if dim != y)
    below = y or next(dim for dim in reversed(axes) if dim != right)
    return axes[right], axes[below]


def _new_axes(across: Axis, down: Axis) -> Axes:
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    ax.set_xlim(-0.5, across.size - 0.5)
    ax.set_ylim(down.size - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.set_xlabel(across.dim)
    ax.set_ylabel(down.dim)
    return ax
