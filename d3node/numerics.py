"""What an agent computes with: real tensors through a `Model`, or sizes only through a `LayerGraph`. Payloads in, payloads out.

When something is computed is the agent's business (`d3node.execute`), how is the model's. torch is imported only where tensors
are real. Tensors share memory with the payloads that they came from or go to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from d3node.channel import Payload
from d3node.errors import ProtocolError
from d3node.graph import INPUT, LayerGraph
from d3node.intervals import Box, area, reverse
from d3node.reuse import PartialRegion
from d3node.wire import ITEM_BYTES

if TYPE_CHECKING:
    from torch import Tensor

Encoding = Literal["float32", "uint8"]
"""How vertex 0 travels: as the model's input, or as the image, to which `Model.input_of` is applied where it is computed on."""
FLOAT: Final = "float32"


class RunnableModel(Protocol):
    """The part of `d3node.model.Model` that an agent uses."""

    @property
    def graph(self) -> LayerGraph: ...

    def image(self, seed: int) -> Tensor: ...

    def label(self, seed: int) -> int | None: ...

    def input_of(self, image: Tensor) -> Tensor: ...

    def whole(self, x: Tensor) -> tuple[Tensor, ...]: ...

    def run_part(self, vertices: Sequence[int], tensors: Mapping[int, Tensor]) -> dict[int, Tensor]: ...

    def tile_pieces(self, vertices: Sequence[int], box: Box, tensors: Mapping[int, Tensor]) -> list[Tensor]: ...

    def run_tile(self, vertices: Sequence[int], box: Box, pieces: Sequence[Tensor]) -> Tensor: ...

    def run_partial(
        self,
        vertices: Sequence[int],
        region: PartialRegion,
        pieces: Sequence[Tensor],
        given: Sequence[tuple[int, Box, Tensor]],
        keep: Sequence[tuple[int, Box]],
    ) -> tuple[Tensor, list[Tensor]]: ...

    def assemble(self, vertex: int, boxes: Sequence[Box], tiles: Sequence[Tensor]) -> Tensor: ...


class Sizes:
    """The shapes of all that travels for a graph, without data. Float32 throughout, the input vertex as `encoding` says."""

    def __init__(self, graph: LayerGraph, encoding: Encoding = "float32") -> None:
        self.graph = graph
        self.encoding = encoding
        self.whole = tuple(self.of(v, vertex.output_shape) for v, vertex in enumerate(graph.vertices))

    def of(self, vertex: int, shape: tuple[int, ...]) -> Payload:
        """A payload without data, for a tensor of that vertex."""
        dtype = self.encoding if vertex == INPUT else FLOAT
        return Payload(dtype, shape, math.prod(shape) * ITEM_BYTES[dtype])

    def region(self, vertex: int, box: Box) -> Payload:
        """A payload without data, for a box of that vertex's map; 0 x 0 when the box is empty."""
        rows, columns = (end - start for start, end in box) if area(box) else (0, 0)
        return self.of(vertex, (*self.graph[vertex].output_shape[:-2], rows, columns))

    def read(self, vertices: Sequence[int], box: Box) -> tuple[Payload, ...]:
        """Payloads without data of what a tile reads, by ascending vertex."""
        return tuple(self.region(u, region) for u, region in reverse(self.graph, vertices, box).read.items())


def check_like(payload: Payload, expected: Payload, what: str) -> Payload:
    """The payload, if it has the expected dtype and shape. Raises ProtocolError otherwise."""
    if payload.shape != expected.shape or payload.dtype != expected.dtype:
        raise ProtocolError(
            f"{what} should be {expected.dtype} of shape {expected.shape}, but is {payload.dtype} of shape {payload.shape}"
        )
    return payload


