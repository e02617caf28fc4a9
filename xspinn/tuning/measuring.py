"""Measure which way of calling a model is fastest, and whether its results agree.

A few batches of noise are run in each way that may be worth it. The first patch of each is compared
with what torch gives as it comes, in float32; a way that differs by more than a tolerance is not
chosen. On noise, so that nothing is read from the user's array before the result is asked for.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from xspinn.errors import PlanError
from xspinn.machine.allocator import can_keep
from xspinn.machine.devices import check_precision_of, pick_device
from xspinn.machine.threads import calls_at_once, cores, in_turn
from xspinn.models.base import Model
from xspinn.plans.tuning import Asked, Choice, Tuning
from xspinn.tuning.trial import Result, Trial

__all__ = ["AUTO_ERROR", "measure"]

AUTO_ERROR = 0.02
"""``precision="auto"`` takes a lower precision if its root mean square error on noise is at most
so many standard deviations of the output."""

MIN_JOB_SECONDS = 2.0
"""Seconds that a job takes as torch comes from which on ways are measured."""

MAX_SHARE = 0.15
"""Part of the job's time, as torch comes, after which measuring does not look further."""

MIN_SECONDS, MAX_SECONDS = 1.5, 60.0
"""Seconds until it looks further in any case, and after which it does not, however long the job."""

MIN_GAIN = 1.03
"""How much faster a larger batch must be to be worth its memory."""

MAX_BATCH_SHARE = 0.2
"""Part of a job that one batch may be at most; else measuring is as long as the job."""

MAX_SPREAD = 0.01
"""Standard deviations by which torch as it comes may differ between batches. A model that differs
by more draws random numbers, and nothing can be compared with it."""

MIN_GAIN_OF_CALLS = 1.15
"""How much faster several calls at once must be to be worth their memory."""

MAX_CORES = 8
"""Cores up to which that is tried: as many batches are in memory at once."""

MIN_COMPILE_SECONDS = 120.0
"""Seconds of the rest of the job from which on compiling, which takes many, is tried."""


def measure(model: Model, asked: Asked) -> Choice:
    """Find the fastest batch and tuning whose results agree with torch as it comes.

    Parameters
    ----------
    model : Model
    asked : Asked

    Returns
    -------
    Choice

    Raises
    ------
    PlanError
        If the device lacks the precision.
    ModelError
        If the model fails as torch comes.
    """
    device = model.device(pick_device(asked.device))
    if asked.precision != "auto":
        check_precision_of(asked.precision, device)
    asked = replace(asked, at_once=min(asked.at_once, calls_at_once(device, 1)))
    trial = Trial(model, device, asked)
    try:
        return in_turn(device, lambda: _measure(trial))  # as blocks run
    except BaseException:
        trial.stopped = True  # if it was the waiting that was interrupted
        raise


def _measure(trial: Trial) -> Choice:
    asked, device = trial.asked, trial.device
    plain = Tuning(precision="float32" if asked.precision == "auto" else asked.precision)
    share = asked.patches / asked.workers
    job = trial.start() * share
    search = asked.tune and job >= MIN_JOB_SECONDS and asked.usual <= MAX_BATCH_SHARE * share
    if not search and asked.precision == "float32":
        return Choice(asked.usual, plain)
    trial.limit = min(max(MAX_SHARE * job, MIN_SECONDS), MAX_SECONDS)
    usual = trial.run(Tuning(), asked.usual, calls=1)
    best = usual if plain == Tuning() else trial.run(plain, asked.usual)
    if best is None or usual is None or usual.error.worst > MAX_SPREAD:
        return Choice(asked.usual, plain)
    if search:
        best = _fastest(trial, best)
    if asked.precision == "auto":
        best = _lower_precision(trial, best)
    again = trial.run(Tuning(), asked.usual, calls=1) if trial.left else None
    slow = min(usual.seconds, again.seconds) if again else usual.seconds
    if best.tuning.precision == "float32" and slow <= best.seconds:
        return Choice(asked.usual, plain)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    tuning = replace(
        best.tuning,
        source="measured",
        speedup=float(f"{slow / best.seconds:.3g}"),
        error=float(f"{best.error.rms:.2g}"),
        worst=float(f"{best.error.worst:.2g}"),
    )
    return Choice(best.batch, tuning)


