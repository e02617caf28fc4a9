"""Parts of torch that it does not document. Tried with torch 2.13.0."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["cpu_computes_in", "uncompiled"]

_QUESTIONS = {"bf16": "_is_mkldnn_bf16_supported", "fp16": "_is_mkldnn_fp16_supported"}


def cpu_computes_in(precision: str) -> bool:
    """Tell whether oneDNN computes in a precision on this CPU, rather than imitate it.

    Parameters
    ----------
    precision : {"bf16", "fp16"}
    """
    ask = getattr(torch.ops.mkldnn, _QUESTIONS[precision], None)
    return ask is not None and bool(ask())


def uncompiled(module: torch.nn.Module) -> Any:
    """Return the module that `torch.compile` was given, or what is no compiled module as it is."""
    return getattr(module, "_orig_mod", module)
