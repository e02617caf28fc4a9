"""Small networks that tests share; importable, so that worker processes can build them."""

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from helpers.crowd import Crowd, wait_for


def convs(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
    )


class UNet3d(nn.Module):
    """Three levels, 8 channels at the top: the network of the benchmarks."""

    def __init__(self, base: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = convs(1, base), convs(base, 2 * base)
        self.bottom = convs(2 * base, 4 * base)
        self.pool = nn.MaxPool3d(2)
        self.up2 = nn.ConvTranspose3d(4 * base, 2 * base, 2, 2)
        self.side2 = convs(4 * base, 2 * base)
        self.up1 = nn.ConvTranspose3d(2 * base, base, 2, 2)
        self.side1 = convs(2 * base, base)
        self.head = nn.Conv3d(base, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        up = self.up2(self.bottom(self.pool(second)))
        up = self.up1(self.side2(torch.cat([up, second], 1)))
        return self.head(self.side1(torch.cat([up, first], 1)))


class Stages(nn.Module):
    """Dropout and batch norm, which differ in training and in use; a tied and a loose buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Conv2d(3, 1, 1)
        self.register_buffer("offset", torch.tensor(0.25), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)))) + self.offset


class Counting(nn.Module):
    """Writes one line to a file each time that it is built from its pickle or copied real.

    Away from the process that it comes from, its calls wait until `together` processes have built
    it: otherwise the first may be done with all blocks before the second is awake. With a number of
    `calls`, those beyond so many of a process wait until `let_go` opens the gate.
    """

    def __init__(
        self, path: str, bulk: int = 0, together: int = 1, calls: int | None = None
    ) -> None:
        super().__init__()
        self.path, self.together, self.home = path, together, os.getpid()
        self.calls, self.done = calls, 0
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.bulk = nn.Parameter(torch.zeros(bulk))

    def __deepcopy__(self, memo: dict) -> "Counting":
        scale = memo.get(id(self.scale), self.scale)
        if not scale.is_meta:
            with open(self.path, "a") as file:  # noqa: PTH123
                file.write(f"{os.getpid()}\n")
        copy = Counting(self.path, together=self.together, calls=self.calls)
        copy.scale, copy.bulk = scale, memo.get(id(self.bulk), self.bulk)
        copy.home = self.home
        return copy

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta and os.getpid() != self.home:
            if self.together > 1:
                wait_for(lambda: len(Path(self.path).read_text().split()) >= self.together)
                self.together = 1  # they have met, and tests begin the file anew
            self.done += 1
            if self.calls is not None and self.done > self.calls:
                Path(f"{self.path}-waits").touch()
                wait_for(Path(f"{self.path}-gate").exists)
        return x * self.scale


def let_go(path: Path) -> None:
    """Let all calls of the `Counting` that writes to this file pass from now on."""
    Path(f"{path}-gate").touch()


class Bulky(nn.Module):
    """Multiplies by a weight, and carries others that it does not use."""

    def __init__(self, bulk: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.bulk = nn.Parameter(torch.zeros(bulk))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def bulky() -> Bulky:
    return Bulky(5_000_000)


def double(batch: np.ndarray) -> np.ndarray:
    return batch * 2


class Watched(nn.Module):
    """Counts the threads that are here at the same time."""

    crowd: ClassVar[Crowd]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta:
            with self.crowd:
                pass
        return x


def fail_on_large(batch: np.ndarray) -> np.ndarray:
    if batch.max() > 5:
        raise RuntimeError("too large")
    return batch


def nan_on_large(batch: np.ndarray) -> np.ndarray:
    return np.where(batch > 5, np.nan, batch)


class Facies(nn.Module):
    """One channel in, two out: the network that files of every format are made from."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))))


def trained() -> Facies:
    """Return a `Facies` whose every number matters."""
    torch.manual_seed(0)
    network = Facies()
    with torch.no_grad():
        network.norm.running_mean += torch.arange(4) * 0.1
        network.norm.running_var += torch.arange(4) * 0.2
        network.norm.weight += torch.arange(4) * 0.3
    return network.eval()


class OneSize(nn.Module):
    """A network that takes patches of one size only, as many exported files do."""

    def __init__(self, network: nn.Module, size: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(f"expected {self.size}, got {tuple(x.shape[2:])}")
        return self.network(x)
