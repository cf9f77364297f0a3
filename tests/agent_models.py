"""A small network with a branch, for agents that run real tensors quickly."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, 2, 2)
        self.left = nn.Conv2d(8, 8, 3, 1, 1)
        self.right = nn.Conv2d(8, 8, (1, 7), 1, (0, 3))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.last = nn.Conv2d(16, 12, 3, 1, 1)
        self.classify = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        x = torch.relu(self.last(self.pool(x)))
        return self.classify(x.mean((2, 3)))  # type: ignore[no-any-return]


def small() -> nn.Module:
    return Small()
