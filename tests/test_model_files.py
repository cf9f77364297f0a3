"""Model files are data: nothing in them is run, and nothing that a peer or an orchestrator says makes an agent open one."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from agent_rig import chain, rig, three_way, timed
from torch import nn

from d3node import program_file
from d3node.clock import VirtualLoop, run
from d3node.errors import ModelError
from d3node.model import ModelSpec, load_model
from d3node.pt2 import TENSORS_ONLY


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.full((4, 1, 1), 2.0))
        self.plain = torch.ones(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)) * self.scale + self.plain


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an honest .pt2 archive by name."""
    path = tmp_path_factory.mktemp("model") / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(1, 3, 8, 8),)), path)
    load_model(ModelSpec(str(path)))  # it is one that is taken
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def written(files: dict[str, bytes], folder: Path) -> Path:
    """An archive of files."""
    path = folder / "net.pt2"
    with zipfile.ZipFile(path, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return path


class Evil:
    """What runs when it is unpickled: a file appears."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


def as_torch_saves(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    torch.save(evil, buffer)
    return buffer.getvalue()


def with_pickled_weight(files: dict[str, bytes], evil: Evil) -> None:
    name = next(name for name in files if name.endswith("weights_config.json"))
    config = json.loads(files[name])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    files[name] = json.dumps(config).encode()
    files["net/data/weights/" + entry["path_name"]] = as_torch_saves(evil)


def with_pickled_inputs(files: dict[str, bytes], evil: Evil) -> None:
    files["net/data/sample_inputs/model.pt"] = as_torch_saves(evil)


def with_pickled_constant(files: dict[str, bytes], evil: Evil) -> None:
    name = next(name for name in files if name.endswith("constants_config.json"))
    config = json.loads(files[name])
    next(iter(config["config"].values()))["path_name"] = "opaque_obj_0"
    files[name] = json.dumps(config).encode()
    files["net/data/constants/opaque_obj_0"] = pickle.dumps(evil)


def with_a_library(files: dict[str, bytes], evil: Evil) -> None:
    files["net/data/aotinductor/model/model.so"] = b"\x7fELF"


def with_an_expression(files: dict[str, bytes], evil: Evil) -> None:
    program = json.loads(files["net/models/model.json"])
    program["extra"] = {"expr_str": f"__import__('os').mkdir({str(evil.trace)!r})"}
    files["net/models/model.json"] = json.dumps(program).encode()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (with_pickled_weight, "not an exported program that this torch can read"),
        (with_pickled_inputs, "not an exported program that this torch can read"),
        (with_pickled_constant, "may be code"),
        (with_a_library, "may be code"),
        (with_an_expression, "no arithmetic"),
    ],
)
def test_an_archive_with_code_in_it_is_refused_and_nothing_of_it_runs(
    archive: dict[str, bytes], spoil: Callable[[dict[str, bytes], Evil], None], text: str, tmp_path: Path
) -> None:
    evil = Evil(tmp_path / "it-ran")
    files = dict(archive)
    spoil(files, evil)
    path = written(files, tmp_path)
    with pytest.raises(ModelError, match=text):
        load_model(ModelSpec(str(path)))
    assert not evil.trace.exists()
    assert TENSORS_ONLY not in os.environ


def test_the_traps_above_would_go_off_if_torch_were_let(archive: dict[str, bytes], tmp_path: Path) -> None:
    """So the test above can fail."""
    evil = Evil(tmp_path / "it-ran")
    files = dict(archive)
    with_pickled_weight(files, evil)
    path = written(files, tmp_path)
    with pytest.raises(Exception, match=r".*"):
        torch.export.load(path)
    assert evil.trace.exists()


def test_dynamic_shapes_are_still_read(tmp_path: Path) -> None:
    size = torch.export.Dim("size", min=4, max=64)
    program = torch.export.export(Net().eval(), (torch.zeros(1, 3, 8, 8),), dynamic_shapes={"x": {2: 2 * size}})
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    assert load_model(ModelSpec(str(path))).graph[0].output_shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    "target",
    ["torch.hub load", "os system", "subprocess run", "builtins eval", "operator methodcaller", "torch.nn.functional os.x"],
)
def test_a_captured_model_calls_nothing_but_operators(target: str) -> None:
    with pytest.raises(ModelError, match="may not call"):
        program_file._target_in(f"function {target}")


def test_weights_are_safetensors_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(Evil(tmp_path / "it-ran"), path)
    renamed = tmp_path / "weights.safetensors"
    renamed.write_bytes(path.read_bytes())
    for given, text in ((path, "only .safetensors"), (renamed, "not a readable .safetensors")):
        with pytest.raises(ModelError, match=text):
            load_model(ModelSpec("alexnet", 0, str(given)))
    assert not (tmp_path / "it-ran").exists()


def test_a_path_from_the_control_plane_is_a_name_of_no_model(archive: dict[str, bytes], tmp_path: Path) -> None:
    """The file is there and could be read; but only what the operator named at the start is loaded."""
    path = written(archive, tmp_path)
    graph = chain()
    before = path.stat().st_atime_ns

    async def main() -> None:
        async with rig(None, {"chain": graph}) as made:
            await made.configure()
            plan = timed(graph, three_way(graph), 0.0)
            plan["plan"]["model"] = str(path)
            orders: list[tuple[str, dict[str, Any]]] = [("install", plan)]
            for model in (str(path), "torch.hub:load", f"{tmp_path}/x.py:make"):
                orders += [
                    ("whole", {"model": model, "input": 1}),
                    ("hold", {"model": model, "vertices": None}),
                    ("upload", {"model": model, "peer": "e1", "vertices": [0]}),
                ]
            for kind, fields in orders:
                answer = await made.remotes["d1"].ask(kind, **fields)
                assert answer.kind == "refused", (kind, answer)
                assert "not loaded model" in answer.fields["text"] or "no weights" in answer.fields["text"], answer

    run(VirtualLoop(), main())
    assert path.stat().st_atime_ns == before
