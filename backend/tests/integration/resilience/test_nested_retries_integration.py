"""Seam: retries of one function inside retries of another, through calls, tasks and threads."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver, Function, Mode
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.cache import Cache
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.events import RetriesNested, RetryGaveUp
from holdfast.infrastructure.resilience.hedge import Hedge
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, succeed
from holdfast.testing.recorder import EventRecorder

LEFT = "a retry around this one goes on"


def layer(driver: Driver, policy: Policy, inner: Function) -> Function:
    """Return a function under a policy that does nothing but call the layer below."""

    async def call() -> Any:
        return await driver.ask(inner)

    return driver.decorate(policy, call)


def layers(driver: Driver, script: Script, *policies: Policy) -> Function:
    """Return functions that call each other, the outermost first, each under one policy."""
    *outer, innermost = policies
    fn = driver.decorate(innermost, script)
    for policy in reversed(outer):
        fn = layer(driver, policy, fn)
    return fn


def test_in_named_pipelines_only_the_outermost_retries(driver: Driver, make: Make) -> None:
    """Three layers of four attempts make four calls, not 64, and the clock shows the outermost one's waits."""
    script = Script(fail())
    stack = layers(
        driver, script, *(make.pipeline(make.retry(4), name=name) for name in ("web", "shop", "db"))
    )
    (error,) = driver.outcomes(1, stack)
    assert (script.calls, driver.clock.elapsed) == (4, 3.0)
    assert isinstance(error, ConnectionError)


def test_the_inner_retries_say_so(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Each attempt's error says that the inner retry left it to the outer one; events have the order and the names."""
    inner = make.pipeline(make.retry(3, name=None), name="db")
    outer = make.pipeline(make.retry(2, name=None), name="web")
    (error,) = driver.outcomes(1, layers(driver, Script(fail(ConnectionError())), outer, inner))
    left = f"holdfast: db gave up after 1 attempt, 0 s after the first failure: {LEFT}"
    ended = "holdfast: web gave up after 2 attempts, 1 s after the first failure: no attempts left"
    assert error.__notes__ == [left, left, ended]
    ends = [(event.name, event.attempts, event.reason) for event in event_recorder.of(RetryGaveUp)]
    assert ends == [("db", 1, LEFT), ("db", 1, LEFT), ("web", 2, "no attempts left")]


def test_alone_the_inner_retries(driver: Driver, make: Make) -> None:
    """The same function, called from outside any retry, makes all its attempts; inside one again, it does not."""
    script = Script(fail())
    inner = driver.decorate(make.pipeline(make.retry(3), name="db"), script)
    outer = layer(driver, make.pipeline(make.retry(2), name="web"), inner)
    counts: list[int] = []
    for fn in (inner, outer, inner, outer):
        before = script.calls
        driver.outcomes(1, fn)
        counts.append(script.calls - before)
    assert counts == [3, 2, 3, 2]


def test_success_of_the_outer_retry_is_the_result(driver: Driver, make: Make) -> None:
    """What fails twice and then works is found by the outer retry alone."""
    script = Script(fail(), fail(), succeed("late"))
    stack = layers(
        driver, script, make.pipeline(make.retry(3), name="web"), make.pipeline(make.retry(3), name="db")
    )
    assert (driver.call(stack), script.calls, driver.clock.elapsed) == ("late", 3, 2.0)


@pytest.mark.parametrize(
    ("outer", "inner", "calls"),
    [("web", "db", 3), (None, "db", 9), ("web", None, 9), (None, None, 9)],
)
def test_both_must_be_named(
    driver: Driver, make: Make, outer: str | None, inner: str | None, calls: int
) -> None:
    """A retry that nobody put into a named pipeline is taken at its word: it retries, and is not waited for."""
    script = Script(fail())
    policies = (make.pipeline(make.retry(3), name=name) for name in (outer, inner))
    driver.outcomes(1, layers(driver, script, *policies))
    assert script.calls == calls


def test_an_inner_retry_can_insist(driver: Driver, make: Make) -> None:
    """With `nested` the inner one retries all the same, and what lies below it leaves it to that one."""
    script = Script(fail())
    stack = layers(
        driver,
        script,
        make.pipeline(make.retry(2), name="web"),
        make.pipeline(make.retry(3, nested=True), name="shop"),
        make.pipeline(make.retry(4), name="db"),
    )
    driver.outcomes(1, stack)
    assert script.calls == 6


def test_what_is_between_them_does_not_hide_the_outer_retry(driver: Driver, make: Make) -> None:
    """Breakers, timeouts and undecorated functions between the two retries change nothing."""
    script = Script(fail())
    inner = driver.decorate(
        make.pipeline(make.timeout(9.0), make.retry(3), make.breaker(50), name="db"), script
    )

    async def plain() -> Any:
        return await driver.ask(inner)

    outer = make.pipeline(make.breaker(50), make.retry(3), make.timeout(9.0), name="web")
    driver.outcomes(1, driver.decorate(outer, plain))
    assert script.calls == 3


def test_other_callers_are_not_affected(driver: Driver, make: Make) -> None:
    """While one caller is inside an outer retry, another calls the inner function alone, and it retries."""
    nested, alone = Script(fail()), Script(fail())
    policy = make.pipeline(make.retry(3), name="db")
    outer = layer(driver, make.pipeline(make.retry(3), name="web"), driver.decorate(policy, nested))
    inner = driver.decorate(policy, alone)
    driver.together(driver.after(0.0, outer), driver.after(0.5, inner))
    assert (nested.calls, alone.calls) == (3, 3)


@pytest.mark.parametrize("tenacity", [False, True])
def test_functions_of_the_state_make_no_difference(driver: Driver, make: Make, *, tenacity: bool) -> None:
    """Retries that ask callbacks of tenacity's kind leave it to the outer one, and are left to, as others are."""
    seen: list[int] = []

    def note(state: Any) -> None:
        seen.append(state.attempt_number)

    settings: dict[str, Any] = {"after": note} if tenacity else {}
    script = Script(fail())
    policies = (make.pipeline(make.retry(3, **settings), name=name) for name in ("web", "db"))
    driver.outcomes(1, layers(driver, script, *policies))
    assert script.calls == 3
    assert seen == ([1, 1, 1, 2, 1, 3] if tenacity else [])


BETWEEN: dict[str, Callable[[Make], Policy]] = {
    "hedge": lambda _: Hedge(9.0, on=TimeoutError),
    "cache": lambda _: Cache(60.0),
    "timeout": lambda make: make.punctual(9.0),
}
each_between = pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)