# -- what is tried ---------------------------------------------------------------------------


def _fastest(trial: Trial, best: Result) -> Result:
    """Try memory formats and batches, then what only pays on top of the best of them.

    What is most likely to help comes first: on a short job there is no time for the rest.
    """
    asked, plain = trial.asked, best
    on_cpu = trial.device.type == "cpu"
    keep = asked.allocator and on_cpu and can_keep()
    found = []
    for memory_format in _formats(trial):
        way = replace(plain.tuning, memory_format=memory_format, allocator=keep)
        found.append(_ladder(trial, way, best, _batches(trial, None if best is plain else best)))
        best = _faster(best, found[-1], 1.0)
    for result in found:  # a second look at each, since machines are shared and have bad seconds
        if result is not None and result is not best and trial.left:
            best = _faster(best, trial.run(result.tuning, result.batch, beat=best), 1.0)
    if best.tuning.allocator and trial.left:
        # And back, if that is clearly faster: between blocks, it is slower than a trial shows.
        without = trial.run(replace(best.tuning, allocator=False), best.batch, beat=best)
        best = _faster(best, without, MIN_GAIN)
    if (
        on_cpu
        and torch.get_num_threads() > 1
        and trial.left
        and cores() == asked.at_once <= MAX_CORES
    ):
        alone = replace(best.tuning, threads=1)
        best = _faster(best, trial.run(alone, best.batch, beat=best), MIN_GAIN_OF_CALLS)
    rest = best.seconds * asked.patches / asked.workers
    if "compile" in trial.model.tunes and rest > MIN_COMPILE_SECONDS and trial.left:
        start = time.perf_counter()
        compiled = trial.run(replace(best.tuning, compile=True), best.batch)
        taken = time.perf_counter() - start
        if compiled is not None:
            # Each block fills its last batch up, and each process compiles for itself.
            filled = math.ceil(asked.block / best.batch) * best.batch / asked.block
            saved = rest * (1 - filled * compiled.seconds / best.seconds)
            best = compiled if saved > max(taken, rest * (MIN_GAIN - 1)) else best
    return best


def _formats(trial: Trial) -> Sequence[str]:
    """Memory formats worth a try: the one that is most often the faster comes first."""
    turns = "memory_format" in trial.model.tunes and len(trial.asked.shape) in (3, 4)
    if turns and not trial.model.channels_last:
        return ("channels_last", "contiguous")
    return ("contiguous",)


def _ladder(trial: Trial, way: Tuning, beat: Result, batches: Sequence[int]) -> Result | None:
    """Try batches from small to large, as long as they get faster."""
    best: Result | None = None
    for batch in batches:
        if not trial.left:
            break
        result = trial.run(way, batch, beat=beat)
        if result is None or (best is not None and result.seconds > best.seconds):
            break
        best = result if best is None else _faster(best, result, MIN_GAIN)
        beat = _faster(beat, best, 1.0)
    return best


def _batches(trial: Trial, best: Result | None) -> list[int]:
    asked = trial.asked
    fixed = trial.model.shape is not None and trial.model.shape[0] is not None
    if asked.given or fixed:
        return [asked.usual]
    if best is not None:  # the next memory format is compared at the best batch of the first
        return [best.batch]
    factors = (1, 2, 4, 8) if trial.device.type == "cuda" else (0.5, 1, 2)
    sizes = {max(1, min(int(asked.usual * factor), asked.block)) for factor in factors}
    return sorted(sizes)


def _lower_precision(trial: Trial, best: Result) -> Result:
    """Take a lower precision where the device has one, it is faster, and it errs little."""
    chosen = best
    for precision in ("bf16", "fp16"):
        with contextlib.suppress(PlanError):
            check_precision_of(precision, trial.device)
            way = replace(best.tuning, precision=precision)
            result = trial.run(way, best.batch)
            if result is not None and result.error.rms <= AUTO_ERROR:
                chosen = _faster(chosen, result, MIN_GAIN)
    return chosen


def _faster(best: Result, other: Result | None, margin: float) -> Result:
    """The other if it is faster by more than a margin."""
    return other if other is not None and other.seconds * margin < best.seconds else best
