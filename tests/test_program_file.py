"""Captured models in files: loaded ones compute the same bits, from any offset; anything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from d3node import program_file
from d3node.capture import capture
from d3node.errors import ModelError
from d3node.model import Model, ModelSpec, captured_within, load_model


class Several(nn.Module):
    """Convolution, normalisation over channels, branches, several results of one operator, an integer constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(8 * 6 * 6, 5)
        self.register_buffer("order", torch.tensor([4, 3, 2, 1, 0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        left, right = torch.chunk(x, 2, dim=1)
        x = torch.cat([left * 0.5, nn.functional.avg_pool2d(right, 3, stride=1, padding=1)], dim=1)
        return self.last(x.flatten(1))[:, self.order]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(3)
    return Model(capture(Several(), (1, 3, 6, 6), "several"), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))


def same(a: Model, b: Model) -> bool:
    x = a.input_of(a.image(7))
    y = b.input_of(b.image(7))
    return all(torch.equal(one, other) for one, other in zip(a.whole(x), b.whole(y), strict=True))


def test_a_loaded_model_is_the_saved_one(model: Model, tmp_path: Path):
    path = tmp_path / "several.d3model"
    program_file.save(model, path)
    loaded = program_file.load(path)
    assert loaded.graph == model.graph
    assert loaded.program.codes == model.program.codes
    assert loaded.normalisation == model.normalisation
    assert {name: (t.dtype, t.shape) for name, t in loaded.program.constants.items()} == {
        name: (t.dtype, t.shape) for name, t in model.program.constants.items()
    }
    assert same(loaded, model)
    assert [entry.name for entry in tmp_path.iterdir()] == ["several.d3model"]


def test_a_model_can_stand_anywhere_in_a_larger_file(model: Model, tmp_path: Path):
    program_file.save(model, tmp_path / "one.d3model")
    data = (tmp_path / "one.d3model").read_bytes()
    (tmp_path / "pack").write_bytes(bytes(4096) + data + bytes(5000))
    assert same(load_model(ModelSpec(captured_within(str(tmp_path / "pack"), 4096))), model)


def test_weights_are_aligned_as_torch_allocates_them(model: Model, tmp_path: Path):
    program_file.save(model, tmp_path / "m.d3model")
    constants = program_file.load(tmp_path / "m.d3model").program.constants
    assert {tensor.data_ptr() % 64 for tensor in constants.values()} == {0}


@pytest.mark.parametrize("cut", [4, 40, -64])
def test_half_a_file_is_refused(model: Model, tmp_path: Path, cut: int):
    path = tmp_path / "m.d3model"
    program_file.save(model, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"m\.d3model"):
        program_file.load(path)


def test_a_file_cannot_name_just_any_function(model: Model, tmp_path: Path):
    path = tmp_path / "m.d3model"
    program_file.save(model, path)
    target = next(i.target for code in model.program.codes for i in code)
    name = program_file._target_out(target).encode()
    data = path.read_bytes()
    evil = b"function os system".ljust(len(name))
    path.write_bytes(data.replace(name, evil, 1))
    with pytest.raises((ModelError, ValueError)):
        program_file.load(path)
