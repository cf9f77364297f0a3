"""Commands, run in this process: what they write, and their exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.cli import main


def said(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int) -> tuple[str, str]:
    """Run a command, check its exit code, and return what it wrote (output, errors)."""
    assert main([str(word) for word in words]) == code
    found = capsys.readouterr()
    assert "Traceback" not in found.err + found.out
    return found.out, found.err


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """A command that is refused as bad input; its error text."""
    out, err = said(capsys, *words, code=2)
    assert out == ""
    assert "bug" not in err
    return err
