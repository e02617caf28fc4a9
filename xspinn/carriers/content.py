"""The bytes of a model, wherever they are.

A model's weights may lie in a file that every worker can open, at a URL, or in the memory of the
process that made the model. `Content` is one name for all of these: it is small until it is opened,
and it is opened where the model is built.
"""

from __future__ import annotations

import contextlib
import hashlib
import stat
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from xspinn.carriers.remote import download, file_sha256, is_url, shown
from xspinn.errors import ModelError
from xspinn.machine.locks import KeyedLocks
from xspinn.machine.memory import Latest, host_memory
from xspinn.machine.worker import name_process

__all__ = [
    "INLINE",
    "Buffer",
    "Content",
    "Ticket",
    "carried_by",
    "check_regular",
    "no_memory_of",
]

Buffer = npt.NDArray[np.uint8]

INLINE = 32 * 1024
"""Bytes that travel with their address: for less, a second way would not pay."""


class Ticket(Protocol):
    """What a carrier hands out for bytes it has taken charge of; it is small and can be pickled."""

    def fetch(self) -> Buffer:
        """Return the bytes, in whatever process this is."""


_carrier: ContextVar[Callable[[Content], Ticket | None] | None] = ContextVar(
    "xspinn_carrier", default=None
)


@contextlib.contextmanager
def carried_by(carrier: Callable[[Content], Ticket | None]) -> Iterator[None]:
    """Let a carrier take charge of what is pickled meanwhile, in place of the bytes themselves."""
    token = _carrier.set(carrier)
    try:
        yield
    finally:
        _carrier.reset(token)


class Content:
    """Bytes that are known by a key, and found when they are opened.

    Pickled on its own, it carries its bytes, or the path or URL they came from. Inside a graph a
    carrier takes charge of them; see `xspinn.carriers.shared`.

    Attributes
    ----------
    key : str
        For a file, the sha256 of its bytes, which is checked whenever it is opened.
    n_bytes : int
    origin : str or None
        Path or URL of the file, without passwords, queries and whatever else may be secret.
    """

    def __init__(
        self,
        key: str,
        n_bytes: int,
        *,
        origin: str | None = None,
        pieces: Sequence[Buffer] | None = None,
        ticket: Ticket | None = None,
    ) -> None:
        self.key = key
        self.n_bytes = n_bytes
        self.origin = None if origin is None else shown(origin)
        self._origin = origin
        self.ticket = ticket
        self._pieces = pieces
        if ticket is None:
            _owned[key] = self

    @classmethod
    def of_pieces(cls, key: str, pieces: Sequence[Buffer]) -> Content:
        """Name bytes in memory, one after the other.

        Parameters
        ----------
        key : str
            Hash of what they are.
        pieces : sequence of numpy.ndarray
            Arrays of uint8.
        """
        return cls(key, sum(piece.nbytes for piece in pieces), pieces=pieces)

    @classmethod
    def of_file(cls, origin: str, sha256: str | None = None) -> Content:
        """Name a file by its path or URL, and check its sha256 where one is given.

        Parameters
        ----------
        origin : str
            Path or URL.
        sha256 : str, optional
            What its hash must be.

        Raises
        ------
        ModelError
            If there is no such file, or its hash is another.
        """
        wanted = None if sha256 is None else sha256.lower().removeprefix("sha256:")
        origin = origin.removeprefix("file://")
        try:
            path = Path(download(origin, wanted) if is_url(origin) else origin).expanduser()
            check_regular(path, origin)
            found = file_sha256(path)
            n_bytes = path.stat().st_size
        except OSError as error:
            raise ModelError(f"the model file {origin!r} cannot be read: {error}.") from error
        if wanted not in (None, found):
            raise ModelError(
                f"the model file {shown(origin)!r} has sha256 {found}, but {sha256} was expected: "
                "it is another file, or it was cut off on its way. Fetch it again, or correct "
                "sha256=."
            )
        return cls(found, n_bytes, origin=origin if is_url(origin) else str(path.absolute()))

    @property
    def n_held(self) -> int:
        """Bytes that it holds in the memory of this process."""
        return 0 if self._pieces is None else self.n_bytes

    @property
    def pieces(self) -> Sequence[Buffer]:
        """The bytes in order, without joining what lies apart."""
        return self._pieces if self._pieces is not None else [self.open()]

    def open(self) -> Buffer:
        """Return all bytes as one array that nobody else writes to.

        Raises
        ------
        ModelError
            If they cannot be had in this process; says what was tried.
        """
        if self._pieces is not None:
            return np.concatenate([*self._pieces]) if len(self._pieces) > 1 else self._pieces[0]
        tried = []
        for label, way in self._ways():
            try:
                return way()
            except Exception as error:  # noqa: BLE001 - the next way may do
                tried.append(f"{label}: {str(error) or type(error).__name__}".rstrip("."))
        raise ModelError(
            f"the {self.n_bytes} bytes of a model (hash {self.key[:12]}) cannot be had in "
            f"{name_process()}. Tried {'; '.join(tried)}."
            " Keep the file where every worker can read it, or give predict the model again."
        )

    def _ways(self) -> Iterator[tuple[str, Callable[[], Buffer]]]:
        owner = _owned.get(self.key)
        if owner is not None and owner is not self:
            yield "the process that made it", owner.open
        if self.origin is not None:
            yield self.origin, self._read
        if self.ticket is not None:
            yield type(self.ticket).__name__.lower(), lambda: _fetched(self)

    def _read(self) -> Buffer:
        origin = self._origin
        assert origin is not None
        path = download(origin, self.key) if is_url(origin) else origin
        check_regular(path, path)
        raw = np.fromfile(path, np.uint8)
        found = hashlib.sha256(raw.data).hexdigest()
        if found != self.key:
            raise ModelError(
                f"the file has sha256 {found}, but it had {self.key} when predict was called"
            )
        return raw

    def __reduce__(self) -> tuple[Any, ...]:
        ticket, pieces, carrier = self.ticket, self._pieces, _carrier.get()
        if carrier is not None and ticket is None and (pieces is None or self.n_bytes > INLINE):
            ticket = carrier(self)
            pieces = pieces if ticket is None else None
        return _restore, (self.key, self.n_bytes, self._origin, pieces, ticket)


