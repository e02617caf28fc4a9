"""Time one way of calling a model, and compare what it returns with torch's defaults."""

from __future__ import annotations

import concurrent.futures
import contextvars
import logging
import math
import time
from typing import Any, NamedTuple

import numpy as np
import torch

from xspinn.machine.allocator import give_back, kept
from xspinn.machine.threads import dismiss_team, in_turn
from xspinn.models.base import Built, Model
from xspinn.models.calling import strict
from xspinn.models.results import flatten
from xspinn.plans.tuning import Asked, Tuning

__all__ = ["TOLERANCE", "Result", "Trial"]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""A tuned way in float32 must give what torch's defaults give, to within so many standard
deviations of the output, besides what torch itself errs by between one batch and another."""

MAX_SLOWDOWN = 1.5
"""A way whose first call is so many times slower than the best is not called again."""


class Error(NamedTuple):
    """The difference from torch's defaults, over the standard deviation of the output."""

    rms: float
    worst: float


class Result(NamedTuple):
    """How a way of calling the model did."""

    tuning: Tuning
    batch: int
    seconds: float
    """Of one patch."""
    error: Error


class Trial:
    """Runs a model in one way after the other, on the same noise.

    The first way that is run in a precision is trusted: torch's defaults, in batches. What
    it errs by is what others may err by, twice over.
    """

    def __init__(self, model: Model, device: torch.device, asked: Asked) -> None:
        self.model, self.device, self.asked = model, device, asked
        self.began, self.limit, self.stopped = time.perf_counter(), math.inf, False
        self.noise = _noise(asked, 1, device)
        self.trusted: dict[str, Error] = {}
        self.built: tuple[Any, Built] | None = None

    @property
    def left(self) -> bool:
        """Whether there is time for more."""
        return not self.stopped and time.perf_counter() - self.began < self.limit

    def start(self) -> float:
        """Run one patch with torch's defaults, in float32; return its seconds."""
        self.began = time.perf_counter()
        ready = self._ready(Tuning())
        answer, seconds = self._once(ready, self.noise)
        if self.device.type == "cuda":  # the first call of all also starts its libraries
            answer, seconds = self._once(ready, self.noise)
        self.reference = _copied(answer)
        return seconds

    def run(
        self, tuning: Tuning, batch: int, *, beat: Result | None = None, calls: int = 3
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
            ready = self._ready(tuning)
            patches = torch.cat([self.noise, _noise(self.asked, batch - 1, self.device)])
            with kept(tuning.allocator), strict():
                if self.device.type == "cuda":  # kernels are chosen for each shape anew
                    self._call(tuning, ready, patches)
                answer, seconds = self._call(tuning, ready, patches)
                error = self._error(_copied(answer, first=True))
                del answer
                for _ in range(calls - 1):
                    if beat is not None and seconds / batch > self._hope(batch, beat):
                        break
                    seconds = min(seconds, self._call(tuning, ready, patches)[1])
        except Exception as problem:  # noqa: BLE001 - another way is taken
            logger.debug("%s, batches of %d: %r", tuning, batch, problem)
            return None
        finally:
            give_back()
        logger.debug("%s, batches of %d: %.3g s a patch, %s", tuning, batch, seconds / batch, error)
        trusted = self.trusted.setdefault(tuning.precision, error)
        agrees = error.worst <= 2 * trusted.worst + TOLERANCE
        return Result(tuning, batch, seconds / batch, error) if agrees else None

    def _ready(self, tuning: Tuning) -> Built:
        """Build the model; the last one stays, since batches and allocators do not change it."""
        if self.built is None or self.built[0] != tuning.built:
            self.built = None
            self.built = tuning.built, self.model.load(self.device, tuning)
        return self.built[1]

    def _hope(self, batch: int, beat: Result) -> float:
        """Seconds a patch that a first call may take; large batches set up less for each."""
        return beat.seconds * (MAX_SLOWDOWN if batch <= beat.batch else 1.1)

    def _call(self, tuning: Tuning, ready: Built, patches: torch.Tensor) -> tuple[Any, float]:
        """Call a model once, or as often as it will be called at the same time."""
        if self.stopped:
            raise InterruptedError("nobody waits for this measurement any more")
        if tuning.threads is None:
            return self._once(ready, patches)
        at_once = self.asked.at_once

        def alone() -> Any:
            return in_turn(self.device, lambda: ready(patches), tuning.threads)

        dismiss_team()
        in_turn(self.device, lambda: None, tuning.threads)  # that starts its threads
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            begin = time.perf_counter()
            contexts = [contextvars.copy_context() for _ in range(at_once)]
            calls = [pool.submit(context.run, alone) for context in contexts]
            answers = [call.result() for call in calls]
            return answers[0], (time.perf_counter() - begin) / at_once

    def _once(self, ready: Built, patches: torch.Tensor) -> tuple[Any, float]:
        begin = time.perf_counter()
        answer = ready(patches)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return answer, time.perf_counter() - begin

    def _error(self, results: list[torch.Tensor]) -> Error:
        """Compare with torch's defaults; several outputs count by the one that differs most."""
        found = [Error(0.0, 0.0)]
        for one, other in zip(results, self.reference, strict=True):
            known = other.isfinite()
            if one.shape != other.shape or not torch.equal(one.isfinite(), known):
                return Error(math.inf, math.inf)
            if bool(known.any()):
                found.append(_difference(one[known], other[known]))
        return Error(max(e.rms for e in found), max(e.worst for e in found))


def _difference(one: torch.Tensor, other: torch.Tensor) -> Error:
    spread = float(other.std(correction=0)) or float(other.abs().max()) or 1.0
    difference = (one - other).abs() / spread
    return Error(float(difference.square().mean().sqrt()), float(difference.max()))


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
