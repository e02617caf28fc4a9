"""Ways to do the jobs of `peers`: xspinn, its peers, recipes, and the model alone.

A way is a function of a job that returns what it predicts for every voxel: a number, or a class
where the job is to vote. What a way needs but a user has beforehand is a property of the job, so
that it can be made before the clock starts. Peers are imported where they are used: each of them
is measured in a process that does not hold the others.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
import numpy as np
import torch

from .common import map_overlap_recipe
from .peer_jobs import Job

# -- the floor -------------------------------------------------------------------------------


def untiled(job: Job) -> np.ndarray:
    """The network on the whole array at once: what every way should come close to."""
    return job.settle(job.call(torch.from_numpy(job.array)[None])[0])


def alone(job: Job) -> np.ndarray:
    """The model alone, with torch's defaults: its answer for every patch, unblended."""
    return torch.cat([job.call(batch) for batch in job.patches.split(job.spec.batch)]).numpy()


def alone_fastest(job: Job) -> np.ndarray:
    """The model alone, called as fast as xspinn found."""
    job.patches_run += len(job.patches)
    return torch.cat(job.fastest.run(job.patches)).numpy()


# -- xspinn ----------------------------------------------------------------------------------


def xspinn(job: Job, **options: Any) -> np.ndarray:
    """xspinn out of the box, which measures how to call a model that it has not met."""
    from xspinn import predict

    job.patches_run += len(job.boxes)  # by the plan; `counts` counts them one by one
    return predict(job.labelled, job.model, **job.arguments, **options).to_numpy()


def xspinn_plain(job: Job) -> np.ndarray:
    """xspinn with torch's defaults."""
    return xspinn(job, tune=False)


# -- peers -----------------------------------------------------------------------------------


def monai(job: Job) -> np.ndarray:
    """MONAI's sliding window, with its gaussian."""
    from monai.inferers import sliding_window_inference

    share = job.spec.overlap / job.spec.patch
    options = {"overlap": share, "mode": "gaussian"}
    with torch.inference_mode():
        whole = torch.from_numpy(job.array)[None]
        scores = sliding_window_inference(whole, job.tile, job.spec.batch, job.call, **options)
    return job.settle(scores[0])


def patchly(job: Job) -> np.ndarray:
    """patchly's sampler and aggregator, with its gaussian."""
    from patchly import Aggregator, GridSampler, SamplingMode

    sampler = GridSampler(
        image=job.array,
        spatial_size=job.shape,
        patch_size=job.tile,
        step_size=(job.stride,) * job.spec.dims,
        spatial_first=False,
        mode=SamplingMode.SAMPLE_EDGE,
    )
    aggregator = Aggregator(
        sampler,
        output_size=(job.spec.classes, *job.shape),
        weights="gaussian",
        spatial_first=False,
        has_batch_dim=True,
        softmax_dim=0 if job.spec.classes > 1 else None,  # then it gives classes
    )
    with torch.inference_mode(), warnings.catch_warnings():
        # It copies tensors in a way that torch advises against.
        warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)
        for some in _batches(range(len(sampler)), job.spec.batch):
            patches, boxes = zip(*(sampler[index] for index in some), strict=True)
            aggregator.append(job.call(torch.from_numpy(np.stack(patches))), boxes)
        found = np.asarray(aggregator.get_output(inplace=True))
    return found if job.spec.classes > 1 else found[0]


def tiler(job: Job) -> np.ndarray:
    """tiler's tiler and merger.

    Its window is zero at no voxel, as its Hann window is: the faces of the array lie in one tile.
    """
    from tiler import Merger, Tiler

    tiles = {"overlap": job.spec.overlap, "mode": "reflect"}
    inside = Tiler(job.array.shape, (job.spec.channels, *job.tile), channel_dimension=0, **tiles)
    outside = Tiler(job.shape, job.tile, **tiles)
    classes = job.spec.classes if job.spec.classes > 1 else 0
    merger = Merger(outside, window=TILER_WINDOW, logits=classes, save_visits=False)
    for index, patches in inside(job.array, batch_size=job.spec.batch):
        answers = job.call(torch.from_numpy(patches)).numpy()
        merger.add_batch(index, job.spec.batch, answers if classes else answers[:, 0])
    if classes:
        return merger.merge(argmax=True, dtype=np.int64)
    return merger.merge()


TILER_WINDOW = "parzen"


