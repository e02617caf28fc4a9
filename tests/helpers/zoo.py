"""One network in every format there is."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from helpers.networks import Facies, trained
from xspinn import as_model

SHAPE = (3, 1, 16, 16)
"""Batch, channel, y, x: what those files take that take one size only."""


def example(batch: int = 2) -> torch.Tensor:
    return torch.zeros(batch, *SHAPE[1:])


def exported(batch: int | None = None) -> torch.export.ExportedProgram:
    free = None if batch else ({0: torch.export.Dim("batch")},)
    return torch.export.export(trained(), (example(batch or 2),), dynamic_shapes=free)


def pt2(folder: Path, batch: int | None = None) -> Path:
    path = folder / "facies.pt2"
    torch.export.save(exported(batch), path)
    return path


def scripted() -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(trained())


def torchscript(folder: Path, suffix: str) -> Path:
    path = folder / f"facies{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(scripted(), path)
    return path


def traced() -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(trained(), example())


def safetensors(folder: Path) -> Path:
    path = folder / "facies.safetensors"
    save_file(trained().state_dict(), path)
    return path


def pth(folder: Path, wrap: Callable[[dict[str, Any]], Any] = lambda state: state) -> Path:
    path = folder / "facies.pth"
    torch.save(wrap(trained().state_dict()), path)
    return path


def pickled(folder: Path) -> Path:
    path = folder / "whole.pt"
    torch.save(trained(), path)
    return path


def onnx_file(folder: Path, *, free: bool = True, beside: bool = False) -> Path:
    path = folder / "facies.onnx"
    shapes = ({0: "batch", 2: "y", 3: "x"},) if free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            trained(), (example(),), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    program.save(path, external_data=beside)
    assert (folder / "facies.onnx.data").exists() == beside
    return path


def onnx_proto(folder: Path) -> Any:
    import onnx

    return onnx.load(onnx_file(folder))


def openvino_object(folder: Path) -> Any:
    import openvino

    return openvino.Core().read_model(onnx_file(folder))


def openvino_file(folder: Path) -> Path:
    import openvino

    path = folder / "facies.xml"
    openvino.save_model(openvino_object(folder), path, compress_to_fp16=False)
    return path


def keras_object(layout: str = "channels_last", *, named: bool = False) -> Any:
    """Build the network in Keras and give it the torch network's numbers."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    last = layout == "channels_last"
    sizes = (None, None)
    image = keras.Input((*sizes, 1) if last else (1, *sizes))
    axis = -1 if last else 1
    x = keras.layers.Conv2D(4, 3, padding="same", data_format=layout)(image)
    x = keras.layers.BatchNormalization(axis=axis, epsilon=1e-5)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(2, 1, data_format=layout)(x)
    network = trained()
    model = keras.Model(image, {"facies": x} if named else x)
    model.set_weights([weight.detach().numpy() for weight in _keras_order(network)])
    return model


def _keras_order(network: Facies) -> list[torch.Tensor]:
    conv, norm, head = network.conv, network.norm, network.head
    return [
        conv.weight.permute(2, 3, 1, 0), conv.bias,
        norm.weight, norm.bias, norm.running_mean, norm.running_var,
        head.weight.permute(2, 3, 1, 0), head.bias,
    ]  # fmt: skip


def keras_file(folder: Path, **options: Any) -> Path:
    path = folder / "facies.keras"
    keras_object(**options).save(path)
    return path


def parametrized() -> nn.Module:
    """Return the network with a weight norm on one layer, which changes no value."""
    network = trained()
    nn.utils.parametrizations.weight_norm(network.conv)
    return network


NETWORK = trained()


def on_numpy(batch: Any) -> Any:
    with torch.no_grad():
        return NETWORK(torch.from_numpy(batch)).numpy()


def on_tensors(batch: torch.Tensor) -> torch.Tensor:
    return NETWORK(batch)


LIGHT: dict[str, Callable[[Path], Any]] = {
    "module": lambda _: trained(),
    "module, compiled": lambda _: torch.compile(trained()),
    "module, parametrized": lambda _: parametrized(),
    "exported file": pt2,
    "exported file, fixed batch": lambda folder: pt2(folder, batch=2),
    "exported program": lambda _: exported(),
    "torchscript .pt": lambda folder: torchscript(folder, ".pt"),
    "torchscript .ts": lambda folder: torchscript(folder, ".ts"),
    "torchscript, scripted": lambda _: scripted(),
    "torchscript, traced": lambda _: traced(),
    "safetensors": lambda folder: as_model(safetensors(folder), factory="helpers.networks:Facies"),
    "safetensors, own factory": lambda folder: as_model(safetensors(folder), factory=Facies),
    "state dict": lambda folder: as_model(pth(folder), factory="helpers.networks:Facies"),
    "checkpoint": lambda folder: as_model(
        pth(folder, lambda state: {"epoch": 3, "state_dict": state}),
        factory="helpers.networks:Facies",
    ),
    "pickled module": lambda folder: as_model(pickled(folder), allow_pickle=True),
    "function": lambda _: on_numpy,
    "function on tensors": lambda _: on_tensors,
}

HEAVY: dict[str, Callable[[Path], Any]] = {
    "onnx": onnx_file,
    "onnx, fixed": lambda folder: onnx_file(folder, free=False),
    "onnx, weights beside": lambda folder: onnx_file(folder, beside=True),
    "onnx in memory": onnx_proto,
    "openvino": openvino_file,
    "openvino in memory": openvino_object,
    "openvino of onnx": lambda folder: as_model(onnx_file(folder), format="openvino"),
    "openvino of a module": lambda _: as_model(trained(), format="openvino"),
    "keras": keras_file,
    "keras, channels first": lambda folder: keras_file(folder, layout="channels_first"),
    "keras, named output": lambda folder: keras_file(folder, named=True),
    "keras in memory": lambda _: keras_object(),
}
