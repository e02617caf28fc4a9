"""Small networks that use what networks use, to be exported for real."""

import torch
from torch import nn
from torch.nn import functional


class UNet(nn.Module):
    def __init__(self, conv, norm, pool, up):
        super().__init__()
        self.down = nn.Sequential(conv(1, 4, 3, padding=1), norm(4), nn.LeakyReLU(0.1))
        self.inner = nn.Sequential(pool(2), conv(4, 8, 3, padding=1), norm(8), nn.SiLU())
        self.up, self.last, self.drop = up, conv(12, 2, 1), nn.Dropout(0.2)

    def forward(self, x):
        skip = self.down(x)
        joined = torch.cat([skip, self.up(self.drop(self.inner(skip)))], 1)
        return torch.softmax(self.last(joined), 1)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(1, 16, 4, 4), nn.Linear(16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x):
        n = x.shape[0]
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(n, -1, -1), tokens], 1)
        tokens = self.head(self.encoder(tokens)[:, 1:])
        return tokens.reshape(n, 4, 4, 4, 4).permute(0, 1, 3, 2, 4).reshape(n, 1, 16, 16)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.Hardsigmoid()
        )

    def forward(self, x):
        y = functional.max_pool2d(functional.relu6(self.norm(self.conv(x))), 3, 2, 1)
        y = y + functional.hardswish(self.deep(y)) * self.gate(y)[:, :, None, None]
        return functional.interpolate(y, size=x.shape[-2:], mode="bicubic", align_corners=True)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind(16, 8, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.kind(x[:, 0])[0][:, None]


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3, padding=1))
        self.b = nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 2, 3, padding=1))
        self.act = nn.PReLU(2)

    def forward(self, x):
        return self.act(self.b(self.a(x)))


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def attention(x):
    tokens = x[:, 0].unflatten(2, (2, 8)).transpose(1, 2)
    return functional.scaled_dot_product_attention(tokens, tokens, tokens)


def branches(x):
    return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))


def spectrum(x):
    return torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho"), s=(16, 16), norm="ortho")


def warped(x):
    grid = functional.affine_grid(torch.eye(2, 3).expand(x.shape[0], 2, 3), list(x.shape), False)
    return functional.grid_sample(
        x, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def padded(x):
    x = functional.pad(
        functional.pad(x, (1, 1, 1, 1), mode="reflect"), (1, 1, 1, 1), mode="circular"
    )
    return functional.conv2d(
        functional.pad(x, (1, 1, 1, 1), mode="replicate"), torch.ones(1, 1, 3, 3), padding="same"
    )


def windows(x):
    n, c, h, w = x.shape
    y = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    return y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def indexed(x):
    at = torch.arange(16).flip(0).expand_as(x)
    return x.gather(-1, at) + torch.zeros_like(x).scatter_add(-1, at, x) + x[:, :, [1] * 16]


def written(x):
    y = x.clone()
    y[:, :, 2:4] = 0
    return y.mul_(2).masked_fill(y > 1, 0)


def statistics(x):
    scaled = (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-6)
    return functional.layer_norm(scaled, [16]) + x.median() + x.sort(-1)[0] + x.cumsum(2)


def classes(x):
    wide = torch.cat([x, -x], 1)
    return functional.one_hot(wide.argmax(1), 2).permute(0, 3, 1, 2).float() * torch.div(
        wide, 2, rounding_mode="floor"
    )


def counted(x):
    return x / (x > 0.5).nonzero().shape[0]


def half(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.matmul(x, x).float()


def unet(nd, up, norm=None):
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[nd]
    pool = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[nd]
    plain = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[nd]
    return UNet(conv, norm or plain, pool, up)


PROGRAMS = {
    "unet 2-D": lambda: unet(2, nn.ConvTranspose2d(8, 8, 2, 2)),
    "unet 2-D, bilinear": lambda: unet(2, nn.Upsample(scale_factor=2, mode="bilinear")),
    "unet 2-D, groups": lambda: unet(2, nn.Upsample(scale_factor=2), lambda n: nn.GroupNorm(2, n)),
    "unet 3-D": lambda: unet(3, nn.ConvTranspose3d(8, 8, 2, 2)),
    "unet 3-D, instances": lambda: unet(
        3,
        nn.Upsample(scale_factor=2, mode="trilinear"),
        lambda n: nn.InstanceNorm3d(n, affine=True),
    ),
    "unet 1-D": lambda: unet(1, nn.Upsample(scale_factor=2, mode="linear")),
    "transformer": Transformer,
    "residual": Residual,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "normed weights": Normed,
    **{
        function.__name__: lambda function=function: Of(function)
        for function in (
            *(attention, branches, spectrum, warped, padded, windows),
            *(indexed, written, statistics, classes, counted, half),
        )
    },
    "einsum": lambda: Of(lambda x: torch.einsum("bcyx,bcyz->bcxz", x, x)),
    "shuffle": lambda: Of(lambda x: functional.pixel_shuffle(functional.pixel_unshuffle(x, 4), 4)),
}


def example(name, batch=2):
    nd = int(name[5]) if name.startswith("unet") else 2
    return torch.rand(batch, 1, *[16] * nd, generator=torch.Generator().manual_seed(0))
