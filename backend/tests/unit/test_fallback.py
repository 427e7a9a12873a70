"""Fallback: its settings, which failures it answers and how, and what it leaves behind."""

import asyncio
import contextvars
import copy
import gc
import inspect
import pickle
import re
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.infrastructure.resilience import _degraded
from holdfast.infrastructure.resilience._given import ABSENT
from holdfast.infrastructure.resilience.classify import PERMANENT, THROTTLED, TRANSIENT, Classifier, Errors
from holdfast.infrastructure.resilience.errors import (
    BulkheadFullError,
    CallRejectedError,
    CircuitOpenError,
    ConfigurationError,
    TimeoutExceeded,
)
from holdfast.infrastructure.resilience.events import CallbackFailed, FallbackUsed
from holdfast.infrastructure.resilience.fallback import Fallback, FallbackConfig, fallback, watch_degraded
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing import EventRecorder, Script, fail, succeed


def failing(error: BaseException | type[BaseException] = ConnectionError) -> Callable[..., Any]:
    return Script(fail(error)).function()


async def answer_later(error: Exception | None) -> Any:
    await asyncio.sleep(0)
    return repr(error)


def pickled(one: Any) -> Any:
    return pickle.loads(pickle.dumps(one))


def answer_awaitably(error: Exception | None) -> Any:
    return answer_later(error)


@dataclass(frozen=True)
class Frozen(Exception):
    """An error that refuses every new attribute."""

    code: int


# Settings


def test_the_defaults_are_these() -> None:
    """A value, no function, every error but programming errors, no judge of results, no name."""
    config = Fallback("guest").config

    assert config == FallbackConfig(
        value="guest", call=None, pass_args=False, on=None, result=None, name=None
    )
    assert repr(fallback("guest", on=OSError, name="users")) == (
        "Fallback('guest', name='users', on=<class 'OSError'>)"
    )
    assert repr(Fallback(0)) == "Fallback(0)"


def test_the_page_shows_the_defaults() -> None:
    """The table of docs/policies/fallback.md has every setting, with the default that the code has."""
    page = (Path(__file__).parents[3] / "docs" / "policies" / "fallback.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `(\w+)` \| `?(.+?)`? \|", page, re.MULTILINE))
    parameters = inspect.signature(FallbackConfig).parameters.values()

    assert shown == {one.name: "–" if one.default is ABSENT else repr(one.default) for one in parameters}


def test_the_lower_case_form_makes_the_same() -> None:
    """`fallback(...)` is a Fallback of the same settings."""
    settings: dict[str, Any] = {
        "call": repr,
        "pass_args": True,
        "on": OSError,
        "result": bool,
        "name": "users",
    }

    assert fallback(**settings).config == Fallback(**settings).config == FallbackConfig(**settings)
    assert fallback(**settings).name == "users"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_value_that_was_not_given_stays_so_in_copies(copied: Callable[[Any], Any]) -> None:
    """A copied or pickled configuration is equal to the first, whether it has a value or a function."""
    for config in (FallbackConfig(call=repr), FallbackConfig(value=None)):
        assert copied(config) == config
    assert copied(FallbackConfig(call=repr)).value is ABSENT


async def coroutine(_: object) -> bool:
    return True


def takes_nothing() -> None: ...


def takes_two(error: object, more: object) -> None: ...


def takes_by_name(*, error: object) -> None: ...


def takes_and_needs(error: object, *, needed: object) -> None: ...


def takes_one(error: object) -> None: ...


def takes_optional(error: object, more: object = None, *, most: object = None) -> None: ...


def takes_any(*errors: object) -> None: ...


def takes_arguments(error: object, a: int, b: int = 1, *, c: int) -> None: ...


def takes_everything(*args: object, **kwargs: object) -> None: ...


class Answers:
    def method(self, error: object) -> None: ...


