"""IONN: queries while a server that starts without the model is sent its weights, beside the paper's own seconds.

As in the paper (Jeong et al., SoCC 2018, section 5): about 80 Mbit/s between client and server, a query, half a second of pause,
the next. The client takes as long for AlexNet as the paper's Odroid XU4 (1.3 s), for other models in proportion to their
operations; the server is an RTX 2080 Ti by our device description (the paper: GTX 1080 Ti). In `sim`, sizes only. Of the paper's
five models those are run that torchvision has: AlexNet (233 MiB of weights; the paper says 233 MB), ResNet-50 and GoogLeNet.
"""

from __future__ import annotations

import csv
import json
import tempfile
import warnings
from pathlib import Path
from statistics import fmean
from typing import Any

from testbed.backends.sim import SimBackend
from testbed.costs.build import load_profile
from testbed.orchestrator import run as run_scenario
from testbed.orchestrator.world import prepare
from testbed.scenario.schema import Scenario

TITLE = "IONN at 80 Mbit/s (sim, sizes only): queries while the model is uploaded"

ALEXNET_LOCAL_S = 1.3
PUBLISHED_S = {
    "alexnet": {"ionn-all": 28.7, "ionn k=0.1": 30.3, "ionn k=0.5": 30.7},
    "torchvision.models:resnet50": {"ionn-all": 12.1, "ionn k=0.1": 12.6, "ionn k=0.5": 13.0},
    "torchvision.models:googlenet": {"ionn-all": 3.9, "ionn k=0.1": 3.9, "ionn k=0.5": 4.4},
}
"""Seconds until everything is uploaded, by the paper: all at once, K = 0.1, K = 0.5."""
WAYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("local only", "device-only", {}),
    ("ionn-all", "ionn-all", {}),
    ("ionn k=0.1", "ionn", {"ionn_k": 0.1}),
    ("ionn k=0.5", "ionn", {"ionn_k": 0.5}),
)


def scenario(model: str, planner: str, options: dict[str, Any], device_speed: float, count: int = 80) -> Scenario:
    """One client, one server, 80 Mbit/s between them."""
    return Scenario.model_validate(
        {
            "name": "ionn",
            "model": {"names": [model]},
            "topology": {"devices": 1, "edges": 1},
            "links": {"access": {"rate": "80 Mbit/s", "delay": "1 ms"}, "backbone": {"rate": "10 Gbit/s"}},
            "hosts": {"device": {"profile": "raspberry-pi-4", "speed": device_speed}, "cloud": {"profile": "rtx-2080-ti"}},
            "compute": {"tensors": "sizes"},
            "network": {"route": "relay"},
            "requests": {"count": count, "warmup": 0, "think_time": "0.5 s"},
            "planning": {"planners": [planner], "options": options},
        }
    )


def device_speed() -> float:
    """How fast the client is beside the device description, so that AlexNet takes as long as in the paper."""
    graph = prepare(scenario("alexnet", "device-only", {}, 1.0)).models["alexnet"].graph
    costs = load_profile("raspberry-pi-4", ".", "alexnet", graph)
    return (sum(costs.fixed_s) + sum(costs.scaled_s)) / ALEXNET_LOCAL_S


def measure(model: str, way: str, planner: str, options: dict[str, Any], speed: float) -> dict[str, Any]:
    """One run: seconds of the upload, and what queries took before and after its end."""
    with tempfile.TemporaryDirectory() as folder:
        summary = run_scenario(scenario(model, planner, options, speed), SimBackend(), Path(folder) / "run")
        if summary.verdict != "trusted":
            raise ValueError(f"the run is {summary.verdict}: {summary.failing}")
        with (Path(folder) / "run" / "inferences.csv").open(encoding="utf-8", newline="") as file:
            queries = [(float(r["submitted_s"]), float(r["latency_s"]), int(r["weights_bytes"])) for r in csv.DictReader(file)]
        uploaded = _uploads(Path(folder) / "run")
    end = max(uploaded, default=0.0)
    return {"queries": queries, "end_s": end, "parts": len(uploaded), "bytes": summary.pairs[0].weights_bytes}


def _uploads(folder: Path) -> list[float]:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return [event["end_s"] for event in events if event["event"] == "upload"]


def rows_of(model: str, speed: float) -> list[dict[str, Any]]:
    """A model's table; all ways are judged over the time that the upload all at once takes."""
    found = {way: measure(model, way, planner, options, speed) for way, planner, options in WAYS}
    window = found["ionn-all"]["end_s"]
    rows = []
    for way, facts in found.items():
        during = [latency for at, latency, _ in facts["queries"] if at < window]
        after = [latency for at, latency, _ in facts["queries"] if at >= max(window, facts["end_s"])]
        improved = [at for at, _, sent in facts["queries"] if sent]
        published = PUBLISHED_S[model].get(way, "")
        rows.append(
            {
                "model": model.removeprefix("torchvision.models:"),
                "way": way,
                "parts": facts["parts"],
                "MB sent": round(facts["bytes"] / 1e6, 1),
                "upload s": round(facts["end_s"], 1) if facts["parts"] else "",
                "paper s": published,
                "queries in that time": len(during),
                "mean ms then": round(fmean(during) * 1e3),
                "slowest ms then": round(max(during) * 1e3),
                "first with server s": round(improved[0], 1) if improved else "",
                "ms afterwards": round(fmean(after) * 1e3) if after else "",
            }
        )
    return rows


def run() -> list[dict[str, Any]]:
    """All models."""
    speed = device_speed()
    warnings.filterwarnings("ignore", message=".*default weight initialization of GoogleNet.*", category=FutureWarning)
    return [row for model in PUBLISHED_S for row in rows_of(model, speed)]
