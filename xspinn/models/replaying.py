"""Record what a model does on a GPU once, and replay it: kernels without their launches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch

from xspinn.models.results import flatten

__all__ = ["Recording", "Replayed", "record"]

Call: TypeAlias = Callable[[torch.Tensor], Any]


class Recording(NamedTuple):
    """A call that was recorded: where its input goes, what runs it, where its results stay."""

    fed: torch.Tensor
    replay: Callable[[], object]
    answers: list[tuple[str | None, torch.Tensor]]


class Replayed:
    """A call that is recorded once for each shape of batches, and replayed from then on.

    Parameters
    ----------
    call : callable
        Always runs the same kernels for one shape, and never waits for the device.
    recorder : callable
        `record`, or what does the same elsewhere.
    """

    def __init__(self, call: Call, recorder: Callable[[Call, torch.Tensor], Recording]) -> None:
        self.call, self.recorder = call, recorder
        self.held: dict[tuple[Any, ...], Recording] = {}
        self.lock = threading.Lock()

    def __call__(self, batch: torch.Tensor) -> Any:
        """Replay the model on a batch; what it returns is not overwritten by the next one."""
        key = (tuple(batch.shape), batch.dtype)
        with self.lock:
            if key not in self.held:
                self.held[key] = self.recorder(self.call, batch)
            held = self.held[key]
            held.fed.copy_(batch)
            held.replay()
            answers = {name: tensor.clone() for name, tensor in held.answers}
        return answers[None] if list(answers) == [None] else answers


_recording = threading.Lock()
"""A process may record one graph at a time."""


def record(call: Call, batch: torch.Tensor) -> Recording:
    """Record a call on a GPU, after a few runs in which its libraries settle.

    The steps are those of torch's notes on CUDA graphs:
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    make: Any = torch.cuda
    with _recording, torch.cuda.device(batch.device):
        fed = batch.clone()
        aside = make.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                call(fed)
        torch.cuda.current_stream().wait_stream(aside)
        graph = make.CUDAGraph()
        # Other threads go on copying meanwhile; only this one's calls are recorded.
        with make.graph(graph, stream=aside, capture_error_mode="thread_local"):
            answers = flatten(call(fed))
    return Recording(fed, graph.replay, answers)
