"""What `testbed hosts init` writes beside certificates: an inventory to be completed, and the settings of each host's service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from d3node.plan import Tier
from testbed.errors import InputError
from testbed.hosts.certificates import ORCHESTRATOR

DATA_PORT, CONTROL_PORT = 5700, 5701
TIERS = {"d": "device", "e": "edge", "c": "cloud"}
"""Tiers of hosts that are called as in the shipped topologies: d1, e2, c1."""


@dataclass(frozen=True, slots=True)
class Named:
    """A host on the command line: its name, tier, and addresses (the first one is dialled)."""

    name: str
    tier: str
    addresses: tuple[str, ...]


def parse(text: str) -> Named:
    """NAME=ADDRESS[,ADDRESS...], or NAME:TIER=... where the name does not tell the tier. Raises InputError."""
    left, equals, right = text.partition("=")
    name, _, tier = left.partition(":")
    addresses = tuple(part.strip() for part in right.split(",") if part.strip())
    if not equals or not addresses or not re.fullmatch(r"[A-Za-z][\w.-]*", name, re.ASCII):
        raise InputError(f"--host {text}: give NAME=ADDRESS, such as e1=192.168.7.11 or lab4:edge=192.168.7.14,10.0.0.4")
    if name in (ORCHESTRATOR, "ca"):
        raise InputError(f"--host {text}: the name {name!r} is taken for a certificate of another kind")
    if not tier and re.fullmatch(r"[dec]\d+", name):
        tier = TIERS[name[0]]
    if tier not in get_args(Tier):
        raise InputError(f"--host {text}: which tier? Give {name}:device=, {name}:edge= or {name}:cloud=")
    for address in addresses:
        if not re.fullmatch(r"[\w.:-]+", address, re.ASCII):
            raise InputError(f"--host {text}: {address!r} is no address or name of a machine")
    return Named(name, tier, addresses)


def inventory(hosts: Sequence[Named]) -> str:
    """Text of an inventory."""
    lines = [
        "# Machines of a testbed; docs/hosts.md says what each key means. Paths are relative to this file.",
        "format = 1",
        'secret = "secret"',
        'ca = "ca.pem"',
        f'certificate = "{ORCHESTRATOR}.pem"',
        f'key = "{ORCHESTRATOR}.key"',
        'links = "real"                  # "shaped": agents with shaping = true make their links what the scenario says',
    ]
    for host in hosts:
        address = _bracketed(host.addresses[0])
        lines += [
            "",
            "[[host]]",
            f'name = "{host.name}"',
            f'tier = "{host.tier}"',
            f'control = "{address}:{CONTROL_PORT}"',
            f'data = "{address}:{DATA_PORT}"',
        ]
    return "\n".join(lines) + "\n"


def environment(host: Named, models: Sequence[str]) -> str:
    """Text of the environment file of a host's service (packaging/d3node.service)."""
    named = " ".join(f"--model {model}" for model in models)
    return (
        f"# Settings of the node agent on {host.name}: to /etc/d3node/d3node.env there. Beside it go, readable by root\n"
        f"# alone (systemd hands them on): ca.pem, secret, {host.name}.pem as host.pem, {host.name}.key as host.key.\n"
        f"D3NODE_NAME={host.name}\n"
        f"D3NODE_TIER={host.tier}\n"
        f"D3NODE_LISTEN={_bracketed(host.addresses[0])}:{DATA_PORT}\n"
        f"D3NODE_CONTROL={_bracketed(host.addresses[0])}:{CONTROL_PORT}\n"
        "# Models, and anything else of `d3node serve --help`, such as --threads 4, --device cuda, --model-path /srv/models\n"
        f"D3NODE_OPTIONS={named}\n"
    )


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