def check_regular(path: str | Path, name: str) -> None:
    """Refuse what is no file with an end: opening a pipe waits for ever, and so may a device.

    Raises
    ------
    ModelError
        If it is a folder, a pipe, a device or a socket.
    OSError
        If there is nothing of that name.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise ModelError(
            f"{name!r} is a folder: give the file in it that holds the model, such as "
            "model.safetensors with factory=..., or model.onnx."
        )
    if not stat.S_ISREG(mode):
        raise ModelError(
            f"{name!r} is no regular file but a pipe, a device or a socket: write the model to a "
            "file and give its path."
        )


_owned: weakref.WeakValueDictionary[str, Content] = weakref.WeakValueDictionary()
"""Contents that this process has itself, which no carrier needs to bring."""

_arrived: Latest[str, Buffer] = Latest(lambda: host_memory() // 4, lambda raw: raw.nbytes)
"""What carriers brought, so that they are asked only once a process."""

_locks: KeyedLocks[str] = KeyedLocks()


def _fetched(content: Content) -> Buffer:
    assert content.ticket is not None
    with _locks.of(content.key):
        with contextlib.suppress(KeyError):
            return _arrived[content.key]
        raw = content.ticket.fetch()
        _arrived[content.key] = raw
        return raw


def no_memory_of(key: str) -> None:
    """Forget what a carrier brought to this process."""
    with contextlib.suppress(KeyError):
        del _arrived[key]


def _restore(
    key: str,
    n_bytes: int,
    origin: str | None,
    pieces: Sequence[Buffer] | None,
    ticket: Ticket | None,
) -> Content:
    if pieces is not None:  # what was unpickled in place may be shared and read-only
        pieces = [piece if piece.flags.writeable else piece.copy() for piece in pieces]
    return Content(key, n_bytes, origin=origin, pieces=pieces, ticket=ticket)
