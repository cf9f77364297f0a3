"""Loads the models once and forks an agent per host, each in its host's network namespace, all sharing one copy of the weights.

`python -m d3node.zygote DESCRIPTOR` serves one Unix stream socket: a line of JSON is a request, a line of JSON the answer.

| request                                                      | answer                                        |
|--------------------------------------------------------------|-----------------------------------------------|
| {"do": "load", "models": {name: {source, seed, weights}},    | {"loaded": [names], "seconds": s}             |
|  "threads": n, "secret": hex, "tensors": "real"|"sizes"}      |                                               |
| {"do": "fork", "config": {AgentConfig}, "namespace": path,   | {"forked": name, "pid": n}                    |
|  "data_address", "control_address", "congestion_control",    |                                               |
|  "time_scale", "cgroup": folder | null}                       |                                               |
| {"do": "memory"}                                             | {"pss_bytes", "rss_bytes", "agents": {name..}}|
| {"do": "kill"|"stop"|"continue", "name": name}               | {"done": name}                                |
| (none: an agent ended)                                       | {"died": name, "status": n, "text": last line,|
|                                                              |  "asked": whether by a kill}                  |

A refused request is answered with {"error": text}. A death that was asked for is told before the request is answered; a signal to
an agent that has ended does nothing. The end of the socket ends the zygote, and with it (by the kernel) its agents.
Who serves requests on a host is `d3node.agent`; who makes the namespaces is the caller.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from d3node.errors import NodeError
from d3node.linux import die_with_parent, enter

if TYPE_CHECKING:
    from d3node.graph import LayerGraph
    from d3node.model import Model

Fields = dict[str, Any]
WORDS_BYTES = 2_000
"""Bytes of an agent's last words that are passed on."""
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT}


@dataclass(frozen=True)
class Child:
    """A forked agent; `errors` is an unlinked file with what it wrote to standard error."""

    name: str
    pid: int
    watch: int
    errors: int


