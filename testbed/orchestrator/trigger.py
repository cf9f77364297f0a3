"""When to ask a planner again: a value left its band around what the plan was made with, for k samples in a row (D3), or what
samples are away from it adds up (CUSUM: ours, after Page, Biometrika 41, 1954).

What the values are, and how they are measured, is `observe.py`'s business; what is done about it, `planning.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from testbed.planners.base import Change

Kind = Literal["rate", "delay", "speed", "factor"]
Key = tuple[Kind, str | int]
"""("rate" | "delay", path name), ("speed", host) or ("factor", vertex)."""

FLOOR: Mapping[Kind, float] = {"rate": 1e3, "delay": 1e-3, "speed": 1e-6, "factor": 1e-6}
"""Smallest reference that a relative change is taken of: an outage counts as 1 kbit/s (as in `costs.network`), and delays below a
millisecond are all alike."""


@dataclass
class Trigger:
    """Relative band and count of samples; `values` are those that the current plan was made with."""

    band: float
    samples: int
    values: dict[Key, float] = field(default_factory=dict)
    _evidence: dict[Key, float] = field(default_factory=dict)

    def reset(self, values: Mapping[Key, float], acted_on: Change | None = None) -> None:
        """A plan was made with these values: they are the centre of the bands from now on.

        With `acted_on` (a partial decision) only those of the change are: the others keep their centre, so that a slow drift
        is not forgotten each time that something else moves.
        """
        if acted_on is None:
            self.values = dict(values)
        else:
            self.values.update({key: value for key, value in values.items() if key not in self.values or _in(key, acted_on)})
        self._evidence.clear()

    def outside(self, key: Key, value: float) -> bool:
        """Whether a value lies outside its band; a key without a reference never does."""
        known = self.values.get(key)
        if known is None:
            return False
        floor = FLOOR[key[0]]
        reference = max(known, floor)
        return abs(max(value, floor) - reference) > self.band * reference * (1.0 + 1e-9)

    def sample(self, values: Mapping[Key, float], fresh: Iterable[Key] | None = None) -> Change | None:
        """Take one sample of the values (of those in `fresh` only, where given); a change, once a key had k in a row outside.

        The change names every key that was outside in this sample or the last ones: what is about to cross need not wait.
        """
        for key in values if fresh is None else fresh:
            value = values.get(key)
            if value is None:
                continue
            if key not in self.values:
                self.values[key] = value
            evidence = self.weigh(key, value)
            if evidence > 0.0:
                self._evidence[key] = evidence
            else:
                self._evidence.pop(key, None)
        if not any(evidence >= self.samples for evidence in self._evidence.values()):
            return None
        keys = [key for key, evidence in self._evidence.items() if evidence >= 1.0]
        return Change(
            paths=frozenset(str(name) for kind, name in keys if kind in ("rate", "delay")),
            hosts=frozenset(str(name) for kind, name in keys if kind == "speed"),
            vertices=frozenset(int(name) for kind, name in keys if kind == "factor"),
        )

    @property
    def watching(self) -> bool:
        """True when something speaks for a change at the moment."""
        return bool(self._evidence)

    def weigh(self, key: Key, value: float) -> float:
        """What speaks for a change of a value after this sample: how many in a row were outside its band."""
        return self._evidence.get(key, 0.0) + 1.0 if self.outside(key, value) else 0.0


@dataclass
class Cusum(Trigger):
    """Cumulative sums instead of samples in a row: a sample adds its log distance from the reference, in bands, less half a band.

    So a value two bands away counts one and a half at once, one that stays a little inside the band counts, too, and noise around
    the reference cancels out. A change is told when a sum reaches `samples`.
    """

    _sums: dict[Key, tuple[float, float]] = field(default_factory=dict)

    def reset(self, values: Mapping[Key, float], acted_on: Change | None = None) -> None:
        """As for `Trigger`; all sums start again."""
        super().reset(values, acted_on)
        self._sums.clear()

    def weigh(self, key: Key, value: float) -> float:
        """The larger of the sums upwards and downwards."""
        floor, width = FLOOR[key[0]], math.log1p(max(self.band, 1e-9))
        away = math.log(max(value, floor) / max(self.values[key], floor)) / width
        up, down = self._sums.get(key, (0.0, 0.0))
        up, down = max(0.0, up + away - 0.5), max(0.0, down - away - 0.5)
        self._sums[key] = up, down
        return max(up, down)


def _in(key: Key, change: Change) -> bool:
    kind, name = key
    return name in (change.paths if kind in ("rate", "delay") else change.hosts if kind == "speed" else change.vertices)
