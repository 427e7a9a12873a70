"""Sync timeouts that return on time: in a worker thread, or by a signal on the main thread."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from contextvars import copy_context
from math import inf
from queue import Empty, SimpleQueue

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._nested import local_of, waited_for
from holdfast.infrastructure.resilience._tries import attempt_number
from holdfast.infrastructure.resilience.deadline import _deadline, _Scope, _tighter
from holdfast.infrastructure.resilience.errors import TimeoutExceeded
from holdfast.infrastructure.resilience.retry import current_attempt
from holdfast.infrastructure.resilience.timeout import _exceeded, _now, _throw, _timed_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import CodeType, FrameType
    from typing import Any, NoReturn

    from holdfast.infrastructure.resilience.clock import Clock
    from holdfast.infrastructure.resilience.hedge import Hedge
    from holdfast.infrastructure.resilience.timeout import Timeout, _Block

# The signal's timer runs in real time; read by C code, because a signal may strike wherever Python code runs.
_real_time = time.monotonic  # noqa: TID251
_IDLE = 10.0  # seconds after which a worker without work leaves
_LEAST, _SOON = 1e-6, 5e-4  # seconds; an interval timer of 0 would be none
_PATIENCE = 20
_BOOKS = frozenset(
    f"{__package__}.{name}"
    for name in (
        "_breaker",
        "_bulkhead",
        "_bus",
        "_cache",
        "_cache_calls",
        "_degraded",
        "_foreign",
        "_gcra",
        "_limits",
        "_nested",
        "_outside",
        "_quantile",
        "_race",
        "_race_threads",
        "_standing",
        "_threads",
        "_tries",
        "_windows",
        "budget",
        "bulkhead",
        "circuit_breaker",
        "classify",
        "concurrency_limit",
        "deadline",
        "permit",
        "rate_limit",
        "registry",
        "retry",
        "throttle",
        "timeout",
        "window",
        "_frozen",
    )
)


class Job:
    """One call for a worker, and what came of it. Its flags change under the pool's lock."""

    __slots__ = (
        "abandoned",
        "args",
        "caller",
        "context",
        "done",
        "ended",
        "error",
        "fn",
        "kwargs",
        "placed",
        "result",
    )

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context = copy_context()
        # The frame that waits, as long as it does. Asking for the frames of all threads could lock up a process whose
        # garbage collector runs meanwhile, until Python 3.12.
        self.caller: FrameType | None = None
        self.done = threading.Event()
        self.placed = self.ended = self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call the function in the caller's context and keep what comes of it."""
        try:
            self.result = self.context.run(self.fn, *self.args, **self.kwargs)
        except BaseException as error:
            self.error = error

    def outcome(self) -> Any:
        """Return the result or raise the error, with the worker's traceback."""
        if self.error is None:
            return self.result
        try:
            raise self.error
        finally:
            self.error = None  # it would close a circle: error, traceback, this job


def _waiting(frame: FrameType) -> Iterator[FrameType | None]:
    yield local_of(frame, "self").caller


waited_for[Job.run.__code__.co_filename] = Job.run.__code__, _waiting


