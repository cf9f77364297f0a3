"""What is known of operators: which are pointwise, which are windows and with what geometry, which only reshape.

Everything that is not listed here still runs; it is just not tiled and not fused. No model and no graph in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from d3node.errors import ModelError
from d3node.graph import Pair, Spatial
from d3node.instructions import Constant, Given, Instruction, Local


def words(text: str) -> frozenset[str]:
    """The set of operator names in a text."""
    return frozenset(text.split())


POINTWISE = words(
    """
    relu relu6 leaky_relu silu gelu elu selu celu hardtanh hardswish hardsigmoid sigmoid log_sigmoid tanh mish softplus
    softsign prelu threshold hardshrink softshrink clamp clamp_min clamp_max neg abs exp log log1p expm1 sqrt rsqrt pow square
    reciprocal sign sin cos erf floor ceil round nan_to_num add sub mul div rsub maximum minimum batch_norm local_response_norm
    """
)
"""Operators whose output position depends on the same position of their only map (constants broadcast over positions)."""

IDENTITY = words("dropout feature_dropout alpha_dropout feature_alpha_dropout contiguous clone alias detach detach_ to")
"""Operators that return their input as it is (in eval mode, and where shape and dtype stay the same)."""

VIEWS = words("view reshape flatten squeeze unsqueeze unflatten _unsafe_view view_as")
"""Operators that only rename the shape of a contiguous tensor."""

ELEMENTWISE = words("add sub mul div maximum minimum")
"""Operators that join two maps of equal shape, position by position."""

WINDOWS = words("conv2d max_pool2d avg_pool2d pad constant_pad_nd")
MAY_ALIAS = IDENTITY | VIEWS
"""Results of these may share memory with their argument even where the schema does not say so."""


def short_name(target: Any) -> str:
    """ "conv2d" for aten.conv2d.default; in-place and private underscores are dropped."""
    name = (
        target._schema.name.split("::")[-1]
        if isinstance(target, torch._ops.OpOverload)
        else getattr(target, "__name__", str(target))
    )
    return str(name).strip("_")


def base_name(instruction: Instruction) -> str:
    """Name under which this module's tables know an instruction's operator."""
    return short_name(instruction.target)


def pair(value: Any, default: Any = None) -> Pair:
    """(rows, columns) of an argument that may be one number, one in a list, two, or empty (then `default`)."""
    if isinstance(value, int):
        return (value, value)
    if not value:
        return pair(default)
    return (int(value[0]), int(value[-1]))


def constant_padding(instruction: Instruction) -> tuple[tuple[int, int, int, int], float] | None:
    """((left, right, top, bottom), value) of a constant padding of the last two axes; None for any other padding."""
    widths = [int(w) for w in instruction.argument("pad")]
    if "mode" in instruction.names and instruction.argument("mode") != "constant":
        return None
    if len(widths) > 4 and any(widths[4:]):
        return None
    left, right, top, bottom = (*widths[:4], 0, 0, 0, 0)[:4]
    value = instruction.argument("value")
    if min(left, right, top, bottom) < 0:
        return None
    return (left, right, top, bottom), 0.0 if value is None else float(value)


def window(instruction: Instruction) -> Spatial | None:
    """Geometry of a convolution, pooling or constant padding; None where it is none of these, or not in a tileable form."""
    name = base_name(instruction)
    if name not in WINDOWS:
        return None
    if name in ("pad", "constant_pad_nd"):
        padding = constant_padding(instruction)
        return None if padding is None else Spatial("window", padding=(padding[0][2], padding[0][0]))
    stride = pair(instruction.argument("stride"), instruction.argument("kernel_size") if name != "conv2d" else 1)
    if name == "avg_pool2d":
        return Spatial("window", pair(instruction.argument("kernel_size")), stride, pair(instruction.argument("padding")))
    dilation = pair(instruction.argument("dilation"))
    if name == "max_pool2d":
        return Spatial(
            "window", pair(instruction.argument("kernel_size")), stride, pair(instruction.argument("padding")), dilation
        )
    return None  # a convolution: its kernel is in its weight, see `convolution`


def convolution(instruction: Instruction, kernel: Pair) -> Spatial:
    """Geometry of a conv2d with this kernel. Padding "same" puts the odd one at the end, as torch does."""
    dilation = pair(instruction.argument("dilation"))
    padding = instruction.argument("padding")
    if padding == "same":
        leading = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    elif padding == "valid":
        leading = (0, 0)
    else:
        leading = pair(padding)
    return Spatial("window", kernel, pair(instruction.argument("stride"), 1), leading, dilation)


def is_identity(instruction: Instruction) -> bool:
    """True for a dropout in eval mode, a copy and the like. Raises ModelError for a dropout that would drop."""
    name = base_name(instruction)
    if name.endswith("dropout") and instruction.argument("train"):
        raise ModelError(f"the model contains {instruction.target} in training mode; export it in eval mode")
    return name in IDENTITY


def positionwise(instruction: Instruction, constant_shapes: dict[str, tuple[int, ...]], rank: int) -> bool:
    """True where the instruction treats every position of its map alike, so that any tile of the map can go through it."""
    name = base_name(instruction)
    if name == "batch_norm" and instruction.argument("training"):
        raise ModelError("the model contains batch_norm in training mode; export it in eval mode")
    if is_identity(instruction):
        return True
    if name not in POINTWISE:
        return False
    if name in ("batch_norm", "prelu", "local_response_norm"):
        return True  # their constants are per channel
    shapes = [constant_shapes[item.name] for item in flat(instruction) if isinstance(item, Constant)]
    return all(len(s) <= rank and all(n == 1 for n in s[-2:]) for s in shapes)


def flat(instruction: Instruction) -> list[Any]:
    """All arguments, lists opened."""
    found: list[Any] = []

    def visit(item: Any) -> None:
        if isinstance(item, list | tuple):
            for x in item:
                visit(x)
        else:
            found.append(item)

    visit(instruction.arguments)
    visit(list(instruction.keywords.values()))
    return found


def maps(instruction: Instruction) -> Sequence[Given | Local]:
    """Arguments that are not constants, in order, repeats included."""
    return [item for item in flat(instruction) if isinstance(item, Given | Local)]
