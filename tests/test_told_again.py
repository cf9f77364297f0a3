"""What agents keep of what they have told, for an orchestrator that takes the place of one that has died."""

from __future__ import annotations

from d3node.channel import Message
from d3node.told import Told


def message(kind: str, request: int) -> Message:
    return Message(kind, {"request": request, "epoch": 1})


def test_what_was_told_is_told_again_until_it_is_on_record() -> None:
    told = Told(10)
    for kind in ("report", "done"):
        told.told(message(kind, 1))
    told.told(message("report", 2))
    again = told.again(1)
    assert [(one.kind, one.fields["again"]) for one in again] == [("report", True), ("done", True)]
    told.over([1, 7])
    assert told.again(1) == []
    assert len(told.again(2)) == 1
    told.clear()
    assert told.again(2) == []


def test_what_nobody_heard_is_told_first_and_counts_as_told_then() -> None:
    told = Told(10)
    told.later(message("done", 1))
    assert told.again(1) == []
    assert [one.kind for one in told.waiting()] == ["done"]
    assert list(told.waiting()) == []
    assert [one.kind for one in told.again(1)] == ["done"]


def test_only_so_much_is_kept_and_the_oldest_requests_go() -> None:
    told = Told(4)
    for request in range(5):
        told.told(message("report", request))
        told.told(message("done", request))
    assert [len(told.again(request)) for request in range(5)] == [0, 0, 0, 2, 2]
    for request in range(9):
        told.later(message("done", request))
    assert [one.fields["request"] for one in told.waiting()] == [5, 6, 7, 8]
