"""A loaded model as agents use it: its layer graph, and the whole of it, parts of it and tiles of it run on tensors.

torch is imported only when a model is loaded: `load_graph` answers from a cache without it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from d3node import graph_cache, zoo
from d3node.graph import INPUT, LayerGraph
from d3node.intervals import Box

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from d3node.instructions import Program
    from d3node.intervals import TileRegion
    from d3node.reuse import PartialRegion

KEPT_REGIONS = 4096
"""Tiles whose regions a model remembers, so that serving a request does no interval arithmetic."""


CAPTURED = ".d3model"
"""Suffix of captured models (`d3node.program_file`)."""


def captured_within(path: str, offset: int) -> str:
    """The source of a captured model that begins at an offset (a multiple of 64) of a larger file or a device."""
    return f"{path}@{offset}{CAPTURED}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model: a zoo name, a network that is trained here (`d3node.train`), "package.module:factory[?input=1x3x224x224]",
    "file.py:factory[...]" or a `.pt2` file; the seed of its random weights or training, or a `.safetensors` file with real
    ones."""

    source: str
    seed: int = 0
    weights: str | None = None


class Model:
    """A captured model with its weights. Methods run in inference mode; none changes or copies a weight, so a process may load it
    once and fork. Bit-equality of whole and parts holds for one machine and one number of threads."""

    def __init__(self, program: Program, normalisation: tuple[tuple[float, ...], tuple[float, ...]] = zoo.IMAGENET) -> None:
        self.program = program
        self.normalisation = normalisation
        self._region = functools.lru_cache(KEPT_REGIONS)(self._reverse)

    @property
    def graph(self) -> LayerGraph:
        """The layer graph; all methods speak of its vertices."""
        return self.program.graph

    @property
    def dtype(self) -> torch.dtype:
        """Type of input, weights and outputs."""
        import torch

        return next((t.dtype for t in self.program.constants.values() if t.is_floating_point()), torch.float32)

    def to(self, dtype: torch.dtype) -> Model:
        """The same model with its floating-point weights converted (float64 for reference results)."""
        from d3node.instructions import Program

        constants = {k: t.to(dtype) if t.is_floating_point() else t for k, t in self.program.constants.items()}
        return Model(Program(self.program.graph, self.program.codes, constants), self.normalisation)

    def image(self, seed: int) -> Tensor:
        """A uint8 image of the input's shape: from the model's data set, or made up (smooth blobs with grain, the same for the
        same seed everywhere)."""
        import torch

        if (images := self.program.constants.get("data.images")) is not None:
            return images[seed % len(images)][None].clone()
        shape = self.graph[INPUT].output_shape
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 48, shape, generator=generator, dtype=torch.int32)
        if len(shape) == 4:
            for step in (8, 32):
                coarse = torch.randint(0, 104, (*shape[:2], -(-shape[2] // step), -(-shape[3] // step)), generator=generator)
                blown = coarse.repeat_interleave(step, 2).repeat_interleave(step, 3)
                image += blown[..., : shape[2], : shape[3]].to(torch.int32)
        return image.clamp_(0, 255).to(torch.uint8)

    def label(self, seed: int) -> int | None:
        """The class of the image of a seed; None for a made-up image."""
        labels = self.program.constants.get("data.labels")
        return None if labels is None else int(labels[seed % len(labels)])

    def input_of(self, image: Tensor) -> Tensor:
        """The model's input from an image in 0..255: scaled to 0..1 and normalised per channel, in float32 or the model's type.

        It is applied where the image is used, so a uint8 image travels without loss against the same whole-model run.
        """
        import torch

        with torch.inference_mode():
            mean, deviation = (torch.tensor(values, dtype=torch.float32) for values in self.normalisation)
            scaled = image.to(torch.float32).div_(255.0)
            if image.dim() == 4 and image.shape[1] == len(mean):
                scaled = scaled.sub_(mean[:, None, None]).div_(deviation[:, None, None])
            else:
                scaled = scaled.sub_(0.5).div_(0.25)
            return scaled.to(self.dtype)

    def whole(self, x: Tensor) -> tuple[Tensor, ...]:
        """The model's answer to one input: a tensor per graph output. Raises ComputeError."""
        outputs = self.run_part(range(1, len(self.graph)), {INPUT: x})
        return tuple(x if v == INPUT else outputs[v] for v in self.graph.outputs)

    def run_part(self, vertices: Collection[int], tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Boundary outputs of a convex set of vertices from its boundary inputs, both by vertex. Raises ComputeError."""
        from d3node import parts

        return parts.run_part(self.program, vertices, tensors)

    def tile_pieces(self, vertices: Sequence[int], box: Box, tensors: Mapping[int, Tensor]) -> list[Tensor]:
        """What one tile of a stack reads, cut from the stack's whole input maps: contiguous, by ascending vertex."""
        from d3node import tiles

        return tiles.pieces_of(self.program, self._region(tuple(vertices), _plain(box)), tensors)

    def run_tile(self, vertices: Sequence[int], box: Box, pieces: Sequence[Tensor]) -> Tensor:
        """Box (rows, columns; half-open) of the map of a stack's last vertex, from its pieces. Raises ComputeError."""
        from d3node import tiles

        return tiles.run_tile(self.program, vertices, self._region(tuple(vertices), _plain(box)), pieces)

    def run_partial(
        self,
        vertices: Sequence[int],
        region: PartialRegion,
        pieces: Sequence[Tensor],
        given: Sequence[tuple[int, Box, Tensor]],
        keep: Sequence[tuple[int, Box]],
    ) -> tuple[Tensor, list[Tensor]]:
        """A tile with parts of its inner maps given, and parts of them to be kept for other tiles. Raises ComputeError."""
        from d3node import tiles

        return tiles.run_partial(self.program, vertices, region, pieces, given, keep)

    def assemble(self, vertex: int, boxes: Sequence[Box], tiles: Sequence[Tensor]) -> Tensor:
        """A vertex's whole map from tiles that cover it exactly. Raises ComputeError."""
        from d3node.tiles import assemble

        return assemble(self.program, vertex, boxes, tiles)

    def _reverse(self, vertices: tuple[int, ...], box: Box) -> TileRegion:
        from d3node import tiles

        return tiles.region_of(self.graph, vertices, box)


def load_model(spec: ModelSpec) -> Model:
    """Load, capture and return a model; its graph goes into the cache. Raises ModelError.

    A `.d3model` file (`d3node.program_file`) is captured already.
    """
    if spec.source.endswith(CAPTURED):
        from d3node import program_file

        return program_file.load(spec.source)
    loaded = zoo.load(spec.source, spec.seed, spec.weights)
    program = _captured(loaded, spec.source)
    graph_cache.put(spec.source, program.graph)
    if loaded.data is not None:
        program = replace(program, constants={**program.constants, **{f"data.{key}": t for key, t in loaded.data.items()}})
    return Model(program, loaded.normalisation)


def load_graph(spec: ModelSpec) -> LayerGraph:
    """A model's layer graph, from the cache where it is there (then torch is not imported). Raises ModelError."""
    cached = graph_cache.get(spec.source)
    if cached is not None:
        return cached
    with graph_cache.alone(spec.source):
        cached = graph_cache.get(spec.source)
        if cached is not None:
            return cached
        graph = _captured(zoo.load(spec.source, spec.seed, spec.weights, shapes_only=True), spec.source).graph
        graph_cache.put(spec.source, graph)
        return graph


def _captured(loaded: zoo.Loaded, source: str) -> Program:
    from torch import nn

    from d3node.capture import capture, from_exported

    if isinstance(loaded.model, nn.Module):
        return capture(loaded.model, loaded.input_shape, source)
    return from_exported(loaded.model, source)


def _plain(box: Box) -> Box:
    (top, bottom), (left, right) = box
    return (int(top), int(bottom)), (int(left), int(right))
