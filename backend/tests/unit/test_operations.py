"""Decorators per strategy: what they make of a function, sync and async, and what answers for it."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.infrastructure.resilience import operations
from holdfast.infrastructure.resilience.circuit_breaker import breaker_of
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.events import FallbackUsed
from holdfast.infrastructure.resilience.fallback import watch_degraded
from holdfast.infrastructure.resilience.live import live
from holdfast.infrastructure.resilience.meter import meters
from holdfast.infrastructure.resilience.operations import (
    with_aggressive_resilience,
    with_balanced_resilience,
    with_conservative_resilience,
    with_critical_resilience,
    with_operation_resilience,
)
from holdfast.infrastructure.resilience.pipeline import explain
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.testing import EventRecorder, VirtualClock

PINNED = {
    "aggressive": (with_aggressive_resilience, 2, 10),
    "balanced": (with_balanced_resilience, 3, 30),
    "conservative": (with_conservative_resilience, 5, 120),
    "critical": (with_critical_resilience, 7, 300),
}
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

pytestmark = pytest.mark.usefixtures("common_registry")


class Upstream:
    """A dependency that is down, and counts who asks."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error or ConnectionError("down")

    def under(self, decorator: Decorator, *, is_async: bool) -> Callable[..., Any]:
        """Return a function that asks it, under a decorator, to be called as a plain one."""

        def ask(text: str, size: int = 1) -> str:
            self.calls += 1
            raise self.error

        async def ask_async(text: str, size: int = 1) -> str:
            self.calls += 1
            raise self.error

        if not is_async:
            return decorator(ask)
        decorated = decorator(ask_async)
        return lambda *args, **more: asyncio.run(self._awaited(decorated, args, more))

    @staticmethod
    async def _awaited(fn: Callable[..., Any], args: tuple[Any, ...], more: dict[str, Any]) -> Any:
        return await fn(*args, **more)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("strategy", PINNED)
def test_a_strategy_holds_whatever_the_configuration_says(
    strategy: str,
    is_async: bool,  # noqa: FBT001
    virtual_clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The strategy's attempts are made, under every preset, and nothing of another strategy's state is shared."""
    monkeypatch.setenv("RESILIENCE_PRESET", "production")
    decorator, attempts, _ = PINNED[strategy]
    upstream = Upstream()
    with pytest.raises(ConnectionError):
        upstream.under(decorator("qa"), is_async=is_async)("text")
    assert (upstream.calls, len(virtual_clock.sleeps) if not is_async else attempts - 1) == (
        attempts,
        attempts - 1,
    )


def test_each_strategy_of_an_operation_is_one_of_its_own() -> None:
    """Functions of one operation and one strategy share breaker and budget, those of two strategies do not."""
    made = {name: decorator("qa")(len) for name, (decorator, _, _) in PINNED.items()}
    again = with_critical_resilience("qa")(sum)
    plain = with_operation_resilience("qa")(max)
    assert [breaker_of(one).name for one in made.values()] == [f"qa:{name}" for name in PINNED]
    assert breaker_of(again) is breaker_of(made["critical"])
    assert breaker_of(plain).name == "qa"
    assert [explain(one).duration for one in made.values()] == [seconds for _, _, seconds in PINNED.values()]
    assert live().operations == ("qa", *(f"qa:{name}" for name in sorted(PINNED)))
    assert live().operation("qa:critical").sources["attempts"] == "code"


def test_an_operation_has_the_preset_simple_by_default() -> None:
    """Where nothing is configured an operation gets what `simple` says: three attempts, 2 s and 2 s apart and more."""
    call = with_operation_resilience("summarize")(len)
    told = explain(call)
    assert (told.attempts, told.duration, told.warnings) == (3, 30, ())
    assert breaker_of(call).config.window.size == 5


def test_decorating_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is that of the first call, not that of the import; then it is asked no more."""
    call = with_operation_resilience("summarize")(len)
    monkeypatch.setenv("RESILIENCE_PRESET", "production")
    assert explain(call).attempts == 5
    monkeypatch.setenv("RESILIENCE_PRESET", "x")
    assert explain(with_operation_resilience("qa")(len)).attempts == 7


def test_a_bad_environment_is_the_error_of_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call says what is wrong until it is mended; then it goes on."""
    monkeypatch.setenv("RESILIENCE_PRESET", "x")
    call = with_operation_resilience("summarize")(len)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="RESILIENCE_PRESET = 'x' is no preset"):
            call("four")
    monkeypatch.setenv("RESILIENCE_PRESET", "simple")
    assert call("four") == 4


def of_error(error: Exception) -> str:
    return f"no {error}"


def of_call(error: Exception, text: str, size: int = 1) -> str:
    return f"{text} {size}"


def of_anything(error: Exception, *args: object, **more: object) -> str:
    return f"{args} {more}"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.usefixtures("virtual_clock")
@pytest.mark.parametrize(
    ("fallback", "answer"),
    [
        ("short", "short"),
        (0, 0),
        (of_error, "no down"),
        (of_call, "text 3"),
        (of_anything, "('text', 3) {}"),
    ],
)
def test_a_fallback_answers(fallback: Any, answer: Any, is_async: bool) -> None:  # noqa: FBT001
    """A value, a function of the error, or one that takes the call's arguments too; the answer counts as degraded."""
    upstream = Upstream()
    call = upstream.under(with_operation_resilience("summarize", fallback), is_async=is_async)
    with EventRecorder() as recorder, watch_degraded() as watch:
        assert call("text", 3) == answer
    assert (upstream.calls, [event.name for event in recorder.of(FallbackUsed)]) == (3, ["summarize"])
    assert watch.degraded or is_async


def outcomes(name: str) -> tuple[int, int, int, int, int]:
    found = meters()[name].snapshot()
    assert found.calls == found.successes + found.failures + found.rejected + found.cancelled
    return found.successes, found.degraded, found.failures, found.rejected, found.attempts


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.usefixtures("virtual_clock", "zero_meters")
def test_an_answered_call_is_a_degraded_success(is_async: bool) -> None:  # noqa: FBT001
    """The name's meter counts a success and a degraded call; attempts, breaker and events show what failed below."""
    upstream = Upstream()
    call = upstream.under(with_operation_resilience("summarize", "short"), is_async=is_async)
    breaker = breaker_of(with_operation_resilience("summarize")(len))
    with EventRecorder() as recorder:
        call("text")
    assert outcomes("summarize") == (1, 1, 0, 0, 3)
    assert dict(meters()["summarize"].snapshot().errors) == {}
    assert (breaker.counts.failures, breaker.state) == (3, "closed")
    assert [str(event.error) for event in recorder.of(FallbackUsed)] == ["down"]
    call("text")
    assert (breaker.state, breaker.rejected) == ("open", 1)
    call("text")
    assert outcomes("summarize") == (3, 3, 0, 0, 3 + 3 + 1)
    assert (upstream.calls, breaker.rejected) == (5, 2)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("name", "decorator"), [(f"qa:{one}", PINNED[one][0]) for one in PINNED])
