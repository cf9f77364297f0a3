"""The virtual loop is asyncio without waiting; the scaled loop is asyncio, k times slower."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextvars import copy_context

import pytest

from d3node.clock import OWNER, ScaledLoop, VirtualLoop, run
from d3node.errors import ClockError


def test_a_day_of_sleep_passes_at_once_and_exactly() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400.0)
        return asyncio.get_running_loop().time()

    assert run(VirtualLoop(), main()) == 86_400.0


def test_concurrent_sleepers_wake_in_order_of_time_then_of_scheduling() -> None:
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        woken.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(*(sleeper(n, d) for n, d in [("c", 3.0), ("a", 1.0), ("b1", 2.0), ("b2", 2.0), ("b3", 2.0)]))

    run(VirtualLoop(), main())
    assert woken == [("a", 1.0), ("b1", 2.0), ("b2", 2.0), ("b3", 2.0), ("c", 3.0)]


def test_timeouts_fire_at_their_virtual_moment_and_cancel_what_they_guard() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await loop.create_future()
        return loop.time()

    assert run(VirtualLoop(), main()) == 2.5


def test_many_cancelled_deadlines_are_forgotten() -> None:
    loop = VirtualLoop()

    async def main() -> int:
        for _ in range(5_000):
            async with asyncio.timeout(60.0):
                await asyncio.sleep(0.001)
        return len(loop._timers)

    assert run(loop, main()) < 2_000


def test_a_timer_in_the_past_runs_now_and_never_turns_the_clock_back() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(5.0)
        fired: asyncio.Future[float] = loop.create_future()
        loop.call_at(1.0, lambda: fired.set_result(loop.time()))
        return await fired, loop.time()

    assert run(VirtualLoop(), main()) == (5.0, 5.0)


def test_deadlock_names_the_tasks_that_wait() -> None:
    async def waits_for_nobody() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        await asyncio.sleep(1.5)
        await asyncio.create_task(waits_for_nobody(), name="the-forgotten-one")

    with pytest.raises(ClockError, match=r"(?s)deadlock at 1\.5.*the-forgotten-one: .*waits_for_nobody \(.*test_clock\.py:\d+\)"):
        run(VirtualLoop(), main())


def test_polling_is_refused_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d3node.clock.STUCK_AFTER", 1_000)

    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(ClockError, match=r"stands still at 0\.0.*polls"):
        run(VirtualLoop(), main())


def test_executors_run_inline_and_pass_errors_on() -> None:
    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        thread = await loop.run_in_executor(None, threading.get_ident)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return thread, loop.time()

    assert run(VirtualLoop(), main()) == (threading.get_ident(), 0.0)


def test_threads_cannot_wake_virtual_time() -> None:
    async def main() -> list[str]:
        loop, errors = asyncio.get_running_loop(), list[str]()

        def intrude() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except ClockError as error:
                errors.append(str(error))

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
        return errors

    (error,) = run(VirtualLoop(), main())
    assert "inline" in error


@pytest.mark.parametrize("loop_of", [VirtualLoop, lambda: ScaledLoop(0.5)])
def test_what_main_leaves_behind_is_cancelled_and_closed(loop_of: object) -> None:
    ends: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(1_000.0)
        finally:
            ends.append("background cancelled")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0.01)
            ends.append("generator closed")

    held = []

    async def main() -> None:
        held.append(asyncio.create_task(background()))
        held.append(numbers())
        await anext(held[-1])
        raise LookupError("main failed")

    loop = loop_of()  # type: ignore[operator]
    with pytest.raises(LookupError, match="main failed"):
        run(loop, main())
    assert ends == ["background cancelled", "generator closed"]
    assert loop.is_closed()


def test_interrupt_cancels_main_first_and_puts_the_handler_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    ends: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, os.kill, os.getpid(), signal.SIGINT)
        try:
            while True:
                await asyncio.sleep(0.5)
        finally:
            await asyncio.sleep(0.5)
            ends.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        run(VirtualLoop(), main())
    assert ends == ["cleaned up"]
    assert signal.getsignal(signal.SIGINT) is before


def test_scaled_loop_counts_scenario_seconds_and_waits_k_times_longer() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.sleep(0.02)
        return loop.time() - start

    start = time.monotonic()
    asleep = run(ScaledLoop(4.0), main())
    assert asleep >= 0.02
    assert time.monotonic() - start >= 4 * asleep


def test_scaled_loop_serves_sockets_while_timers_run() -> None:
    async def main() -> bytes:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(5))
            await writer.drain()
            writer.close()

        ticker = asyncio.create_task(asyncio.sleep(100.0))
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        answer = await reader.readexactly(5)
        writer.close()
        await writer.wait_closed()
        server.close()
        ticker.cancel()
        return answer

    assert run(ScaledLoop(3.0), main()) == b"hello"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_scales_that_mean_nothing_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="time scale"):
        ScaledLoop(scale)


def test_what_has_an_owner_can_stand_still_and_go_on_in_order() -> None:
    loop, ran = VirtualLoop(), list[tuple[str, float]]()

    async def tick(name: str) -> None:
        for _ in range(4):
            await asyncio.sleep(1.0)
            ran.append((name, loop.time()))

    async def main() -> None:
        context = copy_context()
        context.run(OWNER.set, "theirs")
        tasks = [loop.create_task(tick("theirs"), context=context), loop.create_task(tick("ours"))]
        await asyncio.sleep(1.5)
        loop.halt("theirs")
        assert loop.halted("theirs")
        await asyncio.sleep(1.75)
        loop.go_on("theirs")
        assert not loop.halted("theirs")
        await asyncio.gather(*tasks)

    run(loop, main())
    assert [when for name, when in ran if name == "ours"] == [1.0, 2.0, 3.0, 4.0]
    assert [when for name, when in ran if name == "theirs"] == [1.0, 3.25, 4.25, 5.25]


def test_a_callback_that_comes_due_while_its_owner_stands_still_waits() -> None:
    loop, ran = VirtualLoop(), list[float]()

    async def main() -> None:
        context = copy_context()
        context.run(OWNER.set, "theirs")
        loop.call_at(1.0, lambda: ran.append(loop.time()), context=context)
        loop.halt("theirs")
        await asyncio.sleep(2.0)
        assert not ran
        loop.go_on("theirs")
        await asyncio.sleep(1.0)

    run(loop, main())
    assert ran == [2.0]
