"""Models as files that a guest of the time-travel kernel maps: captured once, and where each of them is found in there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from d3node import graph_cache
from d3node.model import CAPTURED, ModelSpec, captured_within, load_graph, load_model
from testbed.kernel import mapper
from testbed.scenario.schema import Scenario


def placed(files: Sequence[Path]) -> tuple[dict[Path, str], list[Path]]:
    """The source of each model in the guest, by file, and those files that are to be mapped into it as memory of the host.

    What does not fit there is mapped from the host's file system, which takes the guest's own memory, and more time.
    """
    mapped = mapper.mappable(files)
    sources = {file: str(file) for file in files}
    for file, place in zip(mapped, mapper.offsets(mapped), strict=True):
        sources[file] = captured_within(mapper.MAPPER, place)
    return sources, mapped


def captured(scenario: Scenario) -> dict[str, Path]:
    """A file with each of the scenario's models, captured now or found in the user's cache.

    None where only sizes travel: the guest then finds the graphs in the user's cache, where this puts them.
    """
    specs = {name: ModelSpec(name, scenario.model.seed, scenario.model.weights.get(name)) for name in scenario.model.names}
    if scenario.compute.tensors == "sizes":
        for spec in specs.values():
            load_graph(spec)
        return {}
    return {name: captured_model(spec) for name, spec in specs.items()}


def captured_model(spec: ModelSpec) -> Path:
    """The captured file of one model. Everything that decides what is in it is in its name."""
    facts = [graph_cache.key(spec.source), spec.seed, spec.weights, hashlib.sha256(_code()).hexdigest()]
    if spec.weights is not None:
        status = Path(spec.weights).stat()
        facts += [status.st_size, status.st_mtime_ns]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    path = graph_cache.folder().with_name("captured") / f"{digest}{CAPTURED}"
    if not path.is_file():
        from d3node import program_file  # torch comes with it

        program_file.save(load_model(spec), path)
    return path


def _code() -> bytes:
    return b"".join(Path(graph_cache.__file__).with_name(f"{name}.py").read_bytes() for name in ("program_file", "instructions"))
