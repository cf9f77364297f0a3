"""Small networks that the model tests build from."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Residual(nn.Module):
    """Stem, a residual block with a strided shortcut, an in-place add, a classifier."""

    input_shape = (1, 3, 33, 29)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.a = nn.Conv2d(8, 12, 3, 2, 1)
        self.b = nn.Conv2d(12, 12, 3, padding="same", dilation=2)
        self.shortcut = nn.Conv2d(8, 12, 1, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.b(F.relu(self.a(x)))
        y += self.shortcut(x)
        return self.head(torch.flatten(self.pool(F.relu_(y)), 1))


class Pools(nn.Module):
    """Every rule that pooling and padding know, joined along channels."""

    input_shape = (1, 4, 23, 26)

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            [
                nn.MaxPool2d(3, 2, 1, ceil_mode=True),
                nn.MaxPool2d((2, 3), 2, (1, 1), dilation=(2, 1), ceil_mode=True),
                nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=True),
                nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
                nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=4),
                nn.Sequential(nn.ZeroPad2d((1, 2, 0, 2)), nn.Conv2d(4, 4, 3, 2)),
            ]
        )
        self.norm = nn.LocalResponseNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        maps = [pool(x - 3.0) for pool in self.pools]
        rows, columns = min(m.shape[2] for m in maps), min(m.shape[3] for m in maps)
        assert all(m.shape[2:] == (rows, columns) for m in maps), [m.shape for m in maps]
        return self.norm(torch.cat(maps, dim=1))


class Aliases(nn.Module):
    """In-place writes that other values see: through the written tensor itself, and through a view of it."""

    input_shape = (1, 4, 6, 6)

    def __init__(self, through_view: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.through_view = through_view

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        seen = y.view(1, 4, 36) if self.through_view else y
        F.relu_(y)
        return seen.flatten(1) + y.flatten(1)


class Gate(nn.Module):
    """Squeeze and excitation, a split along channels, a constant that does not depend on the input, two outputs."""

    input_shape = (1, 4, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.ones(8, 1, 1) * 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.silu(self.conv(x)) * self.scale
        gated = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        first, second = gated.chunk(2, dim=1)
        return second + torch.arange(8.0), first


def not_a_module() -> int:
    return 1


def failing() -> nn.Module:
    raise OSError("no such thing")


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Noisy(nn.Module):
    """Adds a random number, so no two runs agree."""

    input_shape = (1, 3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + torch.rand(1)


class Undecided(Noisy):
    """What it computes depends on what it computed."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if y.sum() > 0 else -y


class Everywhere(Noisy):
    """Answers with its input, an inner map that is used further on, a mask, and scores; one branch leads nowhere."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
        y = F.relu(self.conv(x))
        self.conv(x[:, :, 1:, 1:])
        return x, y, {"best": y.argmax(1)}, y.mean((2, 3))