BAD: list[tuple[str, dict[str, Any]]] = [
    ("value", {}),
    ("value", {"value": repr}),
    ("value", {"value": dict}),
    ("value", {"value": partial(repr, 1)}),
    ("call", {"call": 3}),
    ("call", {"call": takes_nothing}),
    ("call", {"call": takes_two}),
    ("call", {"call": takes_by_name}),
    ("call", {"call": takes_and_needs}),
    ("call", {"call": takes_nothing, "pass_args": True}),
    ("call", {"call": Answers.method}),
    ("call", {"call": repr, "value": 1}),
    ("pass_args", {"value": 1, "pass_args": 1}),
    ("on", {"value": 1, "on": PERMANENT}),
    ("on", {"value": 1, "on": 3}),
    ("on", {"value": 1, "on": BaseException}),
    ("on", {"value": 1, "on": (OSError, KeyboardInterrupt)}),
    ("on", {"value": 1, "on": coroutine}),
    ("result", {"value": 1, "result": 3}),
    ("result", {"value": 1, "result": coroutine}),
    ("name", {"value": 1, "name": 3}),
]


@pytest.mark.parametrize(("path", "settings"), BAD)
def test_a_bad_setting_is_refused(path: str, settings: dict[str, Any]) -> None:
    """The fault names the setting."""
    with pytest.raises(ConfigurationError) as caught:
        FallbackConfig(**settings)

    (fault,) = caught.value.faults
    assert fault.path.startswith(path)


def test_all_faults_come_at_once() -> None:
    """One ConfigurationError lists everything that is wrong."""
    bad: Any = 3
    with pytest.raises(ConfigurationError) as caught:
        Fallback(repr, call=bad, pass_args=bad, on=bad, result=bad, name=bad)

    paths = {fault.path for fault in caught.value.faults}
    assert paths == {"value", "call", "pass_args", "on", "result", "name"}


def test_a_function_is_never_taken_for_a_value() -> None:
    """A callable in the place of the value is refused, and the error says how to mean either thing."""
    for use in (Fallback, fallback):
        with pytest.raises(ConfigurationError, match=r"call=fn to call it.*lambda error: fn to answer"):
            use(failing())


@pytest.mark.parametrize(
    ("call", "pass_args"),
    [
        (takes_one, False),
        (takes_optional, False),
        (takes_any, False),
        (Answers().method, False),
        (str, False),
        (repr, False),
        (Script(succeed()), False),
        (takes_arguments, True),
        (takes_everything, True),
    ],
)
def test_functions_that_take_the_error_are_taken(call: Callable[..., Any], *, pass_args: bool) -> None:
    """A function is refused only where it surely cannot be called with what it will get."""
    assert Fallback(call=call, pass_args=pass_args).config.call is call


# What is answered


COVERED: list[Exception] = [
    ConnectionError(),
    TimeoutError(),
    OSError(2, "no such file"),
    ValueError(),
    Exception(),
    CircuitOpenError("payments"),
    BulkheadFullError("payments"),
    TimeoutExceeded(1.0),
    httpx.HTTPStatusError("", request=httpx.Request("GET", "http://h"), response=httpx.Response(404)),
    ExceptionGroup("", [OSError(), ExceptionGroup("", [ValueError()])]),
]
PASSING: list[Exception] = [
    TypeError(),
    AttributeError(),
    AssertionError(),
    KeyError(),
    ZeroDivisionError(),
    NotImplementedError(),
    UnicodeDecodeError("utf-8", b"", 0, 1, ""),
    ConfigurationError("Retry", ()),
    ExceptionGroup("", [OSError(), ExceptionGroup("", [TypeError()])]),
]


@pytest.mark.parametrize("error", COVERED, ids=lambda error: type(error).__name__)
def test_by_default_failures_are_answered(error: Exception) -> None:
    """What a dependency or a policy raises is answered: transient or not."""
    assert Fallback("guest")(failing(error))() == "guest"


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_by_default_programming_errors_pass(error: Exception) -> None:
    """What no other answer mends comes out, alone or in a group."""
    with pytest.raises(type(error)) as caught:
        Fallback("guest")(failing(error))()

    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_exits_pass(error: type[BaseException]) -> None:
    """What is no Exception comes out, whatever `on` says."""
    choices: tuple[Errors | None, ...] = (None, Exception, lambda error: True)
    for on in choices:
        with pytest.raises(error):
            Fallback("guest", on=on)(failing(error))()


