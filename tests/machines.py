"""Machines for tests of the hosts backend: agents as processes of their own on addresses 127.0.1.x, over real TCP and TLS.

`python tests/machines.py OFFSET serve ...` is `d3node serve` on a machine whose clock is so many seconds ahead of this one's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed.hosts import certificates, skeleton

HERE = Path(__file__).resolve().parent
SMALL = "agent_models:small?input=1x3x64x64"
NUMBERS = {"d1": 1, "e1": 2, "e2": 3, "c1": 4, "d2": 5}
TIERS = {"d1": "device", "e1": "edge", "e2": "edge", "c1": "cloud", "d2": "device"}


class Machines:
    """Agents by host; `testbed.backends.hosts.Operator`. `offsets`: how far their clocks are ahead; `net`: of addresses
    127.0.NET.x; `options`: more of `d3node serve` by host."""

    def __init__(
        self,
        folder: Path,
        net: int,
        offsets: Mapping[str, float] | None = None,
        options: Mapping[str, Sequence[str]] | None = None,
        tls: bool = True,
        hosts: Sequence[str] = ("d1", "e1", "e2", "c1"),
        model: str = SMALL,
    ) -> None:
        self.folder = folder
        self._net = net
        self._offsets = offsets or {}
        self.options = {host: list(words) for host, words in (options or {}).items()}
        self.environment: dict[str, dict[str, str]] = {}
        self._tls = tls
        self.hosts = hosts
        self._model = model
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.said: dict[str, list[str]] = {}
        self._readers: dict[str, threading.Thread] = {}
        certificates.init(folder, {name: [self.address(name)] for name in hosts})
        text = skeleton.inventory([skeleton.Named(name, TIERS[name], (self.address(name),)) for name in hosts])
        if not tls:
            text = "\n".join(line for line in text.splitlines() if line.split(" ")[0] not in ("ca", "certificate", "key"))
        self.inventory = folder / "inventory.toml"
        self.inventory.write_text(text)

    def address(self, host: str) -> str:
        return f"127.0.{self._net}.{NUMBERS[host]}"

    def start(self, host: str) -> None:
        self.begin(host)
        self.ready(host)

    def begin(self, host: str) -> None:
        """Start an agent anew; `ready` waits for it."""
        self.kill(host)
        given = {
            "name": host,
            "tier": TIERS[host],
            "listen": f"{self.address(host)}:5700",
            "control": f"{self.address(host)}:5701",
            "secret-file": self.folder / "secret",
            "model": self._model,
        }
        if self._tls:
            given |= {"tls-ca": self.folder / "ca.pem"}
            given |= {"tls-certificate": self.folder / f"{host}.pem", "tls-key": self.folder / f"{host}.key"}
        more = self.options.get(host, [])
        words = [word for key, value in given.items() if f"--{key}" not in more for word in (f"--{key}", str(value))]
        command = [sys.executable, str(HERE / "machines.py"), str(self._offsets.get(host, 0.0)), "serve", *words, *more]
        own = self.environment.get(host, {})
        environment = {**os.environ, **own, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        self.processes[host], self.said[host] = process, []

    def ready(self, host: str) -> None:
        """Wait until an agent listens."""
        stdout = self.processes[host].stdout
        assert stdout is not None
        for line in stdout:
            self.said[host].append(line)
            if " serves " in line:
                break
        else:
            raise AssertionError(f"{host} did not start: {''.join(self.said[host])}")
        self._readers[host] = threading.Thread(target=self.said[host].extend, args=(stdout,))  # so that we never hold it up
        self._readers[host].start()

    def kill(self, host: str) -> None:
        if (process := self.processes.pop(host, None)) is not None:
            process.kill()
            process.wait()
            if (reader := self._readers.pop(host, None)) is not None:
                reader.join()
            if process.stdout is not None:
                process.stdout.close()

    @contextmanager
    def different(self, **changes: tuple[Sequence[str], Mapping[str, str]]) -> Iterator[None]:
        """Some agents started with other options and in another environment, for the length of the block."""
        for host, (options, environment) in changes.items():
            self.options[host], self.environment[host] = list(options), dict(environment)
        self.start_all(changes)
        try:
            yield
        finally:
            for host in changes:
                del self.options[host], self.environment[host]
            self.start_all(changes)

    def start_all(self, hosts: Iterable[str]) -> None:
        """Start agents anew, all at once."""
        for host in hosts:
            self.begin(host)
        for host in hosts:
            self.ready(host)

    def hang(self, host: str) -> None:
        if host in self.processes:
            self.processes[host].send_signal(signal.SIGSTOP)

    def wake(self, host: str) -> None:
        if host in self.processes:
            self.processes[host].send_signal(signal.SIGCONT)


@contextmanager
def machines(folder: Path, net: int, **options: object) -> Iterator[Machines]:
    """Started agents, which end with the block."""
    made = Machines(folder, net, **options)  # type: ignore[arg-type]
    try:
        made.start_all(made.hosts)
        yield made
    finally:
        for host in list(made.processes):
            made.kill(host)


def main() -> None:
    offset = float(sys.argv.pop(1))
    from d3node import protocol

    protocol.VERSION = int(os.environ.get("MACHINES_PROTOCOL", protocol.VERSION))  # before anybody has looked at it
    from d3node import cli, clock, facts

    if "MACHINES_D3NODE" in os.environ:
        facts.installed = lambda: os.environ["MACHINES_D3NODE"]

    real = clock.ScaledLoop.time
    clock.ScaledLoop.time = lambda loop: real(loop) + offset  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
