"""A link follows its trace as the orchestrator replays it: arithmetic, and a greedy flow in the time-travel kernel."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from testbed import registry
from testbed.cli import main
from testbed.errors import InputError, TraceError
from testbed.kernel import cache
from testbed.scenario.links import links_of
from testbed.verify import replay
from testbed.verify.bare import LINK
from testbed.verify.replay import WINDOW_S, Followed
from traces.trace import Trace
from traces.write import to_mahimahi

built = pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build")
PAYLOAD = 1448 / 1514 / 8


@pytest.fixture
def with_outages(tmp_path: Path) -> Path:
    """16 s: two rates, an outage of 1.5 s, a slow spell, an outage of 2.5 s, a fast spell."""
    rates = (8e6, 0.0, 12e6, 2e6, 0.0, 20e6, 5e6)
    trace = Trace("outages", (0.0, 3.0, 4.5, 6.0, 8.0, 10.5, 12.5), {"rate_bps": rates}, 16.0)
    path = tmp_path / "outages.up"
    path.write_text(to_mahimahi(trace))
    return path


def test_what_a_trace_allows_is_its_integral(with_outages: Path) -> None:
    wanted = replay.asked(str(with_outages), ".", 0.01, "cubic")
    link = links_of(wanted, registry.layout(wanted.topology))[LINK]
    allowed = replay.allowances(link, 20.0)  # longer than the trace: it starts again
    assert len(allowed) == 100
    assert allowed[0] == pytest.approx(8e6 * WINDOW_S * PAYLOAD, rel=0.02)
    assert allowed[80] == pytest.approx(allowed[0])
    lines = with_outages.read_text().splitlines()
    assert sum(allowed[:80]) == pytest.approx(len(lines) * 1500 * 8 * PAYLOAD, rel=1e-9)
    assert [k for k, bytes_ in enumerate(allowed[:80]) if bytes_ == 0.0] == [*range(15, 22), *range(40, 52)]


def followed(**changes: object) -> Followed:
    fields: dict[str, object] = {
        "trace": "made up",
        "congestion": "cubic",
        "delay_s": 0.01,
        "window_s": WINDOW_S,
        "allowed": (100_000.0, 50_000.0, 0.0, 0.0, 200_000.0),
        "delivered": (100_000.0, 49_500.0, 1448.0, 0.0, 200_000.0),
        "steps": 4,
        "late_s": 0.0001,
        "outages": 1,
        "outage_bytes": 1448,
        "on_the_wire_bytes": 3000,
        "read_bytes": 350_000,
    }
    return Followed(**{**fields, **changes})  # type: ignore[arg-type]


def test_each_promise_that_is_broken_is_named() -> None:
    assert followed().problems == []
    assert followed().window == 0.0
    assert followed().cumulative == pytest.approx(948 / 350_000)
    late = followed(late_s=0.0011).problems
    assert len(late) == 1
    assert "1.10 ms late" in late[0]
    assert "outages" in followed(outage_bytes=3001).problems[0]
    slow = followed(delivered=(90_000.0, 45_000.0, 0.0, 0.0, 180_000.0)).problems
    assert ["all bytes" in slow[0], "median window" in slow[1]] == [True, True]


def test_traces_that_cannot_be_followed_are_refused_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such trace"):
        replay.run(["nowhere"])
    (tmp_path / "silent.csv").write_text("time_s,rate_bps\n0,0\n1,0\n")
    with pytest.raises(InputError, match="nothing to follow"):
        replay.run([str(tmp_path / "silent.csv")])
    with pytest.raises(InputError, match="'sim'"):
        replay.run(["lte-like"], backend="sim")


@built
@pytest.mark.long
def test_a_greedy_flow_gets_what_a_mahimahi_trace_allows_outages_included(
    with_outages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    assert main(["verify", "replay", str(with_outages), "--duration", "16 s", "--out", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (one,) = found["traces"]
    assert abs(one["cumulative_error"]) <= 0.01
    assert one["median_window_error"] <= 0.03
    assert one["late_s"] <= 0.001
    assert one["outages"] == 2
    assert one["steps"] > 50
    with (target / "01-outages.up.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    assert (target / "01-outages.up.png").stat().st_size > 10_000
