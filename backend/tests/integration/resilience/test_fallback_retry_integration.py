"""Fallback × retry × breaker × timeout: what the fallback gets to see, and what it hides in the wrong place."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.deadline import remaining
from holdfast.infrastructure.resilience.errors import CircuitOpenError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import FallbackUsed
from holdfast.infrastructure.resilience.fallback import Fallback, watch_degraded
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import current_attempt
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

EXITS: list[type[BaseException]] = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]


def asked(answers: Script, **settings: Any) -> Fallback:
    """Return a fallback that plays a script, sync in both modes."""
    return Fallback(call=answers.function(), **settings)


def errors_of(answers: Script) -> list[Any]:
    """Return the errors that a fallback's script was asked with."""
    return [args[0] for args, _ in answers.arguments]


def test_the_fallback_sees_the_final_error_once(driver: Driver, make: Make, compose: Compose) -> None:
    """Outside a retry it is asked once, after all attempts, with the last attempt's error and its note."""
    errors = [ConnectionError(number) for number in range(3)]
    script, answers = Script(*map(fail, errors)), Script(succeed("guest"))
    call = compose(asked(answers), make.retry(3), source=script)

    assert driver.call(call) == "guest"
    assert errors_of(answers) == [errors[2]]
    assert "caller gave up after 3 attempts" in errors[2].__notes__[0]
    assert (script.calls, driver.clock.elapsed) == (3, 2.0)


