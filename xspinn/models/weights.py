"""Models that are a file of weights and a factory that makes the module for them."""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import numpy as np
import torch

from xspinn.errors import ModelError
from xspinn.models.base import Built, Model, Options
from xspinn.models.content import Content, here
from xspinn.models.files import FileModel
from xspinn.models.module import HALF, ModuleModel, calling, feed_of, own_dtype

__all__ = ["WeightsModel"]

NESTED = ("state_dict", "model_state_dict", "model")
"""Where training loops put the state dict in a checkpoint that holds more."""


class WeightsModel(FileModel):
    """Weights in a ``.safetensors`` or ``.pth`` file, and the factory of the module they belong to.

    The factory is called without arguments, where the model is built, and returns the module. It
    is named ``"package.module:factory"``, which every worker must be able to import, or given as
    such; `functools.partial` gives it arguments.

    Only tensors are unpickled, as by ``torch.load(weights_only=True)``, unless
    ``allow_pickle=True``; then a file may also hold a whole module and needs no factory.
    """

    suffixes = (".safetensors", ".pth", ".pt", ".ckpt")
    takes = frozenset({"factory", "channels_last", "allow_pickle"})

    @classmethod
    def read(cls, content: Content, options: Options) -> Model:
        """Make a handle of a file; of a pickled module, if that is allowed."""
        if options.allow_pickle and options.factory is None:
            held = torch.load(
                io.BytesIO(content.open().data), map_location="cpu", weights_only=False
            )
            if isinstance(held, torch.nn.Module):
                return ModuleModel.of(held, Options(channels_last=options.channels_last))
        if options.factory is None:
            raise ModelError(
                f"{content.origin} holds weights without the module they belong to: name what "
                'makes it, with as_model(path, factory="package.module:factory").'
            )
        return super().read(content, options)

    def prepare(self, options: Options) -> None:
        """Keep the factory."""
        self.factory = options.factory

    def inspect(self, loaded: Any) -> None:
        """Build it once, which shows whether weights and module fit together."""
        self.own_dtype = own_dtype(list(self._weights(torch.device("cpu")).values()))
        self._module(torch.device("cpu"))

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the weights."""
        return feed_of(self.own_dtype, dtype)

    def sketch(self, batch: tuple[int, ...], dtype: torch.dtype) -> Any:
        """Run the module on the meta device."""
        with torch.device("meta"):
            module = _make(self.factory).to(self.own_dtype).eval()
        fed = self.own_dtype if self.own_dtype in HALF else dtype
        with torch.inference_mode():
            return module(torch.empty(batch, dtype=fed, device="meta"))

    def build(self, device: torch.device) -> Built:
        """Return the module with its weights on a device, in eval mode."""
        return calling(self._module(device), self.own_dtype)

    def _module(self, device: torch.device) -> torch.nn.Module:
        module = _make(self.factory)
        weights = self._weights(device)
        try:
            # Weights take the place of the module's own, in the dtype of the file.
            module.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise ModelError(
                f"the weights in {self.name} do not fit the module that {_name(self.factory)} "
                f"makes: {error}"
            ) from error
        return module.to(device).eval().requires_grad_(False)

    def _weights(self, device: torch.device) -> dict[str, torch.Tensor]:
        raw = self.content.open()
        if self.name.endswith(".safetensors"):
            from safetensors.torch import load

            return {name: t.to(device) for name, t in load(raw.tobytes()).items()}
        try:
            held = torch.load(
                io.BytesIO(raw.data), map_location=device, weights_only=not self.allow_pickle
            )
        except pickle.UnpicklingError as error:
            raise ModelError(
                f"{self.name} holds more than tensors, and loading that runs code, which was not "
                "asked for. If you trust whoever made the file, give as_model(..., "
                "allow_pickle=True); else save module.state_dict() alone."
            ) from error
        for name in NESTED:
            if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
                held = held[name]
        if not isinstance(held, Mapping) or not all(
            isinstance(value, torch.Tensor) for value in held.values()
        ):
            raise ModelError(
                f"{self.name} holds a {type(held).__name__} that is no state dict: expected "
                f"tensors by name, alone or under one of {list(NESTED)}."
            )
        return dict(held)

    def __getstate__(self) -> dict[str, Any]:
        # A factory that is no name may be a lambda or of a notebook.
        held = self.factory if isinstance(self.factory, str) else cloudpickle.dumps(self.factory)
        return {**self.__dict__, "factory": held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.factory, bytes):
            self.factory = cloudpickle.loads(self.factory)


def _make(factory: str | Callable[[], Any] | None) -> torch.nn.Module:
    """Call a factory, or the one of that name.

    Raises
    ------
    ModelError
        If it cannot be imported in this process, or makes no module.
    """
    made: Any = factory
    if isinstance(factory, str):
        package, _, name = factory.partition(":")
        if not name:
            raise ModelError(f'factory={factory!r}: expected a name like "package.module:factory".')
        try:
            made = importlib.import_module(package)
            for part in name.split("."):
                made = getattr(made, part)
        except (ImportError, AttributeError) as error:
            raise ModelError(
                f"the factory {factory!r} cannot be imported in {here()}: {error}. Install the "
                "package there, on every worker too, or give the factory itself, "
                "which travels with the model: factory=MyNetwork."
            ) from error
    if not callable(made):
        raise ModelError(f"the factory {_name(factory)} cannot be called.")
    module = made()
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"the factory {_name(factory)} made a {type(module).__name__}, not a torch.nn.Module."
        )
    return module


def _name(factory: Any) -> str:
    return (
        repr(factory) if isinstance(factory, str) else getattr(factory, "__name__", repr(factory))
    )
