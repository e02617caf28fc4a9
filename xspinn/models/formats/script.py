"""Models that are TorchScript programs."""

from __future__ import annotations

import dataclasses
import io
import warnings
from typing import Any

import numpy as np
import torch

from xspinn.models.base import Built, Model, Options
from xspinn.models.calling import calling, own_dtype
from xspinn.models.feeding import feed_of
from xspinn.models.files import FileModel
from xspinn.models.formats.scripted import harmless_script
from xspinn.plans.tuning import Tuning

__all__ = ["ScriptModel"]


class ScriptModel(FileModel):
    """A TorchScript program, from a file that `torch.jit.save` wrote or in memory.

    TorchScript is loaded and no longer recommended, since torch deprecates it: export the module
    with `torch.export` where that is possible. A file whose code uses more than operators that are
    known to compute, or classes of compiled libraries, as quantized programs do, is refused unless
    ``allow_pickle=True``.
    """

    suffixes = (".ts", ".torchscript")
    takes = frozenset({"channels_last", "allow_pickle"})
    tunes = frozenset({"memory_format"})

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Return whether it is a scripted or traced module."""
        return isinstance(model, torch.jit.ScriptModule)

    @classmethod
    def of(cls, model: Any, options: Options) -> Model:
        """Make a handle of a program in memory, as a snapshot."""
        raw = np.frombuffer(model.save_to_buffer(), np.uint8)
        # It is the user's own, and not a stranger's file.
        trusted = dataclasses.replace(options, allow_pickle=True)
        return cls.read_bytes(raw, type(model).__name__, trusted)

    def inspect(self, loaded: Any) -> None:
        """Note the dtype of its weights."""
        program = self._open(torch.device("cpu"))
        self.own_dtype = own_dtype([*program.parameters(), *program.buffers()])

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of its weights; without any, the default."""
        return feed_of(self.own_dtype, dtype)

    def build(self, device: torch.device) -> Built:
        """Return the program on a device, in eval mode."""
        return self.tuned(device, Tuning())

    def tuned(self, device: torch.device, tuning: Tuning) -> Built:
        """Return the program, called in some way."""
        return calling(self._open(device), self.own_dtype, device, tuning)

    def _open(self, device: torch.device) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            load: Any = torch.jit.load
            raw = self.content.open()
            file = io.BytesIO(raw.data) if self.allow_pickle else harmless_script(raw, self.name)
            return load(file, map_location=device).eval()
