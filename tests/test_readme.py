"""What README and docs say is true: commands do what they claim, links lead somewhere, generated pages are up to date."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from d3node.wire import ITEM_BYTES, Limits
from testbed.cli import main
from testbed.cli.app import app
from testbed.scenario.reference import markdown

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[str]:
    """Lines of a page's shell blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    joined = [block.replace("\\\n", " ") for block in blocks]
    lines = [re.sub(r"\s+#.*$", "", line).strip() for block in joined for line in block.splitlines()]
    return [line for line in lines if line]


def everyday() -> list[str]:
    return [line for line in commands(ROOT / "README.md") if line.startswith("testbed ")]


def shortened(command: str) -> list[str]:
    """The command's words; a run is made small (sizes only, one model, few requests), without touching what the README shows."""
    words = shlex.split(command)[1:]
    if words[:2] == ["run", "quickstart"]:
        words += ["--model", "alexnet", "--set", "compute.tensors=sizes", "--set", "requests.count=3"]
    return words


def test_every_everyday_command_works_in_its_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    found = everyday()
    assert {shlex.split(command)[1] for command in found} >= {"doctor", "models", "plan", "run", "report"}
    for command in found:
        assert main(shortened(command)) == 0, command
        out = capsys.readouterr().out
        assert len(out.splitlines()) > 5, command
    first, again = (Path("runs", name, "inferences.csv").read_bytes() for name in ("mine", "again"))
    assert first == again


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_pages_name_verbs_and_targets_that_exist(page):
    verbs = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    makefile = (ROOT / "Makefile").read_text()
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "testbed":
            assert words[1] in verbs, command
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), command


def links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    broken = [target for target in links(page) if not (page.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_mention_exist(page):
    """Paths in backquotes that begin with one of the project's folders."""
    named = re.findall(
        r"`((?:docs|testbed|d3node|topologies|traces|benchmarks|scripts|tests|analysis)/[\w./-]+)`", page.read_text()
    )
    assert [name for name in named if not list(ROOT.glob(name))] == []


def test_the_scenario_reference_is_up_to_date():
    assert (ROOT / "docs" / "scenarios.md").read_text() == markdown(), (
        "run: python -m testbed.scenario.reference > docs/scenarios.md"
    )


def test_every_key_of_a_scenario_says_what_it_means():
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row for row in rows if not row.split("|")[-2].strip()] == []


def test_the_wire_page_states_the_limits_in_force():
    """Every number of the page's table, with its unit, in the order of the text."""
    text = (ROOT / "docs" / "wire.md").read_text()
    rows = dict(re.findall(r"^\| ([^|`]+?) \| (.+) \|$", text, flags=re.MULTILINE))
    units = {"MiB": 1 << 20, "GiB": 1 << 30}

    def stated(name: str) -> tuple[float, ...]:
        found = re.findall(r"(\d[\d,]*)(?: (MiB|GiB))?", rows[name])
        return tuple(float(number.replace(",", "")) * units.get(unit, 1) for number, unit in found)

    known = Limits()
    named = {
        "header": (known.header_bytes,),
        "payload of a message": (known.payload_bytes,),
        "tensors in a message": (known.payloads,),
        "dimensions of a tensor": (known.dimensions,),
        "silence in the middle of a frame": (known.stall_s,),
        "messages received and not yet taken, of a connection": (known.buffered_bytes,),
        "the same, of all connections of a transport": (known.all_buffered_bytes,),
        "messages of a connection": (known.messages_at_once, known.messages_per_s, 50.0),
        "handshake": (known.handshake_s,),
        "handshakes under way": (known.pending_handshakes, known.pending_per_address),
        "connections": (known.connections, known.connections_per_address),
        "new connections of one address": (known.connects_at_once, known.connects_per_s),
        "handshakes that fail for want of proof, or are nonsense": (
            known.refusals,
            known.backoff_s,
            known.longest_backoff_s,
        ),
    }
    assert sum(len(values) for values in named.values()) - 1 == len(fields(Limits))  # the 50 ms are no field
    assert {name: stated(name) for name in named} == named
    assert all(dtype in text for dtype in ITEM_BYTES)


@pytest.mark.slow
def test_a_wheel_runs_the_quickstart_outside_the_checkout(tmp_path):
    """Everything that runs at run time is in the package: scenarios, traces, device descriptions, entry points."""
    import sys
    import zipfile

    tree = tmp_path / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run(build, cwd=tree, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        assert {"d3node/py.typed", "testbed/py.typed"} <= set(archive.namelist())
        archive.extractall(site)
    outside = tmp_path / "outside"
    outside.mkdir()
    run = ["-m", "testbed.cli", "run", "quickstart", "--backend", "sim", "--planner", "d3", "--out", "out", "--set"]
    done = subprocess.run(
        [sys.executable, *run, "compute.tensors=sizes"],
        cwd=outside,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    where = "import testbed, topologies, traces; print(testbed.__file__, topologies.__file__, traces.__file__)"
    env = {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run([sys.executable, "-c", where], cwd=outside, capture_output=True, text=True, env=env, check=True)
    assert all(str(site) in path for path in found.stdout.split())
