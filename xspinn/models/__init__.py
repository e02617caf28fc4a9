"""Models of every kind behind one handle, one file a format."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from xspinn.carriers.content import Content
from xspinn.carriers.remote import shown
from xspinn.errors import ModelError
from xspinn.machine.worker import name_process
from xspinn.models.base import Model, Options
from xspinn.models.registry import format_of_file, get_format, known_formats

__all__ = ["Content", "Model", "Options", "as_model"]


def as_model(
    model: Any,
    *,
    format: str | None = None,  # noqa: A002 - what it is called everywhere
    factory: str | Callable[[], Any] | None = None,
    sha256: str | None = None,
    channels_last: bool | None = None,
    allow_pickle: bool = False,
) -> Model:
    """Make a model handle from anything that `predict` takes; needed only to say more about it.

    Parameters
    ----------
    model : object
        - a `torch.nn.Module`;
        - a path or URL of a file: ``.pt2`` of `torch.export`, ``.ts`` or ``.pt`` of TorchScript,
          ``.safetensors`` or ``.pth`` with weights, ``.onnx``, ``.xml`` of OpenVINO, ``.keras``,
          or a format that another package registers;
        - an exported program, a TorchScript module, an ONNX ``ModelProto``, a model of OpenVINO or
          of Keras, in memory;
        - a function that takes and returns a numpy array, or torch tensors if the annotation of
          its first parameter says so; one that can be pickled, where other processes run it;
        - a model handle, which is returned as it is.

        It gets ``(batch, channel, *core dims)`` and returns an array of the same rank, one without
        the channel axis, or a dict or tuple of such arrays.
    format : str, optional
        Name of the format, where the kind of object or the end of the name does not tell: one of
        ``"torch.export"``, ``"torchscript"``, ``"state_dict"``, ``"onnx"``, ``"openvino"``,
        ``"keras"``, ``"module"``, ``"function"``, ``"torch_function"``, or another that is
        registered. ``"openvino"`` also takes ONNX files and torch modules.
    factory : str or callable, optional
        For a file of weights, what makes the module they belong to: a name such as
        ``"package.module:factory"``, which every worker must be able to import, or the callable
        itself, which travels with the model. It is called without arguments.
    sha256 : str, optional
        What the sha256 of the file must be. With it, a file at a URL is fetched only once to each
        machine.
    channels_last : bool, optional
        Whether the model wants and returns ``(batch, *core dims, channel)``. By default it does
        not, but for Keras, where its layers tell.
    allow_pickle : bool, default: False
        Allow a file to hold pickled Python objects, such as a whole module or a Lambda layer, and
        programs to use any operator, such as those of other packages. That runs whatever code the
        file contains, with all that you may do, here and on every worker: only for files that you
        made, or whose maker you trust.

    Returns
    -------
    Model
        A handle, which `predict` takes in the model's place.

    Raises
    ------
    ModelError
        If it is none of these, cannot be loaded, or wants a package that is not installed.

    Examples
    --------
    >>> import torch
    >>> as_model(torch.nn.Conv2d(1, 2, 3))
    <ModuleModel Conv2d, 80 bytes, hash ...>

    Weights, and what they belong to:

    >>> from safetensors.torch import save_file
    >>> save_file(torch.nn.Conv2d(1, 2, 3).state_dict(), "weights.safetensors")  # doctest: +SKIP
    >>> as_model("weights.safetensors", factory="package.module:network")  # doctest: +SKIP
    """
    given = {"factory": factory, "channels_last": channels_last, "allow_pickle": allow_pickle}
    if isinstance(model, Model):
        _refuse(given | {"format": format, "sha256": sha256}, "it is a model handle already")
        return model
    options = Options(factory, channels_last, allow_pickle)
    if isinstance(model, str | os.PathLike):
        content = Content.of_file(os.fspath(model), sha256)
        kind = get_format(format) if format else format_of_file(content)
        _check(given, kind)
        return _made(lambda: kind.read(content, options), kind, shown(os.fspath(model)))
    _refuse({"sha256": sha256}, "only files have one")
    what = f"the {type(model).__name__} that was given"
    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise ModelError(f"{model.__name__} is a class: give a module, {model.__name__}(...).")
    if format is not None:
        kind = get_format(format)
        if not kind.converts(model):
            raise ModelError(f"{what} is no model of format {format!r}.")
    else:
        kind = next((kind for kind in known_formats().values() if kind.accepts(model)), Model)
        if kind is Model:
            raise ModelError(
                f"a model of type {type(model).__name__!r} is not known: give a torch.nn.Module, "
                "a path or URL of a model file, or a function of a numpy array of shape (batch, "
                "channel, *core dims)."
            )
    _check(given, kind)
    return _made(lambda: kind.of(model, options), kind, what)


def _made(make: Callable[[], Model], kind: type[Model], what: str) -> Model:
    """Make a handle, and say of what, if it fails in a way that the format did not expect."""
    try:
        return make()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{what} cannot be loaded as a model ({kind.__name__}) in {name_process()}: "
            f"{type(error).__name__}: {error}. If it is a file, it may be cut off or of another "
            "format."
        ) from error


def _check(given: dict[str, Any], kind: type[Model]) -> None:
    unused = {name: value for name, value in given.items() if name not in kind.takes}
    _refuse(unused, f"{kind.__name__} has no use for it")


def _refuse(unused: dict[str, Any], why: str) -> None:
    for name, value in unused.items():
        if value is not None and value is not False:
            raise ModelError(f"{name}={value!r} was given, but {why}: leave it out.")
