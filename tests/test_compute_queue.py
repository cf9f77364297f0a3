"""A host serves one computation at a time, and requests in the order in which they came, whatever step they are at."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from d3node.clock import VirtualLoop
from d3node.clock import run as run_on
from d3node.compute import ComputeQueue, Job


@dataclass(eq=False)
class Owner:
    name: str
    created: float
    ended: bool = False


def served(*wanted: tuple[float, Owner, float]) -> list[tuple[str, float]]:
    """(owner, start) of every computation in the order served; each is (moment it is ready, owner, seconds)."""
    order: list[tuple[str, float]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue = ComputeQueue(loop, None)

        def submit(owner: Owner, seconds: float) -> None:
            queue.submit(Job(owner, seconds, None, lambda job: order.append((owner.name, job.start))))

        for moment, owner, seconds in wanted:
            loop.call_at(moment, submit, owner, seconds)
        await asyncio.sleep(100.0)

    run_on(VirtualLoop(), main())
    return order


def test_a_later_step_of_an_earlier_request_goes_first() -> None:
    first, second, third = Owner("first", 0.0), Owner("second", 0.5), Owner("third", 0.6)
    found = served((0.0, first, 1.0), (0.5, second, 1.0), (0.6, third, 1.0), (0.9, first, 1.0), (1.5, second, 1.0))
    assert found == [("first", 0.0), ("first", 1.0), ("second", 2.0), ("second", 3.0), ("third", 4.0)]


def test_of_one_request_and_of_one_moment_what_is_ready_first_goes_first() -> None:
    a, b = Owner("a", 0.0), Owner("b", 0.0)
    assert [name for name, _ in served((0.0, a, 1.0), (0.1, b, 1.0), (0.2, a, 1.0))] == ["a", "b", "a"]


def test_what_runs_is_not_interrupted_and_the_dead_are_not_served() -> None:
    young, old, dead = Owner("young", 5.0), Owner("old", 1.0), Owner("dead", 0.0, ended=True)
    assert served((5.0, young, 2.0), (5.5, old, 1.0), (5.6, dead, 1.0)) == [("young", 5.0), ("old", 7.0)]
