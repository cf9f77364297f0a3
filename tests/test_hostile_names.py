"""Names and paths from scenarios, and root: nothing reaches a shell, nothing leaves its folder, no secret is written anywhere."""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from orchestration import scenario

from d3node.channel import Message
from d3node.errors import AuthenticationError, ModelError
from d3node.tcp import TcpTransport
from testbed import machine, owner
from testbed.backends.mininet import MininetBackend
from testbed.errors import TestbedError
from testbed.orchestrator import run
from testbed.orchestrator.folder import RunFolder
from testbed.orchestrator.world import prepare
from testbed.scenario.load import load
from topologies.layout import Host, Layout, Link

ROOT = Path(__file__).parent.parent
SCENARIO = """name = NAME
[model]
names = ["alexnet"]
[links.access]
rate = "100 Mbit/s"
[links.lan]
rate = "1 Gbit/s"
[links.backbone]
rate = "10 Mbit/s"
"""
FORBIDDEN = ("os.system", "os.popen", "asyncio.create_subprocess_shell", "pickle.loads", "pickle.load", "eval", "exec")
SHELLS = {"sh", "bash", "/bin/sh"}
FIXED_SCRIPTS = {"testbed/machine.py"}
"""Where a shell runs texts of our own, that no name from elsewhere is part of (`testbed doctor`)."""


def hostile(trace: Path) -> list[str]:
    return [
        f"x; touch {trace}",
        f"$(touch {trace})",
        f"`touch {trace}`",
        "../../escaped",
        "/tmp/escaped",
        "a\nb",
        "",
        "-rf",
        "..",
    ]


@pytest.mark.parametrize("place", ["d3node", "testbed", "topologies", "traces", "analysis"])
def test_no_code_of_ours_starts_a_shell_with_words_from_elsewhere(place: str) -> None:
    for path in (ROOT / place).rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                shell = next((k.value for k in node.keywords if k.arg == "shell"), None)
                assert shell is None or ast.unparse(shell) == "False", f"{where}:{node.lineno}: shell=..."
                forbidden = (
                    "os.system",
                    "os.popen",
                    "asyncio.create_subprocess_shell",
                    "pickle.loads",
                    "pickle.load",
                    "eval",
                    "exec",
                )
                assert called not in forbidden, f"{where}:{node.lineno}: {called}"
            if isinstance(node, ast.List):
                texts = [item.value for item in node.elts if isinstance(item, ast.Constant)]
                assert where in FIXED_SCRIPTS or not ("-c" in texts and SHELLS & {str(t) for t in texts}), (
                    f"{where}:{node.lineno}"
                )


@pytest.mark.parametrize("number", range(9))
def test_a_scenarios_name_cannot_lead_out_of_the_folder_of_runs(number: int, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    name = hostile(trace)[number]
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO.replace("NAME", json.dumps(name)))
    if number < 3 and "/" not in name:
        load(str(path))
    else:
        with pytest.raises(TestbedError, match="cannot name a run's folder"):
            load(str(path))
    assert not trace.exists()


KEYS = ["model.names", "topology.name", "links.backbone.trace", "planning.planners", "hosts.edge.profile"]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 7, 8])  # an empty profile is none, and legal
@pytest.mark.parametrize("key", KEYS)
def test_hostile_names_in_any_place_are_refused_in_words_and_run_nothing(key: str, number: int, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO.replace("NAME", '"plain"'))
    prepare(load(str(path)))  # without the hostile name it is a good one
    with pytest.raises((TestbedError, ModelError)):
        prepare(load(str(path), [f"{key}={json.dumps(hostile(trace)[number])}"]))
    assert not trace.exists()


@pytest.mark.parametrize("key", KEYS)
def test_the_command_line_says_what_is_wrong_with_a_hostile_name(key: str, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO.replace("NAME", '"plain"'))
    setting = f"{key}={json.dumps(hostile(trace)[0])}"
    command = [sys.executable, "-m", "testbed.cli", "run", str(path), "--backend", "sim", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--set", setting], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert not trace.exists()


@pytest.mark.parametrize("name", ["a/b", "../x", "x;y", "$(x)", "", "a b"])
def test_a_layout_with_odd_names_is_refused(name: str) -> None:
    hosts = (Host("d1", "device"), Host("e1", "edge"), Host("c1", "cloud"))
    links = (Link("access", "access", "d1", "e1"), Link("backbone", "backbone", "e1", "c1"))
    Layout("plain", hosts, (), links).check()
    with pytest.raises(ValueError, match="cannot name a link"):
        Layout("odd", hosts, (), (Link(name, "access", "d1", "e1"), links[1])).check()
    with pytest.raises(ValueError, match=r"cannot name a host|leads to"):
        Layout("odd", (*hosts, Host(name, "edge")), (), links).check()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="what sudo does needs root")
