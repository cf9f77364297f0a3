"""Capture a model: torch.export, then one vertex per operator with the cheap operators behind it fused in.

A unary pointwise operator whose producer has no other consumer joins its producer's vertex (no planner could want to cut
between them: the tensor has the same size on both sides); views join producers that cannot be tiled. What an exported
program consists of is read by `d3node.reading`; where models come from is `d3node.zoo`'s business.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from d3node.errors import ModelError
from d3node.graph import LayerGraph, Operator, Parameter, Spatial, Vertex
from d3node.instructions import Code, Constant, Instruction, Local, Program
from d3node.operators import (
    ELEMENTWISE,
    POINTWISE,
    VIEWS,
    base_name,
    convolution,
    flat,
    is_identity,
    maps,
    positionwise,
    window,
    words,
)
from d3node.reading import Call, Reading, read, renumber
from d3node.zoo import quiet


def capture(module: nn.Module, input_shape: tuple[int, ...], name: str) -> Program:
    """Capture a module in eval mode for one input shape (with batch). Raises ModelError where torch cannot export it."""
    try:
        with torch.no_grad(), quiet():
            exported = torch.export.export(module.eval(), (torch.zeros(input_shape),), strict=False)
    except Exception as error:  # torch.export raises a zoo of its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "data-dependent" in first:
            first = f"its control flow depends on values, which no layer graph can have ({first})"
        elif "missing a required argument" in first:
            first = f"it takes more than the one input tensor that a layer graph starts from ({first})"
        elif ":" in name and "?" not in name:
            first = f"{first}\n(for another input shape: '{name}?input=1x3x64x64')"
        raise ModelError(f"model {name!r} cannot be exported for an input of shape {input_shape}: {first}") from error
    return from_exported(exported, name)


def from_exported(exported: ExportedProgram, name: str) -> Program:
    """Capture an exported program with one input tensor and static shapes. Raises ModelError for any other."""
    try:
        reading = read(exported)
        return _Builder(reading).build(name)
    except ModelError as error:
        raise ModelError(f"model {name!r}: {error}") from error


class _Builder:
    def __init__(self, reading: Reading) -> None:
        self.calls, self.constants, self.outputs = reading.calls, reading.constants, reading.outputs
        self.shapes = {key: tuple(value.shape) for key, value in reading.constants.items()}
        self.consumers: list[set[int]] = [set() for _ in self.calls]
        for index, call in enumerate(self.calls):
            for producer in call.producers:
                self.consumers[producer].add(index)

    def build(self, name: str) -> Program:
        groups, spatials = self._groups()
        vertex_of = {call: v for v, group in enumerate(groups) for call in group}
        vertices, codes = [], []
        for v, group in enumerate(groups):
            head, last = self.calls[group[0]], self.calls[group[-1]]
            inputs = list(dict.fromkeys(vertex_of[p] for p in head.producers))
            code = self._code(group, {vertex: place for place, vertex in enumerate(inputs)}, vertex_of)
            used = {i.name for one in code for i in flat(one) if isinstance(i, Constant)}
            vertices.append(
                Vertex(
                    index=v,
                    name=head.name,
                    operator=head.short,
                    inputs=tuple(inputs),
                    output_shape=last.shape,
                    output_bytes=_bytes(last),
                    flops=sum(self.calls[c].flops for c in group),
                    parameter_bytes=sum(self.constants[key].nbytes for key in used),
                    spatial=spatials[v],
                    operators=tuple(Operator(c.name, c.target, c.shape, c.flops) for c in (self.calls[index] for index in group)),
                    parameters=tuple(_parameter(key, self.constants[key]) for key in sorted(used)),
                )
            )
            codes.append(code)
        outputs = tuple(vertex_of[c] for c in self.outputs)
        return Program(LayerGraph(name, tuple(vertices), outputs), tuple(codes), self.constants)

    def _groups(self) -> tuple[list[list[int]], list[Spatial | None]]:
        """Calls of every vertex in order, and the vertex's geometry."""
        groups: list[list[int]] = []
        spatials: list[Spatial | None] = []
        group_of: dict[int, int] = {}
        for index, call in enumerate(self.calls):
            producers = call.producers
            group = group_of.get(producers[0]) if len(producers) == 1 else None
            if group and self._fuses(call, producers[0], spatials[group]):
                groups[group].append(index)
            else:
                group = len(groups)
                groups.append([index])
                spatials.append(self._spatial(call) if index else None)
            group_of[index] = group
        return groups, spatials

    def _fuses(self, call: Call, producer: int, spatial: Spatial | None) -> bool:
        """True where a call can join the vertex of its only producer (never the input vertex)."""
        if producer in self.outputs or len(self.consumers[producer]) != 1 or len(call.instructions) != 1:
            return False
        before, instruction = self.calls[producer], call.instructions[0]
        if before.dtype != call.dtype:
            return False
        if spatial is not None:
            return before.shape == call.shape and positionwise(instruction, self.shapes, len(call.shape))
        if base_name(instruction) in VIEWS:
            return _bytes(before) == _bytes(call)
        return before.shape == call.shape and (is_identity(instruction) or base_name(instruction) in POINTWISE)

    def _spatial(self, call: Call) -> Spatial | None:
        """Geometry of a vertex that starts with this call; None where it cannot be tiled."""
        instruction = call.instructions[0]
        given = maps(instruction)
        sources = [self.calls[p] for p in call.producers]
        if len(call.instructions) != 1 or any(len(c.shape) != 4 or c.dtype != call.dtype for c in (*sources, call)):
            return None
        name = base_name(instruction)
        if name == "conv2d":
            weight = instruction.argument("weight")
            return convolution(instruction, self.shapes[weight.name][2:]) if isinstance(weight, Constant) else None  # type: ignore[arg-type]
        if name == "cat":
            whole = len(given) == len(instruction.argument("tensors")) and instruction.argument("dim") in (1, -3)
            return Spatial("concat") if whole else None
        if name in ELEMENTWISE and len(given) == 2:
            return Spatial("add") if all(c.shape == call.shape for c in sources) else None
        if len(given) == 1 and sources[0].shape == call.shape and positionwise(instruction, self.shapes, 4):
            return Spatial("pointwise")
        return window(instruction)

    def _code(self, group: list[int], given: dict[int, int], vertex_of: dict[int, int]) -> Code:
        """Instructions of a vertex, with Given counting its inputs and Local its own earlier results."""
        code: list[Instruction] = []
        results: dict[int, Local] = {}
        for index in group:
            call = self.calls[index]
            place: dict[int, Any] = {p: results.get(p, given.get(vertex_of[p], 0)) for p in call.producers}
            moved = [renumber(_shift(one, len(code)), place) for one in call.instructions]
            if call.in_place is not None and len(moved) == 1 and code and _owned(code[-1], moved[0]):
                moved[0] = replace(moved[0], target=call.in_place)  # nobody else sees the tensor: saves a copy
            code.extend(moved)
            results[index] = Local(len(code) - 1)
        return tuple(code)


def _parameter(name: str, tensor: torch.Tensor) -> Parameter:
    return Parameter(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.nbytes)


def _owned(producer: Instruction, consumer: Instruction) -> bool:
    """True where the consumer's first argument is memory that its producer has just allocated."""
    return producer.names != () and base_name(producer) in _ALLOCATES and isinstance(consumer.arguments[0], Local)


_ALLOCATES = words("conv2d linear batch_norm add sub mul div cat max_pool2d avg_pool2d adaptive_avg_pool2d addmm")
"""Operators whose result is memory of their own."""


def _shift(instruction: Instruction, offset: int) -> Instruction:
    """Local positions counted from the start of the vertex instead of the start of the call."""
    if not offset or not any(isinstance(i, Local) for i in flat(instruction)):
        return instruction

    def move(item: Any) -> Any:
        return Local(item.position + offset) if isinstance(item, Local) else item

    return replace(instruction, arguments=tuple(move(a) for a in instruction.arguments))


def _bytes(call: Call) -> int:
    count = 1
    for n in call.shape:
        count *= n
    return count * call.dtype.itemsize
