"""How far a run has come, on record in its folder, for a process that goes on with it when the one that began it has died.

`checkpoints.jsonl` has a line for the run, and one for every session that is over: how long the other files were then. Where
agents outlive the orchestrator, what a session has submitted is recorded between them (`takeover.py`). Whoever writes to the
folder holds the file's lock.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from testbed.errors import InputError
from testbed.lock import locked
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.results import plain, writing

FILE = "checkpoints.jsonl"


def hold(folder: Path) -> IO[str]:
    """The folder's file of checkpoints, locked until it is closed. Raises InputError where a living process runs the run."""
    refusal = f"{folder}: a process that is alive is carrying out this run; wait for it, or end it and try again"
    try:
        return locked(folder / FILE, refusal)
    except OSError as error:
        raise InputError(f"the run folder {folder} cannot be used: {error.strerror or error}") from error


class Checkpoints:
    """The checkpoints of one run folder, to be read and added to. `records` are those of earlier processes.

    Raises InputError for a folder that another process writes to, or whose checkpoints cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._file = hold(folder)
        try:
            self.records = _mended(self.path)
        except BaseException:
            self._file.close()
            raise
        self._begin = next((record for record in self.records if record["what"] == "run"), None)

    def begin(self, sizes: Mapping[str, int]) -> None:
        """The run begins: its files have no rows yet."""
        self._begin = {"what": "run", "run": uuid.uuid4().hex, "boot": boot(), "sizes": sizes}
        self.add(self._begin)

    @property
    def begun(self) -> bool:
        """Whether the run's own line is there."""
        return self._begin is not None

    @property
    def run(self) -> str:
        """What tells this run from all others."""
        return str(self._run()["run"])

    @property
    def same_boot(self) -> bool:
        """Whether this machine is up since the run began: else what was not synced to the disk may be lost."""
        return self._run()["boot"] is not None and self._run()["boot"] == boot()

    @property
    def over(self) -> list[dict[str, Any]]:
        """The sessions that are over, in their order."""
        return [record for record in self.records if record["what"] == "session"]

    @property
    def facts(self) -> list[PairFacts]:
        """What is known of the sessions that are over."""
        return [PairFacts(**record["facts"]) for record in self.over]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the other files when the last session was over."""
        return dict((self.over or [self._run()])[-1]["sizes"])

    @property
    def used_epochs(self) -> int:
        """The highest number of a plan that any process has used in this run."""
        return max((int(record["epoch"]) for record in self.records if "epoch" in record), default=0)

    @property
    def since(self) -> list[dict[str, Any]]:
        """What was recorded of the session under way, since it was begun (again)."""
        begins = ("run", "session", "again")
        last = max((place for place, record in enumerate(self.records) if record["what"] in begins), default=-1)
        return self.records[last + 1 :]

    def session(self, facts: PairFacts, epoch: int, sizes: Mapping[str, int]) -> None:
        """A session is over, and all that it has written is on the disk; `epoch` is the last plan's number so far."""
        self.add({"what": "session", "epoch": epoch, "sizes": sizes, "facts": asdict(facts)})

    def add(self, record: Mapping[str, Any], sync: bool = True) -> None:
        """Append a record; it is with the operating system when this returns, and with `sync` on the disk."""
        with writing(self.path):
            self._file.write(json.dumps(plain(record), ensure_ascii=False) + "\n")
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, and let others go on."""
        with suppress(OSError):
            self._file.close()

    def _run(self) -> dict[str, Any]:
        assert self._begin is not None, "begin() comes first"
        return self._begin


def boot() -> str | None:
    """What tells this start of the machine from all others; None where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def mend(path: Path) -> None:
    """Take a last line away that an abrupt end cut short."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def _mended(path: Path) -> list[dict[str, Any]]:
    try:
        mend(path)
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if any(not isinstance(record, dict) or "what" not in record for record in found):
        raise InputError(f"{path}: not the checkpoints of a run; were they written by another version?")
    return found
