"""Models of Keras 3, on torch or TensorFlow."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xspinn.carriers.content import Content
from xspinn.errors import ModelError
from xspinn.hooks.keras import all_layers
from xspinn.models.base import Built, Model, Options
from xspinn.models.feeding import check_integers
from xspinn.models.files import FileModel, missing
from xspinn.models.formats.zips import check_zip

__all__ = ["KerasModel"]


class KerasModel(FileModel):
    """A ``.keras`` file or a model in memory.

    Keras runs on the backend that is in use, or that the environment variable ``KERAS_BACKEND``
    names, and else on torch. Where its layers say so, it gets channels last. Lambda layers, which
    hold pickled code, are refused unless ``allow_pickle=True``. Needs the extra ``keras``.
    """

    suffixes = (".keras",)
    takes = frozenset({"channels_last", "allow_pickle"})

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Return whether it is a model of Keras."""
        return any(
            kind.__name__ == "Model" and kind.__module__.partition(".")[0] == "keras"
            for kind in type(model).__mro__
        )

    @classmethod
    def of(cls, model: Any, options: Options) -> Model:
        """Make a handle of a model in memory, as a snapshot."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            raw = np.frombuffer(path.read_bytes(), np.uint8)
        # The file says when it was saved, so its hash would be another each time.
        digest = hashlib.sha256(model.to_json().encode())
        for weight in model.get_weights():
            digest.update(np.ascontiguousarray(weight).data)
        return cls(Content.of_pieces(digest.hexdigest(), [raw]), model.name, options)

    def prepare(self, options: Options) -> None:
        """Note what was asked, and the backend that answers."""
        self.asked_last = options.channels_last
        self.backend = _package().backend.backend()

    def inspect(self, loaded: Any) -> None:
        """Note sizes, dtype and where its channels are."""
        keras = _package(self.backend)
        model = self._load(keras)
        inputs = getattr(model, "inputs", None)
        if inputs is None or len(inputs) != 1:
            raise ModelError(
                f"the Keras model {self.name} takes {len(inputs or [])} inputs; it must take one."
            )
        if self.asked_last is None:
            self.channels_last = _channels_last(model, keras)
        self.takes_shape = tuple(inputs[0].shape)
        self.takes_dtype = str(inputs[0].dtype)

    def feed_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of its input."""
        if dtype.kind == "c":
            raise ModelError(f"the array is {dtype}, but {self.name} takes {self.takes_dtype}.")
        half = self.takes_dtype in ("float16", "bfloat16")
        return check_integers(np.dtype("float32" if half else self.takes_dtype), dtype)

    def device(self, asked: torch.device) -> torch.device:
        """Return the CPU where Keras does not run on torch."""
        return asked if self.backend == "torch" else torch.device("cpu")

    def build(self, device: torch.device) -> Built:
        """Return the model on a device."""
        keras = _package(self.backend)
        place = "cpu:0" if device.type == "cpu" else f"cuda:{device.index or 0}"
        on_torch = keras.backend.backend() == "torch"
        with keras.device(place if on_torch else "cpu:0"):
            model = self._load(keras)

        def call(batch: torch.Tensor) -> Any:
            if not on_torch:
                return _as_numpy(keras, model(batch.numpy(force=True), training=False))
            with torch.inference_mode(), keras.device(place):
                return model(batch, training=False)

        return call

    def _load(self, keras: Any) -> Any:
        """Keras reads files only, and only those that end in .keras."""
        raw = self.content.open()
        if not self.allow_pickle:
            check_zip(raw, self.name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            path.write_bytes(raw.data)
            try:
                return keras.saving.load_model(path, compile=False, safe_mode=not self.allow_pickle)
            except ValueError as error:
                if "safe_mode" not in str(error):
                    raise
                raise ModelError(
                    f"{self.name} holds a Lambda layer or another that Keras holds to be unsafe, "
                    "since loading it runs code or opens files, and this was not asked for. If you "
                    "trust whoever made the file, give as_model(..., allow_pickle=True); else make "
                    "the layer a class."
                ) from error


def _channels_last(model: Any, keras: Any) -> bool:
    """What its layers say, and where they say nothing, what Keras is set to."""
    layers = [layer for layer in all_layers(model) if getattr(layer, "data_format", None)]
    said: set[str] = {layer.data_format for layer in layers}
    if len(said) > 1:
        raise ModelError(
            f"the layers of the Keras model {model.name} disagree about where channels are "
            f"({', '.join(sorted(said))}): say it with as_model(..., channels_last=True or False)."
        )
    return (said.pop() if said else keras.config.image_data_format()) == "channels_last"


def _as_numpy(keras: Any, result: Any) -> Any:
    if isinstance(result, dict):
        return {name: _as_numpy(keras, value) for name, value in result.items()}
    if isinstance(result, tuple | list):
        return [_as_numpy(keras, value) for value in result]
    return keras.ops.convert_to_numpy(result)


def _package(backend: str | None = None) -> Any:
    """Import Keras; on torch, unless somebody chose otherwise."""
    if "keras" not in sys.modules and importlib.util.find_spec("keras") is not None:
        os.environ.setdefault("KERAS_BACKEND", backend or "torch")
    try:
        import keras
    except ImportError as error:
        if importlib.util.find_spec("keras") is not None:
            raise ModelError(
                f"Keras cannot be imported with the backend {os.environ['KERAS_BACKEND']!r}: "
                f"{error}. Install that backend, or set KERAS_BACKEND=torch."
            ) from error
        raise missing("keras", "keras", "A model of Keras") from error
    return keras
