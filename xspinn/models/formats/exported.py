"""Models that are programs of `torch.export`, such as ``.pt2`` files."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import torch

from xspinn.errors import ModelError
from xspinn.models.base import TORCH, Built, Model, Options
from xspinn.models.calling import calling
from xspinn.models.feeding import feed_of
from xspinn.models.files import FileModel
from xspinn.models.formats.archive import harmless
from xspinn.plans.tuning import Tuning

__all__ = ["ExportedModel"]


class ExportedModel(FileModel):
    """A program that `torch.export` made, from a ``.pt2`` file or in memory.

    It runs as it was exported: call ``.eval()`` on the module before exporting it. A batch size
    that was fixed then is kept to, and so is a fixed patch.

    Only tensors are unpickled, as by ``torch.load(weights_only=True)``. Archives that hold
    compiled libraries, pickled objects, code in the place of expressions and names, or operators
    that are not known to do nothing but compute, are refused unless ``allow_pickle=True``.
    """

    suffixes = (".pt2",)
    takes = frozenset({"channels_last", "allow_pickle"})
    tunes = TORCH

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Return whether it is an exported program."""
        return isinstance(model, torch.export.ExportedProgram)

    @classmethod
    def of(cls, model: Any, options: Options) -> Model:
        """Make a handle of a program in memory, as a snapshot."""
        buffer = io.BytesIO()
        torch.export.save(model, buffer)
        raw = np.frombuffer(buffer.getvalue(), np.uint8)
        # It is the user's own, and not a stranger's file.
        trusted = dataclasses.replace(options, allow_pickle=True)
        return cls.read_bytes(raw, "ExportedProgram", trusted, inspected=model)

    def inspect(self, loaded: Any) -> None:
        """Note the shape and dtype of what it takes, and whether it can be moved."""
        program = loaded if loaded is not None else self._open()
        inputs = [value for value in program.graph_signature.user_inputs if value is not None]
        if len(inputs) != 1:
            raise ModelError(
                f"the program {self.name} takes {len(inputs)} inputs ({', '.join(map(str, inputs))}"
                "); it must take one tensor of shape (batch, channel, *core dims). Export a module "
                "whose forward takes that alone."
            )
        node = next(n for n in program.graph.nodes if n.op == "placeholder" and n.name == inputs[0])
        value = node.meta["val"]
        self.takes_dtype: torch.dtype | None = value.dtype
        self.takes_shape = tuple(size if isinstance(size, int) else None for size in value.shape)

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype that the program was exported for."""
        return feed_of(self.takes_dtype, dtype)

    def build(self, device: torch.device) -> Built:
        """Return the program on a device."""
        return self.tuned(device, Tuning())

    def tuned(self, device: torch.device, tuning: Tuning) -> Built:
        """Return the program, called in some way."""
        program = self._open()
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return calling(program.module(), self.takes_dtype, device, tuning)

    def _open(self) -> torch.export.ExportedProgram:
        raw = self.content.open()
        return torch.export.load(
            io.BytesIO(raw.data) if self.allow_pickle else harmless(raw, self.name)
        )
