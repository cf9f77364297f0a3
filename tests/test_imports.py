"""Imports point down DESIGN.md's list and never up; what planners use needs no torch; only the command line prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("d3node", "testbed", "topologies", "traces", "analysis")

ORDER = (
    "testbed.cli",
    "testbed.verify",
    "testbed.sweep",
    "testbed.report",
    "testbed.orchestrator",
    "testbed.backends",
    "testbed.hosts",
    "testbed.kernel",
    "testbed.planners",
    "testbed.costs",
    "testbed.scenario",
    "topologies",
    "traces",
    "d3node",
)
"""From top to bottom; a module may import its own layer and those below it."""

CONTRACTS = {"testbed.backends.base", "testbed.planners.base"}
"""What a plug-in implements; the registry, which every layer may ask, returns these."""

LEAVES = {"testbed", "testbed.errors", "testbed.lock", "testbed.names", "testbed.owner", "testbed.registry"}
"""Importable from anywhere in `testbed`: they know no layer (the registry knows contracts only)."""

PLACED = {"testbed.machine"}
"""What `testbed doctor` asks of this machine."""

PRINTERS = ("testbed.cli", "d3node.cli", "d3node.verify", "d3node.train", "analysis")
"""Commands; d3node.verify and d3node.train are run with `python -m`."""

TORCH_FREE = ("d3node.graph", "d3node.plan", "d3node.program", "d3node.intervals", "testbed.registry", "testbed.scenario.load")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands; those that are only for type checkers too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in MODULES else str(node.module) for name in names)
    return {name for name in found if name.split(".")[0] in PACKAGES}


def layer(module: str) -> int | None:
    for rank, name in enumerate(ORDER):
        if module == name or module.startswith(f"{name}."):
            return rank
    return None


def upward(module: str, path: Path) -> list[str]:
    own = layer(module)
    if own is None:
        return []
    wrong = []
    for target in sorted(imports(path)):
        rank = layer(target)
        if rank is not None and rank < own:
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("module", sorted(name for name in MODULES if layer(name) is not None))
def test_imports_point_down(module):
    assert not upward(module, MODULES[module])


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.split(".")[0] in ("d3node", "topologies", "traces")))
def test_what_runs_on_a_host_and_what_describes_it_never_imports_testbed(module):
    assert not [target for target in imports(MODULES[module]) if target.split(".")[0] == "testbed"]


def test_the_registry_knows_contracts_only():
    allowed = LEAVES | CONTRACTS | {"testbed.scenario.schema", "topologies.layout", "testbed.planners.function"}
    assert imports(MODULES["testbed.registry"]) <= allowed


def test_every_module_of_testbed_has_a_place_in_the_list():
    placed = PLACED | LEAVES
    assert [name for name in MODULES if name.split(".")[0] == "testbed" and layer(name) is None and name not in placed] == []


def test_every_name_in_these_lists_is_there():
    named = {*ORDER, *PLACED, *LEAVES, *CONTRACTS, *PRINTERS, *TORCH_FREE}
    assert [name for name in sorted(named) if name not in MODULES] == []


def test_an_upward_import_would_be_found(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from testbed.orchestrator import run\n    import testbed.cli\n")
    assert upward("testbed.planners.bad", bad) == ["testbed.cli", "testbed.orchestrator"]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_planning_needs_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("testbed.planners")))
def test_planners_import_neither_torch_nor_clock_nor_io(module):
    banned = {"torch", "time", "socket", "asyncio", "pathlib", "os", "subprocess"}
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    named = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not named & banned


@pytest.mark.parametrize("module", sorted(name for name in MODULES if not name.startswith(PRINTERS)))
def test_only_the_command_line_prints(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]
    assert not calls
