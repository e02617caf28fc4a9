"""Batches that do not fit into memory are halved; the size that fits is remembered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeAlias

import torch

from xspinn.errors import ModelError
from xspinn.models.results import flatten
from xspinn.plans.tuning import Tuning

__all__ = ["Answers", "Fits"]

Answers: TypeAlias = list[tuple[str | None, torch.Tensor]]

OUT_OF_MEMORY_MESSAGES = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "ALLOC_FAILED",
)
"""Parts of messages of torch and its libraries, which have no class of their own for this error."""


class Fits:
    """How large a batch may be, for one model on one device and in one way of calling it.

    Nothing is known at first. Where a batch does not fit, it is run in halves, and so are all that
    come after it in this process.
    """

    _known: ClassVar[dict[tuple[str, torch.device, Tuning], Fits]] = {}
    _lock = threading.Lock()

    def __init__(self, tuning: Tuning) -> None:
        self.sizes: dict[tuple[int, ...], int] = {}
        # Compiled code is for one size of batches, so smaller ones are filled up.
        self.fixed = tuning.compile or tuning.cuda_graph

    @classmethod
    def of(cls, key: str, device: torch.device, tuning: Tuning) -> Fits:
        """Return what this process knows of a model, by its key, on a device."""
        with cls._lock:
            return cls._known.setdefault((key, device, tuning), cls(tuning))

    def run(
        self, call: Callable[[torch.Tensor], Any], patches: torch.Tensor, batch: int
    ) -> Iterator[tuple[slice, Answers]]:
        """Call a model on patches, at once or in parts.

        Parameters
        ----------
        call : callable
            The model.
        patches : torch.Tensor
            At most a batch.
        batch : int
            Size of a full batch.

        Yields
        ------
        tuple of (slice, list)
            Which of the patches, and what the model returned for them.

        Raises
        ------
        ModelError
            If one patch alone does not fit, or the model raises StopIteration.
        """
        shape = tuple(patches.shape[1:])
        at = 0
        while at < len(patches):
            size = min(self.sizes.get(shape, batch), batch)
            part, answers, failed = patches[at : at + size], None, ""
            try:
                answers = self._call(call, part, size)
            except StopIteration as error:  # which no generator, such as this one, lets through
                raise ModelError(f"the model raised {error!r}.") from error
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                failed = f"{type(error).__name__}: {error}"
            if answers is not None:
                yield slice(at, at + len(part)), answers
                at += len(part)
            else:  # only here, where the error and all that it held are gone, is memory free again
                self._halve(shape, size if self.fixed else len(part), patches.device, failed)

    def _call(self, call: Callable[[torch.Tensor], Any], part: torch.Tensor, size: int) -> Answers:
        if not self.fixed or len(part) == size:
            return flatten(call(part))
        filling = part[-1:].expand(size - len(part), *part.shape[1:])
        return [(name, t[: len(part)]) for name, t in flatten(call(torch.cat([part, filling])))]

    def _halve(self, shape: tuple[int, ...], size: int, device: torch.device, failed: str) -> None:
        if size == 1:
            raise ModelError(
                f"one patch of shape {shape} = (channel, *core dims) does not fit into the memory "
                f"of {device}: use a smaller patch, precision='bf16', or a device with more "
                f"memory. It said {failed}"
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        with self._lock:
            self.sizes[shape] = min(self.sizes.get(shape, size), (size + 1) // 2)


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(m in text for m in OUT_OF_MEMORY_MESSAGES)
