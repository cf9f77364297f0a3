"""Requests in flight: each is submitted on one epoch, ends exactly once, and is over when all its hosts have reported.

Nothing is written or estimated here: whoever wants to know of an end is called back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from d3node.channel import Message, Payload
from d3node.errors import DeadlineExceeded
from testbed.errors import AgentError
from testbed.orchestrator.control import Fleet
from testbed.orchestrator.epochs import Epoch, Epochs
from testbed.orchestrator.overload import SHED, Intake

DEADLINE_MARGIN_S = 5.0
"""The device ends a request at its deadline; only this much later the orchestrator gives it up by itself."""

REPORT_GRACE_S = 2.0
"""How long after a request's end reports of its hosts may still come in."""


@dataclass(eq=False)
class Request:
    """One request. Times are loop seconds of the device. `ended` is set by its end: an event, because who waits for a future and
    is cancelled cancels the future too, and the request would be taken for ended. It is over once all reports are in;
    `weights_bytes` of the model had been sent to servers by then. `exit`, `fallback` and `absent` (devices not waited for)
    say how a plan with exits came to its answer.

    `planned` is the epoch whose plan a planner made; another `epoch` is the rest of that plan, on which the request goes on. It
    has done so `recoveries` times, `recovered_s` after its losses were known, in sum; `lost_at`: it has lost a host.
    `epochs` are the numbers of all that it has been under."""

    wire_id: int
    number: int
    device: str
    epoch: Epoch
    warmup: bool
    input: int
    due_at: float
    submitted_at: float
    ended: asyncio.Event
    weights_bytes: int = 0
    done_at: float = 0.0
    error: str = ""
    error_text: str = ""
    answer: tuple[Payload, ...] = ()
    exit: int | None = None
    fallback: bool = False
    absent: tuple[str, ...] = ()
    missing: set[str] = field(default_factory=set)
    reports: list[dict[str, Any]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    planned: Epoch | None = None
    recoveries: int = 0
    recovered_s: float = 0.0
    lost_at: float | None = None
    admitted: bool = False
    epochs: set[int] = field(default_factory=set)

    @property
    def listed(self) -> int:
        """Number of the planner's epoch."""
        return (self.planned or self.epoch).number


class Tracker:
    """Submits requests and follows them. `on_over(request)` is called once per request, in the order of their completion.

    `queue`: how many requests of a device may be under way (None: any number); one more ends at once with `Shed`. Plans up to
    number `settled` are of sessions that are over: their requests have ended there, and this session counts its own anew."""

    def __init__(
        self, fleet: Fleet, epochs: Epochs, deadline_s: float, on_over: Callable[[Request], None], queue: int | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._fleet = fleet
        self._epochs = epochs
        self._deadline_s = deadline_s
        self._on_over = on_over
        self._intake = Intake(queue)
        self._flying: dict[int, Request] = {}
        self.ids = count(1)
        self.note: Callable[[Request, Epoch], None] = lambda _request, _epoch: None
        self._empty = asyncio.Event()
        self._empty.set()
        self._given_up: set[int] = set()
        self.submitted = 0
        self.over = 0
        self.stray = 0
        self.unreported = 0
        self.late_reports: list[dict[str, Any]] = []
        self.settled = epochs.last

    async def submit(
        self, number: int, device: str, epoch: Epoch, seed: int, warmup: bool, due_at: float, weights_bytes: int = 0
    ) -> Request:
        """Take a request on and start it."""
        request = self.expect(number, device, epoch, seed, warmup, due_at, weights_bytes)
        if not request.ended.is_set():
            await self.start(request, epoch)
        return request

    def expect(
        self, number: int, device: str, epoch: Epoch, seed: int, warmup: bool, due_at: float, weights_bytes: int = 0
    ) -> Request:
        """Take a request on; it is `start`ed, or ended by `end`, as it has been on return where the device has too many."""
        request = Request(
            wire_id=next(self.ids),
            number=number,
            device=device,
            epoch=epoch,
            warmup=warmup,
            input=seed,
            due_at=due_at,
            submitted_at=self._loop.time(),
            ended=asyncio.Event(),
            weights_bytes=weights_bytes,
        )
        self._take_on(request)
        if (text := self._intake.admit(device)) is None:
            request.admitted = True
        else:
            self.end(request, SHED, text, request.submitted_at)
        return request

    def take_over(self, request: Request) -> None:
        """Take a request on that another orchestrator has submitted; its device ends it, as any other."""
        self._take_on(request)
        request.admitted = True
        self._intake.admit(request.device)
        request.missing = set(request.epoch.reporting)
        end = max(self._loop.time(), request.submitted_at + self._deadline_s)
        request.timer = self._loop.call_at(end + DEADLINE_MARGIN_S, self._give_up, request)

    def _take_on(self, request: Request) -> None:
        self._flying[request.wire_id] = request
        request.epochs.add(request.epoch.number)
        self._empty.clear()
        self._epochs.enter(request.epoch)
        self.submitted += 1

    async def start(self, request: Request, epoch: Epoch) -> None:
        """Submit a request; it ends with an error right away when its device is gone, or (without recovery) any host."""
        self._change(request, epoch)
        request.submitted_at = now = self._loop.time()
        request.missing = set(epoch.reporting) - self._fleet.dead.keys()
        needed = (request.device,) if self._fleet.recovery else epoch.hosts
        lost = next((host for host in needed if host in self._fleet.dead), None)
        if lost is not None:
            self.end(request, "AgentError", self._fleet.dead[lost], now)
            return
        request.timer = self._loop.call_at(now + self._deadline_s + DEADLINE_MARGIN_S, self._give_up, request)
        self.note(request, epoch)
        fields = {"request": request.wire_id, "epoch": epoch.number, "input": request.input, "deadline_s": self._deadline_s}
        try:
            await self._fleet.clients[request.device].send("submit", fields)
            for other in epoch.contributors:
                await self._fleet.clients[other].send("submit", fields)
        except AgentError as error:
            if not request.ended.is_set() and not (self._fleet.recovery and request.device not in self._fleet.dead):
                self.end(request, "AgentError", str(error), self._loop.time())

    def left_s(self, request: Request) -> float:
        """Seconds until the deadline of a request that has been started."""
        return 0.0 if request.timer is None else request.timer.when() - DEADLINE_MARGIN_S - self._loop.time()

    @property
    def flying(self) -> list[Request]:
        """Requests that have not ended, in the order of their submission."""
        return [request for request in self._flying.values() if not request.ended.is_set()]

    def moved(self, request: Request, epoch: Epoch, planned: Epoch, now: float) -> None:
        """A request that had lost a host goes on under another epoch."""
        request.planned = None if planned is epoch else planned
        request.recoveries += 1
        request.recovered_s += now - (now if request.lost_at is None else request.lost_at)
        request.lost_at = None
        request.missing = set(epoch.reporting) - self._fleet.dead.keys()
        self._change(request, epoch)

    def _change(self, request: Request, epoch: Epoch) -> None:
        if request.epoch is not epoch:
            self._epochs.enter(epoch)
            self._epochs.leave(request.epoch)
            request.epoch = epoch
            request.epochs.add(epoch.number)

    def push(self, host: str, message: Message) -> None:
        """Take a done, failed or report message of an agent."""
        fields = message.fields
        request = self._flying.get(fields.get("request", 0))
        if message.kind in ("done", "failed", "report") and fields["epoch"] <= self.settled:
            if message.kind == "report":
                self.late_reports.append(fields)
            return
        if fields.get("again", False) and (request is None or _known(request, message)):
            return
        if request is None:
            if message.kind == "report":
                self.late_reports.append(fields)
            elif message.kind in ("done", "failed") and fields["request"] not in self._given_up:
                self.stray += 1
            return
        if message.kind == "report":
            request.reports.append(fields)
            if fields["epoch"] == request.epoch.number:
                request.missing.discard(fields["host"])
            self._check_over(request)
        elif message.kind not in ("done", "failed"):
            return
        elif request.ended.is_set():
            self.stray += request.wire_id not in self._given_up
        elif message.kind == "done":
            request.submitted_at = fields["submitted_at"]
            request.answer = message.payloads
            if (number := fields.get("exit")) is not None:
                request.exit, request.fallback = number, bool(fields["fallback"])
                request.absent = tuple(str(other) for other in fields["absent"])
                request.missing -= request.epoch.silent[number] | set(request.absent)
            self.end(request, "", "", fields["done_at"])
        elif message.kind == "failed":
            request.submitted_at = fields["submitted_at"]
            self.end(request, fields["error"], fields["text"], fields["done_at"])

    def host_lost(self, host: str) -> None:
        """An agent is gone: its requests end with AgentError, and no report of it is waited for."""
        for request in list(self._flying.values()):
            request.missing.discard(host)
            if not request.ended.is_set() and host in request.epoch.hosts:
                self.end(request, "AgentError", self._fleet.dead[host], self._loop.time())
            else:
                self._check_over(request)

    def host_missed(self, host: str, now: float) -> None:
        """An agent is gone, and there is recovery: only its own requests end, others that it has a part in wait."""
        for request in list(self._flying.values()):
            request.missing.discard(host)
            if request.ended.is_set():
                self._check_over(request)
            elif request.device == host:
                self.end(request, "AgentError", self._fleet.dead[host], now)
            elif host in request.epoch.hosts and request.lost_at is None:
                request.lost_at = now

    def give_up(self, request: Request, error: str, text: str) -> None:
        """End a request that its device may still end by itself."""
        self._given_up.add(request.wire_id)
        self.end(request, error, text, self._loop.time())

    async def drain(self) -> None:
        """Wait until no request is in flight."""
        await self._empty.wait()

    def abandon(self, error: str, text: str) -> None:
        """End every request in flight, at once and without waiting for reports (the run is being stopped)."""
        for request in list(self._flying.values()):
            request.missing.clear()
            if request.ended.is_set():
                self._check_over(request)
            else:
                self.end(request, error, text, self._loop.time())

    def _give_up(self, request: Request) -> None:
        if not request.ended.is_set() and not self._fleet.present.is_set():  # its end is told when we are there to hear it
            request.timer = self._loop.call_later(REPORT_GRACE_S, self._give_up, request)
        elif not request.ended.is_set():
            text = f"device {request.device} did not end the request within {DEADLINE_MARGIN_S:g} s of its deadline"
            self.end(request, DeadlineExceeded.__name__, text, self._loop.time())

    def end(self, request: Request, error: str, text: str, at: float) -> None:
        """A request has ended: at loop time `at`, without an error or with one."""
        request.error, request.error_text, request.done_at = error, text, at
        if request.admitted:
            self._intake.leave(request.device)
            request.admitted = False
        request.ended.set()
        if request.timer is not None:
            request.timer.cancel()
            request.timer = None
        if request.missing:
            request.timer = self._loop.call_later(REPORT_GRACE_S, self._stop_waiting, request)
        self._check_over(request)

    def _stop_waiting(self, request: Request) -> None:
        if not request.error and not request.fallback and not request.recoveries:
            self.unreported += len(request.missing)
        request.missing.clear()
        self._check_over(request)

    def _check_over(self, request: Request) -> None:
        if request.missing or not request.ended.is_set() or self._flying.pop(request.wire_id, None) is None:
            return
        if request.timer is not None:
            request.timer.cancel()
        self._epochs.leave(request.epoch)
        self.over += 1
        try:
            self._on_over(request)
        finally:
            if not self._flying:
                self._empty.set()


def _known(request: Request, message: Message) -> bool:
    """Whether what is said again of a request is no news."""
    fields = message.fields
    if fields["epoch"] not in request.epochs:
        return True  # another session's request of that number
    if message.kind == "report":
        return any((known["host"], known["epoch"]) == (fields["host"], fields["epoch"]) for known in request.reports)
    return request.ended.is_set()