def torch_em(job: Job) -> np.ndarray:
    """torch_em's blocks with halos, one at a time: half an overlap on each side, then cut off."""
    with _without_torchvision():
        from torch_em.util.prediction import predict_with_halo

    scores = predict_with_halo(
        job.array,
        job.model,
        gpu_ids=["cpu"],
        block_shape=(job.stride,) * job.spec.dims,
        halo=(job.spec.overlap // 2,) * job.spec.dims,
        preprocess=None,
        with_channels=True,
        disable_tqdm=True,
        prediction_function=lambda _, patches: job.call(patches),
    )
    return job.settle(scores)


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Let torch_em import torchvision where there is none: it only draws training images with it.

    torchvision's wheels fit only the build of torch that they were made with.
    """
    names = ("torchvision", "torchvision.utils", "torchvision.transforms")
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision"):
        yield
        return
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    package, utils, transforms = (sys.modules[name] for name in names)
    package.utils, package.transforms, utils.make_grid = utils, transforms, None
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


# -- recipes ---------------------------------------------------------------------------------


def map_overlap(job: Job) -> np.ndarray:
    """The usual recipe with `map_overlap`, in chunks of one size; torch has the cores."""
    pieces = max(1, round(job.spec.size / job.spec.chunk))
    tiling = {"patch": job.spec.patch, "overlap": job.spec.overlap, "batch": job.spec.batch}
    lazy = map_overlap_recipe(
        job.array,
        lambda patches: job.call(torch.from_numpy(patches)).numpy(),
        chunk=-(-job.spec.size // pieces),
        outside=job.spec.classes,
        **tiling,
    )
    with dask.config.set(scheduler="sync"):
        return job.settle(lazy.compute())


def mlexchange(job: Job) -> np.ndarray:
    """A serial loop: the data path of MLExchange's segmentation before it was made parallel.

    Each frame is clipped to two of its percentiles, here the least and the greatest, so that the
    network sees what it sees elsewhere. Each batch is copied to the device and back, and one thing
    happens at a time. A voxel counts less at the rim of a patch, half an overlap wide.
    """
    spec, device = job.spec, job.device
    clipped = np.empty_like(job.array)
    for channel, frames in enumerate(job.array.reshape(spec.channels, -1, *job.shape[-2:])):
        into = clipped[channel].reshape(frames.shape)
        for place, frame in enumerate(frames):
            low = np.percentile(frame, 0)
            high = np.percentile(frame, 100)
            into[place] = np.clip(frame, low, high)
    weight = np.full(job.tile, RIM_WEIGHT, "float32")
    rim = spec.overlap // 2
    weight[(slice(rim, spec.patch - rim),) * spec.dims] = 1
    total = np.zeros((spec.classes, *job.shape), "float32")
    sums = np.zeros(job.shape, "float32")
    for boxes in _batches(job.boxes, spec.batch):
        cut = np.stack([clipped[:, *box] for box in boxes])
        on_device = torch.from_numpy(cut).to(device, copy=True)  # also where it is the CPU
        answers = job.call(on_device).to("cpu", copy=True)
        if spec.classes > 1:
            won = torch.softmax(answers, 1).argmax(1)
            answers = torch.nn.functional.one_hot(won, spec.classes).movedim(-1, 1)
        for box, answer in zip(boxes, answers.numpy(), strict=True):
            total[:, *box] += answer * weight
            sums[box] += weight
    return job.settle(total / sums)


RIM_WEIGHT = 0.1


def _batches(items: Any, size: int) -> Iterator[Any]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


WAYS: dict[str, Callable[[Job], np.ndarray]] = {
    way.__name__: way
    for way in (
        untiled,
        xspinn,
        xspinn_plain,
        alone,
        alone_fastest,
        monai,
        patchly,
        tiler,
        torch_em,
        map_overlap,
        mlexchange,
    )
}


def make_ready(name: str, job: Job) -> None:
    """Do beforehand what users have done: import, start threads, cut patches for a model alone."""
    one = Job(job.spec._replace(size=job.spec.patch))
    one.call(one.patches.repeat(job.spec.batch, *[1] * (job.spec.dims + 1)))
    if name == "alone_fastest":
        job.fastest.run(one.patches)
    else:
        # xspinn is not to measure before the clock starts.
        WAYS["xspinn_plain" if name == "xspinn" else name](one)
    if name.startswith("alone"):
        job.patches  # noqa: B018 - from now on it has them
