"""What an emulated network is built from, in plain values that travel as JSON into its namespaces.

Needs neither Mininet nor netlink, so that a backend can say what is missing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from testbed.scenario.state import LinkState
from topologies.layout import Direction, Host, Layout, Link

if TYPE_CHECKING:  # the schema takes longer to import than all else here
    from testbed.scenario.schema import Switch

DIRECTIONS: tuple[Direction, ...] = ("up", "down")
FRAME_BYTES = 1514
"""A full Ethernet frame as queues count it: 1500 of payload and 14 of header."""

BURST_S, BURST_GROWS_FROM_BPS, LONGEST_BURST_S = 0.0001, 100e6, 0.0005
"""Time's worth of tokens that a link may save up; see `burst_bytes`."""

SOCKET_BUFFER_BYTES = 64 << 20
"""How far the buffers of a TCP connection may grow on an emulated host. Linux's own limits (4 MiB to send, 6 MiB to receive) hold
windows of about 3 MB, less than 500 Mbit/s fill at a round trip of 100 ms: the link, not the socket, shall limit a flow."""

Key = tuple[str, Direction]


def burst_bytes(rate_bps: float) -> int:
    """Tokens that a link may save while it idles: what makes up for a timer that fires 0.1 ms late, and not a whole frame.

    HTB sends while its tokens are not negative, so one frame is free whatever the burst, and every byte of burst is free on top.
    Above 100 Mbit/s a frame takes less time than a timer is late, and the burst grows (to 0.5 ms at 500 Mbit/s) so that the rate
    is reached. Chosen with `python -m benchmarks.links --bursts`.
    """
    seconds = min(LONGEST_BURST_S, BURST_S * max(1.0, rate_bps / BURST_GROWS_FROM_BPS))
    return max(1, int(rate_bps * seconds / 8))


def queue_bytes(rate_bps: float, delay_s: float) -> int:
    """Default queue of a link: 200 ms at its highest rate beside the round trip, at least 100 full frames."""
    return max(100 * FRAME_BYTES, int(rate_bps * (0.2 + 2 * delay_s) / 8))


def scaled(state: LinkState, time_scale: float) -> LinkState:
    """The state that the kernel must hold where a scenario runs `time_scale` times slower."""
    return LinkState(state.rate_bps / time_scale, state.delay_s * time_scale, state.loss, state.jitter_s * time_scale)


@dataclass(frozen=True)
class NetworkSpec:
    """`states` and `queues` (bytes) are keyed by link and direction; times and rates are those of the wall clock. `seed`: of
    losses and jitter.

    `stages`: 1 shapes with HTB only, 2 with HTB and then netem, None with two where the kernel has netem.
    """

    layout: Layout
    states: dict[Key, LinkState]
    queues: dict[Key, int]
    offload: bool = False
    slow_start_after_idle: bool = False
    congestion_control: str = "cubic"
    seed: int = 0
    stages: int | None = None
    switch: Switch = "linux-bridge"


@dataclass(frozen=True)
class AgentsSpec:
    """Agents to fork: `configs` are the fields of `d3node.agent.AgentConfig` by host, `data` and `control` their addresses.

    `tensors` "sizes": of the models, only the graphs are loaded. `cgroups`: descriptor of the folder of control groups, in which
    the hosts of `limited` have one of their name.
    """

    models: dict[str, dict[str, Any]]
    threads: int
    secret: str
    configs: dict[str, dict[str, Any]]
    data: dict[str, str]
    control: dict[str, str]
    time_scale: float = 1.0
    tensors: str = "real"
    cgroups: int | None = None
    limited: tuple[str, ...] = ()


@dataclass(frozen=True)
class EmulationSpec:
    """Everything that is started in the namespaces. `captures`: link name -> file to write."""

    network: NetworkSpec
    agents: AgentsSpec | None = None
    captures: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        network = self.network
        layout = network.layout
        plain = {name: getattr(network, name) for name in _PLAIN}
        plain["layout"] = {
            "name": layout.name,
            "hosts": [[h.name, h.tier, h.site] for h in layout.hosts],
            "switches": list(layout.switches),
            "links": [[x.name, x.role, x.a, x.b] for x in layout.links],
        }
        plain["states"] = [[*key, s.rate_bps, s.delay_s, s.loss, s.jitter_s] for key, s in network.states.items()]
        plain["queues"] = [[*key, size] for key, size in network.queues.items()]
        return {
            "network": plain,
            "agents": None if self.agents is None else asdict(self.agents),
            "captures": self.captures,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> EmulationSpec:
        """Read what `to_dict` wrote."""
        network, layout = raw["network"], raw["network"]["layout"]
        return cls(
            network=NetworkSpec(
                layout=Layout(
                    name=layout["name"],
                    hosts=tuple(Host(*fields) for fields in layout["hosts"]),
                    switches=tuple(layout["switches"]),
                    links=tuple(Link(*fields) for fields in layout["links"]),
                ),
                states={(link, direction): LinkState(*state) for link, direction, *state in network["states"]},
                queues={(link, direction): size for link, direction, size in network["queues"]},
                **{name: network[name] for name in _PLAIN},
            ),
            agents=None if raw["agents"] is None else AgentsSpec(**raw["agents"]),
            captures=raw["captures"],
        )


_PLAIN = ("offload", "slow_start_after_idle", "congestion_control", "seed", "stages", "switch")
