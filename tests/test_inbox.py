"""`d3node.inbox`: what stops reading a connection, what lets it go on, and that no memory is held for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from d3node.admission import Budget
from d3node.channel import Message
from d3node.clock import VirtualLoop
from d3node.inbox import SLOWED_S, Inbox
from d3node.wire import Limits

LIMIT = 100
MESSAGE = Message("ping", {"id": 1})


class Reading:
    """An inbox, and what it has said about reading."""

    def __init__(self, budget: Budget | None = None, limits: Limits | None = None) -> None:
        self.budget = budget or Budget(1000)
        self.said: list[str] = []
        limits = limits or Limits(buffered_bytes=LIMIT)
        self.inbox = Inbox(limits, self.budget, lambda: self.said.append("stop"), lambda: self.said.append("go on"))

    def come(self, size: int) -> bool:
        """A frame of so many bytes comes in, if it may."""
        granted = self.inbox.grant(size)
        if granted:
            self.inbox.put(MESSAGE, size)
        return granted


async def _waits_for_room() -> None:
    reading = Reading()
    assert reading.come(70)
    assert not reading.inbox.paused
    assert not reading.come(50)  # 120 would wait here
    assert reading.inbox.paused
    assert reading.said == ["stop"]
    reading.inbox.retry()
    assert reading.said == ["stop"]
    reading.inbox.take()
    assert reading.said == ["stop", "go on"]
    assert not reading.inbox.paused
    assert reading.come(500)  # alone, any legal frame
    assert reading.inbox.paused
    assert reading.said == ["stop", "go on", "stop"]
    assert reading.inbox.held == reading.inbox.nbytes == reading.budget.taken == 500
    reading.inbox.take()
    assert reading.inbox.held == reading.budget.taken == 0


async def _waits_for_others() -> None:
    budget = Budget(100)
    first, second = Reading(budget), Reading(budget)
    assert first.come(90)
    assert not second.come(20)
    assert second.said == ["stop"]
    first.inbox.take()
    assert second.said == ["stop", "go on"]
    assert second.come(20)
    third = Reading(budget)
    assert not third.come(90)
    third.inbox.end()  # it waits no longer, and takes nothing when there is room
    second.inbox.take()
    assert third.said == ["stop"]
    assert budget.taken == 0


async def _gives_back() -> None:
    reading = Reading()
    assert reading.come(10)
    assert reading.inbox.grant(40)  # a frame under way when the connection is lost
    reading.inbox.end()
    assert reading.budget.taken == 10  # the message can still be taken
    reading.inbox.take()
    assert reading.budget.taken == 0
    assert reading.come(30)
    reading.inbox.release()
    reading.inbox.clear()
    assert reading.budget.taken == reading.inbox.held == len(reading.inbox) == 0


async def _slows_down(ended: bool) -> None:
    loop = asyncio.get_running_loop()
    reading = Reading(limits=Limits(buffered_bytes=LIMIT, messages_at_once=3, messages_per_s=20))
    for _ in range(3):
        assert reading.come(1)
        reading.inbox.take()
    assert reading.inbox.paused
    assert reading.said == ["stop"]
    reading.inbox.ended = ended
    reading.inbox.retry()  # a connection that has an error is read to its end, however much came before
    assert reading.said == (["stop", "go on"] if ended else ["stop"])
    began = loop.time()
    while reading.inbox.paused:
        await asyncio.sleep(SLOWED_S / 10)
    assert ended or loop.time() - began >= SLOWED_S


def run(case: Coroutine[Any, Any, None]) -> None:
    """In virtual time: no seconds are waited for."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(case)


@pytest.mark.parametrize("case", [_waits_for_room, _waits_for_others, _gives_back])
def test_reading_stops_at_each_bound_and_memory_is_given_back(case: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(case())


@pytest.mark.parametrize("ended", [False, True])
def test_only_a_connection_without_an_error_is_slowed_down(ended: bool) -> None:
    run(_slows_down(ended))
