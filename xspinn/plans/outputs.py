"""From what a model returns to what the result looks like: dims, labels and dtypes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from xspinn.errors import PlanError
from xspinn.geometry.axis import Axis
from xspinn.geometry.combine import Combine
from xspinn.plans.plan import Output

__all__ = ["CHANNEL", "Answer", "OutputLike", "alignment", "make_outputs", "voxel_bytes"]

OutputLike: TypeAlias = "str | Mapping[str, Any] | None"

CHANNEL = "channel"
"""Name of the result's channel dim where the user gives none."""


@dataclass(frozen=True)
class Answer:
    """What a model returns for one patch: one tensor of its result.

    Attributes
    ----------
    name : str or None
        Its name, where the model returns several.
    channels : int or None
        Its channels; None where it has no channel axis.
    scale : tuple of Fraction
        Its voxels over the patch's, for every core dim.
    dtype : str
        In numpy's words; bfloat16 counts as float32.
    """

    name: str | None
    channels: int | None
    scale: tuple[Fraction, ...]
    dtype: str


def alignment(answers: Sequence[Answer]) -> tuple[int, ...]:
    """For every core dim, what patch starts must be multiples of for all outputs to have voxels."""
    scales = zip(*(answer.scale for answer in answers), strict=True)
    return tuple(math.lcm(*(ratio.denominator for ratio in ratios)) for ratios in scales)


def voxel_bytes(
    answers: Sequence[Answer], channels: int, dtype: np.dtype[Any], feed: np.dtype[Any]
) -> Fraction:
    """Bytes that a block takes for every voxel of its input: as read, as fed, and its sums.

    Parameters
    ----------
    answers : sequence of Answer
        What the model returns.
    channels : int
        Channels that it is fed with.
    dtype, feed : numpy.dtype
        Of the array, and what the model is fed with.

    Returns
    -------
    Fraction
    """
    sums = (
        (answer.channels or 1) * max(4, np.dtype(answer.dtype).itemsize) * math.prod(answer.scale)
        for answer in answers
    )
    return Fraction(channels * (dtype.itemsize + feed.itemsize)) + sum(sums)


def make_outputs(
    answers: Sequence[Answer],
    output: OutputLike,
    rule: Combine,
    axes: Sequence[Axis],
    taken: Sequence[str],
    dtype: Any,
    softmax: bool,
) -> tuple[Output, ...]:
    """Settle the result's arrays: names, channel dims, labels and dtypes.

    Parameters
    ----------
    answers : sequence of Answer
        What the model returns.
    output : str, mapping or None
        What the user says of it; see `xspinn.predict`.
    rule : Combine
        The combine rule.
    axes : sequence of Axis
        The core dims.
    taken : sequence of str
        Names of the result's other dims and its coordinates.
    dtype : dtype-like or None
        What the user wants; None for the model's own, or the smallest that holds the classes.
    softmax : bool
        Whether a softmax over channels is applied.

    Returns
    -------
    tuple of Output

    Raises
    ------
    PlanError
        If `output` does not fit what the model returns, or the rule cannot combine it.
    """
    says = _by_name(answers, output)
    clash = [answer.name for answer in answers if answer.name in taken]
    if clash:
        raise PlanError(
            f"the model returns an array named {clash[0]!r}, but the input has a dim or coordinate "
            "of that name: rename that, or drop it with da.drop_vars."
        )
    outputs = tuple(
        _make_output(answer, says[answer.name], rule, axes, taken, dtype, softmax)
        for answer in answers
    )
    for one, other in itertools.combinations(outputs, 2):
        _check_together(one, other)
    return outputs


def _check_together(one: Output, other: Output) -> None:
    """Refuse outputs that do not fit one dataset."""
    if one.scale != other.scale:
        raise PlanError(
            f"outputs {one.name!r} and {other.name!r} differ in spatial scale, so they cannot "
            "share their dims in one dataset: predict with a model that returns one of them."
        )
    same = (one.channels, one.labels) == (other.channels, other.labels)
    if one.dim is not None and one.dim == other.dim and not same:
        raise PlanError(
            f"outputs {one.name!r} and {other.name!r} have different channels along one dim, "
            f"{one.dim!r}: give each a name of its own, with output={{{one.name!r}: 'a_name', "
            f"{other.name!r}: 'another'}}."
        )


def _by_name(answers: Sequence[Answer], output: OutputLike) -> dict[str | None, OutputLike]:
    """Spread what the user says over the outputs of the model."""
    names = [answer.name for answer in answers]
    if names == [None]:
        return {None: output}
    if output is None:
        return dict.fromkeys(names)
    if not isinstance(output, Mapping) or not set(output) <= set(names):
        raise PlanError(
            f"output={output!r}, but the model returns several arrays, {names}: give a mapping of "
            "their names, each to None, the name of its channel dim, or {dim: labels}."
        )
    return {name: output.get(str(name)) for name in names}


