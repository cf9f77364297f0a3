"""Models come from names, factories and files; graphs come from the cache without torch; mistakes are named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_blocks import Residual
from safetensors.torch import save_file
from torch import nn

from d3node import graph_cache
from d3node import model as models
from d3node.errors import ModelError
from d3node.graph import INPUT, LayerGraph
from d3node.instructions import Program
from d3node.model import Model, ModelSpec, load_graph, load_model
from d3node.zoo import Loaded

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_weights_follow_the_seed_and_nothing_else() -> None:
    a, b, other = (load_model(ModelSpec("alexnet", seed)).program.constants for seed in (3, 3, 4))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not any(torch.equal(a[key], other[key]) for key in a)
    assert a["features.0.bias"][:3].tolist() == [
        -0.04185608774423599,
        0.04429735988378525,
        -0.013737604022026062,
    ]  # on every machine


def test_images_are_seeded_and_inputs_normalised() -> None:
    model = load_model(ModelSpec("model_blocks:Residual"))
    image = model.image(5)
    assert image.dtype == torch.uint8
    assert image.shape == model.graph[INPUT].output_shape
    assert torch.equal(image, model.image(5))
    assert not torch.equal(image, model.image(6))
    x = model.input_of(image)
    assert x.dtype == torch.float32
    assert model.to(torch.float64).input_of(image).dtype == torch.float64
    expected = (float(image[0, 1, 0, 0]) / 255 - 0.456) / 0.224
    assert float(x[0, 1, 0, 0]) == pytest.approx(expected, rel=1e-5)


def test_cached_graphs_need_no_torch(tmp_path: Path) -> None:
    load_graph(ModelSpec("alexnet"))
    load_graph(ModelSpec("model_blocks:Residual"))
    code = (
        "import sys; from d3node.model import ModelSpec, load_graph\n"
        "from d3node.describe import describe; from d3node.stacks import stacks\n"
        "print(*(len(load_graph(ModelSpec(n))) for n in ('alexnet', 'model_blocks:Residual')), 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["13", "8", "False"]


def test_a_changed_file_is_captured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "made_here.py"
    text = "import torch\ndef net():\n    m = torch.nn.Conv2d(3, {}, 1)\n    m.input_shape = (1, 3, 8, 8)\n    return m\n"
    source.write_text(text.format(4))
    spec = ModelSpec("made_here:net")
    assert load_graph(spec)[1].output_shape == (1, 4, 8, 8)
    source.write_text(text.format(16))
    sys.modules.pop("made_here")
    assert load_graph(spec)[1].output_shape == (1, 16, 8, 8)
    sys.modules.pop("made_here")


def test_a_damaged_or_read_only_cache_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec("model_blocks:Residual")
    graph = load_graph(spec)
    (entry,) = graph_cache.folder().glob("*.json")
    entry.write_text(entry.read_text()[:100])
    assert load_graph(spec) == graph
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert load_graph(spec) == graph


def test_two_who_want_the_same_graph_at_once_capture_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[str] = []
    capture = models._captured

    def slowly(loaded: Loaded, source: str) -> Program:
        captured.append(source)
        time.sleep(0.3)  # both are here, unless one waits outside
        return capture(loaded, source)

    monkeypatch.setattr(models, "_captured", slowly)
    spec = ModelSpec("model_blocks:Residual")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(load_graph, (spec, spec))
    assert first == second
    assert len(captured) == 1
    assert [entry.suffix for entry in graph_cache.folder().iterdir()] == [".json"]


def entries() -> dict[str, Path]:
    """The cache's entries by a model's name that cannot be mistaken."""
    return {LayerGraph.from_json(path.read_text()).name: path for path in graph_cache.folder().glob("*.json")}


def named(name: str) -> LayerGraph:
    return replace(load_graph(ModelSpec("model_blocks:Residual")), name=name)


def test_graphs_that_were_used_longest_ago_are_dropped_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_cache, "key", lambda source: source)
    for day, name in enumerate(("first", "second", "third")):
        graph_cache.put(name, named(name))
        os.utime(entries()[name], times=(day * 86_400, day * 86_400))
    assert graph_cache.get("first") == named("first")  # and so it is used
    sizes = [path.stat().st_size for path in entries().values()]
    monkeypatch.setattr(graph_cache, "MOST_BYTES", sum(sizes))
    graph_cache.put("fourth", named("fourth"))
    assert {"first", "fourth"} <= set(entries())
    assert "second" not in entries()
    monkeypatch.setattr(graph_cache, "MOST_BYTES", 1)
    graph_cache.put("fifth", named("fifth"))
    assert set(entries()) == {"fifth"}


def test_what_killed_processes_left_in_the_cache_is_dropped_and_what_others_do_now_is_not() -> None:
    graph = load_graph(ModelSpec("model_blocks:Residual"))
    for name in ("old.part", "old.lock", "new.part", "new.lock"):
        path = graph_cache.folder() / name
        path.write_text("")
        if name.startswith("old"):
            os.utime(path, times=(0, 0))
    graph_cache.put("resnet18", graph)
    assert {path.name for path in graph_cache.folder().iterdir() if path.suffix != ".json"} == {"new.part", "new.lock"}


FILLING = """
import sys
from dataclasses import replace
from d3node import graph_cache
from d3node.graph import LayerGraph
graph_cache.key = lambda source: source
graph = LayerGraph.from_json(sys.stdin.read())
graph_cache.MOST_BYTES = 3 * len(graph.to_json())
for i in range(150):
    name = f"m{(i * int(sys.argv[1])) % 11}"
    found = graph_cache.get(name)
    assert found is None or found.name == name, found
    graph_cache.put(name, replace(graph, name=name))