@each_between
def test_what_starts_tasks_and_threads_does_not_hide_the_outer_retry(
    driver: Driver, make: Make, between: Callable[[Make], Policy]
) -> None:
    """Below a hedge, a cache or a punctual timeout the first attempt, too, is known as one of the outer retry's."""
    script = Script(fail())
    inner = driver.decorate(make.pipeline(make.retry(3), name="db"), script)
    outer = layer(driver, make.pipeline(make.retry(2), between(make), name="web"), inner)
    driver.outcomes(1, outer)
    assert script.calls == 2


@each_between
def test_they_do_not_hide_one_further_up_either(
    driver: Driver, make: Make, between: Callable[[Make], Policy]
) -> None:
    """It is found wherever it is: above undecorated functions, and above other tasks and threads that wait."""
    script = Script(fail())
    inner = driver.decorate(make.pipeline(make.retry(3), name="db"), script)
    outer = layer(
        driver, Cache(60.0), layer(driver, make.punctual(99.0), layer(driver, between(make), inner))
    )
    driver.outcomes(1, layer(driver, make.pipeline(make.retry(2), name="web"), outer))
    assert script.calls == 2


class Held:
    """Something that a function holds while it fails."""


async def caught(call: Awaitable[None]) -> None:
    with suppress(ConnectionError, ValueError):
        await call


@each_between
def test_the_search_keeps_no_error_alive(
    mode: Mode, virtual_clock: VirtualClock, make: Make, between: Callable[[Make], Policy]
) -> None:
    """The garbage collector has nothing to do for what failed: no frame that was looked into keeps its error."""
    held: list[weakref.ref[Held]] = []
    inner, outer = (
        make.pipeline(make.retry(2), name="db"),
        make.pipeline(make.retry(2), between(make), name="web"),
    )

    @inner
    def fails() -> None:
        one = Held()
        held.append(weakref.ref(one))
        raise ConnectionError

    @outer
    def calls() -> None:
        fails()

    @outer
    async def awaits() -> None:
        fails()

    gc.collect()
    gc.disable()
    try:
        try:
            calls() if mode == "sync" else virtual_clock.run(caught(awaits()))
        except ConnectionError:
            pass
        before = [one() is None for one in held]
        gc.collect()
    finally:
        gc.enable()
    assert before == [one() is None for one in held]


@each_between
def test_below_them_a_retry_with_none_around_it_retries(
    driver: Driver, make: Make, between: Callable[[Make], Policy]
) -> None:
    """Neither the pipeline's own function, nor a bare retry around it, is taken for an outer retry."""
    script = Script(fail(PermissionError()))
    retry = make.retry(3, on=PermissionError)
    inner = driver.decorate(make.pipeline(between(make), retry, make.breaker(99), name="db"), script)
    (error,) = driver.outcomes(1, layer(driver, Retry(2, wait=0.0), inner))
    assert (script.calls, type(error)) == (3, PermissionError)


def test_a_hedge_with_none_around_it_retries_as_before(driver: Driver, make: Make) -> None:
    """Two retries of one pipeline multiply, with a hedge between them as without."""
    script = Script(fail())
    parts = (make.retry(2), Hedge(99.0, max_hedges=1, on=TimeoutError), make.retry(3), make.breaker(99))
    driver.outcomes(1, driver.decorate(make.pipeline(*parts, name="db"), script))
    assert script.calls == 6