@pytest.mark.usefixtures("virtual_clock", "zero_meters")
def test_answers_count_for_each_strategy(name: str, decorator: Any, is_async: bool) -> None:  # noqa: FBT001
    """A strategy of its own has a meter of its own, which counts the answers."""
    Upstream().under(decorator("qa", "short"), is_async=is_async)("text")
    assert outcomes(name)[:4] == (1, 1, 0, 0)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.usefixtures("virtual_clock", "zero_meters")
def test_what_a_fallback_does_not_answer_is_a_failure(is_async: bool) -> None:  # noqa: FBT001
    """A bug, and a fallback's own error, count as before; a call that succeeds is not degraded."""

    def broken(error: Exception) -> str:
        raise LookupError("no answer")

    with pytest.raises(LookupError):
        Upstream().under(with_operation_resilience("a", broken), is_async=is_async)("text")
    with pytest.raises(TypeError):
        Upstream(TypeError("bug")).under(with_operation_resilience("b", "short"), is_async=is_async)("text")
    assert with_operation_resilience("c", "short")(len)("four") == 4
    assert [outcomes(name)[:3] for name in "abc"] == [(0, 0, 1), (0, 0, 1), (1, 0, 0)]
    assert dict(meters()["a"].snapshot().errors) == {"LookupError": 1}


@pytest.mark.usefixtures("virtual_clock", "zero_meters")
def test_a_cancelled_call_has_no_answer() -> None:
    """Cancellation passes a fallback, and is counted as what it is."""

    @with_operation_resilience("a", "short")
    async def ask() -> str:
        raise asyncio.CancelledError

    async def cancelled() -> None:
        with pytest.raises(asyncio.CancelledError):
            await ask()

    asyncio.run(cancelled())
    found = meters()["a"].snapshot()
    assert (found.cancelled, found.successes, found.degraded) == (1, 0, 0)


def test_a_sync_function_refuses_an_async_fallback_at_once() -> None:
    """It is refused where it is decorated, not at its first call; one called through the policy, when it is called."""

    async def short(error: Exception) -> str:
        return "short"

    with pytest.raises(TypeError, match="is async, but the function that it answers for is sync"):
        with_operation_resilience("a", short)(len)
    policy: Any = with_operation_resilience("a", short)
    with pytest.raises(TypeError, match="is async, but the function that it answers for is sync"):
        policy.call(len, "four")


def test_a_fallback_is_explained() -> None:
    """What answers is the outermost policy of the explanation, also after the name has another meaning."""
    call = with_operation_resilience("a", "short")(len)
    told = explain(call)
    assert (told.policies[0], told.attempts) == ("Fallback('short', name='a')", 3)
    live().use_preset("production", actor="me")
    assert (explain(call).policies[0], explain(call).attempts) == ("Fallback('short', name='a')", 5)
    assert repr(with_operation_resilience("a", "short")) == "resilient('a') with Fallback('short', name='a')"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.usefixtures("virtual_clock", "zero_meters")
