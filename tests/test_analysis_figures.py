"""Figures show what the frames say: heights, ends and marks are read back from what was drawn; colours are a planner's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from analysis_runs import make_run
from matplotlib.colors import to_hex
from matplotlib.text import Text

import analysis
from analysis import figures, phase, readme_figures, tables
from analysis.figures.bars import PARTS
from analysis.figures.grids import REGIONS
from analysis.figures.latency import CHANGE
from analysis.figures.style import LEVELS, LOOKS, columns_that_fit
from testbed import registry
from testbed.errors import InputError
from testbed.orchestrator.world import prepare
from testbed.report.forecast import forecasts
from testbed.scenario.links import ResolvedHost, ResolvedLink, hosts_of, links_of
from testbed.scenario.load import load
from topologies.layout import Layout

DOCS = Path(__file__).resolve().parent.parent / "docs" / "analysis.md"


@pytest.fixture(autouse=True)
def no_windows() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> analysis.Results:
    return analysis.load(make_run(tmp_path_factory.mktemp("runs") / "mine"))


@pytest.fixture(scope="module")
def vgg16(results: analysis.Results) -> analysis.Results:
    return results.only(model="vgg16")


@pytest.fixture(scope="module")
def grid() -> pd.DataFrame:
    return phase.grid("replan", "alexnet", np.geomspace(1e6, 1e9, 5), np.geomspace(1e6, 1e9, 4))


def cells(planners: list[str], edges: list[int]) -> pd.DataFrame:
    """A sweep's cells with made-up latencies: planner number and edge hosts decide, the seed adds a little."""
    rows = [
        {"status": "finished", "model": "m", "planner": name, "topology.edges": count, "seed": seed, "mean_s": s}
        for place, name in enumerate(planners)
        for count in edges
        for seed in (1, 2)
        for s in [(place + 1) / count + 0.01 * seed]
    ]
    return pd.DataFrame(rows)


def drawn_network(name: str, *overrides: str) -> tuple[Layout, dict[str, ResolvedLink], dict[str, ResolvedHost]]:
    scenario = load(name, overrides)
    layout = registry.layout(scenario.topology)
    return layout, links_of(scenario, layout), hosts_of(scenario, layout)


DRAWINGS: dict[str, Callable[[analysis.Results, pd.DataFrame], Any]] = {
    "latency_cdf": lambda run, grid: figures.latency_cdf(run.inferences),
    "latency_timeline": lambda run, grid: figures.latency_timeline(run.inferences, run.links, run.plans),
    "speedup_bars": lambda run, grid: figures.speedup_bars(tables.speedups(run.inferences)),
    "backbone_bars": lambda run, grid: figures.backbone_bars(run.inferences),
    "regret_bars": lambda run, grid: figures.regret_bars(tables.regrets(run.inferences)),
    "breakdown": lambda run, grid: figures.breakdown(run.inferences),
    "gantt": lambda run, grid: figures.gantt(tables.one_request(run.steps, "vgg16", "d3", 1)),
    "scaling": lambda run, grid: figures.scaling(cells(["d3", "hpa"], [1, 2, 4])),
    "fidelity_matrix": lambda run, grid: figures.fidelity_matrix(run.fidelity),
    "phase_diagram": lambda run, grid: figures.phase_diagram(grid),
    "topology": lambda run, grid: figures.topology(*drawn_network("quickstart")),
    "panels": lambda run, grid: figures.panels(figures.latency_cdf, run.inferences),
}


def test_docs_name_every_figure_function() -> None:
    named = set(re.findall(r"^\| `figures\.(\w+)\(", DOCS.read_text(), flags=re.MULTILINE))
    assert named == set(figures.__all__) - {"COLUMN_IN", "PAGE_IN"}
    assert set(DRAWINGS) <= named


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_is_of_print_size_without_words_on_words_and_leaves_settings_alone(
    name: str, vgg16: analysis.Results, grid: pd.DataFrame
) -> None:
    before = dict(plt.rcParams)
    drawn = DRAWINGS[name](vgg16, grid)
    assert dict(plt.rcParams) == before
    figure = drawn if isinstance(drawn, plt.Figure) else drawn.figure
    assert figure.get_figwidth() in (figures.COLUMN_IN, figures.PAGE_IN)
    figure.canvas.draw()
    boxes = [
        (text.get_text(), text.get_window_extent().shrunk(0.9, 0.7)) for text in shown(figure) if text.get_rotation() % 90 == 0
    ]
    clashes = [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[i + 1 :] if a != b and one.overlaps(other)]
    assert clashes == []


