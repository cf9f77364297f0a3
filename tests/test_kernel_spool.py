"""Spool folders: one's own is gone at the end, a dead process's is swept, and nobody else's is ever touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from testbed.kernel import spool

HOLD = """
import sys, tempfile
sys.path.insert(0, sys.argv[1])
tempfile.tempdir = sys.argv[2]
from testbed.kernel.spool import spool
with spool() as folder:
    (folder / "events").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def holder(root: Path) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", HOLD, str(Path(spool.__file__).parents[2]), str(root)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    with process:
        pass  # its input ends, and so does it


def test_a_folder_is_its_owners_alone_and_gone_with_it(root: Path) -> None:
    with spool.spool() as folder:
        assert folder.parent == root
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "events").write_text("x")
        assert list(root.iterdir()) == [folder]
    assert list(root.iterdir()) == []


def test_what_a_killed_process_left_is_swept_by_the_next_and_a_live_ones_is_not(root: Path) -> None:
    dead, left = holder(root)
    alive, kept = holder(root)
    try:
        assert (left / "events").exists()
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert left.exists()
        with spool.spool() as own:
            assert sorted(root.iterdir()) == sorted([kept, own])
            assert (kept / "events").exists()
    finally:
        end(dead)
        end(alive)
    assert list(root.iterdir()) == []


def test_a_program_that_the_owner_started_does_not_keep_the_lock(root: Path) -> None:
    held = spool.spool()
    folder = held.__enter__()
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        kept = folder.rename(root / "elsewhere")
        held.__exit__(None, None, None)
        left = kept.rename(folder)
        assert spool.sweep(root) == [left]
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_is_just_being_made_is_left_alone(root: Path) -> None:
    new, old = root / ".d3-vkernel-new", root / ".d3-vkernel-old"
    new.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    assert spool.sweep(root) == [old]
    assert new.exists()


def test_what_is_not_ones_own_folder_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (root / "d3-vkernel-link").symlink_to(elsewhere)
    (root / "d3-vkernel-file").write_text("x")
    (root / "d3-vkernel-theirs").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert spool.sweep(root) == []
    monkeypatch.undo()
    assert spool.sweep(root) == [root / "d3-vkernel-theirs"]
    assert (elsewhere / "precious").exists()
