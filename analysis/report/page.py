"""From folders to a page: reads them, has their figures drawn, and renders the templates beside this file.

The page is one file. Its policy (CSP) forbids every request and every script but its own, so that a name in a scenario can do
nothing; the templates escape all text besides.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.report import gallery
from analysis.report.beside import beside
from analysis.report.parts import Entry, Headline, Page, Picture, Section
from analysis.report.pictures import Drawn, drawing
from analysis.report.runs import RunPart
from analysis.report.sweeps import SweepPart
from analysis.report.winners import headlines
from testbed.errors import InputError
from testbed.orchestrator.walltime import now_utc
from testbed.sweep.folder import is_sweep

TEMPLATES = "templates"

MOST_AGAINST = 3
"""Broken invariants that are named in the summary; all of them stand in the run's own section."""

Part = RunPart | SweepPart


def write(folders: Sequence[Path | str], target: Path | str | None = None) -> Path:
    """Write a page about run folders and sweep folders to `target` (default: report.html in the first folder); its path.

    Raises InputError for a folder that is none or is damaged, and for a target that cannot be written.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise InputError("a report needs a folder of a run or of a sweep")
    goal = Path(target) if target is not None else paths[0] / "report.html"
    if goal.is_dir():
        raise InputError(f"{goal} is a folder: name the file that the report is to be written to")
    text = render(paths)
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{goal} cannot be written: {error.strerror or error}; choose another with --out") from error
    return goal


def render(paths: Sequence[Path]) -> str:
    """The page as HTML."""
    labels = _labels(paths)
    parts: list[Part] = [
        SweepPart(path, label) if is_sweep(path) else RunPart(path, label) for path, label in zip(paths, labels, strict=True)
    ]
    runs = [part for part in parts if isinstance(part, RunPart)]
    sections: list[Section] = []
    with drawing():
        drawn = Drawn()
        if len(runs) > 1:
            sections.append(_illustrated(beside(runs), drawn, gallery.of_runs(runs, drawn)))
        for number, part in enumerate(parts, 1):
            own = gallery.of_run(part, drawn) if isinstance(part, RunPart) else gallery.of_sweep(part, drawn)
            sections.append(_illustrated(part.section(number), drawn, own))
    entries = [_entry(part, section) for part, section in zip(parts, sections[-len(parts) :], strict=True)]
    if len(parts) == 1:  # the summary has said the rest
        against = sections[0].against if len(sections[0].against) > MOST_AGAINST else ()
        sections = [replace(sections[0], title="Figures", subtitle="", verdict="", against=against)]
    page = Page(
        title=_title(parts),
        lead=parts[0].description if len(parts) == 1 else ", ".join(labels),
        parts=entries,
        headlines=list(_headlines(parts)),
        sections=sections,
        made=now_utc(),
    )
    loader = PackageLoader("analysis.report", TEMPLATES)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script, css = (_own(environment, name) for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(page=page, script=Markup(script), css=Markup(css), script_hash=digest)


def _entry(part: Part, section: Section) -> Entry:
    """A folder's place in the summary, with the first things that are said against it."""
    against = list(section.against[:MOST_AGAINST])
    if len(section.against) > MOST_AGAINST:
        against.append(f"and {len(section.against) - MOST_AGAINST} more, below")
    if part.verdict == "rejected":
        against.append("Its figures must not be used.")
    return Entry(part.label, part.asked(), part.verdict, section.anchor, against)


def _own(environment: Environment, name: str) -> str:
    """A file of ours, as it is."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _illustrated(section: Section, drawn: Drawn, pictures: Iterator[Picture]) -> Section:
    """A section with its figures, and what could not be drawn."""
    drawn.missing = []
    found = tuple(pictures)
    return replace(section, pictures=found, missing=tuple(drawn.missing))


def _labels(paths: Sequence[Path]) -> list[str]:
    """What the folders are called: by their own names where these tell them apart, else by their whole path."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _title(parts: Sequence[Part]) -> str:
    if len(parts) == 1:
        return parts[0].title
    names = {RunPart: "runs", SweepPart: "sweeps"}
    kinds = {type(part) for part in parts}
    return f"{len(parts)} {names[kinds.pop()] if len(kinds) == 1 else 'runs and sweeps'} side by side"


def _headlines(parts: Sequence[Part]) -> Iterator[Headline]:
    for part in parts:
        where = part.label if len(parts) > 1 else ""
        yield from headlines(part.summary.pairs, where) if isinstance(part, RunPart) else part.headlines(where)
