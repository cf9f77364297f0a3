"""Executable form of one vertex: a short straight-line list of operator calls, and how it is run.

Which calls a vertex consists of is decided by `d3node.capture`; running many vertices is `d3node.parts`, running
parts of maps is `d3node.tiles`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d3node.graph import LayerGraph

ALIGNMENT = 64
"""Bytes; torch's own allocations have it. BLAS kernels may round differently on other addresses, so inputs are brought to it."""


@dataclass(frozen=True, slots=True)
class Given:
    """Argument: the tensor of the vertex's `position`-th input vertex."""

    position: int


@dataclass(frozen=True, slots=True)
class Local:
    """Argument: the result of an earlier instruction of the same vertex."""

    position: int


@dataclass(frozen=True, slots=True)
class Constant:
    """Argument: a parameter, buffer or folded constant of the model, by name."""

    name: str


@dataclass(frozen=True)
class Instruction:
    """One call. `arguments` has Given, Local and Constant in place of tensors, also inside lists.

    `names` are the schema's argument names where the target has a schema, in the order of `arguments` (all of them,
    defaults filled in), so that geometry can be read by name.
    """

    target: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    names: tuple[str, ...] = ()

    def argument(self, name: str) -> Any:
        """Value of an argument by its schema name."""
        if name in self.keywords:
            return self.keywords[name]
        return self.arguments[self.names.index(name)]

    def call(self, given: Sequence[Tensor], local: Sequence[Any], constants: Mapping[str, Tensor]) -> Any:
        """Run it."""

        def value(item: Any) -> Any:
            kind = type(item)
            if kind is Given:
                return given[item.position]
            if kind is Local:
                return local[item.position]
            if kind is Constant:
                return constants[item.name]
            if kind is list or kind is tuple:
                return kind(value(x) for x in item)
            return item

        arguments = [value(item) for item in self.arguments]
        if self.keywords:
            return self.target(*arguments, **{key: value(item) for key, item in self.keywords.items()})
        return self.target(*arguments)


Code = tuple[Instruction, ...]
"""The instructions of one vertex, in order; the last one's result is the vertex's tensor."""


@dataclass(frozen=True)
class Program:
    """A captured model: its layer graph, one Code per vertex (empty for the input), and the tensors they use."""

    graph: LayerGraph
    codes: tuple[Code, ...]
    constants: dict[str, Tensor]


def run(code: Code, given: Sequence[Tensor], constants: Mapping[str, Tensor], head: Tensor | None = None) -> Tensor:
    """Compute a vertex from its inputs' tensors, or finish it from its first instruction's result (`head`).

    The result is C-contiguous, whatever layout the kernels like: so a tensor that travelled between hosts and one that
    did not have the same layout, and the next kernel does bit for bit the same.
    """
    local: list[Any] = [] if head is None else [head]
    for instruction in code[len(local) :]:
        local.append(instruction.call(given, local, constants))
    result = local[-1]
    assert isinstance(result, Tensor)
    return result.contiguous()


def settled(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy where its layout or address could make kernels round differently."""
    if tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
