"""An agent that may shape its machine's egress does so towards one address at a time, counts, and leaves no trace of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.emulation


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, str(HERE / "shaped_interface.py")],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_traffic_to_an_address_is_shaped_and_counted_and_other_traffic_is_not(found: dict[str, Any]) -> None:
    assert found["counted"] == {"127.0.1.2": [0, 0, 0], "127.0.1.3": [0, 0, 0]}
    assert found["six_s"] >= 0.35


def test_an_outage_drops_and_ends(found: dict[str, Any]) -> None:
    assert found["outage"] is None
    assert found["dropped"] == 1
    assert found["after"]


def test_what_cannot_be_done_is_refused_in_words_and_changes_nothing(found: dict[str, Any]) -> None:
    assert found["delay"] == "shaped" or "netem" in found["delay"]
    assert "no state of a path" in found["negative"]
    assert "no state of a path" in found["nan"]
    assert "no IPv4 address" in found["address"]
    assert found["still"]
    assert "no interface 'eth7'" in found["missing"]


def test_the_interface_is_given_back_and_what_others_set_up_is_left_alone(found: dict[str, Any]) -> None:
    assert "htb" not in found["made"]
    assert found["restored"] == found["before"]
    assert "somebody set up (tbf)" in found["foreign"]
    assert "tbf" in found["kept"]
