"""The deadline: what is left of the tightest bound, wherever the call goes."""

import asyncio
import contextvars
import math
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext

import pytest

from holdfast.infrastructure.resilience import deadline
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.deadline import current_deadline, deadline_after, remaining
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing import VirtualClock

_deadline: contextvars.ContextVar[float | None] = vars(deadline)["_deadline"]


def test_there_is_no_deadline_unless_somebody_sets_one() -> None:
    """Without a bound, both readings are None."""
    assert (current_deadline(), remaining()) == (None, None)


def test_remaining_counts_down_on_the_current_clock(virtual_clock: VirtualClock) -> None:
    """`remaining` is the deadline minus now, and negative once it has passed."""
    seen: list[float | None] = []
    with deadline_after(3) as until:
        for seconds in (0, 2, 2):
            virtual_clock.advance(seconds)
            seen.append(remaining())

        assert until == current_deadline() == virtual_clock.monotonic() - 4 + 3
    assert seen == [3, 1, -1]


def test_the_deadline_ends_with_its_block(virtual_clock: VirtualClock) -> None:
    """Leaving the block restores what was before, also when it fails; the error passes as it is."""
    with deadline_after(9):
        outside = current_deadline()
        with pytest.raises(ZeroDivisionError), deadline_after(1):
            _ = 1 / virtual_clock.elapsed

        assert current_deadline() == outside
    assert current_deadline() is None


@pytest.mark.parametrize(
    ("outer", "inner", "left"), [(5, 2, 2), (2, 5, 2), (2, 2, 2), (-1, 5, -1), (5, -1, -1)]
)
def test_nested_bounds_meet_in_the_earlier_one(
    virtual_clock: VirtualClock, outer: float, inner: float, left: float
) -> None:
    """An inner bound can tighten the deadline, never loosen it; both blocks are told the tightest."""
    with deadline_after(outer) as first, deadline_after(inner) as second:
        assert remaining() == left
        assert first == virtual_clock.monotonic() + outer
        assert second == virtual_clock.monotonic() + left == current_deadline()


def test_one_instance_serves_one_block_at_a_time(virtual_clock: VirtualClock) -> None:
    """Entering it twice is an error, using it again later is not."""
    bound = deadline_after(1)
    with bound, pytest.raises(RuntimeError, match="make one for each block"), bound:
        pass

    virtual_clock.advance(10)
    with bound:
        assert remaining() == 1
    assert current_deadline() is None


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), "1", None, True])
def test_seconds_are_a_finite_number(seconds: float) -> None:
    """Anything but a finite number is refused by name and value."""
    with pytest.raises(ConfigurationError, match="deadline_after: seconds = ") as caught:
        deadline_after(seconds)

    assert [fault.path for fault in caught.value.faults] == ["seconds"]


def test_tasks_begin_with_the_deadline_of_their_maker(virtual_clock: VirtualClock) -> None:
    """A task inherits the deadline; what it sets itself stays with it."""

    async def child() -> tuple[float | None, float | None]:
        inherited = remaining()
        with deadline_after(1):
            await virtual_clock.asleep(0.5)
            return inherited, remaining()

    async def main() -> None:
        with deadline_after(4):
            task = asyncio.create_task(child())
            await virtual_clock.asleep(0.25)
            assert remaining() == 3.75
        assert await task == (4, 0.5)
        assert remaining() is None

    virtual_clock.run(main())


def test_threads_have_deadlines_of_their_own() -> None:
    """A bare thread begins without the deadline, one that runs in a copied context has it."""
    seen: list[float | None] = []
    with use_clock(VirtualClock()), deadline_after(7):
        context = contextvars.copy_context()
        bare = threading.Thread(target=lambda: seen.append(remaining()))
        copied = threading.Thread(target=lambda: seen.append(context.run(remaining)))
        for thread in (bare, copied):
            thread.start()
            thread.join()

    assert seen == [None, 7]


def bounded(seconds: float) -> Generator[float | None]:
    with deadline_after(seconds):
        yield remaining()
        yield remaining()


def test_blocks_of_generators_may_end_in_any_order(virtual_clock: VirtualClock) -> None:
    """Whichever generator ends first, the deadline of an ended block binds nobody any more."""
    for bounds, left in (((5, 3), 3), ((3, 5), None)):
        first, second = map(bounded, bounds)
        assert [next(first), next(second)] == [bounds[0], 3]

        first.close()
        assert remaining() == left
        with deadline_after(4):
            assert remaining() == next(bounded(9)) == (left or 4)
        second.close()
        assert current_deadline() is None


def test_a_generator_that_ends_in_another_context_leaves_no_deadline(virtual_clock: VirtualClock) -> None:
    """Where it began, its deadline ends with it, and what policies read there is no bound."""
    generator, elsewhere = bounded(3), contextvars.copy_context()
    with deadline_after(5):
        assert next(generator) == 3
        inside = contextvars.copy_context()
        inside.run(generator.close)

        assert (remaining(), inside.run(remaining)) == (5, 5)
        assert next(bounded(9)) == 5
    assert current_deadline() is None

    generator = bounded(3)
    next(generator)
    elsewhere.run(generator.close)
    assert (remaining(), current_deadline()) == (None, None)
    with deadline_after(9) as until:
        assert until == virtual_clock.monotonic() + 9 == current_deadline()


@pytest.mark.parametrize(("outer", "value"), [(nullcontext(), math.inf), (deadline_after(7), 1007.0)])
def test_an_ended_deadline_is_the_one_around(
    virtual_clock: VirtualClock, outer: AbstractContextManager[object], value: float
) -> None:
    """Whatever reads the variable without asking whether the block has ended compares and counts correctly."""
    generator = bounded(3)
    with outer:
        next(generator)
        contextvars.copy_context().run(generator.close)
        ended = _deadline.get()
        assert ended is not None

        compared = (ended < 1006, ended <= 1007, ended > 1006, ended >= 1008, ended - 1000)
        assert compared == (value < 1006, value <= 1007, value > 1006, value >= 1008, value - 1000)


def test_an_ended_deadline_binds_no_compiled_call(virtual_clock: VirtualClock) -> None:
    """Sync and async calls after an abandoned generator's block have all of their own time."""
    generator = bounded(-9)
    next(generator)
    contextvars.copy_context().run(generator.close)

    async def main() -> tuple[float | None, float | None]:
        async def asynchronous() -> float | None:
            return remaining()

        async with Timeout(4):
            return remaining(), await Timeout(3)(asynchronous)()

    assert Timeout(2).call(remaining) == 2
    assert Timeout(2, sync="thread").call(remaining) == 2
    assert virtual_clock.run(main()) == (4, 3)
    with Timeout(7):
        assert remaining() == 7
