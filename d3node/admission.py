"""Who may connect, and how much memory all peers together may take: what one listener grants before and after a handshake.

Everything here is bounded itself: addresses that have been quiet are forgotten. The figures are `d3node.wire.Limits`'.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from d3node.wire import Limits

KNOWN_ADDRESSES: Final = 4096
"""Addresses that are remembered; the one that was seen longest ago makes room, if nothing of it is open."""


@dataclass(slots=True)
class _Address:
    """What one address has done. `tokens`: connections that it may open now; `until`: when it may come back after refusals."""

    tokens: float
    seen: float
    open: int = 0
    pending: int = 0
    refusals: int = 0
    until: float = 0.0


class Admission:
    """Counts connections of one listener. `enter` says why one may not be made; the others keep count."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self.open = 0
        self.pending = 0

    def enter(self, address: str, now: float) -> str | None:
        """Count a new connection in, in its handshake; or the reason to turn it away, which counts nothing."""
        limits = self._limits
        entry = self._entry(address, now)
        if self.open >= limits.connections:
            return f"there are {limits.connections} connections already; come back later"
        if self.pending >= limits.pending_handshakes:
            return "too many connections are waiting for their handshake; come back later"
        if address:
            if now < entry.until:
                return f"your address was refused {entry.refusals} times in a row; come back in {entry.until - now:.0f} s"
            if entry.pending >= limits.pending_per_address:
                return "too many connections of your address are waiting for their handshake; come back later"
            if entry.open >= limits.connections_per_address:
                return f"your address has {entry.open} connections already"
            entry.tokens = min(limits.connects_at_once, entry.tokens + (now - entry.seen) * limits.connects_per_s)
            entry.seen = now
            if entry.tokens < 1.0:
                return "your address connects too often; come back later"
            entry.tokens -= 1.0
        for count in (entry, self):
            count.open += 1
            count.pending += 1
        return None

    def settled(self, address: str, proved: bool) -> None:
        """The handshake is over; the peer has proved that it belongs here, or at least has not proved the contrary."""
        self.pending -= 1
        self._addresses[address].pending -= 1
        if proved:
            self._addresses[address].refusals = 0

    def refused(self, address: str, now: float) -> None:
        """A peer had no proof, or spoke nonsense. From the `refusals`-th in a row on it has to stay away, ever longer."""
        entry = self._addresses[address]
        entry.refusals += 1
        more = entry.refusals - self._limits.refusals
        if more >= 0:
            entry.until = now + min(self._limits.backoff_s * 2.0 ** min(more, 30), self._limits.longest_backoff_s)

    def leave(self, address: str) -> None:
        """A connection that was counted in is over."""
        self.open -= 1
        self._addresses[address].open -= 1

    def _entry(self, address: str, now: float) -> _Address:
        entry = self._addresses.get(address)
        if entry is None:
            self._make_room()
            entry = self._addresses[address] = _Address(self._limits.connects_at_once, now)
        self._addresses.move_to_end(address)
        return entry

    def _make_room(self) -> None:
        if len(self._addresses) >= KNOWN_ADDRESSES:
            for address, entry in self._addresses.items():
                if not entry.open:
                    del self._addresses[address]
                    return


class Budget:
    """Memory for what all peers of a transport have sent and nobody has taken yet. First come, first served."""

    def __init__(self, limit: int) -> None:
        self.taken = 0
        self._limit = limit
        self._waiting: deque[Callable[[], None]] = deque()
        self._serving = False
        self._refused = False

    def ask(self, nbytes: int) -> bool:
        """Take bytes if they are free (one frame may always be in the making) and nobody waits who came before."""
        if (self._waiting and not self._serving) or (self.taken and self.taken + nbytes > self._limit):
            return False
        self.taken += nbytes
        return True

    def wait(self, retry: Callable[[], None]) -> None:
        """Have `retry` called once it may be worth asking again; who is still refused then has to wait again."""
        if self._serving:
            self._waiting.appendleft(retry)
            self._refused = True
        else:
            self._waiting.append(retry)

    def forget(self, retry: Callable[[], None]) -> None:
        """Somebody waits no longer."""
        if retry in self._waiting:
            self._waiting.remove(retry)

    def give(self, nbytes: int) -> None:
        """Give bytes back."""
        self.taken -= nbytes
        if self._serving:
            return
        self._serving, self._refused = True, False
        try:
            while self._waiting and not self._refused:
                self._waiting.popleft()()
        finally:
            self._serving = False


def address_of(peer: object) -> str:
    """The address that counts as one peer: an IPv4 address, an IPv6 network of 64 bits; empty for a Unix socket."""
    if not isinstance(peer, tuple) or not peer:
        return ""
    try:
        found = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except ValueError:
        return str(peer[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False).network_address)
    return str(found)
