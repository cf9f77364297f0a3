"""Errors a user of the testbed can meet; each text says what is wrong, where, and what to do next.

TestbedError            exit code 1 unless stated
├── InputError          exit code 2: what the user gave cannot be used
│   ├── ScenarioError   a scenario file or a --set override (file and key named)
│   ├── TraceError      a trace file (file and line named)
│   ├── InventoryError  an inventory of machines (file and host named), or what it names
│   ├── PlannerError    an unknown planner, or an option it does not have
│   └── CapacityError   a plan that needs more memory than a host has
├── BackendError        exit code 2: this machine or backend cannot run this scenario (ways out named)
├── AgentError          a node agent died, refused or answered wrongly
└── RunError            the run could not be completed
"""

from __future__ import annotations


class TestbedError(Exception):
    """Root of all errors raised by `testbed`."""

    __test__ = False  # not a pytest class
    exit_code = 1


class InputError(TestbedError):
    """What the user gave cannot be used."""

    exit_code = 2


class ScenarioError(InputError):
    """A scenario file, or an override of one of its keys, is not valid."""


class TraceError(InputError):
    """A trace file cannot be read."""


class InventoryError(InputError):
    """An inventory of machines, or a file that it names, cannot be used."""


class PlannerError(InputError):
    """An unknown planner, or an option that it does not have."""


class CapacityError(InputError):
    """A plan needs more memory on a host than the scenario gives it, or no plan can do with less."""


class BackendError(TestbedError):
    """This machine or backend cannot run this scenario."""

    exit_code = 2


class AgentError(TestbedError):
    """A node agent died, refused, or answered wrongly."""


class RunError(TestbedError):
    """The run could not be completed."""
