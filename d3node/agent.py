"""The node agent: serves one host of the testbed, under any event loop and over any transport.

It ties the parts together and answers the orchestrator: frames are in `d3node.wire`, the vocabulary in `d3node.protocol`,
plans in `d3node.install`, requests in `d3node.requests` and `d3node.execute`, compute time in `d3node.compute`, connections to
peers in `d3node.peers`, those from peers in `d3node.inbound`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from d3node import stats
from d3node.bounds import Bounds
from d3node.channel import Channel, Message, Transport
from d3node.compute import ComputeQueue
from d3node.errors import ChannelError, ModelError, NodeError, PlanError, ProtocolError
from d3node.graph import LayerGraph
from d3node.inbound import Inbound
from d3node.install import compile_epoch
from d3node.links import Outbox
from d3node.numerics import Encoding, Numerics, RunnableModel, Sizes
from d3node.peers import Peers
from d3node.plan import Plan, Tier
from d3node.probes import Probes
from d3node.program import Route
from d3node.protocol import CONTROL_KINDS, VERSION, check_fields
from d3node.requests import Requests
from d3node.site import KINDS as SITE_KINDS
from d3node.site import Site
from d3node.told import Told
from d3node.weights import Weights

log = logging.getLogger("d3node.agent")
Mode = Literal["modelled", "measured"]
Tensors = Literal["real", "sizes"]


@dataclass(frozen=True)
class AgentConfig:
    """One host's agent. `mode`, `tensors`, `route` and `input_encoding` are replaced by what `configure` says.

    `inline_compute`: run torch on the event loop, for virtual time; otherwise on a thread of its own. `lag_interval_s`: how often
    to sample the event loop's lateness beside the timers that are needed anyway. `exit_with_control`: stop when the
    orchestrator's connection ends. `faults`: whether an orchestrator may have frames spoilt.
    """

    name: str
    tier: Tier
    mode: Mode = "modelled"
    tensors: Tensors = "real"
    threads: int = 1
    inline_compute: bool = False
    route: Route = "relay"
    input_encoding: Encoding = "float32"
    connect_s: float = 10.0
    probe_s: float = 10.0
    lag_interval_s: float | None = None
    exit_with_control: bool = False
    faults: bool = False
    bounds: Bounds = field(default_factory=Bounds)


async def serve(
    config: AgentConfig,
    models: Mapping[str, RunnableModel | LayerGraph],
    data: Transport,
    data_address: str,
    control: Transport,
    control_address: str,
    *,
    ready: Callable[[str, str], None] | None = None,
    site: Site | None = None,
) -> None:
    """Run one agent until `shutdown` comes or the task is cancelled.

    `models`: by name, real models or (sizes only) their graphs. `ready(data address, control address)` is called once both are
    listened on. `site`: the machine, where an orchestrator may ask for it. Raises ChannelError when an address cannot be
    listened on.
    """
    executor = None if config.inline_compute else ThreadPoolExecutor(1, thread_name_prefix=f"d3node-{config.name}")
    agent = Agent(config, models, data, executor, site)
    listeners = []
    try:
        listeners.append(await data.listen(data_address, agent.attend_peer))
        listeners.append(await control.listen(control_address, agent.attend_control))
        if ready is not None:
            ready(listeners[0].address, listeners[1].address)
        await agent.stopped
    finally:
        agent.close()
        for listener in listeners:
            await listener.close()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)


class Agent:
    """The state of one agent. `stopped` is done when it was asked to shut down."""

    def __init__(
        self,
        config: AgentConfig,
        models: Mapping[str, RunnableModel | LayerGraph],
        data: Transport,
        executor: Executor | None,
        site: Site | None = None,
    ) -> None:
        self.config = config
        self._site = site or Site()
        self._loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[None] = self._loop.create_future()
        self._models = dict(models)
        self._peers = Peers(config.name, data, self._lose, config.connect_s, self._room)
        self._orchestrator: Outbox | None = None
        self._told = Told(config.bounds.backlog)
        self._run: str | None = None
        self._compute = ComputeQueue(self._loop, executor)
        self._requests = Requests(config.name, self._compute, self._peers.post, self._emit, config.bounds)
        self._weights = Weights(config.name, self._models, self._compute, self._peers.dial, self._peers.post)
        self._probes = Probes(config.name, self._peers.post, config.probe_s)
        self._inbound = Inbound(config.name, self._requests, self._weights, self._probes, self._gone)
        self._lag_timer: asyncio.TimerHandle | None = None
        if config.lag_interval_s is not None:
            self._sample_lag(None)

    def close(self) -> None:
        """Stop everything; nothing is sent any more."""
        self._compute.close()
        self._requests.close()
        self._weights.close()
        self._peers.hang_up()
        self._probes.close()
        if self._lag_timer is not None:
            self._lag_timer.cancel()

    async def attend_peer(self, channel: Channel) -> None:
        """Take what one peer sends, until its connection ends; then it counts as lost."""
        await self._inbound.attend(channel)

    def _gone(self, peer: str, reason: str) -> None:
        if not self.stopped.done():
            self._lose(peer, reason)

    def _lose(self, peer: str, reason: str) -> None:
        self._weights.lost(peer, reason)
        self._requests.peer_lost(peer, reason)
        self._requests.windows.lost(peer)

    def _room(self, peer: str, message: Message) -> None:
        """A peer is through with a request that this host opened there. Raises ProtocolError."""
        check_fields(message.kind, message.fields)
        self._requests.windows.room(peer, (message.fields["epoch"], message.fields["request"]))

    # -- control plane -------------------------------------------------------------------------------------------------------

    async def attend_control(self, channel: Channel) -> None:
        """Carry out what an orchestrator asks, until its connection ends."""
        outbox = Outbox(channel, self.config.name)
        try:
            while True:
                message = await channel.receive()
                identity = message.fields.get("id", message.fields.get("request", 0))
                try:
                    if message.kind not in CONTROL_KINDS:
                        raise ProtocolError(f"a message of kind {message.kind!r} has no place on the control plane")
                    check_fields(message.kind, message.fields)
                    if message.kind == "shutdown":
                        outbox.post(Message("ok", {"id": identity}))
                        await outbox.flush()
                        break
                    self._control(outbox, message)
                except (NodeError, KeyError, TypeError, ValueError) as error:
                    log.warning("%s: cannot %s: %s", self.config.name, message.kind, error)
                    name = type(error).__name__ if isinstance(error, NodeError) else ProtocolError.__name__
                    outbox.post(Message("refused", {"id": identity, "error": name, "text": str(error)}))
        except ProtocolError as error:
            outbox.post(Message("refused", {"id": 0, "error": "ProtocolError", "text": str(error)}))
            await outbox.flush()
            raise
        except ChannelError:
            if self._orchestrator is not outbox or not self.config.exit_with_control:
                return
            log.info("%s: the orchestrator is gone", self.config.name)
        finally:
            await outbox.close()
            if self._orchestrator is outbox:
                self._orchestrator = None
            self._site.gone(outbox)
        await channel.close()
        if not self.stopped.done():
            self.stopped.set_result(None)

    def _control(self, outbox: Outbox, message: Message) -> None:
        kind, fields = message.kind, message.fields
        if kind == "submit":
            self._requests.submit(fields["request"], fields["epoch"], fields["input"], float(fields["deadline_s"]))
        elif kind == "configure":
            self._configure(outbox, fields)
        elif kind == "install":
            self._install(outbox, fields)
        elif kind == "retire":
            self._requests.retire(fields["epoch"])
        elif kind == "share":
            if not 0.0 <= fields["cpu_share"] < float("inf"):
                raise ProtocolError(f"a CPU share of {fields['cpu_share']!r}")
            self._compute.set_share(float(fields["cpu_share"]))
        elif kind == "whole":
            self._whole(outbox, fields)
        elif kind == "probe":
            if fields.get("peer") not in self._peers:
                raise ProtocolError(f"probe: {self.config.name} was given no address of {fields.get('peer')!r}")
            self._probes.send(outbox, fields, real=self.config.tensors == "real")
        elif kind == "ping":
            self._requests.going_on.over(fields.get("over", ()))
            self._told.over(fields.get("over", ()))
            outbox.post(Message("ok", {"id": fields["id"]}))
        elif kind == "tell":
            for message in (message for request in fields["requests"] for message in self._told.again(request)):
                outbox.post(message)
            outbox.post(Message("ok", {"id": fields["id"], "running": self._requests.running(fields["requests"])}))
        elif kind == "held":
            vertices = self._requests.going_on.held(fields["request"], fields["epoch"])
            outbox.post(Message("ok", {"id": fields["id"], "vertices": vertices}))
        elif kind == "resume":
            what = (fields["request"], fields["was"], fields["epoch"], fields["provide"], fields["input"])
            self._requests.going_on.resume(*what, float(fields["deadline_s"]))
            outbox.post(Message("ok", {"id": fields["id"]}))
        elif kind == "spoil":
            self._spoil(fields["peer"], fields["how"])
            outbox.post(Message("ok", {"id": fields["id"]}))
        elif kind in ("hold", "upload", "stop"):
            self._weights.control(outbox, kind, fields)
        elif kind in SITE_KINDS:
            own = {"name": self.config.name, "tier": self.config.tier, "busy": self._orchestrator is not None, "run": self._run}
            self._site.answer(outbox, message, **own)
        elif kind == "stats":
            outbox.post(Message("ok", {"id": fields["id"], **self.stats()}))
        else:
            raise ProtocolError(f"{kind!r} is for the orchestrator, not for an agent")

    def _spoil(self, peer: str, how: str) -> None:
        """Fault injection: spoil the next frame to a peer. Raises ProtocolError."""
        if not self.config.faults:
            raise ProtocolError(f"spoil: {self.config.name} was not started for faults to be injected")
        self._peers.spoil(peer, how)

    def _configure(self, outbox: Outbox, fields: dict[str, Any]) -> None:
        mode, tensors = fields["mode"], fields["tensors"]
        route = fields.get("route", self.config.route)
        encoding = fields.get("input_encoding", self.config.input_encoding)
        for value, kind in ((mode, Mode), (tensors, Tensors), (route, Route), (encoding, Encoding)):
            if value not in get_args(kind):
                raise ProtocolError(f"configure: {value!r} is not one of {', '.join(get_args(kind))}")
        most = fields.get("in_flight", self.config.bounds.requests)
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise ProtocolError(f"configure: {most!r} requests in flight; a whole number from 1 on is needed")
        windows = fields.get("windows", {})
        if not isinstance(windows, dict) or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in windows.values()):
            raise ProtocolError(f"configure: {windows!r} as windows; a whole number from 1 on is needed for each host")
        if mode == "measured" and tensors == "sizes":
            raise ProtocolError("configure: compute cannot be measured with sizes only; use mode modelled or real tensors")
        if tensors == "real" and (bare := [name for name, model in self._models.items() if isinstance(model, LayerGraph)]):
            raise ModelError(f"configure: {self.config.name} has only the graphs of {', '.join(bare)}, no weights")
        same = self._run is not None and fields.get("run") == self._run  # the one that is connected has died, unnoticed
        if self._orchestrator not in (None, outbox) and self._orchestrator.open and not same:
            raise ProtocolError(f"configure: {self.config.name} is busy with another run; one orchestrator at a time")
        self.config = replace(self.config, mode=mode, tensors=tensors, route=route, input_encoding=encoding)
        self._requests.modelled = mode == "modelled"
        self._requests.recovery = bool(fields.get("recovery", False))
        self._requests.most = most
        if fields.get("fresh", False):  # others have gone on without this host: nothing that it still has for them counts
            self._requests.clear()
            self._told.clear()
            self._peers.hang_up()
            self._weights.clear()
        self._requests.windows.configure(windows)
        self._orchestrator, self._run = outbox, fields.get("run")
        self._peers.configure(fields["peers"])
        if tensors == "real" and self._models:
            Numerics(next(iter(self._real().values())), encoding, self.config.threads).prepare()
        outbox.post(Message("ok", {"id": fields["id"], "name": self.config.name, "tier": self.config.tier, "version": VERSION}))
        for message in self._told.waiting():
            outbox.post(message)

    def _install(self, outbox: Outbox, fields: dict[str, Any]) -> None:
        plan = Plan.from_dict(fields["plan"])
        model = self._model(plan.model)
        modelled = self.config.mode == "modelled"
        route = fields.get("route", self.config.route)
        if route not in get_args(Route):
            raise ProtocolError(f"install: route {route!r} is not one of {', '.join(get_args(Route))}")
        epoch = compile_epoch(
            plan,
            (model if isinstance(model, LayerGraph) else model.graph) if self.config.tensors == "sizes" else model,
            self.config.name,
            route=route,
            encoding=self.config.input_encoding,
            steps_s=fields["steps_s"] if modelled else None,
            tiles_s=fields["tiles_s"] if modelled else None,
            vertices_s=fields.get("vertices_s") if modelled else None,
            threads=self.config.threads,
            seed=int(fields.get("seed", 0)),
        )
        if unknown := [host for host in epoch.contacts if host not in self._peers]:
            raise PlanError(f"{self.config.name} was given no address of {', '.join(unknown)}, which the plan makes it send to")
        self._weights.check(epoch)
        self._requests.install(epoch)
        self._peers.warm(epoch.contacts)
        outbox.post(Message("ok", {"id": fields["id"], "epoch": epoch.number}))

    def _whole(self, outbox: Outbox, fields: dict[str, Any]) -> None:
        identity, seed = fields["id"], fields["input"]
        model = self._model(fields["model"])
        if self.config.tensors == "sizes":
            graph = model if isinstance(model, LayerGraph) else model.graph
            sizes = Sizes(graph, self.config.input_encoding)
            outbox.post(Message("ok", {"id": identity}, tuple(sizes.whole[v] for v in graph.outputs)))
            return
        assert not isinstance(model, LayerGraph)
        numerics = Numerics(model, self.config.input_encoding, self.config.threads)

        def answered(answer: Any, error: BaseException | None) -> None:
            if error is not None:
                outbox.post(Message("refused", {"id": identity, "error": type(error).__name__, "text": str(error)}))
            else:
                outbox.post(Message("ok", {"id": identity, "label": model.label(seed)}, answer))

        self._compute.offload(lambda: numerics.whole(seed), answered)

    # -- small things --------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """See `d3node.stats`."""
        sent = self._peers.bytes_sent + self._weights.bytes_sent + self._inbound.bytes_sent
        received = self._peers.bytes_received + self._inbound.bytes_received
        return stats.gather(self._requests, self._compute, sent, received)

    def _model(self, name: str) -> RunnableModel | LayerGraph:
        model = self._models.get(name)
        if model is None:
            known = ", ".join(self._models) or "none"
            raise ModelError(f"{self.config.name} has not loaded model {name!r}; it has: {known}")
        return model

    def _real(self) -> dict[str, RunnableModel]:
        return {name: model for name, model in self._models.items() if not isinstance(model, LayerGraph)}

    def _emit(self, message: Message) -> None:
        if self._orchestrator is not None and self._orchestrator.open:
            self._orchestrator.post(message)
            if self._requests.recovery:
                self._told.told(message)
        elif self._requests.recovery:
            self._told.later(message)
        else:
            log.info("%s: nobody to tell of %s %s", self.config.name, message.kind, message.fields.get("request"))

    def _sample_lag(self, due: float | None) -> None:
        assert self.config.lag_interval_s is not None
        now = self._loop.time()
        if due is not None:
            self._compute.totals.late_s.append(max(0.0, now - due))
        due = now + self.config.lag_interval_s
        self._lag_timer = self._loop.call_at(due, self._sample_lag, due)
