"""Real data and a real trained network for the demo, the documentation and the tests.

Nothing here is downloaded: the files come with other installed packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from xspinn.datasets.cosmic_rays import CosmicRayUNet

__all__ = ["HitScore", "cosmic_ray_model", "hubble", "plant_hits", "score_hits"]

DEEPCR_FIX = "pip install --no-deps deepCR==0.3.1"
TRIES_PER_HIT = 1000


def hubble() -> xr.DataArray:
    """Load the Hubble eXtreme Deep Field, as the scikit-image package ships it.

    The three colours are averaged to one grey image. The coordinates are pixels: the file was
    scaled down from the original, and the sky coordinates left in its metadata are those of an
    earlier, larger picture.

    Returns
    -------
    DataArray
        Dims ``(y, x)``, 872 by 1000 pixels, float32, from 0 to 255, in memory.

    Raises
    ------
    ModuleNotFoundError
        If scikit-image is not installed.

    Examples
    --------
    >>> from xspinn.datasets import hubble
    >>> image = hubble()
    >>> dict(image.sizes)
    {'y': 872, 'x': 1000}
    """
    try:
        from skimage.data import hubble_deep_field
    except ImportError as error:
        raise ModuleNotFoundError(
            "the Hubble image comes with scikit-image, which is not installed; "
            "install it with: pip install scikit-image"
        ) from error
    grey = np.asarray(hubble_deep_field()).mean(axis=-1, dtype=np.float32)
    rows, columns = grey.shape
    return xr.DataArray(
        grey,
        dims=("y", "x"),
        coords={
            "y": ("y", np.arange(rows), {"long_name": "row, from the top", "units": "pixel"}),
            "x": ("x", np.arange(columns), {"long_name": "column", "units": "pixel"}),
        },
        name="hubble",
        attrs={
            "long_name": "Hubble eXtreme Deep Field, mean of three colours",
            "units": "count",
            "source": "NASA and ESA, release STScI-2012-37, as shipped by scikit-image",
        },
    )


def plant_hits(
    image: xr.DataArray, n: int = 200, seed: int = 0
) -> tuple[xr.DataArray, xr.DataArray]:
    """Add cosmic-ray-like hits to an image, in known places.

    A hit is a straight track, one pixel wide and 1 to 7 pixels long, in any direction, that adds
    60 to 600 counts to each of its pixels. Hits lie inside the image and do not touch one another,
    so that they can be counted one by one.

    Parameters
    ----------
    image : DataArray
        Two-dimensional, in counts. It is not changed.
    n : int, default 200
        Number of hits.
    seed : int, default 0
        Seed of the random places, directions, lengths and counts.

    Returns
    -------
    image : DataArray
        A float32 copy of the image, with the hits added.
    truth : DataArray of bool
        True where a pixel was hit. Its coordinate ``hit`` holds the number of the hit, from 1 to
        `n`, and 0 elsewhere.

    Raises
    ------
    ValueError
        If the image is not two-dimensional, or too small for that many hits.

    Examples
    --------
    >>> import xarray as xr
    >>> from xspinn.datasets import plant_hits
    >>> blank = xr.DataArray([[0.0] * 64] * 64, dims=("y", "x"))
    >>> image, truth = plant_hits(blank, n=5)
    >>> int(truth.hit.max())
    5
    >>> bool(((image >= 60) == truth).all())
    True
    """
    if image.ndim != 2:
        raise ValueError(f"hits are planted on an image of two dims, but got dims {image.dims}")
    rng = np.random.default_rng(seed)
    counts = image.to_numpy().astype(np.float32)
    number = np.zeros(counts.shape, dtype=np.int32)
    for hit in range(1, n + 1):
        y, x = _free_track(rng, number)
        counts[y, x] += np.float32(rng.uniform(60, 600))
        number[y, x] = hit
    truth = image.copy(data=number > 0).assign_coords(hit=(image.dims, number)).rename("truth")
    truth.attrs = {"long_name": "pixels hit by a planted cosmic ray"}
    return image.copy(data=counts), truth


def _free_track(
    rng: np.random.Generator, number: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], ...]:
    """Draw tracks until one lies inside the image and next to no other; return its pixels."""
    size = np.array(number.shape)
    for _ in range(TRIES_PER_HIT):
        angle = rng.uniform(0, np.pi)
        steps = np.arange(rng.integers(1, 8))
        start = rng.uniform(0, size)
        y = np.rint(start[0] + steps * np.sin(angle)).astype(np.intp)
        x = np.rint(start[1] + steps * np.cos(angle)).astype(np.intp)
        if min(x.min(), y.min()) < 0 or y.max() >= size[0] or x.max() >= size[1]:
            continue
        around = number[max(y.min() - 1, 0) : y.max() + 2, max(x.min() - 1, 0) : x.max() + 2]
        if not around.any():
            return y, x
    raise ValueError(
        f"no room for hit {number.max() + 1} on an image of {size[0]} by {size[1]} pixels; "
        "ask for fewer hits or give a larger image"
    )


@dataclass(frozen=True)
class HitScore:
    """How well a mask finds planted hits.

    Attributes
    ----------
    hits, hits_found : int
        Hits planted, and those with at least half of their pixels in the mask.
    pixels, pixels_found : int
        Pixels planted, and those of them in the mask.
    pixels_false : int
        Pixels in the mask that were not planted.
    """

    hits: int
    hits_found: int
    pixels: int
    pixels_found: int
    pixels_false: int

    @property
    def recall(self) -> float:
        """Share of the planted pixels that are in the mask; 1 if there are none."""
        return self.pixels_found / self.pixels if self.pixels else 1.0

    @property
    def precision(self) -> float:
        """Share of the mask's pixels that were planted; 1 if there are none."""
        flagged = self.pixels_found + self.pixels_false
        return self.pixels_found / flagged if flagged else 1.0


