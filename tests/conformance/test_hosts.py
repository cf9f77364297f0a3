"""Backend `hosts` passes what of the conformance suite does not need links that obey: agents, requests, deaths, restarts, hangs.

Agents are processes on 127.0.5.x; the machines' operator, who may end them, is the test itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import stalls
from machines import Machines, machines
from stalls import Stalls

from conformance import checks
from conformance.checks import Check, Tolerance, judge, outcome_of_one_request
from conformance.fault_checks import FAULT_CHECKS
from conformance.scenario import MODEL, scenario
from testbed.backends.base import Session
from testbed.backends.hosts import HostsBackend
from testbed.backends.sim import SimBackend

HOSTS = Tolerance(small=0.35, transfer=0.35, share=0.5, settle_s=0.3, delays=False)
ASKED = scenario(delays=False)
APPLICABLE: tuple[Check, ...] = (
    checks.a_killed_agent_fails_its_requests_by_name,
    checks.control_channels_keep_order_and_tell_of_the_end,
    checks.backend_trusts_an_undisturbed_session,
    *FAULT_CHECKS,
)

pytestmark = [pytest.mark.long]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with machines(tmp_path_factory.mktemp("lab") / "made", 5, hosts=("d1", "d2", "e1", "e2", "c1"), model=MODEL) as started:
        yield started


@pytest.fixture(scope="module")
def watch() -> Iterator[Stalls]:
    with stalls.watching() as found:
        yield found


@pytest.mark.parametrize("check", APPLICABLE, ids=lambda check: check.__name__)
def test_conformance(check: Check, lab: Machines, watch: Stalls) -> None:
    for host in lab.hosts:
        if host not in lab.processes:
            lab.start(host)

    async def one(session: Session) -> None:
        await check(session, replace(HOSTS, stalls=watch.begin))

    HostsBackend(lab.inventory, lab).run(ASKED, one)


def test_a_request_ends_in_the_whole_models_answer_with_the_message_bytes_of_the_simulation(lab: Machines) -> None:
    found = HostsBackend(lab.inventory, lab).run(ASKED, lambda session: outcome_of_one_request(session, HOSTS))
    judge(found)
    assert found == SimBackend().run(ASKED, lambda session: outcome_of_one_request(session, HOSTS))
