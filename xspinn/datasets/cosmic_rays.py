"""A small U-Net that flags cosmic-ray hits, shaped to hold the trained weights of deepCR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import nn

# deepCR's name of each part of the network, and the attribute that is the same part here.
DEEPCR_NAMES = {
    "module.inc.conv.conv.": "fine.",
    "module.down1.mpconv.1.conv.": "coarse.",
    "module.up8.up.": "upsample.",
    "module.up8.conv.conv.": "merge.",
    "module.outc.conv.": "head.",
}


def _two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers.append(nn.Conv2d(channels, outputs, kernel_size=3, padding=1))
        layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class CosmicRayUNet(nn.Module):
    """The mask network of deepCR [1]_: a U-Net of two levels with batch normalisation.

    It takes images of shape ``(batch, 1, y, x)`` in counts, with an even number of rows and
    columns, and returns the probability, 0 to 1, that a cosmic ray hit each pixel, in the same
    shape. A pixel's answer depends on the pixels at most 9 rows and columns away.

    Parameters
    ----------
    width : int, default 32
        Channels of the fine level; the coarse level has twice as many.

    References
    ----------
    .. [1] Zhang and Bloom (2020), deepCR: Cosmic Ray Rejection with Deep Learning,
       The Astrophysical Journal 889, 24.

    Examples
    --------
    >>> import torch
    >>> from xspinn.datasets.cosmic_rays import CosmicRayUNet
    >>> network = CosmicRayUNet(width=4).eval()
    >>> network(torch.zeros(1, 1, 16, 24)).shape
    torch.Size([1, 1, 16, 24])
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.fine = _two_convolutions(1, width)
        self.pool = nn.MaxPool2d(2)
        self.coarse = _two_convolutions(width, 2 * width)
        self.upsample = nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
        self.merge = _two_convolutions(2 * width, width)
        self.head = nn.Conv2d(width, 1, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the probability of a hit at every pixel.

        Parameters
        ----------
        image : Tensor
            Shape ``(batch, 1, y, x)``, in counts.

        Returns
        -------
        Tensor
            Shape ``(batch, 1, y, x)``, from 0 to 1.
        """
        fine = self.fine(image)
        coarse = self.upsample(self.coarse(self.pool(fine)))
        merged = self.merge(torch.cat([fine, coarse], dim=1))
        return torch.sigmoid(self.head(merged))

    @classmethod
    def from_deepcr(cls, state: Mapping[str, torch.Tensor]) -> Self:
        """Build the network with the weights of one of deepCR's mask models.

        Parameters
        ----------
        state : mapping of str to Tensor
            The state dict under deepCR's names.

        Returns
        -------
        CosmicRayUNet
            In evaluation mode.

        Raises
        ------
        ValueError
            If the weights belong to another network.
        """
        renamed = {_rename(name): value for name, value in state.items()}
        head = renamed.get("head.weight")
        network = cls(width=head.shape[1] if head is not None else 32)
        try:
            network.load_state_dict(renamed)
        except RuntimeError as error:
            raise ValueError(
                "these weights are not those of a two-level U-Net with batch normalisation; "
                "of deepCR's files, 'ACS-WFC.pth', 'decam.pth' and 'example_model.pth' are"
            ) from error
        return network.eval()


def _rename(name: str) -> str:
    for theirs, ours in DEEPCR_NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
