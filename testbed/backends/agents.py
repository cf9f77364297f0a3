"""Starts the agents of an emulated network through the zygote, and notices the ones that die.

Runs inside the namespaces; the zygote itself is `d3node.zygote`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from testbed.backends.netspec import AgentsSpec
from testbed.errors import AgentError

Fields = dict[str, Any]


class Process(Protocol):
    """What is needed of the zygote's process."""

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        ...


Spawn = Callable[[socket.socket], Process]
"""Starts a zygote that serves the given end of a socket pair."""


def spawn(theirs: socket.socket) -> Process:
    """A zygote in a fresh interpreter."""
    command = [sys.executable, "-m", "d3node.zygote", str(theirs.fileno())]
    return subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)


class Agents:
    """The zygote and its children. The constructor begins to load the models; `start` waits for them and forks the agents."""

    def __init__(self, spec: AgentsSpec, congestion_control: str, start_zygote: Spawn = spawn) -> None:
        self._spec = spec
        self._cgroups = {} if spec.cgroups is None else dict.fromkeys(spec.limited, f"/proc/{os.getpid()}/fd/{spec.cgroups}")
        self._congestion_control = congestion_control
        self._namespaces: Mapping[str, str] = {}
        self._pending = b""
        self._answers: list[Fields] = []
        self._deaths: list[Fields] = []
        self.channel, theirs = socket.socketpair()
        with theirs:
            self._process = start_zygote(theirs)
        loaded = {"models": spec.models, "threads": spec.threads, "secret": spec.secret, "tensors": spec.tensors}
        self._send({"do": "load", **loaded})

    def start(self, namespaces: Mapping[str, str]) -> Fields:
        """Fork an agent per host into its network namespace; facts for the manifest. Raises AgentError."""
        loaded = self._receive()
        for address in self._spec.control.values():
            Path(address.removeprefix("unix:")).parent.mkdir(parents=True, exist_ok=True)
        self._namespaces = namespaces
        for host in self._spec.configs:
            self._fork(host)
        return {"models_load_s": loaded["seconds"]}

    def memory(self) -> Fields:
        """Bytes of memory of all agents (PSS counts shared weights once)."""
        return self._ask({"do": "memory"})

    def kill(self, host: str) -> Fields:
        """Kill an agent as a crash would; it is among the `deaths` afterwards."""
        return self._ask({"do": "kill", "name": host})

    def restart(self, host: str) -> Fields:
        """Fork an agent anew, and end the one that is there. Raises AgentError."""
        self.kill(host)
        return self._fork(host)

    def hang(self, host: str) -> Fields:
        """Stop an agent with SIGSTOP."""
        return self._ask({"do": "stop", "name": host})

    def wake(self, host: str) -> Fields:
        """Let a stopped agent go on."""
        return self._ask({"do": "continue", "name": host})

    def deaths(self) -> list[Fields]:
        """Agents that ended since the last call: name, status, last words, whether it was asked for."""
        found, self._deaths = self._deaths, []
        return found

    def collect(self) -> None:
        """Take in what the zygote says; call when its socket is readable."""
        data = self.channel.recv(1 << 16)
        if not data:
            raise AgentError(f"the process that holds the models ended with status {self._process.wait()}")
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            fields = json.loads(line)
            (self._deaths if "died" in fields else self._answers).append(fields)

    def _fork(self, host: str) -> Fields:
        return self._ask(
            {
                "do": "fork",
                "config": self._spec.configs[host],
                "namespace": self._namespaces[host],
                "data_address": self._spec.data[host],
                "control_address": self._spec.control[host],
                "congestion_control": self._congestion_control,
                "time_scale": self._spec.time_scale,
                "cgroup": f"{self._cgroups[host]}/{host}" if host in self._cgroups else None,
            }
        )

    def _send(self, fields: Fields) -> None:
        self.channel.sendall(json.dumps(fields).encode() + b"\n")

    def _ask(self, fields: Fields) -> Fields:
        self._send(fields)
        return self._receive()

    def _receive(self) -> Fields:
        while not self._answers:
            self.collect()
        answer = self._answers.pop(0)
        if "error" in answer:
            raise AgentError(f"agents cannot be started: {answer['error']}")
        return answer
