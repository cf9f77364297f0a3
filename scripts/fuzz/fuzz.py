"""`make fuzz [INPUTS=...]`: coverage-guided fuzzing of handshake, frames and channels with atheris (libFuzzer).

Every target runs in a process of its own, one after the other, and a table says how many inputs it took, how long that was, and
how much memory the process had at most. With a target's name (and options of libFuzzer) instead of a number only that one runs.
Inputs that break a promise are left in build/fuzz/TARGET/ and end the run with exit code 1.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

OUT = Path("build/fuzz")
SHARES = {"handshake": 0.4, "frames": 0.3, "headers": 0.2, "channels": 0.1}
MEMORY_MB = 1024
"""Above it libFuzzer ends the run: inputs must not make the process grow."""


def one_target(name: str, options: list[str]) -> None:
    """Fuzz until libFuzzer ends the process."""
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=["d3node"]):
        import targets
    folder = OUT / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.seeds()[name]):
        (folder / "corpus" / f"seed-{number}").write_bytes(seed)
    given = [f"-rss_limit_mb={MEMORY_MB}", "-timeout=10", "-max_len=8192", f"-artifact_prefix={folder}/", *options]
    atheris.Setup([sys.argv[0], *given, str(folder / "corpus")], targets.TARGETS[name])
    atheris.Fuzz()


def all_targets(inputs_in_all: int) -> int:
    """Fuzz one target after the other; the exit code."""
    from targets import TARGETS

    failed = total = 0
    print(f"{'target':<12}{'inputs':>12}{'seconds':>10}{'coverage':>10}{'MB at most':>12}")
    for name in TARGETS:
        runs = int(SHARES[name] * inputs_in_all)
        started = time.monotonic()
        command = [sys.executable, __file__, name, f"-runs={runs}", "-seed=1", "-print_final_stats=1"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        seconds = time.monotonic() - started
        figures = {key: int(value) for key, value in re.findall(r"stat::(\w+):\s+(\d+)", done.stderr)}
        coverage = re.findall(r"cov: (\d+)", done.stderr)
        inputs = figures.get("number_of_executed_units", 0)
        total += inputs
        print(
            f"{name:<12}{inputs:>12,}{seconds:>10.0f}{coverage[-1] if coverage else '?':>10}{figures.get('peak_rss_mb', 0):>12}"
        )
        if done.returncode:
            failed += 1
            print(done.stderr[-3000:], file=sys.stderr)
            print(f"{name}: broke a promise; its input is in {OUT / name}/", file=sys.stderr)
    print(f"{'together':<12}{total:>12,}")
    return 1 if failed else 0


def main() -> int:
    """Exit code 0: no promise was broken; 1: one was; 2: atheris is missing."""
    sys.path[:0] = [str(Path(__file__).parent), os.getcwd()]
    if len(sys.argv) > 1 and not sys.argv[1].isdigit():
        one_target(sys.argv[1], sys.argv[2:])
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("fuzzing needs atheris: pip install 'd3-testbed[fuzz]' (CPython on Linux and macOS)", file=sys.stderr)
        return 2
    return all_targets(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)


if __name__ == "__main__":
    raise SystemExit(main())
