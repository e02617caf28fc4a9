"""What xspinn can do, as functions; the accessors have them as methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import xarray as xr

from xspinn.docstrings import takes_parameters
from xspinn.plans.arguments import ActivationLike, BoundaryLike, OverlapLike, WindowsLike
from xspinn.plans.bounds import Blocks
from xspinn.plans.outputs import OutputLike
from xspinn.plans.plan import Plan
from xspinn.plans.request import Request
from xspinn.plans.tuning import TuneLike

__all__ = ["plan", "predict"]


def predict(
    obj: xr.DataArray | xr.Dataset,
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
    """Run a model over a labelled array of any size, in overlapping patches, without seams.

    Parameters
    ----------
    obj : xarray.DataArray or xarray.Dataset
        The input. A dataset's variables, which must share their dims, are its channels. Bools and
        integers are cast to float32, those of more than 16 bits to float64 unless the model has
        a dtype of its own; floats are cast to the dtype of the model's weights.
    model : object
        A torch module; a model of `torch.export`, TorchScript, ONNX, OpenVINO or Keras in memory;
        the path or URL of a model file; a function of numpy arrays, or of torch tensors if the
        annotation of its first parameter says so; or a handle, which `xspinn.as_model` makes of any
        of these and of files of weights. Other processes, such as workers, need one that can be
        pickled.

        Gets ``(batch, channel, *core dims in the order of patch)``; without a channel dim the
        channel axis has length 1. Returns the same rank, or no channel axis, or a dict or tuple
        of such arrays. The spatial size may be another by a factor, such as 2 or 1/4. A module
        runs in eval mode, from a copy.
    patch : mapping of str to int
        Core dim -> voxels that the model sees in one go.
    overlap : int, float or mapping, default: 0.25
        What neighbouring patches share: voxels (int) or a fraction of the patch (float), for all
        core dims or for each; in a mapping, dims that are not named have none.
    window : str, array_like, callable or mapping, default: "ramp"
        Weight of each voxel of a patch: ``"ramp"`` changes from a patch to the next within 4
        voxels in the middle of their overlap, ``"trim"`` at once, ``"linear"`` over all of it;
        ``"gaussian"``, ``"hann"`` and ``"uniform"`` weigh the whole patch. Or weights of your
        own, or a function of the patch size that returns them. A mapping gives each dim its own.
        Weights are normalised to a sum of one at every voxel.
    combine : {"mean", "soft", "hard", "max"}, default: "mean"
        How several predictions of a voxel become one: weighted mean; arg max of the mean over
        channels; weighted vote of the arg max, ties to the lowest class; or the greatest among
        the patches that have weight there (all that cover it, with ``window="uniform"``). Where
        scores are NaN there is no class, and the greatest value of the dtype stands there.
    boundary : str, float or mapping, default: "none"
        What lies beyond the array's faces, as in `dask.array.map_overlap`: ``"reflect"``,
        ``"nearest"``, ``"periodic"``, or a number. With ``"none"`` nothing is invented: the last
        patch is shifted to end where the array ends.
    channel : str, optional
        The dim that holds the input's channels. For a dataset, the name of the dim that its
        variables are stacked along; by default ``"variable"``. All dims but this and the core
        dims are looped over, and their positions fill the same batches.
    output : str or mapping, optional
        Name of the result's channel dim, or ``{name: labels}``; for a model that returns
        several arrays, a mapping of their names to either. By default one channel makes no dim
        and several make dim ``"channel"``. Name the input's own channel dim to say that the
        channels are the same; then they keep their labels.
    activation : {"softmax", "sigmoid", "tanh"} or callable, optional
        Applied to what the model returns, before patches are combined; a callable takes and
        returns a torch tensor. Models that return logits need ``"softmax"`` for
        ``combine="soft"``.
    batch : int, optional
        Patches in one call of the model; by default about a million voxels, or what was measured
        to be fastest.
    blocks : int or mapping, optional
        Voxels of a block, which is a chunk of the result and the work of one task: one number
        for all core dims, or for each dim a number, a tuple, or -1 for all. By default close to
        the input's chunks, one batch at least, and within the option ``block_bytes``. The answer
        does not depend on it.
    dtype : dtype-like, optional
        Of the result; by default the model's own, or the smallest that holds the classes. An
        integer is rounded to and clipped to its range, and NaN is an error there.
    device : str, optional
        Where to run, in torch's words; by default the GPU of the worker, else its CPU.
    tune : bool or mapping, default: True
        How the model is called. True measures a few batches where the job is long enough, and
        takes the fastest memory format, batch, threads and handling of memory whose results agree
        with those of torch's defaults; the choice is the same for all workers, and kept for the
        next run. False is torch's defaults. A mapping sets some of ``memory_format``, ``compile``,
        ``allocator`` and ``threads``, see `Tuning`, without measuring. Files in formats other than
        torch's, and functions, are called in one way only.
    precision : {"float32", "bf16", "fp16", "auto"}, default: "float32"
        What the model computes in. ``"float32"`` is the dtype of its weights. A lower one is used
        where torch's autocast deems it safe, and what it errs by is measured, see `Plan.tuning`;
        ``"auto"`` takes one if it is faster and errs little.
    keep_attrs : bool, default: True
        Keep the input's attributes, but for those that describe its physics, such as units.
    name : str, default: "prediction"
        Name of the result.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        Computed for input in memory; lazy, on dask, for input on dask or opened without chunks.
        Core and looped dims keep name, order and coordinates; where the scale differs,
        coordinates are resampled. A model that returns several arrays gives a dataset.

    Raises
    ------
    PlanError
        If array and arguments do not fit together.
    ModelError
        If the model fails on a patch of zeros and on one of noise, or what it returns cannot be
        placed.

    See Also
    --------
    plan : Everything that would happen, without running it.

    Notes
    -----
    Write a lazy result with ``to_zarr(path)``. With ``to_zarr(path, compute=False)`` dask runs
    blocks in no order and holds most of them; the page *Memory* has another way to write later.

    Examples
    --------
    >>> import numpy as np, torch, xarray as xr, xspinn
    >>> image = xr.DataArray(
    ...     np.random.default_rng(0).random((100, 80), dtype="float32"),
    ...     coords={"y": np.linspace(50, 40, 100), "x": np.linspace(5, 13, 80)},
    ...     dims=("y", "x"),
    ... )
    >>> model = torch.nn.Conv2d(1, 1, 3, padding=1)
    >>> tiling = {"patch": {"y": 32, "x": 32}, "overlap": 8, "blocks": {"y": 48}}
    >>> lazy = image.chunk(y=50).spinn.predict(model, **tiling)
    >>> lazy.dims, lazy.chunks
    (('y', 'x'), ((48, 48, 4), (80,)))
    >>> bool((lazy.compute().y == image.y).all())
    True
    """
    from xspinn.graph.build import compute_here
    from xspinn.graph.labels import check_name, kept_attrs, label_all
    from xspinn.machine.devices import check_available
    from xspinn.machine.threads import dismiss_team
    from xspinn.planner import prepare

    request = Request(
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
    check_name(obj, name)
    run = prepare(obj, model, request)
    arrays: Sequence[Any] = run.arrays()
    dismiss_team()  # of what torch did here before
    if not run.source.lazy:
        check_available(device)
        arrays = compute_here(arrays)
    attrs = kept_attrs(run.template, run.plan, keep_attrs, run.model.key[:16], version("xspinn"))
    return label_all(run.template, run.plan, arrays, attrs, name)


@takes_parameters(predict, "keep_attrs", "name")
def plan(
    obj: xr.DataArray | xr.Dataset,
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

    Parameters
    ----------
    {parameters}

    Returns
    -------
    Plan
        Prints itself: patches, blocks, bytes of halo and spill, peak memory, results.

    Raises
    ------
    PlanError, ModelError
        As `predict` does.

    See Also
    --------
    predict

    Examples
    --------
    >>> import torch, xarray as xr, xspinn
    >>> volume = xr.DataArray(torch.zeros(256, 256, 256).numpy(), dims=("z", "y", "x"))
    >>> model = torch.nn.Conv3d(1, 1, 3, padding=1)
    >>> job = xspinn.plan(volume, model, patch={"z": 64, "y": 64, "x": 64}, overlap=16)
    >>> job.lattice_shape, job.n_patches
    ((5, 5, 5), 125)
    """
    from xspinn.planner import prepare

    request = Request(
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
    return prepare(obj, model, request).plan
