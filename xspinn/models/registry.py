"""Which formats there are, and which one a model is in."""

from __future__ import annotations

import functools
import importlib
import io
import zipfile
from importlib.metadata import entry_points
from pathlib import PurePath

from xspinn.carriers.content import Content
from xspinn.errors import ModelError, warn
from xspinn.models.base import Model
from xspinn.models.files import name_of

__all__ = ["GROUP", "format_of_file", "get_format", "known_formats"]

GROUP = "xspinn.models"
"""Entry points of this group name classes of other packages, derived from `Model`."""

# In the order in which they are asked about an object: every module and program is also callable.
_BUILT_IN = {
    "torch.export": "exported:ExportedModel",
    "torchscript": "script:ScriptModel",
    "onnx": "onnx:OnnxModel",
    "openvino": "openvino:OpenVinoModel",
    "keras": "keras:KerasModel",
    "state_dict": "weights:WeightsModel",
    "module": "module:ModuleModel",
    "torch_function": "function:TensorFunctionModel",
    "function": "function:FunctionModel",
}


@functools.cache
def known_formats() -> dict[str, type[Model]]:
    """Return all formats by name: those of other packages first, so that they can take theirs."""
    found: dict[str, type[Model]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name in _BUILT_IN:
            _complain(f"{entry.name!r} of {entry.value} has the name of a built-in format")
            continue
        try:
            kind = entry.load()
        except Exception as error:  # noqa: BLE001 - whatever another package does when imported
            _complain(f"{entry.name!r} cannot be loaded from {entry.value}: {error}")
            continue
        if not (isinstance(kind, type) and issubclass(kind, Model)):
            _complain(f"{entry.name!r}, which is {entry.value}, is no class derived from Model")
            continue
        found[entry.name] = kind
    for name, place in _BUILT_IN.items():
        module, _, kind_name = place.partition(":")
        found[name] = getattr(importlib.import_module(f"xspinn.models.formats.{module}"), kind_name)
    return found


def _complain(what: str) -> None:
    warn(f"the model format {what}; it is left out.")


def get_format(name: str) -> type[Model]:
    """Return a format by its name."""
    try:
        return known_formats()[name]
    except KeyError:
        raise ModelError(
            f"format={name!r} is not known; the formats here are {sorted(known_formats())}."
        ) from None


def format_of_file(content: Content) -> type[Model]:
    """Return the format of a file, by the end of its name, and for ``.pt`` by what it holds.

    Raises
    ------
    ModelError
        If no format has such files.
    """
    suffix = PurePath(name_of(content)).suffix.lower()
    if suffix in (".pt", ".pth"):
        return get_format(_held(content))
    for kind in known_formats().values():
        if suffix in kind.suffixes:
            return kind
    known = sorted({suffix for kind in known_formats().values() for suffix in kind.suffixes})
    raise ModelError(
        f"{content.origin!r} ends in {suffix or 'nothing'!r}, which is no format of models; known "
        f"are {', '.join(known)}. Name the format with as_model(path, format=...)."
    )


def _held(content: Content) -> str:
    """Torch writes programs and weights into files of the same names."""
    try:
        with zipfile.ZipFile(io.BytesIO(content.open().data)) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except zipfile.BadZipFile:
        return "state_dict"  # an old file, or none at all: reading it will tell
    if any(name.startswith("models/") for name in names):
        return "torch.export"
    return "torchscript" if "constants.pkl" in names else "state_dict"
