"""Read an exported program into a flat list of functional operator calls with shapes, FLOPs and readable names.

In-place operators are replaced by functional ones, what does not depend on the input is folded into constants, and calls
with several results are repeated for each result that is used. Grouping into vertices is `d3node.capture`'s business.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Node
from torch.utils.flop_counter import FlopCounterMode

from d3node.errors import ModelError
from d3node.instructions import Constant, Given, Instruction, Local
from d3node.operators import IDENTITY, MAY_ALIAS, POINTWISE, VIEWS, flat, short_name


@dataclass
class Call:
    """One operator with one result. `Given.position` in its instructions is the index of another Call; 0 is the input."""

    name: str
    short: str
    target: str
    instructions: list[Instruction]
    shape: tuple[int, ...]
    dtype: torch.dtype
    flops: int = 0
    in_place: Callable[..., Any] | None = None

    @property
    def producers(self) -> list[int]:
        """Indices of the calls it reads, in argument order, without repeats."""
        found = [i.position for one in self.instructions for i in flat(one) if isinstance(i, Given)]
        return list(dict.fromkeys(found))


@dataclass
class Reading:
    """All calls in order (the first is the input), the constants they use, and the calls whose results are the answer."""

    calls: list[Call]
    constants: dict[str, Tensor]
    outputs: list[int] = field(default_factory=list)


class _Aliased(Exception):
    """An in-place operator writes to memory that other values look at: torch has to functionalise the program."""


@dataclass
class _Several:
    """A call with several results, waiting to be asked for one of them."""

    instruction: Instruction
    node: Node


def read(program: ExportedProgram) -> Reading:
    """Read an exported program with one tensor input and static shapes. Raises ModelError for any other."""
    try:
        return _Reader(program).read()
    except _Aliased:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.13 warns about its own use of its pytree here
            functional = program.run_decompositions({})
        return _Reader(functional).read()


class _Reader:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.calls: list[Call] = []
        self.constants: dict[str, Tensor] = {}
        self.aliased: set[Node] = set()
        self.names: dict[str, int] = {}

    def read(self) -> Reading:
        values: dict[Node, Any] = {}
        signature = self.program.graph_signature
        specs = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
        inputs = [s for s in signature.input_specs if s.kind == InputKind.USER_INPUT]
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                value = node.meta.get("val")
                if len(inputs) != 1:
                    raise ModelError(f"a model needs exactly one input, a floating-point tensor; this one has {len(inputs)}")
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                    raise ModelError(f"the model's input must be a floating-point tensor; this one's is {kind}")
                self.calls.insert(0, Call("input", "input", "placeholder", [], _shape(value, "input"), value.dtype))
                values[node] = Given(0)
            else:
                assert spec.target is not None
                store = self.program.state_dict if spec.target in self.program.state_dict else self.program.constants
                values[node] = self._constant(spec.target, store[spec.target])
        if not self.calls:
            raise ModelError("the exported model takes no input tensor")
        self.names["input"] = 1
        results = self._walk(self.program.graph_module, values)
        answers = {s for s in signature.user_outputs if isinstance(s, str)}
        reading = Reading(self.calls, self.constants)
        for node, value in results:
            if node.name in answers:
                if not isinstance(value, Given):
                    raise ModelError("an output of the model does not depend on its input")
                reading.outputs.append(value.position)
        if not reading.outputs:
            raise ModelError("the model returns no tensor")
        return _prune(reading)

    def _walk(self, module: GraphModule, values: dict[Node, Any]) -> list[tuple[Node, Any]]:
        """Read one graph; `values` has its placeholders. Returns what it outputs."""
        nodes = list(module.graph.nodes)
        skipped: set[Node] = set()
        for place, node in enumerate(nodes):
            if node in skipped:
                continue
            norm = _response_norm(nodes[place : place + len(RESPONSE_NORM)])
            if norm is not None and isinstance(values[node.args[0]], Given):
                last = nodes[place + len(RESPONSE_NORM) - 1]
                call = Instruction(norm.target, (values[node.args[0]], *norm.arguments), {}, norm.names)
                values[last] = self._append(last, [call], 0)
                self.calls[-1].target = "torch.nn.functional.local_response_norm"
                skipped.update(nodes[place : place + len(RESPONSE_NORM)])
            elif node.op == "get_attr":
                found = operator.attrgetter(str(node.target))(module)
                values[node] = self._constant(f"attr.{node.target}", found) if isinstance(found, Tensor) else found
            elif node.op == "call_function":
                values[node] = self._function(node, values)
            elif node.op == "output":
                return [(n, values[n]) for n in node.all_input_nodes]
        return []

    def _function(self, node: Node, values: dict[Node, Any]) -> Any:
        arguments = [_plain(a, values) for a in node.args]
        keywords = {k: _plain(a, values) for k, a in node.kwargs.items()}
        name = getattr(node.target, "__name__", "")
        if name == "wrap_with_set_grad_enabled":
            return self._inline(arguments[1], arguments[2:])
        if node.target is operator.getitem and isinstance(arguments[0], list | tuple):
            return arguments[0][arguments[1]]
        if node.target is operator.getitem and isinstance(arguments[0], _Several):
            return self._one_of(node, arguments[0], int(arguments[1]))
        if any(isinstance(n, GraphModule) for n in arguments):
            raise ModelError(f"the model contains control flow ({name}), which cannot be captured as a layer graph")
        instruction = _instruction(node.target, arguments, keywords)
        if _draws(instruction):
            raise ModelError(f"the model draws random numbers ({node.target}), so no two runs of it could be compared")
        reads = flat(instruction)
        if any(isinstance(item, _Several) for item in reads):
            raise ModelError(f"{node.target} takes all results of another operator at once, which is not supported")
        if not any(isinstance(item, Given) for item in reads):
            return self._fold(node, instruction)
        value = node.meta.get("val")
        if value is None:
            return None  # an assertion
        if isinstance(value, list | tuple):
            return _Several(instruction, node)
        written = self._written(node)
        in_place = None
        if written is not None:
            in_place, instruction = node.target, self._functional(node, instruction)
        result = self._append(node, [_normal(instruction)], self._flops(node), in_place)  # type: ignore[arg-type]
        if written is not None:
            values[written] = result  # later readers of the written tensor see what was written
        if _aliases(node):
            self.aliased.update((node, *node.all_input_nodes))
        return result

    def _inline(self, inner: GraphModule, arguments: list[Any]) -> Any:
        places = [n for n in inner.graph.nodes if n.op == "placeholder"]
        return [value for _, value in self._walk(inner, dict(zip(places, arguments, strict=True)))]

    def _append(
        self, node: Node, instructions: list[Instruction], flops: int, in_place: Callable[..., Any] | None = None
    ) -> Given:
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            raise ModelError(f"{node.target} yields {type(value).__name__}, not a tensor; export the model with static shapes")
        short = short_name(instructions[0].target)
        name = self._unique(_path(node, short))
        self.calls.append(Call(name, short, str(node.target), instructions, _shape(value, name), value.dtype, flops, in_place))
        return Given(len(self.calls) - 1)

    def _one_of(self, node: Node, several: _Several, which: int) -> Given:
        short = short_name(several.instruction.target)
        single = _single(several.instruction, short) if which == 0 else None
        if single is not None:
            instructions = [single]
        else:
            pick = Instruction(operator.getitem, (Local(0), which), {})
            instructions = [several.instruction, pick]
        self.aliased.update((node, *several.node.all_input_nodes))
        result = self._append(node, instructions, self._flops(several.node))
        self.calls[result.position].target = str(several.node.target)
        return result

    def _fold(self, node: Node, instruction: Instruction) -> Any:
        """Evaluate a call that reads only constants, once and for all."""
        if self._written(node) is not None:
            raise ModelError(f"the model writes to one of its buffers ({node.target}); only stateless models can be captured")
        with torch.no_grad():
            result = instruction.call((), (), self.constants)
        if isinstance(result, Tensor):
            return self._constant(f"folded.{node.name}", result)
        if isinstance(result, list | tuple) and any(isinstance(item, Tensor) for item in result):
            return [self._constant(f"folded.{node.name}.{i}", item) for i, item in enumerate(result)]
        return result

    def _constant(self, name: str, tensor: Tensor) -> Constant:
        self.constants[name] = tensor.detach()
        return Constant(name)

    def _written(self, node: Node) -> Node | None:
        """The argument that an in-place operator writes to."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return None
        for position, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                target = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
                return target if isinstance(target, Node) else None
        return None

    def _functional(self, node: Node, instruction: Instruction) -> Instruction:
        """The same call without the side effect."""
        written = self._written(node)
        if written in self.aliased:
            raise _Aliased
        assert isinstance(node.target, torch._ops.OpOverload)
        space, name = node.target._schema.name.split("::")
        packet = getattr(getattr(torch.ops, space), name.removesuffix("_"), None)
        overload = getattr(packet, node.target._overloadname, None) if name.endswith("_") else None
        if overload is None:
            raise _Aliased
        return _instruction(overload, list(instruction.arguments), instruction.keywords)

    def _flops(self, node: Node) -> int:
        """FLOPs by torch's own formulas, on fake tensors; 0 for operators that have none (pools, activations, ...)."""
        if short_name(node.target) in POINTWISE | IDENTITY | VIEWS:
            return 0
        arguments = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            node.target(*arguments[0], **arguments[1])  # type: ignore[operator]
        return int(counter.get_total_flops())

    def _unique(self, name: str) -> str:
        count = self.names.get(name, 0) + 1
        self.names[name] = count
        return name if count == 1 else f"{name}#{count}"


