"""Hash what a model is: its weights, its settings and its code.

Neither pickle nor dask's tokenize gives a module the same hash twice, so a model's parts are
hashed one by one. A value that cannot be told from another gets a hash of its own: building a
model twice costs time, taking one model for another would give a wrong answer.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import cloudpickle
import numpy as np
import torch

__all__ = ["fingerprint"]

NAMED = {"torch", "numpy", "builtins", *sys.stdlib_module_names} - {"__main__"}
"""Packages whose functions and classes are known by name: their code comes with their version."""


def fingerprint(value: Any) -> str:
    """Return a hash of a module, a function or any other value.

    Parameters
    ----------
    value : object
        What to hash. It is only read.

    Returns
    -------
    str
        64 hexadecimal digits: the same in every process for equal values, as far as values can be
        compared; new at each call otherwise.

    Examples
    --------
    >>> import functools
    >>> fingerprint(functools.partial(pow, 2)) == fingerprint(functools.partial(pow, 2))
    True
    >>> fingerprint(functools.partial(pow, 2)) == fingerprint(functools.partial(pow, 5))
    False
    """
    return _Digest().of(value).hex()


class _Digest:
    """Hashes values; one that was met before counts by its number, so cycles end."""

    def __init__(self) -> None:
        self.met: dict[int, int] = {}
        self.held: list[Any] = []  # ids stay taken while a hash is made

    def of(self, value: Any) -> bytes:
        """Return the hash of a value."""
        kind = type(value)
        if isinstance(value, bool | int | float | complex | str | bytes | None | torch.dtype):
            return self.join(kind.__qualname__, repr(value))
        # Whether two places share one tensor or child matters; whether they share a tuple does not.
        if not isinstance(value, tuple | frozenset | types.CodeType | np.generic):
            if id(value) in self.met:
                return self.join("again", str(self.met[id(value)]))
            self.met[id(value)] = len(self.met)
            self.held.append(value)
        return self.join(f"{kind.__module__}.{kind.__qualname__}", *self.parts(value))

    def join(self, *parts: str | bytes) -> bytes:
        """Hash some parts, their lengths included."""
        digest = hashlib.sha256()
        for part in parts:
            raw = part.encode() if isinstance(part, str) else part
            digest.update(str(len(raw)).encode() + b":" + raw)
        return digest.digest()

    def parts(self, value: Any) -> Iterator[str | bytes]:
        """Yield what a value consists of."""
        for kinds, parts in self.kinds.items():
            if isinstance(value, kinds):
                yield from parts(self, value)
                return
        yield _pickled(value)

    def tensor(self, value: torch.Tensor) -> Iterator[str | bytes]:
        yield f"{value.dtype}{tuple(value.shape)}"
        if value.is_meta:
            return
        flat = value.detach().cpu().contiguous().reshape(-1).resolve_conj().resolve_neg()
        raw: Any = flat.view(torch.uint8).numpy()
        yield hashlib.sha256(raw).digest()

    def array(self, value: np.ndarray[Any, Any] | np.generic) -> Iterator[str | bytes]:
        yield f"{value.dtype}{value.shape}"
        yield _pickled(value) if value.dtype.hasobject else value.tobytes()

    def module(self, value: torch.nn.Module) -> Iterator[str | bytes]:
        yield self.of(type(value))
        # Modules keep their children, parameters and buffers in dicts of their own.
        state = {k: v for k, v in vars(value).items() if k != "training" and not _no_hook(k, v)}
        yield self.of(state)

    def mapping(self, value: dict[Any, Any]) -> Iterator[bytes]:
        for key, item in value.items():
            yield self.of(key)
            yield self.of(item)

    def sequence(self, value: list[Any] | tuple[Any, ...]) -> Iterator[bytes]:
        yield from map(self.of, value)

    def collection(self, value: set[Any] | frozenset[Any]) -> Iterator[bytes]:
        yield from sorted(_Digest().of(item) for item in value)

    def function(self, value: types.FunctionType) -> Iterator[str | bytes]:
        yield f"{value.__module__}.{value.__qualname__}"
        if _known(value.__module__):
            return
        yield self.of([value.__code__, value.__defaults__, value.__kwdefaults__])
        yield self.of([_content(cell) for cell in value.__closure__ or ()])
        names = sorted(_names(value.__code__) & value.__globals__.keys())
        yield self.of({name: value.__globals__[name] for name in names})

    def code(self, value: types.CodeType) -> Iterator[bytes]:
        yield self.of([value.co_code, value.co_names, value.co_varnames, *value.co_consts])

    def kind(self, value: type) -> Iterator[str | bytes]:
        yield f"{value.__module__}.{value.__qualname__}"
        for base in value.__mro__:
            if not _known(base.__module__):
                held = {k: v for k, v in vars(base).items() if not _noise(k, v)}
                yield self.of([base.__qualname__, sorted(held)])
                yield self.of([held[k] for k in sorted(held)])

    def builtin(self, value: Any) -> Iterator[str | bytes]:
        # numpy's functions have a qualified name from 2.1 on.
        name = getattr(value, "__qualname__", value.__name__)
        yield f"{getattr(value, '__module__', '')}.{name}"
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            yield self.of(owner)

    def method(self, value: types.MethodType) -> Iterator[bytes]:
        yield self.of([value.__func__, value.__self__])

    def partial(self, value: functools.partial[Any]) -> Iterator[bytes]:
        yield self.of([value.func, value.args, value.keywords])

    def wrapped(self, value: Any) -> Iterator[bytes]:
        inner = [value.fget, value.fset] if isinstance(value, property) else [value.__func__]
        yield self.of(inner)

    def package(self, value: types.ModuleType) -> Iterator[str]:
        yield value.__name__

    kinds: dict[Any, Callable[..., Iterator[str | bytes]]] = {  # noqa: RUF012 - never changed
        torch.Tensor: tensor,
        torch.nn.Module: module,
        np.ndarray | np.generic: array,
        dict: mapping,
        list | tuple: sequence,
        set | frozenset: collection,
        types.FunctionType: function,
        types.CodeType: code,
        type: kind,
        types.BuiltinFunctionType | types.MethodDescriptorType | np.ufunc: builtin,
        types.MemberDescriptorType | types.GetSetDescriptorType: builtin,
        types.MethodType: method,
        functools.partial: partial,
        property | staticmethod | classmethod: wrapped,
        types.ModuleType: package,
    }


_CLASS_NOISE = {"__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "_abc_impl"}


def _noise(name: str, value: Any) -> bool:
    # To look at a class's annotations gives it an empty dict of them, as torch.jit does.
    return name in _CLASS_NOISE or (name == "__annotations__" and not value)


def _known(module: str | None) -> bool:
    return (module or "").partition(".")[0] in NAMED


def _no_hook(name: str, value: Any) -> bool:
    return "hook" in name and not value


def _names(code: types.CodeType) -> set[str]:
    """Global names that code refers to, the code of inner functions included."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet bound
        return None


def _pickled(value: Any) -> bytes:
    """Last resort: the pickle, or something that never comes again."""
    try:
        return hashlib.sha256(cloudpickle.dumps(value)).digest()
    except Exception:  # noqa: BLE001 - a new hash is always right
        return uuid4().bytes
