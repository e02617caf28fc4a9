"""Read zip archives of strangers: most formats of models are one."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable

from xspinn.carriers.content import Buffer
from xspinn.errors import ModelError

__all__ = ["check_zip", "read_members"]

MAX_GROWTH = 20
MIN_ALLOWED_BYTES = 64 * 1024**2
"""Members may unpack to so many times the bytes of the file, and always to so much.

Weights hardly shrink, and torch and Keras store them as they are; code and lists of names shrink to
a tenth.
"""
_PIECE_BYTES = 1024**2


def check_zip(raw: Buffer, name: str) -> None:
    """Refuse an archive that promises to unpack to far more than it is; let pass what is none.

    Parameters
    ----------
    raw : numpy.ndarray
        Bytes of the file.
    name : str
        For messages.

    Raises
    ------
    ModelError
        If it is a zip bomb, or names a member twice.
    """
    with (
        contextlib.suppress(zipfile.BadZipFile),  # whoever reads it will tell
        zipfile.ZipFile(io.BytesIO(raw.data)) as archive,
    ):
        _check(archive, raw.nbytes, name)


def _check(archive: zipfile.ZipFile, n_bytes: int, name: str) -> None:
    members = archive.infolist()
    # Torch's own reader takes names of another case for the same.
    if len({member.filename.lower() for member in members}) != len(members):
        raise ModelError(f"the archive {name} names a member twice: it was tampered with.")
    promised, allowed = sum(member.file_size for member in members), _allowed(n_bytes)
    if promised > allowed:
        raise ModelError(
            f"the archive {name} has {n_bytes} bytes and says that it unpacks to {promised}; a "
            f"model of that size may unpack to {allowed}. If it really holds a model, unpack the "
            "archive yourself and pack it again without compression."
        )


def read_members(raw: Buffer, name: str, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return some members of an archive, in order, without unpacking more than is allowed.

    Parameters
    ----------
    raw : numpy.ndarray
        Bytes of the archive.
    name : str
        For messages.
    wanted : callable
        Whether a member is to be read; may raise.
    """
    held = {}
    with zipfile.ZipFile(io.BytesIO(raw.data)) as archive:
        _check(archive, raw.nbytes, name)
        for member in archive.namelist():
            if wanted(member):
                # In pieces, each of which stops where it was told to: read() as a whole would
                # first unpack all there is, whatever size the archive promised.
                with archive.open(member) as file:
                    held[member] = b"".join(iter(lambda: file.read(_PIECE_BYTES), b""))
    return held


def _allowed(n_bytes: int) -> int:
    return max(MIN_ALLOWED_BYTES, MAX_GROWTH * n_bytes)
