"""A file for the processes of this machine: dask's processes, or pickles without a cluster.

The folder is new in each process, belongs to its user alone, and goes when the process ends.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xspinn.files import write_atomically

if TYPE_CHECKING:
    from xspinn.carriers.content import Buffer, Content

__all__ = ["Spooled", "carry"]

_lock = threading.Lock()


@dataclass(frozen=True)
class Spooled:
    """A file that holds the bytes."""

    path: str

    def fetch(self) -> Buffer:
        """Map the file into memory; what is written to it stays in this process."""
        return np.memmap(self.path, np.uint8, "c")


def carry(content: Content) -> Spooled | None:
    """Write the bytes to a file, unless they are in one."""
    if content.origin is not None:
        return None
    path = Path(_folder(os.getpid())) / content.key
    with _lock:
        if not path.exists():
            with write_atomically(path) as file:
                for piece in content.pieces:
                    file.write(piece.data)
    return Spooled(str(path))


@functools.cache
def _folder(pid: int) -> str:
    folder = tempfile.mkdtemp(prefix="xspinn-")

    def remove() -> None:
        if os.getpid() == pid:  # a fork runs the same exit handlers
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
