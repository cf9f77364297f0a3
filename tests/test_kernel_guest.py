"""The guest: its time jumps, it may write only where it was told, it ends in every way it should, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from processes import descendants, gone, until

from testbed.errors import RunError, ScenarioError
from testbed.kernel import cache, guest, mapper, spool
from testbed.kernel.boot import Job
from testbed.kernel.cache import Kernel
from testbed.kernel.guest import JobError, Limits, Outcome

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
SMALL = 512

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build"),
]


def run(
    name: str, limits: Limits | None = None, listener: Any = None, writable: tuple[Path, ...] = (), **arguments: Any
) -> Outcome:
    kernel = cache.installed()
    assert isinstance(kernel, Kernel)
    return guest.run(kernel, Job(f"kernel_jobs:{name}", arguments, writable, memory_mib=SMALL), listener, limits)


def test_a_job_gets_its_arguments_and_gives_its_result_and_events():
    events: list[dict[str, Any]] = []
    outcome = run("echo", listener=events.append, number=1, words=["a", "ß"])
    assert outcome.result["arguments"] == {"number": 1, "words": ["a", "ß"]}
    assert (outcome.result["uid"], outcome.result["threads"]) == (0, "1")
    assert outcome.result["release"].startswith(outcome.facts["version"])
    assert [(event["event"], event["words"]) for event in events] == [("said", {"number": 1, "words": ["a", "ß"]})]
    assert "time-travel=inf-cpu" in outcome.facts["boot_line"]


def test_sleeping_takes_exactly_its_time_and_computing_none():
    moments = run("nap", naps=[0.25, 1.0, 3600.0]).result
    assert moments == pytest.approx([0.25, 1.25, 3601.25], abs=0.001)


def test_timers_of_an_event_loop_end_neither_early_nor_late():
    late = run("timers", delays=[0.0003, 0.015, 0.5, 100.0]).result
    assert all(0.0 <= seconds < 2e-6 for seconds in late), late


def test_two_guests_tell_the_same_time():
    first, second = (run("nap", naps=[0.1, 7.3]).result for _ in range(2))
    assert first == pytest.approx(second, abs=0.0005)


def test_only_the_given_folder_can_be_written_to(tmp_path):
    inside, outside = tmp_path / "with space" / "inside", tmp_path / "outside"
    inside.mkdir(parents=True)
    outside.mkdir()
    refused = run("files", writable=(inside,), inside=str(inside), outside=str(outside)).result
    assert (inside / "written").read_text() == "by the guest"
    assert refused == dict.fromkeys((str(outside), "/usr", "/"), "Read-only file system")
    assert not Path("/dev/shm/own").exists()


def test_a_file_of_more_than_2_gib_can_be_mapped_from_the_hosts_file_system(tmp_path):
    places = [0, (1 << 31) - 8, 5 << 29, (3 << 30) - 8]
    with (tmp_path / "sparse").open("wb") as file:
        for number, place in enumerate(places):
            file.seek(place)
            file.write(b"place %2d" % number)
    (tmp_path / "small").write_bytes(b"x")
    assert mapper.mappable([tmp_path / "sparse", tmp_path / "small"]) == [tmp_path / "small"]
    assert run("words_of", path=str(tmp_path / "sparse"), places=places).result == [f"place {n:2d}" for n in range(4)]


def test_errors_of_the_testbed_arrive_as_they_are_and_others_with_their_traceback():
    with pytest.raises(ScenarioError, match=r"links\.backbone: wrong"):
        run("refuse")
    with pytest.raises(JobError, match=r"ZeroDivisionError: by nothing(.|\n)*in stumble"):
        run("stumble")
    with pytest.raises(RunError, match="ended with status 7"):
        run("die")


def test_a_guest_that_polls_is_reported_as_standing_still():
    with pytest.raises(RunError, match=r"stood still for 8 s(.|\n)*virtual time 0\.\d+ s, last event 'spinning'"):
        run("spin", Limits(still_s=8.0, stop_grace_s=0.5))


def test_a_guest_in_which_everybody_waits_is_reported():
    with pytest.raises(RunError, match=r"nothing has happened in it for 500 s of virtual time(.|\n)*last event 'waiting'"):
        run("wait_for_ever", Limits(silent_virtual_s=500.0, stop_grace_s=0.5))


def test_the_wall_clock_limit_lets_the_job_tidy_up(tmp_path):
    with pytest.raises(RunError, match="limit of 12 s"):
        run("interrupted", Limits(wall_s=12.0), writable=(tmp_path,), folder=str(tmp_path))
    assert (tmp_path / "tidied").read_text() == "yes"


def test_ctrl_c_reaches_the_job_and_is_passed_on(tmp_path):
    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "waiting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("interrupted", listener=interrupt, writable=(tmp_path,), folder=str(tmp_path))
    assert (tmp_path / "tidied").read_text() == "yes"


HOST = """
import sys
sys.path.insert(0, sys.argv[1])
from testbed.kernel import boot, cache, guest
guest.run(cache.installed(), boot.Job("kernel_jobs:children", memory_mib=512), lambda event: print(event["event"], flush=True))
"""


def test_when_the_host_side_is_killed_the_guest_dies_with_everything_in_it_and_the_next_run_clears_up(tmp_path, monkeypatch):
    kernel = cache.installed()
    assert kernel is not None
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(ROOT / "tests")],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert host.stdout is not None
    with host, host.stdout:
        assert host.stdout.readline() == b"forked\n"
        family = descendants(host.pid)
        assert len(family) > 4
        assert spool.sweep(tmp_path) == []
        host.send_signal(signal.SIGKILL)
        host.wait()
    until(lambda: all(gone(pid) for pid in family))
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("d3-vkernel-")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run("echo")
    assert list(tmp_path.iterdir()) == []


def interpreter_for_all() -> str:
    """One that any user may read: a virtual environment can stand on one in somebody's home."""
    found = Path(sys.executable).resolve()
    readable = all(folder.stat().st_mode & 0o5 == 0o5 for folder in found.parents)
    return str(found) if readable else "/usr/bin/python3"