ON: list[tuple[Errors, Exception, bool]] = [
    (OSError, ConnectionError(), True),
    (OSError, ValueError(), False),
    (KeyError, KeyError(), True),
    ((ValueError, KeyError), KeyError(), True),
    ((ValueError, KeyError), OSError(), False),
    (TRANSIENT, ConnectionError(), True),
    (TRANSIENT, ValueError(), False),
    (TRANSIENT, CircuitOpenError("payments"), False),
    (THROTTLED, ConnectionError(), False),
    (Classifier(transient=(ValueError,)), ValueError(), True),
    (Classifier(permanent=(OSError,)), OSError(), False),
    (lambda error: "no" not in str(error), ValueError("yes"), True),
    (lambda error: "no" not in str(error), ValueError("no"), False),
    (lambda error: PERMANENT, OSError(), False),
    (lambda error: THROTTLED, OSError(), True),
]


@pytest.mark.parametrize(("on", "error", "answered"), ON)
def test_on_takes_what_retry_takes(on: Errors, error: Exception, *, answered: bool) -> None:
    """Types, tuples, verdicts, classifiers and predicates say which errors are answered; others pass."""
    call = Fallback("guest", on=on)(failing(error))
    if answered:
        assert call() == "guest"
    else:
        with pytest.raises(type(error)):
            call()


def test_a_predicate_that_raises_covers_nothing(event_recorder: EventRecorder) -> None:
    """The original error comes out, and the predicate's is reported."""

    def broken(error: Exception) -> bool:
        raise LookupError

    with pytest.raises(ConnectionError):
        Fallback("guest", on=broken, name="users")(failing())()

    (event,) = event_recorder.events
    assert isinstance(event, CallbackFailed)
    assert (event.name, event.callback, type(event.error)) == ("users", "predicate", LookupError)


def test_a_result_predicate_that_raises_refuses_nothing(event_recorder: EventRecorder) -> None:
    """The result comes out, and the predicate's error is reported."""
    call = Fallback("guest", result=lambda found: found.missing)(Script(succeed("ok")).function())

    assert call() == "ok"
    assert [event.callback for event in event_recorder.of(CallbackFailed)] == ["result predicate"]


# What it answers with


@pytest.mark.parametrize("value", [[], {}, set[int](), bytearray()])
def test_every_answer_is_a_container_of_its_own(value: Any) -> None:
    """What one caller does to a plain container that it got, no other caller sees."""
    call = Fallback(value)(failing())
    first, second = call(), call()

    assert first == second == value
    assert first is not second
    assert value is not first


def test_other_values_are_returned_as_they_are() -> None:
    """An object of another type is the same in every answer, None included."""
    value = (1, ["a"])

    assert Fallback(value)(failing())() is value
    assert Fallback(None)(failing())() is None


def test_a_function_gets_the_error() -> None:
    """`call` is called with the error that came out, and nothing else."""
    error = ConnectionError("down")
    answers = Script(succeed("guest"))

    assert Fallback(call=answers)(failing(error))(1, key=2) == "guest"
    assert answers.arguments == (((error,), {}),)


def test_a_function_gets_the_arguments_on_request() -> None:
    """With `pass_args`, the call's own arguments follow the error, in all forms of calling."""
    error = ConnectionError("down")
    answers = Script(succeed("guest"))
    policy = Fallback(call=answers, pass_args=True)

    def fetch(user: int, *, size: int = 1) -> str:
        raise error

    assert policy(fetch)(7, size=2) == "guest"
    assert policy(fetch)(user=7) == "guest"
    assert policy.call(fetch, 7, size=2) == "guest"
    assert answers.arguments == (
        ((error, 7), {"size": 2}),
        ((error, 7), {"size": 1}),
        ((error, 7), {"size": 2}),
    )


