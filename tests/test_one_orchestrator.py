"""An agent has one orchestrator at a time: a second one is refused when both have begun at once, and a mad agent stops nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from machines import machines
from orchestration import virtual

from d3node.channel import Message
from testbed.errors import AgentError
from testbed.hosts import inventory, reach
from testbed.orchestrator.control import AgentClient
from testbed.orchestrator.results import write_json


@pytest.mark.slow
def test_who_comes_second_is_refused_and_the_first_is_served_on(tmp_path: Path) -> None:
    """Both had been told that the agent was free; both runs took it, and the first one's requests ended at their deadlines."""

    async def main(file: Path) -> None:
        lab = inventory.read(file)
        first, second = [await reach.dial(lab, reach.transport(lab), "d1") for _ in range(2)]
        for line in (first, second):
            assert not (await line.ask("about")).fields["busy"]
        await first.ask("configure", peers={}, mode="measured", tensors="real")
        with pytest.raises(AgentError, match="d1 is busy with another run; one orchestrator at a time"):
            await second.ask("configure", peers={}, mode="measured", tensors="real")
        await first.ask("configure", peers={}, mode="modelled", tensors="real")  # the same one may say it again
        await first.close()
        async with asyncio.timeout(60.0):
            while (await second.ask("about")).fields["busy"]:
                await asyncio.sleep(0.05)
        await second.ask("configure", peers={}, mode="measured", tensors="real")
        await second.close()

    with machines(tmp_path / "lab", 8, hosts=("d1",)) as lab:
        asyncio.run(main(lab.inventory))


class MadChannel:
    """An agent whose second message cannot be made sense of."""

    peer = "d1"
    bytes_sent = bytes_received = 0

    def __init__(self) -> None:
        self.aborted = False
        self._said = [Message("ok", {"id": 7}), Message("report", {"records": 5})]

    async def send(self, message: Message) -> None:
        pass

    async def receive(self) -> Message:
        await asyncio.sleep(1.0)
        return self._said.pop(0)

    async def close(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def test_an_agent_that_says_what_makes_no_sense_is_lost_at_once() -> None:
    async def main() -> None:
        lost: list[str] = []
        channel = MadChannel()

        def push(host: str, message: Message) -> None:
            len(message.fields["records"])  # as the channel of a real machine does, whose times it corrects

        client = AgentClient("d1", channel, push, lambda _host, reason: lost.append(reason))  # type: ignore[arg-type]
        with pytest.raises(AgentError, match="makes no sense"):
            await client.call("stats")
        assert asyncio.get_running_loop().time() < 3.0
        assert channel.aborted
        assert len(lost) == 1
        await client.close()

    virtual(main())


def test_a_link_in_a_run_folder_is_not_written_through(tmp_path: Path) -> None:
    """Whoever may write into the folder of a run by root puts one there."""
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    for name in ("manifest.json", "manifest.json.tmp"):
        (tmp_path / name).symlink_to(theirs)
    write_json(tmp_path / "manifest.json", {"status": "running"})
    assert theirs.read_text() == "precious"
    assert not (tmp_path / "manifest.json").is_symlink()