def shown(figure: plt.Figure) -> list[Text]:
    """Texts, without labels of ticks that lie outside their axis."""
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in hidden]


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_a_figure_is_saved_as_the_same_bytes_again(ending: str, vgg16: analysis.Results, tmp_path: Path) -> None:
    for number in (1, 2):
        figures.save(figures.breakdown(vgg16.inferences), tmp_path / f"{number}.{ending}")
    assert (tmp_path / f"1.{ending}").read_bytes() == (tmp_path / f"2.{ending}").read_bytes()


class TestLatency:
    def test_a_distribution_ends_at_one_at_the_longest_latency(self, vgg16: analysis.Results) -> None:
        ax = figures.latency_cdf(vgg16.inferences)
        longest = vgg16.answered.groupby("planner")["latency_s"].max() * 1e3
        drawn = {line.get_label(): line.get_xydata() for line in ax.lines}
        assert set(drawn) == set(vgg16.planners)
        for planner, points in drawn.items():
            assert points[-1] == pytest.approx([longest[planner], 1.0])
            assert (np.diff(points[:, 1]) >= 0.0).all()

    def test_marks_stand_where_plans_were_installed(self, vgg16: analysis.Results) -> None:
        figure = figures.latency_timeline(vgg16.inferences, vgg16.links, vgg16.plans)
        above, strip, below = figure.axes
        changes = vgg16.plans[vgg16.plans["installed"] & (vgg16.plans["reason"] != "first")]
        assert len(changes) > 2
        for ax in (above, below):
            marks = [line for line in ax.lines if line.get_gid() == CHANGE]
            drawn = {(to_hex(line.get_color()), float(line.get_xdata()[0])) for line in marks}
            assert drawn == {(figures.look(row.planner).colour, row.at_s) for row in changes.itertuples()}
        starts = sorted(bar.get_x() for bar in strip.patches if bar.get_x() > 0.0)
        assert starts == pytest.approx(sorted(changes["at_s"]))

    def test_points_and_rates_are_those_of_the_frames(self, vgg16: analysis.Results) -> None:
        above, _, below = figures.latency_timeline(vgg16.inferences, vgg16.links, vgg16.plans).axes
        d3 = next(line for line in above.lines if line.get_label() == "d3")
        rows = vgg16.only(planner="d3").answered
        assert np.allclose(d3.get_xydata(), rows[["submitted_s", "latency_s"]] * [1.0, 1e3])
        rates = set(vgg16.links.loc[(vgg16.links["link"] == "backbone") & (vgg16.links["direction"] == "up"), "rate_bps"] / 1e6)
        curve = next(line for line in below.lines if line.get_gid() != CHANGE)
        assert set(curve.get_ydata()) == rates == {60.0, 1.0}

    def test_it_draws_on_axes_that_are_given(self, vgg16: analysis.Results) -> None:
        figure, axes = plt.subplots(3, 1)
        assert figures.latency_timeline(vgg16.inferences, vgg16.links, vgg16.plans, axes=axes) is figure
        alone = plt.figure().add_subplot()
        assert figures.latency_cdf(vgg16.inferences, ax=alone, legend=False) is alone
        assert alone.get_legend() is None


