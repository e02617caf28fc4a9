"""The contract that every model keeps, for formats and models of your own."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from xspinn.carriers.shared import Shared
from xspinn.errors import ModelError
from xspinn.models import Model, as_model
from xspinn.models.results import flatten

__all__ = ["check_model"]

LARGEST = 100_000
"""Bytes that a model may add to a graph."""

Answer = dict[str | None, npt.NDArray[Any]]


def check_model(
    model: Any,
    shape: Sequence[int],
    *,
    like: Callable[[torch.Tensor], Any] | None = None,
    tolerance: float = 1e-5,
    device: str = "cpu",
) -> None:
    """Check that a model does what `predict` counts on.

    It is the same contract that the formats of xspinn are tested with: the hash is the same each
    time and in another process; the handle can be pickled and builds the same model there; the
    user's object stays as it was; patches of a batch do not depend on each other, or on the size of
    the batch, or on what other threads do; bad input is an error before any block runs; a graph
    holds an address and not the weights.

    Parameters
    ----------
    model : object
        Anything that `predict` takes. Use `xspinn.as_model` first where more must be said.
    shape : sequence of int
        A shape that the model takes: ``(batch, channel, *core dims)``. A batch of 3 or more shows
        more.
    like : callable, optional
        What the model was made from: takes a torch tensor of that shape and returns what the model
        must return.
    tolerance : float, default: 1e-5
        Greatest difference between two answers that should be equal, relative to the greatest
        value or absolute, whichever allows more.
    device : str, default: "cpu"
        Where to run, in torch's words.

    Raises
    ------
    AssertionError
        Says what does not hold.
    ModelError
        If it is no model at all.

    Examples
    --------
    >>> import torch
    >>> from xspinn.testing import check_model
    >>> network = torch.nn.Conv2d(2, 3, kernel_size=3, padding=1).eval()
    >>> check_model(network, (3, 2, 16, 16), like=network)

    A model whose patches look at each other does not pass:

    >>> check_model(lambda batch: batch - batch.mean(), (3, 2, 16, 16))
    Traceback (most recent call last):
    ...
    AssertionError: <FunctionModel <lambda>, ...>: a patch gets another answer in another batch ...
    """
    before = _state(model)
    handle = as_model(model)
    _require(as_model(model).key == handle.key, handle, "its hash is another the second time")
    fitted = handle.fitted((1, *shape[1:]))
    feed = _feed(fitted)
    values = np.random.default_rng(0).random(tuple(shape)) * (1 if feed.kind in "fc" else 100)
    batch = torch.from_numpy(values.astype(feed))
    where = fitted.device(torch.device(device))
    check = _Checks(fitted, batch.to(where), where, tolerance)
    check.answers(like)
    check.batches()
    check.threads()
    check.pickles()
    check.graphs()
    check.other_process(model)
    check.predicts()
    check.errors()
    _require(before == _state(model), handle, "the object that it was made from has changed")


class _Checks:
    """What is checked, of a model and a batch."""

    def __init__(
        self, model: Model, batch: torch.Tensor, device: torch.device, tolerance: float
    ) -> None:
        self.model, self.batch, self.device, self.tolerance = model, batch, device, tolerance
        self.ready = model.load(device)
        self.answer = _values(self.ready(batch.clone()))

    def answers(self, like: Callable[[torch.Tensor], Any] | None) -> None:
        given = self.batch.clone()
        again = _values(self.ready(given))
        self.require(torch.equal(given, self.batch), "it writes into its input")
        self.same(again, self.answer, "it gives another answer the second time")
        other = _values(self.model.load(self.device)(self.batch.clone()))
        self.same(other, self.answer, "built again, it gives another answer")
        if like is not None:
            with torch.no_grad():
                wanted = _values(like(self.batch.cpu()))
            if len(wanted) == len(self.answer) == 1:  # a lone output may be named or not
                wanted = dict(zip(self.answer, wanted.values(), strict=True))
            self.same(self.answer, wanted, "it gives another answer than what it was made from")

    def batches(self) -> None:
        for at in range(len(self.batch)):
            alone = _values(self.ready(self.batch[at : at + 1].clone()))
            part = {name: value[at : at + 1] for name, value in self.answer.items()}
            self.same(alone, part, "a patch gets another answer in another batch")
        first = _values(self.ready(self.batch[:2].clone()))
        part = {name: value[:2] for name, value in self.answer.items()}
        self.same(first, part, "a patch gets another answer in another batch")

    def threads(self) -> None:
        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(lambda _: _values(self.ready(self.batch.clone())), range(8)):
                self.same(got, self.answer, "it gives another answer where threads call it at once")

    def pickles(self) -> None:
        for dumps in (pickle.dumps, cloudpickle.dumps):
            try:
                copy = pickle.loads(dumps(self.model))
            except Exception as error:
                raise AssertionError(f"{self.model}: it cannot be pickled: {error}") from error
            self.require(copy.key == self.model.key, "its pickle has another hash")
            self.require(copy.n_bytes == self.model.n_bytes, "its pickle has another size")

    def graphs(self) -> None:
        size = len(pickle.dumps(Shared(self.model)))
        self.require(size < LARGEST, f"it adds {size} bytes to a graph, more than {LARGEST}")

    def other_process(self, model: Any) -> None:
        """Unpickle the handle in a new process, and make a handle anew there."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            again = cloudpickle.dumps(self.model)
            with contextlib.suppress(Exception):  # not every object can be pickled by itself
                itself = cloudpickle.dumps(model)
                cloudpickle.loads(itself)
                again = itself
            state = (sys.path, cloudpickle.dumps(self.model), again, self.batch.cpu().numpy())
            path.write_bytes(cloudpickle.dumps((*state, str(self.device))))
            command = [sys.executable, "-c", _OTHER, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.require(done.returncode == 0, f"it fails in another process:\n{done.stderr}")
            keys, answer = cloudpickle.loads(path.with_suffix(".out").read_bytes())
        self.same(answer, self.answer, "it gives another answer in another process")
        key = as_model(model).key
        self.require(keys == [self.model.key, key], "its hash is another in another process")

    def predicts(self) -> None:
        """Run it over an array in blocks, lazily and at once."""
        image = self.image(self.batch.shape[1])
        options: dict[str, Any] = {
            "patch": {d: n for d, n in image.sizes.items() if d != "channel"},
            "overlap": 0,
            "channel": "channel",
            "device": str(self.device),
        }
        options["patch"] = {d: n // 2 for d, n in options["patch"].items()}
        at_once = image.spinn.predict(self.model, **options)
        lazy = image.chunk(channel=-1).spinn.predict(self.model, **options)
        self.require(lazy.chunks is not None, "its result is not lazy where the array is")
        kind = xr.Dataset if isinstance(lazy, xr.Dataset) else xr.DataArray
        self.require(isinstance(at_once, kind), "it returns something else for a lazy array")
        xr.testing.assert_allclose(
            lazy.compute(scheduler="threads"), at_once, rtol=self.tolerance, atol=self.tolerance
        )

    def errors(self) -> None:
        """Feed it with what it was not made for."""
        if self.model.kept is False:  # functions may take anything
            return
        image = self.image(self.batch.shape[1] + 1)
        patch = {d: n // 2 for d, n in image.sizes.items() if d != "channel"}
        lazy = image.chunk(channel=-1)
        try:
            lazy.spinn.predict(self.model, patch=patch, overlap=0, channel="channel")
        except ModelError:
            return
        # A model that takes any number of channels has nothing to complain about.
        wrong = torch.cat([self.batch, self.batch[:, :1]], 1)
        try:
            self.ready(wrong)
        except Exception:  # noqa: BLE001 - whatever the format raises
            raise AssertionError(f"{self.model}: a wrong channel count is no early error") from None

    def image(self, channels: int) -> xr.DataArray:
        """Return an array of two patches along each core dim."""
        core = [2 * n for n in self.batch.shape[2:]]
        kind = self.batch.cpu().numpy().dtype
        scale = 1 if kind.kind == "f" else 100
        values = (scale * np.random.default_rng(1).random((channels, *core))).astype(kind)
        return xr.DataArray(values, dims=("channel", *(f"dim_{k}" for k in range(len(core)))))

    def same(self, got: Answer, wanted: Answer, what: str) -> None:
        self.require(list(got) == list(wanted), f"{what}: {list(got)} for {list(wanted)}")
        for name, value in wanted.items():
            self.require(
                got[name].shape == value.shape, f"{what}: {got[name].shape} for {value.shape}"
            )
            error = float(np.abs(np.subtract(got[name], value, dtype=complex)).max(initial=0))
            limit = self.tolerance * max(1.0, float(np.abs(value).max(initial=0)))
            self.require(error <= limit, f"{what} (difference {error:.1e})")

    def require(self, holds: bool, what: str) -> None:
        _require(holds, self.model, what)


def _feed(model: Model) -> np.dtype[Any]:
    """Return a dtype that the model takes; some take integers only."""
    for name in ("float32", "uint8", "bool"):
        with contextlib.suppress(ModelError):
            return model.feed_dtype(np.dtype(name))
    raise AssertionError(f"{model}: it takes neither floats nor integers.")


def _require(holds: bool, model: Model, what: str) -> None:
    if not holds:
        raise AssertionError(f"{model}: {what}.")


def _values(result: Any) -> Answer:
    tensors = dict(flatten(result))
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bfloat16:  # numpy has none
            tensors[name] = tensor.float()
    return {name: tensor.numpy(force=True).copy() for name, tensor in tensors.items()}


def _state(model: Any) -> Any:
    """What a user could see of a module: flags, devices, gradients and values."""
    if not isinstance(model, torch.nn.Module):
        return None
    tensors = [*model.named_parameters(), *model.named_buffers()]
    flags = [module.training for module in model.modules()]
    return flags, [
        (
            name,
            str(t.device),
            t.requires_grad,
            None if t.grad is None else t.grad.tolist(),
            _bytes_of(t),
        )
        for name, t in tensors
    ]


def _bytes_of(tensor: torch.Tensor) -> bytes:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return raw.numpy().tobytes()


_OTHER = """
import pathlib, pickle, sys
import cloudpickle
path = pathlib.Path(sys.argv[1])
where, handle, again, batch, device = pickle.loads(path.read_bytes())
sys.path[:] = where
import torch
from xspinn.models import as_model
from xspinn.testing.models import _values
model = cloudpickle.loads(handle)
answer = _values(model.load(torch.device(device))(torch.from_numpy(batch).to(device)))
keys = [model.key, as_model(cloudpickle.loads(again)).key]
path.with_suffix(".out").write_bytes(cloudpickle.dumps((keys, answer)))
"""
