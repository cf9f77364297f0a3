"""The process that holds an emulated network inside its namespaces: builds it, changes links, counts, starts captures and agents.

`python -m testbed.backends.emulation DESCRIPTOR` serves one Unix stream socket, in lines of JSON. The first line is an
`EmulationSpec`; the answer is {"event": "ready", ...} or {"event": "failed", "text"}. After that every line is a request with an
"id", answered by {"id", "ok": {...}} or {"id", "error": text}; agents that end are told as {"event": "died", ...} at any time.
The end of the socket ends this process, and its namespaces with it. The other side is `testbed.backends.mininet`.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from testbed.backends import idle_rtt
from testbed.backends.agents import Agents, Spawn, spawn
from testbed.backends.cpu import ShareSampler, ticks, wanted
from testbed.backends.emulated import EmulatedNetwork
from testbed.backends.netspec import EmulationSpec, Key
from testbed.backends.shaping import ClassCounters
from testbed.errors import TestbedError
from testbed.scenario.state import LinkState

Fields = dict[str, Any]
_CAPTURE_GRACE_S = 10.0


class Emulation:
    """Network, agents and captures, and the requests that reach them.

    `wall`: seconds on the wall, also where the machine's clocks are virtual.
    """

    def __init__(
        self, channel: socket.socket, start_zygote: Spawn = spawn, wall: Callable[[], float] = time.perf_counter
    ) -> None:
        self._wall = wall
        self._channel = channel
        self._start_zygote = start_zygote
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)
        self._idle = ShareSampler(ticks)
        self._switch: ShareSampler | None = None
        self._pending = b""
        self._agents: Agents | None = None
        self._captures: dict[str, subprocess.Popen[bytes]] = {}
        self._network: EmulatedNetwork
        self._before: dict[Key, ClassCounters] = {}

    def serve(self) -> None:
        """Build what the first line asks for, then answer requests until the socket ends."""
        lines = self._lines(block=True)
        try:
            self._build(EmulationSpec.from_dict(json.loads(lines[0])))
        except (TestbedError, OSError) as error:
            self._send({"event": "failed", "text": str(error)})
            return
        pid = self._network.switch_pid
        self._switch = None if pid is None else ShareSampler(partial(wanted, pid))
        samplers = [sampler for sampler in (self._idle, self._switch) if sampler is not None]
        for sampler in samplers:
            sampler.start()
        while True:
            for key, _ in self._selector.select(self._idle.due_s()):
                if key.fileobj is self._channel:
                    for line in self._lines():
                        answer = self._answer(json.loads(line))
                        self._tell_deaths()  # before the answer of who asked for one
                        self._send(answer)
                elif self._agents is not None:
                    self._agents.collect()
            self._tell_deaths()
            for sampler in samplers:
                sampler.sample()

    def _build(self, spec: EmulationSpec) -> None:
        start = self._wall()
        if spec.agents is not None:  # loading models takes longer than building the network
            self._agents = Agents(spec.agents, spec.network.congestion_control, self._start_zygote)
            self._selector.register(self._agents.channel, selectors.EVENT_READ)
        self._network = EmulatedNetwork(spec.network)
        built = self._wall()
        round_trips = idle_rtt.measure(self._network)  # before anybody else is on the links, and in no count
        self._before = self._network.counters()
        for link, path in spec.captures.items():
            self._captures[link] = self._capture(link, path)
        agents: Fields = {}
        if self._agents is not None:
            agents = self._agents.start({host: str(self._network.namespace(host)) for host in spec.agents.configs})  # type: ignore[union-attr]
        wall = {"network_s": round(built - start, 3), "agents_s": round(self._wall() - built, 3)}
        facts = {**self._network.describe(), "idle_round_trips": round_trips, "wall": wall, **agents}
        self._send({"event": "ready", "describe": facts})
        self._tell_deaths()

    def _capture(self, link: str, path: str) -> subprocess.Popen[bytes]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        ports = [self._network.port(link, "up"), self._network.port(link, "down")]
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.backends.capture", path, *ports], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise TestbedError(f"the capture of link {link!r} could not start (its words are above)")
        return process

    def _lines(self, block: bool = False) -> list[bytes]:
        while True:
            data = self._channel.recv(1 << 20)
            if not data:
                raise EOFError
            *lines, self._pending = (self._pending + data).split(b"\n")
            if lines or not block:
                return lines

    def _send(self, fields: Fields) -> None:
        self._channel.sendall(json.dumps(fields).encode() + b"\n")

    def _tell_deaths(self) -> None:
        if self._agents is not None:
            for death in self._agents.deaths():
                self._send({"event": "died", **death})

    def _answer(self, request: Fields) -> Fields:
        handlers: dict[str, Callable[[Fields], Fields]] = {
            "apply": self._apply,
            "counters": self._counters,
            "check": self._check,
            "facts": self._facts,
            "memory": self._memory,
            "namespaces": self._namespaces,
            **dict.fromkeys(("kill", "restart", "hang", "wake"), self._fault),
            "finish": self._finish,
        }
        try:
            return {"id": request["id"], "ok": handlers[request["do"]](request)}
        except (TestbedError, OSError, KeyError, StopIteration) as error:
            return {"id": request["id"], "error": str(error) or repr(error)}

    def _apply(self, request: Fields) -> Fields:
        state = LinkState(request["rate_bps"], request["delay_s"], request["loss"], request["jitter_s"])
        self._network.apply(request["link"], request["direction"], state)
        return {}

    def _counters(self, _: Fields) -> Fields:
        found = {key: counted.since(self._before[key]) for key, counted in self._network.counters().items()}
        return {
            "counters": [[link, d, c.wire_bytes, c.packets, c.drops, c.lost] for (link, d), c in found.items()],
            "backlog_bytes": sum(c.backlog_bytes for c in found.values()),
        }

    def _check(self, _: Fields) -> Fields:
        wrong = []
        for shaper in self._network.shapers.values():
            try:
                shaper.check()
            except TestbedError as error:
                wrong.append(str(error))
        return {"checked": len(self._network.shapers), "wrong": wrong}

    def _facts(self, _: Fields) -> Fields:
        busiest = {} if self._switch is None else {"switch_max": self._switch.maximum}
        return {"idle_min": self._idle.minimum, **busiest}

    def _namespaces(self, _: Fields) -> Fields:
        return {"files": {host: str(self._network.namespace(host)) for host in self._network.pids}}

    def _memory(self, _: Fields) -> Fields:
        return {} if self._agents is None else self._agents.memory()

    def _fault(self, request: Fields) -> Fields:
        if self._agents is None:
            return {}
        faults = {
            "kill": self._agents.kill,
            "restart": self._agents.restart,
            "hang": self._agents.hang,
            "wake": self._agents.wake,
        }
        return faults[request["do"]](request["host"])

    def _finish(self, _: Fields) -> Fields:
        """End the captures and answer with their reports and the last counters."""
        reports = {}
        counters = self._counters({})
        captures, self._captures = self._captures, {}
        for link, process in captures.items():
            process.send_signal(signal.SIGTERM)
            try:
                output, _errors = process.communicate(timeout=_CAPTURE_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                reports[link] = {"error": "the capture did not end"}
                continue
            words = output.splitlines()
            reports[link] = json.loads(words[-1]) if words else {"error": f"the capture ended with status {process.returncode}"}
        return {"captures": reports, **counters}


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    gone = contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError)  # the orchestrator is, and so shall we be
    with socket.socket(fileno=int(sys.argv[1])) as channel, gone:
        Emulation(channel).serve()


if __name__ == "__main__":
    main()
