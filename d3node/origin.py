"""A request on the device that asks: it begins with the input there, and ends with the answer or an error.

What the device computes of it is as on every host that leads a tier (`d3node.execute`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from d3node.channel import Message, Payload
from d3node.errors import ProtocolError
from d3node.execute import Lead
from d3node.graph import INPUT
from d3node.install import Epoch
from d3node.numerics import check_like
from d3node.request import World


class Origin(Lead):
    """A request on its device: begins with the input, ends with the answer or an error."""

    def __init__(self, world: World, epoch: Epoch, request: int | str, deadline_s: float) -> None:
        super().__init__(world, epoch, request)
        self.submitted_at = self.created
        self.deadline_s = deadline_s
        self.deadline: asyncio.TimerHandle | None = None
        self._answers: dict[int, Payload] = {}
        self.settled: dict[str, Any] | None = None
        self._insurance: asyncio.TimerHandle | None = None
        self._overdue = False

    def begin(self, payload: Payload) -> None:
        """The input is there: the request's time starts."""
        self.submitted_at = self.world.loop.time()
        self.limit(self.deadline_s)
        self.provide(INPUT, payload)
        self.advance()

    def limit(self, deadline_s: float) -> None:
        """Let the request end so many seconds from now at the latest."""
        self.deadline = self.world.loop.call_later(deadline_s, self._late)
        if self.epoch.plan.fallback_s is not None:
            self._insurance = self.world.loop.call_later(self.epoch.plan.fallback_s, self._insure)

    def succeed(self, old: Origin, deadline_s: float) -> None:
        """Take the place of the same request under an earlier epoch: submitted then, it must be done no later than then."""
        self.submitted_at, self.created, self.deadline_s = old.submitted_at, old.created, old.deadline_s
        self.limit(min(deadline_s, old.submitted_at + old.deadline_s - self.world.loop.time()))

    def held(self) -> dict[int, Payload]:
        return {v: payload for v, payload in (super().held() | self._answers).items() if v != INPUT}

    def answer(self, vertex: int, payload: Payload) -> None:
        self._answers[vertex] = payload
        if len(self._answers) == len(set(self.epoch.graph.outputs)):
            self.world.finished(self)

    def receive_answer(self, peer: str, message: Message) -> None:
        """An output that was computed on another host. Raises ProtocolError unless it is one that is waited for."""
        vertex = message.fields["vertex"]
        if vertex not in self.epoch.graph.outputs or vertex in self._answers or len(message.payloads) != 1:
            raise ProtocolError(f"{self.world.name} does not wait for an answer of vertex {vertex!r}")
        payload = check_like(message.payloads[0], self.epoch.sizes.whole[vertex], f"the answer of vertex {vertex}")
        self.note_transfer(peer, message, vertex=vertex)
        if (exits := self.epoch.plan.exits) and self.settled is None:
            number, absent = message.fields["exit"], message.fields["absent"]
            if number not in range(len(exits)) or exits[number].vertex != vertex:
                raise ProtocolError(f"vertex {vertex!r} is not exit {number!r} of the plan")
            self.conclude(number, payload, [str(host) for host in absent])
        elif not exits:
            self.answer(vertex, payload)

    def conclude(self, exit_: int, payload: Payload, absent: list[str], fallback: bool = False) -> None:
        """The request has its answer. It ends once what it has posted is handed to the network, so that all bytes are counted;
        with the answer to fall back on, at once."""
        self._answers = {self.epoch.plan.exits[exit_].vertex: payload}
        now = self.world.loop.time()
        self.settled = {"done_at": now, "exit": exit_, "absent": absent, "fallback": fallback}
        self.close()
        if fallback:
            self.world.finished(self)
        else:
            self.check_finished()

    def check_finished(self) -> None:
        """Only the answer finishes a request on its device."""
        if self.settled is not None and not self.ended and not self._sending:
            self.world.finished(self)

    def close(self) -> None:
        super().close()
        for timer in (self.deadline, self._insurance):
            if timer is not None:
                timer.cancel()

    def fall_back(self) -> bool:
        """Answer with the last exit of the device's own, if the plan allows it and there is one yet."""
        if self.epoch.plan.fallback_s is None or self.gate is None or self.gate.insurance is None or self.settled is not None:
            return False
        number, payload = self.gate.insurance
        self.gate.stopped = True
        self.conclude(number, payload, [], fallback=True)
        return True

    def falls_back(self) -> bool:
        return self._overdue and self.fall_back()

    def _insure(self) -> None:
        self._overdue = not self.fall_back()

    def done(self) -> Message:
        """The request's end in success."""
        if self.settled is not None:
            return Message("done", self.fields(submitted_at=self.submitted_at, **self.settled), tuple(self._answers.values()))
        answers = tuple(self._answers[v] for v in self.epoch.graph.outputs)
        return Message("done", self.fields(submitted_at=self.submitted_at, done_at=self.world.loop.time()), answers)

    def _late(self) -> None:
        self.world.fail(self, "DeadlineExceeded", f"not done within {self.deadline_s:g} s")
