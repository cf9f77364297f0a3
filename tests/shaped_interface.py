"""Shapes the loopback interface of a network namespace of its own: `unshare -n python tests/shaped_interface.py`; prints JSON.

What must come out is in `test_egress.py`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from typing import Any

from d3node.egress import Egress, PathState, ShapingError

NEAR, FAR = "127.0.1.2", "127.0.1.3"
SIZE = 1000
FOREIGN = "tbf rate 10gbit burst 1mb limit 1mb"


def main() -> dict[str, Any]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    found: dict[str, Any] = {"before": disciplines()}
    egress = Egress("lo")
    found["made"] = disciplines()
    egress.shape(NEAR, PathState(1e9))
    egress.shape(FAR, PathState(80e3))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receivers = {}
    for address in (NEAR, FAR, "127.0.1.9"):
        receivers[address] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receivers[address].bind((address, 5000))
        receivers[address].settimeout(5.0)

    def arrives(address: str, patience_s: float = 5.0) -> float | None:
        receivers[address].settimeout(patience_s)
        begun = time.monotonic()
        sender.sendto(bytes(SIZE), (address, 5000))
        try:
            receivers[address].recv(2 * SIZE)
        except TimeoutError:
            return None
        return time.monotonic() - begun

    arrives("127.0.1.9")
    found["counted"] = {address: list(counts) for address, counts in egress.counters().items()}
    begun = time.monotonic()
    for _ in range(6):
        sender.sendto(bytes(SIZE), (FAR, 5000))
    for _ in range(6):
        receivers[FAR].recv(2 * SIZE)
    found["six_s"] = time.monotonic() - begun  # 1042 bytes at 10 kB/s: 0.1 s each, the first two are free
    egress.shape(NEAR, PathState(0.0))
    found["outage"] = arrives(NEAR, 0.3)
    found["dropped"] = egress.counters()[NEAR][2]
    egress.shape(NEAR, PathState(1e9))
    found["after"] = arrives(NEAR) is not None
    for name, state in {"delay": (1e6, 0.01), "negative": (-1.0,), "nan": (float("nan"),), "address": (1e6,)}.items():
        try:
            egress.shape("::1" if name == "address" else NEAR, PathState(*state))
            found[name] = "shaped"
        except ShapingError as error:
            found[name] = str(error)
    found["still"] = arrives(NEAR) is not None
    egress.close()
    found["restored"] = disciplines()
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "handle", "7:", *FOREIGN.split()], check=True)
    for name, interface in {"foreign": "lo", "missing": "eth7"}.items():
        try:
            Egress(interface)
        except ShapingError as error:
            found[name] = str(error)
    found["kept"] = disciplines()
    return found


def disciplines() -> str:
    return subprocess.run(["tc", "qdisc", "show", "dev", "lo"], capture_output=True, text=True, check=True).stdout.split(
        "refcnt"
    )[0]


if __name__ == "__main__":
    print(json.dumps(main()))
