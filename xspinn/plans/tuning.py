"""How a model is called: what was measured to be fastest, what a user asks, or torch's defaults.

A `Tuning` is part of a plan, so it is settled before anything runs and the same for every worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

from xspinn.errors import PlanError

__all__ = ["PRECISIONS", "Asked", "Choice", "TuneLike", "Tuning", "as_tuning", "check_precision"]

PRECISIONS = ("float32", "bf16", "fp16", "auto")
"""What a user may ask for; ``"auto"`` becomes one of the others when the plan is made."""

FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Tuning:
    """How a model is called. Its own defaults are torch's.

    Attributes
    ----------
    memory_format : {"contiguous", "channels_last"}
        Order in memory of weights and activations; axes keep their meaning.
    compile : bool
        Whether the model is compiled by `torch.compile`, with frozen weights.
    allocator : bool
        Whether glibc keeps freed memory while a block runs; see `xspinn.machine.allocator`.
    threads : int or None
        Threads that one call uses; as many calls run at the same time as the cores bear. None
        for as many as torch has.
    cuda_graph : bool
        Whether a GPU records the model's kernels once and replays them; only by hand.
    precision : {"float32", "bf16", "fp16"}
        What operators that gain from it compute in, by `torch.autocast`. With ``"float32"`` there
        is no autocast: the model computes in the dtype of its weights.
    source : {"torch", "given", "measured"}
        Where this comes from: torch's defaults, the user, or a measurement.
    speedup : float or None
        How many times as fast as with torch's defaults, in float32, where measured.
    error, worst : float or None
        The root mean square difference from the results with torch's defaults, in float32, and the
        greatest one, over their standard deviation: on a patch of normally distributed noise,
        where measured.

    Examples
    --------
    >>> from xspinn.plans.tuning import Tuning
    >>> print(Tuning(memory_format="channels_last", allocator=True, speedup=2.25, error=3e-7))
    float32, channels_last, kept memory: 2.2 times torch's default speed, error 3e-07 sd
    """

    memory_format: str = "contiguous"
    compile: bool = False
    allocator: bool = False
    threads: int | None = None
    cuda_graph: bool = False
    precision: str = "float32"
    source: str = "torch"
    speedup: float | None = None
    error: float | None = None
    worst: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS[:-1]:
            raise PlanError(f"precision={self.precision!r}: a tuning has {PRECISIONS[:-1]}.")
        for name, fits in _SETTABLE.items():
            value = getattr(self, name)
            if not fits(value):
                raise PlanError(
                    f"tune={{{name!r}: {value!r}}} is not a value that {name} can have."
                )

    @property
    def identity(self) -> Tuning:
        """The same without what was measured on the way: what the answer depends on."""
        return replace(self, source="torch", speedup=None, error=None, worst=None)

    @property
    def built(self) -> tuple[str, bool, bool, str]:
        """What a built model depends on."""
        return self.memory_format, self.compile, self.cuda_graph, self.precision

    def __str__(self) -> str:
        words = [self.precision]
        if self.memory_format != "contiguous":
            words.append(self.memory_format)
        if self.compile:
            words.append("compiled")
        if self.cuda_graph:
            words.append("CUDA graph")
        if self.allocator:
            words.append("kept memory")
        if self.threads is not None:
            words.append(f"{self.threads} thread{'s' * (self.threads > 1)} a call")
        if len(words) == 1:
            words.append("torch's defaults")
        text = ", ".join(words)
        gains = []
        if self.speedup is not None:
            gains.append(f"{self.speedup:.1f} times torch's default speed")
        if self.error is not None:
            gains.append(f"error {self.error:.1g} sd")
        return f"{text}: {', '.join(gains)}" if gains else text

    def as_dict(self) -> dict[str, Any]:
        """Return what is set, without torch's defaults."""
        own = asdict(self)
        return {f.name: own[f.name] for f in fields(self) if own[f.name] != f.default}


@dataclass(frozen=True)
class Asked:
    """What is to be settled, and for which job.

    Attributes
    ----------
    shape : tuple of int
        Of one patch as the model gets it: channel, core dims.
    dtype : str
        That it is fed with.
    usual : int
        The batch without measuring, or the one that is given.
    given : bool
        Whether the batch is the user's.
    patches : int
        Of the whole job.
    block : int
        Patches of its largest block, which are all that a batch can have.
    at_once : int
        Blocks that may run at the same time in one process.
    precision : str
        One of `PRECISIONS`.
    device : str or None
        As in `predict`.
    tune : bool
        Whether ways are compared; else only the precision is settled.
    allocator : bool
        Whether glibc may be made to keep memory.
    workers : int
        Processes that share the job.
    """

    shape: tuple[int, ...]
    dtype: str
    usual: int
    given: bool
    patches: int
    block: int
    at_once: int
    precision: str
    device: str | None
    tune: bool = True
    allocator: bool = True
    workers: int = 1


@dataclass(frozen=True)
class Choice:
    """What a measurement settled: the batch and how it is called."""

    batch: int
    tuning: Tuning


TuneLike: TypeAlias = "bool | Mapping[str, Any] | Tuning"

_SETTABLE: dict[str, Callable[[Any], bool]] = {
    "memory_format": lambda v: v in FORMATS,
    "compile": lambda v: isinstance(v, bool),
    "allocator": lambda v: isinstance(v, bool),
    "cuda_graph": lambda v: isinstance(v, bool),
    "threads": lambda v: v is None or (isinstance(v, int) and not isinstance(v, bool) and v > 0),
}


def check_precision(precision: Any) -> str:
    """Return the name of a precision, or say which there are."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise PlanError(f"precision={precision!r} is not known; give one of {list(PRECISIONS)}.")
    return precision


def as_tuning(tune: TuneLike, precision: str) -> Tuning | None:
    """Return the tuning that a user gives; None where it is to be measured.

    Parameters
    ----------
    tune : bool, mapping or Tuning
        True to measure, False for torch's defaults, or some fields of a `Tuning` by name.
    precision : str
        One of `PRECISIONS`.

    Raises
    ------
    PlanError
        If a field is not known, or cannot have that value.

    Examples
    --------
    >>> as_tuning({"memory_format": "channels_last"}, "float32").source
    'given'
    """
    if isinstance(tune, bool):
        # The error of a lower precision is measured, whatever else is not.
        return None if tune or precision != "float32" else Tuning()
    if isinstance(tune, Tuning):
        if precision not in ("float32", tune.precision):
            raise PlanError(
                f"precision={precision!r}, but tune={tune!r}: leave precision out, or give tune "
                "as a mapping."
            )
        return tune
    if not isinstance(tune, Mapping):
        raise PlanError(
            f"tune={tune!r}: give True to measure the fastest way, False for torch's defaults, or "
            f"a mapping with some of {list(_SETTABLE)}."
        )
    for name in tune:
        if name not in _SETTABLE:
            raise PlanError(
                f"tune names {name!r}; it can set {list(_SETTABLE)}. The size of batches is the "
                "argument batch, and the precision the argument precision."
            )
    if precision == "auto":
        raise PlanError(
            "precision='auto' is measured, so it needs tune=True; or give the precision as "
            "'float32', 'bf16' or 'fp16'."
        )
    return replace(Tuning(**tune), precision=precision, source="given")
