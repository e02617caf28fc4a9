"""Models in ONNX, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from xspinn.carriers.content import Content
from xspinn.carriers.remote import is_url
from xspinn.errors import ModelError
from xspinn.models.base import Built, Model, Options
from xspinn.models.feeding import feed_of
from xspinn.models.files import FileModel, missing, name_of, sha256

__all__ = ["OnnxModel", "self_contained"]

_CUDA = "CUDAExecutionProvider"

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
    "tensor(int16)": torch.int16,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
}


class OnnxModel(FileModel):
    """An ``.onnx`` file or a ``ModelProto``, with free or fixed sizes.

    Weights in files beside it are taken along. ONNX Runtime uses as many threads as torch has; on a
    GPU it runs where its CUDA provider is installed. With several outputs, they are named as in
    the file. Needs the extra ``onnx``.
    """

    suffixes = (".onnx",)
    takes = frozenset({"channels_last"})

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Return whether it is an ONNX model in memory."""
        kind = type(model)
        return kind.__name__ == "ModelProto" and kind.__module__.partition(".")[0] == "onnx"

    @classmethod
    def of(cls, model: Any, options: Options) -> Model:
        """Make a handle of a model in memory, as a snapshot."""
        _refuse_external(model, "the model in memory")
        raw = np.frombuffer(model.SerializeToString(deterministic=True), np.uint8)
        return cls.read_bytes(raw, model.graph.name or "onnx", options)

    @classmethod
    def read(cls, content: Content, options: Options) -> Model:
        """Make a handle of a file, and of the files of weights that it names."""
        _runtime()
        return cls(self_contained(content), name_of(content), options)

    def inspect(self, loaded: Any) -> None:
        """Note the names, sizes and dtype of what it takes and gives."""
        session = self._open(torch.device("cpu"))
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(
                f"{self.name} takes {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); it "
                "must take one, of shape (batch, channel, *core dims)."
            )
        if inputs[0].type not in _DTYPES:
            raise ModelError(
                f"{self.name} takes {inputs[0].type}, which cannot be fed; expected one of "
                f"{list(_DTYPES)}."
            )
        self.input = inputs[0].name
        self.outputs = [output.name for output in session.get_outputs()]
        self.takes_dtype = _DTYPES[inputs[0].type]
        self.takes_shape = tuple(n if isinstance(n, int) else None for n in inputs[0].shape)

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of its input."""
        return feed_of(self.takes_dtype, dtype)

    def device(self, asked: torch.device) -> torch.device:
        """Return the GPU only where ONNX Runtime can use it."""
        usable = asked.type == "cuda" and _CUDA in _runtime().get_available_providers()
        return asked if usable else torch.device("cpu")

    def build(self, device: torch.device) -> Built:
        """Return a session on a device."""
        session = self._open(device)
        own = self.takes_dtype

        def call(batch: torch.Tensor) -> Any:
            results = session.run(self.outputs, {self.input: batch.to(own).numpy(force=True)})
            tensors = [torch.from_numpy(result).to(batch.device) for result in results]
            if len(tensors) == 1:
                return tensors[0]
            return dict(zip(self.outputs, tensors, strict=True))

        return call

    def _open(self, device: torch.device) -> Any:
        runtime = _runtime()
        settings = runtime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = torch.get_num_threads()
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            providers.insert(0, (_CUDA, {"device_id": device.index or 0}))
        return runtime.InferenceSession(self.content.open().tobytes(), settings, providers)


def self_contained(content: Content) -> Content:
    """Return the content of an ONNX file with its weights, where they lie in files beside it.

    Raises
    ------
    ModelError
        If a file beside it is missing, or all of it is more than the 2 GiB that ONNX can hold.
    """
    assert content.origin is not None
    try:
        import onnx
        from onnx.external_data_helper import load_external_data_for_model
    except ImportError as error:
        raise missing("onnx", "onnx", "A model in ONNX") from error
    try:
        proto = onnx.load_model_from_string(content.open().tobytes())
    except Exception as error:
        raise ModelError(
            f"{content.origin} cannot be read as ONNX: {type(error).__name__}: {error}. It holds "
            f"{content.n_bytes} bytes; if it was cut off, fetch it again."
        ) from error
    if not any(map(_is_external, _tensors(proto))):
        return content
    if is_url(content.origin):
        raise ModelError(
            f"{content.origin} keeps its weights in other files, which do not come with it: fetch "
            "all of them and give the path."
        )
    try:
        load_external_data_for_model(proto, str(Path(content.origin).parent))
        _refuse_external(proto, content.origin)
        raw = np.frombuffer(proto.SerializeToString(deterministic=True), np.uint8)
    except Exception as error:
        raise ModelError(
            f"the weights that {content.origin} keeps in files beside it cannot be read: {error}."
        ) from error
    return Content.of_pieces(sha256(raw), [raw])


def _tensors(proto: Any) -> list[Any]:
    """Return all tensors of a model, wherever they are: in attributes, inner graphs, functions."""
    if proto.DESCRIPTOR.name == "TensorProto":
        return [proto]
    found: list[Any] = []
    for field, held in proto.ListFields():
        if field.message_type is not None:
            for inner in [held] if hasattr(held, "ListFields") else held:
                found.extend(_tensors(inner))
    return found


def _is_external(tensor: Any) -> bool:
    """Whether a tensor's values lie in another file."""
    return bool(tensor.data_location == tensor.EXTERNAL)


def _refuse_external(proto: Any, name: str) -> None:
    left = [tensor.name for tensor in _tensors(proto) if _is_external(tensor)]
    if left:
        raise ModelError(
            f"{name} keeps {', '.join(map(repr, left[:3]))} in another file, which was not loaded: "
            "load it with onnx.load(path), or give the path."
        )


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", "onnx", "A model in ONNX") from error
    return onnxruntime