def _make_output(
    answer: Answer,
    says: OutputLike,
    rule: Combine,
    axes: Sequence[Axis],
    taken: Sequence[str],
    dtype: Any,
    softmax: bool,
) -> Output:
    dim, labels = _channel(says)
    what = "the model's result" if answer.name is None else f"output {answer.name!r}"
    if (rule.classes or softmax) and (answer.channels or 1) < 2:
        asked = f"combine={rule.name!r}" if rule.classes else "activation='softmax'"
        raise PlanError(
            f"{asked} chooses among channels, but {what} has {_count(answer.channels)}: for "
            "one channel use activation='sigmoid' and compare with 0.5."
        )
    if labels is not None and len(labels) != (answer.channels or 1):
        raise PlanError(
            f"output names {len(labels)} channels, {list(labels)}, but {what} has "
            f"{answer.channels or 1}."
        )
    if dim is None and not rule.classes and (answer.channels or 1) > 1:
        dim = CHANNEL
    if rule.classes:
        dim = None
    if dim is not None and dim in taken:
        raise PlanError(
            f"the channels of {what} would be dim {dim!r}, but the array has a dim or coordinate "
            "of that name: name them with output='another_name', or drop the coordinate."
        )
    own = np.dtype(answer.dtype)
    accumulate = _accumulate(own, rule, what, axes, answer, softmax)
    return Output(
        name=answer.name,
        channels=answer.channels,
        dim=dim,
        labels=labels,
        scale=tuple((ratio.numerator, ratio.denominator) for ratio in answer.scale),
        dtype=str(_result(own, rule, answer, dtype)),
        accumulate=str(accumulate),
    )


def _count(channels: int | None) -> str:
    return "no channel axis" if channels is None else f"{channels} channel"


def _channel(says: Any) -> tuple[str | None, tuple[str | float, ...] | None]:
    """Name and labels of the channel dim, from what the user says."""
    if says is None or isinstance(says, str):
        return says, None
    pairs: list[Any] = list(says.items()) if isinstance(says, Mapping) else []
    if len(pairs) == 1 and isinstance(pairs[0][1], Iterable) and not isinstance(pairs[0][1], str):
        name, values = pairs[0]
        array = np.asarray(values if isinstance(values, np.ndarray) else list(values))
        if array.ndim == 1 and array.dtype.kind in "iufbU":
            return str(name), tuple(array.tolist())
        raise PlanError(
            f"the labels of {name!r} are {array.dtype}; a plan holds text and numbers. Name the "
            f"dim with output={str(name)!r}, and label it with .assign_coords afterwards."
        )
    raise PlanError(
        f"output={says!r}: give the name of the channel dim, or that name with its labels, such "
        "as output={'facies': ['sand', 'shale']}."
    )


def _result(own: np.dtype[Any], rule: Combine, answer: Answer, asked: Any) -> np.dtype[Any]:
    """Dtype of the result: what is asked for, if it can hold it, else the model's own."""
    least: np.dtype[Any] = np.min_scalar_type((answer.channels or 1) - 1) if rule.classes else own
    if asked is None:
        return least
    try:
        dtype: np.dtype[Any] = np.dtype(asked)
    except TypeError as error:
        raise PlanError(f"dtype={asked!r} is not one that numpy knows: {error}.") from error
    if dtype.kind not in "fiucb":
        raise PlanError(
            f"dtype={asked!r} holds no numbers: give a bool, integer, float or complex."
        )
    if rule.classes and (dtype.kind not in "fiu" or not np.can_cast(least, dtype)):
        raise PlanError(
            f"dtype={asked!r} cannot hold {answer.channels} classes: the smallest that can is "
            f"{least}."
        )
    if own.kind == "c" and dtype.kind != "c":
        raise PlanError(f"dtype={asked!r} would drop the imaginary part of {own}.")
    return dtype


def _accumulate(
    own: np.dtype[Any],
    rule: Combine,
    what: str,
    axes: Sequence[Axis],
    answer: Answer,
    softmax: bool,
) -> np.dtype[Any]:
    """Dtype of the sums: float32 for half precision, else the model's own."""
    if own.kind == "c" and (rule.classes or rule.reduce == "max"):
        raise PlanError(f"combine={rule.name!r} compares values, but {what} is {own}.")
    if rule.before == "one_hot":
        return np.dtype("float32")
    if own.kind in "iub" and not softmax:
        exact = rule.reduce == "max" or all(
            np.isin(weight, (0, 1)).all()
            for axis, ratio in zip(axes, answer.scale, strict=True)
            for weight in axis.footprint(ratio).weights
        )
        if not exact or rule.name == "soft":
            raise PlanError(
                f"{what} is {own}: class labels and masks cannot be averaged. Return scores or "
                "probabilities as floats, or take each voxel from one patch with window='trim', "
                "or the greatest with combine='max'."
            )
        return np.dtype("uint8") if own.kind == "b" else own
    return np.dtype("float32") if own.itemsize < 4 or own.kind in "iub" else own
