"""Where models come from: five named ones, `package.module:factory`, `file.py:factory`, and `.pt2` files; seeded or real weights.

This module imports torch, torchvision and timm only inside functions, so that names and sizes can be listed without them.
How a model becomes a layer graph is `d3node.capture`'s business.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import io
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from d3node import pt2, train
from d3node.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """A named model: who makes it, for square inputs of which size, and the normalisation its published weights expect."""

    library: Literal["torchvision", "timm"]
    size: int
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Batch, channels, rows, columns."""
        return (1, 3, self.size, self.size)


ZOO: dict[str, ZooEntry] = {
    "alexnet": ZooEntry("torchvision", 224),
    "vgg16": ZooEntry("torchvision", 224),
    "resnet18": ZooEntry("torchvision", 224),
    "darknet53": ZooEntry("timm", 256),
    "inception_v4": ZooEntry("timm", 299, HALVES),
}


@dataclass(frozen=True)
class Loaded:
    """A model before capture: a module, or an exported program; its input shape; mean and deviation per channel; `images` and
    `labels` of a data set that its inputs are drawn from, if it has one."""

    model: nn.Module | ExportedProgram
    input_shape: tuple[int, ...]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    data: dict[str, torch.Tensor] | None = None


def kind_of(source: str) -> Literal["zoo", "file", "factory", "trained"]:
    """What a model's name refers to. Raises ModelError for an unknown name, naming the nearest known one."""
    if source in ZOO:
        return "zoo"
    if train.is_trained(source):
        return "trained"
    if source.endswith(".pt2"):
        if not Path(source).is_file():
            raise ModelError(f"model file {source!r} does not exist")
        return "file"
    if ":" in source:
        return "factory"
    near = difflib.get_close_matches(source.lower(), [*ZOO, *train.TRAINED], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join([*ZOO, *train.TRAINED])
    raise ModelError(
        f"unknown model {source!r}; {hint}known are {known}, 'package.module:factory', 'file.py:factory' and .pt2 files"
    )


def load(source: str, seed: int, weights: str | None, *, shapes_only: bool = False) -> Loaded:
    """Load a model in eval mode. With `shapes_only` the weights of a zoo model are left uninitialised.

    Factories are called without arguments under `torch.manual_seed(seed)` and return an `nn.Module`. Its input shape is, in this
    order: the suffix of "package.module:factory?input=1x3x224x224", the module's attribute `input_shape`, 1x3x224x224.
    Attributes `input_mean` and `input_std` (a tuple per channel) set the normalisation, ImageNet's by default.
    Raises ModelError for everything that can be wrong.
    """
    kind = kind_of(source)
    if kind == "file":
        return _file(source, weights)
    if kind == "trained":
        found = train.make(source) if shapes_only else train.load(source, seed, weights)
        return Loaded(found.module, found.input_shape, found.normalisation, found.data)
    loaded = _zoo(source, seed, fill=weights is None and not shapes_only) if kind == "zoo" else _factory(source, seed)
    if weights is not None and not shapes_only:
        _load_weights(loaded.model, weights, source)
    return loaded


def _zoo(name: str, seed: int, fill: bool) -> Loaded:
    import torch

    entry = ZOO[name]
    try:
        library = import_with_vision(entry.library)
    except ImportError as error:
        raise ModelError(f"the model zoo needs torchvision and timm: pip install 'd3-testbed[zoo]' ({error})") from error
    with torch.device("meta"):  # torch's own initialisation takes seconds for VGG-16, and would be thrown away
        if entry.library == "torchvision":
            options = {"init_weights": False} if name == "vgg16" else {}
            module = getattr(library.models, name)(weights=None, **options)
        else:
            module = library.create_model(name, pretrained=False)
    module = module.to_empty(device="cpu").eval()
    if fill:
        randomise(module, seed)
    return Loaded(module, entry.input_shape, entry.normalisation)


def randomise(module: nn.Module, seed: int) -> None:
    """Fill all parameters and batch-norm statistics with seeded random values, the same on every machine.

    Convolutions and linear layers get He-uniform weights, so that activations neither vanish nor explode with depth;
    batch norms get weights near 1, statistics near (0, 1). Only uniform draws and single products are used: normal
    deviates come out differently on processors with different vector units, these do not.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor | None, low: float, high: float) -> None:
        if tensor is not None:
            tensor.uniform_(0.0, 1.0, generator=generator).mul_(high - low).add_(low)

    with torch.no_grad():
        for path, layer in module.named_modules():
            owned = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = math.sqrt(6.0 / layer.weight[0].numel())
                uniform(layer.weight, -bound, bound)
                uniform(layer.bias, -0.1, 0.1)
            elif isinstance(layer, nn.BatchNorm2d):
                uniform(layer.weight, 0.8, 1.2)
                uniform(layer.bias, -0.1, 0.1)
                uniform(layer.running_mean, -0.1, 0.1)
                uniform(layer.running_var, 0.8, 1.2)
                if layer.num_batches_tracked is not None:
                    layer.num_batches_tracked.zero_()
            elif owned:
                raise ModelError(f"no rule for random values of {path} ({type(layer).__name__}: {owned[0][0]})")


def _factory(source: str, seed: int) -> Loaded:
    import torch
    from torch import nn

    name, _, query = source.partition("?")
    shape = _input_shape(query, source) if query else None
    module_name, _, attribute = name.rpartition(":")
    try:
        made_in = _executed(module_name) if module_name.endswith(".py") else import_with_vision(module_name)
    except ImportError as error:
        raise ModelError(f"model {source!r}: cannot import {module_name!r}: {error}") from error
    factory = getattr(made_in, attribute, None)
    if not callable(factory):
        known = [key for key, value in vars(made_in).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(attribute, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ModelError(f"model {source!r}: {module_name!r} has no callable {attribute!r}{hint}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = factory()
    except Exception as error:
        raise ModelError(f"model {source!r}: its factory failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"model {source!r}: its factory returned {type(module).__name__}, not a torch.nn.Module")
    shape = shape or tuple(getattr(module, "input_shape", (1, 3, 224, 224)))
    mean, deviation = getattr(module, "input_mean", None), getattr(module, "input_std", None)
    return Loaded(module.eval(), shape, (tuple(mean or IMAGENET[0]), tuple(deviation or IMAGENET[1])))


def _executed(file: str) -> ModuleType:
    """The module that a file makes; its neighbours can be imported if the file lies in the current folder. Raises ModelError."""
    if not Path(file).is_file():
        raise ModelError(f"model file {file!r} does not exist")
    spec = importlib.util.spec_from_file_location(f"{Path(file).stem}_of_a_model", file)
    if spec is None or spec.loader is None:
        raise ModelError(f"model file {file!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # torch and dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except ImportError:
        raise
    except Exception as error:
        raise ModelError(f"model file {file!r} cannot be read: {type(error).__name__}: {error}") from error
    return module


def _input_shape(query: str, source: str) -> tuple[int, ...]:
    key, _, value = query.partition("=")
    try:
        shape = tuple(int(n) for n in value.split("x"))
    except ValueError:
        shape = ()
    if key != "input" or not shape or min(shape) < 1:
        raise ModelError(f"model {source!r}: expected a suffix like '?input=1x3x224x224', not '?{query}'")
    return shape


def _file(source: str, weights: str | None) -> Loaded:
    import torch

    try:
        with quiet():
            exported = pt2.load(source)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"model file {source!r} is not an exported program that this torch can read: {_first_line(error)}"
        ) from error
    if weights is not None:
        raise ModelError(f"model file {source!r} carries its own weights; export it with the weights of {weights!r} instead")
    values = [
        n.meta["val"] for n in exported.graph.nodes if n.op == "placeholder" and n.name in exported.graph_signature.user_inputs
    ]
    if len(values) == 1 and isinstance(values[0], torch.Tensor):
        if not all(isinstance(n, int) for n in values[0].shape) and exported.example_inputs is not None:
            arguments, keywords = exported.example_inputs
            exported = torch.export.export(exported.module(), arguments, keywords, strict=False)
            return Loaded(exported, tuple(arguments[0].shape))
        return Loaded(exported, tuple(values[0].shape))
    raise ModelError(f"model file {source!r} takes {len(values)} inputs; exactly one tensor is needed")


def _load_weights(module: Any, path: str, source: str) -> None:
    """Real weights from a `.safetensors` file; strict, except for batch norms' update counters."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.endswith(".safetensors"):
        raise ModelError(f"weights {path!r} of model {source!r}: only .safetensors files are read (no pickles)")
    if not Path(path).is_file():
        raise ModelError(f"weights {path!r} of model {source!r} do not exist")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"weights {path!r} of model {source!r} are not a readable .safetensors file: {error}") from error
    expected = module.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    missing, extra = sorted(expected.keys() - counters - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape]
    for problem, keys in (("lack", missing), ("have unknown", extra), ("have another shape of", sorted(shapes))):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ModelError(f"weights {path!r} {problem} {', '.join(keys[:3])}{more} of model {source!r}")
    module.load_state_dict(state, strict=False)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's own log lines and dumps on standard error: what matters of them is in the exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch has dozens of loggers with handlers of their own
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


_schemas: list[Any] = []
"""Keeps the operator library of `import_with_vision` alive."""


def import_with_vision(name: str) -> Any:
    """Import a module that may need torchvision, also where torchvision's compiled operators do not fit the installed torch.

    Beside torch's CPU build, PyPI's torchvision fails to import because its operator `nms` is missing. No classifier
    uses it, so its schema is defined, only then, and the import tried again.
    """
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "nms does not exist" not in str(error) or _schemas:
            raise
    import torch

    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] in ("torchvision", "timm")]:
        del sys.modules[loaded]
    schemas: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.append(schemas)
    return importlib.import_module(name)