class TestBars:
    def test_heights_are_the_tables(self, results: analysis.Results) -> None:
        speedups = tables.speedups(results.inferences)
        ax = figures.speedup_bars(speedups)
        heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in ax.containers}
        for planner, rows in speedups.groupby("planner"):
            assert heights[str(planner)] == pytest.approx(rows["speedup"].tolist())
        sent = results.answered.groupby(["planner", "model"], sort=False)["backbone_bytes"].mean() / 1e3
        ax = figures.backbone_bars(results.inferences)
        for bars in ax.containers:
            assert [bar.get_height() for bar in bars] == pytest.approx(sent[bars.get_label()].tolist())

    def test_regrets_are_drawn_in_percent(self, results: analysis.Results) -> None:
        ax = figures.regret_bars(tables.regrets(results.inferences))
        optimal = next(bars for bars in ax.containers if bars.get_label() == "optimal")
        assert [bar.get_height() for bar in optimal] == [0.0, 0.0]
        cloud = next(bars for bars in ax.containers if bars.get_label() == "cloud-only")
        regret = tables.regrets(results.inferences).query("planner == 'cloud-only'")["regret"] * 100.0
        assert [bar.get_height() for bar in cloud] == pytest.approx(regret.tolist())

    def test_parts_of_a_latency_are_stacked_end_to_end(self, vgg16: analysis.Results) -> None:
        ax = figures.breakdown(vgg16.inferences)
        sums = vgg16.answered.groupby("planner", sort=False)[list(PARTS)].mean().sum(axis="columns") * 1e3
        ends: dict[int, float] = {}
        for bars in ax.containers:
            for lane, bar in enumerate(bars):
                assert bar.get_x() == pytest.approx(ends.get(lane, 0.0), abs=1e-3 * sums.max())
                ends[lane] = bar.get_x() + bar.get_width()
        assert list(ends.values()) == pytest.approx(sums.tolist(), rel=1e-2)

    def test_two_figures_for_one_bar_are_refused(self, results: analysis.Results) -> None:
        twice = tables.speedups(results.inferences, by=("model",)).assign(network="a")
        with pytest.raises(InputError, match=r"one network, and there are a, b: choose .* or use panels"):
            figures.speedup_bars(pd.concat([twice, twice.assign(network="b")]))


class TestGantt:
    def test_bars_and_arrows_are_the_requests_steps(self, results: analysis.Results) -> None:
        steps = tables.one_request(results.steps, "vgg16", "d3", 2)
        ax = figures.gantt(steps)
        hosts = [label.get_text() for label in ax.get_yticklabels()]
        assert hosts == ["d1", "e1", "e2", "e3", "c1"]
        compute = steps[steps["what"] == "compute"]
        drawn = sorted((bar.get_x(), bar.get_width(), hosts[round(bar.get_y() + bar.get_height() / 2)]) for bar in ax.patches)
        wanted = sorted(zip(compute["offset_s"] * 1e3, compute["duration_s"] * 1e3, compute["host"], strict=True))
        assert [(host, pytest.approx((x, width))) for x, width, host in wanted] == [(h, (x, w)) for x, w, h in drawn]
        arrows = [text for text in ax.texts if text.get_text() == ""]
        assert len(arrows) == (steps["what"] == "transfer").sum()
        assert max(arrow.xy[0] for arrow in arrows) == pytest.approx(
            results.inferences.query("planner == 'd3' and model == 'vgg16' and request == 2 and not warmup")["latency_s"].iloc[0]
            * 1e3
        )

    def test_waiting_is_drawn_before_the_work_that_waited(self, results: analysis.Results) -> None:
        steps = tables.one_request(results.steps, "alexnet", "cloud-only", 0)
        waited = steps.assign(queue_s=steps["queue_s"].where(steps["queue_s"].isna(), 0.02))
        queue, work = figures.gantt(waited).patches
        assert queue.get_x() + queue.get_width() == pytest.approx(work.get_x())
        assert queue.get_width() == pytest.approx(20.0)


def test_lines_over_edge_hosts_have_every_number_once(tmp_path: Path) -> None:
    ax = figures.scaling(cells(["d3", "hpa"], [4, 1, 2]))
    for place, line in enumerate(ax.lines):
        assert line.get_xdata().tolist() == [1.0, 2.0, 4.0]
        assert line.get_ydata() == pytest.approx([1e3 * ((place + 1) / count + 0.015) for count in (1, 2, 4)])
    assert len(ax.collections) == 2  # the seeds' spans


