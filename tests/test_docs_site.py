"""The documentation site builds strictly, has no dead ends and loads nothing from elsewhere; generated files are fresh."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    """Anchors of a page, where its links lead, and what a browser loads for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "link", "iframe", "source"):
            self.loads += [given[key] for key in ("src", "href") if key in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {file: Page(file.read_text()) for file in site.rglob("*.html")}


@pytest.mark.slow
def test_every_page_of_docs_is_there_and_in_the_navigation(site, pages):
    expected = {file.relative_to(ROOT / "docs").with_suffix(".html") for file in (ROOT / "docs").rglob("*.md")}
    expected = {path.with_name("index.html") if path.name == "README.html" else path for path in expected}
    assert expected - {file.relative_to(site) for file in pages} == set()
    start = pages[site / "index.html"]
    listed = {urlsplit(link).path for link in start.links}
    assert {str(path) for path in expected} - {"index.html"} <= listed


@pytest.mark.slow
def test_no_link_or_anchor_is_dead(site, pages):
    dead = []
    for file, page in pages.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme or file.name == "404.html":
                continue
            there = (file.parent / unquote(target.path)).resolve() if target.path else file
            there = there / "index.html" if there.is_dir() else there
            if not there.is_file() or (target.fragment and there in pages and target.fragment not in pages[there].anchors):
                dead.append(f"{file.relative_to(site)}: {link}")
    assert dead == []


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site, pages):
    foreign = {load for page in pages.values() for load in page.loads if urlsplit(load).scheme or load.startswith("//")}
    assert foreign == set()
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*\)", styles) == []


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_anchors_that_pages_outside_docs_link_to_exist(page):
    found = re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", (ROOT / page).read_text())
    for target, anchor in found:
        text = (ROOT / (target or page)).read_text()
        assert anchor in {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.M)}, f"{page}: {target}#{anchor}"


def test_generated_files_are_up_to_date():
    done = subprocess.run(
        [sys.executable, "scripts/docs/generate.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
