"""A job of the time-travel kernel that carries out other jobs, one after the other, each in a process of its own.

Imports are made once, before any of these processes is forked; what a job leaves in memory is gone with its process. Jobs come
through the guest's inbox: {call, arguments, folder}. The end of each is told by an event "served" {number, and result or
error, text, trace}. The other end is `testbed.backends.vkernel`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from d3node.linux import die_with_parent
from testbed.backends import vkernel_guest
from testbed.kernel import inside

Emit = Callable[..., None]
Fields = dict[str, Any]

_LOOK_S = 1.0
"""Virtual seconds between two looks for the next job; the host stops the guest where there is none."""


def serve(emit: Emit, tensors: str) -> NoReturn:
    """Carry out jobs as they come. Never returns: the host switches the guest off."""
    number = 0
    while True:
        given = _next(Path(os.environ["D3_INBOX"], f"{number}.json"))
        importlib.import_module(given["call"].partition(":")[0])
        if number == 0:
            emit("loading")
            vkernel_guest.preload(tensors)
            emit("loaded")
        emit("served", number=number, **_one(emit, given))
        number += 1


def _next(path: Path) -> Fields:
    while not path.exists():
        time.sleep(_LOOK_S)
    found: Fields = json.loads(path.read_text(encoding="utf-8"))
    return found


def _one(emit: Emit, given: Fields) -> Fields:
    """Carry a job out in a process of its own; how it ended. An interrupt is passed on to it, and raised when it has ended."""
    inside.make_writable(given["folder"])
    answer = Path("/dev/shm/served")
    answer.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _job(emit, given, answer)
    try:
        _, status = os.waitpid(child, 0)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGINT)
        os.waitpid(child, 0)
        raise
    finally:
        inside.make_read_only(given["folder"])
    if status == 0:
        found: Fields = json.loads(answer.read_text(encoding="utf-8"))
        return found
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return {"error": "RunError", "text": f"the job's process {how}", "trace": ""}


def _job(emit: Emit, given: Fields, answer: Path) -> NoReturn:
    status = 1
    try:
        die_with_parent()
        module, _, name = given["call"].partition(":")
        try:
            result = getattr(importlib.import_module(module), name)(emit, **given["arguments"])
            ending = {"result": result}
        except BaseException as error:
            ending = {"error": type(error).__name__, "text": str(error), "trace": traceback.format_exc()}
        answer.write_text(json.dumps(ending), encoding="utf-8")
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
