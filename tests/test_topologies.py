"""Layouts: who is connected to whom, along which path, under which address; and the same as Mininet topologies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.backends import isolation
from topologies import fleet, three_tier, two_sites
from topologies.addresses import address, assign, behind, segments, upstream
from topologies.layout import Host, Layout, Link
from topologies.mininet_topo import Sizes

ROOT = Path(__file__).resolve().parent.parent


def test_three_tier_goes_from_device_over_lan_and_backbone_to_the_cloud() -> None:
    plan = three_tier.layout(Sizes(devices=2, edges=3))
    assert [link.name for link, _ in plan.path("d2", "c1")] == ["access-d2", "backbone", "core-c1"]
    assert [(link.name, way) for link, way in plan.path("e1", "e3")] == [("lan-e1", "up"), ("lan-e3", "down")]
    assert {link.role for link in plan.links} == {"access", "lan", "backbone", "core"}


def test_the_cellular_uplink_is_the_shorter_path_and_a_subnet_of_its_own() -> None:
    plan = three_tier.layout(Sizes(devices=2, edges=2, cellular=True))
    assert [link.name for link, _ in plan.path("d1", "c1")] == ["cellular-d1", "core-cellular-c1"]
    assert [link.name for link, _ in plan.path("e1", "c1")] == ["lan-e1", "backbone", "core-c1"]
    assert len(segments(plan)) == 2
    assert address(plan, "c1", "d1") != address(plan, "c1", "e1")
    assert len(set(assign(plan).values())) == len(assign(plan)) == 2 * 2 + 2 + 2


def test_each_of_two_sites_has_a_backbone_of_its_own() -> None:
    plan = two_sites.layout(Sizes(devices=1, edges=2))
    assert [link.name for link, _ in plan.path("da1", "c1")] == ["access-da1", "backbone-a", "core-c1"]
    assert [link.name for link, _ in plan.path("db1", "c1")] == ["access-db1", "backbone-b", "core-c1"]
    assert [host.name for host in plan.tier("edge", "b")] == ["eb1", "eb2"]
    with pytest.raises(ValueError, match="no cellular"):
        two_sites.layout(Sizes(cellular=True))


def test_a_fleet_has_as_many_sites_as_asked_for_each_with_its_own_backbone() -> None:
    plan = fleet.layout(Sizes(devices=10, edges=4, sites=20))
    assert len(plan.tier("device")) == 200
    assert [host.name for host in plan.tier("edge", "20")] == ["e20-1", "e20-2", "e20-3", "e20-4"]
    assert [link.name for link, _ in plan.path("d7-3", "c1")] == ["access-d7-3", "backbone-7", "core-c1"]
    assert [link.name for link, _ in plan.path("c1", "e9-2")] == ["core-c1", "backbone-9", "lan-e9-2"]
    assert len(set(assign(plan).values())) == 20 * 14 + 1
    for module in (three_tier, two_sites):
        with pytest.raises(ValueError, match=r"leave topology\.sites out"):
            module.layout(Sizes(sites=3))


def test_a_frame_crosses_a_link_upwards_when_its_sender_is_on_the_a_side() -> None:
    plan = three_tier.layout(Sizes(devices=1, edges=2, cellular=True))
    first = assign(plan)
    assert upstream(plan, "backbone") == {first["d1", "access-d1"], first["e1", "lan-e1"], first["e2", "lan-e2"]}
    assert upstream(plan, "cellular-d1") == {first["d1", "cellular-d1"]}
    assert behind(plan, "backbone", "s2") == {("c1", "core-c1")}


def test_a_loop_of_bridges_is_refused() -> None:
    hosts = (Host("d1", "device"), Host("c1", "cloud"))
    links = (
        Link("a", "access", "d1", "s1"),
        Link("b", "backbone", "s1", "s2"),
        Link("b2", "backbone", "s1", "s2"),
        Link("c", "core", "s2", "c1"),
    )
    with pytest.raises(ValueError, match="'b2' closes a loop"):
        assign(Layout("looped", hosts, ("s1", "s2"), links))


def test_two_links_of_a_host_into_one_subnet_are_refused() -> None:
    links = (Link("a", "access", "d1", "s1"), Link("a2", "access", "d1", "s1"))
    with pytest.raises(ValueError, match="into one subnet"):
        assign(Layout("doubled", (Host("d1", "device"),), ("s1",), links))


def test_layouts_need_no_mininet() -> None:
    code = (
        "import sys; sys.modules['mininet'] = None\n"
        "from topologies import three_tier\n"
        "from topologies.mininet_topo import Sizes\n"
        "assert three_tier.layout(Sizes()).hosts\n"
        "try:\n    three_tier.ThreeTier()\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "pip install mininet" in done.stdout


@pytest.mark.emulation
@pytest.mark.parametrize(
    "topology", ["three_tier,devices=2,edges=2,cellular=1", "two_sites,devices=1,edges=1", "fleet,sites=2,devices=1,edges=2"]
)
def test_mn_runs_the_topology_files(topology: str, tmp_path: Path) -> None:
    """With the `mn` of the OS package where there is one (its Python has none of this project's packages)."""
    name = topology.split(",")[0]
    command = ["mn", "--custom", str(ROOT / "topologies" / f"{name}.py"), "--topo", topology]
    command += ["--switch", "lxbr", "--controller", "none", "--test", "pingall"]
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "testbed.backends.isolation", "--", "sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path), *command],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env=variables,
        check=False,
    )
    assert re.search(r"Results: 0% dropped", done.stdout + done.stderr), done.stdout + done.stderr
    assert isolation.PRIVATE.exists()