"""


def test_processes_that_fill_and_prune_the_cache_at_once_never_read_a_wrong_graph() -> None:
    text = load_graph(ModelSpec("model_blocks:Residual")).to_json()
    command = [sys.executable, "-c", FILLING]
    started = [subprocess.Popen([*command, str(step)], stdin=subprocess.PIPE, text=True) for step in (1, 3, 7)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
    assert [process.wait() for process in started] == [0, 0, 0]
    kept = sum(path.stat().st_size for path in graph_cache.folder().glob("*.json"))
    assert kept <= 5 * len(text)
    assert not list(graph_cache.folder().glob("*.part"))


def test_real_weights_are_loaded_strictly(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Residual().eval()
    state = {k: v.clone() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "real.safetensors"
    save_file(state, path)
    spec = ModelSpec("model_blocks:Residual", weights=str(path))
    model = load_model(spec)
    x = model.input_of(model.image(0))
    with torch.inference_mode():
        assert torch.equal(model.whole(x)[0], module(x))

    def refused(changed: dict[str, torch.Tensor], words: str) -> None:
        save_file(changed, path)
        with pytest.raises(ModelError, match=words):
            load_model(spec)

    refused({k: v for k, v in state.items() if k != "a.bias"}, r"lack a\.bias")
    refused({**state, "spare": torch.zeros(1)}, "have unknown spare")
    refused({**state, "a.bias": torch.zeros(5)}, r"another shape of a\.bias")
    path.write_bytes(b"not weights")
    with pytest.raises(ModelError, match="not a readable"):
        load_model(spec)
    with pytest.raises(ModelError, match="do not exist"):
        load_model(ModelSpec("alexnet", weights=str(tmp_path / "none.safetensors")))
    with pytest.raises(ModelError, match="no pickles"):
        load_model(ModelSpec("alexnet", weights=str(tmp_path / "none.pth")))


def test_pt2_files(tmp_path: Path) -> None:
    module = Residual().eval()
    x = torch.randn(module.input_shape)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, (x,), strict=False), path)
    model = load_model(ModelSpec(str(path)))
    with torch.inference_mode():
        assert torch.equal(model.whole(x)[0], module(x))
    assert load_graph(ModelSpec(str(path))) == model.graph
    batch = torch.export.Dim("batch")
    two = x.expand(2, -1, -1, -1).contiguous()
    torch.export.save(torch.export.export(module, (two,), dynamic_shapes=({0: batch},), strict=False), path)
    assert load_model(ModelSpec(str(path))).graph[INPUT].output_shape == (2, *x.shape[1:])
    torch.export.save(torch.export.export(nn.Embedding(4, 2), (torch.ones(1, 3, dtype=torch.long),), strict=False), path)
    with pytest.raises(ModelError, match=r"floating-point tensor; this one's is torch\.int64"):
        load_model(ModelSpec(str(path)))
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not an exported program"):
        load_model(ModelSpec(str(path)))


def test_refusals_are_not_drowned_in_torchs_own_words(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError):
        load_model(ModelSpec("model_blocks:Undecided"))
    with pytest.raises(ModelError):
        load_model(ModelSpec("model_blocks:Residual?input=1x4x9x9"))
    assert capfd.readouterr() == ("", "")


def test_factories_choose_their_input_shape() -> None:
    assert load_graph(ModelSpec("model_blocks:Residual"))[INPUT].output_shape == (1, 3, 33, 29)
    assert load_graph(ModelSpec("model_blocks:Residual?input=2x3x40x48"))[INPUT].output_shape == (2, 3, 40, 48)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("resnet19", "unknown model 'resnet19'; did you mean 'resnet18'"),
        ("zzz", "known are alexnet, vgg16"),
        ("missing.pt2", "does not exist"),
        ("no_such_package:net", "no_such_package"),
        ("model_blocks:Residul", "did you mean 'Residual'"),
        ("model_blocks:not_a_module", "returned int, not a torch.nn.Module"),
        ("model_blocks:failing", "its factory failed: OSError: no such thing"),
        ("model_blocks:TwoInputs", "cannot be exported"),
        ("model_blocks:Noisy", "draws random numbers"),
        ("model_blocks:Undecided", "control flow depends on values"),
        ("model_blocks:Residual?input=1x4x9x9", "cannot be exported for an input of shape"),
        ("model_blocks:Residual?input=3xfour", "expected a suffix like"),
        ("model_blocks:Residual?size=3", "expected a suffix like"),
    ],
)
@pytest.mark.parametrize("load", [load_model, load_graph])
def test_mistakes_are_named(load: object, source: str, words: str) -> None:
    with pytest.raises(ModelError, match=words.replace("?", r"\?")):
        load(ModelSpec(source))  # type: ignore[operator]


def test_a_model_of_float64_is_the_same_model() -> None:
    model = load_model(ModelSpec("model_blocks:Residual"))
    double = model.to(torch.float64)
    assert isinstance(double, Model)
    assert double.graph is model.graph
    assert double.dtype == torch.float64
    image = model.image(0)
    assert torch.allclose(double.whole(double.input_of(image))[0].float(), model.whole(model.input_of(image))[0], atol=1e-5)