def test_a_refresh_behind_retries_by_itself(virtual_clock: VirtualClock, make: Make) -> None:
    """A caller that has the old result of a cache makes no further attempt: the refresh behind it makes its own."""
    script = Script(succeed("old"), fail())
    inner = make.pipeline(make.retry(3), name="db")(script.coroutine_function())
    cached = Cache(1.0, jitter=0.0, stale_while_revalidate=60.0)(inner)
    first = Script(fail(), succeed())
    other = first.coroutine_function()

    @make.pipeline(make.retry(3), name="web")
    async def outer() -> Any:
        await other()
        answer = await cached()
        await virtual_clock.asleep(9.0)
        return answer

    async def main() -> None:
        await cached()
        await virtual_clock.asleep(2.0)
        assert await outer() == "old"

    virtual_clock.run(main())
    assert script.calls == 1 + 3


def test_tasks_know_from_the_second_attempt_on(virtual_clock: VirtualClock, make: Make) -> None:
    """A task has no call stack in common with who started it; the context tells it, once the outer one has failed."""
    script = Script(fail())
    inner = make.pipeline(make.retry(3), name="db")(script.coroutine_function())

    @make.pipeline(make.retry(3), name="web")
    async def outer() -> None:
        await asyncio.gather(inner())

    with pytest.raises(ConnectionError):
        virtual_clock.run(outer())
    assert script.calls == 3 + 1 + 1


def test_bare_retries_multiply_and_it_is_said_once(
    driver: Driver, make: Make, event_recorder: EventRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Three bare layers of four attempts are 64 calls; each inner one is reported once, however often it happens."""
    script = Script(fail())
    stack = layers(driver, script, *(Retry(4, wait=0.0, name=name) for name in unique("web", "shop", "db")))
    with caplog.at_level(logging.WARNING, "holdfast"):
        driver.outcomes(2, stack)
    assert script.calls == 128
    told = [(event.name[:2], event.attempts) for event in event_recorder.of(RetriesNested)]
    assert told == [("db", 4), ("sh", 4)]
    assert ["made 4 attempts within one attempt" in record.message for record in caplog.records] == [
        True,
        True,
    ]


_turn = iter(range(1_000_000))


def unique(*names: str) -> list[str]:
    """Return names that no other test has used: a report is made once in a process."""
    turn = next(_turn)
    return [f"{name} {turn}" for name in names]


def test_a_bare_retry_alone_is_not_reported(driver: Driver, event_recorder: EventRecorder) -> None:
    """A function that exhausts its attempts without a retry around it is nobody's nested retry."""
    (name,) = unique("lonely")
    driver.outcomes(3, driver.decorate(Retry(3, wait=0.0, name=name), Script(fail())))
    assert event_recorder.of(RetriesNested) == ()


def test_the_setting_is_checked() -> None:
    """`nested` is a bool, and says so otherwise."""
    with pytest.raises(ConfigurationError, match="nested = 'yes' is not a bool"):
        Retry(nested="yes")  # type: ignore[arg-type]


def test_recursion_is_one_retry(driver: Driver, make: Make) -> None:
    """A function that calls itself under its own named pipeline is retried by the outermost call only."""
    depth: list[int] = []
    again: list[Callable[[], Any]] = []

    async def call() -> Any:
        depth.append(1)
        if len(depth) % 2:
            return await driver.ask(again[0])
        raise ConnectionError

    again.append(driver.decorate(make.pipeline(make.retry(3), name="tree"), call))
    driver.outcomes(1, again[0])
    assert len(depth) == 6


def test_an_outer_retry_that_never_retries_is_none(driver: Driver, make: Make) -> None:
    """One attempt is no retry: the inner one makes its own."""
    script = Script(fail())
    outer = make.pipeline(make.timeout(60.0), make.retry(1), name="web")
    driver.outcomes(1, layers(driver, script, outer, make.pipeline(make.retry(3), name="db")))
    assert script.calls == 3


def test_a_task_that_outlives_the_retry_is_on_its_own(virtual_clock: VirtualClock, make: Make) -> None:
    """A background task that a second attempt started retries by itself once that retry is over."""
    script = Script(fail())
    inner = make.pipeline(make.retry(3), name="db")(script.coroutine_function())
    started: list[asyncio.Task[Any]] = []

    async def later() -> None:
        await virtual_clock.asleep(100.0)
        await inner()

    attempts: list[int] = []

    @make.pipeline(make.retry(3), name="web")
    async def outer() -> None:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise ConnectionError
        started.append(asyncio.ensure_future(later()))

    async def main() -> None:
        await outer()
        await asyncio.wait(started)

    virtual_clock.run(main())
    assert isinstance(started[0].exception(), ConnectionError)
    assert (len(attempts), script.calls) == (2, 3)