class Numerics:
    """Real computing on payloads. Every method is plain, blocking work on one thread; the caller chooses the thread."""

    def __init__(self, model: RunnableModel, encoding: Encoding, threads: int) -> None:
        self.model = model
        self.encoding = encoding
        self._threads = threads

    def prepare(self) -> None:
        """Set the number of threads of torch for this process and this thread."""
        import torch

        torch.set_num_threads(self._threads)

    def input(self, seed: int) -> Payload:
        """The input vertex's payload for a seed, as it travels."""
        import torch

        with torch.inference_mode():
            image = self.model.image(seed)
            return payload_of(image if self.encoding == "uint8" else self.model.input_of(image))

    def whole(self, seed: int) -> tuple[Payload, ...]:
        """The whole model's answer for the image of a seed."""
        import torch

        with torch.inference_mode():
            return tuple(payload_of(tensor) for tensor in self.model.whole(self.model.input_of(self.model.image(seed))))

    def blank(self, vertex: int) -> Payload:
        """What a blank image (all zeros) makes of a vertex."""
        import torch

        graph, members, waiting = self.model.graph, set[int](), [vertex]
        while waiting:
            v = waiting.pop()
            if v != INPUT and v not in members:
                members.add(v)
                waiting.extend(graph[v].inputs)
        with torch.inference_mode():
            blank = self.model.input_of(torch.zeros(graph[INPUT].output_shape, dtype=torch.uint8))
            found = {INPUT: blank} if vertex == INPUT else self.model.run_part(sorted(members), {INPUT: blank})
            return payload_of(found[vertex])

    def run_part(self, vertices: Sequence[int], payloads: Mapping[int, Payload]) -> dict[int, Payload]:
        """The boundary outputs of a part."""
        import torch

        with torch.inference_mode():
            tensors = {v: self._decode(v, payload) for v, payload in payloads.items()}
            return {v: payload_of(tensor) for v, tensor in self.model.run_part(vertices, tensors).items()}

    def cut(self, vertices: Sequence[int], box: Box, payloads: Mapping[int, Payload]) -> tuple[Payload, ...]:
        """What a tile reads, in memory of its own; a piece of the input vertex stays in the encoding that it travels in."""
        import torch

        with torch.inference_mode():
            tensors = {v: tensor_of(payload) for v, payload in payloads.items()}
            return tuple(payload_of(piece) for piece in self.model.tile_pieces(vertices, box, tensors))

    def run_tile(self, vertices: Sequence[int], box: Box, reads: Sequence[int], pieces: Sequence[Payload]) -> Payload:
        """One tile of a stack's output; `reads` are the vertices of the pieces."""
        import torch

        with torch.inference_mode():
            tensors = [self._decode(v, piece) for v, piece in zip(reads, pieces, strict=True)]
            return payload_of(self.model.run_tile(vertices, box, tensors))

    def cut_partial(
        self, region: PartialRegion, payloads: Mapping[int, Payload], given: Sequence[tuple[int, Box, Payload]]
    ) -> tuple[Payload, ...]:
        """What a tile with given parts reads of whole maps, and what it uses of the parts, in memory of its own."""
        import torch

        from d3node.tiles import patch

        read = self.cut_regions(region.read, payloads)
        with torch.inference_mode():
            return *read, *(
                payload_of(patch(self.model.graph, v, box, [(kept, tensor_of(part)) for u, kept, part in given if u == v]))
                for v, box in region.used
            )

    def cut_regions(self, regions: Mapping[int, Box], payloads: Mapping[int, Payload]) -> tuple[Payload, ...]:
        """Regions of whole maps by ascending vertex, in memory of their own; the input vertex stays in its encoding."""
        import torch

        from d3node.tiles import patch

        with torch.inference_mode():
            found = []
            for u, box in sorted(regions.items()):
                tensor = tensor_of(payloads[u])
                whole = (0, tensor.shape[-2]), (0, tensor.shape[-1])
                found.append(payload_of(patch(self.model.graph, u, box, [(whole, tensor)])))
            return tuple(found)

    def run_partial(
        self,
        vertices: Sequence[int],
        region: PartialRegion,
        payloads: Sequence[Payload],
        keep: Sequence[tuple[int, Box]],
    ) -> tuple[Payload, list[Payload]]:
        """One tile from what `cut_partial` gave it, and what it is to keep for other tiles."""
        import torch

        with torch.inference_mode():
            count = len(region.read)
            pieces = [self._decode(v, piece) for v, piece in zip(region.read, payloads[:count], strict=True)]
            given = [(v, box, tensor_of(part)) for (v, box), part in zip(region.used, payloads[count:], strict=True)]
            output, kept = self.model.run_partial(vertices, region, pieces, given, keep)
            return payload_of(output), [payload_of(tensor) for tensor in kept]

    def patch(self, vertex: int, region: Box, parts: Sequence[tuple[Box, Payload]]) -> Payload:
        """A region of a vertex's map put together from parts of it, in memory of its own. Raises ComputeError where they leave
        something of it out."""
        import torch

        from d3node.tiles import patch

        with torch.inference_mode():
            return payload_of(patch(self.model.graph, vertex, region, [(box, tensor_of(part)) for box, part in parts]))

    def assemble(self, vertex: int, boxes: Sequence[Box], tiles: Sequence[Payload]) -> Payload:
        """The whole map from its tiles."""
        import torch

        with torch.inference_mode():
            return payload_of(self.model.assemble(vertex, boxes, [tensor_of(tile) for tile in tiles]))

    def _decode(self, vertex: int, payload: Payload) -> Tensor:
        tensor = tensor_of(payload)
        if vertex == INPUT and payload.dtype == "uint8":
            return self.model.input_of(tensor)
        return tensor


def payload_of(tensor: Tensor) -> Payload:
    """A tensor as a payload that shares its memory (copied only when it is not contiguous)."""
    import torch

    dense = tensor.detach().contiguous()
    data: Any = dense.reshape(-1).view(torch.uint8).numpy() if dense.numel() else bytearray()
    return Payload(
        str(dense.dtype).removeprefix("torch."), tuple(dense.shape), dense.numel() * dense.element_size(), memoryview(data)
    )


def tensor_of(payload: Payload) -> Tensor:
    """A payload as a tensor that shares its memory. Raises ProtocolError for a payload without data."""
    import torch

    dtype: torch.dtype = getattr(torch, payload.dtype)
    if not payload.nbytes:
        return torch.empty(payload.shape, dtype=dtype)
    if payload.data is None:
        raise ProtocolError("a tensor came without its data: one host runs with tensors, another with sizes only")
    return torch.frombuffer(payload.data, dtype=dtype).reshape(payload.shape)
