"""Memory of the processes in the time-travel kernel: had in large pieces, before it is needed, and no more than will be needed.

A page fault is what costs most there (some 50 microseconds against one outside), and every run of pages that lie together is one
mapping of the process that carries this one on the host, which may have 65530 of them. Imports and torch touch memory in an order
that would make nearly each page its own run. So the heap is backed in one piece before it is used: for the imports once, and in
an agent when it gets its first work, by the size of that work (most of 32 hosts compute small tiles, or nothing).
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from d3node.intervals import Box
from d3node.model import Model

if TYPE_CHECKING:
    from torch import Tensor

PRELOADED_MIB = 192
"""Heap that the imports take, and some more."""

_SPARE_MIB = 16
_LARGEST_MIB = 512
_COPIES = 8
"""Maps of the largest vertex that an agent may hold at once: torch's own rearranged copies, messages that come and go."""

_MADV_POPULATE_WRITE = 23


def settle_heap(mib: int) -> None:
    """Back the next so many MiB of this process's heap with pages that lie together. Does nothing where the kernel refuses."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    size = mib << 20
    block = libc.malloc(ctypes.c_size_t(size))
    if block:
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(block + size - start - mmap.PAGESIZE), _MADV_POPULATE_WRITE)
        libc.free(ctypes.c_void_p(block))


def needed_mib(largest_bytes: float) -> int:
    """Heap for work whose largest vertex has so many bytes of inputs and output."""
    return min(_LARGEST_MIB, _SPARE_MIB + math.ceil(_COPIES * largest_bytes / (1 << 20)))


class SettlingModel(Model):
    """A model that backs this process's heap before the work that needs it; what it computes is the model's."""

    _settled_mib = 0  # of the class: a process has one heap for all its models

    def run_part(self, vertices: Collection[int], tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See `Model.run_part`."""
        self._settle(max((self._bytes(v) for v in vertices), default=0))
        return super().run_part(vertices, tensors)

    def run_tile(self, vertices: Sequence[int], box: Box, pieces: Sequence[Tensor]) -> Tensor:
        """See `Model.run_tile`."""
        last = self.graph[vertices[-1]].output_shape
        part = math.prod(end - start for start, end in box) / math.prod(last[-2:])
        halo = 2.0  # a generous one, over all vertices of the stack
        self._settle(min(1.0, halo * part) * max(self._bytes(v) for v in vertices))
        return super().run_tile(vertices, box, pieces)

    def _bytes(self, vertex: int) -> int:
        graph = self.graph
        return graph[vertex].output_bytes + sum(graph[i].output_bytes for i in graph[vertex].inputs)

    @staticmethod
    def _settle(largest_bytes: float) -> None:
        mib = needed_mib(largest_bytes)
        if mib > SettlingModel._settled_mib:
            settle_heap(mib)
            SettlingModel._settled_mib = mib
