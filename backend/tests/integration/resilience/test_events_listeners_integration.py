"""Seam: what policies tell × the subscribers, listeners, predicates and callbacks that hear it, and that may raise."""

import dataclasses
import itertools
import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.classify import TRANSIENT, Classifier, register_classifier
from holdfast.infrastructure.resilience.errors import CircuitOpenError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import (
    BudgetExhausted,
    CallbackFailed,
    CallRejected,
    CallTimedOut,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    Event,
    RetryGaveUp,
    RetryScheduled,
    RetrySucceeded,
    Subscription,
    subscribe,
)
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

# What is logged once is so for the life of a process: every test needs names that were never used.
_serial = itertools.count()


def fresh(name: str = "policy") -> str:
    return f"{name} {next(_serial)}"


class BrokenError(Exception):
    """What the callbacks of these tests raise."""


def broken(*_: object, **__: object) -> Any:
    raise BrokenError("told")


def at_once(retry_state: Any) -> float:
    """Wait 0 s; as a callback, do nothing."""
    return 0.0


def is_none(result: object) -> bool:
    return result is None


class Broken:
    """A listener that raises in chosen methods and counts all calls."""

    def __init__(self, *methods: str) -> None:
        self.methods = methods
        self.calls: list[str] = []

    def _call(self, method: str) -> None:
        self.calls.append(method)
        if method in self.methods:
            broken()

    def before_call(self, breaker: Any, function: Any, *args: Any, **kwargs: Any) -> None:
        """Count, and maybe raise."""
        self._call("before_call")

    def success(self, breaker: Any) -> None:
        """Count, and maybe raise."""
        self._call("success")

    def failure(self, breaker: Any, error: Any) -> None:
        """Count, and maybe raise."""
        self._call("failure")

    def state_change(self, breaker: Any, old: Any, new: Any) -> None:
        """Count, and maybe raise."""
        self._call("state_change")


METHODS = ("before_call", "success", "failure", "state_change")


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the library has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "holdfast"]


# Whole stories


