"""Links are as exact as `testbed verify` says: arithmetic by hand, the flow model, a small matrix in the time-travel kernel."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cli import main
from testbed.cli.verify_links import quantities
from testbed.errors import InputError
from testbed.kernel import cache, guest
from testbed.kernel.boot import Job
from testbed.scenario.state import LinkState
from testbed.verify import ideal, links
from testbed.verify.links import Cell, Matrix

built = pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build")
FAST = LinkState(10e9)

# -- arithmetic -----------------------------------------------------------------------------------------------------------------


def test_a_warm_message_takes_its_frames_at_the_slowest_rate_and_every_delay() -> None:
    path = (LinkState(100e6, 0.001), LinkState(10e6, 0.02), LinkState(1e9, 0.003))
    frames = [1514, 1514, 170]
    expected = 0.024 + sum(frames) * 8 / 10e6 + 1514 * 8 / 100e6 + 170 * 8 / 1e9
    assert ideal.warm_s(3000, path) == pytest.approx(expected, rel=1e-12)
    assert ideal.frames(1448) == [1514]


def test_a_cold_message_within_the_initial_window_is_like_a_warm_one() -> None:
    path = (FAST, LinkState(30e6, 0.05), FAST)
    assert ideal.cold_s(10 * 1448, path, path) == pytest.approx(ideal.warm_s(10 * 1448, path), rel=1e-9)


def test_slow_start_doubles_the_window_in_every_round_trip() -> None:
    """At a rate that makes frames weigh nothing, n segments take one way and as many round trips as 10, 20, 40, ... need."""
    path = (LinkState(1e15, 0.05),)
    for segments, round_trips in ((10, 0), (11, 1), (30, 1), (31, 2), (70, 2), (71, 3), (150, 3)):
        assert ideal.cold_s(segments * 1448, path, path) == pytest.approx(0.05 + 0.1 * round_trips, rel=1e-6)


def test_a_cold_message_never_beats_a_warm_one_and_reaches_its_rate() -> None:
    path = (FAST, LinkState(20e6, 0.02), FAST)
    late = [ideal.cold_s(size, path, path) - ideal.warm_s(size, path) for size in (10_000, 100_000, 1_000_000, 4_000_000)]
    assert late[0] == pytest.approx(0.0, abs=1e-9)
    assert late == sorted(late)
    assert late[3] - late[2] < 0.002  # the pipe is full


# -- judging and showing --------------------------------------------------------------------------------------------------------


def matrix(*errors: float, drops: int = 0) -> Matrix:
    cells = [Cell("warm", 1e6, 0.0, 1000, 1.0 + error, 1.0, dropped_frames=drops) for error in errors]
    return Matrix("vkernel", (*cells, Cell("cold", 1e6, 0.0, 1000, 2.0, 1.0)))


def test_limits_hold_for_warm_messages_and_cold_ones_are_only_reported() -> None:
    assert matrix(0.0005, -0.0009, 0.004).problems == []
    assert "median" in matrix(0.002, 0.002, 0.0).problems[0]
    assert "worst by -0.60%" in matrix(0.0, 0.0, -0.006).problems[0]
    assert "dropped" in matrix(0.0, drops=1).problems[0]


def test_lists_of_quantities_share_their_unit() -> None:
    assert quantities("rate", "1,10, 2.5 Gbit/s") == [1e9, 10e9, 2.5e9]
    assert quantities("duration", "0 ms,1 s") == [0.0, 1.0]
    for wrong in ("1,10", "fast", "1 parsec", ""):
        with pytest.raises(InputError):
            quantities("rate", wrong)


def test_the_flow_model_takes_what_arithmetic_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--rates", "5,50 Mbit/s", "--delays", "0,20 ms", "--sizes", "1,100,2000 kB"]
    assert main(["verify", "links", "--backend", "sim", *asked, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert len(found["cells"]) == 2 * 2 * 2 * 3
    assert found["errors"]["warm"]["worst"] < 1e-6
    assert found["errors"]["cold"]["worst"] < 0.005
    with (tmp_path / "out" / "links.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["measured_s"]) for row in rows] == pytest.approx([cell["measured_s"] for cell in found["cells"]])
    assert (tmp_path / "out" / "links.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["backend"] == "sim"


def test_links_that_miss_the_limits_end_in_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(links, "run", lambda *_: matrix(0.1, 0.2, 0.3))
    assert main(["verify", "links", "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr()
    assert "+20.0000 %" in said.out
    assert "median error" in said.err


def test_what_cannot_be_measured_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for arguments in (["--backend", "hosts"], ["--rates", "0 Mbit/s"], ["--sizes", "0 B"]):
        assert main(["verify", "links", *arguments, "--out", str(tmp_path / "x")]) == 2
    assert main(["verify", "links", "--backend", "sim", "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


# -- in the time-travel kernel --------------------------------------------------------------------------------------------------


@built
@pytest.mark.slow
def test_links_of_the_time_travel_kernel_are_exact() -> None:
    """The corners of the matrix: slow and fast, with and without delay. All of it: `testbed verify links`."""
    found = links.run("vkernel", (1e6, 500e6), (0.0, 0.05), (1_000, 100_000, 1_000_000))
    assert found.problems == []
    assert len(found.of("warm")) == 12
    assert all(abs(cell.error) < 0.01 for cell in found.of("cold"))
    assert found.facts["tcp_settings"]["tcp_slow_start_after_idle"] == "0"


LOSSY = {"rate": "20 Mbit/s", "delay": "10 ms", "loss": "2 %", "sizes": [*[200_000] * 10, 6_000_000]}
SHAKY = {"rate": "100 Mbit/s", "delay": "20 ms", "jitter": "5 ms", "sizes": [1000] * 150}
SHORT = {"rate": "10 Mbit/s", "delay": "10 ms", "queue": "15140 B", "sizes": [1_000_000]}
BBR = {"rate": "10 Mbit/s", "delay": "10 ms", "congestion": "bbr", "sizes": [3_000_000]}
CASES = {
    "lossy": LOSSY,
    "lossy again": LOSSY,
    "lossy, other seed": {**LOSSY, "seed": 2},
    "shaky": SHAKY,
    "short": SHORT,
    "bbr": BBR,
}


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """All cases in one boot."""
    kernel = cache.installed()
    assert kernel is not None
    outcome = guest.run(kernel, Job("verify_jobs:messages", {"links": list(CASES.values())}, memory_mib=1024))
    return dict(zip(CASES, outcome.result, strict=True))


@built
@pytest.mark.slow
def test_losses_repeat_with_their_seed_and_are_as_many_as_asked(measured: dict[str, Any]) -> None:
    first, again, other = measured["lossy"], measured["lossy again"], measured["lossy, other seed"]
    assert first["facts"]["seeded"]
    assert first["seconds"] == pytest.approx(again["seconds"], abs=0.001)
    assert first["counters"] == again["counters"]
    assert first["seconds"] != pytest.approx(other["seconds"], abs=0.001)
    for one in (first, other):
        lost, frames = one["counters"]["lost"], one["counters"]["packets"]
        assert frames > 5000
        assert lost / frames == pytest.approx(0.02, abs=4 * (0.02 * 0.98 / frames) ** 0.5)
        assert one["counters"]["drops"] == 0
        assert one["resent"] >= lost


@built
@pytest.mark.slow
def test_jitter_spreads_delays_evenly_and_nothing_overtakes(measured: dict[str, Any]) -> None:
    seconds = measured["shaky"]["seconds"]
    assert 0.015 <= min(seconds) < 0.0155
    assert 0.0245 < max(seconds) <= 0.0251
    assert sum(seconds) / len(seconds) == pytest.approx(0.02, abs=4 * 0.005 / 3**0.5 / 150**0.5)
    assert measured["shaky"]["resent"] == 0


@built
@pytest.mark.slow
def test_what_a_queue_cannot_hold_is_dropped_and_counted_apart_from_losses(measured: dict[str, Any]) -> None:
    dropping, deep = measured["short"], measured["bbr"]
    assert dropping["counters"]["drops"] > 0
    assert dropping["counters"]["lost"] == 0
    assert dropping["resent"] >= dropping["counters"]["drops"]
    assert dropping["facts"]["queues_bytes"]["backbone/up"] == 15140
    assert deep["facts"]["queues_bytes"]["backbone/up"] == (0.2 + 2 * 0.01) * 10e6 / 8  # 200 ms beside the round trip


@built
@pytest.mark.slow
def test_bbr_runs_where_it_is_asked_for_and_cubic_elsewhere(measured: dict[str, Any]) -> None:
    bbr = measured["bbr"]
    assert (bbr["congestion"], bbr["facts"]["congestion_control"]) == ("bbr", "bbr")
    assert measured["short"]["congestion"] == "cubic"
    assert bbr["seconds"][0] == pytest.approx(3_000_000 * 1514 / 1448 * 8 / 10e6, rel=0.1)
