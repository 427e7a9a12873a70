"""What happens after a first attempt failed: one algorithm, driven sync and async."""

from __future__ import annotations

from contextvars import ContextVar

from holdfast.infrastructure.resilience import _degraded, _nested
from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._bus import bus, callback_failed, emit
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.classify import (
    PERMANENT,
    THROTTLED,
    TRANSIENT,
    Verdict,
    retry_after,
)
from holdfast.infrastructure.resilience.deadline import _deadline
from holdfast.infrastructure.resilience.errors import CallRejectedError
from holdfast.infrastructure.resilience.randomness import current_random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from typing import Any, TypeVar

    from holdfast.infrastructure.resilience._compile import Stack
    from holdfast.infrastructure.resilience.retry import Retry, RetryConfig

    _V = TypeVar("_V")

_MAX_NOTES = 8
# Nobody waits longer in a call because a server said so, seconds.
LONGEST_HINT = 120.0

# The number of the attempt around the caller, and the identity of the frame of a `with attempt` block, else 0.
attempt_number: ContextVar[tuple[int, int]] = ContextVar("holdfast_attempt", default=(1, 0))


class Tries:
    """The attempts of one call: born when the first one has failed, gone with the call."""

    __slots__ = (
        "_mark",
        "_outside",
        "args",
        "config",
        "counts",
        "delay",
        "judge",
        "kwargs",
        "last",
        "number",
        "refunds",
        "since",
        "stack",
    )

    def __init__(
        self, retry: Retry, stack: Stack | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.config = retry._config
        self.judge = retry._judge
        self.stack = stack
        self.args = args
        self.kwargs = kwargs
        self.number = 1
        self.last: Exception | None = None
        self.delay = 0.0
        self.since: float | None = None
        self.refunds: bool | None = None
        self._outside: Token[_nested.Mark | None] | None = None
        meters = None if stack is None else stack.meters
        self.counts = None if meters is None else meters.get(id(retry))

    def sleep(self, seconds: float) -> None:
        """Wait before a retry; one that is interrupted was not made, and is not paid for where budgets refund."""
        try:
            (self.config.clock or ambient.clock).sleep(seconds)
        except BaseException:
            self._refund()
            raise

    async def asleep(self, seconds: float) -> None:
        """Wait before a retry, as `sleep` does."""
        try:
            await (self.config.clock or ambient.clock).asleep(seconds)
        except BaseException:
            self._refund()
            raise

    def _refund(self) -> None:
        if self.config.budget is not None and self.refunds is not None:
            self.config.budget.refund(throttled=self.refunds)

    def again(self) -> None:
        """Begin with the next attempt: the one before does not answer."""
        if self.counts is not None:
            self.counts.retry(self.number)
        self.number += 1
        if self.stack is not None:
            _degraded.forget(self.stack)

    def now(self) -> float:
        """Read the clock."""
        clock = self.config.clock
        return ambient.monotonic() if clock is None else clock.monotonic()

    @property
    def name(self) -> str:
        """What events call this."""
        if self.config.name is not None:
            return self.config.name
        return "retry" if self.stack is None else self.stack.label(self.args)

    def decide(self, error: Exception | None, result: object) -> float | None:
        """Return the seconds to wait before the next attempt, or None when there is none."""
        try:
            verdict = TRANSIENT if error is None else self.judge(error)
        except Exception as raised:  # the user's predicate must not replace the error
            verdict = self.doubt(raised)
        if verdict is PERMANENT:
            self._leave(error)
            return None
        self.remember(error)
        if self.since is None:
            self.since = self.now()
        config = self.config
        if config.budget is not None:
            config.budget.record_failure()
        if config.attempts is not None and self.number >= config.attempts:
            self.exhaust(error)
            return None
        if self.yields(error):
            return None
        wait: Any = config.wait
        delay: float = wait.delay(self.number, self.delay, config.random)
        self.delay = delay
        if verdict is THROTTLED:
            hinted = self.follow(error, delay)
            if hinted is None:
                return None
            delay = hinted
        if config.budget is None and not bus.entries and _deadline.get() is None:
            return delay
        return self.schedule(delay, verdict, error)

    def yields(self, error: Exception | None) -> bool:
        """Leave it to a retry in a named pipeline around this one, if there is one, to try again.

        Otherwise, whoever is called from now on, in whatever task or thread, is to know that there is this one.
        """
        if self.number > 1 or self.stack is None or self.stack.name is None:
            return False
        if not self.config.nested and not _nested.outermost(self.stack):
            self.give_up("a retry around this one goes on", error)
            return True
        self._mark = _nested.Mark(self.stack.root)
        self._outside = _nested.retried_by.set(self._mark)
        return False

    def remember(self, error: Exception | None) -> None:
        """Keep the last error that was not a refusal of a policy below."""
        if error is not None and not isinstance(error, CallRejectedError):
            self.last = error

    def explain(self, error: Exception | None) -> None:
        """Let a refusal that ends the retries say which error came before it."""
        if self.last is not None and isinstance(error, CallRejectedError) and error.__cause__ is None:
            error.__cause__ = self.last

    def leave(self) -> None:
        """Put back what the context said before the retries."""
        self.last = None  # its traceback leads to a frame that has these attempts
        if self._outside is not None:
            self._mark.over = True
            restore(_nested.retried_by, self._outside)
            self._outside = None

    def exhaust(self, error: Exception | None, reason: str = "no attempts left") -> None:
        """Give up for want of attempts."""
        self.give_up(reason, error)
        if self.stack is not None and self.number > 1:
            _nested.tell(self.stack, self.name, self.number)

    def doubt(self, raised: Exception) -> Verdict:
        """Report that the user's predicate raised, and retry nothing on its word."""
        callback_failed(self.name, "predicate", raised)
        return PERMANENT

    def follow(self, error: Exception | None, own: float) -> float | None:
        """Return the delay that a server's hint asks for, spread so that clients do not come back in step.

        Give up if the hint is too far away to be waited for.
        """
        config, wait = self.config, self.config.wait
        hint = None if error is None else retry_after(error)
        if hint is None:
            return own
        if hint > LONGEST_HINT:
            self.give_up(f"the server asks to come back in {hint:.3g} s", error)
            return None
        bound = wait.bound(self.number) if isinstance(wait, Backoff) else own
        spread = min(config.hint_cap, max(hint, bound))
        return hint + spread * (config.random or current_random()).random()

    def asks(self, error: Exception | None, result: object, *, handed: bool = True) -> bool:
        """Return whether there is anything to decide after this outcome of a block."""
        return error is not None or (handed and self.refuses(result))

    def begin(self) -> None:
        """Note that an attempt begins."""

    async def abegin(self) -> None:
        """Note that an attempt begins."""

    def refuses(self, result: object) -> bool:
        """Return whether the user's predicate calls `result` a failure; one that raises does not."""
        refused = self.config.result
        try:
            return refused is not None and bool(refused(result))
        except Exception as raised:  # the call succeeded: a broken predicate must not undo that
            callback_failed(self.name, "result predicate", raised)
            return False

    def schedule(self, delay: float, verdict: Verdict, error: Exception | None) -> float | None:
        """Return `delay` if deadline and budget allow it, else None."""
        deadline = _deadline.get()
        if deadline is not None:
            left = deadline - self.now()
            if left <= 0 or delay > left:
                self.give_up(f"the next delay of {delay:.3g} s is not within the {left:.3g} s left", error)
                return None
        budget = self.config.budget
        if budget is not None:
            throttled = verdict is THROTTLED
            if not budget.try_withdraw(throttled=throttled):
                if bus.entries:
                    emit("BudgetExhausted", self.name, budget=budget.name or "retry budget")
                self.give_up("the retry budget is exhausted", error)
                return None
            self.refunds = throttled
        if bus.entries:
            emit("RetryScheduled", self.name, attempt=self.number, delay=delay, error=error)
        return delay

    def give_up(self, reason: str, error: Exception | None) -> None:
        """Say on the error, and to subscribers, how many attempts there were and why there are no more."""
        elapsed = 0.0 if self.since is None else self.now() - self.since
        self.explain(error)
        if error is not None and len(getattr(error, "__notes__", ())) < _MAX_NOTES:
            many = "attempt" if self.number == 1 else "attempts"
            _add_note(
                error,
                f"holdfast: {self.name} gave up after {self.number} {many}, "
                f"{elapsed:.3g} s after the first failure: {reason}",
            )
        if bus.entries:
            emit("RetryGaveUp", self.name, attempts=self.number, elapsed=elapsed, reason=reason, error=error)

    def _leave(self, error: Exception | None) -> None:
        """End with an error that is not for retrying; only after retries is that worth a note."""
        if self.number > 1:
            self.give_up("the error is not retryable", error)

    def done(self, result: Any) -> Any:
        """Note that a retry succeeded."""
        budget = self.config.budget
        if budget is not None and budget.rewards(first=self.number == 1):
            budget.deposit()
        if self.number > 1:
            self._refund()
            if bus.entries:
                emit("RetrySucceeded", self.name, attempts=self.number)
        return result


def restore(variable: ContextVar[_V], token: Token[_V]) -> None:
    """Put the value back that was there before."""
    try:
        variable.reset(token)
    except ValueError:
        # An abandoned coroutine is closed by the garbage collector, in whatever context that runs.
        return


def end(error: Exception | None, result: Any) -> Any:
    """Raise the last error, or return the last result where that was refused."""
    if error is None:
        return result
    try:
        raise error
    finally:
        del error


def _add_note(error: Exception, note: str) -> None:
    try:
        error.add_note(note)
    except Exception:  # a class that forbids new attributes: its error matters more than our note
        return


def deposit(tries: Tries) -> None:
    """Count a first attempt that did not succeed; generated code counts those that do."""
    budget = tries.config.budget
    if budget is not None and not budget.counts_successes:
        budget.deposit()


def loop(tries: Tries, call: Callable[..., Any], error: Exception | None, result: Any) -> Any:
    """Make further attempts until one succeeds or there are no more."""
    args, kwargs = tries.args, tries.kwargs
    try:
        while True:
            delay = tries.decide(error, result)
            if delay is None:
                return end(error, result)
            if delay > 0:
                tries.sleep(delay)
            tries.again()
            try:
                result, error = call(*args, **kwargs), None
            except Exception as raised:  # judged above, and raised again if it is final
                error = raised
            if error is None and not tries.refuses(result):
                return tries.done(result)
    finally:
        error = None
        tries.leave()


# What generated code calls.


def resume(
    stack: Stack,
    at: int,
    error: Exception | None,
    result: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Go on after a first attempt that failed or whose result was refused."""
    retry: Any = stack.parts[at]
    tries = Tries(retry, stack, args, kwargs)
    deposit(tries)
    try:
        return loop(tries, stack.below(at + 1), error, result)
    finally:
        del error  # or the first error, if it is final, its traceback and this frame would keep each other


def resume_plain(
    stack: Stack,
    at: int,
    error: Exception,
    result: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Make a second attempt at once where there is nothing to ask but the error; leave the rest to `loop`."""
    retry: Any = stack.parts[at]
    try:
        plain = retry._judge(error) is TRANSIENT
    except Exception:  # a classifier that was registered for a library: `decide` reports it
        plain = False
    alone = stack.name is None and stack.meters is None
    if not plain or bus.entries or not alone or _deadline.get() is not None:
        try:
            return resume(stack, at, error, result, args, kwargs)
        finally:
            del error
    since = ambient.monotonic()
    delay = retry._config.wait.delay(1, 0.0, retry._config.random)
    if delay > 0:
        ambient.clock.sleep(delay)
    _degraded.forget(stack)
    call = stack.fn if at + 1 == len(stack.parts) else stack.below(at + 1)
    try:
        return call(*args, **kwargs)
    except Exception as raised:  # judged in the loop, and raised again if it is final
        first, error = error, raised
    try:
        return loop(_second(Tries(retry, stack, args, kwargs), first, since, delay), call, error, None)
    finally:
        del error, first


def _second(tries: Tries, first: Exception, since: float, delay: float) -> Tries:
    tries.remember(first)
    tries.number, tries.since, tries.delay = 2, since, delay
    return tries


def is_plain(config: RetryConfig) -> bool:
    """Return whether a second attempt depends on nothing but the error, which is judged by its type."""
    asks = (config.budget, config.result, config.clock)
    return (
        asks == (None, None, None) and config.attempts != 1 and isinstance(config.on, (Verdict, type, tuple))
    )


async def resume_async(
    stack: Stack,
    at: int,
    error: Exception | None,
    result: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Go on after a first async attempt that failed or whose result was refused."""
    retry: Any = stack.parts[at]
    tries = Tries(retry, stack, args, kwargs)
    call = stack.below(at + 1)
    deposit(tries)
    token = attempt_number.set((1, 0))
    try:
        while True:
            delay = tries.decide(error, result)
            if delay is None:
                return end(error, result)
            if delay > 0:
                await tries.asleep(delay)
            tries.again()
            attempt_number.set((tries.number, 0))
            try:
                result, error = await call(*args, **kwargs), None
            except Exception as raised:  # judged above, and raised again if it is final
                error = raised
            if error is None and not tries.refuses(result):
                return tries.done(result)
    finally:
        error = None
        tries.leave()
        restore(attempt_number, token)


def refused(stack: Stack, at: int, result: object, args: tuple[Any, ...]) -> bool:
    """Return whether the result of a first attempt is refused."""
    retry: Any = stack.parts[at]
    return Tries(retry, stack, args, {}).refuses(result)


hot.update(_refused=refused, _resume=resume, _resume_async=resume_async, _resume_plain=resume_plain)