def test_an_attempt_that_succeeds_leaves_the_fallback_alone(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """Failures that a retry overcame are not the fallback's business, and the result is not degraded."""
    script, answers = Script(fail(), fail(), succeed("ok")), Script(succeed("guest"))
    call = compose(asked(answers), make.retry(3), source=script)
    with watch_degraded() as watch:
        assert driver.call(call) == "ok"

    assert (answers.calls, script.calls, watch.degraded) == (0, 3, False)


def test_inside_a_retry_it_hides_failures(driver: Driver, make: Make, compose: Compose) -> None:
    """In the wrong order the first failure is answered, and nothing is ever tried again."""
    script = Script(fail(), succeed("ok"))
    assert driver.call(compose(make.retry(3), Fallback("guest"), source=script)) == "guest"
    assert (script.calls, driver.clock.elapsed) == (1, 0.0)


def test_explain_warns_of_the_order_that_hides_failures(make: Make) -> None:
    """A fallback inside a retry or a breaker is warned about, once for each; outside them it is not."""
    bound, retry, breaker, guest = make.timeout(2.0), make.retry(3), make.breaker(), Fallback("guest")

    def warnings(*policies: Policy) -> list[str]:
        return [one for one in Pipeline(*policies).explain().warnings if "fallback" in one]

    assert warnings(guest, retry, breaker, bound) == []
    assert warnings(retry, guest, bound)[0].startswith("fallback inside retry")
    assert warnings(breaker, bound, guest)[0].startswith("fallback inside circuit breaker")
    assert warnings(make.breakers(), guest)[0].startswith("fallback inside circuit breaker")
    assert len(warnings(retry, breaker, bound, guest)) == 2
    assert len(explain(retry(guest(Script(succeed()).function()))).warnings) == 2


def test_explain_counts_what_lies_inside(make: Make) -> None:
    """Around a stack, a value changes neither attempts nor time, and leaves only what it does not cover."""
    stack = (make.retry(3), make.breaker(), make.timeout(2.0))
    bare, answered = Pipeline(*stack).explain(), Pipeline(Fallback("guest"), *stack).explain()

    assert bare.errors[1:] == ("CircuitOpenError", "TimeoutExceeded")
    assert answered.errors == ("programming errors",)
    assert (answered.attempts, answered.duration) == (bare.attempts, bare.duration) == (3, 8.0)


def test_a_rejection_is_answered(driver: Driver, make: Make, compose: Compose) -> None:
    """An open breaker's refusal comes to the fallback at once, with its facts, and costs no call."""
    breaker, script, answers = make.breaker(), Script(succeed("ok")), Script(succeed("guest"))
    call = compose(asked(answers), make.retry(3), breaker, source=script)
    breaker.open()

    assert driver.call(call) == "guest"
    (error,) = errors_of(answers)
    assert isinstance(error, CircuitOpenError)
    assert (error.name, error.retry_after) == ("dependency", 5.0)
    assert (script.calls, driver.clock.elapsed, breaker.rejected) == (0, 0.0, 1)


def test_a_breaker_learns_through_an_outage_that_callers_do_not_see(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Every call is answered while the breaker counts, opens, probes and closes as without a fallback."""
    breaker, script = make.breaker(3), Script(fail(), fail(), fail(), succeed("ok"))
    call = driver.decorate(make.pipeline(Fallback("guest"), breaker), script)

    assert driver.outcomes(7, call, every=1.5) == ["guest"] * 6 + ["ok"]
    assert (script.calls, breaker.state) == (4, CircuitState.CLOSED)
    used = [type(event.error) for event in event_recorder.of(FallbackUsed)]
    assert used == [ConnectionError] * 3 + [CircuitOpenError] * 3


def test_inside_a_breaker_it_keeps_the_breaker_closed(driver: Driver, make: Make) -> None:
    """In the wrong order the breaker counts answers as successes, and a dead dependency is called for ever."""
    breaker, script = make.breaker(3, window=Window.calls(100)), Script(fail())
    call = driver.decorate(make.pipeline(breaker, Fallback("guest")), script)

    assert driver.outcomes(9, call) == ["guest"] * 9
    assert (script.calls, breaker.counts) == (9, WindowCounts(9, 0, 0))


def test_a_timeout_is_answered_at_its_bound(driver: Driver, make: Make, compose: Compose) -> None:
    """A call that hangs is answered when its time is over, and the fallback has no deadline from it."""
    left: list[float | None] = []

    def answer(error: Exception | None) -> str:
        assert isinstance(error, TimeoutExceeded)
        left.append(remaining())
        return "guest"

    call = compose(Fallback(call=answer), make.punctual(2.0), source=Script(hang()))
    assert driver.call(call) == "guest"
    assert (driver.clock.elapsed, left) == (2.0, [None])


def test_a_timeout_around_bounds_the_fallback_too(virtual_clock: VirtualClock, make: Make) -> None:
    """A slow fallback is cancelled by the timeout outside it, and that is not answered again."""
    answers = Script(succeed("guest", after=5.0))
    policy = Pipeline(make.timeout(3.0), Fallback(call=answers.coroutine_function()))
    call = policy(Script(fail(after=1.0)).coroutine_function())
    with pytest.raises(TimeoutExceeded):
        virtual_clock.run(call())

    assert (answers.calls, virtual_clock.elapsed) == (1, 3.0)


def test_the_fallback_runs_outside_the_attempts(driver: Driver, make: Make) -> None:
    """In the fallback the attempt number is that of whoever called, not that of the last attempt."""
    numbers: list[int] = []

    def answer(_: Exception) -> None:
        numbers.append(current_attempt())

    call = driver.decorate(make.pipeline(Fallback(call=answer), make.retry(3)), Script(fail()))
    driver.outcomes(1, call)

    assert numbers == [1]


@pytest.mark.parametrize("error", EXITS)
def test_exits_pass_through_the_whole_stack(driver: Driver, make: Make, error: type[BaseException]) -> None:
    """Cancellation and exits are not tried again, not counted and not answered."""
    breaker, script = make.breaker(window=Window.calls(100)), Script(fail(error))
    answers = Script(succeed("guest"))
    call = driver.decorate(make.pipeline(asked(answers, on=Exception), make.retry(3), breaker), script)
    with pytest.raises(error):
        driver.call(call)

    assert (answers.calls, script.calls, breaker.counts) == (0, 1, WindowCounts(0, 0, 0))


def test_a_call_that_is_cancelled_gets_no_answer(virtual_clock: VirtualClock, make: Make) -> None:
    """A task cancelled in an attempt, in a wait or in the fallback itself is cancelled, at once."""
    for seconds in (0.5, 1.5, 3.5):
        answers = Script(succeed("guest", after=1.0))
        policy = Pipeline(Fallback(call=answers.coroutine_function()), make.retry(2))
        call = policy(Script(fail(after=1.0)).coroutine_function())

        async def main(call: Callable[[], Any] = call, seconds: float = seconds) -> None:
            task = asyncio.ensure_future(call())
            await virtual_clock.asleep(seconds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        before = virtual_clock.elapsed
        virtual_clock.run(main())
        assert virtual_clock.elapsed - before == seconds
        assert answers.calls == (seconds > 3)


def test_a_programming_error_comes_out(driver: Driver, make: Make, compose: Compose) -> None:
    """A bug is neither tried again nor answered, so that somebody sees it."""
    script = Script(fail(TypeError("bug")))
    with pytest.raises(TypeError, match="bug"):
        driver.call(compose(Fallback("guest"), make.retry(3), source=script))

    assert script.calls == 1


def test_a_fallback_that_fails_is_caused_by_what_it_answered_for(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """Its error comes out, the last attempt's error with its note is the cause, and nothing is degraded."""
    original, own = ConnectionError("down"), LookupError("nothing cached")
    answers, script = Script(fail(own)), Script(fail(original))
    call = compose(asked(answers), make.retry(3), source=script)
    with watch_degraded() as watch, pytest.raises(LookupError) as caught:
        driver.call(call)

    assert caught.value is own
    assert own.__cause__ is original
    assert "gave up after 3 attempts" in original.__notes__[0]
    assert (answers.calls, script.calls, watch.degraded) == (1, 3, False)


def test_fallbacks_stack(driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder) -> None:
    """When an inner fallback fails, the outer one answers for the inner one's error."""
    own = LookupError("nothing cached")
    last, first = Script(succeed("guest")), Script(fail(own))
    call = compose(asked(last, on=LookupError), asked(first), make.retry(2), source=Script(fail()))

    assert driver.call(call) == "guest"
    assert errors_of(last) == [own]
    assert isinstance(own.__cause__, ConnectionError)
    assert [event.error for event in event_recorder.of(FallbackUsed)] == [own]


def test_refused_results_come_to_the_fallback_after_all_attempts(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """A result that the retry refuses to the end is returned by it, and refused by the fallback too."""

    def is_empty(result: object) -> bool:
        return result == ""

    script, answers = Script(succeed("")), Script(succeed("guest"))
    guest = asked(answers, result=is_empty)
    assert driver.call(compose(guest, make.retry(3, result=is_empty), source=script)) == "guest"
    assert (script.calls, errors_of(answers)) == (3, [None])


def test_a_fallback_may_use_the_same_breaker(driver: Driver, make: Make) -> None:
    """A fallback that is guarded itself, by the breaker of the call, is refused when that is open, and chained."""
    breaker: CircuitBreaker = make.breaker(1)
    replica = breaker(Script(succeed("replica")).function())

    def from_replica(_: Exception) -> Any:
        return replica()

    call = driver.decorate(make.pipeline(Fallback(call=from_replica), breaker), Script(fail()))
    (refused,) = driver.outcomes(1, call)

    assert isinstance(refused, CircuitOpenError)
    assert isinstance(refused.__cause__, ConnectionError)


def test_calls_at_the_same_time_keep_their_own_marks(driver: Driver) -> None:
    """Of callers in threads or tasks, those that got an answer know it, and the others know that they did not."""
    guest = Fallback("guest")
    dead, alive = (
        driver.decorate(guest, Script(step)) for step in (fail(after=1.0), succeed("ok", after=1.0))
    )

    def watched(fn: Any) -> Any:
        async def scenario() -> tuple[Any, bool]:
            with watch_degraded() as watch:
                result = await driver.ask(fn)
            return result, watch.degraded

        return scenario

    found = driver.together(*[watched(dead), watched(alive)] * 3)
    assert found == [("guest", True), ("ok", False)] * 3


def test_async_fallbacks_await_within_the_stack(virtual_clock: VirtualClock, make: Make) -> None:
    """An async fallback may wait, and what it raises later is chained as well."""
    own = LookupError("nothing cached")
    answers = Script(succeed("guest", after=3.0), fail(own, after=3.0))
    guest = Fallback(call=answers.coroutine_function(), pass_args=True)
    call = Pipeline(guest, make.retry(2))(Script(fail()).coroutine_function())

    assert virtual_clock.run(call(7, size=2)) == "guest"
    with pytest.raises(LookupError):
        virtual_clock.run(call(7, size=2))
    assert isinstance(own.__cause__, ConnectionError)
    assert [(args[1:], kwargs) for args, kwargs in answers.arguments] == [((7,), {"size": 2})] * 2
    assert virtual_clock.elapsed == 8.0
