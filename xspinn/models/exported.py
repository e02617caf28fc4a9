"""Models that are programs of `torch.export`, such as ``.pt2`` files."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import torch

from xspinn.errors import ModelError
from xspinn.models.base import Built, Model, Options
from xspinn.models.content import Buffer
from xspinn.models.files import FileModel
from xspinn.models.module import calling, feed_of

__all__ = ["ExportedModel"]


class ExportedModel(FileModel):
    """A program that `torch.export` made, from a ``.pt2`` file or in memory.

    It runs as it was exported: call ``.eval()`` on the module before exporting it. A batch size
    that was fixed then is kept to, and so is a fixed patch.

    Only tensors are unpickled, as by ``torch.load(weights_only=True)``, and archives that hold
    compiled libraries or pickled objects are refused, unless ``allow_pickle=True``.
    """

    suffixes = (".pt2",)
    takes = frozenset({"channels_last", "allow_pickle"})

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
        return cls.read_bytes(raw, "ExportedProgram", options, inspected=model)

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
        program = self._open()
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return calling(program.module(), self.takes_dtype)

    def _open(self) -> torch.export.ExportedProgram:
        raw = self.content.open()
        if not self.allow_pickle:
            _refuse_code(raw, self.name)
        return torch.export.load(io.BytesIO(raw.data))


def _refuse_code(raw: Buffer, name: str) -> None:
    """Refuse archives whose loading would run code: torch.export.load unpickles what it finds."""
    with zipfile.ZipFile(io.BytesIO(raw.data)) as archive:
        members = archive.namelist()
        if len(set(members)) != len(members):
            raise ModelError(f"the archive {name} names a member twice: it was tampered with.")
        pickled = [member for member in members if member.endswith(".pt")]
        for member in members:
            folder, _, _ = member.rpartition("/")
            if "aotinductor" in member or member.endswith((".so", ".pkl")):
                raise ModelError(_refusal(name, member))
            if member.endswith("_config.json"):
                entries = json.loads(archive.read(member))["config"].values()
                for entry in entries:
                    path = entry["path_name"]
                    if path.startswith(("custom_obj", "opaque_obj")):
                        raise ModelError(_refusal(name, path))
                    if entry["use_pickle"]:
                        pickled.append(f"{folder}/{path}")
        for member in pickled:
            held = archive.read(member)
            if not held:
                continue
            try:
                torch.load(io.BytesIO(held), weights_only=True)
            except Exception as error:
                raise ModelError(_refusal(name, member)) from error


def _refusal(name: str, member: str) -> str:
    return (
        f"the archive {name} holds {member!r}, which runs code when it is loaded, and this was not "
        "asked for. If you trust whoever made the file, give as_model(..., allow_pickle=True); "
        "else export the model again with tensors as its example inputs."
    )
