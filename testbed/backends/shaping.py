"""Shaping of one direction of a link by netlink: rate and queue in an HTB class, delay and loss in netem one port further.

Two stages, because each alone is wrong somewhere: a token bucket lets a message begin for free, and netem keeps the old departure
times of queued packets when the rate changes. The HTB class is the reference: it holds the queue, its counters are the link's
counters, and it is changed in place (fixed handles, never deleted), so that no packet is lost or let through at a change.
Where the kernel has no netem, the first stage works alone and delay or loss are refused.

An outage (rate 0) is a gate, not a tiny rate: an HTB class in debt at a tiny rate would stay shut long after the outage. The
gate is a TBF above the HTB qdisc, wide open in normal times; closing it holds the queue but for a frame that is just leaving it,
opening it has effect at once. Which interfaces are shaped, and in which namespace, is `testbed.backends.wires`' business.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.tcmsg import plugins, sched_pfifo

from testbed.backends import gate, netem, queues
from testbed.backends.netspec import FRAME_BYTES, burst_bytes
from testbed.errors import BackendError
from testbed.scenario.state import LinkState

gate.teach()
netem.teach()
plugins.setdefault("bfifo", sched_pfifo)  # same options (one limit), in bytes

OUTAGE_BELOW_BPS = 1000.0
"""Rates below this are an outage: a full frame would take more than 12 s."""

_GATE, _HTB, _CLASS, _QUEUE, _DELAY = 0x10000, 0x20000, 0x20001, 0x30000, 0x10000
_OPEN_BYTES_S, _OPEN_BURST = 4_000_000_000, 1_000_000
_SHUT_BYTES_S = 1  # the least there is: the smallest frame in 66 s
_SHUT_CLASS_BYTES_S = 125_000_000
"""Rate of the class of a link that is made in an outage: it must not be in debt for long when the gate opens."""
_NETEM_FRAMES = 100_000
"""Frames that the delay stage may hold; the rate stage before it decides how many there are."""

_KICK = bytes.fromhex("0180c2000001") + bytes(6) + b"\x88\xb5" + bytes(46)
"""A frame to the address that no bridge forwards: it makes the kernel look at a queue whose gate was opened."""

_DRAIN = _KICK + bytes(FRAME_BYTES - len(_KICK))
"""A full frame of this kind: it takes the tokens that a gate has when it is shut, where no other frame is about to."""


@dataclass(frozen=True, slots=True)
class ClassCounters:
    """What the HTB class counted: bytes and packets sent, packets dropped on a full queue, times it had to wait; and the packets
    that netem lost behind it."""

    wire_bytes: int
    packets: int
    drops: int
    lost: int
    overlimits: int
    backlog_bytes: int

    def since(self, before: ClassCounters) -> ClassCounters:
        """What was counted after `before`; the backlog is that of now."""
        return ClassCounters(
            self.wire_bytes - before.wire_bytes,
            self.packets - before.packets,
            self.drops - before.drops,
            self.lost - before.lost,
            self.overlimits - before.overlimits,
            self.backlog_bytes,
        )


class Shaper:
    """One direction of a link: `first` is the index of the port that queues, `second` of the one that delays (netem) or None.

    `state` is what is in force, `burst` the policy for the tokens of a rate. Not thread-safe; uses the given netlink socket.
    """

    def __init__(
        self, netlink: IPRoute, name: str, first: int, second: int | None, state: LinkState, queue: int, seed: int | None = None
    ) -> None:
        self.name = name
        self.queue = queue
        self.state = state
        self._netlink = netlink
        self._first, self._second = first, second
        self._interface = socket.if_indextoname(first)
        self.burst: Callable[[float], int] = burst_bytes
        self._shut = False
        self._own_frames = self._own_bytes = 0
        rate = _SHUT_CLASS_BYTES_S if state.rate_bps < OUTAGE_BELOW_BPS else _bytes_s(state.rate_bps)
        self._tc("add", "tbf", first, handle=_GATE, rate=_OPEN_BYTES_S, burst=_OPEN_BURST, limit=_OPEN_BURST)
        self._tc("add", "htb", first, handle=_HTB, parent=_GATE | 1, default=_CLASS & 0xFFFF)
        self._class("add-class", rate)
        self._tc("add", "bfifo", first, handle=_QUEUE, parent=_CLASS, limit=queue)
        self._refuse_without_netem(state)
        if second is not None:
            self._netem("add", state, seed)
        self._gate(shut=state.rate_bps < OUTAGE_BELOW_BPS)
        self.check()

    def apply(self, state: LinkState) -> None:
        """Put a state in force, in place, and read it back. Raises BackendError if the kernel holds something else."""
        self._refuse_without_netem(state)
        if state.rate_bps < OUTAGE_BELOW_BPS:
            self._gate(shut=True)
        else:
            rising = state.rate_bps >= self.state.rate_bps
            if self._second is not None and rising:  # the second stage is never the narrower one
                self._netem("change", state)
            self._class("change-class", _bytes_s(state.rate_bps))
            if self._second is not None and not rising:
                self._netem("change", state)
            self._gate(shut=False)
        moved = (state.rate_bps < OUTAGE_BELOW_BPS) != (self.state.rate_bps < OUTAGE_BELOW_BPS)
        self.state = state
        self.check(with_gate=moved)

    def _refuse_without_netem(self, state: LinkState) -> None:
        if self._second is None and (state.delay_s > 0.0 or state.jitter_s > 0.0 or state.loss > 0.0):
            raise BackendError(f"link {self.name!r}: delay, jitter and loss need the kernel module sch_netem, which is not here")

    def check(self, with_gate: bool = True) -> None:
        """Raise BackendError unless the kernel's state is `self.state`. `with_gate`: look at the gate too."""
        outage = self.state.rate_bps < OUTAGE_BELOW_BPS
        if not outage:
            found = self._class_attributes("TCA_OPTIONS").get_attr("TCA_HTB_PARMS")
            wanted = _bytes_s(self.state.rate_bps)
            if (found["rate"], found["ceil"]) != (wanted, wanted):
                raise BackendError(f"link {self.name!r}: asked for {wanted} B/s, the kernel holds {found['rate']} B/s")
        if with_gate:
            rate = queues.qdisc(self._first, _GATE).get_attr("TCA_OPTIONS").get_attr("TCA_TBF_PARMS")["rate"]
            if rate != (_SHUT_BYTES_S if outage else _OPEN_BYTES_S):
                wanted_gate = "shut" if outage else "open"
                raise BackendError(f"link {self.name!r}: its gate should be {wanted_gate}, but lets {rate} B/s through")
        if self._second is not None and not outage:
            self._check_netem()

    def counters(self) -> ClassCounters:
        """Totals since the link was made, without the frames that this class sent itself."""
        stats = self._class_attributes("TCA_STATS2")
        basic, queue = stats.get_attr("TCA_STATS_BASIC"), stats.get_attr("TCA_STATS_QUEUE")
        return ClassCounters(
            wire_bytes=basic["bytes"] - self._own_bytes,
            packets=basic["packets"] - self._own_frames,
            drops=int(queue["drops"]),
            lost=self._lost(),
            overlimits=queue["overlimits"],
            backlog_bytes=queue["backlog"],
        )

    @property
    def seed(self) -> int | None:
        """The seed that netem draws losses and jitter with, as the kernel has it; None without netem, or before Linux 6.6."""
        if self._second is None:
            return None
        found = self._netem_found().get_attr("TCA_OPTIONS").get_attr("TCA_NETEM_PRNG_SEED")
        return None if found is None else int(found)

    def _lost(self) -> int:
        if self._second is None:
            return 0
        return int(self._netem_found().get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")["drops"])

    def _netem_found(self) -> Any:
        assert self._second is not None
        return queues.qdisc(self._second, _DELAY)

    def _class_attributes(self, name: str) -> Any:
        return queues.tclass(self._first, _CLASS).get_attr(name)

    def _class(self, verb: str, rate: int) -> None:
        burst = self.burst(rate * 8.0)
        self._tc(
            verb,
            "htb",
            self._first,
            handle=_CLASS,
            parent=_HTB,
            rate=rate,
            ceil=rate,
            burst=burst,
            cburst=burst,
            quantum=FRAME_BYTES,  # one class only: any legal quantum will do, and an explicit one keeps the kernel quiet
        )

    def _netem(self, verb: str, state: LinkState, seed: int | None = None) -> None:
        """Without a seed netem goes on drawing where it is."""
        self._tc(
            verb,
            "netem",
            self._second,
            handle=_DELAY,
            rate=_bytes_s(max(state.rate_bps, OUTAGE_BELOW_BPS)),
            delay_ns=round(state.delay_s * 1e9),
            jitter_ns=round(state.jitter_s * 1e9),
            loss=state.loss,
            limit=_NETEM_FRAMES,
            seed=seed,
        )

    def _check_netem(self) -> None:
        options = self._netem_found().get_attr("TCA_OPTIONS")
        rate = options.get_attr("TCA_NETEM_RATE64") or options.get_attr("TCA_NETEM_RATE")["rate"]
        delay_s, jitter_s = (options.get_attr(f"TCA_NETEM_{name}64") / 1e9 for name in ("LATENCY", "JITTER"))
        loss = options["loss"] / (2**32 - 1)
        asked = self.state
        off = max(abs(delay_s - asked.delay_s), abs(jitter_s - asked.jitter_s))
        if rate != _bytes_s(asked.rate_bps) or off > 2e-9 or abs(loss - asked.loss) > 1e-6:
            raise BackendError(
                f"link {self.name!r}: asked {_bytes_s(asked.rate_bps)} B/s, {asked.delay_s} s, jitter {asked.jitter_s}, "
                f"loss {asked.loss}; its netem holds {rate} B/s, {delay_s:.9f} s, jitter {jitter_s:.9f} s, loss {loss:.6f}"
            )

    def _gate(self, shut: bool) -> None:
        if shut == self._shut:
            return
        rate, burst = (_SHUT_BYTES_S, FRAME_BYTES) if shut else (_OPEN_BYTES_S, _OPEN_BURST)
        self._tc("change", "tbf", self._first, handle=_GATE, rate=rate, burst=burst, limit=_OPEN_BURST)
        self._shut = shut
        if not shut:
            self._send(_KICK)
        elif not self._class_attributes("TCA_STATS2").get_attr("TCA_STATS_QUEUE")["backlog"]:
            self._send(_DRAIN)

    def _send(self, frame: bytes) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.bind((self._interface, 0))
            raw.send(frame)
        self._own_frames += 1
        self._own_bytes += len(frame)

    def _tc(self, verb: str, kind: str, index: int | None, **options: Any) -> None:
        try:
            self._netlink.tc(verb, kind, index, **options)
        except Exception as error:
            raise BackendError(f"link {self.name!r}: the kernel refused {verb} {kind} {options}: {error}") from error


def _bytes_s(rate_bps: float) -> int:
    """What the kernel is given: whole bytes per second."""
    return max(1, round(rate_bps / 8.0))


def has_netem(netlink: IPRoute, index: int) -> bool:
    """Whether the kernel can add netem to an interface (it is taken off again); loads the module where that is allowed."""
    try:
        netlink.tc("add", "netem", index, handle=_DELAY, **netem.SOME)
    except Exception:
        return False
    netlink.tc("del", "netem", index, handle=_DELAY)
    return True
