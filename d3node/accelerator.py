"""Where a host computes: on its CPU, or on a GPU that torch can use. Tensors on the wire are always the CPU's.

A model on a GPU is a `RunnableModel` like any other: tensors are copied to the GPU for a part or a tile, and back before they are
returned, which is part of what computing takes there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from d3node.graph import LayerGraph
from d3node.intervals import Box
from d3node.model import Model
from d3node.reuse import PartialRegion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from d3node.instructions import Program

Device = Literal["cpu", "cuda"]
GPU_TOLERANCE: Final = 1e-4
"""Largest difference, relative to the answer's largest magnitude, between float32 answers that different kinds of processors
computed: kernels add in different orders. TensorFloat32, which would be a thousand times coarser, is switched off."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What computes: torch's name of the device, what it is called, and why it is not what was asked for (else empty)."""

    device: str
    called: str
    note: str = ""


def choose(wanted: Device) -> Chosen:
    """The device that is wanted, or the CPU where there is none, with the reason. Imports torch only for a GPU."""
    if wanted == "cpu":
        return Chosen("cpu", "cpu")
    import torch

    if not torch.cuda.is_available():
        built = "sees no GPU" if torch.version.cuda else "was built without CUDA"
        return Chosen("cpu", "cpu", f"a GPU was asked for, but torch {torch.__version__} {built}: the CPU computes")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    return Chosen("cuda", f"cuda ({torch.cuda.get_device_name()})")


class PlacedModel:
    """A model whose weights are on a device. Takes and returns tensors of the CPU; inputs are made and maps are cut there."""

    def __init__(self, model: Model, device: str) -> None:
        import torch

        from d3node.instructions import Program

        self._host = model
        self._device = torch.device(device)
        kept = {
            name: tensor if name.startswith("data.") else tensor.to(device) for name, tensor in model.program.constants.items()
        }
        self._there = Model(Program(model.graph, model.program.codes, kept), model.normalisation)

    @property
    def graph(self) -> LayerGraph:
        """The layer graph."""
        return self._host.graph

    @property
    def program(self) -> Program:
        """The captured model, with its weights on the CPU (they are sent from there)."""
        return self._host.program

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of its input's channels."""
        return self._host.normalisation

    @property
    def dtype(self) -> torch.dtype:
        """Type of input, weights and outputs."""
        return self._host.dtype

    def image(self, seed: int) -> Tensor:
        """See `Model`."""
        return self._host.image(seed)

    def label(self, seed: int) -> int | None:
        """See `Model`."""
        return self._host.label(seed)

    def input_of(self, image: Tensor) -> Tensor:
        """See `Model`."""
        return self._host.input_of(image)

    def whole(self, x: Tensor) -> tuple[Tensor, ...]:
        """See `Model`; on the device."""
        with self._device:
            return tuple(self._back(tensor) for tensor in self._there.whole(x.to(self._device)))

    def run_part(self, vertices: Sequence[int], tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See `Model`; on the device."""
        with self._device:
            outputs = self._there.run_part(vertices, {v: tensor.to(self._device) for v, tensor in tensors.items()})
            return {v: self._back(tensor) for v, tensor in outputs.items()}

    def tile_pieces(self, vertices: Sequence[int], box: Box, tensors: Mapping[int, Tensor]) -> list[Tensor]:
        """See `Model`."""
        return self._host.tile_pieces(vertices, box, tensors)

    def run_tile(self, vertices: Sequence[int], box: Box, pieces: Sequence[Tensor]) -> Tensor:
        """See `Model`; on the device."""
        with self._device:
            return self._back(self._there.run_tile(vertices, box, [piece.to(self._device) for piece in pieces]))

    def run_partial(
        self,
        vertices: Sequence[int],
        region: PartialRegion,
        pieces: Sequence[Tensor],
        given: Sequence[tuple[int, Box, Tensor]],
        keep: Sequence[tuple[int, Box]],
    ) -> tuple[Tensor, list[Tensor]]:
        """See `Model`; on the device."""
        with self._device:
            moved = [(v, box, part.to(self._device)) for v, box, part in given]
            there = [piece.to(self._device) for piece in pieces]
            output, kept = self._there.run_partial(vertices, region, there, moved, keep)
            return self._back(output), [self._back(tensor) for tensor in kept]

    def assemble(self, vertex: int, boxes: Sequence[Box], tiles: Sequence[Tensor]) -> Tensor:
        """See `Model`."""
        return self._host.assemble(vertex, boxes, tiles)

    def _back(self, tensor: Tensor) -> Tensor:
        return tensor.to("cpu")  # waits for the device, so that what is timed has been done