class Zygote:
    """The process that holds the models. One thread, so that forking is safe."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._models: dict[str, Model | LayerGraph] = {}
        self._secret = b""
        self._children: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)

    def serve(self) -> None:
        """Answer requests until the socket ends."""
        pending = b""
        while True:
            for key, _ in self._selector.select():
                if isinstance(key.data, Child):
                    if self._children.get(key.data.name) is key.data:
                        self._bury(key.data)
                    continue
                data = self._channel.recv(1 << 16)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._send(self._answer(json.loads(line)))

    def _send(self, fields: Fields) -> None:
        self._channel.sendall(json.dumps(fields).encode() + b"\n")

    def _answer(self, request: Fields) -> Fields:
        try:
            if request["do"] == "load":
                return self._load(request)
            if request["do"] == "fork":
                return self._fork(request)
            if request["do"] == "memory":
                return self._memory()
            if request["do"] in _SIGNALS:
                return self._signal(request["name"], _SIGNALS[request["do"]])
            return {"error": f"unknown request {request['do']!r}"}
        except (NodeError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _load(self, request: Fields) -> Fields:
        """Load every model: with weights, or (without torch) its graph. Threads are set first, so that no thread pool exists
        when agents are forked."""
        start = time.perf_counter()
        from d3node.model import ModelSpec, load_graph, load_model

        if request["tensors"] == "real":
            import torch

            torch.set_num_threads(int(request["threads"]))
        load = load_model if request["tensors"] == "real" else load_graph
        self._secret = bytes.fromhex(request["secret"])
        self._models = {name: load(ModelSpec(**spec)) for name, spec in request["models"].items()}
        import d3node.agent  # before the fork: shared, and no agent waits for it

        assert d3node.agent
        gc.collect()
        gc.freeze()  # the collector would write into shared pages
        return {"loaded": list(self._models), "seconds": time.perf_counter() - start}

    def _fork(self, request: Fields) -> Fields:
        """Fork an agent and wait until it listens."""
        name = request["config"]["name"]
        if name in self._children:
            raise ValueError(f"agent {name!r} runs already")
        errors = os.memfd_create(f"{name}.errors")
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._agent(request, errors, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            listens = pipe.read(1)
        child = Child(name, pid, os.pidfd_open(pid), errors)
        if not listens:
            return {"error": f"agent {name!r} did not start: {self._last_words(child)[1]}"}
        self._children[name] = child
        self._selector.register(child.watch, selectors.EVENT_READ, child)
        return {"forked": name, "pid": pid}

    def _agent(self, request: Fields, errors: int, ready: int) -> NoReturn:
        status = 1
        try:
            die_with_parent()
            os.dup2(errors, 2)
            if request.get("cgroup"):
                Path(request["cgroup"], "cgroup.procs").write_text("0")  # oneself; threads that are to come are in it, too
            self._selector.close()
            self._channel.close()
            enter(request["namespace"])
            _run_agent(request, self._models, self._secret, ready)
            status = 0
        except NodeError as error:
            os.write(errors, f"{type(error).__name__}: {error}".encode())
        except BaseException:
            os.write(errors, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def _signal(self, name: str, number: signal.Signals) -> Fields:
        child = self._children.get(name)
        if child is not None:
            os.kill(child.pid, number)
            if number == signal.SIGKILL:
                self._bury(child, asked=True)
        return {"done": name}

    def _bury(self, child: Child, asked: bool = False) -> None:
        """Wait for an agent that ends, and tell of it."""
        self._selector.unregister(child.watch)
        del self._children[child.name]
        status, text = self._last_words(child)
        self._send({"died": child.name, "status": status, "text": text, "asked": asked and status == -signal.SIGKILL})

    @staticmethod
    def _last_words(child: Child) -> tuple[int, str]:
        """Wait for an agent that ends, and give its status and the end of what it wrote."""
        _, status = os.waitpid(child.pid, 0)
        size = os.fstat(child.errors).st_size
        text = os.pread(child.errors, WORDS_BYTES, max(0, size - WORDS_BYTES)).decode(errors="replace").strip()
        os.close(child.watch)
        os.close(child.errors)
        return os.waitstatus_to_exitcode(status), text

    def _memory(self) -> Fields:
        """Memory of the zygote and its agents together. Shared pages count once in PSS and once per process in RSS."""
        found = {name: memory(child.pid) for name, child in self._children.items()}
        found["zygote"] = memory(os.getpid())
        return {
            "pss_bytes": sum(entry["pss_bytes"] for entry in found.values()),
            "rss_bytes": sum(entry["rss_bytes"] for entry in found.values()),
            "agents": found,
        }


def memory(pid: int) -> dict[str, int]:
    """Proportional and resident set size of a process in bytes. Raises OSError if it is gone."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in ("Pss", "Rss"):
            found[f"{name.lower()}_bytes"] = int(value.split()[0]) * 1024
    return found


def _run_agent(request: Fields, models: dict[str, Model | LayerGraph], secret: bytes, ready: int) -> None:
    from d3node.agent import AgentConfig, serve
    from d3node.clock import ScaledLoop, run
    from d3node.tcp import TcpTransport

    def listens(_data: str, _control: str) -> None:
        os.write(ready, b"r")
        os.close(ready)

    config = AgentConfig(**request["config"])
    sizes = config.tensors == "sizes"
    data = TcpTransport(secret, congestion_control=request["congestion_control"], sizes=sizes)
    control = TcpTransport(secret, sizes=sizes)
    where = request["data_address"], request["control_address"]
    main = serve(config, models, data, where[0], control, where[1], ready=listens)
    run(ScaledLoop(float(request["time_scale"])), main)


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the orchestrator, which then ends us in order
    with socket.socket(fileno=int(sys.argv[1])) as channel, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Zygote(channel).serve()


if __name__ == "__main__":
    main()