def test_the_story_of_an_outage(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """Retries, a trip, rejections, a failed and a good probe: every event with all its facts, in order."""
    gone = ConnectionError("gone")
    script = Script(fail(gone), fail(gone), fail(gone), fail(gone), succeed(), succeed())
    call = compose(make.retry(2), make.breaker(3), source=script)
    outcomes = driver.outcomes(6, call, every=4.0)
    assert list(map(type, outcomes)) == [ConnectionError, *[CircuitOpenError] * 4, str]

    def told(kind: type[Event], name: str, at: float, **facts: Any) -> Event:
        return kind(name=name, at=1000.0 + at, **facts)

    def scheduled(at: float) -> Event:
        return told(RetryScheduled, "caller", at, attempt=1, delay=1.0, error=gone)

    def opened(at: float, seconds: float, reason: str, calls: int) -> Event:
        numbers = {"calls": calls, "failures": calls, "slow": 0}
        return told(CircuitOpened, "dependency", at, open_for=seconds, reason=reason, shadow=False, **numbers)

    def rejected(at: float, seconds: float) -> Event:
        return told(CallRejected, "dependency", at, policy="circuit_breaker", retry_after=seconds)

    def gave_up(at: float, elapsed: float, error: Exception) -> Event:
        reason = "no attempts left" if error is gone else "the error is not retryable"
        return told(RetryGaveUp, "caller", at, attempts=2, elapsed=elapsed, reason=reason, error=error)

    assert event_recorder.events == (
        scheduled(0.0),
        gave_up(1.0, 1.0, gone),
        opened(5.0, 5.0, "3 failures in a row", 3),
        scheduled(5.0),
        rejected(6.0, 4.0),
        gave_up(6.0, 1.0, outcomes[1]),
        told(CircuitHalfOpened, "dependency", 10.0),
        opened(10.0, 10.0, "1 of 1 probes failed", 1),
        scheduled(10.0),
        rejected(11.0, 9.0),
        gave_up(11.0, 1.0, outcomes[2]),
        rejected(15.0, 5.0),
        rejected(19.0, 1.0),
        told(CircuitHalfOpened, "dependency", 23.0),
        told(CircuitClosed, "dependency", 23.0),
    )


def test_the_story_of_a_call_that_succeeds_in_the_end(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """Each retry is announced with its delay, the success with its attempts; a refused result has no error."""
    script = Script(fail(TimeoutError), succeed(None), succeed("ok"))
    retry = make.retry(3, wait=2.0, result=is_none)
    assert driver.call(compose(retry, source=script)) == "ok"
    [first, second, done] = event_recorder.events
    assert isinstance(first, RetryScheduled)
    assert isinstance(first.error, TimeoutError)
    assert second == RetryScheduled(name="caller", at=1002.0, attempt=2, delay=2.0, error=None)
    assert done == RetrySucceeded(name="caller", at=1004.0, attempts=3)


def test_the_story_of_a_budget_that_runs_out(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """The retry that a budget refuses is told by budget and retry."""
    call = compose(make.retry(5, budget=make.budget(1)), source=Script(fail()))
    [error] = driver.outcomes(1, call)
    assert event_recorder.events[1:] == (
        BudgetExhausted(name="caller", at=1001.0, budget="budget"),
        RetryGaveUp(
            name="caller",
            at=1001.0,
            attempts=2,
            elapsed=1.0,
            reason="the retry budget is exhausted",
            error=error,
        ),
    )


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_the_story_of_a_timeout(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """Each attempt that runs into its bound is an event before the retry that it causes."""
    call = compose(make.retry(2), make.timeout(3.0), source=Script(hang()))
    [error] = driver.outcomes(1, call)
    assert isinstance(error, TimeoutExceeded)
    assert [(type(event), event.at) for event in event_recorder.events] == [
        (CallTimedOut, 1003.0),
        (RetryScheduled, 1003.0),
        (CallTimedOut, 1007.0),
        (RetryGaveUp, 1007.0),
    ]


def test_success_is_silent(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """Where nothing fails, nothing is told."""
    policies = [make.timeout(9.0), make.retry(budget=make.budget()), make.breaker(slow_call_duration=5.0)]
    assert driver.outcomes(50, compose(*policies, source=Script(succeed()))) == ["ok"] * 50
    assert event_recorder.events == ()


# Subscribers


def test_subscribers_choose_kinds_and_names(driver: Driver, make: Make) -> None:
    """Each subscriber hears the kinds and names that it asked for, and no others."""
    heard: dict[str, list[str]] = {name: [] for name in ("all", "kinds", "names", "both", "nothing")}

    def hear(name: str) -> Callable[[Event], None]:
        return lambda event: heard[name].append(f"{event.name} {type(event).__name__}")

    subscriptions: list[Subscription] = [
        subscribe(hear("all")),
        subscribe(hear("kinds"), CircuitOpened, RetryGaveUp),
        subscribe(hear("names"), names=frozenset({"dependency"})),
        subscribe(hear("both"), RetryScheduled, names=frozenset({"other"})),
        subscribe(hear("nothing"), CircuitClosed),
    ]
    for name in ("caller", "other"):
        breaker = make.breaker(2)
        driver.outcomes(
            1, driver.compose("decorators", make.retry(2, name=name), breaker, source=Script(fail()))
        )
    for subscription in subscriptions:
        subscription.close()
        subscription.close()
    driver.outcomes(1, driver.decorate(make.retry(2), Script(fail())))
    one = ["{} RetryScheduled", "dependency CircuitOpened", "{} RetryGaveUp"]
    assert heard == {
        "all": [text.format(name) for name in ("caller", "other") for text in one],
        "kinds": [text.format(name) for name in ("caller", "other") for text in one[1:]],
        "names": ["dependency CircuitOpened"] * 2,
        "both": ["other RetryScheduled"],
        "nothing": [],
    }


def test_subscribers_are_called_in_their_order(driver: Driver, make: Make) -> None:
    """Who subscribed first hears first."""
    heard: list[str] = []
    with subscribe(lambda event: heard.append("first")), subscribe(lambda event: heard.append("second")):
        driver.outcomes(1, driver.decorate(make.retry(2), Script(fail(), succeed())))
    assert heard == ["first", "second"] * 2


def test_one_that_unsubscribes_while_it_hears_stays_the_only_one(driver: Driver, make: Make) -> None:
    """A subscriber may leave, and others may come, from within an event: this event still reaches all it found."""
    heard: list[str] = []

    def leave(event: Event) -> None:
        heard.append("leaves")
        leaving.close()

    with subscribe(leave) as leaving, subscribe(lambda event: heard.append("stays")):
        driver.outcomes(1, driver.decorate(make.retry(2), Script(fail(), succeed())))
    assert heard == ["leaves", "stays", "stays"]


def test_a_subscriber_may_call_through_policies_itself(driver: Driver, make: Make) -> None:
    """A subscriber that reports through a decorated function causes events of its own, and they are heard too."""
    heard: list[str] = []
    report = make.retry(2, wait=0.0, name="report")(Script(fail(), succeed()).function())

    def hear(event: Event) -> None:
        heard.append(f"{event.name} {type(event).__name__}")
        if event.name == "caller":
            report()

    with subscribe(hear):
        driver.outcomes(1, driver.decorate(make.retry(2), Script(fail(), succeed())))
    assert heard == [
        "caller RetryScheduled",
        "report RetryScheduled",
        "report RetrySucceeded",
        "caller RetrySucceeded",
    ]


def test_events_cannot_be_changed_and_can_be_sent(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """An event is frozen and equal to its copy; those without an error travel between processes."""
    driver.outcomes(2, driver.decorate(make.breaker(1), Script(fail())))
    for event in event_recorder.events:
        with pytest.raises(dataclasses.FrozenInstanceError):
            event.name = "other"  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(event)) == event


def test_without_subscribers_no_event_is_made() -> None:
    """A process in which nobody subscribes runs through a whole outage without loading the events."""
    program = """
import sys
from holdfast import CircuitBreaker, Retry, Window
breaker = CircuitBreaker("x", window=Window.consecutive(1))
@Retry(2, wait=0.0)
@breaker
def fetch(): raise ConnectionError
for _ in range(3):
    try: fetch()
    except Exception: pass
print(breaker.current_state, breaker.rejected, "holdfast.infrastructure.resilience.events" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("open 3 False\n", "")


class Subscriber:
    """A subscriber that raises, with a representation of its own."""

    def __init__(self) -> None:
        self.name = fresh("subscriber")
        self.heard = 0

    def __call__(self, event: Event) -> None:
        """Count, and raise."""
        self.heard += 1
        broken()

    def __repr__(self) -> str:
        return self.name


def test_a_subscriber_that_raises_disturbs_nobody(
    driver: Driver, make: Make, event_recorder: EventRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """It is called every time and logged once; the call and the other subscribers notice nothing."""
    subscriber, after = Subscriber(), list[Event]()
    script = Script(fail(), fail(), succeed())
    with subscribe(subscriber), subscribe(after.append):
        outcomes = driver.outcomes(
            1, driver.compose("decorators", make.retry(3), make.breaker(2), source=script)
        )
    assert [type(one) for one in outcomes] == [CircuitOpenError]
    assert subscriber.heard == len(after) == 5
    assert tuple(after) == event_recorder.events
    assert errors(caplog) == [f"subscriber {subscriber.name} raised; the call's outcome is unchanged"]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [BrokenError]


# Listeners that raise


@pytest.mark.parametrize("method", METHODS)
def test_a_listener_that_raises_changes_nothing(
    driver: Driver, make: Make, event_recorder: EventRecorder, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """Through a whole outage, outcomes, states and other listeners are the same with a listener that raises."""
    name = fresh()

    def story(listener: Broken) -> tuple[list[Any], list[CircuitState], list[str]]:
        other = Broken()
        breaker = CircuitBreaker(name, fail_max=2, reset_timeout=3, listeners=(listener, other))
        call = driver.decorate(breaker, Script(succeed(), fail(), fail(), fail(), succeed()))
        outcomes, states = list[Any](), list[CircuitState]()
        for _ in range(12):
            outcomes += [type(one) for one in driver.outcomes(1, call)]
            states.append(breaker.state)
            driver.run(driver.sleep, 1.0)
        return outcomes, states, other.calls

    expected = story(Broken())
    event_recorder.clear()
    listener = Broken(method)
    assert story(listener) == expected
    raised = listener.calls.count(method)
    reports = event_recorder.of(CallbackFailed)
    assert [(report.name, report.callback) for report in reports] == [
        (name, f"listener Broken.{method}")
    ] * raised
    assert raised > 1
    assert errors(caplog) == [f"listener Broken.{method} of {name!r} raised; the call's outcome is unchanged"]


@pytest.mark.parametrize("method", METHODS)
def test_a_listener_that_raises_takes_no_probe(driver: Driver, make: Make, method: str) -> None:
    """Half-open, with listeners that raise wherever they can, every probe is settled and the breaker recovers."""
    breaker = make.breaker(1, half_open_calls=2, listeners=(Broken(method), Broken(*METHODS)))
    call = driver.decorate(breaker, Script(fail(), fail(ValueError), fail(ValueError), succeed()))
    driver.outcomes(1, call)
    driver.run(driver.sleep, 5.0)
    assert [type(one) for one in driver.outcomes(5, call)] == [ValueError, ValueError, str, str, str]
    assert (breaker.state, breaker.rejected) == (CLOSED, 0)


# Predicates that raise


def test_a_predicate_of_a_retry_that_raises_ends_the_call(
    driver: Driver,
    make: Make,
    compose: Compose,
    event_recorder: EventRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error that nobody can judge is not retried: it comes out as it is, with one report for each time."""
    name, error = fresh(), ConnectionError("gone")
    script = Script(fail(error))
    outcomes = driver.outcomes(3, compose(make.retry(5, on=broken, name=name), source=script))
    assert [one is error for one in outcomes] == [True] * 3
    assert script.calls == 3
    reports = event_recorder.of(CallbackFailed)
    assert [(report.name, report.callback, type(report.error)) for report in reports] == [
        (name, "predicate", BrokenError)
    ] * 3
    assert event_recorder.kinds == ("CallbackFailed",) * 3
    assert errors(caplog) == [f"predicate of {name!r} raised; the call's outcome is unchanged"]


def test_a_predicate_that_raises_later_ends_the_call_there(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """A predicate that raises at the second error ends the call with that error."""
    verdicts = iter([True])
    script = Script(fail(ConnectionError("first")), fail(ConnectionError("second")))

    def on(error: Exception) -> bool:
        return next(verdicts)

    retry = make.retry(5, on=on, name=fresh())
    [error] = driver.outcomes(1, driver.decorate(retry, script))
    assert (error.args, script.calls) == (("second",), 2)
    assert event_recorder.kinds.count("CallbackFailed") == 1


def test_a_predicate_is_asked_once_for_each_error(driver: Driver, make: Make) -> None:
    """However many things depend on its verdict, a predicate sees each error once."""
    seen: list[str] = []

    def on(error: Exception) -> bool:
        seen.append(str(error))
        return True

    steps = [fail(ConnectionError(str(number))) for number in range(3)]
    policies: list[Policy] = [
        make.retry(3, on=on),
        make.retry(3, on=on, before=at_once, wait=at_once),
        make.retry(3, on=on, after=at_once),
        make.retry(3, on=on, budget=RetryBudget.aws()),
        make.breaker(5, on=on),
    ]
    for policy in policies:
        seen.clear()
        call = driver.decorate(policy, Script(*steps))
        driver.outcomes(1 if isinstance(policy, Retry) else 3, call)
        assert seen == ["0", "1", "2"], policy


def test_a_result_predicate_that_raises_refuses_nothing(
    driver: Driver,
    make: Make,
    compose: Compose,
    event_recorder: EventRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The call succeeded: its result comes out, and the predicate is reported."""
    name, script = fresh(), Script(succeed("fine"))
    assert driver.outcomes(2, compose(make.retry(3, result=broken, name=name), source=script)) == ["fine"] * 2
    assert script.calls == 2
    assert [report.callback for report in event_recorder.of(CallbackFailed)] == ["result predicate"] * 2
    assert errors(caplog) == [f"result predicate of {name!r} raised; the call's outcome is unchanged"]


@pytest.mark.parametrize("what", ["on", "exclude", "result", "classifier"])
@pytest.mark.parametrize("state", ["closed", "closed, slow calls", "half-open", "half-open, slow calls"])
def test_a_predicate_of_a_breaker_that_raises_counts_as_failure(
    driver: Driver,
    event_recorder: EventRecorder,
    caplog: pytest.LogCaptureFixture,
    what: str,
    state: str,
) -> None:
    """What cannot be judged is a failure, the outcome of the call is its own, and a probe is settled."""
    name = fresh()
    kinds: dict[str, dict[str, Any]] = {
        "on": {"on": broken},
        "exclude": {"exclude": (broken,)},
        "result": {"result": broken},
        "classifier": {"on": Classifier(predicates=(broken,))},
    }
    breaker = CircuitBreaker(
        name,
        window=Window.calls(2),
        min_calls=2,
        half_open_calls=2,
        open_jitter=0.0,
        slow_call_duration=60.0 if "slow" in state else None,
        **kinds[what],
    )
    error = ConnectionError("gone")
    call = driver.decorate(breaker, Script(succeed("fine") if what == "result" else fail(error)))
    half_open = state.startswith("half-open")
    if half_open:
        breaker.half_open()
    outcomes = driver.outcomes(2, call)
    calls = 1 if half_open else 2
    assert outcomes[:calls] == (["fine"] if what == "result" else [error]) * calls
    assert breaker.state is OPEN
    callback = "result predicate" if what == "result" else "predicate"
    reports = event_recorder.of(CallbackFailed)
    assert [(report.name, report.callback) for report in reports] == [(name, callback)] * calls
    assert errors(caplog) == [f"{callback} of {name!r} raised; the call's outcome is unchanged"]


def test_a_registered_classifier_that_raises_is_contained(driver: Driver, make: Make) -> None:
    """A classifier for a library that raises does not replace the library's error."""

    class AlienError(Exception):
        __module__ = "alien.errors"

    undo = register_classifier("alien", broken)
    try:
        outcomes = driver.outcomes(
            1, driver.decorate(make.retry(3, name=fresh()), Script(fail(AlienError("told"))))
        )
    finally:
        undo()
    assert [(type(one), one.args) for one in outcomes] == [(AlienError, ("told",))]


# A raising callable at every other place that takes one


PLACES: dict[str, Callable[[Make, Callable[..., Any]], Policy]] = {
    "before": lambda make, call: make.retry(4, before=call, name=fresh()),
    "after": lambda make, call: make.retry(4, after=call, name=fresh()),
    "before_sleep": lambda make, call: make.retry(4, before_sleep=call, name=fresh()),
    "wait": lambda make, call: make.retry(4, wait=call, name=fresh()),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_callback_of_a_retry_that_raises_changes_no_outcome(
    driver: Driver, make: Make, event_recorder: EventRecorder, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """Same attempts, same results with a callback that raises; every time it is reported, once it is logged."""

    def story(callback: Callable[..., Any]) -> tuple[list[Any], int]:
        script = Script(fail(), fail(), succeed(), fail(ValueError("permanent")), fail())
        outcomes = driver.outcomes(3, driver.decorate(PLACES[place](make, callback), script))
        return list(map(repr, outcomes)), script.calls

    expected = story(at_once)
    event_recorder.clear()
    assert story(broken) == expected
    reports = event_recorder.of(CallbackFailed)
    assert {report.callback for report in reports} == {place}
    assert len(reports) == {"before": 8, "after": 6, "before_sleep": 5, "wait": 6}[place]
    assert len(errors(caplog)) == 1


def test_one_that_raises_about_another_that_raises(driver: Driver, make: Make) -> None:
    """A subscriber that raises at `CallbackFailed` causes no further report: there is no circle."""
    subscriber = Subscriber()
    with subscribe(subscriber, CallbackFailed):
        outcomes = driver.outcomes(1, driver.decorate(make.retry(2, on=broken, name=fresh()), Script(fail())))
    assert [type(one) for one in outcomes] == [ConnectionError]
    assert subscriber.heard == 1


def test_every_callback_is_logged_for_itself(
    driver: Driver, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Two policies with a broken predicate are two lines in the log, however often they fail, with traceback."""
    names = [fresh(), fresh()]
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            for name in names:
                driver.outcomes(2, driver.decorate(make.retry(on=broken, name=name), Script(fail())))
    assert errors(caplog) == [
        f"predicate of {name!r} raised; the call's outcome is unchanged" for name in names
    ]
    assert all(record.exc_info and record.exc_info[0] is BrokenError for record in caplog.records)


# Locks


def in_another_thread(action: Callable[[], object]) -> bool:
    """Say whether an action ends in another thread while this one waits for it."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(5.0)
    return not thread.is_alive()


@pytest.mark.parametrize("place", ["subscriber", "listener", "on", "result", "exclude", "key", "function"])
def test_no_lock_is_held_while_users_code_runs(driver: Driver, make: Make, place: str) -> None:
    """Whatever the user's code is called for, another thread can use the same breaker meanwhile."""
    free: list[bool] = []
    breakers: list[CircuitBreaker] = []

    def use() -> None:
        breaker = breakers[0]
        breaker.close()
        breaker.admit().neutral()
        assert breaker.counts.calls == 0
        breaker.isolate()
        breaker.release()

    def check(*_: Any, **__: Any) -> bool:
        if breakers and not free:
            free.append(False)
            free[0] = in_another_thread(use)
        return True

    class Listener:
        failure = staticmethod(check)

    given: dict[str, dict[str, Any]] = {
        "listener": {"listeners": (Listener(),)},
        "on": {"on": check},
        "result": {"result": check},
        "exclude": {"exclude": (check,)},
    }

    async def fetch() -> str:
        if place == "function":
            check()
        if place != "result":
            raise ConnectionError
        return "ok"

    def key() -> str:
        check()
        return "key"

    if place == "key":
        family = make.breakers(1, key=key)
        breakers.append(family.get("key"))
        policy: Policy = family
    else:
        breakers.append(make.breaker(1, **given.get(place, {})))
        policy = breakers[0]
    with subscribe(check, CircuitOpened) if place == "subscriber" else subscribe(lambda event: None):
        driver.outcomes(1, driver.decorate(policy, fetch))
    assert free == [True]


def test_events_come_in_the_thread_that_decides(make: Make, virtual_clock: object) -> None:
    """A subscriber runs where the decision fell, before the call goes on."""
    heard: list[int] = []

    def work() -> None:
        with pytest.raises(ConnectionError):
            make.retry(2, wait=0.0)(Script(fail()).function())()
        assert heard == [threading.get_ident()] * 2

    with subscribe(lambda event: heard.append(threading.get_ident())):
        assert in_another_thread(work)
    assert len(heard) == 2


def test_verdicts_of_predicates_are_followed(driver: Driver, make: Make) -> None:
    """A predicate may answer with a verdict or with yes and no; a truthy answer is yes."""
    for answer, calls in ((TRANSIENT, 3), (True, 3), (1, 3), (False, 1), (None, 1), ("", 1)):

        def on(error: Exception, answer: Any = answer) -> Any:
            return answer

        script = Script(fail(ValueError))
        driver.outcomes(1, driver.decorate(make.retry(3, on=on), script))
        assert script.calls == calls, answer
