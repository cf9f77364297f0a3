"""What a scenario file may say: one frozen model per table, every quantity in SI once validated.

Reading files, overrides and error wording are in `load.py`; what the keys of `[links]` and `[hosts]` mean for a layout is in
`links.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from d3node.program import Route
from testbed.scenario.faults import FaultTable, Mode, RecoveryTable
from testbed.scenario.table import Table as Table
from testbed.scenario.units import Duration, Frequency, Rate, Share, Size

Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v), Field(min_length=1)]
"""One or more names; a single one may be given without brackets."""

Switch = Literal["linux-bridge", "open-vswitch"]


class ModelTable(Table):
    """`[model]`: which DNNs. A name from the zoo, "package.module:factory", "file.py:factory", or a `.pt2` file."""

    names: Names = Field(description="the networks, one after the other")
    seed: int = Field(default=0, description="of random weights")
    weights: dict[str, str] = Field(default_factory=dict, description="model name -> file with real weights (.safetensors)")
    input_encoding: Literal["float32", "uint8"] = Field(
        default="float32", description="how the input image travels from the device; decides how good cloud-only looks"
    )


class TopologyTable(Table):
    """`[topology]`: a registered layout and its sizes."""

    name: str = Field(
        default="three_tier",
        description="`three_tier`, `two_sites`, `fleet`, another registered one, or your own: `file.py:function`",
    )
    devices: int = Field(default=1, ge=1, description="how many (of each site)")
    edges: int = Field(default=4, ge=1, description="edge hosts (of each site)")
    cellular: bool = Field(default=False, description="a direct uplink from each device to the cloud (three_tier)")
    sites: int | None = Field(default=None, ge=1, description="how many sites (fleet); 20 there if absent")


class LinkTable(Table):
    """`[links.ROLE]` or `[links."NAME"]`: a link's state, and the trace that changes it. A name's table overrides its role's."""

    rate: Rate | None = Field(default=None, gt=0.0, description="towards the cloud; see above for defaults")
    rate_down: Rate | None = Field(default=None, gt=0.0, description='rate towards the devices; same as "rate" if absent')
    delay: Duration | None = Field(default=None, description="one way; 0 if absent")
    jitter: Duration | None = Field(
        default=None,
        description="a frame's delay is drawn from delay - jitter to delay + jitter; none overtakes; not in `sim`; 0 if absent",
    )
    loss: Share | None = Field(default=None, ge=0.0, lt=1.0, description="of packets, at random; 0 if absent")
    queue: Size | None = Field(default=None, gt=0.0, description="bytes of queue; derived from rate and delay if absent")
    trace: str | None = Field(default=None, description="file, name or generator of a trace; `none` takes a role's away")
    trace_direction: Literal["up", "down", "both"] | None = Field(
        default=None, description="which direction follows the trace; both if absent (up: away from the devices)"
    )
    trace_scale: float | None = Field(default=None, gt=0.0, description="multiplies the trace's rate")
    trace_offset: Duration | None = Field(default=None, description="start this far into the trace")
    trace_loop: bool | None = Field(default=None, description="from the start again after its end; the trace says if absent")


class HostTable(Table):
    """`[hosts.TIER]` or `[hosts."NAME"]`: what a host can compute."""

    profile: str | None = Field(default=None, description="a device description, or a profile file written by `testbed profile`")
    planner_profile: str | None = Field(
        default=None, description="what planners are told instead (a profile or a predictor file)"
    )
    speed: float | None = Field(default=None, gt=0.0, description="relative to the profile; 1 if absent")
    memory: Size | None = Field(
        default=None, gt=0.0, description="limit for parameters and tensors of a plan's part; none if absent"
    )
    in_flight: int | None = Field(
        default=None,
        ge=1,
        description="requests that it takes part in at a time; more are refused by name (error `Overloaded`). 16384 if absent",
    )
    backlog: int | None = Field(
        default=None,
        ge=1,
        description="requests of each host below (devices, edge leaders) that it has in hand at a time; more wait there. Not for "
        "devices. No bound if absent",
    )
    cpus: float | None = Field(
        default=None,
        ge=0.001,
        description="CPUs whose time it may take, by control groups (`measured` compute in `mininet` only); all if absent",
    )
    trace: str | None = Field(default=None, description="trace of the CPU share that is free")
    trace_loop: bool | None = Field(default=None, description="as for links")
    trace_offset: Duration | None = Field(default=None, description="start this far into the trace")


