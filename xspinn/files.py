"""Where xspinn keeps files of its own, and how they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import pooch

__all__ = ["cache_folder", "write_atomically"]


def cache_folder() -> Path:
    """Return the folder for what can be fetched or measured again.

    The environment variable ``XSPINN_CACHE`` names it; without it, it is pooch's for xspinn in the
    user's cache. It may be removed at any time.
    """
    return Path(os.environ.get("XSPINN_CACHE") or pooch.os_cache("xspinn"))


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Write a file that others see as a whole or not at all, also if several write it at once.

    Parameters
    ----------
    path : pathlib.Path
        Its folder is made where there is none. A file that is there is replaced, and stays as it
        is if an error is raised meanwhile.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "new" / "file"
    ...     with write_atomically(path) as file:
    ...         _ = file.write(b"whole")
    ...         print(path.exists())
    ...     print(path.read_bytes())
    False
    b'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
