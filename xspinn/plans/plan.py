"""The plan: one frozen value that says everything before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from xspinn.geometry.axis import Axis, Footprint
from xspinn.geometry.boxes import Span
from xspinn.geometry.combine import Combine, get_combine
from xspinn.plans.sheet import plan_html, plan_text
from xspinn.plans.tuning import Tuning

__all__ = ["Loop", "Output", "Plan"]


@dataclass(frozen=True)
class Loop:
    """A dim that the model does not see.

    Attributes
    ----------
    dim : str
    size : int
    bounds : tuple of int
        Where blocks begin and end.
    """

    dim: str
    size: int
    bounds: tuple[int, ...]

    @property
    def chunks(self) -> tuple[int, ...]:
        """Positions of every block's chunk."""
        return tuple(b - a for a, b in pairwise(self.bounds))


@dataclass(frozen=True)
class Output:
    """One array that the model returns.

    Attributes
    ----------
    name : str or None
        Name of the variable; None where the model returns one tensor.
    channels : int or None
        Channels that the model returns; None where it returns no channel axis.
    dim : str or None
        Name of the result's channel dim; None where the result has none.
    labels : tuple of str or float, or None
        Labels of the channels.
    scale : tuple of (int, int)
        For every core dim, the output's voxels over the input's, as numerator and denominator.
    dtype : str
        Of the result.
    accumulate : str
        Dtype of the sums.
    """

    name: str | None
    channels: int | None
    dim: str | None
    labels: tuple[str | float, ...] | None
    scale: tuple[tuple[int, int], ...]
    dtype: str
    accumulate: str

    @property
    def scaled(self) -> bool:
        """Whether any dim has another spatial scale than the input."""
        return any(ratio != (1, 1) for ratio in self.scale)


