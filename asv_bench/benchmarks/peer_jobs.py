"""What `peers` measures: an array, a network and a tiling, and whether a result is right."""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import xarray as xr

from .common import DIMS, UNet, starts
from .peer_specs import Spec


class Job:
    """An array of noise, a network, and how the one is to be tiled for the other."""

    def __init__(self, spec: Spec, device: str = "cpu") -> None:
        self.spec, self.device = spec, torch.device(device)
        self.shape = (spec.size,) * spec.dims
        self.tile = (spec.patch,) * spec.dims
        self.stride = spec.patch - spec.overlap
        rng = np.random.default_rng(0)
        self.array = rng.standard_normal((spec.channels, *self.shape), "float32")
        torch.manual_seed(0)
        network = UNet(spec.dims, spec.channels, spec.classes, spec.base, spec.levels)
        self.model = network.eval()
        if spec.classes > 1:
            self._balance()
        self.model.to(self.device)
        self.patches_run = 0

    @torch.no_grad()
    def _balance(self) -> None:
        """Give each class its turn: with random weights, one would win everywhere."""
        corner = self.array[:, *(slice(side) for side in self.tile)]
        scores = self.model(torch.from_numpy(corner)[None])[0].flatten(1)
        last, mean, sd = self.model.last, scores.mean(1), scores.std(1)
        last.bias.copy_((last.bias - mean) / sd)
        last.weight.div_(sd.reshape(-1, *[1] * (last.weight.ndim - 1)))

    @functools.cached_property
    def boxes(self) -> list[tuple[slice, ...]]:
        """The lattice: where patches lie, the last along each dim shifted to end with it."""
        along = starts(self.spec.size, self.spec.patch, self.spec.overlap)
        places = itertools.product(along, repeat=self.spec.dims)
        return [tuple(slice(s, s + self.spec.patch) for s in place) for place in places]

    @functools.cached_property
    def patches(self) -> torch.Tensor:
        """All patches, cut beforehand."""
        return torch.from_numpy(np.stack([self.array[:, *box] for box in self.boxes]))

    @functools.cached_property
    def labelled(self) -> xr.DataArray:
        """The array as users of xspinn have it."""
        dims = DIMS[-self.spec.dims :]
        if self.spec.channels == 1:
            return xr.DataArray(self.array[0], dims=dims)
        return xr.DataArray(self.array, dims=("channel", *dims))

    @property
    def arguments(self) -> dict[str, Any]:
        """What users of xspinn say about the job, and nothing more."""
        said = {
            "patch": dict.fromkeys(DIMS[-self.spec.dims :], self.spec.patch),
            "overlap": self.spec.overlap,
        }
        if self.spec.channels > 1:
            said["channel"] = "channel"
        if self.spec.classes > 1:
            said["combine"] = "hard"
        return said

    @functools.cached_property
    def fastest(self) -> Fastest:
        """The fastest way to call the model that xspinn finds."""
        return Fastest(self)

    def call(self, patches: torch.Tensor) -> torch.Tensor:
        """Run the network with torch's defaults, and count the patches."""
        self.patches_run += len(patches)
        with torch.inference_mode():
            return self.model(patches)

    def settle(self, scores: np.ndarray | torch.Tensor) -> np.ndarray:
        """Return numbers or classes from scores with a channel axis in front."""
        return np.asarray(scores[0] if self.spec.classes == 1 else scores.argmax(0))


class Fastest:
    """The model called as xspinn's plan says: batch, memory format, threads and the rest."""

    def __init__(self, job: Job) -> None:
        from xspinn import as_model, plan
        from xspinn.machine.threads import calls_at_once, in_turn

        made = plan(job.labelled, job.model, **job.arguments)
        self.batch, self.tuning = made.batch, made.tuning
        ready = as_model(job.model).load(job.device, self.tuning)
        self.call, self.at_once, threads = ready, 1, self.tuning.threads
        if threads:
            self.call = lambda batch: in_turn(job.device, lambda: ready(batch), threads)
            self.at_once = calls_at_once(job.device, threads)
        for count in {self.batch, len(job.patches) % self.batch or self.batch}:
            self.call(job.patches[:count])  # what is compiled or laid out anew is so from now on

    def run(self, patches: torch.Tensor) -> list[torch.Tensor]:
        from xspinn.machine.allocator import kept

        batches = patches.split(self.batch)
        with kept(self.tuning.allocator):
            if self.at_once == 1:
                return [self.call(batch) for batch in batches]
            with ThreadPoolExecutor(self.at_once) as pool:
                return list(pool.map(self.call, batches))


def error(job: Job, found: np.ndarray, reference: np.ndarray) -> float:
    """What a result differs by from that of the network on the whole array.

    That is the root mean square in standard deviations, or the share of voxels with another class.
    """
    if len(found) == len(job.boxes) and found.ndim == job.spec.dims + 2:
        found = job.settle(_middles(job, found))
    if found.shape != reference.shape:
        raise ValueError(f"The result has shape {found.shape} and not {reference.shape}.")
    if job.spec.classes > 1:
        return float(np.mean(found != reference))
    return float(np.sqrt(np.mean((found - reference) ** 2)) / reference.std())


def _middles(job: Job, answers: np.ndarray) -> np.ndarray:
    """Put the model's own answers together, cut in the middle of what neighbours share."""
    whole = np.empty((job.spec.classes, *job.shape), answers.dtype)
    half = job.spec.overlap // 2
    for box, answer in zip(job.boxes, answers, strict=True):
        # They come in order, so a later patch replaces what an earlier one had beyond the middle.
        rims = [half if side.start else 0 for side in box]
        place = [slice(side.start + rim, side.stop) for side, rim in zip(box, rims, strict=True)]
        whole[:, *place] = answer[:, *(slice(rim, None) for rim in rims)]
    return whole
