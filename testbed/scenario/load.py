"""Scenario files (TOML), manifests of runs and `--set` overrides to a validated `Scenario`; mistakes are named with file and key.

What a layout makes of `[links]` and `[hosts]` is in `links.py`; whether planners and models exist is for those who import them.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from testbed.errors import ScenarioError
from testbed.names import IN_FILE, nearest, suggestion
from testbed.scenario.schema import Scenario
from testbed.scenario.table import Table, key_of
from testbed.scenario.units import Si

KeyPath = tuple[str, ...]
MANIFEST = "manifest.json"


def shipped() -> dict[str, Path]:
    """Scenario files that come with the package, by name."""
    return {Path(str(item)).stem: Path(str(item)) for item in files("topologies").iterdir() if item.name.endswith(".toml")}


def find(name: str | Path) -> Path:
    """The file for a path (a run folder's is its manifest), or for the name of a shipped scenario. Raises ScenarioError."""
    path = Path(name)
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return path / MANIFEST
        raise ScenarioError(f"{path} is a folder without a run; give a scenario file (.toml), or a run folder to repeat")
    if path.is_file():
        return path
    known = shipped()
    if str(name) in known:
        return known[str(name)]
    raise ScenarioError(f"no scenario file {str(name)!r}, and no shipped scenario of that name{suggestion(str(name), known)}")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Scenario:
    """Read a scenario file (or a shipped one by name, or what a run's manifest says) and apply `key.path=value` overrides,
    later ones last.

    `directory` is set to the file's folder; a manifest knows its own. Raises ScenarioError.
    """
    file = find(path)
    manifest = manifest_of(file)
    if manifest is not None:
        return build(_recorded(manifest["scenario"], file), overrides, file=file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: cannot be read: {error}") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{file}: not valid TOML: {error}") from error
    return build(raw, overrides, file=file, text=text)


def manifest_of(name: str | Path) -> dict[str, Any] | None:
    """The manifest that a scenario is read from, if it is a run folder or a manifest. Raises ScenarioError."""
    file = find(name)
    if file.suffix != ".json":
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"), parse_float=Si)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{file}: not a manifest: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("scenario"), dict):
        raise ScenarioError(f"{file}: not the manifest of a run: it has no scenario")
    return found


def build(raw: dict[str, Any], overrides: Sequence[str] = (), *, file: Path | None = None, text: str = "") -> Scenario:
    """Validate a scenario given as plain data (from a file, or made up by a program). Raises ScenarioError."""
    if file is not None:
        raw.setdefault("name", file.stem)
        raw.setdefault("directory", str(file.resolve().parent))
    given: dict[KeyPath, str] = {}
    for override in overrides:
        key, value = parse_override(override)
        _put(raw, key, value, override)
        given[key] = override
    try:
        return _located(Scenario.model_validate(raw))
    except ValidationError as error:
        problems = [_sentence(item, _origin(item, given, file, text)) for item in error.errors(include_url=False)]
        raise ScenarioError("\n".join(dict.fromkeys(problems))) from None


def _recorded(raw: dict[str, Any], manifest: Path) -> dict[str, Any]:
    """A manifest's scenario; files that it names lie where they lay, or beside a manifest that came from another machine."""
    directory = raw.get("directory")
    here = isinstance(directory, str) and Path(directory).is_dir()
    return raw if here else {**raw, "directory": str(manifest.resolve().parent)}


def _located(scenario: Scenario) -> Scenario:
    """Files of models, weights, planners, topology made absolute, so that nobody else has to know what they are relative to."""
    model, planning, topology = scenario.model, scenario.planning, scenario.topology
    names = tuple(_in_file(scenario, "model.names", name) for name in model.names)
    weights = {
        _in_file(scenario, "model.weights", name): _file(scenario, f"model.weights.{name}", path)
        for name, path in model.weights.items()
    }
    planners = tuple(_in_file(scenario, "planning.planners", name) for name in planning.planners)
    layout = _in_file(scenario, "topology.name", topology.name)
    if (names, weights, planners, layout) == (model.names, model.weights, planning.planners, topology.name):
        return scenario
    return scenario.model_copy(
        update={
            "model": model.model_copy(update={"names": names, "weights": weights}),
            "planning": planning.model_copy(update={"planners": planners}),
            "topology": topology.model_copy(update={"name": layout}),
        }
    )


def _in_file(scenario: Scenario, key: str, name: str) -> str:
    """A name, where it is a `.pt2` file or "file.py:NAME" with that file's place."""
    if name.endswith(".pt2"):
        return _file(scenario, key, name)
    if IN_FILE not in name:
        return name
    file, _, attribute = name.rpartition(":")
    return f"{_file(scenario, key, file)}:{attribute}"


def _file(scenario: Scenario, key: str, name: str) -> str:
    path = Path(scenario.directory, name)
    if not path.is_file():
        raise ScenarioError(f"{key}: no such file: {path}")
    return str(path)


def parse_override(text: str) -> tuple[KeyPath, Any]:
    """Key path and value of `key.path=value`: TOML syntax, where a value that is no TOML is taken as a string.

    Raises ScenarioError.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ScenarioError(f"--set {text}: expected key.path=value, such as links.backbone.delay=20 ms")
    try:
        path = _only_path(tomllib.loads(f"{key} = 0"))
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"--set {text}: {key.strip()!r} is not a key: {error}") from error
    value = value.strip()
    try:
        return path, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        if value[:1] in ("[", "{", '"', "'"):
            raise ScenarioError(f"--set {text}: {value!r} is not a TOML value: {error}") from error
        return path, value


def _only_path(table: dict[str, Any]) -> KeyPath:
    path: list[str] = []
    while isinstance(table, dict):
        ((key, table),) = table.items()
        path.append(key)
    return tuple(path)


def _put(raw: dict[str, Any], path: KeyPath, value: Any, override: str) -> None:
    table = raw
    for done, key in enumerate(path[:-1], 1):
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ScenarioError(f"--set {override}: {'.'.join(path[:done])} is a value, not a table")
        table = inner
    table[path[-1]] = value


def _origin(item: ErrorDetails, given: dict[KeyPath, str], file: Path | None, text: str) -> str:
    """Where the offending value was written: an override, or file and line."""
    path = tuple(str(part) for part in item["loc"])
    for key, override in reversed(given.items()):
        if path[: len(key)] == key:
            return f"--set {override}"
    if file is None:
        return "scenario"
    line = line_of(text, path)
    return str(file) if line is None else f"{file}:{line}"


def line_of(text: str, path: KeyPath) -> int | None:
    """Line (from 1) of a TOML text on which a key stands, or else its innermost table that is written there."""
    best: tuple[int, int] | None = None
    table: KeyPath = ()
    seen: Counter[KeyPath] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        here = line.split("#", 1)[0].strip()
        try:
            if here.startswith("[["):
                name = _header(here)
                table = found = (*name, str(seen[name]))
                seen[name] += 1
            elif here.startswith("["):
                table = found = _header(here)
            elif "=" in here:
                found = (*table, *_only_path(tomllib.loads(f"{here.split('=', 1)[0]} = 0")))
            else:
                continue
        except (tomllib.TOMLDecodeError, ValueError):
            continue
        if path[: len(found)] == found and (best is None or len(found) > best[0]):
            best = (len(found), number)
    return None if best is None else best[1]


def _header(line: str) -> KeyPath:
    return _only_path(tomllib.loads(f"{line.strip('[] ')} = 0"))


def _sentence(item: ErrorDetails, origin: str) -> str:
    path = tuple(str(part) for part in item["loc"])
    key, kind = ".".join(path), item["type"]
    if kind == "extra_forbidden":
        table, known = ".".join(path[:-1]), _keys_of(path[:-1])
        close = nearest(path[-1], known)
        where = f"in [{table}]" if table else "at the top level"
        hint = f'; did you mean "{close}"?' if close else "."
        return f'{origin}: unknown key "{path[-1]}" {where}{hint} Known keys: {", ".join(known)}'
    if kind == "missing":
        return f"{origin}: {key} is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if message[:6] == "Input " else message
    got = "" if kind == "value_error" or isinstance(item["input"], dict) else f" (got {item['input']!r})"
    return f"{origin}: {key}: {message}{got}"


def _keys_of(path: KeyPath) -> list[str]:
    """Keys that the schema knows in a table."""
    model: type[BaseModel] = Scenario
    parts = list(path)
    while parts:
        annotation = model.model_fields[parts.pop(0)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Table)):
            annotation = next(a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, Table))
            parts = parts[1:]  # a dict of tables, or a list: the next part is its key
        model = annotation
    return sorted({key_of(name, field) for name, field in model.model_fields.items()} - {"directory"})