@dataclass(frozen=True)
class Plan:
    """All that is settled before anything runs: the lattice, the weights, the blocks, the outputs.

    A plan holds no data, no model and no graph. Make one with `xspinn.plan`; it prints itself,
    goes to JSON and back, and two plans with the same fingerprint give the same answer.

    Attributes
    ----------
    dims : tuple of str
        All dims of the input, in its order.
    shape : tuple of int
        Sizes of `dims`.
    dtype : str
        Dtype of the input.
    feed : str
        Dtype that the model is fed with.
    axes : tuple of Axis
        The core dims, in the order of the patch.
    loops : tuple of Loop
        The looped dims, in the order of the input.
    channel : str or None
        The channel dim of the input.
    outputs : tuple of Output
    combine : str
        Name of the combine rule.
    activation : str or None
        Name of what is applied to the model's output before it is combined.
    batch : int
        Patches that the model sees in one call.
    tuning : Tuning
        How the model is called: precision, memory format and the rest.

    Examples
    --------
    >>> import numpy as np, torch, xarray as xr, xspinn
    >>> image = xr.DataArray(np.zeros((100, 80), "float32"), dims=("y", "x"))
    >>> plan = xspinn.plan(image, torch.nn.ReLU(), patch={"y": 32, "x": 32}, overlap=8)
    >>> plan.n_patches, plan.lattice_shape
    (12, (4, 3))
    >>> xspinn.Plan.from_json(plan.to_json()) == plan
    True
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    feed: str
    axes: tuple[Axis, ...]
    loops: tuple[Loop, ...]
    channel: str | None
    outputs: tuple[Output, ...]
    combine: str
    activation: str | None
    batch: int
    tuning: Tuning = field(default_factory=Tuning)

    def __post_init__(self) -> None:
        for axis in self.axes:
            lo, hi = axis.starts[0], axis.starts[-1] + axis.patch
            gaps = any(b - a > axis.patch for a, b in pairwise(axis.starts))
            if lo > 0 or hi < axis.size or gaps:
                raise AssertionError(f"the lattice does not cover dim {axis.dim!r}: {axis}")

    # -- geometry ------------------------------------------------------------------------------

    @property
    def rule(self) -> Combine:
        """The combine rule."""
        return get_combine(self.combine)

    @property
    def channels(self) -> int:
        """Channels that the model is fed with."""
        return 1 if self.channel is None else self.shape[self.dims.index(self.channel)]

    @property
    def lattice_shape(self) -> tuple[int, ...]:
        """Patches along every core dim."""
        return tuple(len(axis.starts) for axis in self.axes)

    @property
    def n_patches(self) -> int:
        """Patches of the whole array, over all positions of the looped dims."""
        return math.prod(self.lattice_shape) * math.prod(loop.size for loop in self.loops)

    @property
    def parts(self) -> tuple[Loop | Axis, ...]:
        """The dims that blocks divide: the looped dims, then the core dims."""
        return (*self.loops, *self.axes)

    @property
    def block_grid(self) -> tuple[int, ...]:
        """Blocks along every one of `parts`."""
        return tuple(len(part.bounds) - 1 for part in self.parts)

    @property
    def n_blocks(self) -> int:
        """Blocks of the whole array: the tasks that run the model."""
        return math.prod(self.block_grid)

    def footprints(self, output: Output) -> tuple[Footprint, ...]:
        """Return what the patches write along every core dim, for one output.

        Parameters
        ----------
        output : Output
            One of the plan's.

        Returns
        -------
        tuple of Footprint
            One a core dim.
        """
        return tuple(
            axis.footprint(Fraction(*ratio))
            for axis, ratio in zip(self.axes, output.scale, strict=True)
        )

    def spills(self, output: Output) -> bool:
        """Whether any block writes beyond its own chunk."""
        return any(
            len(targets) > 1 for print_ in self.footprints(output) for targets in print_.targets
        )

    # -- costs ---------------------------------------------------------------------------------

    @property
    def read_bytes(self) -> int:
        """Bytes that all blocks read together, halos counted as often as they are read."""
        inside = [
            sum(max(0, min(hi, axis.size) - max(lo, 0)) for lo, hi in axis.reads)
            for axis in self.axes
        ]
        loops = math.prod(loop.size for loop in self.loops)
        return math.prod(inside) * loops * self.channels * np.dtype(self.dtype).itemsize

    @property
    def input_bytes(self) -> int:
        """Bytes of the input."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def halo_bytes(self) -> int:
        """Bytes that are read more than once."""
        return max(0, self.read_bytes - self.input_bytes)

    @property
    def spill_bytes(self) -> int:
        """Bytes that blocks hand to their neighbours."""
        total = 0
        for output in self.outputs:
            prints = self.footprints(output)
            written = math.prod(sum(map(_length, p.writes)) for p in prints)
            spilt = written - math.prod(p.size for p in prints)
            total += spilt * self._width(output)
        return total * math.prod(loop.size for loop in self.loops)

    @property
    def leaving_bytes(self) -> int:
        """Bytes that the tasks of all blocks return: finished voxels, and sums that wait."""
        loops = math.prod(loop.size for loop in self.loops)
        total = 0
        for output in self.outputs:
            prints = self.footprints(output)
            written = math.prod(sum(map(_length, p.writes)) for p in prints)
            settled = math.prod(sum(map(_length, p.settled)) for p in prints)
            total += self._leaving(output, written, settled)
        return total * loops

    @property
    def block_bytes(self) -> int:
        """Bytes of the input and the sums of the largest block, without the model's."""
        loops = math.prod(max(loop.chunks) for loop in self.loops)
        read = math.prod(max(hi - lo for lo, hi in axis.reads) for axis in self.axes)
        total = (
            read * self.channels * max(np.dtype(self.dtype).itemsize, np.dtype(self.feed).itemsize)
        )
        for output in self.outputs:
            prints = self.footprints(output)
            total += self._width(output) * math.prod(
                max(hi - lo for lo, hi in p.writes) for p in prints
            )
        return total * loops

    def peak_bytes(self, workers: int = 1) -> int:
        """Bytes at the peak of a run that reads from and writes to a store.

        Parameters
        ----------
        workers : int, default: 1
            Blocks that run at the same time.

        Returns
        -------
        int
            Two blocks a worker, one running and one being written, and the strips of spill that
            wait for their neighbours: one plane of blocks. Of a block that is being written only
            what left it counts, and the result, where these are classes. The model's own
            activations come on top.
        """
        # Blocks run in C order of the dims; strips wait from one plane of blocks to the next.
        grid = dict(zip((part.dim for part in self.parts), self.block_grid, strict=True))
        core = {axis.dim for axis in self.axes}
        planes = 1
        for dim in self.dims:
            planes *= grid.get(dim, 1)
            if dim in core and grid[dim] > 1:
                break
        running = self.block_bytes
        written = self._finished_bytes if self.rule.classes else running
        return workers * (running + written) + self.spill_bytes // planes

    @property
    def _finished_bytes(self) -> int:
        """Bytes of what leaves the largest block, and of its result."""
        total = 0
        for output in self.outputs:
            prints = self.footprints(output)
            # The largest block is the one that writes most along every dim.
            most = [max(range(len(p.writes)), key=lambda k: _length(p.writes[k])) for p in prints]
            pairs = list(zip(prints, most, strict=True))
            written = math.prod(_length(p.writes[k]) for p, k in pairs)
            settled = math.prod(_length(p.settled[k]) for p, k in pairs)
            total += self._leaving(output, written, settled)
            if settled < written:  # else what left the block is the result
                total += math.prod(max(p.chunks) for p in prints) * self._result_width(output)
        return total * math.prod(max(loop.chunks) for loop in self.loops)

    def _leaving(self, output: Output, written: int, settled: int) -> int:
        """Bytes that leave, of so many voxels written and settled."""
        if not self.rule.classes and self.spills(output):
            settled = 0
        return settled * self._result_width(output) + (written - settled) * self._width(output)

    def _width(self, output: Output) -> int:
        """Bytes of the sums a voxel."""
        return (output.channels or 1) * np.dtype(output.accumulate).itemsize

    def _result_width(self, output: Output) -> int:
        """Bytes of the result a voxel."""
        channels = 1 if self.rule.classes else output.channels or 1
        return channels * np.dtype(output.dtype).itemsize

    # -- text, JSON, identity ------------------------------------------------------------------

    def __repr__(self) -> str:
        return plan_text(self)

    def _repr_html_(self) -> str:
        return plan_html(self)

    def to_json(self) -> str:
        """Return the plan as JSON text; `from_json` reads it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Make a plan from what `to_json` returned.

        Parameters
        ----------
        text : str
            JSON.

        Returns
        -------
        Plan
            Equal to the one that was written.
        """
        data = json.loads(text)
        data["axes"] = [_build(Axis, axis) for axis in data["axes"]]
        data["loops"] = [_build(Loop, loop) for loop in data["loops"]]
        data["outputs"] = [_build(Output, output) for output in data["outputs"]]
        data["tuning"] = Tuning(**data["tuning"])
        plan: Plan = _build(cls, data)
        return plan

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the whole plan, but for how fast it was found to be."""
        same = {**asdict(self), "tuning": asdict(self.tuning.identity)}
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    # -- dims and blocks of the result ---------------------------------------------------------

    @property
    def channel_at(self) -> int:
        """Where the channel axis stands among `raw_dims`."""
        if self.channel is not None:
            return self.dims.index(self.channel)
        return min(self.dims.index(axis.dim) for axis in self.axes)

    @property
    def raw_dims(self) -> tuple[str | None, ...]:
        """Dims of what blocks sum up: the input's, with one axis of channels, named None."""
        rest: list[str | None] = [dim for dim in self.dims if dim != self.channel]
        return (*rest[: self.channel_at], None, *rest[self.channel_at :])

    def result_dims(self, output: Output) -> tuple[str, ...]:
        """Dims of one output: those of the input, with its own channel dim or none."""
        dims = (output.dim if dim is None else dim for dim in self.raw_dims)
        return tuple(dim for dim in dims if dim is not None)

    def chunks(self, output: Output) -> tuple[tuple[int, ...], ...]:
        """Chunks of one output along `result_dims`."""
        widths = {p.axis.dim: p.chunks for p in self.footprints(output)}
        raw = self._along_raw(output, widths)
        kept = (output.dim is not None or dim is not None for dim in self.raw_dims)
        return tuple(itertools.compress(raw, kept))

    def raw_chunks(self, output: Output) -> tuple[tuple[int, ...], ...]:
        """Widths of what blocks write, spill included, along `raw_dims`."""
        prints = self.footprints(output)
        return self._along_raw(
            output, {p.axis.dim: tuple(hi - lo for lo, hi in p.writes) for p in prints}
        )

    def _along_raw(
        self, output: Output, widths: Mapping[str, tuple[int, ...]]
    ) -> tuple[tuple[int, ...], ...]:
        by_dim: dict[str | None, tuple[int, ...]] = {None: (output.channels or 1,)}
        by_dim.update(widths)
        by_dim.update({loop.dim: loop.chunks for loop in self.loops})
        return tuple(by_dim[dim] for dim in self.raw_dims)

    def block_at(self, index: Sequence[int]) -> tuple[int, ...]:
        """Turn a place along `raw_dims` into one along `block_grid`."""
        by_dim = dict(zip(self.raw_dims, index, strict=True))
        return tuple(by_dim[part.dim] for part in self.parts)

    # -- boxes of one block --------------------------------------------------------------------

    def position(self, block: Sequence[int]) -> dict[str, Span]:
        """Return the chunk of a block: dim -> first voxel and the one after the last.

        Parameters
        ----------
        block : sequence of int
            Its place in `block_grid`.
        """
        return {
            part.dim: (part.bounds[k], part.bounds[k + 1])
            for part, k in zip(self.parts, block, strict=True)
        }

    def read_box(self, block: Sequence[int]) -> dict[str, Span]:
        """Return what a block reads, in voxels of the extended array: dim -> span."""
        box = self.position(block)
        if self.channel is not None:
            box[self.channel] = (0, self.channels)
        for axis, k in zip(self.axes, block[len(self.loops) :], strict=True):
            box[axis.dim] = axis.reads[k]
        return {dim: box[dim] for dim in self.dims}


def _length(span: Span) -> int:
    return span[1] - span[0]


def _build(kind: type, data: Mapping[str, Any]) -> Any:
    return kind(**{field.name: _tuples(data[field.name]) for field in fields(kind)})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
