"""The system's clock, and the common one that `use_clock` replaces."""

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import holdfast
from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience.clock import SYSTEM, Clock, current_clock, use_clock

MOMENT = 0.02


class Stopped(Clock):
    """A clock that stands still."""

    def monotonic(self) -> float:
        return 5.0


def test_the_system_clock_tells_the_systems_time() -> None:
    """`monotonic` and `time` lie between two readings of the system's own."""
    before = time.monotonic(), time.time()
    seen = SYSTEM.monotonic(), SYSTEM.time()
    after = time.monotonic(), time.time()

    assert before[0] <= seen[0] <= after[0]
    assert before[1] - 1 <= seen[1] <= after[1] + 1


def test_the_system_clock_really_sleeps() -> None:
    """A sleep takes at least as long as it says."""
    started = time.monotonic()

    SYSTEM.sleep(MOMENT)

    assert time.monotonic() - started >= MOMENT * 0.99


def test_the_system_clock_really_sleeps_in_a_task() -> None:
    """An async sleep takes at least as long as it says, and other tasks run meanwhile."""
    order: list[str] = []

    async def main() -> None:
        async def other() -> None:
            order.append("other")

        task = asyncio.create_task(other())
        await SYSTEM.asleep(MOMENT)
        order.append("woken")
        await task

    started = time.monotonic()
    asyncio.run(main())

    assert time.monotonic() - started >= MOMENT * 0.9
    assert order == ["other", "woken"]


def test_an_async_sleep_can_be_cancelled() -> None:
    """Cancelling a task ends its sleep at once."""

    async def main() -> None:
        task = asyncio.create_task(SYSTEM.asleep(3600))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [0, 0.0, -1, float("-inf")])
def test_no_time_is_no_sleep(seconds: float) -> None:
    """A sleep of zero or less returns at once; the async one does not even let another task run."""
    ran: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(ran.append, "another")
        await SYSTEM.asleep(seconds)
        ran.append("this")
        await asyncio.sleep(0)

    SYSTEM.sleep(seconds)
    asyncio.run(main())

    assert ran == ["this", "another"]


def test_wait_tells_whether_the_event_is_set() -> None:
    """`wait` ends when the event is set, or else when the time is over."""
    event = threading.Event()

    assert SYSTEM.wait(event, MOMENT) is False
    threading.Timer(MOMENT, event.set).start()
    assert SYSTEM.wait(event) is True
    assert SYSTEM.wait(event, 0) is True


def test_the_common_clock_is_the_systems() -> None:
    """Without `use_clock`, policies read the system's clock, and its C function directly."""
    assert current_clock() is SYSTEM
    assert ambient.clock is SYSTEM
    assert ambient.monotonic is time.monotonic
    assert hot["_now"] is time.monotonic


def test_use_clock_nests() -> None:
    """Each block puts back the clock that it found, for generated code too."""
    outer, inner = Stopped(), Stopped()

    with use_clock(outer) as given:
        assert given is current_clock() is outer
        with use_clock(inner):
            assert current_clock() is inner
            assert hot["_now"] == ambient.monotonic == inner.monotonic
        assert current_clock() is outer
        assert hot["_now"]() == ambient.monotonic() == 5.0

    assert current_clock() is SYSTEM
    assert hot["_now"] is ambient.monotonic is time.monotonic


def test_one_use_clock_may_be_entered_again_inside_itself() -> None:
    """The same object, entered twice, leaves as many times."""
    use = use_clock(Stopped())

    with use:
        with use:
            pass
        assert current_clock() is not SYSTEM

    assert current_clock() is SYSTEM


def test_an_error_in_the_block_passes_and_the_clock_is_put_back() -> None:
    """`use_clock` swallows nothing and restores in any case."""
    with pytest.raises(KeyError), use_clock(Stopped()):
        raise KeyError

    assert current_clock() is SYSTEM


def test_every_thread_sees_the_common_clock() -> None:
    """The common clock is the process's, not the thread's."""
    seen: list[Clock] = []

    with use_clock(Stopped()) as clock:
        thread = threading.Thread(target=lambda: seen.append(current_clock()))
        thread.start()
        thread.join()

    assert seen == [clock]


def test_a_class_is_no_clock() -> None:
    """Giving the class instead of an instance is refused, with what to do."""
    with pytest.raises(TypeError, match="give an instance of Clock"):
        use_clock(Stopped)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_clock_is_cheap_to_import() -> None:
    """The modules of time and chance load none of the costly modules."""
    path = str(Path(holdfast.__file__).parents[1])
    program = (
        f"import sys; sys.path.insert(0, {path!r});"
        "import holdfast.infrastructure.resilience.clock, holdfast.infrastructure.resilience.randomness;"
        "print([name for name in ('asyncio', 'typing', 'random', 'logging', 're') if name in sys.modules])"
    )
    # Neither the environment nor site-packages: what measures coverage there loads them.
    bare = [sys.executable, "-I", "-S", "-c", program]

    assert subprocess.run(bare, capture_output=True, text=True, check=True).stdout == "[]\n"
