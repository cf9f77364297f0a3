"""What an agent tells of itself in answer to `about`: who it is, what it was installed from, and what it has loaded.

| field                            | meaning                                                                              |
|----------------------------------|--------------------------------------------------------------------------------------|
| name, tier                       | of the host                                                                          |
| protocol, d3node, torch, python  | versions (torch: null where no model with weights is loaded)                         |
| machine, system                  | processor architecture and operating system                                          |
| threads, time_scale              | of torch; of the agent's clock                                                       |
| device, device_note              | what computes, and why it is not what was asked for (else empty)                     |
| sizes                            | whether only layer graphs are loaded                                                 |
| models                           | {name: {source, seed, own_weights, structure, weights}} (`d3node.fingerprint`)       |
| shaping                          | interface whose traffic may be shaped, or null                                       |
| busy                             | whether an orchestrator has configured it and is still connected                     |
| run                              | what that one, or the last one, calls its run; null where none did                   |
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from d3node import fingerprint
from d3node.accelerator import Chosen
from d3node.model import ModelSpec
from d3node.protocol import VERSION


def gather(
    specs: Mapping[str, ModelSpec],
    models: Mapping[str, Any],
    *,
    sizes: bool,
    threads: int,
    time_scale: float,
    chosen: Chosen,
    shaping: str | None,
) -> dict[str, Any]:
    """The table above but for name, tier, busy and run, which the agent adds. Reads all weights once."""
    torch = sys.modules.get("torch")
    return {
        "protocol": VERSION,
        "d3node": installed(),
        "torch": None if torch is None else str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "threads": threads,
        "time_scale": time_scale,
        "device": chosen.called,
        "device_note": chosen.note,
        "sizes": sizes,
        "models": {
            name: {
                "source": specs[name].source,
                "seed": specs[name].seed,
                "own_weights": specs[name].weights is not None,
                **fingerprint.of_model(model),
            }
            for name, model in models.items()
        },
        "shaping": shaping,
    }


def installed() -> str:
    """Version of the package that d3node is a part of; "unknown" where it runs from a folder that was never installed."""
    try:
        return version("d3-testbed")
    except PackageNotFoundError:
        return "unknown"
