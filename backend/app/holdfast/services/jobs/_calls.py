"""Making the calls of steps: as tasks of the loop, or in threads; bounded, cancelled, given up."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.store import _boundaries
from holdfast.infrastructure.store.payload import decode
from holdfast.services.jobs import _outcomes
from holdfast.services.jobs._threads import Threads
from holdfast.services.jobs.handlers import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.infrastructure.store.state import Outcome, StepRecord, StepRef
    from holdfast.services.jobs._outcomes import Spec

# Threads beyond the lanes, for those that hang in calls that were given up.
_SPARE = 1000
_SHOWN = 10


class Running:
    """One call: of which step, since when, and why it is being cancelled."""

    __slots__ = (
        "began",
        "call",
        "give_up_at",
        "goes_on",
        "reason",
        "ref",
        "seconds",
        "settled",
        "spec",
        "step",
        "task",
    )

    def __init__(self, step: StepRecord, spec: Spec, ref: StepRef) -> None:
        self.step = step
        self.spec = spec
        self.ref = ref
        self.seconds = spec.new.step_timeout if step.timeout is None else step.timeout
        self.call = Call(
            job=step.job,
            key=step.key,
            line=step.line,
            attempt=step.attempts + 1,
            idempotency_key=step.idempotency_key,
        )
        self.task: asyncio.Task[None] | None = None
        self.reason = ""
        self.began = 0.0
        self.give_up_at = inf
        self.settled = False
        # Whether the handler is in its call, whatever became of the step: a thread says so itself.
        self.goes_on = False


class _TookTooLongError(Exception):
    """A step's own bound ended its call."""


class Caller:
    """Makes calls and settles each once: with its outcome, or with what is known when it is given up."""

    def __init__(self, lanes: int, grace: float, settle: Callable[[Running, Outcome], None]) -> None:
        # In the order in which they began.
        self.active: dict[Running, None] = {}
        self._abandoned: list[Running] = []
        self._grace = grace
        self._tell = settle
        self._pool = Threads(lanes + _SPARE, "holdfast-call")
        self._loop = asyncio.get_running_loop()

    def start(self, running: Running) -> None:
        """Begin a call that was announced."""
        running.began = self._loop.time()
        if running.seconds is not None:
            running.call.deadline = current_clock().monotonic() + running.seconds
            running.give_up_at = running.began + running.seconds + self._grace
        self.active[running] = None
        running.task = self._loop.create_task(self._perform(running))

    def cancel(self, running: Running, reason: str) -> None:
        """Tell a call to end, for this reason; it has the grace to do so."""
        if running.reason:
            return
        running.reason = reason
        running.call._cancelled = True
        running.give_up_at = min(running.give_up_at, self._loop.time() + self._grace)
        if running.spec.is_async and running.task is not None:
            running.task.cancel()

    @property
    def abandoned(self) -> list[Running]:
        """The calls that were settled though they went on, and still do."""
        return [one for one in self._abandoned if one.goes_on]

    def give_up(self, *, everything: bool = False) -> list[Running]:
        """Settle the calls whose grace is over, though they go on; return them."""
        now = self._loop.time()
        late = [one for one in self.active if everything or one.give_up_at <= now]
        for running in late:
            outcome = self._cut(running, running.reason or "given up")
            if not running.reason and running.seconds is not None:
                outcome = self._too_long(running)
            self._settle(running, outcome)
            if running.task is not None:
                running.task.cancel()
        return late

    def forget(self) -> None:
        """Cancel every call; nobody wants to know how they end."""
        for running in list(self.active):
            self.cancel(running, "the worker lost its lease")
            running.settled = True
            self._leave(running)
        self.active.clear()

    def close(self) -> None:
        """Take no more calls. What goes on keeps neither this process alive nor the loop from ending."""
        self._pool.close(drop=True)
        for running in self.abandoned:
            if running.spec.is_async and running.task is not None:
                _disown(running.task)

    async def call(self, function: Callable[..., Any], *args: Any, is_async: bool) -> Any:
        """Call a function of a handler: on the loop, or in a thread."""
        if is_async:
            return await function(*args)
        return await self._pool.call(copy_context().run, function, *args)

    async def _perform(self, running: Running) -> None:
        is_async = running.spec.is_async
        try:
            payload = decode(running.step.payload)
            _boundaries.reach("engine.before_call")
            running.goes_on = is_async
            if is_async and running.seconds is None:
                result = await running.spec.handler._call(payload, running.call)
            else:
                result = await self._bounded(running, payload)
            _boundaries.reach("engine.after_call")
        except _TookTooLongError:
            outcome: Outcome = self._too_long(running)
        except BaseException as error:  # whatever it is, it is the step's affair
            outcome = self._raised(running, error)
        else:
            outcome = _outcomes.succeeded(running.ref, result, self._took(running))
        running.goes_on &= not is_async
        self._settle(running, outcome)

    async def _bounded(self, running: Running, payload: Any) -> Any:
        handler = running.spec.handler
        is_async = running.spec.is_async
        function = handler._call if is_async else partial(_noted, running, handler._call)
        call = self.call(function, payload, running.call, is_async=is_async)
        if running.seconds is None:
            return await call
        scope = asyncio.timeout(running.seconds)
        try:
            async with scope:
                with deadline_after(running.seconds):
                    return await call
        except TimeoutError as error:
            if scope.expired():
                running.call._cancelled = True
                raise _TookTooLongError from error
            raise

    def _settle(self, running: Running, outcome: Outcome) -> None:
        if not running.settled:
            running.settled = True
            del self.active[running]
            if running.goes_on:
                self._leave(running)
            self._tell(running, outcome)

    def _leave(self, running: Running) -> None:
        """Note a call that goes on, and forget those that do so no longer."""
        self._abandoned = [*self.abandoned, running]

    def _raised(self, running: Running, error: BaseException) -> Outcome:
        if running.reason and isinstance(error, asyncio.CancelledError):
            return self._cut(running, running.reason)
        return _outcomes.failed(running.spec, running.ref, error, running.call.attempt, self._took(running))

    def _cut(self, running: Running, reason: str) -> Outcome:
        return _outcomes.cut_short(running.spec, running.ref, reason, self._took(running))

    def _too_long(self, running: Running) -> Outcome:
        seconds = running.seconds or 0.0
        return _outcomes.timed_out(
            running.spec, running.ref, seconds, running.call.attempt, self._took(running)
        )

    def _took(self, running: Running) -> float:
        return self._loop.time() - running.began


def named(calls: Sequence[Call]) -> str:
    """Return in words whose calls these are."""
    jobs: dict[str, list[str]] = {}
    for call in calls:
        jobs.setdefault(call.job, []).append(repr(call.key))
    return "; ".join(f"{_some(keys)} of job {job}" for job, keys in jobs.items())


def _some(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def why_left(calls: Sequence[Call]) -> str:
    """Return in words why a process has left a worker that does not stop, with the calls under way."""
    why = (
        f"calls do not end, and may have been made: {named(calls)}" if calls else "the store does not answer"
    )
    return f"left, for {why}; what was recorded stays"


def _noted(running: Running, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a thread, and note how long it goes on."""
    running.goes_on = True
    try:
        return function(*args)
    finally:
        running.goes_on = False


def _disown(task: asyncio.Task[None]) -> None:
    """Let a loop end though a task does not, which swallows its cancellation: `asyncio.run` would wait for it."""
    asyncio._unregister_task(task)
    unlogged: Any = task
    unlogged._log_destroy_pending = False
