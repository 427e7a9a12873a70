"""Deadline propagation: what `remaining()` says at every level of nested calls, and that it is put back."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver, Scenario
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.deadline import current_deadline, deadline_after, remaining
from holdfast.infrastructure.resilience.errors import TimeoutExceeded
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, succeed

Left = list[float | None]


def looking(driver: Driver, left: Left, failures: int = 0, takes: float = 0.0) -> Scenario:
    """Return a dependency that notes what is left when it is called; it takes its time, and fails at first."""

    async def look() -> str:
        left.append(remaining())
        await driver.sleep(takes)
        if len(left) <= failures:
            raise ConnectionError
        return "ok"

    return look


def test_a_bound_is_told_and_runs_down(driver: Driver, make: Make) -> None:
    """Within a bound `remaining()` counts down with the clock; before and after there is none."""

    async def call() -> list[float | None]:
        seen = [remaining()]
        await driver.sleep(1.5)
        return [*seen, remaining()]

    assert remaining() is None
    assert driver.call(driver.decorate(make.timeout(5.0), call)) == [5.0, 3.5]
    assert remaining() is None


@pytest.mark.parametrize(("outer", "inner", "seen"), [(5.0, 2.0, 2.0), (5.0, 9.0, 4.0), (5.0, 4.0, 4.0)])
def test_the_tightest_bound_holds(
    driver: Driver, make: Make, outer: float, inner: float, seen: float
) -> None:
    """In a callee with a bound of its own the tighter one counts, and after it the caller's again."""
    left = Left()
    bounded = driver.decorate(make.timeout(inner), looking(driver, left))

    async def caller() -> None:
        await driver.sleep(1.0)
        await driver.ask(bounded)
        left.append(remaining())

    driver.call(driver.decorate(make.timeout(outer), caller))
    assert left == [seen, outer - 1.0]


def test_five_levels_meet_in_one_deadline(driver: Driver, make: Make) -> None:
    """However deep the calls nest, every level sees the earliest of the deadlines around it."""
    seen: Left = []

    def level(seconds: list[float]) -> Any:
        async def call() -> None:
            seen.append(remaining())
            if seconds[1:]:
                await driver.ask(level(seconds[1:]))
            seen.append(remaining())

        return driver.decorate(make.timeout(seconds[0]), call)

    driver.call(level([9.0, 7.0, 8.0, 3.0, 5.0]))
    assert seen == [9.0, 7.0, 7.0, 3.0, 3.0, 3.0, 3.0, 7.0, 7.0, 9.0]


def test_every_attempt_sees_what_is_left(driver: Driver, make: Make, compose: Compose) -> None:
    """Under a total bound each attempt has what the attempts and waits before it have left over."""
    left = Left()
    callee = looking(driver, left, failures=2, takes=2.0)
    assert driver.call(compose(make.timeout(10.0), make.retry(3), source=callee)) == "ok"
    assert left == [10.0, 7.0, 4.0]


def test_an_attempts_bound_begins_anew(driver: Driver, make: Make, compose: Compose) -> None:
    """The bound of an attempt is whole again at each attempt, until the total leaves less than it."""
    left = Left()
    callee = looking(driver, left, failures=3, takes=1.0)
    call = compose(make.timeout(7.5), make.retry(4), make.timeout(3.0), source=callee)
    assert driver.call(call) == "ok"
    assert left == [3.0, 3.0, 3.0, 1.5]


def test_the_deadline_of_a_retry_is_told(driver: Driver, make: Make, compose: Compose) -> None:
    """`Retry(deadline=…)` is a deadline like any other to what it calls, and begins anew with each call."""
    left = Left()
    callee = looking(driver, left, failures=1)
    call = compose(make.retry(3, deadline=5.0), source=callee)
    driver.outcomes(2, call, every=3.0)
    assert left == [5.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "begin", [CircuitBreaker.close, CircuitBreaker.half_open, CircuitBreaker.disable, CircuitBreaker.shadow]
)
def test_a_breaker_in_any_state_lets_it_through(
    driver: Driver, make: Make, compose: Compose, begin: Callable[[CircuitBreaker], None]
) -> None:
    """The deadline is seen through a breaker, on the path of plain calls and on that of probes."""
    left, breaker = Left(), make.breaker()
    begin(breaker)
    driver.call(compose(make.timeout(5.0), make.retry(), breaker, source=looking(driver, left)))
    assert left == [5.0]


def test_an_inherited_deadline_stops_the_callees_retry(driver: Driver, make: Make) -> None:
    """A callee with a retry of its own gives up when the caller's time does not allow the next wait."""
    script = Script(fail())
    callee = driver.decorate(make.retry(9), script)

    async def caller() -> None:
        await driver.ask(callee)

    with pytest.raises(ConnectionError) as caught:
        driver.call(driver.decorate(make.timeout(2.5), caller))
    assert (script.calls, driver.clock.elapsed) == (3, 2.0)
    assert "not within the 0.5 s left" in caught.value.__notes__[0]


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_deadline_that_has_passed_allows_no_retry(driver: Driver, make: Make, seconds: float) -> None:
    """With no time left the first attempt is made, and not even a retry without a wait after it."""
    script = Script(fail())
    with deadline_after(seconds), pytest.raises(ConnectionError):
        driver.call(driver.decorate(make.retry(9, wait=0.0), script))
    assert script.calls == 1