def test_a_refused_result_is_answered_without_an_error(event_recorder: EventRecorder) -> None:
    """`result` says which results are failures too; `call` and the event then get None for the error."""
    answers = Script(succeed("guest"))
    call = Fallback(call=answers, result=lambda found: found is None)(
        Script(succeed(None), succeed("ok")).function()
    )

    assert (call(), call()) == ("guest", "ok")
    assert answers.arguments == (((None,), {}),)
    assert [event.error for event in event_recorder.of(FallbackUsed)] == [None]


def test_an_answer_is_not_judged() -> None:
    """What the fallback answers is not asked of `result`: it comes out even if it would be refused."""
    judged: list[object] = []

    def refused(found: object) -> bool:
        judged.append(found)
        return True

    assert Fallback(None, result=refused)(Script(succeed("bad"), fail()).function())() is None
    assert judged == ["bad"]


@pytest.mark.parametrize("call", [answer_later, repr, answer_awaitably])
def test_an_async_function_may_have_any_fallback(call: Callable[..., Any]) -> None:
    """Sync, async, or sync and returning what must be awaited: the answer is what comes of it."""
    fetch = Script(fail(OSError(1))).coroutine_function()

    assert asyncio.run(Fallback(call=call)(fetch)()) == "OSError(1)"
    assert asyncio.run(Fallback(call=call).call(fetch)) == "OSError(1)"


def test_a_sync_function_refuses_an_async_fallback_when_decorated() -> None:
    """The TypeError names the fallback and says what to do; a stack, a pipeline and `call` raise it too."""
    policy = Fallback(call=answer_later)
    uses: list[Callable[[], Any]] = [
        lambda: policy(failing()),
        lambda: Timeout(1)(policy(failing())),
        lambda: Pipeline(Timeout(1), policy)(failing()),
        lambda: policy.call(failing()),
        lambda: Pipeline(Timeout(1), policy).call(failing()),
    ]
    for use in uses:
        with pytest.raises(TypeError, match=r"answer_later is async.*give a sync function, or make"):
            use()


def test_a_sync_fallback_that_returns_a_coroutine_is_refused() -> None:
    """An answer that nobody would await is a TypeError, caused by the original error; nothing is left unawaited."""
    call = Fallback(call=answer_awaitably)(failing())
    for _ in range(20):
        with pytest.raises(TypeError, match="must be awaited") as caught:
            call()
        assert isinstance(caught.value.__cause__, ConnectionError)


# A fallback that fails


def raising(error: BaseException) -> Callable[[Exception | None], Any]:
    def call(_: Exception | None) -> Any:
        raise error

    return call


def test_a_failing_fallback_is_caused_by_the_original() -> None:
    """The fallback's own error comes out, and the original one is its cause; no event says that it answered."""
    original, own = ConnectionError("down"), Frozen(3)
    with EventRecorder() as recorder, pytest.raises(Frozen) as caught:
        Fallback(call=raising(own))(failing(original))()

    assert caught.value is own
    assert own.__cause__ is original
    assert recorder.kinds == ()


def test_the_explanation_says_that_the_fallback_takes_its_time_too() -> None:
    """Around a bound a function that answers makes the time unbounded, and the explanation says which function."""

    def answer(error: Exception | None) -> int:
        return 0

    stack = Pipeline(Fallback(call=answer), Timeout(2.0))
    assert "at most 1 attempts, for as long as the function or its fallback takes\n" in str(stack.explain())
    assert "for as long as the function takes\n" in str(Pipeline(Retry(1)).explain())