def score_hits(mask: xr.DataArray, truth: xr.DataArray) -> HitScore:
    """Count which of the planted hits a mask finds, and what else it flags.

    Parameters
    ----------
    mask : DataArray of bool
        True where a hit is thought to be, with the dims of `truth`.
    truth : DataArray of bool
        The planted hits, as `plant_hits` returns them.

    Returns
    -------
    HitScore
        Counts of hits and of pixels.

    Examples
    --------
    >>> import xarray as xr
    >>> from xspinn.datasets import plant_hits, score_hits
    >>> blank = xr.DataArray([[0.0] * 64] * 64, dims=("y", "x"))
    >>> image, truth = plant_hits(blank, n=5)
    >>> score = score_hits(image > 50, truth)
    >>> score.hits_found, score.recall, score.precision
    (5, 1.0, 1.0)
    """
    flagged = mask.transpose(*truth.dims).to_numpy()
    number = truth["hit"].to_numpy()
    lengths = np.bincount(number.ravel())[1:]
    found = np.bincount(number[flagged], minlength=len(lengths) + 1)[1:]
    return HitScore(
        hits=len(lengths),
        hits_found=int((2 * found >= lengths).sum()),
        pixels=int(lengths.sum()),
        pixels_found=int(found.sum()),
        pixels_false=int((flagged & (number == 0)).sum()),
    )


def cosmic_ray_model(weights: str = "ACS-WFC.pth") -> CosmicRayUNet:
    """Load a trained network that flags cosmic-ray hits in astronomical images.

    The weights are those of deepCR, which were trained on frames of the Hubble Space Telescope
    (``"ACS-WFC.pth"``) and of the Dark Energy Camera (``"decam.pth"``). Only the file is read;
    deepCR itself is not imported.

    Parameters
    ----------
    weights : str, default "ACS-WFC.pth"
        Name of a file among the mask models of the installed deepCR.

    Returns
    -------
    CosmicRayUNet
        In evaluation mode, on the CPU: image in counts -> probability of a hit.

    Raises
    ------
    ModuleNotFoundError
        If deepCR is not installed.
    FileNotFoundError
        If deepCR has no weights of that name.

    Examples
    --------
    >>> from xspinn.datasets import cosmic_ray_model
    >>> network = cosmic_ray_model()
    >>> sum(weights.numel() for weights in network.parameters())
    101473
    """
    path = _deepcr_weights(weights)
    import torch

    from xspinn.datasets.cosmic_rays import CosmicRayUNet

    return CosmicRayUNet.from_deepcr(torch.load(path, map_location="cpu", weights_only=True))


def _deepcr_weights(name: str) -> Path:
    try:
        package = distribution("deepCR")
    except PackageNotFoundError as error:
        raise ModuleNotFoundError(
            "the trained weights come with deepCR, which is not installed; "
            f"install it with: {DEEPCR_FIX}"
        ) from error
    folder = Path(str(package.locate_file("learned_models/mask")))
    path = folder / name
    if not path.is_file():
        there = ", ".join(sorted(file.name for file in folder.glob("*.pth"))) or "none"
        raise FileNotFoundError(
            f"deepCR {package.version} has no weights {name!r} in {folder}; it has: {there}. "
            f"If the installation is damaged, repair it with: {DEEPCR_FIX} --force-reinstall"
        )
    return path