@pytest.mark.skipif(os.geteuid() != 0, reason="changing to another user takes root; as an ordinary user every test here shows it")
def test_it_runs_under_another_uid_without_privileges(tmp_path_factory):
    """Under a user without a home: a copy of the kernel, the package and the tests that this user may read."""
    kernel = cache.installed()
    assert kernel is not None
    place = Path("/var/tmp") / f"d3-uid-{os.getpid()}"
    try:
        folder = place / "cache" / "d3-testbed" / "kernel" / kernel.folder.name
        folder.mkdir(parents=True)
        for name in ("linux", "facts.json"):
            if (kernel.folder / name).exists():
                subprocess.run(["cp", str(kernel.folder / name), str(folder)], check=True)
        for name in ("testbed", "d3node", "tests"):
            subprocess.run(["cp", "-r", str(ROOT / name), str(place)], check=True)
        subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
        code = (
            "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests']\n"
            "import json; from testbed.kernel import boot, cache, guest\n"
            "job = boot.Job('kernel_jobs:nap', {'naps': [5.0]}, memory_mib=512)\n"
            "print(json.dumps(guest.run(cache.installed(), job).result))"
        )
        done = subprocess.run(
            [
                "setpriv",
                f"--reuid={NOBODY}",
                f"--regid={NOBODY}",
                "--clear-groups",
                interpreter_for_all(),
                "-c",
                code,
                str(place),
            ],
            capture_output=True,
            text=True,
            cwd=place,
            env={"XDG_CACHE_HOME": str(place / "cache"), "PATH": os.environ["PATH"], "TMPDIR": "/var/tmp"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert float(done.stdout.strip("[]\n")) == pytest.approx(5.0, abs=0.001)
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=False)