def test_a_new_meaning_keeps_the_answers(is_async: bool) -> None:  # noqa: FBT001
    """When a name gets other numbers, its fallback goes on to answer; its counts and its breaker's go on."""
    upstream = Upstream()
    call = upstream.under(with_operation_resilience("a", "short"), is_async=is_async)
    call("text")
    live().apply({"operation_overrides": {"a": "aggressive"}}, actor="me")
    assert call("text") == "short"
    assert outcomes("a")[:2] == (2, 2)
    # The breaker now opens at three failures, and has had them: the second attempt is refused.
    assert upstream.calls == 3 + 1


@pytest.mark.usefixtures("virtual_clock")
def test_a_fallback_may_be_async() -> None:
    """For an async function it may be a coroutine function, with arguments or without."""

    async def short(error: Exception) -> str:
        return "short"

    async def longer(error: Exception, text: str, size: int) -> str:
        return text * size

    for fallback, answer in ((short, "short"), (longer, "aa")):
        call = Upstream().under(with_critical_resilience("summarize", fallback), is_async=True)
        assert call("a", 2) == answer


@pytest.mark.usefixtures("virtual_clock")
def test_a_method_may_answer() -> None:
    """A bound method is counted without its `self`."""

    class Answers:
        def short(self, error: Exception) -> str:
            return "short"

        def longer(self, error: Exception, text: str, size: int = 1) -> str:
            return text

    for fallback, answer in ((Answers().short, "short"), (Answers().longer, "text")):
        assert Upstream().under(with_operation_resilience("a", fallback), is_async=False)("text") == answer
    assert Upstream().under(with_operation_resilience("b", str), is_async=False)("text") == "down"


@pytest.mark.usefixtures("virtual_clock")
def test_the_second_parameter_of_a_fallback_is_the_first_argument() -> None:
    """Two parameters are enough to be given the call's arguments."""

    def of_text(error: Exception, text: str) -> str:
        return f"{text}!"

    @with_operation_resilience("a", of_text)
    def ask(text: str) -> str:
        raise ConnectionError(text)

    assert ask("text") == "text!"


@pytest.mark.usefixtures("virtual_clock")
def test_a_bug_is_no_failure() -> None:
    """Programming errors are neither retried nor answered."""
    upstream = Upstream(TypeError("bug"))
    with pytest.raises(TypeError, match="bug"):
        upstream.under(with_operation_resilience("summarize", "short"), is_async=False)("text")
    assert upstream.calls == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_switched_off_calls_go_straight_through(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """Disabled, each call is one call, whatever the strategy; what answers for it goes on answering."""
    monkeypatch.setenv("RESILIENCE_ENABLED", "false")
    upstream = Upstream()
    for decorator in (with_operation_resilience, with_critical_resilience):
        for _ in range(20):
            with pytest.raises(ConnectionError):
                upstream.under(decorator("qa"), is_async=is_async)("text")
        assert upstream.under(decorator("qa", "short"), is_async=is_async)("text") == "short"
    assert upstream.calls == 42


def test_signature_and_documentation_stay() -> None:
    """A decorated function looks like the one it was."""

    def ask(text: str, /, size: int = 1, *, deep: bool = False) -> str:
        """Ask."""
        return text * size

    for decorator in (
        with_operation_resilience("a"),
        with_operation_resilience("a", "x"),
        with_critical_resilience("a"),
    ):
        call = decorator(ask)
        assert (inspect.signature(call), call.__doc__, call.__name__) == (
            inspect.signature(ask),
            "Ask.",
            "ask",
        )
        assert call("a", size=2) == "aa"


@pytest.mark.parametrize("name", ["", None, 5, len])
@pytest.mark.parametrize("decorator", [with_operation_resilience, with_critical_resilience])
def test_an_operation_has_a_name(decorator: Any, name: Any) -> None:
    """What is no name is refused where it is written, also where the parentheses were forgotten."""
    with pytest.raises(
        ConfigurationError, match='is no name; give the name of the operation, for example "summarize"'
    ):
        decorator(name)
    assert live().operations == ()


def test_what_was_registered_stays(common_registry: Registry) -> None:
    """Decorating an operation does not undo the numbers that code registered for it."""
    live().register("summarize", attempts=12)
    call = with_operation_resilience("summarize")(len)
    assert explain(call).attempts == 12
    live().register("qa:critical", strategy="critical", attempts=12)
    assert explain(with_critical_resilience("qa")(len)).attempts == 12
    assert "summarize" in common_registry


def test_the_decorators_are_offered() -> None:
    """All five have their place in the one door."""
    import holdfast

    offered = [name for name in vars(operations) if name.startswith("with_")]
    assert sorted(offered) == [name for name in holdfast.__all__ if name.startswith("with_")]
    assert holdfast.live is live
