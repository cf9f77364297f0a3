"""One link that several connections share max-min fairly, each with a limit of its own: when is which message through?

The leader's LAN link on paper: what it sends to the other hosts at once, and what they send back. Connections send one message
after the other; those that are sending share the link evenly, and none gets more than the link of the host at its other end.
Twice: `through_s` for the messages of one stack, `all_through_s` for thousands of candidate stacks at once; the tests hold the
two together, and both to the events of `lan.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Message:
    """`bits` on the wire, to be sent from second `ready_s` on, in a connection's turn."""

    connection: str
    ready_s: float
    bits: float


def through_s(messages: Sequence[Message], rates: Mapping[str, float], rate_bps: float) -> list[float]:
    """Second at which each message has been sent. `rates`: bit/s that a connection can have, none above the link's `rate_bps`."""
    queues: dict[str, list[int]] = {}
    for index in sorted(range(len(messages)), key=lambda i: (messages[i].ready_s, i), reverse=True):
        queues.setdefault(messages[index].connection, []).append(index)
    left = [message.bits for message in messages]
    finished = [0.0] * len(messages)
    names = sorted(queues, key=lambda name: rates[name])  # in this order each gets its limit or an even share of what is left
    now = 0.0
    while queues:
        upcoming = float("inf")
        sending: list[int] = []
        for name in names:
            ready = messages[queues[name][-1]].ready_s
            if ready <= now:
                sending.append(queues[name][-1])
            else:
                upcoming = min(upcoming, ready)
        free, share = rate_bps, {}
        for place, index in enumerate(sending):
            share[index] = min(rates[messages[index].connection], free / (len(sending) - place))
            free -= share[index]
        upcoming = min([upcoming, *(now + left[index] / share[index] for index in sending)])
        for index in sending:
            if now + left[index] / share[index] <= upcoming:
                name, finished[index] = messages[index].connection, upcoming
                queues[name].pop()
                if not queues[name]:
                    del queues[name]
            else:
                left[index] -= share[index] * (upcoming - now)
        names = [name for name in names if name in queues]
        now = upcoming
    return finished


def all_through_s(ready_s: Floats, bits: Floats, rates: Floats, rate_bps: float) -> Floats:
    """The same for many stacks, one message a connection: shapes [stacks, connections], and [connections] for `rates`.
    What has no bits is through when it is ready (infinity stays infinity)."""
    order = np.argsort(rates, kind="stable")
    limits, left, ready = rates[order], bits[:, order], ready_s[:, order]
    finished = ready.copy()
    waiting = left > 0.0
    now = np.zeros((len(bits), 1))
    while waiting.any():
        sending = waiting & (ready <= now)
        taken = np.cumsum(np.where(sending, limits, 0.0), axis=1)
        others = np.cumsum(sending[:, ::-1], axis=1)[:, ::-1]
        shares = np.where(sending, (rate_bps - taken + limits) / np.maximum(others, 1), 0.0)
        # the even shares rise up to that of the first connection that its limit does not bind, and fall behind it
        share = np.minimum(limits, shares.max(axis=1, keepdims=True))
        ends = np.where(sending, now + left / np.where(sending, share, 1.0), np.inf)
        upcoming = np.minimum(ends, np.where(waiting & ~sending, ready, np.inf)).min(axis=1, keepdims=True)
        over = sending & (ends <= upcoming)
        finished = np.where(over, upcoming, finished)
        waiting &= ~over
        going_on = waiting.any(axis=1, keepdims=True)
        passed = np.subtract(upcoming, now, out=np.zeros_like(now), where=going_on)
        left = np.where(sending, left - share * passed, left)
        now = np.where(going_on, upcoming, now)
    result = np.empty_like(finished)
    result[:, order] = finished
    return result


def evenly_through_s(bits: Floats, rate_bps: float) -> Floats:
    """`all_through_s` in closed form where everything is ready at second 0 and only the link limits: the k-th smallest message is
    through when all smaller ones are, and as much of every larger one."""
    order = np.argsort(bits, axis=1, kind="stable")
    size = np.take_along_axis(bits, order, axis=1)
    count = bits.shape[1]
    steps = np.diff(size, axis=1, prepend=0.0) * np.arange(count, 0, -1)
    result = np.empty_like(bits)
    np.put_along_axis(result, order, np.cumsum(steps, axis=1) / rate_bps, axis=1)
    return result
