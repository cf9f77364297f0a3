"""What of a scenario the backend `mininet` alone can do, in the words with which others refuse it."""

from __future__ import annotations

from testbed.scenario.schema import Scenario


def refusals(scenario: Scenario) -> list[str]:
    """Why another backend cannot run a scenario; empty if nothing is in the way."""
    reasons = []
    if scenario.network.switch != "linux-bridge":
        reasons.append(
            f'network.switch = "{scenario.network.switch}" exists in backend mininet only: use --backend mininet, or leave it out'
        )
    limited = [key for key, table in scenario.hosts.items() if table.cpus is not None]
    if limited:
        reasons.append(f"hosts.{limited[0]}.cpus limits hosts in backend mininet only: use --backend mininet, or leave it out")
    return reasons
