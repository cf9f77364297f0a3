"""A network small enough for every backend: two convolutions and a classifier (`conformance.small_model:small`)."""

from __future__ import annotations

from torch import nn


def small() -> nn.Module:
    """Input 1x3x32x32 -> conv, relu -> conv, relu -> pool -> linear; ten classes."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    model.input_shape = (1, 3, 32, 32)  # type: ignore[assignment]
    return model