def test_a_verdict_has_its_colour(results: analysis.Results) -> None:
    frame = results.fidelity.copy()
    chosen = (frame["planner"] == "d3") & (frame["model"] == "vgg16") & (frame["invariant"] == "backbone_bytes")
    frame.loc[chosen, ["level", "value"]] = ["rejected", 0.25]
    ax = figures.fidelity_matrix(frame)
    rows, columns = ([label.get_text() for label in axis.get_ticklabels()] for axis in (ax.yaxis, ax.xaxis))
    mesh = ax.collections[0]
    levels = np.ma.asarray(mesh.get_array()).reshape(len(rows), len(columns))
    assert levels[rows.index("vgg16, d3"), columns.index("backbone bytes")] == list(LEVELS).index("rejected")
    assert (levels == list(LEVELS).index("rejected")).sum() == 1
    assert "0.25" in [text.get_text() for text in ax.texts]


class TestPhaseDiagram:
    def test_regions_are_the_grids_tiers(self, grid: pd.DataFrame) -> None:
        ax = figures.phase_diagram(grid, gain=False)
        drawn = np.asarray(ax.collections[0].get_array()).reshape(4, 5)
        wanted = grid.pivot(index="backbone_bps", columns="access_bps", values="tiers").map(list(REGIONS).index)
        assert (drawn == wanted.to_numpy()).all()
        assert len(np.unique(drawn)) > 1

    def test_what_is_no_grid_is_refused(self, grid: pd.DataFrame) -> None:
        with pytest.raises(InputError, match="full grid"):
            figures.phase_diagram(grid.iloc[:-1])
        with pytest.raises(InputError, match="same pair"):
            figures.phase_diagram(pd.concat([grid, grid]))


class TestTopology:
    @pytest.mark.parametrize("name", ["quickstart", "two_sites", "cellular", "fog"])
    def test_every_host_has_a_box_and_every_link_a_line_between_its_ends(self, name: str) -> None:
        layout, links, hosts = drawn_network(name)
        ax = figures.topology(layout, links, hosts)
        words = {text.get_text(): text.get_position() for text in ax.texts}
        assert set(layout.by_name) <= set(words)
        lines = [line for line in ax.lines if len(line.get_xdata()) == 2]
        assert len(lines) == len(layout.links)
        for link, line in zip(layout.links, lines, strict=True):
            for end, x in zip((link.a, link.b), line.get_xdata(), strict=True):
                if end in words:
                    assert x == pytest.approx(words[end][0])

    def test_hosts_say_what_the_plan_gives_them(self) -> None:
        world = prepare(load("quickstart", ['model.names=["vgg16"]', 'planning.planners=["d3"]']))
        plan = next(forecasts(world)).decision.plan
        ax = figures.topology(world.layout, world.links, world.hosts, plan=plan)
        said = [text.get_text() for text in ax.texts if text.get_text().startswith(("tile", "layers"))]
        tiled = sorted({v for stack in plan.stacks for v in stack.vertices})
        name = "tiles" if len(plan.stacks) > 1 else "tile"
        assert said.count(f"{name} of {tiled[0]}-{tiled[-1]}") == 4
        cloud = plan.part("cloud")
        assert f"layers {cloud[0]}-{cloud[-1]}" in said

    def test_a_trace_is_drawn_with_its_range(self) -> None:
        ax = figures.topology(*drawn_network("quickstart"))
        assert any("0 to 52 Mbit/s" in text.get_text() for text in ax.texts)
        plain = figures.topology(*drawn_network("quickstart", "links.backbone.trace=none", "links.backbone.rate=7 Mbit/s"))
        assert any("7.00 Mbit/s" in text.get_text() for text in plain.texts)
        assert not any("trace" in text.get_text() for text in plain.texts)


