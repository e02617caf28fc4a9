"""The accessors ``DataArray.spinn`` and ``Dataset.spinn``: faces of the functions of `api`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from xspinn import api
from xspinn.plans.arguments import BoundaryLike, OverlapLike, WindowsLike
from xspinn.plans.outputs import OutputLike
from xspinn.plans.plan import Plan
from xspinn.plans.tuning import TuneLike

if TYPE_CHECKING:
    from xspinn.models.activations import ActivationLike
    from xspinn.planner import Blocks

__all__ = ["DataArraySpinn", "DatasetSpinn", "Spinn"]


class Spinn:
    """What both accessors can do; see `xspinn.predict`."""

    def __init__(self, obj: xr.DataArray | xr.Dataset) -> None:
        self._obj = obj

    def predict(
        self,
        model: Any,
        *,
        patch: Mapping[str, int],
        overlap: OverlapLike = 0.25,
        window: WindowsLike = "ramp",
        combine: str = "mean",
        boundary: BoundaryLike = "none",
        channel: str | None = None,
        output: OutputLike = None,
        activation: ActivationLike = None,
        batch: int | None = None,
        blocks: Blocks = None,
        dtype: Any = None,
        device: str | None = None,
        tune: TuneLike = True,
        precision: str = "float32",
        keep_attrs: bool = True,
        name: str | None = "prediction",
    ) -> xr.DataArray | xr.Dataset:
        """Run a model over the array or dataset, patch by patch, without seams.

        All arguments are described in full at `xspinn.predict`.

        Parameters
        ----------
        model : object
            A torch module, the path or URL of a model file, a function of numpy arrays, or anything
            else that `xspinn.as_model` takes. Gets ``(batch, channel, *core dims)``.
        patch : mapping of str to int
            Core dim -> voxels that the model sees in one go.
        overlap : int, float or mapping, default: 0.25
            Voxels (int) or fraction of the patch (float) that neighbouring patches share.
        window : str, array_like, callable or mapping, default: "ramp"
            Weight of each voxel of a patch.
        combine : {"mean", "soft", "hard", "max"}, default: "mean"
            How several predictions of a voxel become one.
        boundary : str, float or mapping, default: "none"
            What lies beyond the faces, as in `dask.array.map_overlap`.
        channel : str, optional
            The dim that holds the channels; for a dataset, the name of the dim that its
            variables are stacked along, by default ``"variable"``.
        output : str or mapping, optional
            Name of the result's channel dim, or ``{name: labels}``.
        activation : {"softmax", "sigmoid", "tanh"} or callable, optional
            Applied to what the model returns.
        batch : int, optional
            Patches in one call of the model.
        blocks : int or mapping, optional
            Voxels of a block, which is a chunk of the result.
        dtype : dtype-like, optional
            Of the result.
        device : str, optional
            Where to run; by default the GPU of the worker, else its CPU.
        tune : bool or mapping, default: True
            Measure and take the fastest way of calling the model whose results agree with torch as
            it comes; False for torch as it comes.
        precision : {"float32", "bf16", "fp16", "auto"}, default: "float32"
            What the model computes in; the error of a lower one is measured.
        keep_attrs : bool, default: True
            Keep the input's attributes, but for those that describe its physics.
        name : str, default: "prediction"
            Name of the result.

        Returns
        -------
        xarray.DataArray or xarray.Dataset
            Lazy where the input is; a dataset where the model returns several arrays.

        Raises
        ------
        PlanError, ModelError
            Before anything runs.

        Examples
        --------
        >>> import numpy as np, torch, xarray as xr, xspinn
        >>> frames = xr.DataArray(np.zeros((3, 64, 64), "float32"), dims=("time", "y", "x"))
        >>> frames.spinn.predict(torch.nn.ReLU(), patch={"y": 32, "x": 32}).shape
        (3, 64, 64)
        """
        return api.predict(
            self._obj,
            model,
            patch=patch,
            overlap=overlap,
            window=window,
            combine=combine,
            boundary=boundary,
            channel=channel,
            output=output,
            activation=activation,
            batch=batch,
            blocks=blocks,
            dtype=dtype,
            device=device,
            tune=tune,
            precision=precision,
            keep_attrs=keep_attrs,
            name=name,
        )

    def plan(
        self,
        model: Any,
        *,
        patch: Mapping[str, int],
        overlap: OverlapLike = 0.25,
        window: WindowsLike = "ramp",
        combine: str = "mean",
        boundary: BoundaryLike = "none",
        channel: str | None = None,
        output: OutputLike = None,
        activation: ActivationLike = None,
        batch: int | None = None,
        blocks: Blocks = None,
        dtype: Any = None,
        device: str | None = None,
        tune: TuneLike = True,
        precision: str = "float32",
    ) -> Plan:
        """Return everything that `predict` would do with these arguments, without running it.

        All arguments are described in full at `xspinn.predict`.

        Parameters
        ----------
        model : object
            A torch module, the path or URL of a model file, a function of numpy arrays, or anything
            else that `xspinn.as_model` takes. Gets ``(batch, channel, *core dims)``.
        patch : mapping of str to int
            Core dim -> voxels that the model sees in one go.
        overlap : int, float or mapping, default: 0.25
            Voxels (int) or fraction of the patch (float) that neighbouring patches share.
        window : str, array_like, callable or mapping, default: "ramp"
            Weight of each voxel of a patch.
        combine : {"mean", "soft", "hard", "max"}, default: "mean"
            How several predictions of a voxel become one.
        boundary : str, float or mapping, default: "none"
            What lies beyond the faces, as in `dask.array.map_overlap`.
        channel : str, optional
            The dim that holds the channels; for a dataset, the name of the dim that its
            variables are stacked along, by default ``"variable"``.
        output : str or mapping, optional
            Name of the result's channel dim, or ``{name: labels}``.
        activation : {"softmax", "sigmoid", "tanh"} or callable, optional
            Applied to what the model returns.
        batch : int, optional
            Patches in one call of the model.
        blocks : int or mapping, optional
            Voxels of a block, which is a chunk of the result.
        dtype : dtype-like, optional
            Of the result.
        device : str, optional
            Where to run; by default the GPU of the worker, else its CPU.
        tune : bool or mapping, default: True
            Measure and take the fastest way of calling the model whose results agree with torch as
            it comes; False for torch as it comes.
        precision : {"float32", "bf16", "fp16", "auto"}, default: "float32"
            What the model computes in; the error of a lower one is measured.

        Returns
        -------
        Plan
            Prints itself.

        Raises
        ------
        PlanError, ModelError
            As `predict` does.

        Examples
        --------
        >>> import numpy as np, torch, xarray as xr, xspinn
        >>> frames = xr.DataArray(np.zeros((3, 64, 64), "float32"), dims=("time", "y", "x"))
        >>> frames.spinn.plan(torch.nn.ReLU(), patch={"y": 32, "x": 32}).n_patches
        27
        """
        return api.plan(
            self._obj,
            model,
            patch=patch,
            overlap=overlap,
            window=window,
            combine=combine,
            boundary=boundary,
            channel=channel,
            output=output,
            activation=activation,
            batch=batch,
            blocks=blocks,
            dtype=dtype,
            device=device,
            tune=tune,
            precision=precision,
        )


@xr.register_dataarray_accessor("spinn")
class DataArraySpinn(Spinn):
    """Neural networks over this array."""


@xr.register_dataset_accessor("spinn")
class DatasetSpinn(Spinn):
    """Neural networks over this dataset, whose variables are the channels."""
