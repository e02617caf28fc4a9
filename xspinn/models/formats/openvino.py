"""Models run by OpenVINO: its own files, ONNX files, and torch modules."""

from __future__ import annotations

import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xspinn.carriers.content import Content, check_regular
from xspinn.carriers.remote import is_url
from xspinn.errors import ModelError
from xspinn.models.base import Built, Model, Options
from xspinn.models.feeding import feed_of
from xspinn.models.files import FileModel, missing, name_of
from xspinn.models.formats.module import ModuleModel
from xspinn.models.formats.onnx import self_contained

__all__ = ["OpenVinoModel", "OpenVinoModule"]

_DTYPES = {
    "f32": torch.float32,
    "f64": torch.float64,
    "f16": torch.float16,
    "u8": torch.uint8,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
}


class OpenVinoModel(FileModel):
    """A model that OpenVINO compiles for the CPU: an ``.xml`` file and its ``.bin``, or ONNX.

    It computes in float32 even where the processor has faster ways, since those change the answer.
    Needs the extra ``openvino``.
    """

    suffixes = (".xml",)
    takes = frozenset({"channels_last"})

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Return whether it is a model of OpenVINO."""
        kind = type(model)
        return kind.__name__ == "Model" and kind.__module__.partition(".")[0] == "openvino"

    @classmethod
    def converts(cls, model: Any) -> bool:
        """Return whether it is a model of OpenVINO or a torch module."""
        return isinstance(model, torch.nn.Module) or cls.accepts(model)

    @classmethod
    def of(cls, model: Any, options: Options) -> Model:
        """Make a handle of a model in memory, as a snapshot; of a module, once a patch is known."""
        if isinstance(model, torch.nn.Module):
            return OpenVinoModule(model, options)
        return cls.read_bytes(_as_bytes(model), model.friendly_name, options)

    @classmethod
    def read(cls, content: Content, options: Options) -> Model:
        """Make a handle of an ONNX file, or of a pair of files, ``.xml`` and ``.bin``."""
        _package()
        assert content.origin is not None
        if content.origin.lower().endswith(".onnx"):
            return cls(self_contained(content), name_of(content), options)
        if is_url(content.origin):
            raise ModelError(
                f"{content.origin} is one of two files: fetch the .xml and the .bin, and give the "
                "path of the .xml."
            )
        path = Path(content.origin)
        try:
            check_regular(path.with_suffix(".bin"), str(path.with_suffix(".bin")))
            weights = path.with_suffix(".bin").read_bytes()
        except OSError as error:
            raise ModelError(
                f"the weights of {path} are expected in {path.with_suffix('.bin')}: {error}."
            ) from error
        return cls.read_bytes(_join(path.read_bytes(), weights), path.name, options)

    def inspect(self, loaded: Any) -> None:
        """Note the names, sizes and dtype of what it takes and gives."""
        model = self._open()
        if len(model.inputs) != 1:
            raise ModelError(
                f"{self.name} takes {len(model.inputs)} inputs; it must take one, of shape "
                "(batch, channel, *core dims)."
            )
        kind = model.inputs[0].element_type.get_type_name()
        if kind not in _DTYPES:
            raise ModelError(
                f"{self.name} takes {kind}, which cannot be fed; expected one of {list(_DTYPES)}."
            )
        self.takes_dtype = _DTYPES[kind]
        sizes = model.inputs[0].partial_shape
        self.takes_shape = tuple(None if n.is_dynamic else n.get_length() for n in sizes)
        self.outputs = [
            min(output.get_names()) if output.get_names() else f"output_{k}"
            for k, output in enumerate(model.outputs)
        ]

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of its input."""
        return feed_of(self.takes_dtype, dtype)

    def device(self, asked: torch.device) -> torch.device:
        """Return the CPU."""
        return torch.device("cpu")

    def build(self, device: torch.device) -> Built:
        """Return the compiled model; each thread has a request of its own."""
        compiled = (
            _package()
            .Core()
            .compile_model(
                self._open(),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": "f32",
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    "PERFORMANCE_HINT": "LATENCY",
                },
            )
        )
        requests = threading.local()
        own = self.takes_dtype

        def call(batch: torch.Tensor) -> Any:
            if not hasattr(requests, "own"):
                requests.own = compiled.create_infer_request()
            results = requests.own.infer([batch.to(own).contiguous().numpy(force=True)])
            # The request writes its next answer to the same place.
            tensors = [torch.from_numpy(results[k].copy()) for k in range(len(self.outputs))]
            if len(tensors) == 1:
                return tensors[0]
            return dict(zip(self.outputs, tensors, strict=True))

        return call

    def _open(self) -> Any:
        raw = self.content.open()
        core = _package().Core()
        if raw[: len(_MAGIC)].tobytes() != _MAGIC:
            return core.read_model(raw.tobytes())
        at = len(_MAGIC) + 8
        end = at + int.from_bytes(raw[len(_MAGIC) : at].tobytes(), "little")
        weights = raw[end:].tobytes()
        return core.read_model(raw[at:end].tobytes(), weights)


class OpenVinoModule(Model):
    """A torch module that OpenVINO converts as soon as the patch is known."""

    def __init__(self, module: torch.nn.Module, options: Options) -> None:
        _package()
        self.options = options
        self.module = ModuleModel.of(module, options)
        self.name, self.key = self.module.name, f"openvino-{self.module.key}"
        self.content = self.module.content

    def fitted(self, shape: tuple[int, ...]) -> Model:
        """Convert the module for patches of this shape and batches of any size."""
        package = _package()
        zeros = torch.zeros(shape, dtype=self.module.own_dtype)
        if self.module.channels_last:
            zeros = zeros.movedim(1, -1).contiguous()
        free = package.PartialShape([-1, *zeros.shape[1:]])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch about its own tracing
                converted = package.convert_model(
                    self.module.module(torch.device("cpu")), example_input=zeros, input=[free]
                )
        except Exception as error:
            raise ModelError(
                f"OpenVINO cannot convert the module {self.name} for a patch of shape {shape}: "
                f"{type(error).__name__}: {error}. Give the module itself, or an ONNX file."
            ) from error
        made = OpenVinoModel.read_bytes(_as_bytes(converted), self.name, self.options)
        # The module's own hash says what this is; conversion may number its nodes anew each time.
        made.key = f"{self.key}-{'x'.join(map(str, shape[1:]))}"
        return made

    def build(self, device: torch.device) -> Built:
        """Refuse: nobody said for what patch."""
        raise ModelError(f"the module {self.name} must be fitted to a patch before it is built.")

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the module's weights."""
        return self.module.feed_dtype(dtype)


_MAGIC = b"openvino"
"""Begins two files in one: these letters, 8 bytes of length, the .xml, the .bin."""


def _join(text: bytes, weights: bytes) -> Any:
    return np.frombuffer(_MAGIC + len(text).to_bytes(8, "little") + text + weights, np.uint8)


def _as_bytes(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        _package().save_model(model, path, compress_to_fp16=False)
        return _join(path.read_bytes(), path.with_suffix(".bin").read_bytes())


def _package() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing("openvino", "openvino", "A model for OpenVINO") from error
    return openvino
