"""What models from files have in common."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from pathlib import PurePath
from typing import Any, Self
from urllib.parse import urlsplit

from xspinn.carriers.content import Buffer, Content
from xspinn.carriers.remote import is_url
from xspinn.errors import ModelError
from xspinn.machine.worker import name_process
from xspinn.models.base import Model, Options

__all__ = ["FileModel", "missing", "name_of", "sha256"]


class FileModel(Model):
    """A model that is built from the bytes of one file, which may also lie in memory."""

    takes_shape: tuple[int | None, ...] | None = None

    def __init__(self, content: Content, name: str, options: Options, loaded: Any = None) -> None:
        self.content = content
        self.name = name
        self.channels_last = bool(options.channels_last)
        self.allow_pickle = options.allow_pickle
        self.prepare(options)
        try:
            self.inspect(loaded)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"{content.origin or name} cannot be loaded as a model ({type(self).__name__}) in "
                f"{name_process()}: {type(error).__name__}: {error}. It holds {content.n_bytes} "
                f"bytes with sha256 {content.key}. If it was cut off or is of another format, "
                "fetch it again, or name its format with as_model(..., format=...)."
            ) from error
        settings = [type(self).__name__, content.key, *self.settings()]
        self.key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    @classmethod
    def read(cls, content: Content, options: Options) -> Model:
        """Make a handle of a file, and load it once to see that it can be."""
        return cls(content, name_of(content), options)

    @classmethod
    def read_bytes(cls, raw: Buffer, name: str, options: Options, inspected: Any = None) -> Self:
        """Make a handle of bytes in memory."""
        return cls(Content.of_pieces(sha256(raw), [raw]), name, options, inspected)

    def prepare(self, options: Options) -> None:
        """Take over more options."""

    def settings(self) -> list[Any]:
        """What the answers depend on besides the bytes; JSON must be able to hold it."""
        return [self.channels_last]

    @abstractmethod
    def inspect(self, loaded: Any) -> None:
        """Load the model, or look at what was loaded, and note what it takes."""

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """Sizes that the file fixes, channels first."""
        held = self.takes_shape
        if held is None or not self.channels_last:
            return held
        return (held[0], held[-1], *held[1:-1])


def name_of(content: Content) -> str:
    """Return the name of a file without its folders."""
    origin = content.origin or ""
    return PurePath(urlsplit(origin).path if is_url(origin) else origin).name


def sha256(raw: Buffer) -> str:
    """Hash some bytes."""
    return hashlib.sha256(raw.data).hexdigest()


def missing(package: str, extra: str, what: str) -> ModelError:
    """Say what to install."""
    return ModelError(
        f"{what} needs the package {package}, which is not installed in {name_process()}: "
        f"pip install 'xspinn[{extra}]', on every worker too."
    )
