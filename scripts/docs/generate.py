"""Write all that is generated in docs/: references of scenario files and commands, the schema, the figures.

`python scripts/docs/generate.py` writes what has changed; with `--check` it only looks, and ends with 1 if
something is stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from figures import figures

from testbed.cli import reference as commands
from testbed.scenario import reference as scenarios
from testbed.scenario.json_schema import json_schema

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def texts() -> dict[str, str]:
    """Every generated file of docs/ by its path there."""
    return {
        "scenarios.md": scenarios.markdown(),
        "cli.md": commands.markdown(),
        "scenario.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        **{f"figures/{name}": text for name, text in figures().items()},
    }


def main(check: bool) -> int:
    """Write or check them."""
    stale = [name for name, text in texts().items() if not (DOCS / name).is_file() or (DOCS / name).read_text("utf-8") != text]
    if check:
        for name in stale:
            print(f"docs/{name} is stale: make docs", file=sys.stderr)
        return 1 if stale else 0
    for name, text in texts().items():
        if name in stale:
            (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
            (DOCS / name).write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
