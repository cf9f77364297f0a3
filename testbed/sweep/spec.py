"""Sweep files (TOML): a base scenario and the axes that span the cells; mistakes are named with file and key.

Whether the values make valid scenarios is `plan.py`'s business.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from testbed.errors import ScenarioError
from testbed.names import nearest, suggestion
from testbed.scenario.load import line_of

Value = str | int | float | bool
"""A value of a scenario key, as TOML and JSON both have it."""

OWN_AXES = {"model.names": "axes.models", "planning.planners": "axes.planners", "seed": "axes.seeds"}
"""Scenario keys that have an axis of their own."""


def _seeds(given: object) -> object:
    """A number n stands for the seeds 1 to n."""
    return list(range(1, given + 1)) if isinstance(given, int) and not isinstance(given, bool) else given


def _links(given: object) -> object:
    """A bare list of traces is the backbone's."""
    return {"backbone": given} if isinstance(given, list) else given


def _scalar(given: object) -> object:
    if isinstance(given, bool | int | float | str):
        return given
    raise ValueError("a value of an axis is a string, a number, true or false")


Scalar = Annotated[Any, BeforeValidator(_scalar)]
"""A `Value`, unconverted."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Axes(_Table):
    """`[axes]`: what varies. An axis that is left out stays as the base scenario has it.

    `traces`: traces of the backbone, or a table of link role or name to traces; `parameters`: key path of the scenario to values.
    """

    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    planners: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    traces: Annotated[
        dict[str, Annotated[tuple[str, ...], Field(min_length=1)]],
        BeforeValidator(_links),
    ] = Field(default_factory=dict)
    parameters: dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1)]] = Field(default_factory=dict)
    seeds: Annotated[tuple[int, ...], Field(min_length=1), BeforeValidator(_seeds)] | None = None

    @field_validator("models", "planners", "seeds")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        _once(values or ())
        return values

    @field_validator("traces", "parameters")
    @classmethod
    def _each_axis_once(cls, axes: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in axes.items():
            if key in OWN_AXES:
                raise ValueError(f'"{key}" has an axis of its own: give {OWN_AXES[key]}')
            _once(values, f'"{key}": ')
        return axes


class Spec(_Table):
    """A sweep file. `set` holds overrides of the base scenario that hold in every cell (key path -> value)."""

    name: str
    description: str = ""
    scenario: str
    backend: str = "sim"
    set: dict[str, Any] = Field(default_factory=dict)
    axes: Axes = Axes()
    directory: str = "."

    def base(self) -> str:
        """The base scenario: a file relative to the sweep file, or the name of a shipped one."""
        beside = Path(self.directory, self.scenario)
        return str(beside) if beside.exists() else self.scenario


def shipped() -> dict[str, Path]:
    """Sweep files that come with the package, by name."""
    folder = files("topologies") / "sweeps"
    return {Path(str(item)).stem: Path(str(item)) for item in folder.iterdir() if item.name.endswith(".toml")}


def read(name: str | Path) -> Spec:
    """A sweep file, or a shipped one by name. Raises ScenarioError."""
    file = Path(name)
    if not file.is_file():
        if str(name) not in shipped():
            hint = suggestion(str(name), shipped())
            raise ScenarioError(f"no sweep file {str(name)!r}, and no shipped sweep of that name{hint}")
        file = shipped()[str(name)]
    try:
        text = file.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{file}: not valid TOML: {error}") from error
    raw.setdefault("name", file.stem)
    if "directory" in raw:
        raise ScenarioError(f'{file}: unknown key "directory" at the top level')
    raw["directory"] = str(file.resolve().parent)
    try:
        return Spec.model_validate(raw)
    except ValidationError as error:
        raise ScenarioError("\n".join(dict.fromkeys(_sentence(item, file, text) for item in error.errors()))) from None


def _once(values: tuple[Any, ...], where: str = "") -> None:
    seen: list[Any] = []
    for value in values:
        if any(value == other and type(value) is type(other) for other in seen):
            raise ValueError(f"{where}{value!r} stands there twice")
        seen.append(value)


def _sentence(item: Any, file: Path, text: str) -> str:
    path = tuple(str(part) for part in item["loc"])
    line = line_of(text, path)
    origin = str(file) if line is None else f"{file}:{line}"
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        model = Axes if path[0] == "axes" else Spec
        known = sorted(set(model.model_fields) - {"directory"})
        close = nearest(path[-1], known)
        hint = f'; did you mean "{close}"?' if close else "."
        return f'{origin}: unknown key "{key}"{hint} Known keys: {", ".join(known)}'
    if item["type"] == "missing":
        return f"{origin}: {key} is missing"
    if item["type"] == "too_short":
        return f"{origin}: {key}: an empty axis spans no cell; give it a value, or leave it out"
    return f"{origin}: {key}: {item['msg'].removeprefix('Value error, ')}"
