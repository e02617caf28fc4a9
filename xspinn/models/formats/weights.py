"""Models that are a file of weights and a factory that makes the module for them."""

from __future__ import annotations

import importlib
import io
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import numpy as np
import torch

from xspinn.carriers.content import Buffer, Content
from xspinn.errors import ModelError
from xspinn.machine.worker import name_process
from xspinn.models.base import TORCH, Built, Model, Options
from xspinn.models.calling import calling, own_dtype
from xspinn.models.feeding import feed_of
from xspinn.models.files import FileModel
from xspinn.models.formats.module import ModuleModel
from xspinn.models.formats.zips import check_zip
from xspinn.models.hashing import fingerprint
from xspinn.plans.tuning import Tuning

__all__ = ["WeightsModel"]

NESTED = ("state_dict", "model_state_dict", "model")
"""Where training loops put the state dict in a checkpoint that holds more."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before all names: DataParallel, torch.compile, Lightning."""


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
    tunes = TORCH

    @classmethod
    def read(cls, content: Content, options: Options) -> Model:
        """Make a handle of a file; of a pickled module, if that is allowed."""
        raw = content.open()
        if options.allow_pickle and options.factory is None and not _is_safetensors(raw):
            held = _unpickle(raw, torch.device("cpu"), code=True)
            nested = held.get("model") if isinstance(held, Mapping) else None
            for module in (held, nested):
                if isinstance(module, torch.nn.Module):
                    return ModuleModel.of(module, Options(channels_last=options.channels_last))
        if options.factory is None:
            raise ModelError(
                f"{content.origin} holds weights without the module they belong to: name what "
                'makes it, with as_model(path, factory="package.module:factory").'
            )
        return super().read(content, options)

    def prepare(self, options: Options) -> None:
        """Keep the factory."""
        self.factory = options.factory

    def settings(self) -> list[Any]:
        """Add the factory, its name and its code."""
        named = self.factory if isinstance(self.factory, str) else None
        return [*super().settings(), named, fingerprint(_resolved(self.factory))]

    def inspect(self, loaded: Any) -> None:
        """Build it once, which shows whether weights and module fit together."""
        self.own_dtype = own_dtype(list(self._weights(torch.device("cpu")).values()))
        self._module(torch.device("cpu"))

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the weights."""
        return feed_of(self.own_dtype, dtype)

    def sketch(self, batch: torch.Tensor) -> Any:
        """Run the module on the meta device."""
        return calling(self._module(batch.device), self.own_dtype)(batch)

    def build(self, device: torch.device) -> Built:
        """Return the module with its weights on a device, in eval mode."""
        return self.tuned(device, Tuning())

    def tuned(self, device: torch.device, tuning: Tuning) -> Built:
        """Return the module, called in some way."""
        return calling(self._module(device), self.own_dtype, device, tuning)

    def _module(self, device: torch.device) -> torch.nn.Module:
        # Weights take the place of the module's own, in the dtype of the file.
        with torch.device("meta" if device.type == "meta" else "cpu"):
            module = _make(self.factory)
        weights = self._weights(device)
        own = module.state_dict().keys()
        for prefix in PREFIXES:
            if not own & weights.keys() and all(name.startswith(prefix) for name in weights):
                weights = {name.removeprefix(prefix): t for name, t in weights.items()}
        try:
            module.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise ModelError(
                f"the weights in {self.name} do not fit the module that {_name(self.factory)} "
                f"makes: {error}"
            ) from error
        for name, buffer in list(module.named_buffers()):
            if name not in weights and buffer.is_floating_point():
                buffer.data = buffer.to(self.own_dtype)
        return module.to(device).eval().requires_grad_(False)

    def _weights(self, device: torch.device) -> dict[str, torch.Tensor]:
        raw = self.content.open()
        if _is_safetensors(raw) or self.name.lower().endswith(".safetensors"):
            from safetensors.torch import load

            return {name: t.to(device) for name, t in load(raw.tobytes()).items()}
        begin = raw[:2].tobytes()
        if not begin.startswith((b"PK", b"\x80")):
            raise ModelError(
                f"{self.name} begins with {begin!r}, which neither safetensors nor files of "
                "torch.save do: it was cut off, damaged, or is of another format. Fetch it again, "
                "or name its format with as_model(..., format=...)."
            )
        if not self.allow_pickle:
            check_zip(raw, self.name)
        try:
            held = _unpickle(raw, device, code=self.allow_pickle)
        except pickle.UnpicklingError as error:
            found = re.search(r"Unsupported (global|operand)\S*( GLOBAL)? (\S+)", str(error))
            raise ModelError(
                f"{self.name} holds more than tensors{f' ({found[3]})' if found else ''}, and "
                "loading that runs code, which was not asked for. If you trust whoever made the "
                "file, give as_model(..., allow_pickle=True); else save module.state_dict() alone."
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


def _is_safetensors(raw: Buffer) -> bool:
    """Whether the bytes begin as the format says: 8 of length, and JSON."""
    return raw[8:9].tobytes() == b"{" and int.from_bytes(raw[:8].tobytes(), "little") < raw.nbytes


def _unpickle(raw: Buffer, device: torch.device, *, code: bool) -> Any:
    return torch.load(io.BytesIO(raw.data), map_location=device, weights_only=not code)


def _resolved(factory: str | Callable[[], Any] | None) -> Any:
    """Return a factory, imported if it is given by its name.

    Raises
    ------
    ModelError
        If it cannot be imported in this process.
    """
    if not isinstance(factory, str):
        return factory
    package, _, name = factory.partition(":")
    if not name:
        raise ModelError(f'factory={factory!r}: expected a name like "package.module:factory".')
    try:
        made: Any = importlib.import_module(package)
        for part in name.split("."):
            made = getattr(made, part)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"the factory {factory!r} cannot be imported in {name_process()}: {error}. Install the "
            "package there, on every worker too, or give the factory itself, which travels with "
            "the model: factory=MyNetwork."
        ) from error
    return made


def _make(factory: str | Callable[[], Any] | None) -> torch.nn.Module:
    """Call a factory, or the one of that name, and see that it makes a module."""
    made = _resolved(factory)
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