def test_under_sudo_a_run_folder_belongs_to_who_called_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").write_text("root's")
    monkeypatch.setenv("SUDO_UID", "12345")
    monkeypatch.setenv("SUDO_GID", "12346")
    folder = RunFolder(tmp_path / "runs" / "mine")
    (folder.path / "capture").mkdir()
    (folder.path / "capture" / "backbone.pcap").write_bytes(b"")
    (folder.path / "link").symlink_to(tmp_path / "elsewhere")
    folder.save_manifest(run=1)
    folder.close()
    made = [tmp_path / "runs", *(tmp_path / "runs").rglob("*")]
    assert len(made) > 8
    assert {(os.lstat(path).st_uid, os.lstat(path).st_gid) for path in made} == {(12345, 12346)}
    assert (tmp_path / "elsewhere").stat().st_uid == tmp_path.stat().st_uid == 0
    monkeypatch.delenv("SUDO_UID")
    owner.make(tmp_path / "again")
    assert (tmp_path / "again").stat().st_uid == 0


def test_doctor_says_what_root_is_needed_for() -> None:
    facts = machine.facts()
    assert any("namespaces" in line for line in facts["root_for"])
    assert any("capture" in line for line in facts["root_for"])


def test_no_log_no_answer_and_no_command_line_of_an_agent_holds_the_secret() -> None:
    """A real agent at its most talkative, an orchestrator with a wrong secret and one with the right one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        secret = secrets.token_hex(16)
        (folder / "secret").write_text(secret)
        command = [sys.executable, "-m", "d3node.cli", "serve", "--name", "d1", "--tier", "device", "--verbose"]
        command += ["--listen", "127.0.0.1:0", "--control", f"unix:{folder}/control", "--secret-file", str(folder / "secret")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = process.stdout.readline()
        address = said.split(" on ")[1].split(",")[0]
        assert secret not in Path(f"/proc/{process.pid}/cmdline").read_text()

        async def main() -> None:
            with pytest.raises(AuthenticationError) as refused:
                await TcpTransport(b"another secret of 16").connect(address)
            assert "another secret" not in str(refused.value)
            channel = await TcpTransport(secret.encode()).connect(f"unix:{folder}/control")
            fields = {"id": 1, "peers": {"e1": "127.0.0.1:1"}, "mode": "modelled", "tensors": "sizes"}
            for kind, more in (("configure", fields), ("probe", {"id": 2, "peer": "e1", "size": 9}), ("shape", {"id": 3})):
                await channel.send(Message(kind, more))
                assert secret not in repr(await asyncio.wait_for(channel.receive(), 60.0))
            channel.abort()

        asyncio.run(main())
        process.terminate()
        out, err = process.communicate()
        assert err
        for text in (said, out, err):
            assert secret not in text
            assert secret.encode().hex() not in text


@pytest.mark.emulation
@pytest.mark.slow
def test_a_run_on_an_emulated_network_leaves_its_secret_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drawn: list[bytes] = []
    draw = secrets.token_bytes

    def noted(count: int | None = None) -> bytes:
        drawn.append(draw(count))
        return drawn[-1]

    monkeypatch.setattr(secrets, "token_bytes", noted)  # the run's secret, and the orchestrator's nonces
    caplog.set_level(logging.DEBUG)
    asked = scenario(links={"backbone": {"rate": "20 Mbit/s"}}, requests={"count": 1, "warmup": 0})
    run(asked, MininetBackend(), tmp_path / "run")
    assert len(drawn) > 3
    texts = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    texts.append(caplog.text.encode())
    assert len(texts) > 5
    for one in drawn:
        for form in (one, one.hex().encode(), base64.b64encode(one), repr(one).encode()):
            assert not any(form in text for text in texts)