@pytest.mark.parametrize(
    "step", [succeed(), fail(), fail(ValueError), fail(KeyboardInterrupt), fail(after=9.0)], ids=repr
)
def test_it_is_put_back_however_the_call_ended(
    driver: Driver, make: Make, compose: Compose, step: Any
) -> None:
    """After a result, an error of any kind or a timeout the caller's own deadline is back."""
    call = compose(make.timeout(8.0), make.retry(3, deadline=7.0), make.timeout(6.0), source=Script(step))
    seen: Left = []

    async def caller() -> None:
        until = current_deadline()
        try:
            await driver.ask(call)
        except (Exception, KeyboardInterrupt):
            seen.append(current_deadline())
        else:
            seen.append(current_deadline())
        assert seen == [until]

    async def bounded() -> None:
        async with driver.block(make.timeout(100.0)):
            await caller()

    driver.run(bounded)
    assert len(seen) == 1
    assert current_deadline() is None


def test_it_is_put_back_after_a_rejection(driver: Driver, make: Make, compose: Compose) -> None:
    """A call that was refused leaves no deadline behind."""
    breaker = make.breaker()
    breaker.open()
    outcomes = driver.outcomes(
        1, compose(make.timeout(5.0), make.retry(deadline=3.0), breaker, source=Script(succeed()))
    )
    assert [getattr(outcome, "name", None) for outcome in outcomes] == ["dependency"]
    assert current_deadline() is None


def test_blocks_nest_as_functions_do(driver: Driver, make: Make) -> None:
    """Blocks of timeouts, of `deadline_after` and of a retry's loop meet in the same deadline."""
    seen: Left = []

    async def call() -> None:
        async with driver.block(make.timeout(9.0)):
            with deadline_after(7.0):
                async for attempt in driver.attempts(make.retry(2, deadline=5.0)):
                    with attempt:
                        async with driver.block(make.timeout(3.0)):
                            seen.append(remaining())
                            if attempt.number == 1:
                                raise ConnectionError
                        seen.append(remaining())
                seen.append(remaining())
            seen.append(remaining())
        seen.append(remaining())

    driver.run(call)
    assert seen == [3.0, 3.0, 4.0, 6.0, 8.0, None]


def test_callers_at_once_have_deadlines_of_their_own(driver: Driver, make: Make) -> None:
    """Threads or tasks in one `Timeout` at once each have its whole time, and one outside has no bound."""
    left = Left()
    callee = looking(driver, left, takes=2.0)
    call = driver.decorate(make.timeout(5.0), callee)
    driver.together(
        driver.after(0.0, call), driver.after(1.0, call), driver.after(1.5, driver.function(callee))
    )
    assert left == [5.0, 5.0, None]


def test_the_bound_that_was_due_first_reports(driver: Driver, make: Make) -> None:
    """When a callee with a looser bound fails late, the timeout that comes out is the caller's."""

    async def late() -> None:
        driver.spend(3.0)
        raise ConnectionError

    callee = driver.decorate(make.timeout(9.0, name="inner"), late)

    async def caller() -> None:
        await driver.ask(callee)

    with pytest.raises(TimeoutExceeded) as caught:
        driver.call(driver.decorate(make.timeout(2.0, name="outer"), caller))
    assert (caught.value.name, caught.value.seconds) == ("outer", 2.0)


def test_a_worker_thread_has_the_callers_deadline(virtual_clock: VirtualClock, make: Make) -> None:
    """A function that a timeout moves to a thread sees the tighter of that timeout's deadline and the caller's."""
    seen: Left = []

    def look() -> None:
        seen.append(remaining())

    for seconds in (2.0, 9.0):
        with deadline_after(5.0):
            make.punctual(seconds)(look)()
    assert seen == [2.0, 5.0]


def test_a_thread_has_the_deadline_that_it_is_given(virtual_clock: VirtualClock) -> None:
    """A new thread starts without a deadline; one that runs in a copy of the context has it."""
    seen: Left = []

    def look() -> None:
        seen.append(remaining())

    with deadline_after(5.0):
        context = contextvars.copy_context()
        threads = [threading.Thread(target=look), threading.Thread(target=context.run, args=(look,))]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == [None, 5.0]


def test_tasks_inherit_and_do_not_leak(virtual_clock: VirtualClock, make: Make) -> None:
    """A task has the deadline of where it was made; what it tightens is seen by none of its siblings."""
    seen: dict[str, float | None] = {}

    async def look(name: str) -> None:
        await virtual_clock.asleep(1.0)
        seen[name] = remaining()

    async def tighten() -> None:
        async with make.timeout(2.0):
            await look("tight")

    async def main() -> None:
        async with make.timeout(5.0):
            await asyncio.gather(
                look("before"),
                tighten(),
                look("after"),
                asyncio.to_thread(lambda: seen.update(thread=remaining())),
            )
            seen["itself"] = remaining()
        seen["outside"] = remaining()

    virtual_clock.run(main())
    assert seen == {"before": 4.0, "tight": 1.0, "after": 4.0, "thread": 5.0, "itself": 4.0, "outside": None}


@pytest.mark.parametrize("form", ["timeout block", "deadline block", "function"])
def test_a_task_that_outlives_its_maker_is_of_one_mind(
    virtual_clock: VirtualClock, make: Make, form: str
) -> None:
    """In a task that a bound left behind, a retry goes by the very deadline that `remaining()` tells."""
    bound, script, tasks = make.timeout(2.0), Script(fail()), list[asyncio.Task[float | None]]()
    call = make.retry(2)(script.coroutine_function())

    async def work_on() -> float | None:
        await virtual_clock.asleep(3.0)
        left = remaining()
        with pytest.raises(ConnectionError):
            await call()
        return left

    async def leave() -> None:
        tasks.append(asyncio.create_task(work_on()))

    async def main() -> float | None:
        if form == "function":
            await bound(leave)()
        elif form == "timeout block":
            async with bound:
                await leave()
        else:
            with deadline_after(2.0):
                await leave()
        return await tasks[0]

    left = virtual_clock.run(main())
    assert script.calls == (2 if left is None else 1)
