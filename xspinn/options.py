"""Options that hold for the whole process, set like xarray's."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from xspinn.errors import PlanError

__all__ = ["get_options", "set_options"]

_OPTIONS: dict[str, Any] = {
    "block_bytes": 128 * 2**20,
    "batch_voxels": 2**20,
    "model_bytes": None,
    "model_calls": None,
    "device_bytes": None,
    "allocator": True,
    "check_nan": True,
}

_VALID = {
    "block_bytes": lambda v: isinstance(v, int) and v > 0,
    "batch_voxels": lambda v: isinstance(v, int) and v > 0,
    "model_bytes": lambda v: v is None or (isinstance(v, int) and v > 0),
    "model_calls": lambda v: v is None or (isinstance(v, int) and v > 0),
    "device_bytes": lambda v: v is None or (isinstance(v, int) and v > 0),
    "allocator": lambda v: isinstance(v, bool),
    "check_nan": lambda v: isinstance(v, bool),
}


def get_options() -> dict[str, Any]:
    """Return a copy of all options and their values.

    Examples
    --------
    >>> import xspinn
    >>> xspinn.get_options()["check_nan"]
    True
    """
    return dict(_OPTIONS)


class set_options:  # noqa: N801 - a function to its users, as in xarray
    """Set options, for good or inside a ``with`` block.

    Options are read when a plan is made, except `model_bytes`, `model_calls` and `device_bytes`,
    which each process that runs blocks reads for itself.

    Parameters
    ----------
    block_bytes : int, default: 134217728
        Bytes that the input and the output of one block may take together when xspinn chooses
        the blocks. The model's own activations come on top. Blocks hold one batch at least, as
        far as this lets them.
    batch_voxels : int, default: 1048576
        About how many voxels one batch of patches has when xspinn chooses the batch; it tries half
        and twice as many where it measures.
    model_bytes : int, optional
        Bytes of built models that a process keeps on one device for the next run; the least
        recently used leave first, and the one in use stays however large it is. By default half of
        a GPU's memory, or a quarter of what the process may use: of a worker, its limit.
    model_calls : int, optional
        How many threads of one process may call a module at the same time; the others read,
        blend and write meanwhile. By default the number of cores over torch's own threads, and no
        more than a distributed worker has threads: one call at a time where torch uses all cores.
    device_bytes : int, optional
        Bytes that the input and the sums of one block may take on a GPU; those of larger blocks
        stay in the host's memory, and batches of patches go to the device and back. By default a
        quarter of the device's memory.
    allocator : bool, default: True
        Whether measuring may choose that glibc keeps the memory that the model frees while a block
        runs, instead of giving it back to the system each time. Blocks give it back at their end.
    check_nan : bool, default: True
        Warn when a model returns NaN for a block whose input is finite.

    Examples
    --------
    >>> import xspinn
    >>> with xspinn.set_options(block_bytes=2**20):
    ...     xspinn.get_options()["block_bytes"]
    1048576
    """

    def __init__(self, **options: Any) -> None:
        self.old: dict[str, Any] = {}
        for name, value in options.items():
            if name not in _OPTIONS:
                raise PlanError(f"{name!r} is not an option; the options are {sorted(_OPTIONS)}.")
            if not _VALID[name](value):
                raise PlanError(
                    f"{value!r} is not a value of option {name!r}; it needs a positive integer, "
                    "or True or False where its default is one of them."
                )
            self.old[name] = _OPTIONS[name]
        _OPTIONS.update(options)

    def __enter__(self) -> set_options:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _OPTIONS.update(self.old)
