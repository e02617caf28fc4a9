"""The plan: one frozen value that says everything before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cached_property
from typing import Any

from xspinn.geometry.axis import Axis
from xspinn.plans import costs
from xspinn.plans.parts import Loop, Output
from xspinn.plans.plan_sheet import plan_sheet
from xspinn.plans.settled import Settled
from xspinn.plans.tuning import Tuning

__all__ = ["Plan"]


class Plan(Settled):
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

    # -- identity and JSON ---------------------------------------------------------------------

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

    # -- costs ---------------------------------------------------------------------------------

    @property
    def input_bytes(self) -> int:
        """Bytes of the input."""
        return costs.input_bytes(self)

    @property
    def read_bytes(self) -> int:
        """Bytes that all blocks read together, halos counted as often as they are read."""
        return costs.read_bytes(self)

    @property
    def halo_bytes(self) -> int:
        """Bytes that are read more than once."""
        return costs.halo_bytes(self)

    @property
    def spill_bytes(self) -> int:
        """Bytes that blocks hand to their neighbours."""
        return costs.spill_bytes(self)

    @property
    def leaving_bytes(self) -> int:
        """Bytes that the tasks of all blocks return: finished voxels, and sums that wait."""
        return costs.leaving_bytes(self)

    @property
    def block_bytes(self) -> int:
        """Bytes of the input and the sums of the largest block, without the model's."""
        return costs.block_bytes(self)

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
        return costs.peak_bytes(self, workers)

    # -- how it prints -------------------------------------------------------------------------

    def __repr__(self) -> str:
        return str(plan_sheet(self, self.fingerprint[:8]))

    def _repr_html_(self) -> str:
        return plan_sheet(self, self.fingerprint[:8]).html()


def _build(kind: type, data: Mapping[str, Any]) -> Any:
    return kind(**{field.name: _tuples(data[field.name]) for field in fields(kind)})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
