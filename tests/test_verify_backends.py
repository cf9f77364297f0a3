"""Two backends are compared request by request, honestly: what differs is found, named, and beyond the limits where it is."""

from __future__ import annotations

import csv
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from testbed import registry
from testbed.backends.base import Session
from testbed.backends.sim import SimBackend
from testbed.cli import main
from testbed.errors import InputError
from testbed.orchestrator import run
from testbed.report.run import load
from testbed.scenario.load import build
from testbed.scenario.plain import from_plain, to_plain
from testbed.scenario.schema import Scenario
from testbed.verify import difference_plot
from testbed.verify.backends import check_names
from testbed.verify.differences import Spread, paired, sessions, share


def raw(rate: str = "20 Mbit/s", **planning: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": {"names": ["alexnet"]},
        "topology": {"edges": 1},
        "links": {"backbone": {"rate": rate}},
        "compute": {"tensors": "sizes"},
        "requests": {"count": 3, "warmup": 1},
        "planning": {"planners": ["cloud-only", "edge-only"], **planning},
    }


class Other(SimBackend):
    """A backend whose backbone is a share of the asked rate."""

    name = "vkernel"
    share = 1.0

    def run(self, scenario: Scenario, main: Callable[[Session], Awaitable[Any]]) -> Any:
        asked = to_plain(scenario)
        asked["links"]["backbone"]["rate"] *= self.share
        return super().run(from_plain(asked), main)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "140")
    known = registry.backend
    monkeypatch.setattr(registry, "backend", lambda name: Other() if name == "vkernel" else known(name))
    path = tmp_path / "tiny.toml"
    tables = [
        f"[{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
        for name, table in raw().items()
        if isinstance(table, dict) and name != "links"
    ]
    path.write_text('name = "tiny"\n' + "\n".join(tables) + '\n[links.backbone]\nrate = "20 Mbit/s"\n')
    return path


def test_equal_runs_do_not_differ_at_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(build(raw()), SimBackend(), tmp_path / name)
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    both = paired(a, b)
    assert len(both) == 8
    assert both["same_plan"].all()
    for session in sessions(a, b, both):
        assert (session.requests, session.answered, session.other_plan, session.failed_in_one) == (3, 3, 0, 0)
        assert session.latency == session.backbone == Spread(0.0, 0.0, 0.0)
        assert session.volume_difference == session.wire_difference == session.bias == 0.0


def test_differences_are_shares_of_the_second_run_and_warm_up_is_in_no_figure(tmp_path: Path) -> None:
    run(build(raw("20 Mbit/s")), SimBackend(), tmp_path / "fast")
    run(build(raw("10 Mbit/s")), SimBackend(), tmp_path / "slow")
    fast, slow = load(tmp_path / "fast"), load(tmp_path / "slow")
    both = paired(fast, slow)
    cloud, edge = sessions(fast, slow, both)
    first, second = ([float(x) for x in r.measured[r.measured["planner"] == "cloud-only"]["latency_s"]] for r in (fast, slow))
    shares = sorted((a - b) / b for a, b in zip(first, second, strict=True))
    assert cloud.bias == pytest.approx(shares[1])
    assert cloud.latency.worst == pytest.approx(-shares[0])
    assert -0.5 < cloud.bias < -0.3
    assert edge.latency.worst < 1e-9
    assert cloud.volume_difference == 0.0


def test_requests_with_another_plan_are_counted_and_shown_by_themselves(tmp_path: Path) -> None:
    for name, planners in (("a", ["optimal"]), ("b", ["optimal"])):
        asked = raw("60 Mbit/s" if name == "a" else "300 kbit/s", planners=planners)
        run(build(asked), SimBackend(), tmp_path / name)
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    (session,) = sessions(a, b, paired(a, b))
    assert session.other_plan == session.requests == 3
    assert session.latency.median > 0.0
    assert session.latency_same_plan.median != session.latency_same_plan.median  # NaN: there is none with the same plan
    assert session.volume_difference != 0.0


def test_runs_without_a_common_request_are_refused(tmp_path: Path) -> None:
    run(build(raw(planners=["cloud-only"])), SimBackend(), tmp_path / "a")
    run(build(raw(planners=["edge-only"])), SimBackend(), tmp_path / "b")
    with pytest.raises(InputError, match="no request in common"):
        paired(load(tmp_path / "a"), load(tmp_path / "b"))


def test_shares_of_nothing() -> None:
    assert share(0.0, 0.0) == 0.0
    assert share(1.0, 0.0) == float("inf")
    assert share(3.0, 2.0) == 0.5


def test_two_known_backends_have_to_be_named() -> None:
    assert check_names(["sim", "vkernel"]) == ("sim", "vkernel")
    for names in (["sim"], ["sim", "sim"], ["sim", "vkernel", "mininet"]):
        with pytest.raises(InputError, match="name two"):
            check_names(names)
    with pytest.raises(Exception, match="vkernal"):
        check_names(["sim", "vkernal"])


def test_the_command_keeps_both_runs_and_what_it_found(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert main(["verify", "backends", str(small), "--out", str(folder), "--each"]) == 0
    out = capsys.readouterr().out
    for words in ("sim against vkernel", "cloud-only", "within the limits", "warm-up", "same"):
        assert words in out
    assert (folder / "sim" / "inferences.csv").read_bytes() == (folder / "vkernel" / "inferences.csv").read_bytes()
    with (folder / "differences.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["latency_difference"] for row in rows} == {"0.0"}
    assert (folder / "differences.png").is_file() == difference_plot.can_plot()


def test_beyond_the_limits_the_exit_code_is_3(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Other, "share", 0.9)
    words = ["verify", "backends", str(small), "--planner", "cloud-only", "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 3
    found = json.loads(capsys.readouterr().out)
    (session,) = found["sessions"]
    assert 0.03 < session["latency"]["median"] < 0.1
    assert any("cloud-only: median latency difference" in text for text in found["beyond"])
    monkeypatch.setattr(Other, "share", 0.99)
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert main(words) == 0


def test_each_trace_is_a_comparison_of_its_own(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate in (("slow", 5), ("fast", 50)):
        (tmp_path / f"{name}.csv").write_text(f"time_s,rate_mbps\n0,{rate}\n10,{rate}\n")
    traces = [word for name in ("slow", "fast") for word in ("--trace", str(tmp_path / f"{name}.csv"))]
    words = [
        "verify",
        "backends",
        str(small),
        "--planner",
        "cloud-only",
        *traces,
        "--out",
        str(tmp_path / "out"),
        "--json",
        "--each",
    ]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [session["trace"] for session in found["sessions"]] == ["slow.csv", "fast.csv"]
    latencies = {row["trace"]: row["latency_s"] for row in found["requests"]}
    assert latencies["slow.csv"] > 3.0 * latencies["fast.csv"]
    assert main([*words, "--trace", str(tmp_path / "slow.csv")]) == 2
