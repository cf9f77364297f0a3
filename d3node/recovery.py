"""How requests go on when a host that they need is lost: who says so, what is still held, and where they begin again.

The orchestrator decides where a request goes on; a host keeps its part as it is until it hears (`d3node.protocol`, "Recovery").
Plain parts and stacks of tiles, sent, fetched or handed over, go on from the tensors between steps: a stack that was under way
is computed again from its inputs, which its leader holds. Requests with exits, coded tensors, views of other devices or two ways
begin again from their input. Source of the idea: CESSNA (SoCC 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from d3node.channel import Message, Payload
from d3node.errors import PlanError
from d3node.execute import Lead
from d3node.graph import INPUT
from d3node.hand import Hand
from d3node.install import Epoch
from d3node.origin import Origin
from d3node.request import Key, Request

if TYPE_CHECKING:
    from d3node.requests import Requests


class Recovery:
    """What one host does about lost hosts, for all its requests."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def strand(self, request: Request, host: str, text: str) -> None:
        """A host of a request's plan is gone: its part here stays as it is, and the orchestrator hears of it once. A part that
        nobody will ask for any more goes; the tensors of one whose device is gone are kept, should it be there after all."""
        requests = self._requests
        if isinstance(request, Hand):
            if host == request.leader:
                requests.drop(request)
            return
        assert isinstance(request, Lead)
        if isinstance(request, Origin):
            if request.settled is not None:  # it has its answer, and what was still to be sent need not arrive
                requests.finished(request)
                return
            if request.fall_back():
                return
        first = not request.lost
        request.lost.add(host)
        if first:
            requests.emit(Message("stranded", request.fields(host=requests.name, lost=host, text=text)))
        if host == request.epoch.device:
            self._set_aside(request)
            requests.drop(request)
            requests.remember_cancelled(request.key)
            self._call_off(request, {helper for step in request.epoch.steps for helper in step.helpers})

    def held(self, request: int | str, number: int) -> list[int]:
        """Vertices whose tensors this host has of a request; it keeps them from now on, whatever becomes of its part."""
        lead = self._requests.leads.get((number, request))
        if lead is not None:
            self._set_aside(lead)
        return sorted(self._requests.kept.of(request))

    def over(self, ended: Sequence[Any]) -> None:
        """Requests have ended: nothing of them is needed here."""
        requests = self._requests
        for request in ended:
            requests.kept.drop(request)
        known = set(ended)
        for part in [*requests.leads.values(), *requests.hands.values()]:
            if part.request in known and not isinstance(part, Origin):
                requests.remember_cancelled(part.key)
                requests.drop(part)

    def cancelled(self, key: Key, moved: bool) -> None:
        """The device has given up a request, or goes on with it under another plan."""
        lead = self._requests.leads.get(key)
        if not moved and not self._requests.is_cancelled(key):
            self._requests.kept.drop(key[1])
        elif moved and lead is not None:
            self._set_aside(lead)

    def resume(self, request: int | str, was: int, number: int, provide: Sequence[int], seed: int, deadline_s: float) -> None:
        """Go on with a request under another epoch. Raises PlanError, and changes nothing, when it is over, when the plan is not
        installed, or when this host does not hold what it is to provide."""
        requests = self._requests
        if was == number:
            raise PlanError(f"request {request!r} can go on under another epoch than {was} only")
        epoch, old = requests.epochs.get(number), requests.leads.get((was, request))
        asks = isinstance(old, Origin)
        if epoch is None or epoch.tier is None or (asks and epoch.device != requests.name):
            if provide or asks:
                text = "is not installed" if epoch is None else "gives no tier to lead" if epoch.tier is None else "is another's"
                raise PlanError(f"epoch {number} {text} on {requests.name}, which is to go on with request {request!r} under it")
            self._end_part((was, request))
            return
        if epoch.device == requests.name and not (isinstance(old, Origin) and old.settled is None):
            raise PlanError(f"request {request!r} of epoch {was} is not running on {requests.name}: it is over, or never began")
        if (number, request) in requests.leads and epoch.tier == "device":
            raise PlanError(f"request {request!r} of epoch {number} is already running on {requests.name}")
        tensors = self._provided(request, old, epoch, provide)
        self._end_part((was, request))
        if isinstance(old, Origin):
            self._go_on(old, epoch, tensors, seed, deadline_s)
        elif tensors and not requests.is_cancelled((number, request)):
            lead = requests.leads.get((number, request))  # its tensors may have been faster than this
            if lead is None:
                lead = Lead(requests, epoch, request)
                requests.register(requests.leads, lead)
            lead.go_on(tensors)

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _provided(self, request: int | str, old: Lead | None, epoch: Epoch, provide: Sequence[int]) -> Mapping[int, Payload]:
        asked = set(provide) - ({INPUT} if epoch.tier == "device" else set())
        if asked != epoch.provides:
            needed = sorted(epoch.provides)
            raise PlanError(f"{self._requests.name} is to provide {sorted(asked)}, but epoch {epoch.number} needs {needed} of it")
        have = {**self._requests.kept.of(request), **(old.held() if old is not None and old.epoch.resumable else {})}
        if missing := sorted(asked - have.keys()):
            raise PlanError(f"{self._requests.name} no longer holds the tensors of {missing} of request {request!r}")
        return {v: have[v] for v in asked}

    def _go_on(self, old: Origin, epoch: Epoch, tensors: Mapping[int, Payload], seed: int, deadline_s: float) -> None:
        """On the device."""
        requests = self._requests
        new = Origin(requests, epoch, old.request, deadline_s)
        requests.register(requests.leads, new)
        new.succeed(old, deadline_s)
        if epoch.plan.tiers[INPUT] == "device" and (INPUT in epoch.sends or INPUT in epoch.wanted or INPUT in epoch.answers):
            requests.with_image(new, seed, lambda image: new.go_on({**tensors, INPUT: image}))
        else:
            new.go_on(tensors)

    def _end_part(self, key: Key) -> None:
        """This host's part under an epoch that is left; what still comes of it finds nobody."""
        requests = self._requests
        requests.remember_cancelled(key)
        if (hand := requests.hands.get(key)) is not None:
            requests.drop(hand)
        if (lead := requests.leads.get(key)) is None:
            return
        self._set_aside(lead)
        if isinstance(lead, Origin):
            requests.end(lead)
            requests.emit(lead.report())
            plan = lead.epoch.plan
            others = ({plan.hosts["edge"], plan.hosts["cloud"]} & lead.epoch.hosts) | lead.epoch.contributors
            self._call_off(lead, others)
        else:
            requests.drop(lead)
            self._call_off(lead, {helper for step in lead.epoch.steps for helper in step.helpers})

    def _call_off(self, lead: Lead, others: set[str]) -> None:
        for host in sorted(others - lead.lost - {self._requests.name}):
            self._requests.post(host, Message("cancel", lead.fields(moved=True)))

    def _set_aside(self, lead: Lead) -> None:
        if lead.epoch.resumable and self._requests.recovery:
            self._requests.kept.put(lead.request, lead.held())
