"""tenacity's strategies and callbacks inside `Retry`: functions of a RetryCallState, sync or async."""

from __future__ import annotations

from holdfast.infrastructure.resilience import _tries
from holdfast.infrastructure.resilience._ambient import hot
from holdfast.infrastructure.resilience._bus import callback_failed
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.classify import PERMANENT, THROTTLED, TRANSIENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from holdfast.infrastructure.resilience._compile import Stack
    from holdfast.infrastructure.resilience.classify import Verdict
    from holdfast.infrastructure.resilience.retry import Retry, RetryConfig

    Steps = Generator[Any, Any, float | None]

_ERRORS_ONLY = frozenset(
    {
        "retry_if_exception",
        "retry_if_exception_type",
        "retry_if_not_exception_type",
        "retry_if_exception_message",
        "retry_if_exception_cause_type",
        "_retry_never",
    }
)


def takes_state(on: Any) -> bool:
    """Return whether `on` is one of tenacity's retry objects, or a function whose first parameter is `retry_state`."""
    if any(base.__module__.split(".")[0] == "tenacity" for base in type(on).__mro__):
        return True
    code = getattr(on, "__code__", None)
    return code is not None and "retry_state" in code.co_varnames[: code.co_argcount][:2]


def needed(config: RetryConfig) -> bool:
    """Return whether anything in the settings wants a RetryCallState."""
    return (
        not isinstance(config.wait, Backoff)
        or config.stop is not None
        or config.before is not None
        or config.after is not None
        or config.before_sleep is not None
        or takes_state(config.on)
    )


def first(config: RetryConfig) -> bool:
    """Return whether the first attempt has to be made under the eyes of these functions, failed or not."""
    return config.before is not None or _judges_results(config.on)


def _judges_results(on: Any) -> bool:
    return takes_state(on) and type(on).__name__ not in _ERRORS_ONLY


