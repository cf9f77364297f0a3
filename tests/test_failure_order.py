"""Whom a host tells of a failure, and in which order: never the order of a set, which the hash seed decides."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from d3node.channel import Message
from d3node.execute import Lead
from d3node.requests import Requests

MANY = [f"h{k:02d}" for k in range(30)]


def told(act: Any) -> list[str]:
    """Hosts that were sent something, in order, while `act` did its work on the requests of host "me"."""
    sent: list[str] = []

    async def main() -> None:
        compute: Any = SimpleNamespace()
        act(Requests("me", compute, lambda host, *_: sent.append(host), lambda _: None))

    asyncio.run(main())
    return sent


def epoch(device: str, helpers: list[str]) -> Any:
    plan = SimpleNamespace(hosts={"device": device, "edge": "me", "cloud": "c1"})
    steps = (SimpleNamespace(tiles=tuple(SimpleNamespace(host=host) for host in helpers), helpers=tuple(helpers)),)
    return SimpleNamespace(
        number=1,
        device=device,
        tier="edge",
        hosts=frozenset({device, "me", *helpers}),
        plan=plan,
        steps=steps,
        doors=(),
        retired=False,
        active=0,
    )


def lead(world: Requests) -> Lead:
    made = Lead.__new__(Lead)
    made.epoch, made.key, made.ended, made.gate = epoch("d1", MANY[::-1]), (1, 1), False, None
    made.report = lambda: Message("report", {})  # type: ignore[method-assign]
    made.fields = lambda **more: dict(more)  # type: ignore[assignment,method-assign]
    world.leads[made.key] = made
    return made


def test_devices_hear_of_a_lost_host_in_the_order_of_their_names() -> None:
    def lose(world: Requests) -> None:
        world.epochs = {k: epoch(name, ["gone"]) for k, name in enumerate(reversed(MANY))}
        world.peer_lost("gone", "it was killed")

    assert told(lose) == MANY


def test_helpers_are_told_of_a_failed_request_in_the_order_of_their_names() -> None:
    assert told(lambda world: world.fail(lead(world), "ComputeError", "no memory")) == ["d1", *MANY]


def test_helpers_are_told_that_a_device_gave_up_in_the_order_of_their_names() -> None:
    def cancel(world: Requests) -> None:
        lead(world)
        world.data("d1", Message("cancel", {"epoch": 1, "request": 1}))

    assert told(cancel) == MANY
