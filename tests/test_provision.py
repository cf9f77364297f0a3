"""The set-up of an emulation machine refuses what it cannot do, and touches nothing then; images fit what is said of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "provision.sh"


def provision(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--kernel",), "unknown option --kernel"),
        (("--user",), "--user needs a name"),
        (("--user", "nobody-here"), "no user nobody-here"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: tuple[str, ...], says: str) -> None:
    done = provision(*arguments)
    assert done.returncode == 2
    assert says in done.stderr or "run it as root" in done.stderr


def test_help_names_every_option() -> None:
    done = provision("--help")
    assert done.returncode == 0
    assert {"--user", "--no-kernel"} <= {*done.stdout.split()}


def test_the_agents_image_runs_as_the_user_whom_its_secrets_are_given_to() -> None:
    text = (SCRIPT.parent.parent / "packaging" / "Containerfile.node").read_text()
    (user,) = re.findall(r"useradd .*--uid (\d+) .* d3node", text)
    assert re.findall(r"^# +as=uid=(\d+),mode=0400$", text, re.MULTILINE) == [user]
    targets = {*re.findall(r"target=(\S+),\$as", text)}
    assert targets == {*re.findall(r"(/run/d3node/\S+)", text.rpartition("CMD")[2])} != set()
