"""What it takes to weigh patches and sum them up, beside the model that made them."""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch
import xarray as xr

import xspinn
from xspinn.block.sums import Item, Sums

from .common import DIMS, UNet


class Combine:
    """One block of a volume: a 3-D U-Net in channels-last layout, and every rule."""

    params = ("mean", "soft", "hard", "max")
    param_names = ("combine",)
    timeout = 600
    size = 128
    patch = 64
    overlap = 32
    window = "ramp"
    classes = 8
    base = 8
    batch = 2
    rounds = 3

    def setup(self, combine: str) -> None:
        torch.manual_seed(0)
        self.model = UNet(3, outside=self.classes, base=self.base).eval()
        self.model.to(memory_format=torch.channels_last_3d)
        values = np.random.default_rng(0).standard_normal((self.size,) * 3, "float32")
        self.volume = torch.from_numpy(values)
        self.plan = xspinn.plan(
            xr.DataArray(values, dims=DIMS),
            self.model,
            patch=dict.fromkeys(DIMS, self.patch),
            overlap=self.overlap,
            window=self.window,
            combine=combine,
            batch=self.batch,
            blocks=-1,
        )
        assert self.plan.n_blocks == 1

    def items(self) -> list[Item]:
        """All patches of the block, in the order in which it runs them."""
        found: list[Item] = []
        for numbers in itertools.product(*map(range, self.plan.lattice_shape)):
            starts = [a.starts[n] for a, n in zip(self.plan.axes, numbers, strict=True)]
            found.append((0, numbers, tuple(slice(s, s + self.patch) for s in starts)))
        return found

    def run(self) -> tuple[float, float]:
        """Run the block; return the seconds of combining, and those of all."""
        items = self.items()
        (output,) = self.plan.outputs
        combining = 0.0
        begun = stopped = time.perf_counter()
        sums = Sums(self.plan, output, (0, 0, 0), 1, torch.device("cpu"))
        with torch.inference_mode():
            for first in range(0, len(items), self.batch):
                batch = items[first : first + self.batch]
                combining += time.perf_counter() - stopped
                patches = torch.stack([self.volume[box][None] for _, _, box in batch])
                answer = self.model(patches.to(memory_format=torch.channels_last_3d))
                stopped = time.perf_counter()
                sums.add(answer, batch)
        self.written = sums.pack([tensor.numpy() for tensor in sums.tensors()])
        ended = time.perf_counter()
        return combining + ended - stopped, ended - begun

    def best(self) -> tuple[float, float]:
        """The quickest of a few runs, after one that warms up."""
        self.run()
        return min((self.run() for _ in range(self.rounds)), key=lambda found: found[1])

    def track_combine_share(self, combine: str) -> float:
        """Part of the block's time that is not the cutting of patches and the model."""
        combining, whole = self.best()
        return combining / whole

    def track_combine_seconds(self, combine: str) -> float:
        return self.best()[0]

    track_combine_seconds.unit = "s"  # type: ignore[attr-defined]
