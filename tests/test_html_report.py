"""HTML reports: one file that asks nobody for anything, figures as the folder has them, names that stay names, and a page that
works in a browser: no errors, no sideways scrolling, tables that sort by keyboard."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysis.report.page import render
from testbed import registry, sweep
from testbed.cli import console, main
from testbed.cli.report_sweep import print_sweep
from testbed.orchestrator import run, summarise
from testbed.report import units
from testbed.report.compare import differences
from testbed.scenario.load import build
from testbed.sweep.aggregate import aggregate

pytestmark = pytest.mark.slow  # pages have a dozen figures each

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert(1)</script>$x$"

SWEEP = """
name = "small"
scenario = "quickstart"
[set]
"compute.tensors" = "sizes"
"requests.count" = 4
"requests.arrival" = "poisson"
"requests.rate" = "2 /s"
[axes]
models = ["alexnet"]
planners = ["cloud-only", "hpa", "broken.py:Broken"]
traces = ["lte-like"]
seeds = 2
[axes.parameters]
"links.backbone.delay" = ["5 ms", "40 ms"]
"""
BROKEN = """
from testbed.planners.single import CloudOnly

class Broken(CloudOnly):
    def plan(self, *given, **named):
        raise RuntimeError("<b>broken</b>")
"""


def ran(folder: Path, rate: str, name: str = "tiny") -> Path:
    raw = {
        "name": name,
        "description": EVIL,
        "model": {"names": ["alexnet"]},
        "topology": {"edges": 2},
        "links": {"backbone": {"rate": rate}},
        "compute": {"tensors": "sizes"},
        "requests": {"count": 12, "warmup": 1},
        "planning": {"planners": ["cloud-only", "hpa", "edge-only"]},
    }
    run(build(raw), registry.backend("sim"), folder)
    return folder


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("runs") / "fast", "20 Mbit/s")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("runs") / "slow", "5 Mbit/s")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "small.toml").write_text(SWEEP)
    (folder / "broken.py").write_text(BROKEN)
    sweep.execute(sweep.plan(sweep.read(str(folder / "small.toml"))), folder / "out", workers=1)
    return folder / "out"


@pytest.fixture(scope="module")
def evil(fast: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, had its planner and its model been called something else."""
    folder = tmp_path_factory.mktemp("evil")
    for file in fast.iterdir():
        text = file.read_text().replace("cloud-only", EVIL).replace("alexnet", "<img src=x onerror=alert(1)>")
        (folder / file.name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def pages(fast: Path, slow: Path, swept: Path, evil: Path) -> dict[str, str]:
    return {"all": render([fast, slow, swept]), "sweep": render([swept]), "evil": render([evil])}


class Page(HTMLParser):
    """The page's tables (caption -> rows of texts), its elements, and every attribute that names a place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[str] = []
        self.places: list[str] = []
        self.words = ""
        self._region = ""
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        found = dict(attrs)
        self.places += [str(found[name]) for name in ("src", "href", "xlink:href", "action", "data") if found.get(name)]
        if found.get("role") == "region":
            self._region = str(found["aria-label"])
        if tag == "tr":
            self.tables.setdefault(self._region, []).append([])
        if tag in ("td", "th"):
            self.tables[self._region][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._cell:
            self.tables[self._region][-1][-1] += data.strip()


def test_the_table_has_the_figures_of_the_folder(pages, fast):
    page = Page(pages["all"])
    heading, *rows = page.tables["By model and planner"][:4]
    for row, pair in zip(rows, summarise(fast).pairs, strict=True):
        found = dict(zip(heading, row, strict=True))
        assert (found["model"], found["planner"], found["verdict"]) == (pair.model, pair.planner, pair.verdict)
        assert found["p50"] == units.seconds(pair.p50_s)
        assert found["p95"] == units.seconds(pair.p95_s)
        assert found["backbone"] == units.size(pair.backbone_bytes)
        assert found["answered"] == "12 of 12"
    best = min(summarise(fast).pairs, key=lambda pair: pair.mean_s)
    assert f"{best.planner}\n" in page.words
    assert f"{units.seconds(best.mean_s)} mean latency" in page.words
    invariants = [row for row in page.tables["Invariants"] if row[0] != "where"]
    assert {row[1] for row in invariants} >= {"answers", "backbone_bytes", "link_rate"}
    assert {row[2] for row in invariants} == {"ok"}


def test_a_page_is_one_file_and_asks_nobody(pages):
    page = Page(pages["all"])
    assert [place for place in page.places if not place.startswith(("#", "data:"))] == []
    assert not {"iframe", "object", "embed", "img"} & set(page.elements)
    assert page.elements.count("script") == 1
    assert page.elements.count("svg") >= 14
    assert "Not drawn" not in page.words


def test_a_name_from_a_scenario_stays_a_name(pages):
    text = pages["evil"]
    page = Page(text)
    assert page.elements.count("script") == 1
    assert "img" not in page.elements
    assert "<script>alert" not in text
    assert EVIL in page.words
    assert "default-src 'none'" in text


def test_runs_side_by_side_have_the_differences_of_the_command_line(pages, fast, slow):
    tables = Page(pages["all"]).tables
    rows = tables["Median latency"][1:]
    found = differences(summarise(fast), summarise(slow))
    assert [row[1] for row in rows] == [item.first.planner for item in found]
    for row, item in zip(rows, found, strict=True):
        assert row[2:4] == [units.seconds(item.first.p50_s), units.seconds(item.second.p50_s)]
        assert row[4] == ("0" if item.latency == 0 else f"{item.latency * 100:+.2f} %".replace("-", "−"))
    asked = next(rows for name, rows in tables.items() if name.startswith("What the runs were asked differently"))
    assert ["links.backbone.rate", "20000000.0", "5000000.0"] in asked


def test_a_run_that_must_not_be_used_says_so_first(tmp_path):
    raw = {
        "name": "late",
        "model": {"names": ["alexnet"]},
        "links": {"backbone": {"rate": "1 Mbit/s"}},
        "compute": {"tensors": "sizes"},
        "requests": {"count": 2, "deadline": "50 ms"},
        "planning": {"planners": ["cloud-only"]},
    }
    summary = run(build(raw), registry.backend("sim"), tmp_path / "late")
    assert summary.verdict == "rejected"
    page = Page(render([tmp_path / "late"]))
    short = page.words[page.words.index("In short") : page.words.index("By model and planner")]
    assert summary.failing[0] in short
    assert "Its figures must not be used." in short
    assert "No request was answered" in short
    assert page.tables["Failed requests"][1][2:4] == ["DeadlineExceeded", "2"]


def test_a_narrow_terminal_keeps_what_a_row_is_about_and_leaves_out_the_spread(swept, monkeypatch, capsys):
    monkeypatch.setattr(console.out, "width", 200)
    print_sweep(swept)
    assert " ± " in capsys.readouterr().out
    monkeypatch.setattr(console.out, "width", 60)
    print_sweep(swept)
    said = capsys.readouterr().out
    assert " ± " not in said
    assert "--json" in said
    for words in ("alexnet", "5 ms", "hpa"):
        assert words in said


def test_a_sweep_has_its_seeds_taken_together_and_says_why_cells_failed(pages, swept):
    cells = sweep.load(swept)
    means = aggregate(cells)
    own = cells[(cells["planner"] == "hpa") & (cells["links.backbone.delay"] == "5 ms")]["mean_s"]
    row = means[(means["planner"] == "hpa") & (means["links.backbone.delay"] == "5 ms")].iloc[0]
    assert len(own) == row["finished"] == 2
    assert row["mean_s"] == pytest.approx(own.mean())
    assert row["spread_s"] == pytest.approx(own.std())
    assert row["spread_s"] > 0
    page = Page(pages["sweep"])
    pivot = page.tables["Mean latency, ± standard deviation over seeds"]
    assert pivot[0] == ["model", "links.backbone.delay", "cloud-only", "hpa", "broken.py:Broken"]
    assert pivot[1][3] == f"{units.seconds(own.mean())} ± {units.seconds(own.std())}"
    assert pivot[1][4] == "–"
    failed = page.tables["Failed cells (4)"]
    assert len(failed) == 5
    assert "<b>broken</b>" in failed[1][-1]


def test_the_command_writes_the_page_and_says_where(fast, swept, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["report", str(swept)]) == 0
    plain = capsys.readouterr().out
    assert "8 finished, 4 failed" in plain
    assert main(["report", str(swept), "--out", str(tmp_path / "a.html")]) == 0
    found = capsys.readouterr()
    assert found.out == plain
    assert str(tmp_path / "a.html") in found.err
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert main(["report", str(swept), "--html"]) == 0
    assert (swept / "report.html").is_file()
    assert main(["report", str(fast), "--out", str(fast)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_without_the_packages_it_says_what_to_install(fast, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("analysis.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["report", str(fast), "--html"]) == 2
    assert "pip install 'd3-testbed[analysis]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    contexts = []

    def open_page(file: Path, width: int, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page, said, asked

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.skipif(find_spec("playwright") is None, reason="no headless browser: scripts/setup.sh browser")
class TestInABrowser:
    @pytest.mark.parametrize("width", [1280, 390])
    @pytest.mark.parametrize("name", ["evil", "sweep", "all"])
    def test_no_errors_no_requests_and_nothing_wider_than_the_window(self, opened, files, name, width):
        page, said, asked = opened(files[name], width)
        for part in page.query_selector_all("details"):
            part.evaluate("part => part.open = true")
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
        assert said == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        boxes = [shape.bounding_box() for shape in page.query_selector_all("figure svg")]
        assert all(box["width"] > 300 and box["height"] > 100 for box in boxes)

    def test_tables_sort_by_keyboard_both_ways_with_empty_cells_last(self, opened, files):
        page, said, _ = opened(files["sweep"], 1280)
        table = page.locator("table").nth(2)
        heading = table.locator("thead th", has_text="mean")
        column = "[...table.tBodies[0].rows].map(row => row.cells[%d].dataset.sort ?? null)"
        place = heading.evaluate("heading => heading.cellIndex")

        def values() -> list[float | None]:
            found = table.evaluate(f"table => {column % place}")
            return [None if value is None else float(value) for value in found]

        before = values()
        assert None in before
        known = sorted(value for value in before if value is not None)
        empty = [None] * before.count(None)
        assert before != known + empty
        heading.locator("button").focus()
        page.keyboard.press("Enter")
        assert values() == known + empty
        assert heading.get_attribute("aria-sort") == "ascending"
        page.keyboard.press("Space")
        assert values() == known[::-1] + empty
        assert heading.get_attribute("aria-sort") == "descending"
        assert said == []

    @pytest.mark.parametrize("name", ["evil", "sweep", "all"])
    def test_on_paper_there_are_no_controls_no_dark_ground_and_nothing_is_cut_off(self, opened, files, name):
        """A sheet (letter, on its side, less margins) is 965 px wide; who likes it dark prints black on white all the same."""
        page, said, _ = opened(files[name], 965, "dark")
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        style = "(item, name) => getComputedStyle(item)[name]"
        assert {item.evaluate(style, "display") for item in page.query_selector_all(".arrow")} == {"none"}
        assert page.query_selector("body").evaluate(style, "backgroundColor") == "rgb(255, 255, 255)"
        assert page.query_selector("table").evaluate("item => getComputedStyle(item.closest('section')).color") == "rgb(0, 0, 0)"
        scrolled = "item => item.scrollHeight > item.clientHeight + 1 && getComputedStyle(item).overflowY !== 'visible'"
        assert not any(item.evaluate(scrolled) for item in page.query_selector_all(".scroll, pre"))
        lines = "item => item.getClientRects().length === 1 && getComputedStyle(item).whiteSpace"
        assert {item.evaluate(lines) for item in page.query_selector_all("td.number")} == {"nowrap"}
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details:not([open])").count() > 0
        assert said == []

    def test_it_is_dark_where_the_reader_likes_it_dark_figures_too(self, opened, files):
        def brightness(scheme: str) -> list[float]:
            """Of the page, and of a figure on it (0 to 255)."""
            page, _, _ = opened(files["evil"], 1280, scheme)
            shots = [page.screenshot(), page.locator("figure svg").first.screenshot()]
            return [float(np.asarray(Image.open(io.BytesIO(shot)).convert("L")).mean()) for shot in shots]

        light, dark = brightness("light"), brightness("dark")
        assert min(light) > 200
        assert max(dark) < 80
