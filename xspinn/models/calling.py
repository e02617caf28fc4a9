"""Call a torch module: in its memory format and precision, compiled or not, without gradients."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from xspinn.errors import ModelError
from xspinn.machine.devices import check_precision_of
from xspinn.machine.worker import warn_user
from xspinn.models.feeding import HALF
from xspinn.models.replaying import Replayed, record
from xspinn.plans.tuning import Tuning

__all__ = ["AUTOCAST", "calling", "own_dtype", "strict"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the rank of a batch."""


def own_dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype | None:
    """Dtype of the first floating or complex parameter or buffer."""
    return next((t.dtype for t in tensors if t.is_floating_point() or t.is_complex()), None)


def calling(
    module: Any,
    own: torch.dtype | None,
    device: torch.device | None = None,
    tuning: Tuning | None = None,
) -> Callable[[torch.Tensor], Any]:
    """Return a call of a module; half-precision weights get their own dtype.

    Parameters
    ----------
    module : torch.nn.Module
        On its device, and nobody else's: its weights may be laid out anew.
    own : torch.dtype or None
        Of its weights.
    device : torch.device, optional
        Where it is; only needed for autocast.
    tuning : Tuning, optional
        Torch's defaults without one.
    """
    tuning = tuning or Tuning()
    half = own if own in HALF else None
    last = tuning.memory_format == "channels_last"
    if last:
        _turn(module)
    network = _compiled(module) if tuning.compile else module
    cast = AUTOCAST.get(tuning.precision)
    if cast is not None and device is not None:
        check_precision_of(tuning.precision, device)

    def call(batch: torch.Tensor) -> Any:
        if half is not None:
            batch = batch.to(half)
        if last and batch.ndim in CHANNELS_LAST:
            batch = batch.contiguous(memory_format=CHANNELS_LAST[batch.ndim])
        # Only the forward call runs in inference mode: what is built in it cannot be trained.
        with torch.inference_mode(), _autocast(device, cast):
            return network(batch)

    if not tuning.cuda_graph:
        return call
    if device is None or device.type != "cuda":
        raise ModelError(f"cuda_graph=True in tune needs a GPU, but the model runs on {device}.")
    return Replayed(call, record)


def _turn(module: Any) -> None:
    """Lay out weights; Module.to takes one format, and fails on weights of another rank."""
    for weight in module.parameters():
        if weight.ndim in CHANNELS_LAST:
            weight.data = weight.data.contiguous(memory_format=CHANNELS_LAST[weight.ndim])


def _autocast(device: torch.device | None, dtype: torch.dtype | None) -> Any:
    if dtype is None or device is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


_strict = contextvars.ContextVar("xspinn_strict", default=False)


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Let a model that cannot be compiled fail, in the place of running as it is."""
    token = _strict.set(True)
    try:
        yield
    finally:
        _strict.reset(token)


def _compiled(module: Any) -> Callable[[torch.Tensor], Any]:
    """Return a module that is compiled for each shape of batches, or where that fails, itself."""
    # Each batch has the same shape, and weights do not change: both make faster code.
    make: Any = torch.compile
    with _quiet():
        compiled = make(module, dynamic=False, options={"freezing": True})
    ready: set[tuple[int, ...]] = set()
    failed = threading.Event()
    lock = threading.Lock()

    def call(batch: torch.Tensor) -> Any:
        shape = tuple(batch.shape)
        if failed.is_set():
            return module(batch)
        if shape in ready:
            return compiled(batch)
        with lock:
            if failed.is_set():
                return module(batch)
            try:
                with _quiet():
                    result = compiled(batch)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                if _strict.get():
                    raise
                result = module(batch)  # if this fails too, it is the model and not the compiler
                failed.set()
                warn_user(
                    f"torch.compile failed on the model {type(module).__name__}, which runs as it "
                    f"is: {type(error).__name__}: {_first_line(error)}. Leave compile out of tune "
                    "to be without this warning."
                )
            else:
                ready.add(shape)
            return result

    return call


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the compiler says of its own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no reason given")
