"""Virtual time × threads and the standard library: everything happens at its instant, and nothing stays patched."""

import asyncio
import gc
import time
from collections.abc import Callable

import pytest

from holdfast import CircuitBreaker, current_clock
from holdfast.lab import World


def test_threads_and_tasks_share_one_time() -> None:
    """Plain functions that sleep and coroutines that do take turns in the order of their instants."""
    world, seen = World(), list[tuple[float, str]]()

    def plain() -> str:
        for _ in range(3):
            time.sleep(2)
            seen.append((world.elapsed, "plain"))
        return "done"

    async def main() -> str:
        thread = world.thread(plain)
        for _ in range(2):
            await asyncio.sleep(3.5)
            seen.append((world.elapsed, "task"))
        return await thread

    assert world.run(main()) == "done"
    assert seen == [(2, "plain"), (3.5, "task"), (4, "plain"), (6, "plain"), (7, "task")]


def test_the_standard_library_is_itself_again() -> None:
    """`time` shows virtual time inside a run alone, and the policies' clock is the world's there."""
    before = (time.monotonic, time.time, time.sleep, time.perf_counter, current_clock())
    world = World(start=5000.0)

    async def main() -> tuple[float, float, bool]:
        await asyncio.sleep(10)
        return time.monotonic(), time.time(), current_clock() is world

    assert world.run(main()) == (5010.0, 1_700_005_010.0, True)
    assert (time.monotonic, time.time, time.sleep, time.perf_counter, current_clock()) == before


def test_policies_read_real_time_again() -> None:
    """After a run a breaker's open time passes as real time does: nothing of ours reads the world's clock any more."""
    breaker = CircuitBreaker("lab", open_for=100.0, open_cap=100.0, open_jitter=0.0)

    async def main() -> None:
        await asyncio.sleep(10)

    World(start=5000.0).run(main())
    breaker.open()
    before = time.monotonic()
    while time.monotonic() == before:
        pass
    assert (breaker.retry_after or 100.0) < 100.0


def test_an_error_in_a_thread_reaches_who_waits() -> None:
    """What a plain function raises comes out of the future."""
    world = World()

    def fail() -> None:
        time.sleep(1)
        raise LookupError("gone")

    async def main() -> None:
        await world.thread(fail)

    with pytest.raises(LookupError, match="gone"):
        world.run(main())


def test_what_can_no_longer_happen_is_an_error() -> None:
    """A run in which everything waits for ever ends, and says why."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="can no longer happen"):
        World().run(main())


def test_a_thread_that_still_waits_is_unwound() -> None:
    """At the end of a run, `finally` blocks of functions that still wait are run, each in its thread."""
    world, seen = World(), list[str]()

    def wait() -> None:
        try:
            time.sleep(1000)
        finally:
            seen.append("unwound")

    async def main() -> None:
        world.thread(wait)
        await asyncio.sleep(1)

    world.run(main())
    assert seen == ["unwound"]


def test_a_pause_ends_when_somebody_ends_it() -> None:
    """A thread that pauses goes on when the function that it handed out is called."""
    world = World()

    def plain() -> float:
        def arm(wake: Callable[[], None]) -> None:
            loop.call_later(7, wake)

        world.pause(arm)
        return world.elapsed

    async def main() -> float:
        return await world.thread(plain)

    loop: asyncio.AbstractEventLoop

    async def start() -> float:
        nonlocal loop
        loop = asyncio.get_running_loop()
        return await main()

    assert world.run(start()) == 7


def test_one_world_at_a_time() -> None:
    """A second world in the same process is refused while the first runs."""

    async def nothing() -> None:
        return None

    async def main() -> None:
        inner = nothing()
        try:
            World().run(inner)
        finally:
            inner.close()

    with pytest.raises(RuntimeError, match="runs already"):
        World().run(main())


def test_what_fails_as_the_world_ends_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A thread that waits for ever is ended with the run; an error on its way out is nobody's and reaches no log."""
    ended: list[str] = []

    def plain() -> None:
        try:
            time.sleep(1000)
        finally:
            ended.append("plain")
            raise ValueError

    async def main() -> None:
        world.thread(plain)
        await asyncio.sleep(1)

    world = World()
    world.run(main())
    gc.collect()
    assert (ended, world.elapsed, caplog.messages) == (["plain"], 1.0, [])