def _plain(item: Any, values: dict[Node, Any]) -> Any:
    if isinstance(item, Node):
        return values[item]
    if isinstance(item, list | tuple):
        return type(item)(_plain(x, values) for x in item) if type(item) is tuple else [_plain(x, values) for x in item]
    return item


def _instruction(target: Any, arguments: list[Any], keywords: dict[str, Any]) -> Instruction:
    """An instruction with the schema's defaults filled in."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return Instruction(target, tuple(arguments), dict(keywords))
    named = dict(keywords)
    positional, names = list(arguments), [a.name for a in schema.arguments if not a.kwarg_only]
    for argument in schema.arguments[len(positional) :]:
        if not argument.kwarg_only:
            positional.append(named.pop(argument.name) if argument.name in named else argument.default_value)
    return Instruction(target, tuple(positional), named, tuple(names))


def _normal(instruction: Instruction) -> Instruction:
    """A decomposed convolution (from a lowered `.pt2`) in the form that the tables know."""
    if short_name(instruction.target) != "convolution" or instruction.argument("transposed"):
        return instruction
    arguments = [instruction.argument(n) for n in ("input", "weight", "bias", "stride", "padding", "dilation", "groups")]
    if len(arguments[3]) != 2:
        return instruction
    return _instruction(torch.ops.aten.conv2d.default, arguments, {})


def _single(instruction: Instruction, short: str) -> Instruction | None:
    """The one-result form of a call of which only the first result is used, if there is one."""
    if short == "max_pool2d_with_indices":
        return _instruction(torch.ops.aten.max_pool2d.default, list(instruction.arguments), {})
    if short == "native_batch_norm_legit_no_training":
        source, weight, bias, mean, variance, momentum, epsilon = instruction.arguments
        arguments = [source, weight, bias, mean, variance, False, momentum, epsilon, False]
        return _instruction(torch.ops.aten.batch_norm.default, arguments, {})
    return None


RESPONSE_NORM = ("mul", "view", "pad", "avg_pool3d", "squeeze", "view", "mul", "add", "pow", "div")
"""What torch.nn.functional.local_response_norm exports to; the views in it would tie it to one map size."""


def _response_norm(nodes: list[Node]) -> Instruction | None:
    """A local response norm across channels that starts at the first node, as one call without its input; or None."""
    if len(nodes) < len(RESPONSE_NORM) or any(n.op != "call_function" for n in nodes):
        return None
    if tuple(short_name(n.target) for n in nodes) != RESPONSE_NORM or nodes[0].args[0] is not nodes[0].args[1]:
        return None
    chained = all(after.args[0] is before for before, after in pairwise(nodes[:-1]))
    if not chained or nodes[-1].args != (nodes[0].args[0], nodes[-2]) or any(len(n.users) != 1 for n in nodes[:-1]):
        return None
    kernel, alpha, k, beta = (nodes[i].args[1] for i in (3, 6, 7, 8))
    if not isinstance(kernel, list) or kernel[1:] != [1, 1] or any(isinstance(x, Node) for x in (alpha, k, beta)):
        return None
    names = ("input", "size", "alpha", "beta", "k")
    return Instruction(torch.nn.functional.local_response_norm, (kernel[0], alpha, beta, k), {}, names)


def _draws(instruction: Instruction) -> bool:
    """True for an operator that draws random numbers (dropout in training mode is `operators.is_identity`'s business)."""
    target = instruction.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    for switch in ("train", "training", "dropout_p", "dropout"):
        if switch in instruction.names:
            return bool(instruction.argument(switch)) and not short_name(target).endswith("dropout")
    return True


def _aliases(node: Node) -> bool:
    """True where the result may share memory with an argument without being an in-place result."""
    schema = getattr(node.target, "_schema", None)
    if short_name(node.target) in MAY_ALIAS:
        return True
    return schema is not None and any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)