def begin(retry: Retry, stack: Stack | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _tries.Tries:
    """Return the attempts of one call."""
    kind = ForeignTries if needed(retry.config) else _tries.Tries
    return kind(retry, stack, args, kwargs)


class ForeignTries(_tries.Tries):
    """Attempts that keep a RetryCallState and ask functions of it."""

    __slots__ = ("refused", "state", "statistics")

    def __init__(
        self,
        retry: Retry,
        stack: Stack | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        begun: float | None = None,
    ) -> None:
        super().__init__(retry, stack, args, kwargs)
        from tenacity import RetryCallState  # only where its functions are used

        fn, own = (None, args) if stack is None else (stack.target(args), stack.own(args))
        self.state: Any = RetryCallState(_RetryObject(self), fn, own, kwargs)  # type: ignore[arg-type]
        self.state.start_time = self.now() if begun is None else begun
        self.statistics: dict[str, Any] = {
            "start_time": self.state.start_time,
            "attempt_number": 1,
            "idle_for": 0,
        }
        self.refused = False

    def steps(self, error: Exception | None, result: object) -> Steps:
        """Decide, yielding whatever a function returned, which may have to be awaited."""
        config, state = self.config, self.state
        self._note(error, result)
        verdict = self.verdict(error)
        wanted = self.refused or (yield from self._wanted(error, verdict))
        self.refused = bool(wanted)
        if not wanted:
            self._leave(error)
            return None
        self.remember(error)
        if self.since is None:
            self.since = state.outcome_timestamp
        if config.budget is not None:
            config.budget.record_failure()
        if config.after is not None:
            yield from self._ask("after", config.after)
        delay = yield from self._wait(error, verdict)
        if delay is None:
            return None
        state.upcoming_sleep = delay
        stop = config.attempts is not None and self.number >= config.attempts
        if config.stop is not None:
            stop = yield from self._ask("stop", config.stop, default=True)
        if stop:
            self.exhaust(error, "no attempts left" if config.stop is None else "stop said so")
            return None
        if self.yields(error):
            return None
        allowed = self.schedule(delay, verdict, error)
        if allowed is not None:
            yield from self._before_sleep(allowed)
        return allowed

    def _note(self, error: Exception | None, result: object) -> None:
        state = self.state
        if error is None:
            state.set_result(result)
        else:
            state.set_exception((type(error), error, error.__traceback__))
        state.outcome_timestamp = self.now()
        state.attempt_number = self.number
        self.statistics["delay_since_first_attempt"] = state.seconds_since_start

    def _wanted(self, error: Exception | None, verdict: Verdict) -> Generator[Any, Any, bool]:
        from tenacity import TryAgain

        if isinstance(error, TryAgain):
            return True
        if not takes_state(self.config.on):
            return error is not None and verdict is not PERMANENT
        answer = yield from self._ask("retry", self.config.on, default=False)
        return bool(answer)

    def verdict(self, error: Exception | None) -> Verdict:
        """Return the native verdict; where a function of the state decides, all is transient."""
        if error is None or takes_state(self.config.on):
            return TRANSIENT
        try:
            return self.judge(error)
        except Exception as raised:  # the user's predicate must not replace the error
            return self.doubt(raised)

    def _wait(self, error: Exception | None, verdict: Verdict) -> Generator[Any, Any, float | None]:
        wait = self.config.wait
        if isinstance(wait, Backoff):
            own = self.delay = wait.delay(self.number, self.delay, self.config.random)
            return self.follow(error, own) if verdict is THROTTLED else own
        answer = yield from self._ask("wait", wait, default=0.0)
        return self._seconds(answer)

    def _seconds(self, answer: Any) -> float:
        """Return a wait function's answer as seconds; nonsense is reported and waits for nothing."""
        try:
            seconds = float(answer)
        except (TypeError, ValueError) as raised:
            callback_failed(self.name, "wait", raised)
            return 0.0
        return seconds if 0 <= seconds < float("inf") else 0.0

    def _before_sleep(self, delay: float) -> Generator[Any, Any, None]:
        from tenacity import RetryAction

        self.state.next_action = RetryAction(delay)
        self.state.idle_for += delay
        self.statistics["idle_for"] += delay
        self.statistics["attempt_number"] += 1
        if self.config.before_sleep is not None:
            yield from self._ask("before_sleep", self.config.before_sleep)

    def _ask(self, what: str, function: Any, *, default: Any = None) -> Generator[Any, Any, Any]:
        try:
            answer = function(self.state)
            if _is_awaitable(answer):
                answer = yield answer
        except Exception as raised:  # the user's function must not replace the outcome
            callback_failed(self.name, what, raised)
            return default
        return answer

    def asks(self, error: Exception | None, result: object, *, handed: bool = True) -> bool:
        """Return whether there is anything to decide after this outcome."""
        self.refused = error is None and handed and self.refuses(result)
        return error is not None or self.refused or _judges_results(self.config.on)

    def begin(self) -> None:
        """Tell `before` that an attempt begins."""
        finish(self.beginning())

    async def abegin(self) -> None:
        """Tell `before` that an attempt begins."""
        await finish_async(self.beginning())

    def beginning(self) -> Generator[Any, Any, None]:
        """Make the state that of a new attempt, and tell `before`, which may have to be awaited."""
        state = self.state
        if self.number > 1:
            state.prepare_for_next_attempt()
        if self.config.before is not None:
            yield from self._ask("before", self.config.before)

    def decide(self, error: Exception | None, result: object) -> float | None:
        """Return the seconds to wait before the next attempt, or None when there is none."""
        delay: float | None = finish(self.steps(error, result))
        return delay


class _RetryObject:
    """What strategies and callbacks may ask of the object that retries."""

    __slots__ = ("_tries",)

    def __init__(self, tries: ForeignTries) -> None:
        self._tries = tries

    @property
    def statistics(self) -> dict[str, Any]:
        """The figures of this call, by tenacity's names."""
        return self._tries.statistics

    def __str__(self) -> str:
        """Return the name that events carry."""
        return self._tries.name


def _is_awaitable(answer: Any) -> bool:
    kind: Any = answer.__class__
    return hasattr(kind, "__await__")


def finish(steps: Generator[Any, Any, Any]) -> Any:
    """Run steps to their end in sync code, where nothing can be awaited."""
    try:
        answer = next(steps)
        while True:
            close = getattr(answer, "close", None)
            if close is not None:
                close()
            answer = steps.throw(TypeError("an async callback needs an async function: give a sync one"))
    except StopIteration as end:
        return end.value


async def finish_async(steps: Generator[Any, Any, Any]) -> Any:
    """Run steps to their end, awaiting what has to be."""
    try:
        answer = next(steps)
        while True:
            try:
                value = await answer
            except Exception as error:  # handed to the step that asked
                answer = steps.throw(error)
            else:
                answer = steps.send(value)
    except StopIteration as end:
        return end.value


def loop(tries: ForeignTries, call: Any, error: Exception | None, result: Any, *, ended: bool) -> Any:
    """Make attempts until the functions have had enough; `ended`: the first one is over."""
    try:
        while True:
            if not ended:
                tries.begin()
                try:
                    result, error = call(*tries.args, **tries.kwargs), None
                except Exception as raised:  # judged below, and raised again if it is final
                    error = raised
            ended = False
            delay = finish(tries.steps(error, result)) if tries.asks(error, result) else None
            if delay is None:
                return _end(tries, error, result)
            if delay > 0:
                tries.sleep(delay)
            tries.again()
    finally:
        error = None
        tries.leave()


async def loop_async(
    tries: ForeignTries, call: Any, error: Exception | None, result: Any, *, ended: bool
) -> Any:
    """Make async attempts until the functions have had enough; `ended`: the first one is over."""
    token = _tries.attempt_number.set((1, 0))
    try:
        while True:
            if not ended:
                await tries.abegin()
                _tries.attempt_number.set((tries.number, 0))
                try:
                    result, error = await call(*tries.args, **tries.kwargs), None
                except Exception as raised:  # judged below, and raised again if it is final
                    error = raised
            ended = False
            delay = await finish_async(tries.steps(error, result)) if tries.asks(error, result) else None
            if delay is None:
                return _end(tries, error, result)
            if delay > 0:
                await tries.asleep(delay)
            tries.again()
    finally:
        error = None
        tries.leave()
        _tries.restore(_tries.attempt_number, token)


def _end(tries: ForeignTries, error: Exception | None, result: Any) -> Any:
    if error is None and not tries.refused:
        return tries.done(result)
    try:
        return _tries.end(error, result)
    finally:
        del error


def _retry(stack: Stack, at: int) -> Retry:
    retry: Any = stack.parts[at]
    found: Retry = retry
    return found


def drive(stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make all attempts of a call, the first one included."""
    attempts = ForeignTries(_retry(stack, at), stack, args, kwargs)
    _tries.deposit(attempts)
    try:
        return loop(attempts, stack.below(at + 1), None, None, ended=False)
    finally:
        del attempts.state  # it refers to these attempts and to the last error


async def drive_async(stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make all attempts of an async call, the first one included."""
    attempts = ForeignTries(_retry(stack, at), stack, args, kwargs)
    _tries.deposit(attempts)
    try:
        return await loop_async(attempts, stack.below(at + 1), None, None, ended=False)
    finally:
        del attempts.state


def resume(
    stack: Stack,
    at: int,
    error: Exception | None,
    result: object,
    begun: float,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Go on after a first attempt that failed or whose result was refused."""
    attempts = ForeignTries(_retry(stack, at), stack, args, kwargs, begun)
    _tries.deposit(attempts)
    try:
        return loop(attempts, stack.below(at + 1), error, result, ended=True)
    finally:
        # Or the error, its traceback, this frame and the state would keep each other.
        del error, attempts.state


async def resume_async(
    stack: Stack,
    at: int,
    error: Exception | None,
    result: object,
    begun: float,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Go on after a first async attempt that failed or whose result was refused."""
    attempts = ForeignTries(_retry(stack, at), stack, args, kwargs, begun)
    _tries.deposit(attempts)
    try:
        return await loop_async(attempts, stack.below(at + 1), error, result, ended=True)
    finally:
        del error, attempts.state


hot.update(_drive=drive, _drive_async=drive_async, _resume_foreign=resume, _resume_foreign_async=resume_async)
