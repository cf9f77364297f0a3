"""Errors of the node side.

NodeError
├── ModelError          a model cannot be found, loaded, captured or cut as asked
├── PlanError           a plan that is not legal for its graph, or an unknown epoch
├── ComputeError        a part or a tile failed while it ran
├── DeadlineExceeded    a request was not done in time
├── Overloaded          a host has as many requests in hand as it takes
├── ClockError          virtual time cannot go on: everybody waits, somebody polls, or a thread is involved
└── ChannelError        a connection cannot be made or used
    ├── ProtocolError   the peer sent something that is not a legal message
    ├── AuthenticationError  the peer did not prove that it knows the run's secret
    ├── ChannelClosed   the peer is gone, or closed its side
    └── PeerLost        a host that a request needs is gone or cannot be reached
"""

from __future__ import annotations


class NodeError(Exception):
    """Root of all errors raised by `d3node`; the text says what, where and what to do next."""


class ModelError(NodeError):
    """A model cannot be found, loaded, captured or cut as asked."""


class PlanError(NodeError):
    """A plan that is not legal for its graph, or an epoch that was never installed."""


class ComputeError(NodeError):
    """A part or a tile failed while it ran."""


class ClockError(NodeError):
    """Virtual time cannot go on: everybody waits, somebody polls, or a thread is involved."""


class DeadlineExceeded(NodeError):
    """A request was not done in time."""


class Overloaded(NodeError):
    """A host has as many requests in hand as it takes."""


class ChannelError(NodeError):
    """A connection cannot be made or used."""


class ProtocolError(ChannelError):
    """The peer sent something that is not a legal message."""


class AuthenticationError(ChannelError):
    """The peer did not prove that it knows the run's secret."""


class WrongRole(AuthenticationError):
    """A peer belongs to the run, but asks for what its certificate does not entitle it to."""


class ChannelClosed(ChannelError):
    """The peer is gone, or closed its side of the connection."""


class PeerLost(ChannelError):
    """A host that a request needs is gone or cannot be reached."""
