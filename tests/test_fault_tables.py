"""What a scenario may say of faults and recovery, and in which words it is told what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from orchestration import scenario

from testbed.errors import ScenarioError
from testbed.orchestrator.world import prepare
from testbed.scenario.json_schema import json_schema
from testbed.scenario.load import build, load
from testbed.scenario.plain import from_plain, to_plain

TEXT = """\
[model]
names = "alexnet"

[links.backbone]
rate = "10 Mbit/s"

[[fault]]
kind = "kill"
at = "12 s"
for = "5 s"
host = "e2"

[[fault]]
kind = "partition"
when = "request 3"
hosts = "d1"

[recovery]
heartbeat = "0.1 s"
"""


def faulty(*faults: dict[str, Any], **recovery: Any) -> dict[str, Any]:
    return {
        "name": "f",
        "model": {"names": "alexnet"},
        "links": {"backbone": {"rate": "1 Mbit/s"}},
        "fault": list(faults),
        "recovery": recovery,
    }


def test_faults_are_read_with_units_and_defaults(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(TEXT)
    found = load(tmp_path / "f.toml")
    kill, cut = found.fault
    assert (kill.at, kill.lasts, kill.host, kill.request, kill.target) == (12.0, 5.0, "e2", None, "e2")
    assert (cut.at, cut.request, cut.hosts, cut.lasts, cut.target) == (None, 3, ("d1",), None, "d1")
    assert (found.recovery.heartbeat, found.recovery.detect, found.recovers) == (0.1, 0.6, "resume")
    assert from_plain(json.loads(json.dumps(to_plain(found)))) == found


def test_a_manifest_gives_the_same_faults(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(TEXT)
    found = load(tmp_path / "f.toml")
    (tmp_path / "manifest.json").write_text(json.dumps({"scenario": found.model_dump(mode="json")}))
    assert load(tmp_path).model_dump() == found.model_dump()


def test_without_faults_nothing_recovers() -> None:
    assert scenario().recovers == "none"
    assert scenario(recovery={"mode": "restart"}).recovers == "restart"
    assert scenario(fault=[{"kind": "kill", "host": "e1", "at": "1 s"}], recovery={"mode": "none"}).recovers == "none"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"kind": "kill", "host": "e2"}, "exactly one of at"),
        ({"kind": "kill", "host": "e2", "at": "1 s", "when": "request 1"}, "exactly one of at"),
        ({"kind": "kill", "host": "e2", "when": "soon"}, 'when is "request N"'),
        ({"kind": "kill", "at": "1 s"}, 'needs host, such as host = "e2"'),
        ({"kind": "kill", "host": "e2", "at": 3}, "a duration is a string with a unit"),
        ({"kind": "kill", "host": "e2", "at": "1 s", "factor": 3}, 'factor does nothing with kind = "kill"'),
        ({"kind": "slow", "host": "e2", "at": "1 s"}, "needs factor"),
        ({"kind": "slow", "host": "e2", "at": "1 s", "factor": 1}, "greater than 1"),
        ({"kind": "flap", "link": "backbone", "at": "1 s", "period": "1 s"}, 'needs for, such as for = "5 s"'),
        ({"kind": "flap", "link": "backbone", "at": "1 s", "for": "4 s"}, "needs period"),
        ({"kind": "loss", "link": "backbone", "at": "1 s"}, "needs loss"),
        ({"kind": "partition", "hosts": [], "at": "1 s"}, "names nobody"),
        ({"kind": "corrupt", "host": "e1", "peer": "e1", "at": "1 s"}, "both e1"),
        ({"kind": "corrupt", "host": "e1", "peer": "c1", "at": "1 s", "for": "2 s"}, "for does nothing"),
        ({"kind": "orchestrator", "at": "1 s"}, "needs for"),
        ({"kind": "explode", "at": "1 s"}, "kill"),
        ({"kind": "kill", "hsot": "e2", "at": "1 s"}, 'unknown key "hsot" in [fault.0]; did you mean "host"?'),
    ],
)
def test_mistakes_are_named(fault: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        build(faulty(fault))
    assert said in str(caught.value)


def test_a_mistake_is_placed_in_the_fault_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(TEXT.replace('when = "request 3"', 'when = "request 3"\nfactor = 2'))
    with pytest.raises(ScenarioError, match=r"f\.toml:13: fault\.1: factor does nothing"):
        load(tmp_path / "f.toml")


def test_detection_takes_longer_than_a_heartbeat() -> None:
    with pytest.raises(ScenarioError, match="every host would be taken for dead"):
        build(faulty(detect="0.2 s"))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"kind": "kill", "host": "e22", "at": "1 s"}, "no host 'e22'; did you mean \"e2\"?"),
        ({"kind": "down", "link": "backbon", "at": "1 s"}, "no link 'backbon'; did you mean \"backbone\"?"),
        ({"kind": "partition", "hosts": ["d1", "x"], "at": "1 s"}, "no host 'x'"),
        ({"kind": "corrupt", "host": "d1", "peer": "cloud", "at": "1 s"}, "fault 1, peer"),
        ({"kind": "partition", "hosts": ["d1", "e1", "e2", "c1"], "at": "1 s"}, "hosts on both sides"),
    ],
)
def test_names_are_those_of_the_topology(fault: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        prepare(scenario(fault=[fault]))
    assert said in str(caught.value)


def test_a_frame_between_hosts_that_have_nothing_to_say_to_each_other_cannot_be_spoiled() -> None:
    sites = {"name": "two_sites", "devices": 1, "edges": 1}
    for peer, good in (("eb1", False), ("ea1", True), ("c1", True)):
        asked = scenario(topology=sites, fault=[{"kind": "corrupt", "host": "da1", "peer": peer, "at": "1 s"}])
        if good:
            prepare(asked)
        else:
            with pytest.raises(ScenarioError, match=r"fault 1, peer: da1 and eb1 are of different sites"):
                prepare(asked)


@pytest.mark.parametrize(
    ("fault", "good"),
    [
        ({"kind": "kill", "host": "e2", "at": "1 s", "for": "2 s"}, True),
        ({"kind": "partition", "hosts": "d1", "at": "1 s"}, True),
        ({"kind": "partition", "hosts": ["d1"], "at": "1 s"}, True),
        ({"kind": "kill", "host": "e2", "at": 1}, False),
        ({"kind": "killed", "host": "e2", "at": "1 s"}, False),
        ({"kind": "kill", "host": "e2", "lasts": "1 s"}, False),
    ],
)
def test_the_json_schema_agrees_with_the_loader(fault: dict[str, Any], good: bool) -> None:
    raw = faulty(fault)
    assert Draft202012Validator(json_schema()).is_valid(raw) == good
