"""A model, and the one patch that it is called on before anything runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from xspinn.errors import ModelError
from xspinn.machine.devices import pick_device
from xspinn.machine.threads import in_turn
from xspinn.models.activations import Activation, activate
from xspinn.models.base import Model
from xspinn.models.built import built_model
from xspinn.models.results import flatten

__all__ = ["Call", "Named", "OnePatch"]

Named: TypeAlias = list[tuple[str | None, torch.Tensor]]
"""What a model returns: its tensors with their names, None for a lone one."""

Call: TypeAlias = Callable[[torch.Tensor], Named]
"""A built model, with its activation."""

T = TypeVar("T")


@dataclass(frozen=True)
class OnePatch:
    """A model, and the patch that it is called on.

    Attributes
    ----------
    model : Model
    patch : dict
        Core dim -> voxels, in the order that the model sees.
    channels : int
        Channels that the model is fed with.
    feed : numpy.dtype
        Dtype that it is fed with.
    device : str or None
        Where it is called, if values are needed.
    activation : str, callable or None
        Applied to what the model returns.
    """

    model: Model
    patch: dict[str, int]
    channels: int
    feed: np.dtype[Any]
    device: str | None
    activation: str | Activation | None

    def shape(self, times: int = 1) -> tuple[int, ...]:
        """Shape of a batch of one patch that is so many times as large along every core dim."""
        return (1, self.channels, *(times * size for size in self.patch.values()))

    def outline(self, times: int = 1) -> Named:
        """Return what the model returns for a patch; only shapes and dtypes mean something.

        The meta device tells where it can, else a patch of zeros. Where the model fails on zeros,
        as one does that divides by the greatest value, noise tells.

        Raises
        ------
        ModelError
            If the model fails on zeros and on noise; it gives the reason of the former.
        """
        shape = self.shape(times)
        dtype = torch.from_numpy(np.empty(0, self.feed)).dtype
        with contextlib.suppress(Exception):  # what meta tensors cannot do, zeros will tell
            return self._named(self.model.outline(shape, dtype))

        def run(call: Call) -> Named:
            try:
                return call(torch.zeros(shape, dtype=dtype))
            except Exception:
                with contextlib.suppress(Exception):
                    return call(self.noise(times))
                raise

        try:
            return self.in_turn(run)
        except ModelError:
            raise
        except Exception as error:
            dims = ", ".join(f"{dim}: {times * size}" for dim, size in self.patch.items())
            raise ModelError(
                f"the model {self.model.name} failed on one patch of zeros, and on one of noise, "
                f"of shape {shape} = (batch: 1, channel: {self.channels}, {dims}): "
                f"{type(error).__name__}: {error}" + self._hint()
            ) from error

    def in_turn(self, work: Callable[[Call], T]) -> T:
        """Do some work with the built model, when it is its turn to be called."""
        where = self.model.device(pick_device(self.device))

        def run() -> T:
            ready = built_model(self.model, where)
            return work(lambda batch: self._named(ready(batch.to(where))))

        return in_turn(where, run) if self.model.kept else run()

    def noise(self, times: int = 1, seed: int = 0) -> torch.Tensor:
        """Make a patch of noise, the same each time; above zero, since some take logarithms."""
        draw, shape = np.random.default_rng(seed), self.shape(times)
        if self.feed.kind == "b":
            values: Any = draw.random(shape) < 0.5
        elif self.feed.kind in "iu":
            values = draw.integers(1, 101, shape)
        else:
            values = draw.uniform(0.1, 1, shape)
        return torch.from_numpy(values.astype(self.feed))

    def _named(self, result: Any) -> Named:
        with torch.inference_mode():
            return [(name, activate(self.activation, t)) for name, t in flatten(result)]

    def _hint(self) -> str:
        """Say what the model's first layer expects, where it says so itself."""
        skeleton = getattr(self.model, "skeleton", None)
        if not isinstance(skeleton, torch.nn.Module):
            return ""
        layers = (
            m for m in skeleton.modules() if hasattr(m, "in_channels") and hasattr(m, "weight")
        )
        first = next(layers, None)
        if first is None:
            return ""
        name, channels = type(first).__name__, self.channels
        if first.in_channels != channels:
            return (
                f". Its first layer, {name}, expects {first.in_channels} channels, but it was fed "
                f"with {channels}: name the dim that holds them with channel=..., and give it "
                f"{first.in_channels} entries."
            )
        kernel = getattr(first, "kernel_size", ())
        if isinstance(kernel, tuple) and len(kernel) > 0:
            return f". Its first layer, {name}, works on {len(kernel)} core dims."
        return ""
