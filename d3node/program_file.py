"""A captured model in a file that loads at once: its layer graph and instructions as JSON, its weights as they lie in memory.

Weights are mapped, not read: processes that load the same file share them, and each touches only what it uses. No pickle, no
model library and no `torch.export` are needed to load one. Which models are kept so is the caller's business. A name may end in
"@OFFSET" before the suffix (`captured_within`): the model then begins there in a larger file or a device that can be mapped.

Layout, in this order: 8 bytes of magic, 8 bytes little-endian length of the header, the header (JSON), and each constant at the
offset (a multiple of 64, from the file's start) that the header gives. The weights' bytes are this machine's (little-endian).
"""

from __future__ import annotations

import importlib
import json
import math
import mmap
import os
import re
import struct
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d3node.errors import ModelError
from d3node.graph import LayerGraph
from d3node.instructions import ALIGNMENT, Constant, Given, Instruction, Local, Program
from d3node.model import CAPTURED, Model

_MAGIC = b"d3model1"
_KINDS: dict[str, type[torch.dtype] | type[torch.device] | type[torch.layout] | type[torch.memory_format]] = {
    "dtype": torch.dtype,
    "device": torch.device,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


_PLAIN_NAME = r"[a-z][a-z0-9_]*"
_CALLABLE = {"_operator": _PLAIN_NAME, "operator": _PLAIN_NAME, "math": _PLAIN_NAME, "torch.nn.functional": _PLAIN_NAME}
_CALLABLE["torch"] = r"sym_[a-z0-9_]*"
"""Functions that captured models call beside torch's operators: arithmetic, and nothing that calls other things."""
_CALLERS = ("attrgetter", "methodcaller", "call")


def save(model: Model, path: Path) -> None:
    """Write a model; a reader sees all of it or nothing. Raises ModelError for instructions that cannot be named, OSError."""
    program = model.program
    constants: dict[str, dict[str, Any]] = {}
    offset = 0
    tensors: list[tuple[int, Tensor]] = []
    for name, tensor in program.constants.items():
        plain = tensor.detach().contiguous()
        constants[name] = {"dtype": str(plain.dtype).removeprefix("torch."), "shape": list(plain.shape), "offset": offset}
        tensors.append((offset, plain))
        offset += -(-plain.nbytes // ALIGNMENT) * ALIGNMENT
    header: dict[str, Any] = {
        "graph": program.graph.to_json(),
        "codes": [[_instruction_out(instruction) for instruction in code] for code in program.codes],
        "normalisation": model.normalisation,
        "constants": constants,
        "bytes": offset,
    }
    text = json.dumps(header).encode()
    base = _base(len(text))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + struct.pack("<Q", len(text)) + text)
            for place, tensor in tensors:
                file.seek(base + place)
                if tensor.nbytes:
                    file.write(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
            file.truncate(base + offset)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def load(source: Path | str) -> Model:
    """Read what `save` wrote. Raises ModelError for a file that is none of these."""
    place, _, digits = str(source).removesuffix(CAPTURED).rpartition("@")
    path, offset = (Path(place), int(digits)) if place and digits.isdigit() else (Path(source), 0)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            if file.read(8) != _MAGIC:
                raise ModelError(f"{source}: not a captured model ({CAPTURED})")
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            start = offset + _base(length)
            constants = _mapped(file.fileno(), start, header)
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ModelError(f"{source}: cannot be read: {error}") from error
    codes = tuple(tuple(_instruction_in(one) for one in code) for code in header["codes"])
    mean, deviation = header["normalisation"]
    return Model(Program(LayerGraph.from_json(header["graph"]), codes, constants), (tuple(mean), tuple(deviation)))


def _mapped(file: int, start: int, header: dict[str, Any]) -> dict[str, Tensor]:
    """The constants, in place. Raises ValueError where the file is too short for them."""
    end = start + header["bytes"]
    memory = mmap.mmap(file, max(end, 1), mmap.MAP_SHARED, mmap.PROT_READ)
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the tensors must not be written to: nobody does
        for name, entry in header["constants"].items():
            dtype, count = getattr(torch, entry["dtype"]), math.prod(entry["shape"])
            flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=start + entry["offset"]) if count else torch.empty(0)
            found[name] = flat.to(dtype).reshape(entry["shape"])
    return found


def _base(length: int) -> int:
    return -(-(16 + length) // ALIGNMENT) * ALIGNMENT


def _instruction_out(instruction: Instruction) -> dict[str, Any]:
    return {
        "target": _target_out(instruction.target),
        "arguments": [_out(item) for item in instruction.arguments],
        "keywords": {key: _out(item) for key, item in instruction.keywords.items()},
        "names": list(instruction.names),
    }


def _instruction_in(raw: dict[str, Any]) -> Instruction:
    return Instruction(
        _target_in(raw["target"]),
        tuple(_in(item) for item in raw["arguments"]),
        {key: _in(item) for key, item in raw["keywords"].items()},
        tuple(raw["names"]),
    )


def _target_out(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return f"op {target._schema.name} {target._overloadname}"
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", "")
    if module is None or _target(module, name) is not target:
        raise ModelError(f"the operation {target!r} has no name that it could be found again by")
    return f"function {module} {name}"


def _target_in(text: str) -> Any:
    kind, first, second = text.split(" ")
    if kind == "op":
        space, _, name = first.partition("::")
        return getattr(getattr(getattr(torch.ops, space), name), second)
    calls = re.compile(_CALLABLE.get(first, r"(?!)"))
    if calls.fullmatch(second) is None or second in _CALLERS:
        raise ModelError(f"a captured model may not call {first}.{second}")
    return _target(first, second)


def _target(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _out(item: Any) -> Any:
    """Plain JSON: what JSON lacks is a dict with the kind as its only key."""
    if item is None or isinstance(item, bool | int | str) or (isinstance(item, float) and math.isfinite(item)):
        return item
    if isinstance(item, float):
        return {"float": str(item)}
    if isinstance(item, Given):
        return {"given": item.position}
    if isinstance(item, Local):
        return {"local": item.position}
    if isinstance(item, Constant):
        return {"constant": item.name}
    if isinstance(item, list):
        return [_out(one) for one in item]
    if isinstance(item, tuple):
        return {"tuple": [_out(one) for one in item]}
    for kind, cls in _KINDS.items():
        if isinstance(item, cls):
            return {kind: str(item).removeprefix("torch.")}
    raise ModelError(f"an argument of type {type(item).__name__} cannot be kept in a file")


def _in(item: Any) -> Any:
    if isinstance(item, list):
        return [_in(one) for one in item]
    if not isinstance(item, dict):
        return item
    ((kind, value),) = item.items()
    if kind == "tuple":
        return tuple(_in(one) for one in value)
    if kind == "float":
        return float(value)
    if kind == "device":
        return torch.device(value)
    if kind in _KINDS:
        return getattr(torch, value)
    return {"given": Given, "local": Local, "constant": Constant}[kind](value)