class ComputeTable(Table):
    """`[compute]`."""

    mode: Literal["modelled", "measured"] = Field(
        default="modelled", description="computing lasts as long as the profile says, or as long as it takes (real clocks only)"
    )
    tensors: Literal["real", "sizes"] = Field(
        default="real", description="real answers, checked against the whole model, or only as many bytes (no torch, fast)"
    )
    threads: int = Field(default=1, ge=1, description="of torch, in each agent")
    group_effects: bool = Field(
        default=False,
        description="with measured profiles: vertices that run together take what groups of so many took, not their sum",
    )


class NetworkTable(Table):
    """`[network]`."""

    route: Route = Field(default="relay", description="how tensors of the device reach the cloud")
    congestion_control: str = Field(default="cubic", description="of TCP; `sim` does not model it")
    slow_start_after_idle: bool = Field(default=False, description="Linux's own default is true; false keeps connections warm")
    offload: bool = Field(default=False, description="segmentation offload on the emulated interfaces")
    switch: Switch = Field(default="linux-bridge", description="what the layout's switches are; `open-vswitch` in `mininet` only")


class RequestsTable(Table):
    """`[requests]`: per device."""

    count: int = Field(default=10, ge=1, description="measured requests of each device, for every model and planner")
    arrival: Literal["closed", "fixed", "poisson"] = Field(
        default="closed", description="the next one after an answer, at a fixed rate, or at random moments"
    )
    rate: Frequency | None = Field(default=None, gt=0.0, description="for fixed and poisson arrivals")
    trace: str | None = Field(
        default=None, description="instead of `rate`, for poisson arrivals: a trace of the rate (column `requests_per_s`)"
    )
    trace_scale: float = Field(default=1.0, gt=0.0, description="multiplies the trace's rate")
    trace_speed: float = Field(
        default=1.0,
        gt=0.0,
        description="seconds of the trace in one of the scenario: 1440 makes a day a minute, rates as they are",
    )
    think_time: Duration = Field(default=0.0, description="pause after an answer (closed loop)", validate_default=False)
    warmup: int = Field(default=1, ge=0, description="requests before the measured ones, to warm connections")
    deadline: Duration = Field(
        default=60.0, gt=0.0, description="a request ends with an error after this long", validate_default=False
    )
    queue: int | None = Field(
        default=None,
        ge=1,
        description="requests of a device that may be in flight or waiting; more are shed (error `Shed`). No bound if absent",
    )
    distinct_inputs: int = Field(default=2, ge=1, description="different images, sent in turn")
    origins: int | None = Field(
        default=None, ge=1, description="only the first so many devices of each site make requests; all of them if absent"
    )

    @model_validator(mode="after")
    def _arrivals_have_a_rate(self) -> RequestsTable:
        if self.trace is not None:
            if self.arrival != "poisson" or self.rate is not None:
                raise ValueError('a trace is for arrival = "poisson", and instead of a rate (trace_scale scales it)')
            return self
        if {"trace_scale", "trace_speed"} & {key for key in self.model_fields_set if getattr(self, key) != 1.0}:
            raise ValueError("trace_scale and trace_speed do nothing without a trace")
        if self.arrival != "closed" and self.rate is None:
            raise ValueError(f'arrival = "{self.arrival}" needs a rate, such as rate = "2 /s"')
        if self.arrival == "closed" and self.rate is not None:
            raise ValueError('rate does nothing with arrival = "closed": leave it out, or say arrival = "fixed" or "poisson"')
        return self