def test_a_failing_fallback_keeps_its_own_cause() -> None:
    """An error that has a cause keeps it; the original one is the context in which that was raised."""

    def call(error: Exception | None) -> Any:
        try:
            raise LookupError("cache")
        except LookupError as missing:
            raise ValueError("neither") from missing

    original = ConnectionError("down")
    with pytest.raises(ValueError, match="neither") as caught:
        Fallback(call=call)(failing(original))()

    cause = caught.value.__cause__
    assert isinstance(cause, LookupError)
    assert cause.__context__ is original


def test_the_original_error_may_be_raised_again() -> None:
    """A fallback that declines by raising the error it got, or the cause of that, makes no circle of causes."""
    cause, original = ValueError("why"), ConnectionError("down")
    original.__cause__ = cause

    for declined in (original, cause):
        with pytest.raises(type(declined)) as caught:
            Fallback(call=raising(declined))(failing(original))()
        assert caught.value is declined
    assert (original.__cause__, cause.__cause__) == (cause, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_an_exit_of_the_fallback_passes(error: type[BaseException]) -> None:
    """What the fallback raises that is no Exception comes out as it is."""
    with pytest.raises(error) as caught:
        Fallback(call=raising(error()))(failing())()

    assert caught.value.__cause__ is None


def test_a_failing_fallback_leaves_nothing_for_the_garbage_collector() -> None:
    """Original error and fallback's error go when the caller lets them go, declined ones too."""

    class Down(Exception):
        pass

    class Worse(Exception):
        pass

    def fetch() -> None:
        raise Down

    async def fetch_later() -> None:
        raise Down

    def worse(error: Exception) -> None:
        raise Worse

    def decline(error: Exception) -> None:
        try:
            raise error
        finally:
            del error

    left: list[weakref.ref[BaseException]] = []

    async def note(call: Callable[[], Any], *, is_async: bool) -> None:
        try:
            await call() if is_async else call()
        except Exception as error:
            left.extend(weakref.ref(one) for one in (error, error.__cause__) if one is not None)

    gc.collect()
    gc.disable()
    try:
        for answer in (worse, decline):
            asyncio.run(note(Fallback(call=answer)(fetch), is_async=False))
            asyncio.run(note(Fallback(call=answer)(fetch_later), is_async=True))
        assert [ref() for ref in left] == [None] * 6
    finally:
        gc.enable()


# Events and marks


def test_the_event_has_the_name_and_the_error(event_recorder: EventRecorder) -> None:
    """FallbackUsed carries the policy's name, or the function's, or the pipeline's, and the error."""
    error = ConnectionError("down")
    fetch = failing(error)
    for use in (
        Fallback(1, name="users")(fetch),
        Fallback(1)(fetch),
        Pipeline(Fallback(1), name="shop")(fetch),
    ):
        use()

    names = ["users", f"{fetch.__module__}.{fetch.__qualname__}", "shop"]
    assert [(event.name, event.error) for event in event_recorder.of(FallbackUsed)] == [
        (name, error) for name in names
    ]


def test_success_leaves_no_trace(event_recorder: EventRecorder) -> None:
    """A call that succeeds is not degraded and tells nobody."""
    with watch_degraded() as watch:
        assert Fallback("guest")(Script(succeed("ok")).function())() == "ok"

    assert (watch.degraded, event_recorder.kinds) == (False, ())


def test_a_watch_sees_the_calls_of_its_block() -> None:
    """`degraded` turns true at the first answer in the block, stays so, and is false for what came before."""
    call = Fallback("guest")(failing())
    call()
    seen: list[bool] = []
    with watch_degraded() as watch:
        seen.append(watch.degraded)
        call()
        seen.append(watch.degraded)

    assert [*seen, watch.degraded, watch_degraded().degraded] == [False, True, True, False]


def test_watches_nest() -> None:
    """What an inner watch saw, the one around it has seen too when it ends; not the other way round."""
    call = Fallback("guest")(failing())
    with watch_degraded() as outer:
        with watch_degraded() as clean:
            pass
        with watch_degraded() as inner:
            call()
        with watch_degraded() as later:
            pass

    assert (outer.degraded, clean.degraded, inner.degraded, later.degraded) == (True, False, True, False)


def test_a_watch_ends_when_its_block_fails() -> None:
    """After a block that raises, the watch around it is in force again."""
    with watch_degraded() as outer:
        with pytest.raises(ValueError, match="stop"), watch_degraded():
            raise ValueError("stop")
        Fallback("guest")(failing())()

    assert outer.degraded


def test_a_fallback_that_fails_degrades_nothing() -> None:
    """Only an answer is degraded."""
    with watch_degraded() as watch, pytest.raises(ValueError, match="worse"):
        Fallback(call=raising(ValueError("worse")))(failing())()

    assert not watch.degraded


def test_tasks_mark_the_watch_that_they_inherit() -> None:
    """Answers in tasks of the watched call count for it, and sibling tasks' watches see their own only."""
    answered = Fallback("guest")(Script(fail()).coroutine_function())
    fine = Fallback("guest")(Script(succeed()).coroutine_function())

    async def watched(*calls: Callable[[], Any]) -> bool:
        with watch_degraded() as watch:
            await asyncio.gather(*(call() for call in calls))
        return watch.degraded

    async def main() -> list[bool]:
        return list(await asyncio.gather(watched(fine, answered), watched(fine, fine), watched(answered)))

    assert asyncio.run(main()) == [True, False, True]


def test_threads_see_their_own_watches() -> None:
    """An answer in another thread counts where that thread has the watch's context, and only there."""
    call = Fallback("guest")(failing())

    def in_thread(target: Callable[[], Any]) -> None:
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()

    with watch_degraded() as strange:
        in_thread(partial(contextvars.Context().run, call))
    with watch_degraded() as inherited:
        in_thread(partial(contextvars.copy_context().run, call))

    assert (strange.degraded, inherited.degraded) == (False, True)


def test_a_worker_thread_of_a_timeout_marks_the_call() -> None:
    """A fallback inside a timeout that calls in a thread degrades the call that waits for it."""
    call = Pipeline(Timeout(30.0, sync="thread"), Fallback("guest"))(failing())
    with watch_degraded() as watch:
        assert call() == "guest"

    assert watch.degraded


def test_a_watch_may_end_in_another_context() -> None:
    """As when an abandoned coroutine is closed elsewhere: nothing is raised, and what was seen is told."""
    watch = contextvars.copy_context().run(_degraded.begin)

    assert _degraded.end(watch) is False


# Explanations


def test_a_value_leaves_only_what_it_does_not_cover() -> None:
    """With the default `on`, programming errors are left; with types, what is not of them; time is unchanged."""
    bound = Timeout(2.0)
    everything = Pipeline(Fallback(0), bound).explain()
    timeouts = Pipeline(Fallback(0, on=TimeoutError), bound).explain()
    rejections = Pipeline(Fallback(0, on=CallRejectedError), bound).explain()

    assert everything.errors == ("programming errors",)
    assert timeouts.errors == ("whatever the fallback does not cover",)
    assert rejections.errors == ("whatever the fallback does not cover", "TimeoutExceeded")
    assert {one.duration for one in (everything, timeouts, rejections)} == {2.0}


def test_a_function_takes_its_own_time_and_has_its_own_errors() -> None:
    """Bounds inside the fallback do not bound its function; one around it does."""
    inside = Pipeline(Fallback(call=repr), Timeout(2.0)).explain()
    around = Pipeline(Timeout(3.0), Fallback(call=repr), Timeout(2.0)).explain()

    assert (inside.duration, inside.hinted_duration) == (float("inf"), float("inf"))
    assert inside.errors == ("programming errors", "whatever the fallback raises")
    assert around.duration == 3.0
    assert around.errors == ("programming errors", "TimeoutExceeded", "whatever the fallback raises")


def test_an_explained_function_shows_its_fallback() -> None:
    """The policies of a decorated function name the fallback."""
    assert explain(Fallback("guest")(failing())).policies == ("Fallback('guest')",)