class Pool:
    """The worker threads of this process; idle ones serve whatever lane has work and leave after a while."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inbox: SimpleQueue[tuple[Lane, Job]] = SimpleQueue()
        self.idle = 0
        self.abandoned = 0

    def lane(self, policy: Timeout | Hedge) -> Lane:
        """Return the lane of a policy, a new one after a fork."""
        lane: Lane | None = policy._lane
        if lane is None or lane.pool is not self:
            with self.lock:
                lane = policy._lane
                if lane is None or lane.pool is not self:
                    lane = policy._lane = Lane(self, policy._config.workers)
        return lane

    def start(self, lane: Lane, job: Job) -> None:
        """Give a job to an idle worker or a new one."""
        with self.lock:
            found = self.idle > 0
            self.idle -= found
        if not found:
            threading.Thread(target=self._work, name="holdfast-timeout", daemon=True).start()
        job.placed = True
        self.inbox.put((lane, job))

    def _work(self) -> None:
        while True:
            try:
                lane, job = self.inbox.get(timeout=_IDLE)
            except Empty:
                if self._leave():
                    return
                continue
            following: Job | None = job
            while following is not None:
                following.run()
                following = lane.finish(following)
            del lane, job

    def _leave(self) -> bool:
        with self.lock:
            spare = self.idle > 0  # otherwise every waiting worker has been promised a job
            self.idle -= spare
        return spare


class Lane:
    """The workers that one policy may occupy, and the jobs that wait for one."""

    __slots__ = ("free", "pool", "waiting")

    def __init__(self, pool: Pool, workers: int) -> None:
        self.pool = pool
        self.free = workers
        self.waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Start a job, or let it wait until one of this lane's has ended."""
        with self.pool.lock:
            if not self.free:
                self.waiting.append(job)
                return
            self.free -= 1
        self.start(job)

    def reserve(self) -> bool:
        """Take a worker's place if one is free; return whether one was."""
        with self.pool.lock:
            found = self.free > 0
            self.free -= found
        return found

    def cede(self) -> None:
        """Give back a place that was taken and not used."""
        with self.pool.lock:
            self.free += 1

    def start(self, job: Job) -> None:
        """Start a job in a place that was taken."""
        try:
            self.pool.start(self, job)
        except BaseException:
            self.cede()
            raise

    def run(self, job: Job, clock: Clock, seconds: float) -> bool:
        """Run a job in a worker and wait for it; return whether it ended within `seconds`."""
        job.caller = sys._getframe()
        try:
            self.submit(job)
            return clock.wait(job.done, seconds) or not self.give_up(job)
        except BaseException:
            self.give_up(job)
            raise

    def finish(self, job: Job) -> Job | None:
        """Hand over what came of a job; return the next one, without which the worker is idle."""
        with self.pool.lock:
            job.ended = True
            job.caller = None
            if job.abandoned:
                self.pool.abandoned -= 1
                job.result = job.error = None
            following = self.waiting.popleft() if self.waiting else None
            self.free += following is None
            self.pool.idle += following is None
        job.done.set()
        return following

    def give_up(self, job: Job) -> bool:
        """Stop waiting for a job; return False if it has ended meanwhile."""
        with self.pool.lock:
            job.caller = None
            if job.ended:
                return False
            if job in self.waiting:
                self.waiting.remove(job)
            elif job.placed:
                job.abandoned = True
                self.pool.abandoned += 1
        return True


_pool = Pool()


def _renew() -> None:
    # A forked child has no workers, and somebody may have held the lock.
    global _pool  # noqa: PLW0603  # read by every call
    _pool.lock = threading.Lock()
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def abandoned() -> int:
    """Return how many timed-out functions are still running."""
    return _pool.abandoned


def _reach(timeout: Timeout) -> tuple[float, float]:
    """Return the tightest deadline of a call that begins now, and the seconds that it leaves (at least 0)."""
    seconds = timeout._config.seconds
    now = _now(timeout)
    until = _tighter(now + seconds)
    return until, seconds if until == now + seconds else max(0.0, until - now)


def call_in_thread(
    timeout: Timeout,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    label: str = "timeout",
) -> Any:
    """Return what `fn` returns in a worker thread, or raise TimeoutExceeded on time and leave it behind."""
    until, seconds = _reach(timeout)
    job = Job(fn, args, kwargs)
    job.context.run(_deadline.set, until)
    # A worker has a stack of its own, on which `current_attempt` would look in vain.
    job.context.run(attempt_number.set, (current_attempt(), 0))
    if seconds > 0 and _pool.lane(timeout).run(job, timeout.config.clock or ambient.clock, seconds):
        # A bound inside that this one cut short may be the first to notice: this one reports.
        own = seconds == timeout.config.seconds and _now(timeout) >= until
        if not own or not isinstance(job.error, TimeoutExceeded):
            return job.outcome()
    _timed_out(timeout, label, seconds)
    if job.abandoned and bus.entries:
        emit("WorkerAbandoned", timeout.name or label, abandoned=_pool.abandoned)
    raise _exceeded(timeout, None, seconds)


class Bound:
    """One call or block that the alarm interrupts when its time has come."""

    __slots__ = (
        "below",
        "code",
        "error",
        "label",
        "over",
        "place",
        "scope",
        "seconds",
        "throttle",
        "timeout",
        "until",
        "when",
    )

    below: _Block | None
    code: CodeType
    place: int

    def __init__(self, timeout: Timeout, label: str = "timeout") -> None:
        _require_alarm()
        self.timeout = timeout
        self.label = label
        self.error: TimeoutExceeded | None = None
        self.over = False  # nothing is left to interrupt

    def arm(self) -> None:
        """Set the deadline and the alarm."""
        self.until, self.seconds = _reach(self.timeout)
        self.scope = _Scope(self.until)
        self.when = _real_time() + self.seconds
        _alarm.begin(self)

    def is_mine(self) -> bool:
        """Return True: there is one main thread."""
        return True

    def end(self, error: BaseException | None) -> Exception | None:
        """Disarm; return what to raise instead of `error`, or of a result if the strike was swallowed."""
        _alarm.end(self)
        self.scope.end()
        struck, self.error = self.error, None
        if struck is None or not (error is None or isinstance(error, Exception)):
            return None
        _timed_out(self.timeout, self.label, self.seconds)
        return None if error is struck else _exceeded(self.timeout, error, self.seconds)