class TestReadme:
    def test_its_pictures_are_there_and_small(self) -> None:
        for name in readme_figures.PICTURES:
            picture = DOCS.parent / "images" / f"{name}.svg"
            assert 10_000 < picture.stat().st_size < 150_000, name

    def test_they_are_made_by_the_command(self, tmp_path: Path) -> None:
        figures.save(readme_figures.topology(), tmp_path / "topology.svg")
        made, committed = (path.read_text() for path in (tmp_path / "topology.svg", DOCS.parent / "images" / "topology.svg"))
        if matplotlib.__version__ in committed:  # another version draws letters a little differently
            assert made == committed
        above, strip, _ = readme_figures.timeline(requests=12).axes
        assert {line.get_label() for line in above.lines if len(line.get_xdata()) > 2} == {"cloud-only", "edge-only", "d3"}
        assert [label.get_text() for label in strip.get_yticklabels()] == ["d3"]

    @pytest.mark.slow
    def test_speedups_are_those_of_the_comparison(self) -> None:
        figure = readme_figures.speedups(["5G"], "model.names=alexnet", "requests.count=1")
        heights = {bars.get_label(): bars[0].get_height() for bars in figure.axes[0].containers}
        assert heights["cloud-only"] == 1.0
        assert heights["optimal-tiles"] >= max(heights.values()) - 1e-9

    def test_an_unknown_picture_is_bad_input(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("sys.argv", ["readme_figures", "speed"])
        assert readme_figures.main() == 2
        assert "no picture 'speed'" in capsys.readouterr().err


class TestColours:
    def test_no_two_registered_planners_look_the_same(self) -> None:
        assert set(LOOKS) == set(registry.planners())
        assert len(set(LOOKS.values())) == len(LOOKS)

    def test_a_planner_has_its_colour_in_every_figure(self, vgg16: analysis.Results) -> None:
        """Whichever planners are beside it, and in whichever order."""
        few = vgg16.only(planner=["optimal", "d3"])
        lines = [
            *figures.latency_cdf(few.inferences.iloc[::-1]).lines,
            *figures.latency_cdf(vgg16.inferences).lines,
            *figures.scaling(cells(["hpa", "d3"], [1, 2])).lines,
        ]
        bars = figures.speedup_bars(tables.speedups(vgg16.inferences)).containers
        found = {(line.get_label(), to_hex(line.get_color())) for line in lines}
        found |= {(one.get_label(), to_hex(one.patches[0].get_facecolor())) for one in bars}
        assert found == {(name, figures.look(name).colour) for name in vgg16.planners}

    def test_own_planners_have_a_look_that_does_not_change(self) -> None:
        assert figures.look("mine.py:best") == figures.look("mine.py:best")
        assert figures.look("mine").colour not in {found.colour for found in LOOKS.values()}


class TestRefusals:
    def test_what_a_figure_cannot_tell_apart(self, results: analysis.Results) -> None:
        with pytest.raises(InputError, match="latency_cdf draws one model, and there are alexnet, vgg16"):
            figures.latency_cdf(results.inferences)
        with pytest.raises(InputError, match="one planner"):
            figures.latency_cdf(results.only(model="vgg16").inferences, by="run")
        with pytest.raises(InputError, match="gantt draws one model"):
            figures.gantt(results.steps)

    def test_nothing_to_draw(self, results: analysis.Results) -> None:
        with pytest.raises(InputError, match="nothing to draw"):
            figures.latency_cdf(results.inferences.iloc[:0])
        with pytest.raises(InputError, match="no steps to draw"):
            figures.gantt(results.steps.iloc[:0])
        with pytest.raises(InputError, match="no invariants to draw"):
            figures.fidelity_matrix(results.fidelity.iloc[:0])

    def test_an_unknown_link_column_and_file_ending(self, vgg16: analysis.Results, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no link 'backbon'; did you mean \"backbone\""):
            figures.latency_timeline(vgg16.inferences, vgg16.links, vgg16.plans, link="backbon")
        with pytest.raises(InputError, match="no column 'networks'"):
            figures.panels(figures.latency_cdf, vgg16.inferences, by="networks")
        with pytest.raises(InputError, match=r"cannot be saved as .*mine\.doc"):
            figures.save(figures.latency_cdf(vgg16.inferences), tmp_path / "mine.doc")


def test_a_legend_takes_as_many_columns_as_its_width_has() -> None:
    labels = ["device", "edge", "cloud", "device + edge + cloud"]
    assert columns_that_fit(labels, 10.0) == 4
    assert columns_that_fit(labels, 2.7) == 2
    assert columns_that_fit(labels, 0.5) == 1
