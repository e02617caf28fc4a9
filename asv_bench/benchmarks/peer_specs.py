"""The jobs of `peers` and the names of the ways to do them, with what is known beforehand.

This module imports nothing but the standard library, see `peers`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import NamedTuple


class Spec(NamedTuple):
    """Sizes of a job, in voxels a side; `chunk` is for the recipe with `map_overlap` alone."""

    dims: int
    size: int
    patch: int
    overlap: int
    chunk: int
    channels: int = 1
    classes: int = 1
    base: int = 8
    levels: int = 3
    batch: int = 4

    def resized(self, size: int | None, patch: int | None) -> Spec:
        """Return the same job at another size; overlap and chunk keep their share of the patch."""
        new = patch or self.patch
        overlap, chunk = (n * new // self.patch for n in (self.overlap, self.chunk))
        return self._replace(size=size or self.size, patch=new, overlap=overlap, chunk=chunk)


JOBS = {
    "volume": Spec(dims=3, size=256, patch=64, overlap=16, chunk=128),
    "image": Spec(
        dims=2, size=4096, patch=256, overlap=64, chunk=1024, channels=3, base=16, levels=4
    ),
    "votes": Spec(dims=3, size=128, patch=64, overlap=32, chunk=64, classes=4),
}


class Way(NamedTuple):
    """What is known of a way before it runs.

    The bounds are of the differences from the network on the whole array at once: what blending
    costs, with room to spare. Patches that are one voxel off differ by 1.2 standard deviations
    and more, and have another class at 0.6 of all voxels and more.
    """

    bound: float
    """Root mean square, in standard deviations of the output."""
    votes_bound: float
    """Share of voxels with another class."""
    needs: tuple[str, ...] = ()
    allocator: bool = True
    """Whether it is also measured with `keep_memory`; xspinn sees to that itself."""


WAYS = {
    # xspinn comes first in each round, so that nothing else has measured for it.
    "xspinn": Way(0.01, 0.002, allocator=False),
    "xspinn_plain": Way(0.01, 0.002, allocator=False),
    "alone": Way(0.01, 0.002),
    "alone_fastest": Way(0.01, 0.002, allocator=False),
    "monai": Way(0.25, 0.05, ("monai",)),
    "patchly": Way(0.02, 0.005, ("patchly",)),
    "tiler": Way(0.02, 0.005, ("tiler",)),
    "torch_em": Way(0.6, 0.2, ("torch_em", "bioimage_cpp", "elf", "kornia")),
    "map_overlap": Way(0.12, 0.05),
    "mlexchange": Way(0.3, 0.1),
}

HOW_TO_INSTALL = """\
    python -m pip install -c constraints.txt -e ".[peers]"
    python -m pip install --no-deps python-elf==0.9.2 torch_em==0.10.9"""


def missing(ways: Iterable[str]) -> list[str]:
    """Packages that these ways need and that are not installed."""
    needs = dict.fromkeys(package for way in ways for package in WAYS[way].needs)
    return [package for package in needs if find_spec(package) is None]