class Alarm:
    """The process's interval timer: whose bound is due next, and who had the timer before."""

    __slots__ = ("bounds", "due", "interval", "place", "previous", "times")

    def __init__(self) -> None:
        self.bounds: list[Bound] = []
        self.previous: Any = None
        self.due = inf
        self.interval = 0.0
        self.place: tuple[int, int] | None = None
        self.times = 0

    def begin(self, bound: Bound) -> None:
        """Add an innermost bound."""
        if not self.bounds:
            left, self.interval = signal.setitimer(signal.ITIMER_REAL, 0)
            self.due = _real_time() + left if left else inf
            self.previous = signal.signal(signal.SIGALRM, _strike)
        # Under a tighter bound of ours there is nothing to do: that one strikes, and reports.
        bound.over = any(outer.until == bound.until and not outer.over for outer in self.bounds)
        self.bounds.append(bound)
        self.wind()

    def end(self, bound: Bound) -> None:
        """Remove a bound and whatever is left inside it; after the outermost, give the timer back."""
        if bound in self.bounds:
            del self.bounds[self.bounds.index(bound) :]
        if self.bounds:
            self.wind()
        elif signal.getsignal(signal.SIGALRM) is _strike:
            signal.setitimer(signal.ITIMER_REAL, 0)
            previous, self.previous = self.previous, None
            signal.signal(signal.SIGALRM, previous or signal.SIG_DFL)
            _set_timer(self.due, self.interval)

    def wind(self) -> None:
        """Set the timer to whatever is due next."""
        _set_timer(min([self.due, *(bound.when for bound in self.bounds if not bound.over)]))

    def strike(self, signum: int, frame: FrameType | None) -> None:
        """Serve who had the timer before, or raise the error of the outermost bound that is due."""
        now = _real_time()
        if self.due <= now:
            self.due = now + self.interval if self.interval else inf
            self.wind()
            _forward(self.previous, signum, frame)
            return
        for at, bound in enumerate(self.bounds):
            if not bound.over and bound.when <= now:
                self._raise(bound, inside=self.bounds[at:])
        self.wind()

    def is_stuck(self, frame: FrameType) -> bool:
        """Return whether the signal has come `_PATIENCE` times where `frame` is: then it is in a call of C code."""
        place = id(frame), frame.f_lasti
        self.times = self.times + 1 if place == self.place else 0
        self.place = place
        return self.times >= _PATIENCE

    def _raise(self, bound: Bound, inside: list[Bound]) -> NoReturn:
        for moot in inside:
            moot.over = True
        self.wind()
        bound.error = _exceeded(bound.timeout, None, bound.seconds)
        raise bound.error


_alarm = Alarm()


def _strike(signum: int, frame: FrameType | None) -> None:
    if not _alarm.bounds:
        return
    if frame is not None and _keeps_books(frame) and not _alarm.is_stuck(frame):
        signal.setitimer(signal.ITIMER_REAL, _SOON)
    else:
        _alarm.strike(signum, frame)


def _keeps_books(frame: FrameType) -> bool:
    # An exception there would leave permits or timers behind; a moment later it strikes what they are for.
    return frame.f_globals.get("__name__") in _BOOKS and frame.f_code is not call_with_signal.__code__


def _forward(previous: Any, signum: int, frame: FrameType | None) -> None:
    if callable(previous):
        previous(signum, frame)
        return
    signal.signal(signum, previous or signal.SIG_DFL)
    signal.raise_signal(signum)
    signal.signal(signum, _strike)


def _set_timer(when: float, interval: float = 0.0) -> None:
    left = max(when - _real_time(), _LEAST) if when < inf else 0.0
    signal.setitimer(signal.ITIMER_REAL, left, interval)


def _require_alarm() -> None:
    if not hasattr(signal, "setitimer"):
        raise RuntimeError('sync="signal" needs the interval timer of Unix: use sync="thread"')
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError('sync="signal" works on the main thread only: use sync="thread"')


def call_with_signal(
    timeout: Timeout,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    label: str = "timeout",
) -> Any:
    """Return what `fn` returns, or interrupt it with TimeoutExceeded when its time is over."""
    bound = Bound(timeout, label)
    try:
        bound.arm()
        result = fn(*args, **kwargs)
    except BaseException as error:
        _throw(bound.end(error))
        raise
    _throw(bound.end(None))
    return result
