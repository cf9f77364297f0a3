"""Networks with early exits, small enough to be trained in seconds: a branchy CNN, and a DDNN of several devices' views.

Both classify scikit-learn's handwritten digits. How they are trained, and where their weights are kept, is `d3node.train`'s
business.
A forward pass returns the class scores (logits) of every exit, the first exit first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from d3node.errors import ModelError

CLASSES = 10
Aggregation = Literal["max", "mean", "concat"]


class DigitsExits(nn.Module):
    """Four strided convolutions with an exit behind each, for one image of 32 x 32."""

    input_shape = (1, 1, 32, 32)
    channels = (8, 16, 32, 64)

    def __init__(self) -> None:
        super().__init__()
        widths = (1, *self.channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()) for before, after in pairwise(widths)
        )
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(size) for size in (4, 4, 4, 2))
        self.heads = nn.ModuleList(
            nn.Linear(width * size * size, CLASSES) for width, size in zip(self.channels, (4, 4, 4, 2), strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Class scores of the four exits, from (batch, 1, 32, 32)."""
        found = []
        for block, pool, head in zip(self.blocks, self.pools, self.heads, strict=True):
            x = block(x)
            found.append(head(torch.flatten(pool(x), 1)))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class ViewsOptions:
    """Variants of `DigitsViews`: number of devices, features sent as signs or floats, and how each exit joins what it is sent."""

    devices: int = 4
    features: Literal["binary", "float"] = "binary"
    local: Aggregation = "max"
    edge: Aggregation = "concat"

    @classmethod
    def of(cls, given: Mapping[str, str]) -> ViewsOptions:
        """From the words of a model's name. Raises ModelError."""
        choices = {"features": ("binary", "float"), "local": get_args(Aggregation), "edge": get_args(Aggregation)}
        for key, value in given.items():
            if key == "devices" and (not value.isdigit() or not 1 <= int(value) <= len(WINDOWS)):
                raise ModelError(f"digits-views: devices={value!r} is not a number from 1 to {len(WINDOWS)}")
            if key != "devices" and value not in choices.get(key, ()):
                known = "; ".join(f"{name}={'|'.join(words)}" for name, words in choices.items())
                raise ModelError(f"digits-views: {key}={value!r} is no option; known: devices=1..{len(WINDOWS)}; {known}")
        return cls(**{key: int(value) if key == "devices" else value for key, value in given.items()})  # type: ignore[arg-type]


class DigitsViews(nn.Module):
    """DDNN (ICDCS 2017): every device runs one convolution-pool block on its view, and a head; exits at devices, edge and cloud.

    Input (batch, devices, 16, 16): channel d is what device d sees. The local exit joins the devices' class scores, the edge exit
    joins their feature maps (4 filters of 8 x 8) and goes on, the cloud takes the edge's map. Binary features are signs, trained
    with the straight-through estimator.
    """

    filters = 4
    side = 16

    def __init__(self, options: ViewsOptions | None = None) -> None:
        super().__init__()
        self.options = options = options or ViewsOptions()
        count, filters = options.devices, self.filters
        self.input_shape = (1, count, self.side, self.side)
        self.convolutions = nn.ModuleList(_block(1, filters) for _ in range(count))
        self.heads = nn.ModuleList(nn.Linear(filters * 64, CLASSES) for _ in range(count))
        self.join = nn.Linear(count * CLASSES, CLASSES) if options.local == "concat" else nn.Identity()
        self.edge = _block(filters * count if options.edge == "concat" else filters, 32)
        self.edge_head = nn.Linear(32 * 16, CLASSES)
        self.cloud = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())
        self.cloud_head = nn.Linear(64 * 16, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class scores of the local, the edge and the cloud exit."""
        maps = [self._features(block(x[:, d : d + 1])) for d, block in enumerate(self.convolutions)]
        scores = [head(torch.flatten(one, 1)) for head, one in zip(self.heads, maps, strict=True)]
        local = self.join(_joined(scores, self.options.local))
        joined = self._features(self.edge(_joined(maps, self.options.edge)))
        edge = self.edge_head(torch.flatten(joined, 1))
        cloud = self.cloud_head(torch.flatten(self.cloud(joined), 1))
        return local, edge, cloud

    def _features(self, x: Tensor) -> Tensor:
        if self.options.features == "float":
            return torch.relu(x)
        signs = torch.sign(torch.sign(x) + 0.5)  # zero counts as positive
        if not self.training:
            return signs
        passed = torch.clamp(x, -1.0, 1.0)
        return passed + (signs - passed).detach()


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(after))


def _joined(parts: Sequence[Tensor], how: Aggregation) -> Tensor:
    if how == "concat":
        return torch.cat(list(parts), 1)
    stacked = torch.stack(list(parts), 0)
    return stacked.amax(0) if how == "max" else stacked.mean(0)


# -- data ------------------------------------------------------------------------------------------------------------------------

WINDOWS = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5), (0, 0.5))
"""Where the devices look, as shares of the room that a window has to move down and right; together they see all of a digit."""
SPAN, WINDOW = 24, 16
"""Side of the enlarged digit and of a window on it."""
NOISE = (0.2, 0.3, 0.4, 0.5, 0.3, 0.4)
"""Largest noise of each device's camera, as a share of full brightness."""


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: brightness 0..1 of shape (1797, 1, 8, 8), and labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16.0, torch.tensor(labels, dtype=torch.int64)


def enlarged(images: Tensor) -> Tensor:
    """One view: uint8 images of 32 x 32."""
    return _bytes(F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False))


def views(images: Tensor, devices: int) -> Tensor:
    """Several views: uint8 images (n, devices, 16, 16), overlapping windows with noise that is the same on every call."""
    large = F.interpolate(images, size=(SPAN, SPAN), mode="bilinear", align_corners=False)
    found = []
    for device in range(devices):
        top, left = (round(share * (SPAN - WINDOW)) for share in WINDOWS[device])
        generator = torch.Generator().manual_seed(1000 + device)
        noise = torch.rand((len(images), 1, WINDOW, WINDOW), generator=generator) * 2.0 - 1.0
        found.append(large[:, :, top : top + WINDOW, left : left + WINDOW] + NOISE[device] * noise)
    return _bytes(torch.cat(found, 1))


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
