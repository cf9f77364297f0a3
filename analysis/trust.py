"""How far figures can be trusted, as frames: `sim` against the kernel in virtual time, and its links against arithmetic.

`data/` has what the commands in `PRODUCED` left, for machines on which that kernel is not built.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from testbed.errors import RunError
from testbed.kernel import cache

DATA = Path(__file__).parent / "data"

PRODUCED = {
    "differences.csv": "testbed verify backends quickstart --set compute.tensors=sizes --out DIR",
    "links.csv": 'testbed verify links --rates "1,10,100 Mbit/s" --delays "0,5,50 ms" --sizes "1,10,100,1000 kB" --out DIR',
}
"""The command behind each file of `data`; DIR then has a file of that name."""


def kernel_here() -> bool:
    """Whether the kernel of backend `vkernel` is built on this machine."""
    return cache.installed() is not None


def differences(measure: bool) -> tuple[pd.DataFrame, str]:
    """Measured requests of the quickstart in `sim` and in `vkernel`, paired (columns as `testbed.verify.differences.paired` has
    them), and where they come from, in words. With `measure` both run now (some minutes), else they are read from `data`.

    Raises RunError where the command fails.
    """
    name = "differences.csv"
    if not measure:
        return _measured(DATA / name), f"read from analysis/data/{name}, made by: {PRODUCED[name]}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "against"
        words = ["verify", "backends", "quickstart", "--set", "compute.tensors=sizes", "--out", str(out)]
        ended = subprocess.run([sys.executable, "-m", "testbed.cli", *words], capture_output=True, text=True, check=False)
        if ended.returncode not in (0, 3):
            raise RunError(f"testbed {' '.join(words)} ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
        return _measured(out / name), f"measured now, by: {PRODUCED[name]}"


def _measured(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path)
    return frame[~frame["warmup"].astype(bool)].reset_index(drop=True)


def links() -> pd.DataFrame:
    """Messages over one link of the kernel's network, read from `data`: `start` (warm or cold connection), `rate`, `delay` and
    `size` in words, `measured_s`, `ideal_s`, and `error_percent`."""
    frame = pd.read_csv(DATA / "links.csv")
    return frame.assign(
        rate=[f"{rate / 1e6:g} Mbit/s" for rate in frame["rate_bps"]],
        delay=[f"{delay * 1e3:g} ms" for delay in frame["delay_s"]],
        size=[f"{size / 1e3:g} kB" for size in frame["size_bytes"]],
        error_percent=100 * frame["error"],
    )
