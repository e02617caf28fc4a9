"""How glibc handles the memory of blocks: kept while they run, given back after them.

A model allocates and frees hundreds of megabytes a batch, in arrays of tens of megabytes. glibc
maps each of these anew and unmaps it when it is freed, so the kernel clears every page of every
activation: on CPUs that can cost as much as the convolutions. `kept` makes glibc take them from its
heaps, and keep what is freed until the block is done. `give_back` then returns it to the system.

Nothing here does anything where the C library is another one, and `kept` does nothing where the
user has set an allocator or its parameters by the environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["can_keep", "give_back", "kept"]

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
"""Numbers of glibc's parameters, from its malloc.h."""

KEEP_ALL = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
"""Map nothing, give nothing back, and grow heaps in steps of one of glibc's own heaps."""

GLIBC_DEFAULTS = {
    M_MMAP_MAX: 65536,
    M_TRIM_THRESHOLD: 64 * 2**20,
    M_TOP_PAD: 128 * 2**10,
    M_MMAP_THRESHOLD: 32 * 2**20,
}
"""glibc's defaults. Its two thresholds grow by themselves to these values as a process frees large
arrays; once one was set they stand still, so they are set to where they would have grown."""

USER_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")
"""How the environment variables begin by which users set glibc's parameters."""

NANNY_VARIABLE = "MALLOC_TRIM_THRESHOLD_"
"""The one that distributed sets for its workers. With it, the mmap threshold never grows."""

INITIAL_MMAP_BYTES = 128 * 2**10
"""The mmap threshold of glibc while it has not grown."""


@functools.cache
def can_keep() -> bool:
    """Return whether `kept` does anything in this process."""
    environ = _environ()
    if not sys.platform.startswith("linux") or environ.get("LD_PRELOAD"):
        return False
    if any(name.startswith(USER_VARIABLES) and name != NANNY_VARIABLE for name in environ):
        return False
    libc = _libc()
    return hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")


_lock = threading.Lock()
_inside = 0


@contextlib.contextmanager
def kept(wanted: bool = True) -> Iterator[None]:
    """Let glibc keep the memory that is freed inside; as before when the last thread leaves.

    Parameters
    ----------
    wanted : bool, default: True
        Whether to do anything.
    """
    global _inside
    if not (wanted and can_keep()):
        yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            _set(KEEP_ALL)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _set(_defaults())


def give_back() -> None:
    """Return what glibc's arenas hold free to the system; elsewhere, do nothing.

    Blocks come and go in arrays of tens of megabytes, on several threads, each with an arena of
    its own. Without this, what a process occupies creeps up with the number of blocks that it has
    run, though it holds no more of them. It takes milliseconds, once a block.
    """
    if sys.platform.startswith("linux") and hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


def _defaults() -> dict[int, int]:
    """What holds outside: glibc's defaults, or what distributed set for its workers."""
    trim = _environ().get(NANNY_VARIABLE, "")
    if not trim.isdigit():
        return GLIBC_DEFAULTS
    return {**GLIBC_DEFAULTS, M_TRIM_THRESHOLD: int(trim), M_MMAP_THRESHOLD: INITIAL_MMAP_BYTES}


@functools.cache
def _environ() -> dict[str, str]:
    """The environment that this process, and so glibc, began with; others change it later."""
    try:
        raw = Path("/proc/self/environ").read_bytes().decode(errors="replace")
    except OSError:
        return dict(os.environ)
    return dict(line.split("=", 1) for line in raw.split("\0") if "=" in line)


def _set(parameters: dict[int, int]) -> None:
    for number, value in parameters.items():
        _libc().mallopt(number, value)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None)
