"""Shares of seconds that a machine idled or a process wanted to run."""

from __future__ import annotations

import subprocess
import sys
import time

from testbed.backends.cpu import PERIOD_S, ShareSampler, ticks, wanted


def test_a_process_that_computes_wants_all_of_a_second_and_one_that_sleeps_next_to_nothing() -> None:
    """However busy the machine is: waiting for a CPU counts."""
    shares = []
    for code in ("while True: pass", "import time; time.sleep(1000)"):
        with subprocess.Popen([sys.executable, "-S", "-E", "-c", f"print(flush=True)\n{code}"], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            before = wanted(child.pid)
            time.sleep(0.5)
            after = wanted(child.pid)
            child.kill()
            child.wait()
            assert wanted(child.pid) == (0, 0)
        shares.append((after[0] - before[0]) / (after[1] - before[1]))
    assert 0.9 < shares[0] < 1.1
    assert shares[1] < 0.5


def test_a_sampler_has_the_shares_of_seconds_that_went_by() -> None:
    counts = iter([(0, 0), (25, 100), (25, 100), (100, 200)])
    sampler = ShareSampler(lambda: next(counts))
    sampler.start()
    assert (sampler.minimum, sampler.maximum) == (None, None)
    assert sampler.due_s() <= PERIOD_S
    sampler.sample()  # too early
    for _ in range(3):
        sampler._next = 0.0
        sampler.sample()
    assert (sampler.minimum, sampler.maximum) == (0.25, 0.75)


def test_the_machine_has_idle_ticks_among_all() -> None:
    idle, total = ticks()
    assert 0 <= idle < total