class PlanningTable(Table):
    """`[planning]`: which planners, what they know, and when they are asked again."""

    planners: Names = Field(default=("d3",), description="registered names, or `file.py:NAME` of your own")
    replan: Literal["partial", "full", "never"] = Field(default="partial", description="how a change is answered")
    knowledge: Annotated[
        Literal["estimated", "true"],
        BeforeValidator(lambda given: "true" if given is True else given),  # unquoted in --set
    ] = Field(default="estimated", description="what planners know of links and hosts: what was observed, or all of it")
    interval: Duration = Field(default=0.2, gt=0.0, description="period of the control loop", validate_default=False)
    band: Share = Field(default=0.2, description="relative change that counts", validate_default=False)
    samples: int = Field(default=2, ge=1, description="consecutive samples outside the band before a trigger")
    detector: Literal["band", "cusum"] = Field(
        default="band", description="what counts as a change: samples in a row outside the band, or their cumulative sum"
    )
    hysteresis: Share = Field(
        default=0.0,
        description="install a new plan only where its predicted latency is shorter than the present plan's by this share",
        validate_default=False,
    )
    plan_cache: int = Field(
        default=0,
        ge=0,
        description="plans kept by the state they were made for, used again (by any device in it) without asking the planner",
    )
    smoothing: float = Field(default=0.5, gt=0.0, le=1.0, description="weight of the newest sample in the estimate")
    probe_interval: Duration | None = Field(default=None, gt=0.0, description="active probes this often; none if absent")
    probe_size: Size = Field(default=65536.0, ge=1.0, description="bytes that a probe sends", validate_default=False)
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the planners; a table for one of them (`[planning.options.hpa]`) overrides those for all",
    )


class RunTable(Table):
    """`[run]`."""

    time_scale: float = Field(
        default=1.0,
        gt=0.0,
        description="slow a real-time backend down by this factor, so that the machine can carry the scenario",
    )
    wall_limit: Duration | None = Field(default=None, gt=0.0, description="stop the run after this much wall-clock time")


def _plain_name(name: str) -> str:
    """Run folders are called by it: it must not lead out of the folder that they are made in."""
    plain = name.isprintable() and not set(name) & set("/\\") and not name.startswith((".", "-"))
    if not plain or not name.strip() or len(name) > 100:
        raise ValueError(f"{name[:40]!r} cannot name a run's folder: no slashes or control characters, no '.' or '-' at first")
    return name


Name = Annotated[str, AfterValidator(_plain_name)]


class Scenario(Table):
    """A whole scenario file. `links` and `hosts` are keyed by role/tier or by name."""

    name: Name = Field(description="what results call it", json_schema_extra={"default": "the file's name"})
    description: str = Field(default="", description="a line for people")
    seed: int = Field(default=0, description="of arrivals and input images")
    model: ModelTable
    topology: TopologyTable = TopologyTable()
    links: dict[str, LinkTable]
    hosts: dict[str, HostTable] = Field(default_factory=dict)
    compute: ComputeTable = ComputeTable()
    network: NetworkTable = NetworkTable()
    requests: RequestsTable = RequestsTable()
    planning: PlanningTable = PlanningTable()
    run: RunTable = RunTable()
    fault: tuple[FaultTable, ...] = ()
    recovery: RecoveryTable = RecoveryTable()
    directory: str = Field(default=".", description="folder that relative paths start from; set by the loader")

    @model_validator(mode="after")
    def _limits_need_measured_computing(self) -> Scenario:
        limited = [key for key, table in self.hosts.items() if table.cpus is not None]
        if limited and self.compute.mode != "measured":
            raise ValueError(
                f'hosts.{limited[0]}.cpus limits real computing: set compute.mode = "measured" (backend mininet), or leave '
                "it out (hosts.TIER.speed scales modelled times)"
            )
        return self

    @property
    def recovers(self) -> Mode:
        """What is done about hosts that are lost."""
        return self.recovery.mode or ("resume" if self.fault else "none")

    @property
    def faulty(self) -> bool:
        """Whether anything may go wrong on purpose, or is recovered from: results then say more."""
        return bool(self.fault) or self.recovers != "none"
