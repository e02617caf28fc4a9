"""Time one way of calling a model, and compare what it returns with torch as it comes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from xspinn.allocator import give_back, kept
from xspinn.devices import call_gate, cores, torch_threads
from xspinn.models.base import Built, Model
from xspinn.models.results import flatten
from xspinn.tuning import Asked, Tuning

__all__ = ["TOLERANCE", "Result", "Trial"]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""A tuned way in float32 must give what torch gives as it comes, to within so many standard
deviations of the output."""

HOPELESS = 1.5
"""A way whose first call is so many times slower than the best is not called again."""


class Error(NamedTuple):
    """The difference from torch as it comes, over the standard deviation of the output."""

    rms: float
    worst: float


class Result(NamedTuple):
    """How a way of calling the model did."""

    tuning: Tuning
    batch: int
    seconds: float
    """Of one patch."""
    error: Error


_Call: TypeAlias = Callable[[Built, torch.Tensor], tuple[Any, float]]
"""Calls a model, and returns its answer and the seconds that one call took."""


class Trial:
    """Runs a model in one way after the other, on the same noise."""

    def __init__(self, model: Model, device: torch.device, asked: Asked) -> None:
        self.model, self.device, self.asked = model, device, asked
        self.began = time.perf_counter()
        self.limit = math.inf
        self.noise = _noise(asked, 1, device)
        self.plain_error: dict[str, Error] = {}

    @property
    def left(self) -> bool:
        """Whether there is time for more."""
        return time.perf_counter() - self.began < self.limit

    def start(self) -> float:
        """Run one patch as torch comes, in float32; return its seconds."""
        ready = self.model.load(self.device)
        with call_gate(self.device):
            answer, seconds = self._once(ready, self.noise)
        self.reference = _copied(answer)
        return seconds

    def run(
        self,
        tuning: Tuning,
        batch: int,
        *,
        beat: Result | None = None,
        calls: int = 3,
    ) -> Result | None:
        """Time a way; None where it fails, runs out of memory or differs.

        Parameters
        ----------
        tuning : Tuning
        batch : int
        beat : Result, optional
            The best so far; what is far behind it is not called again.
        calls : int, default: 3
            The fastest of so many counts.
        """
        try:
            ready = self.model.load(self.device, tuning)
            patches = torch.cat([self.noise, _noise(self.asked, batch - 1, self.device)])
            with kept(tuning.allocator), self._alone(tuning) as call:
                answer, seconds = call(ready, patches)
                error = self._error(_copied(answer, first=True))
                del answer
                for _ in range(calls - 1):
                    if beat is not None and seconds / batch > HOPELESS * beat.seconds:
                        break
                    seconds = min(seconds, call(ready, patches)[1])
        except Exception as problem:  # noqa: BLE001 - another way is taken
            logger.debug("%s, batches of %d: %r", tuning, batch, problem)
            return None
        finally:
            give_back()
        result = Result(tuning, batch, seconds / batch, error)
        logger.debug("%s, batches of %d: %.3g s a patch, %s", tuning, batch, result.seconds, error)
        return result if self._agrees(tuning, error) else None

    def _agrees(self, tuning: Tuning, error: Error) -> bool:
        """Allow rounding, and in lower precision twice what torch errs by there as it comes."""
        if tuning.precision == "float32":
            return error.worst <= TOLERANCE
        plain = Tuning(precision=tuning.precision)
        if tuning.precision not in self.plain_error:
            ready = self.model.load(self.device, plain)
            self.plain_error[tuning.precision] = self._error(_copied(ready(self.noise)))
        return error.worst <= 2 * self.plain_error[tuning.precision].worst + TOLERANCE

    @contextlib.contextmanager
    def _alone(self, tuning: Tuning) -> Iterator[_Call]:
        """Give what calls a model, once or as often as it will be called at the same time."""
        if tuning.threads is None:
            with call_gate(self.device):
                yield self._once
            return
        at_once = max(1, cores() // tuning.threads)
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:

            def together(ready: Built, patches: torch.Tensor) -> tuple[Any, float]:
                def one(_: int) -> Any:
                    with torch_threads(tuning.threads):
                        return ready(patches)

                begin = time.perf_counter()
                answers = list(pool.map(one, range(at_once)))
                return answers[0], (time.perf_counter() - begin) / at_once

            yield together

    def _once(self, ready: Built, patches: torch.Tensor) -> tuple[Any, float]:
        begin = time.perf_counter()
        answer = ready(patches)
        _wait(self.device)
        return answer, time.perf_counter() - begin

    def _error(self, results: list[torch.Tensor]) -> Error:
        """Compare with torch as it comes; several outputs count by the one that differs most."""
        found = [Error(0.0, 0.0)]
        for one, other in zip(results, self.reference, strict=True):
            if one.shape != other.shape or not bool(one.isfinite().eq(other.isfinite()).all()):
                return Error(math.inf, math.inf)
            spread = float(other.std(correction=0)) or float(other.abs().max()) or 1.0
            difference = (one - other).abs().nan_to_num(0.0) / spread
            found.append(Error(float(difference.square().mean().sqrt()), float(difference.max())))
        return Error(max(e.rms for e in found), max(e.worst for e in found))


def _noise(asked: Asked, patches: int, device: torch.device) -> torch.Tensor:
    """Make normally distributed patches in the dtype that the model is fed with."""
    shape = (patches, *asked.shape)
    values: Any = np.random.default_rng(patches).standard_normal(shape, dtype=np.float32)
    if np.dtype(asked.dtype).kind in "iub":  # counts or labels: any model takes 0 and 1
        values = values > 0
    return torch.from_numpy(values.astype(asked.dtype)).to(device)


def _copied(result: Any, first: bool = False) -> list[torch.Tensor]:
    """Return the results as tensors of their own, in double precision; of the first patch."""
    tensors = [t[:1] if first else t for _, t in flatten(result)]
    return [t.to(torch.complex128 if t.is_complex() else torch.float64, copy=True) for t in tensors]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
