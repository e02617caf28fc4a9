"""Six jobs whose plans, model keys, task names and answers are written down.

Run as a program it writes them down anew::

    PYTHONPATH=tests python -m helpers.golden

Do so only where a change is meant: a fingerprint that changes makes every plan and every run that
was recorded before another one, a key that changes makes every worker fetch its model again. Say
which and why in the changelog.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import xspinn

FOLDER = Path(__file__).parent.parent / "golden"


def with_known_weights(network: nn.Module) -> nn.Module:
    """Give a network weights that do not depend on how torch draws random numbers."""
    with torch.no_grad():
        for k, weight in enumerate(network.parameters()):
            values = (
                torch.arange(weight.numel(), dtype=torch.float64) * 0.7548776662466927 + 0.1 * k
            )
            weight.copy_(((values % 1) - 0.5).reshape(weight.shape))
    return network.eval()


def noise(**sizes: int) -> xr.DataArray:
    """An array whose values do not depend on how numpy draws random numbers."""
    values = np.arange(np.prod(list(sizes.values())), dtype="f8") * 0.6180339887498949 % 1 - 0.5
    coords = {dim: np.arange(size) * 0.5 for dim, size in sizes.items()}
    shaped = values.astype("f4").reshape(tuple(sizes.values()))
    return xr.DataArray(shaped, dims=tuple(sizes), coords=coords, name="noise")


class Two(nn.Module):
    """Two outputs, both twice as fine as the input; one has no channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = nn.functional.interpolate(self.conv(x), scale_factor=2.0)
        return {"both": y, "first": y[:, 0]}


def volume() -> tuple[xr.DataArray, Any, dict[str, Any]]:
    network = with_known_weights(nn.Conv3d(1, 2, 3, padding=1))
    patch = {"z": 12, "y": 10, "x": 12}
    return noise(z=26, y=19, x=30).chunk(10), network, {"patch": patch, "overlap": 4, "blocks": 16}


def classes() -> tuple[xr.DataArray, Any, dict[str, Any]]:
    network = with_known_weights(nn.Conv2d(3, 4, 3, padding=1))
    options = {"patch": {"y": 16, "x": 12}, "overlap": 0.5, "boundary": "reflect"}
    options |= {"channel": "band", "activation": "softmax", "combine": "soft"}
    options["blocks"] = {"time": 1, "y": 24, "x": 24}
    return noise(time=2, band=3, y=30, x=41).chunk(time=1, y=10), network, options


def votes() -> tuple[xr.DataArray, Any, dict[str, Any]]:
    network = with_known_weights(nn.Conv2d(1, 3, 3, padding=1))
    options = {"patch": {"y": 14, "x": 14}, "overlap": 7, "window": "gaussian", "combine": "hard"}
    return noise(y=50, x=37), network, {**options, "output": {"facies": ["a", "b", "c"]}}


def variables() -> tuple[xr.Dataset, Any, dict[str, Any]]:
    data = noise(y=40, x=40)
    network = with_known_weights(nn.Conv2d(2, 2, 5, padding=2))
    options = {"patch": {"x": 16, "y": 20}, "overlap": {"x": 5}, "window": "uniform"}
    return xr.Dataset({"a": data, "b": data * data}), network, {**options, "combine": "max"}


def scales() -> tuple[xr.DataArray, Any, dict[str, Any]]:
    options = {"patch": {"y": 16, "x": 16}, "overlap": 4, "boundary": 0.25, "blocks": 12}
    options["dtype"] = "float64"
    return noise(y=28, x=37).chunk(18), with_known_weights(Two()), options


def labels() -> tuple[xr.DataArray, Any, dict[str, Any]]:
    counts = (noise(t=3, y=33, x=20) * 1000).astype("int16")
    options = {"patch": {"y": 8, "x": 8}, "overlap": 3, "window": "trim", "boundary": "periodic"}
    return counts, torch_abs, {**options, "dtype": "int32"}


def torch_abs(batch: torch.Tensor) -> torch.Tensor:
    return batch.abs()


JOBS: dict[str, Callable[[], tuple[Any, Any, dict[str, Any]]]] = {
    job.__name__: job for job in (volume, classes, votes, variables, scales, labels)
}


def facts(name: str) -> dict[str, Any]:
    """What is written down of a job, but for its answers."""
    obj, model, options = JOBS[name]()
    plan = xspinn.plan(obj, model, **options)
    found: dict[str, Any] = {"fingerprint": plan.fingerprint}
    if type(model).__module__.startswith("torch.nn"):  # other keys depend on Python's bytecode
        found["key"] = xspinn.as_model(model).key
    lazy = xspinn.predict(obj if obj.chunks else obj.chunk(), model, **options)
    names = {key if isinstance(key, str) else key[0] for key in lazy.__dask_graph__()}
    prefixes = {"-".join(key.split("-")[:2]) for key in names if key.startswith("spinn-")}
    return {**found, "tasks": sorted(prefixes)}


def answers(name: str) -> dict[str, np.ndarray]:
    """The answers of a job, by the name of the output."""
    obj, model, options = JOBS[name]()
    found = xspinn.predict(obj, model, **options)
    arrays = found.data_vars if isinstance(found, xr.Dataset) else {"": found}
    return {f"{name}-{key}": array.to_numpy() for key, array in arrays.items()}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps({name: facts(name) for name in JOBS}, indent=2)
    (FOLDER / "jobs.json").write_text(text + "\n")
    arrays = {key: array for name in JOBS for key, array in answers(name).items()}
    np.savez_compressed(FOLDER / "answers.npz", **arrays)


if __name__ == "__main__":
    main()
