"""When to ask a planner again: a value left its band around what the plan was made with, for k samples in a row.

What the values are, and how they are measured, is `observe.py`'s business; what is done about it, `planning.py`'s.
"""

from __future__ import annotations

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
    _outside: dict[Key, int] = field(default_factory=dict)

    def reset(self, values: Mapping[Key, float], acted_on: Change | None = None) -> None:
        """A plan was made with these values: they are the centre of the bands from now on.

        With `acted_on` (a partial decision) only those of the change are: the others keep their centre, so that a slow drift
        is not forgotten each time that something else moves.
        """
        if acted_on is None:
            self.values = dict(values)
        else:
            self.values.update({key: value for key, value in values.items() if key not in self.values or _in(key, acted_on)})
        self._outside.clear()

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
            if self.outside(key, value):
                self._outside[key] = self._outside.get(key, 0) + 1
            else:
                self._outside.pop(key, None)
        if not any(count >= self.samples for count in self._outside.values()):
            return None
        keys = self._outside
        return Change(
            paths=frozenset(str(name) for kind, name in keys if kind in ("rate", "delay")),
            hosts=frozenset(str(name) for kind, name in keys if kind == "speed"),
            vertices=frozenset(int(name) for kind, name in keys if kind == "factor"),
        )

    @property
    def watching(self) -> bool:
        """True when some key is outside its band at the moment."""
        return bool(self._outside)


def _in(key: Key, change: Change) -> bool:
    kind, name = key
    return name in (change.paths if kind in ("rate", "delay") else change.hosts if kind == "speed" else change.vertices)
