"""Trains the networks of `d3node.branchy` when they are first asked for, and keeps them with what was measured of them.

    python -m d3node.train digits-exits "digits-views?devices=6"

The loss is the weighted sum of all exits' cross-entropies (BranchyNet; DDNN, equal weights). The data set is parted once and for
all: 1,000 digits to train, 350 to calibrate (exit rates, accuracies, coded sizes: what planners are told), 447 that requests draw
from. One thread, seeded; another processor or torch may round differently, so a file is named for what it depends on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from d3node.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

TRAINED = ("digits-exits", "digits-views")
"""Names of the networks that are trained here; "?key=value&..." may follow digits-views (see `d3node.branchy.ViewsOptions`)."""
TRAIN, CALIBRATE = 1000, 350
EPOCHS = {"digits-exits": 25, "digits-views": 20}
CODED_SAMPLES = 32
"""Calibration samples whose tensors are coded to learn their sizes."""
FORMAT = 1


@dataclass(frozen=True)
class Trained:
    """A network with its weights, in eval mode, and the images and labels that requests draw from (None without weights)."""

    module: nn.Module
    input_shape: tuple[int, ...]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    data: dict[str, Tensor] | None = None


def is_trained(source: str) -> bool:
    """Whether a model's name is one of these."""
    return source.partition("?")[0] in TRAINED


def make(source: str) -> Trained:
    """The network of a name, untrained. Raises ModelError for an unknown option."""
    from d3node import branchy

    name, _, query = source.partition("?")
    given = dict(part.partition("=")[::2] for part in query.split("&")) if query else {}
    if name == "digits-exits":
        if given:
            raise ModelError(f"model {source!r}: digits-exits has no options")
        return Trained(branchy.DigitsExits().eval(), branchy.DigitsExits.input_shape, ((0.3,), (0.37,)))
    options = branchy.ViewsOptions.of(given)
    module = branchy.DigitsViews(options)
    return Trained(module.eval(), module.input_shape, ((0.4,) * options.devices, (0.35,) * options.devices))


def load(source: str, seed: int, weights: str | None) -> Trained:
    """The network with weights: those of a `.safetensors` file, or trained ones from the cache, or trained now."""
    import torch
    from safetensors.torch import load_file

    found = load_file(ensure(source, seed, weights))
    made = make(source)
    made.module.load_state_dict({k.removeprefix("model."): v for k, v in found.items() if k.startswith("model.")})
    data = {k.removeprefix("data."): v for k, v in found.items() if k.startswith("data.")}
    assert isinstance(data["images"], torch.Tensor)
    return Trained(made.module.eval(), made.input_shape, made.normalisation, data)


def place(source: str, seed: int, weights: str | None) -> Path:
    """Where a network with these weights is kept."""
    facts: list[object] = [FORMAT, source, seed, weights, sys.version_info[:2]]
    facts += [importlib.metadata.version(library) for library in ("torch", "scikit-learn")]
    here = Path(__file__).parent
    facts += [hashlib.sha256((here / f"{name}.py").read_bytes()).hexdigest() for name in ("branchy", "train", "codec", "capture")]
    if weights is not None and Path(weights).is_file():
        status = Path(weights).stat()
        facts += [status.st_size, status.st_mtime_ns]
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "d3-testbed" / "trained"
    return folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.safetensors"


def ensure(source: str, seed: int = 0, weights: str | None = None) -> Path:
    """The file of a network, trained and measured now if it is not there. Raises ModelError where it cannot be written."""
    path = place(source, seed, weights)
    if not path.is_file():
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums in the same order everywhere
        try:
            with torch.random.fork_rng(devices=[]):
                tensors = _built(source, seed, weights)
        finally:
            torch.set_num_threads(threads)
        _save(path, tensors)
    return path


def _built(source: str, seed: int, weights: str | None) -> dict[str, Tensor]:
    import torch

    from d3node import branchy, zoo

    torch.manual_seed(seed)
    made = make(source)
    plain, labels = branchy.digits()
    images = branchy.views(plain, made.input_shape[1]) if source.startswith("digits-views") else branchy.enlarged(plain)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    if weights is not None:
        zoo._load_weights(made.module, weights, source)
    else:
        inputs = normalised(images[:TRAIN], made.normalisation)
        _train(made.module, inputs, labels[:TRAIN], EPOCHS[source.partition("?")[0]], seed)
    behind = TRAIN + CALIBRATE
    scores = run(made, images[TRAIN:behind])
    return {
        **{f"model.{key}": value for key, value in made.module.state_dict().items()},
        "data.images": images[behind:].contiguous(),
        "data.labels": labels[behind:].contiguous(),
        "calibration.scores": scores,
        "calibration.labels": labels[TRAIN:behind].contiguous(),
        "calibration.coded": _coded(source, made, images[TRAIN : TRAIN + CODED_SAMPLES]),
    }


def normalised(images: Tensor, normalisation: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """A batch of images as `Model.input_of` makes it of one."""
    import torch

    mean, deviation = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in normalisation)
    return images.to(torch.float32).div(255.0).sub(mean).div(deviation)


def run(made: Trained, images: Tensor) -> Tensor:
    """Class scores of all exits for uint8 images: (images, exits, classes)."""
    import torch

    with torch.inference_mode():
        found = made.module.eval()(normalised(images, made.normalisation))
    return torch.stack(list(found), 1).clone()


def _train(module: nn.Module, inputs: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    """Adam, batches of 64. Now and then a device's view is blank, so that the network can do without it."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
    blank = inputs.new_zeros(()) + inputs.amin((0, 2, 3))[:, None, None]
    module.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(inputs), generator=generator), 64):
            x = inputs[batch]
            if x.shape[1] > 1:
                x = torch.where(torch.rand((*x.shape[:2], 1, 1), generator=generator) < 0.1, blank, x)
            loss = sum(F.cross_entropy(scores, labels[batch]) for scores in module(x))
            optimiser.zero_grad()
            assert isinstance(loss, torch.Tensor)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    module.eval()


def _coded(source: str, made: Trained, images: Tensor) -> Tensor:
    """Mean bytes of every vertex's tensor with `int8-shuffle-deflate`."""
    import torch

    from d3node import codec, parts
    from d3node.capture import capture
    from d3node.numerics import payload_of

    program = capture(made.module, made.input_shape, source)
    totals = torch.zeros(len(program.graph), dtype=torch.int64)
    for image in images:
        values = {0: normalised(image[None], made.normalisation)}
        for vertex in program.graph.vertices[1:]:
            values |= parts.run_part(program, [vertex.index], values)
        for v, tensor in values.items():
            totals[v] += codec.encode(payload_of(tensor), "int8-shuffle-deflate")[0].nbytes
    return torch.div(totals, len(images), rounding_mode="floor")


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def main(arguments: list[str] | None = None) -> int:
    """Train networks by name and say how good each exit is on the calibration digits."""
    parser = argparse.ArgumentParser(prog="python -m d3node.train", description=main.__doc__)
    parser.add_argument("models", nargs="*", default=list(TRAINED), metavar="MODEL", help=", ".join(TRAINED))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for source in options.models:
        if not is_trained(source):
            parser.error(f"{source!r} is none of {', '.join(TRAINED)}")
        from d3node.calibration import load as calibration

        found = calibration(source, options.seed, None)
        shares = ", ".join(f"{share:.1%}" for share in found.accuracies())
        print(f"{source}: exits right on {shares} of {len(found.labels)} calibration digits; {place(source, options.seed, None)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
