"""Make the pictures of docs/report.md: a run of the quickstart as a page, and one of replan as `--watch` shows it.

usage: .venv/bin/python scripts/screenshots.py      (scripts/setup.sh browser installs the headless browser it needs)
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console

from analysis.report import write
from testbed import registry
from testbed.orchestrator import run
from testbed.report.live import Live
from testbed.report.live_view import view
from testbed.scenario.load import load

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
WATCHED = 70
"""The request behind whose end the terminal is drawn."""


def main() -> None:
    """Write docs/images/report.png and docs/images/watch.png."""
    live = Live()
    terminal: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        live.take(event)
        if event["event"] == "progress" and event["done"] == WATCHED and not terminal:
            console = Console(record=True, width=120, force_terminal=True, file=io.StringIO())
            console.print(view(live, console.width, 1.0))
            terminal.append(console.export_svg(title="testbed run replan --watch"))

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "quickstart"
        run(load("quickstart", ["compute.tensors=sizes"]), registry.backend("sim"), folder)
        run(load("replan", ["compute.tensors=sizes"]), registry.backend("sim"), Path(scratch) / "replan", listen)
        page_file = write([folder])
        with sync_playwright() as tool:  # it has an event loop of its own, which no simulation can run in
            browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 1400})
            page.goto(page_file.as_uri())
            _save(page.screenshot(), "report.png")
            page.set_viewport_size({"width": 1240, "height": 480})
            page.set_content(f"<style>body {{ margin: 0 }} svg {{ width: 100%; display: block }}</style>{terminal[0]}")
            _save(page.locator("svg").screenshot(), "watch.png")
            browser.close()


def _save(shot: bytes, name: str) -> None:
    """A screenshot as a PNG of 128 colours, a third of its size."""
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(128).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
