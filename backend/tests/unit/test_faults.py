"""Scripted faults: what a script plays, when, and what it remembers."""

import asyncio
import inspect
import math
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.testing import Script, Step, VirtualClock, fail, hang, succeed

YEAR = 365 * 86_400.0

Play = Callable[..., Any]
Mode = Callable[[Script], Play]


def sync(clock: VirtualClock, script: Script) -> Play:
    return script.function()


def asynchronous(clock: VirtualClock, script: Script) -> Play:
    function = script.coroutine_function()

    def play(*args: Any, **kwargs: Any) -> Any:
        return clock.run(function(*args, **kwargs))

    return play


@pytest.fixture(params=[sync, asynchronous], ids=lambda mode: mode.__name__)
def mode(request: pytest.FixtureRequest, virtual_clock: VirtualClock) -> Mode:
    return lambda script: request.param(virtual_clock, script)


def test_a_script_plays_its_steps_and_repeats_the_last(mode: Mode) -> None:
    """`fail, fail, succeed` fails twice and then succeeds for ever."""
    script = Script(fail(OSError("first")), fail(), succeed(7))
    play = mode(script)

    with pytest.raises(OSError, match="first"):
        play()
    with pytest.raises(ConnectionError):
        play()

    assert [play() for _ in range(3)] == [7, 7, 7]
    assert script.calls == 5


def test_success_is_ok_by_default(mode: Mode) -> None:
    """`succeed()` returns "ok"."""
    assert mode(Script(succeed()))() == "ok"


def test_latency_passes_on_the_clock_before_the_outcome(mode: Mode, virtual_clock: VirtualClock) -> None:
    """A step takes its latency, then fails or succeeds; `times` says when the calls came."""
    script = Script(fail(after=2), succeed(after=0.5), succeed())
    play = mode(script)

    with pytest.raises(ConnectionError):
        play()
    play()
    play()

    assert virtual_clock.elapsed == 2.5
    assert virtual_clock.sleeps == (2.0, 0.5)
    assert script.times == (1000.0, 1002.0, 1002.5)


def test_arguments_are_remembered(mode: Mode) -> None:
    """Any arguments are accepted, and kept for every call, failed ones too."""
    script = Script(fail(), succeed())
    play = mode(script)

    with pytest.raises(ConnectionError):
        play(1, key="a")
    play()

    assert script.arguments == (((1,), {"key": "a"}), ((), {}))


def test_a_hang_lasts_a_year(mode: Mode, virtual_clock: VirtualClock) -> None:
    """Where nothing cancels it, a hang comes back after a year of the clock, with nothing."""
    assert mode(Script(hang()))() is None
    assert virtual_clock.elapsed == YEAR


def test_an_async_hang_can_be_cancelled(virtual_clock: VirtualClock) -> None:
    """A timeout ends a hang at its time."""
    script = Script(hang())

    async def main() -> None:
        async with asyncio.timeout(3):
            await script.async_()

    with pytest.raises(TimeoutError):
        virtual_clock.run(main())

    assert virtual_clock.elapsed == 3.0
    assert script.calls == 1


def test_an_instance_is_raised_as_it_is(mode: Mode) -> None:
    """The very instance comes out each time, and its traceback does not grow."""
    error = ValueError("mine")
    play = mode(Script(fail(error)))
    depths: list[int] = []

    for _ in range(3):
        with pytest.raises(ValueError, match="mine") as caught:
            play()
        assert caught.value is error
        depths.append(len(traceback.extract_tb(error.__traceback__)))

    assert len(set(depths)) == 1


def test_a_class_gives_a_new_instance_each_time(mode: Mode) -> None:
    """What one call adds to its error does not show in the next one's."""
    play = mode(Script(fail(ConnectionResetError)))
    seen: list[BaseException] = []

    for _ in range(2):
        with pytest.raises(ConnectionResetError) as caught:
            play()
        seen.append(caught.value)

    assert seen[0] is not seen[1]


def test_what_is_no_exception_is_raised_too(mode: Mode) -> None:
    """A script may raise anything that can be raised."""
    with pytest.raises(KeyboardInterrupt):
        mode(Script(fail(KeyboardInterrupt)))()


def test_a_class_that_needs_arguments_is_refused_at_once() -> None:
    """`fail(cls)` fails where it is written, not in the middle of a test."""
    with pytest.raises(TypeError):
        fail(UnicodeDecodeError)


def test_a_script_needs_a_step() -> None:
    """An empty script is refused, with what to do."""
    with pytest.raises(ValueError, match="at least one step"):
        Script()


@pytest.mark.parametrize("latency", [-1.0, math.nan])
def test_latency_is_not_negative(latency: float) -> None:
    """A latency below zero, or none at all, is refused."""
    with pytest.raises(ValueError, match="latency"):
        Step(latency=latency)


def test_a_step_says_what_it_does() -> None:
    """A step shows its fields, and they are what it was made of."""
    step = Step(result=[1], latency=2.0)

    assert (step.error, step.result, step.latency) == (None, [1], 2.0)
    assert repr(step) == "Step(error=None, result=[1], latency=2.0)"
    assert isinstance(fail().error, ConnectionError)
    assert hang().latency == math.inf


def test_a_script_may_have_a_clock_of_its_own(virtual_clock: VirtualClock) -> None:
    """Its latency passes on its own clock, not on the common one."""
    own = VirtualClock()
    script = Script(succeed(after=5), clock=own)

    script()
    own.run(script.async_())

    assert (own.elapsed, virtual_clock.elapsed) == (10.0, 0.0)
    assert script.times == (1000.0, 1005.0)


def test_a_script_reads_the_common_clock_at_each_call() -> None:
    """A script that was made before a clock was chosen uses the clock of the moment."""
    script, clock = Script(succeed(after=5)), VirtualClock()

    with use_clock(clock):
        script()

    assert clock.elapsed == 5.0


def test_the_functions_are_of_their_kind() -> None:
    """`function` gives a plain function, `coroutine_function` an `async def`; both play one script."""
    script = Script(succeed(1), succeed(2))
    function, coroutine_function = script.function(), script.coroutine_function()

    assert inspect.isfunction(function)
    assert not inspect.iscoroutinefunction(function)
    assert inspect.iscoroutinefunction(coroutine_function)
    assert function() == 1
    awaited: Awaitable[int] = coroutine_function()
    assert VirtualClock().run(asyncio.wait_for(awaited, None)) == 2
    assert script.calls == 2


def test_threads_share_a_script() -> None:
    """Every step is played once, however many threads call."""
    script = Script(*(succeed(n) for n in range(400)))
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.extend(script() for _ in range(50))) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == list(range(400))
    assert script.calls == len(script.times) == len(script.arguments) == 400