def _shape(value: Tensor, name: str) -> tuple[int, ...]:
    if not all(isinstance(n, int) for n in value.shape):
        raise ModelError(f"{name} has a dynamic shape {tuple(value.shape)}; export the model with static shapes")
    return tuple(value.shape)


def _path(node: Node, short: str) -> str:
    """The module that the call belongs to ("layer1.0.conv1"), with the operator's name where the module holds several."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return node.name
    path, kind = stack[-1]
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    leaf = kind.startswith("torch.nn.modules.") and not kind.endswith((".Sequential", ".ModuleList", ".ModuleDict"))
    if path and leaf:
        return str(path)
    return f"{path}.{short}" if path else short


def _prune(reading: Reading) -> Reading:
    """Drop what no output needs, and renumber."""
    alive = {0, *reading.outputs}
    for index in range(len(reading.calls) - 1, 0, -1):
        if index in alive:
            alive.update(reading.calls[index].producers)
    place = {old: new for new, old in enumerate(sorted(alive))}
    calls = [call for index, call in enumerate(reading.calls) if index in alive]
    for call in calls:
        call.instructions = [renumber(one, place) for one in call.instructions]
    used = {i.name for call in calls for one in call.instructions for i in flat(one) if isinstance(i, Constant)}
    constants = {name: tensor for name, tensor in reading.constants.items() if name in used}
    return Reading(calls, constants, [place[v] for v in reading.outputs])


def renumber(instruction: Instruction, place: Mapping[int, int | Local]) -> Instruction:
    """The instruction with every Given moved: to another position, or to an earlier result of the same vertex."""

    def move(item: Any) -> Any:
        if isinstance(item, Given):
            target = place[item.position]
            return target if isinstance(target, Local) else Given(target)
        if isinstance(item, list | tuple):
            return type(item)(move(x) for x in item)
        return item

    keywords = {key: move(item) for key, item in instruction.keywords.items()}
    return Instruction(instruction.target, move(instruction.arguments), keywords, instruction.names)
