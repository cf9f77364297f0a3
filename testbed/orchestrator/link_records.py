"""What a session leaves in links.csv: every state of every link, and totals; and how these stand against the reports."""

from __future__ import annotations

from collections.abc import Mapping

from testbed.backends.base import LinkCounters
from testbed.orchestrator.account import WIDE_AREA_ROLES, Ledger, LinkBytes
from testbed.orchestrator.fidelity import PairFacts, backbone_gap
from testbed.orchestrator.replay import DIRECTIONS, Done
from testbed.orchestrator.results import seconds
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.truth import LinkKey
from topologies.layout import Direction

Counters = Mapping[LinkKey, LinkCounters]


class LinkRecords:
    """Writes the records of one session's links, and notes in its facts what they say of its fidelity."""

    def __init__(self, stage: Stage, names: dict[str, str], ledger: Ledger, facts: PairFacts) -> None:
        self._stage = stage
        self._names = names
        self._ledger = ledger
        self._facts = facts
        self._losses: dict[LinkKey, float] = {}
        self._shares: list[Done] = []

    def states(self) -> None:
        """A row for every state that a link direction has had since the last call."""
        carried_out, self._stage.replay.done = self._stage.replay.done, []
        for done in carried_out:
            step = done.step
            self._facts.trace_late_s = max(self._facts.trace_late_s, done.late_s)
            if step.state is None or step.direction is None:
                self._shares.append(done)
                continue
            key = (step.name, step.direction)
            self._losses[key] = max(step.state.loss, self._losses.get(key, 0.0))
            self._stage.folder.links.add(
                {
                    **self._names,
                    "link": step.name,
                    "direction": step.direction,
                    "kind": "state",
                    "at_s": seconds(step.at_s),
                    "late_s": seconds(done.late_s),
                    "rate_bps": f"{step.state.rate_bps:.3f}",
                    "delay_s": seconds(step.state.delay_s),
                    "loss": f"{step.state.loss:g}",
                }
            )

    def shares(self) -> None:
        """An event for every CPU share of a host with a trace, once all `states` are told."""
        for done in self._shares:
            step = done.step
            if self._stage.world.hosts[step.name].trace is not None:
                fields = {"host": step.name, "at_s": step.at_s, "late_s": done.late_s, "cpu_share": step.share}
                self._stage.journal.emit("share", **self._names, **fields)

    def totals(self, before: Counters, after: Counters, now_s: float, judged: bool = True) -> None:
        """A row of totals for every link direction. Unless `judged`, nothing is concluded from them."""
        for link in self._stage.world.layout.links:
            for direction in DIRECTIONS:
                key = (link.name, direction)
                counted = _since(before.get(key), after.get(key))
                reported = self._ledger.links.get(key, LinkBytes())
                if judged and counted is not None and link.role in WIDE_AREA_ROLES and direction == "up":
                    back = self._ledger.links.get((link.name, _other(direction)), LinkBytes())
                    self._facts.gaps[f"{link.name} {direction}"] = backbone_gap(
                        counted,
                        reported,
                        back,
                        max(self._losses.values(), default=0.0),  # what is lost elsewhere crosses this link again, too
                        complete=not self._facts.failed and not self._facts.cut_short,
                    )
                self._stage.folder.links.add(
                    {
                        **self._names,
                        "link": link.name,
                        "direction": direction,
                        "kind": "total",
                        "at_s": seconds(now_s),
                        "wire_bytes": "" if counted is None else counted.wire_bytes,
                        "packets": "" if counted is None else counted.packets,
                        "drops": "" if counted is None else counted.drops,
                        "lost": "" if counted is None else counted.lost,
                        "messages": reported.messages,
                        "message_bytes": reported.message_bytes,
                        "weights_bytes": reported.weights_bytes,
                        "framed_bytes": f"{reported.framed_bytes:.0f}",
                    }
                )


def _since(before: LinkCounters | None, after: LinkCounters | None) -> LinkCounters | None:
    if after is None:
        return None
    if before is None:
        return after
    names = ("wire_bytes", "packets", "drops", "lost")
    return LinkCounters(*(getattr(after, name) - getattr(before, name) for name in names))


def _other(direction: Direction) -> Direction:
    return "down" if direction == "up" else "up"
