"""Requests: when they are made, that each ends exactly once, and that a new plan drops none."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest
from orchestration import FakeSession, agree, chain, costs, layout, scenario, virtual

from d3node.channel import Message
from d3node.plan import Plan
from testbed.errors import AgentError, TraceError
from testbed.orchestrator.control import Fleet
from testbed.orchestrator.epochs import Epoch, Epochs
from testbed.orchestrator.loads import arrivals, input_seed, input_seeds
from testbed.orchestrator.tracker import DEADLINE_MARGIN_S, REPORT_GRACE_S, Request, Tracker
from testbed.scenario.demand import demand_of, mean_rate
from traces.trace import Trace

GRAPH = chain(3)
PLAN = Plan("p", "chain", ("device", "device", "edge", "cloud"), {"device": "d1", "edge": "e1", "cloud": "c1"})


class Bench:
    """A tracker over agents that stay silent, fed by hand."""

    def __init__(self) -> None:
        self.session = FakeSession(layout())
        self.over: list[Request] = []

    async def start(self, deadline_s: float = 10.0) -> Epoch:
        self.fleet = Fleet(self.session)  # type: ignore[arg-type]
        await self.fleet.open(scenario())
        self.epochs = Epochs(self.fleet, "relay")
        self.tracker = Tracker(self.fleet, self.epochs, deadline_s, self.over.append)
        self.fleet.on_push, self.fleet.on_lost = self.tracker.push, self.tracker.host_lost
        return await self.epochs.install(GRAPH, PLAN, costs(GRAPH))

    async def submit(self, epoch: Epoch, number: int = 0) -> Request:
        return await self.tracker.submit(number, "d1", epoch, 7, False, 0.0)

    def report(self, request: Request, *hosts: str) -> None:
        for host in hosts:
            fields = {"request": request.wire_id, "epoch": 1, "host": host, "records": [], "bytes_sent": 0, "bytes_received": 0}
            self.tracker.push(host, Message("report", fields))

    def done(self, request: Request, at: float = 1.0) -> None:
        self.tracker.push("d1", Message("done", {"request": request.wire_id, "epoch": 1, "submitted_at": 0.5, "done_at": at}))

    def kinds(self, host: str) -> list[str]:
        return [m.kind for m in self.session.channels[host].sent]


def test_late_word_of_an_earlier_session_ends_no_request_of_this_one() -> None:
    """Requests are numbered anew in each session, plans are not. Chaos found it (seed 429)."""

    async def main() -> None:
        bench = Bench()
        earlier = await bench.start()
        session = Tracker(bench.fleet, bench.epochs, 10.0, bench.over.append)
        epoch = await bench.epochs.install(GRAPH, PLAN, costs(GRAPH))
        request = await session.submit(0, "d1", epoch, 7, False, 0.0)
        late = {"request": request.wire_id, "epoch": earlier.number, "submitted_at": 0.0, "done_at": 1.0}
        session.push("d1", Message("failed", {**late, "error": "DeadlineExceeded", "text": "not done"}))
        session.push("d1", Message("done", {**late, "request": 99}))
        assert not request.ended.is_set()
        assert session.stray == 0
        session.push("d1", Message("done", {**late, "epoch": epoch.number}))
        assert request.ended.is_set()
        assert request.error == ""

    virtual(main())


def test_fixed_arrivals_are_evenly_spaced() -> None:
    found = arrivals(scenario(requests={"arrival": "fixed", "rate": "4 /s", "count": 4}), "d1")
    assert found is not None
    assert list(found) == [0.0, 0.25, 0.5, 0.75]


def test_arrivals_follow_the_rate_of_a_trace_and_repeat_with_the_seed() -> None:
    """Per row of the trace, over many periods, as many as its rate says; none while the rate is 0."""
    rates = (2.0, 0.0, 8.0)
    demand = Trace("load", (0.0, 10.0, 15.0), {"requests_per_s": rates}, 20.0)
    table = {"arrival": "poisson", "trace": "load", "count": 30_000}
    found = list(arrivals(scenario(requests=table), "d1", demand) or ())
    assert found == sorted(found)
    assert found == list(arrivals(scenario(requests=table), "d1", demand) or ())
    periods = found[-1] / 20.0
    at = [sum(first <= moment % 20.0 < end for moment in found) / periods for first, end in ((0, 10), (10, 15), (15, 20))]
    assert at == [pytest.approx(20.0, rel=0.03), 0.0, pytest.approx(40.0, rel=0.03)]


def test_a_day_of_load_can_pass_in_a_minute_at_the_same_rates() -> None:
    day = scenario(requests={"arrival": "poisson", "trace": "day", "trace_scale": 0.5, "trace_speed": 1440})
    demand = demand_of(day)
    assert demand is not None
    assert demand.period_s == pytest.approx(60.0)
    assert mean_rate(day, demand) == pytest.approx(0.5, rel=1e-3)
    assert demand.at(47.6)["requests_per_s"] == max(demand.columns["requests_per_s"])  # seven in the evening


def test_a_trace_that_ends_without_requests_is_refused(tmp_path) -> None:
    (tmp_path / "night.csv").write_text("time_s,requests_per_s\n0,0\n60,\n")
    quiet = scenario(requests={"arrival": "poisson", "trace": str(tmp_path / "night.csv")})
    with pytest.raises(TraceError, match="never be over"):
        demand_of(quiet)
    with pytest.raises(TraceError, match="needed here: requests_per_s"):
        demand_of(scenario(requests={"arrival": "poisson", "trace": "lte"}))


def test_poisson_arrivals_repeat_with_the_seed_and_differ_between_devices() -> None:
    table = {"arrival": "poisson", "rate": "10 /s", "count": 4000}
    first, again, other = (list(arrivals(scenario(requests=table), device) or ()) for device in ("d1", "d1", "d2"))
    reseeded = list(arrivals(scenario(requests=table, seed=4), "d1") or ())
    assert first == again
    assert first[:5] != other[:5]
    assert first[:5] != reseeded[:5]
    assert first == sorted(first)
    assert first[-1] == pytest.approx(400.0, rel=0.1)


def test_distinct_inputs_come_in_turn() -> None:
    known = scenario(requests={"distinct_inputs": 3, "count": 9})
    assert [input_seed(known, i) for i in range(5)] == [3, 4, 5, 3, 4]
    assert input_seeds(known) == [3, 4, 5]


def test_a_request_is_over_when_it_has_ended_and_all_hosts_reported() -> None:
    async def main() -> None:
        bench = Bench()
        request = await bench.submit(await bench.start())
        bench.report(request, "d1")
        bench.done(request)
        assert request.ended.is_set()
        assert not bench.over
        bench.report(request, "c1", "e1")
        assert bench.over == [request]
        assert (request.submitted_at, request.done_at, request.error) == (0.5, 1.0, "")
        await bench.tracker.drain()
        await bench.fleet.close()

    virtual(main())


def test_a_second_end_is_noticed_and_changes_nothing() -> None:
    async def main() -> None:
        bench = Bench()
        request = await bench.submit(await bench.start())
        bench.done(request)
        bench.done(request, at=9.0)
        bench.report(request, "d1", "e1", "c1")
        bench.done(request, at=9.0)
        assert (request.done_at, bench.tracker.stray, len(bench.over)) == (1.0, 2, 1)
        await bench.fleet.close()

    virtual(main())


def test_a_missing_report_delays_only_so_long() -> None:
    async def main() -> None:
        bench = Bench()
        request = await bench.submit(await bench.start())
        bench.done(request)
        bench.report(request, "d1", "e1")
        begun = asyncio.get_running_loop().time()
        await bench.tracker.drain()
        assert asyncio.get_running_loop().time() - begun == pytest.approx(REPORT_GRACE_S)
        assert bench.tracker.unreported == 1
        await bench.fleet.close()

    virtual(main())


def test_a_request_that_its_device_never_ends_is_given_up() -> None:
    async def main() -> None:
        bench = Bench()
        request = await bench.submit(await bench.start(deadline_s=3.0))
        await request.ended.wait()
        assert asyncio.get_running_loop().time() == pytest.approx(3.0 + DEADLINE_MARGIN_S)
        assert request.error == "DeadlineExceeded"
        await bench.tracker.drain()
        await bench.fleet.close()

    virtual(main())


@pytest.mark.parametrize("answered", [True, False])
def test_a_cancelled_waiter_ends_no_request(answered: bool) -> None:
    """A run that is stopped cancels whoever waits; the request still ends once, by its answer or by being given up."""

    async def main() -> None:
        bench = Bench()
        request = await bench.submit(await bench.start())
        waiter = asyncio.create_task(request.ended.wait())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert not request.ended.is_set()
        if answered:
            bench.done(request)
            bench.report(request, "d1", "e1", "c1")
        else:
            bench.tracker.abandon("Interrupted", "the run was interrupted")
        await bench.tracker.drain()
        assert (request.error, bench.tracker.stray) == ("" if answered else "Interrupted", 0)
        assert request.done_at > 0.0 or not answered
        await bench.fleet.close()

    virtual(main())


def test_failures_keep_their_name_and_text() -> None:
    async def main() -> None:
        bench = Bench()
        request = await bench.submit(await bench.start())
        fields = {
            "request": request.wire_id,
            "epoch": 1,
            "error": "ComputeError",
            "text": "no",
            "submitted_at": 0.0,
            "done_at": 2.0,
        }
        bench.tracker.push("d1", Message("failed", fields))
        await bench.tracker.drain()
        assert (request.error, request.error_text) == ("ComputeError", "no")
        await bench.fleet.close()

    virtual(main())


def test_a_lost_agent_ends_its_requests_and_those_made_later() -> None:
    async def main() -> None:
        bench = Bench()
        epoch = await bench.start()
        request = await bench.submit(epoch)
        bench.session.channels["e1"].drop()
        await request.ended.wait()
        later = await bench.submit(epoch, 1)
        assert later.ended.is_set()
        assert [r.error for r in (request, later)] == ["AgentError"] * 2
        assert "e1" in later.error_text
        with pytest.raises(AgentError, match="e1"):
            await bench.fleet.clients["e1"].call("stats")
        await bench.fleet.close()

    virtual(main())


def test_an_old_epoch_is_retired_after_its_last_request_only() -> None:
    async def main() -> None:
        bench = Bench()
        old = await bench.start()
        flying = await bench.submit(old)
        new = await bench.epochs.install(GRAPH, PLAN, costs(GRAPH))
        assert new.number == old.number + 1
        bench.epochs.supersede(old)
        await bench.epochs.settle()
        assert "retire" not in bench.kinds("c1")
        bench.done(flying)
        bench.report(flying, "d1", "e1", "c1")
        await bench.epochs.settle()
        for host in ("d1", "e1", "c1"):
            assert bench.kinds(host)[-1] == "retire"
            assert bench.session.channels[host].sent[-1].fields == {"epoch": old.number}
        assert "retire" not in bench.kinds("e2"), "a host without a share in the plan is not bothered"
        assert list(bench.epochs.installed) == [new.number]
        await bench.fleet.close()

    virtual(main())


def test_an_agent_that_refuses_is_quoted() -> None:
    def refuse(message: Message) -> list[Message]:
        if message.kind != "install":
            return agree(message)
        return [Message("refused", {"id": message.fields["id"], "error": "PlanError", "text": "not today"})]

    async def main() -> None:
        bench = Bench()
        bench.session = FakeSession(layout(), refuse)
        with pytest.raises(AgentError, match="PlanError: not today"):
            await bench.start()
        await bench.fleet.close()

    virtual(main())


def test_poisson_streams_do_not_depend_on_how_many_are_taken() -> None:
    few, many = (arrivals(scenario(requests={"arrival": "poisson", "rate": "1 /s", "count": n}), "d1") for n in (3, 30))
    assert list(few or ()) == list(islice(many or (), 3))
