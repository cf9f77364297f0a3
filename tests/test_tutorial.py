"""The tutorial is one path that works: every file of it is written, every command run as printed, every output compared.

A block with a title is a file; a `text` block is what the commands before it print, where `…` stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.kernel import cache

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"
LAST = "## On real Linux"
"""The section that needs a kernel in virtual time."""


@dataclass
class Reader:
    """Somebody who follows the page in a fresh folder, with a terminal of 100 columns."""

    folder: Path
    printed: str = ""

    def follow(self, text: str) -> int:
        """Do what a part of the page says; the number of commands that were run."""
        commands = 0
        for language, title, body in re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', text, flags=re.M | re.S):
            if title:
                (self.folder / title).write_text(body)
            elif language == "sh":
                self.printed = self.run(body)
                commands += len(body.splitlines())
            else:
                assert language == "text", language
                missing = self.not_printed(body)
                assert missing is None, f"the page promises {missing!r}, printed was:\n{self.printed}"
        return commands

    def run(self, commands: str) -> str:
        here = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "100",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            ["bash", "-e", "-c", commands], cwd=self.folder, env={**os.environ, **here}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def not_printed(self, promised: str) -> str | None:
        """The first line of a `text` block that was not printed, in the block's order; nothing may stand between two lines
        but where the block has a line `…`."""
        actual = [line.rstrip() for line in self.printed.splitlines()]
        place, free = 0, False
        for line in map(str.rstrip, promised.splitlines()):
            if line == "…":
                free = True
                continue
            pattern = as_pattern(line)
            near = range(place, len(actual)) if free else range(place, min(place + 1, len(actual)))
            found = next((at for at in near if pattern.fullmatch(actual[at])), None)
            if found is None:
                return line
            place, free = found + 1, False
        return None


def as_pattern(line: str) -> re.Pattern[str]:
    """A promised line; `…` is anything but nothing, however wide."""
    first, *others = line.split("…")
    return re.compile(
        r"\s*\S.*?\s*".join([re.escape(first.rstrip() if others else first), *(re.escape(part.strip()) for part in others)])
    )


def parts() -> tuple[str, str]:
    before, _, after = PAGE.read_text().partition(LAST)
    assert after, LAST
    return before, after


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Somebody who has come to the last section."""
    found = Reader(tmp_path_factory.mktemp("study"))
    assert found.follow(parts()[0]) >= 12
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_new_user_gets_to_the_end(reader):
    assert len(list((reader.folder / "pictures").glob("*.svg"))) == 2
    assert (reader.folder / "runs" / "sweep" / "cells.csv").is_file()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build")
def test_and_on_to_real_linux(reader):
    assert reader.follow(parts()[1]) == 2


@pytest.mark.slow
def test_commands_of_the_page_on_files_work(tmp_path):
    """Its device description is a file that a plan takes."""
    reader = Reader(tmp_path)
    assert reader.follow(PAGE.with_name("files.md").read_text()) == 2
    assert "alexnet" in reader.printed


def test_the_page_uses_what_it_brings():
    """Every file that the page has a reader write is named by one of its commands or files."""
    text = PAGE.read_text()
    titles = re.findall(r'^```\w+ title="([^"]+)"', text, flags=re.M)
    assert {"mymodel.py", "mytrace.csv", "mytopology.py", "mine.toml", "myplanner.py"} <= set(titles)
    for title in titles:
        assert text.count(title) > 1, title


class TestComparing:
    def reader(self, tmp_path: Path) -> Reader:
        return Reader(tmp_path, "a 1\nb  2 ms\nc\n")

    @pytest.mark.parametrize("promised", ["a 1\nb  2 ms\nc", "a 1\nb …   ms\n…", "…\nc", "a 1\n…"])
    def test_what_is_printed_passes(self, tmp_path, promised):
        assert self.reader(tmp_path).not_printed(promised) is None

    @pytest.mark.parametrize(
        ("promised", "line"), [("a 2", "a 2"), ("a 1\nc", "c"), ("…\nc\na 1", "a 1"), ("a 1\nb  3 …", "b  3 …")]
    )
    def test_anything_else_is_found(self, tmp_path, promised, line):
        assert self.reader(tmp_path).not_printed(promised) == line
