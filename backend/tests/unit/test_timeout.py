"""Timeout: its settings, sync calls in all three modes, and blocks."""

import asyncio
import contextvars
import functools
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pytest

import holdfast
from holdfast.infrastructure.resilience._threads import Pool
from holdfast.infrastructure.resilience.clock import Clock, use_clock
from holdfast.infrastructure.resilience.deadline import current_deadline, deadline_after, remaining
from holdfast.infrastructure.resilience.errors import ConfigurationError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import CallTimedOut, WorkerAbandoned
from holdfast.infrastructure.resilience.timeout import Timeout, TimeoutConfig, abandoned_workers, timeout
from holdfast.testing import EventRecorder, VirtualClock

Mode = Literal["cooperative", "thread", "signal"]
MODES: tuple[Mode, ...] = ("cooperative", "thread", "signal")
EVERY_MODE = pytest.mark.parametrize("sync", MODES)


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait up to ten real seconds for what another thread does."""
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)
    return condition()


def wait(seconds: float) -> bool:
    """Wait for what never comes."""
    return threading.Event().wait(seconds)


def decorated(bound: Timeout, fn: Callable[[], Any]) -> Callable[[], Any]:
    return bound(fn)


def block(bound: Timeout, fn: Callable[[], Any]) -> Callable[[], Any]:
    def inside() -> Any:
        with bound:
            return fn()

    return inside


Form = Callable[[Timeout, Callable[[], Any]], Callable[[], Any]]
FORMS = pytest.mark.parametrize("form", [decorated, block])


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    """No test leaves a worker behind, or a deadline."""
    yield
    assert eventually(lambda: abandoned_workers() == 0)
    assert current_deadline() is None


# Settings


def test_the_defaults_are_these() -> None:
    """A bound, cooperative for sync functions, 32 workers should it use threads, no name, the common clock."""
    config = Timeout(2).config

    assert config == TimeoutConfig(seconds=2, sync="cooperative", workers=32, name=None, clock=None)
    assert isinstance(config.seconds, float)
    assert repr(timeout(2, name="search")) == "Timeout(2, sync='cooperative', name='search')"


def test_the_lower_case_form_makes_the_same() -> None:
    """`timeout(...)` is a Timeout of the same settings."""
    clock = Clock()
    made = timeout(3, sync="thread", workers=2, name="search", clock=clock)

    assert made.config == Timeout(3, sync="thread", workers=2, name="search", clock=clock).config
    assert made.name == "search"


BAD: dict[str, tuple[object, ...]] = {
    "seconds": (0, -1, float("nan"), float("inf"), 1e10, "2", None, True),
    "sync": ("threads", None, []),
    "workers": (0, -1, 1.5, 1001, None),
    "name": (1, b"x"),
    "clock": (time, Clock),
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path in BAD for value in BAD[path]])
def test_a_setting_out_of_range_is_refused(path: str, value: Any) -> None:
    """The fault names the setting and the value."""
    settings: dict[str, Any] = {"seconds": 1, path: value}
    with pytest.raises(ConfigurationError) as caught:
        Timeout(**settings)

    (fault,) = caught.value.faults
    assert fault.path == path
    assert fault.value is value


def test_all_faults_come_at_once() -> None:
    """One ConfigurationError lists everything that is wrong."""
    settings: dict[str, Any] = {path: values[0] for path, values in BAD.items()}
    with pytest.raises(ConfigurationError) as caught:
        Timeout(**settings)

    assert [fault.path for fault in caught.value.faults] == [*BAD]


def test_settings_are_frozen_and_pickle() -> None:
    """A configuration cannot be changed, and survives a pickle."""
    config = Timeout(2, name="search").config
    with pytest.raises(AttributeError):
        config.seconds = 3

    assert pickle.loads(pickle.dumps(config)) == config


# Every sync mode


@EVERY_MODE
def test_a_call_in_time_is_left_alone(sync: Mode) -> None:
    """Arguments go in and the result comes out; the deadline is seen inside and gone outside."""

    @timeout(30, sync=sync)
    def call(first: int, /, *rest: int, last: int = 0, **named: int) -> tuple[object, ...]:
        left = remaining()
        assert left is not None
        assert 29 < left <= 30
        return first, rest, last, named

    assert call(1, 2, 3, last=4, other=5) == (1, (2, 3), 4, {"other": 5})
    assert Timeout(30, sync=sync).call(divmod, 7, 2) == (3, 1)
    assert current_deadline() is None


@EVERY_MODE
@pytest.mark.parametrize("error", [ConnectionError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_error_in_time_passes_as_it_is(sync: Mode, error: type[BaseException]) -> None:
    """The same object, with the traceback of where it was raised, and no cause of ours."""
    raised: list[BaseException] = []

    @timeout(30, sync=sync)
    def fails() -> None:
        raised.append(error("as it is"))
        raise raised[0]

    with pytest.raises(error) as caught:
        fails()

    assert caught.value is raised[0]
    assert caught.value.__cause__ is None
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fails"
    assert current_deadline() is None


@EVERY_MODE
def test_the_tightest_deadline_is_seen_inside(sync: Mode) -> None:
    """A bound around tightens the deadline of the call, and is back afterwards."""
    with deadline_after(5) as until:
        assert Timeout(30, sync=sync).call(current_deadline) == until
        assert current_deadline() == until


class Broken(ConnectionError):
    """An error that can be weakly referred to."""


@FORMS
@EVERY_MODE
@pytest.mark.parametrize("late", [False, True])
def test_errors_leave_no_circles(sync: Mode, form: Form, *, late: bool) -> None:
    """An error and what its traceback holds are freed without the garbage collector."""
    references: list[weakref.ref[BaseException]] = []
    expected = TimeoutExceeded if late else Broken
    clock = VirtualClock() if sync == "cooperative" else None
    bound = Timeout(0.01 if late and clock is None else 5, sync=sync, clock=clock)

    def fails() -> None:
        if late:
            (clock.sleep if clock else wait)(9 if clock else 0.05)
        error = Broken()
        references.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    def call() -> None:
        try:
            (decorated if sync == "thread" else form)(bound, fails)()
        except expected as error:
            references.append(weakref.ref(error))

    gc.collect()
    gc.disable()
    try:
        call()
        assert eventually(lambda: len(references) == (1 if late and sync == "signal" else 2))
        assert eventually(lambda: not any(reference() for reference in references))
    finally:
        gc.enable()


# Cooperative


def test_a_late_error_is_a_timeout(virtual_clock: VirtualClock, event_recorder: EventRecorder) -> None:
    """An error at or after the bound is TimeoutExceeded, from that error; one before it is itself."""

    @timeout(2, name="search")
    def fails(seconds: float) -> None:
        virtual_clock.advance(seconds)
        raise ConnectionError(seconds)

    for seconds in (2, 3):
        with pytest.raises(TimeoutExceeded, match="'search' exceeded: no result within 2 s") as caught:
            fails(seconds)
        assert isinstance(caught.value.__cause__, ConnectionError)
    with pytest.raises(ConnectionError, match=r"1\.9"):
        fails(1.9)

    assert event_recorder.kinds == ("CallTimedOut", "CallTimedOut")
    assert [(event.name, event.seconds) for event in event_recorder.of(CallTimedOut)] == [("search", 2)] * 2


def test_a_late_success_is_returned(virtual_clock: VirtualClock, event_recorder: EventRecorder) -> None:
    """The work was done: a cooperative bound does not throw it away."""

    @timeout(2)
    def works() -> str:
        virtual_clock.advance(3)
        return "done"

    assert works() == "done"
    assert event_recorder.events == ()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_no_timeout(virtual_clock: VirtualClock, error: type[BaseException]) -> None:
    """However late it comes."""

    def fails() -> None:
        virtual_clock.advance(3)
        raise error

    with pytest.raises(error):
        Timeout(2).call(fails)
    with pytest.raises(error), Timeout(2):
        fails()


@FORMS
@pytest.mark.parametrize(
    "case",
    [
        (9, 2, 3, "inner", 1),  # only the inner one has passed
        (2, 9, 3, "outer", 1),  # only the outer one has passed
        (4, 2, 5, "outer", 2),  # both: the inner one first
        (2, 4, 5, "outer", 2),  # both: the outer one first
        (2, 2, 2, "outer", 2),
    ],
)
def test_of_nested_bounds_the_outermost_that_has_passed_reports(
    virtual_clock: VirtualClock, form: Form, case: tuple[float, float, float, str, int]
) -> None:
    """An outer deadline's expiry is reported by the outer Timeout, from whatever the inner one made of it."""
    outer, inner, after, reported, causes = case

    def fails() -> None:
        virtual_clock.advance(after)
        raise ConnectionError

    nested = form(Timeout(outer, name="outer"), form(Timeout(inner, name="inner"), fails))
    with pytest.raises(TimeoutExceeded) as caught:
        nested()

    assert caught.value.name == reported
    error: BaseException | None = caught.value
    for _ in range(causes):
        assert isinstance(error, TimeoutExceeded)
        error = error.__cause__
    assert isinstance(error, ConnectionError)


def test_a_tighter_bound_around_keeps_its_own_error(virtual_clock: VirtualClock) -> None:
    """TimeoutExceeded that comes from further out passes an inner bound that is due later, as it is."""
    from_outside = TimeoutExceeded(1, "outside")

    def fails() -> None:
        virtual_clock.advance(9)
        raise from_outside

    for form in (decorated, block):
        with deadline_after(1), pytest.raises(TimeoutExceeded) as caught:
            form(Timeout(2), fails)()
        assert caught.value is from_outside


# Blocks


def test_a_block_gives_the_tightest_deadline(virtual_clock: VirtualClock) -> None:
    """What `with` binds is what `current_deadline` says."""
    with Timeout(5) as outer, Timeout(9) as inner:
        assert outer == inner == current_deadline() == virtual_clock.monotonic() + 5
    assert current_deadline() is None


def test_one_timeout_serves_blocks_inside_each_other(virtual_clock: VirtualClock) -> None:
    """Each has its own time, in one frame or in several."""
    bound = Timeout(5)

    def inside() -> float | None:
        with bound:
            return remaining()

    def fails() -> None:
        virtual_clock.advance(9)
        raise ConnectionError

    with bound:
        virtual_clock.advance(1)
        with bound:
            assert inside() == 4
            virtual_clock.advance(1)
        assert remaining() == 3
        with pytest.raises(TimeoutExceeded), bound:
            fails()
    assert current_deadline() is None


def test_one_timeout_serves_blocks_of_many_threads(virtual_clock: VirtualClock) -> None:
    """Threads that share a Timeout each have the whole of it, also through an ExitStack."""
    bound = Timeout(5)

    def late(start: float, *, stacked: bool) -> Callable[[], float | None]:
        def call() -> float | None:
            virtual_clock.sleep(start)
            with ExitStack() as stack:
                if stacked:
                    stack.enter_context(bound)
                else:
                    stack.callback(int)
                with bound:
                    virtual_clock.sleep(2)
                    left = remaining()
            assert current_deadline() is None
            return left

        return call

    calls = [late(number / 4, stacked=number % 2 == 0) for number in range(8)]
    assert virtual_clock.run_threads(*calls) == [3] * 8


def test_blocks_of_generators_end_in_any_order(virtual_clock: VirtualClock) -> None:
    """A block is known by the frame that began it."""
    bound = Timeout(5)

    def steps() -> Generator[float | None]:
        with bound:
            yield remaining()
            raise ConnectionError

    first = steps()
    next(first)
    virtual_clock.advance(3)
    second = steps()
    next(second)
    virtual_clock.advance(3)
    with pytest.raises(TimeoutExceeded):
        next(first)
    with pytest.raises(ConnectionError):
        next(second)
    assert current_deadline() is None


def test_blocks_of_threads_that_begin_in_one_place_end_apart() -> None:
    """Frames that are gone may have had the same place; what is left in the end is nothing."""
    bound, began, ended = Timeout(5), threading.Event(), threading.Event()

    def begin() -> None:
        bound.__enter__()

    def elsewhere() -> None:
        begin()
        began.set()
        ended.wait(30)
        bound.__exit__(None, None, None)

    for main_first in (True, False):
        began.clear()
        ended.clear()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        began.wait(30)
        begin()
        if main_first:
            bound.__exit__(None, None, None)
        ended.set()
        thread.join()
        if not main_first:
            bound.__exit__(None, None, None)
        with pytest.raises(RuntimeError):
            bound.__exit__(None, None, None)


def test_a_block_that_nobody_began_cannot_end() -> None:
    """Leaving without entering is refused."""
    with pytest.raises(RuntimeError, match="no block of it was begun"):
        Timeout(5).__exit__(None, None, None)


def test_a_block_is_not_moved_to_a_thread() -> None:
    """`with Timeout(..., sync="thread")` says what to do instead."""
    with pytest.raises(TypeError, match="decorate a function with Timeout"), Timeout(5, sync="thread"):
        pass


def test_a_clock_of_its_own_counts() -> None:
    """A Timeout with a clock judges by it, whatever the common clock says."""
    own = VirtualClock()

    def fails(seconds: float) -> None:
        own.advance(seconds)
        raise ConnectionError

    bound = Timeout(2, clock=own)
    with bound as until:
        assert until == own.monotonic() + 2
    for form in (decorated, block):
        with pytest.raises(ConnectionError):
            form(bound, functools.partial(fails, 1))()
        with pytest.raises(TimeoutExceeded):
            form(bound, functools.partial(fails, 2))()


# In a thread


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event on which late workers wait, until the end."""
    opened = threading.Event()
    yield opened
    opened.set()


def test_a_thread_returns_on_time_and_counts_whom_it_leaves(
    gate: threading.Event, event_recorder: EventRecorder
) -> None:
    """The caller goes on at the bound; the worker is in the gauge until it ends, and in the events."""
    bound = Timeout(0.05, sync="thread", name="search")
    started = time.monotonic()
    for number in (1, 2):
        with pytest.raises(TimeoutExceeded, match="no result within"):
            bound.call(gate.wait)
        assert abandoned_workers() == number
    assert 0.1 <= time.monotonic() - started < 2

    gate.set()
    assert eventually(lambda: abandoned_workers() == 0)
    assert event_recorder.kinds == ("CallTimedOut", "WorkerAbandoned") * 2
    assert [event.abandoned for event in event_recorder.of(WorkerAbandoned)] == [1, 2]
    assert {event.name for event in event_recorder.events} == {"search"}


def test_a_thread_sees_the_callers_context() -> None:
    """Context variables go in; what the function sets stays in the worker."""
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("caller")

    @timeout(30, sync="thread")
    def call() -> str:
        before = variable.get()
        variable.set("worker")
        return before

    assert (call(), variable.get()) == ("caller", "caller")


def test_workers_are_daemons_and_used_again() -> None:
    """Calls in turn share a worker, which would not keep the interpreter from ending."""

    @timeout(30, sync="thread")
    def who() -> tuple[int, bool]:
        return threading.get_ident(), threading.current_thread().daemon

    who()
    before = threading.active_count()
    seen = {who() for _ in range(200)}
    assert threading.active_count() <= before
    assert all(daemon for _, daemon in seen)


THREADS = "holdfast.infrastructure.resilience._threads"


def test_a_worker_without_work_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while an idle worker ends; the next call gets a new one."""
    monkeypatch.setattr(f"{THREADS}._IDLE", 0.02)
    monkeypatch.setattr(f"{THREADS}._pool", Pool())
    bound = Timeout(30, sync="thread", workers=1)

    for _ in range(2):
        worker = bound.call(threading.current_thread)
        assert worker.is_alive()
        assert eventually(lambda worker=worker: not worker.is_alive())  # type: ignore[misc]


def test_a_worker_that_cannot_start_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread the call fails as starting one does, and the next call finds its place free."""
    monkeypatch.setattr(f"{THREADS}._pool", Pool())
    bound = Timeout(30, sync="thread", workers=1)

    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            bound.call(int)
    assert bound.call(int) == 0
    assert abandoned_workers() == 0


def test_no_more_workers_than_allowed_run_at_once(gate: threading.Event) -> None:
    """`workers` bounds the threads of one Timeout, those left behind included; others have their own."""
    bound = Timeout(0.05, sync="thread", workers=2)
    running, most = 0, 0
    lock = threading.Lock()

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait()
        with lock:
            running -= 1

    for _ in range(5):
        with pytest.raises(TimeoutExceeded):
            bound.call(call)

    assert (most, abandoned_workers()) == (2, 2)
    assert Timeout(30, sync="thread", workers=1).call(int) == 0


def test_waiting_for_a_worker_counts_and_leaves_nothing(
    gate: threading.Event, event_recorder: EventRecorder
) -> None:
    """A call that finds no free worker times out without having run, and there is no worker to abandon."""
    bound = Timeout(0.05, sync="thread", workers=1)
    ran: list[str] = []
    with pytest.raises(TimeoutExceeded):
        bound.call(gate.wait)
    with pytest.raises(TimeoutExceeded):
        bound.call(ran.append, "too late")
    assert abandoned_workers() == 1
    assert event_recorder.kinds == ("CallTimedOut", "WorkerAbandoned", "CallTimedOut")

    gate.set()
    assert eventually(lambda: abandoned_workers() == 0)
    assert (bound.call(int), ran) == (0, [])


def test_a_worker_that_ends_takes_the_next_call() -> None:
    """Calls beyond `workers` run in the order in which they came, as soon as there is room."""
    bound = Timeout(60, sync="thread", workers=1)
    gate = threading.Event()
    ran: list[int] = []
    threads = [threading.Thread(target=bound.call, args=(gate.wait,))]
    threads += [threading.Thread(target=bound.call, args=(ran.append, number)) for number in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    assert ran == []

    gate.set()
    for thread in threads:
        thread.join()
    assert ran == [0, 1, 2]


def test_a_deadline_around_ends_the_wait(virtual_clock: VirtualClock, gate: threading.Event) -> None:
    """The tightest bound counts: an outer Timeout that is due first is kept, and reports."""
    inner = Timeout(9, sync="thread")
    with deadline_after(2), pytest.raises(TimeoutExceeded) as caught:
        inner.call(gate.wait)
    assert (caught.value.seconds, virtual_clock.elapsed) == (2, 2)

    with pytest.raises(TimeoutExceeded) as caught:
        Timeout(3, name="outer").call(inner.call, gate.wait)
    assert (caught.value.name, caught.value.seconds, virtual_clock.elapsed) == ("outer", 3, 5)


def test_nothing_starts_after_the_deadline(
    virtual_clock: VirtualClock, event_recorder: EventRecorder
) -> None:
    """With no time left, the function is not called at all."""
    ran: list[str] = []
    with deadline_after(0), pytest.raises(TimeoutExceeded):
        Timeout(9, sync="thread", workers=1).call(ran.append, "ran")
    assert ran == []
    assert event_recorder.kinds == ("CallTimedOut",)


def test_a_thread_times_out_in_virtual_time(virtual_clock: VirtualClock) -> None:
    """What sleeps on the clock in a worker takes no real time, in time or late."""
    bound = Timeout(100, sync="thread")

    def sleeps(seconds: float) -> float:
        virtual_clock.sleep(seconds)
        return virtual_clock.elapsed

    assert bound(sleeps)(60) == 60
    with pytest.raises(TimeoutExceeded):
        bound(sleeps)(500)
    assert virtual_clock.elapsed == 160


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where a shell started the tests in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_waiting_thread_works(gate: threading.Event) -> None:
    """KeyboardInterrupt ends the wait at once and leaves the worker behind."""
    main = threading.get_ident()

    def call() -> None:
        time.sleep(0.1)  # until it does wait: a signal just before would be seen only afterwards
        signal.pthread_kill(main, signal.SIGINT)
        gate.wait()

    with pytest.raises(KeyboardInterrupt):
        Timeout(60, sync="thread").call(call)
    assert abandoned_workers() == 1


def run_together(functions: Iterable[Callable[[], object]]) -> None:
    """Run every function in a thread of its own, to the end."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_calls_of_many_threads_find_their_own_results() -> None:
    """16 threads through 3 workers: every result and error goes to its caller, and all workers are free again."""
    bound = Timeout(60, sync="thread", workers=3)
    right: list[int] = []

    @bound
    def work(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(number)
        return number

    def caller(start: int) -> None:
        for number in range(start, start + 50):
            try:
                got = work(number)
            except ValueError as error:
                got = error.args[0]
                assert got % 3 == 0
            right.append(got == number)

    run_together(functools.partial(caller, 1000 * number) for number in range(16))
    assert right == [True] * 800

    together = threading.Barrier(3)
    run_together([functools.partial(bound.call, together.wait, 30)] * 3)
    assert not together.broken


def script(text: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    root = str(Path(holdfast.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )


def test_a_worker_that_never_ends_does_not_keep_the_interpreter() -> None:
    """The process ends at once, with its own exit code."""
    done = script(
        """
        import sys, threading
        from holdfast.infrastructure.resilience.timeout import Timeout, abandoned_workers
        try:
            Timeout(0.05, sync="thread").call(threading.Event().wait)
        except TimeoutError:
            print(abandoned_workers())
            sys.exit(7)
        """
    )
    assert (done.stdout, done.returncode, done.stderr) == ("1\n", 7, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_workers_of_its_own() -> None:
    """The child's pool starts empty: its calls run, its gauge is 0, whatever the parent's threads do."""
    done = script(
        """
        import os, threading, warnings
        from holdfast.infrastructure.resilience.timeout import Timeout, abandoned_workers
        warnings.simplefilter("ignore")
        bound = Timeout(1, sync="thread", workers=1)
        try:
            bound.call(threading.Event().wait)
        except TimeoutError:
            pass
        child = os.fork()
        if not child:
            print(abandoned_workers(), bound.call(int), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(abandoned_workers())
        """
    )
    assert (done.stdout, done.stderr) == ("0 0\n1\n", "")


# By a signal

needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no interval timer here")


@pytest.fixture
def untraced() -> Iterator[None]:
    """Take the tracer and the collector's callbacks away: signals would interrupt them by an error, with locks held."""
    tracer = sys.gettrace()
    sys.settrace(None)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        sys.settrace(tracer)


@pytest.fixture
def untouched() -> Iterator[None]:
    """The interval timer and the handler of its signal are as they were."""
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    yield
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == before


def spin(seconds: float) -> str:
    """Compute, without a call that a signal could end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "spun"


@needs_signals
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("busy", [spin, time.sleep, wait])
def test_a_signal_interrupts_whatever_runs(
    event_recorder: EventRecorder, busy: Callable[[float], Any]
) -> None:
    """Computation, sleep and waits end on time, with the traceback of where they were."""
    started = time.monotonic()
    with pytest.raises(TimeoutExceeded, match=r"'search' exceeded: no result within 0\.05 s") as caught:
        Timeout(0.05, sync="signal", name="search").call(busy, 30)
    assert 0.05 <= time.monotonic() - started < 5
    assert caught.value.__cause__ is None

    started = time.monotonic()
    with pytest.raises(TimeoutExceeded), Timeout(0.05, sync="signal"):
        busy(30)
    assert time.monotonic() - started < 5
    assert event_recorder.kinds == ("CallTimedOut",) * 2
    assert [event.name for event in event_recorder.events] == ["search", "timeout"]


@needs_signals
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
def test_an_interruption_cannot_be_swallowed(how: str) -> None:
    """A result or an error that the function made of it is still late; what ends the process passes."""
    own = SystemExit("own") if how == "exits" else ConnectionError("own")

    def call() -> str:
        try:
            spin(30)
        except TimeoutExceeded:
            if how != "returns":
                raise own from None
        return "something"

    with pytest.raises(SystemExit if how == "exits" else TimeoutExceeded) as caught:
        Timeout(0.02, sync="signal").call(call)
    assert how != "raises" or caught.value.__cause__ is own


@needs_signals
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("outer", "inner", "winner"), [(30, 0.03, "inner"), (0.03, 30, "outer"), (0.03, 0.03, "outer")]
)
@FORMS
def test_the_tightest_of_nested_signals_wins(outer: float, inner: float, winner: str, form: Form) -> None:
    """The bound that is due first interrupts; the outer one if they are due together."""
    nested = form(
        Timeout(outer, sync="signal", name="outer"),
        form(Timeout(inner, sync="signal", name="inner"), functools.partial(spin, 20)),
    )
    started = time.monotonic()
    with pytest.raises(TimeoutExceeded) as caught:
        nested()
    assert caught.value.name == winner
    assert time.monotonic() - started < 5


@needs_signals
@pytest.mark.usefixtures("untouched")
def test_a_bound_inside_one_that_struck_is_moot() -> None:
    """What the outer interruption unwinds is not interrupted again by the bounds inside it."""
    cleaned: list[str] = []

    def call() -> None:
        started = time.monotonic()
        try:
            while time.monotonic() < started + 30:
                sum(range(5_000_000))  # C code, in which no handler runs
        finally:
            cleaned.append(spin(0.02))

    with pytest.raises(TimeoutExceeded, match="outer"):
        Timeout(0.003, sync="signal", name="outer").call(
            Timeout(0.002, sync="signal", name="inner").call, call
        )
    assert cleaned == ["spun"]


@needs_signals
@pytest.mark.usefixtures("untouched")
def test_a_c_function_is_interrupted_where_it_is_called() -> None:
    """Decorated directly, it has no Python frame of its own."""
    started = time.monotonic()
    with pytest.raises(TimeoutExceeded):
        Timeout(0.02, sync="signal")(time.sleep)(30)
    assert time.monotonic() - started < 5


@needs_signals
@pytest.mark.usefixtures("untouched")
def test_c_code_is_interrupted_even_where_the_library_calls_it() -> None:
    """Code of ours that keeps books is spared for a moment, not for as long as a call out of it takes."""
    scope = {"__name__": "holdfast.infrastructure.resilience._tries"}
    exec("def attempt(fn, *args): return fn(*args)", scope)
    attempt: Any = scope["attempt"]

    started = time.monotonic()
    with pytest.raises(TimeoutExceeded):
        Timeout(0.02, sync="signal").call(attempt, time.sleep, 30)
    assert time.monotonic() - started < 5


@needs_signals
@pytest.mark.usefixtures("untouched")
def test_a_block_in_a_generator_may_outlive_the_one_around() -> None:
    """When the outer call is over the timer goes back, whatever is left open inside; its end is harmless."""

    def steps() -> Generator[int]:
        with Timeout(20, sync="signal"):
            yield 1

    before = signal.getsignal(signal.SIGALRM)
    generator = steps()
    Timeout(30, sync="signal").call(next, generator)
    assert signal.getsignal(signal.SIGALRM) is before
    generator.close()


@needs_signals
@pytest.mark.usefixtures("untouched")
def test_a_handler_that_the_function_installs_stays() -> None:
    """Whoever takes the signal over during a call keeps it."""
    previous = signal.getsignal(signal.SIGALRM)
    try:
        Timeout(30, sync="signal").call(signal.signal, signal.SIGALRM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@needs_signals
@pytest.mark.usefixtures("untouched")
def test_the_outer_signal_comes_after_the_inner_ended() -> None:
    """The timer goes back to the outer bound when the inner one is over, in time or not."""

    def call() -> None:
        assert Timeout(30, sync="signal").call(spin, 0) == "spun"
        with pytest.raises(TimeoutExceeded, match="inner"):
            Timeout(0.01, sync="signal", name="inner").call(spin, 30)
        spin(30)

    with pytest.raises(TimeoutExceeded, match="outer"):
        Timeout(0.05, sync="signal", name="outer").call(call)


@needs_signals
@pytest.mark.usefixtures("untouched")
def test_an_earlier_deadline_around_is_kept_by_a_signal() -> None:
    """A cooperative bound around is kept by the signal, and reports."""
    started = time.monotonic()
    with pytest.raises(TimeoutExceeded, match="outer") as caught:
        Timeout(0.03, name="outer").call(Timeout(30, sync="signal").call, spin, 30)
    assert isinstance(caught.value.__cause__, TimeoutExceeded)
    assert time.monotonic() - started < 5


@needs_signals
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("interval", [0, 0.02])
def test_other_users_of_the_timer_are_served(interval: float) -> None:
    """A timer that runs already rings during the call when it is due, and goes on afterwards with what is left."""
    rings: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, frame: rings.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, interval)
        assert Timeout(30, sync="signal").call(eventually, lambda: len(rings) > (2 if interval else 0))

        signal.setitimer(signal.ITIMER_REAL, 20, interval)
        rings.clear()
        assert Timeout(30, sync="signal").call(spin, 0.01) == "spun"
        left, period = signal.getitimer(signal.ITIMER_REAL)
        assert 10 < left < 20
        assert abs(period - interval) < 1e-3
        assert rings == []

        signal.setitimer(signal.ITIMER_REAL, 0.2, interval)
        assert Timeout(30, sync="signal").call(spin, 0.01) == "spun"
        assert eventually(lambda: bool(rings))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@needs_signals
@pytest.mark.usefixtures("untouched")
def test_an_error_of_the_other_handler_passes() -> None:
    """Whoever interrupts with an error of his own is not taken for us."""

    class Watchdog(Exception):
        pass

    def bark(number: int, frame: FrameType | None) -> None:
        raise Watchdog

    previous = signal.signal(signal.SIGALRM, bark)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Watchdog):
            Timeout(30, sync="signal").call(spin, 30)
        assert signal.getsignal(signal.SIGALRM) is bark
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@needs_signals
def test_an_alarm_that_nobody_handles_still_ends_the_process() -> None:
    """The default action of somebody's timer is not lost while a call of ours runs."""
    done = script(
        """
        import signal, time
        from holdfast.infrastructure.resilience.timeout import Timeout
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        Timeout(30, sync="signal").call(time.sleep, 20)
        """
    )
    assert done.returncode == -signal.SIGALRM


@needs_signals
def test_an_ignored_alarm_stays_ignored() -> None:
    """Somebody's timer with an ignored signal does not disturb the call."""
    done = script(
        """
        import signal, time
        from holdfast.infrastructure.resilience.timeout import Timeout
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        Timeout(30, sync="signal").call(time.sleep, 0.1)
        print(signal.getsignal(signal.SIGALRM) is signal.SIG_IGN)
        """
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@needs_signals
@pytest.mark.usefixtures("untouched", "untraced")
@FORMS
def test_no_stray_interruption_escapes(
    form: Form,
) -> None:
    """2,000 calls that end when their time does: each returns or times out, and nothing comes afterwards."""
    chance = random.Random(3)
    results, timeouts, strays = 0, 0, 0
    for _ in range(2000):
        seconds, outer = chance.uniform(0.3, 1.5) * 1e-4, chance.choice([5e-5, 9e-5, 1e-4, 30])
        call = form(
            Timeout(outer, sync="signal"),
            form(Timeout(1e-4, sync="signal"), functools.partial(spin, seconds)),
        )
        try:
            try:
                call()
                results += 1
            except TimeoutExceeded:
                timeouts += 1
            spin(1e-5)
        except TimeoutExceeded:
            strays += 1
        strays += current_deadline() is not None
    assert strays == 0
    assert results > 50
    assert timeouts > 50


@needs_signals
def test_signals_need_the_main_thread() -> None:
    """Elsewhere the error says what to use instead, before anything runs."""
    errors: list[BaseException] = []

    def elsewhere() -> None:
        bound = Timeout(1, sync="signal")
        for form in (decorated, block):
            try:
                form(bound, print)()
            except RuntimeError as error:
                errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert [str(error) for error in errors] == [
        'sync="signal" works on the main thread only: use sync="thread"'
    ] * 2


def test_signals_need_an_interval_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a platform without it the error says what to use instead."""
    monkeypatch.delattr(signal, "setitimer", raising=False)
    with pytest.raises(RuntimeError, match='use sync="thread"'):
        Timeout(1, sync="signal").call(int)


# What else there is


@EVERY_MODE
def test_async_functions_are_cancelled_in_every_mode(virtual_clock: VirtualClock, sync: Mode) -> None:
    """`sync` says nothing about them."""

    @timeout(1, sync=sync)
    async def hangs() -> None:
        await virtual_clock.asleep(99)

    with pytest.raises(TimeoutExceeded):
        virtual_clock.run(hangs())
    assert virtual_clock.elapsed == 1


def test_a_sync_timeout_needs_no_asyncio() -> None:
    """Import and sync use load none of the costly modules."""
    done = script(
        """
        import sys
        before = set(sys.modules)
        from holdfast.infrastructure.resilience.timeout import timeout
        assert timeout(30)(lambda: 0)() == timeout(30).call(int) == 0
        with timeout(30): pass
        costly = {"asyncio", "signal", "queue", "typing", "dataclasses", "inspect", "logging"}
        print(costly & (set(sys.modules) - before))
        """
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_clocks_may_change_between_calls() -> None:
    """A decorated function reads the clock that is in use when it is called."""

    @timeout(5)
    def fails() -> None:
        raise ConnectionError

    for clock in (VirtualClock(), VirtualClock(start=5)):
        with use_clock(clock), pytest.raises(ConnectionError):
            fails()
    with pytest.raises(ConnectionError):
        fails()


def test_the_loop_is_not_needed_to_decorate() -> None:
    """Decorating an async function outside a loop, and calling it in several loops, is fine."""

    @timeout(5)
    async def call() -> str:
        return "called"

    assert [asyncio.run(call()) for _ in range(2)] == ["called"] * 2


class LateNotice(Clock):
    """A clock on which a waiting thread learns of an end before it learns of the time."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, event: threading.Event, timeout: float | None = None) -> bool:
        return event.wait(30.0)


def test_of_bounds_that_end_together_the_outer_one_reports() -> None:
    """An inner bound that the outer one cut short may notice first: what comes out is the outer one's all the same."""
    clock = LateNotice()

    def inner_notices() -> None:
        clock.now = 3.0
        raise TimeoutExceeded(3.0, "each")

    def inner_is_early() -> None:
        raise TimeoutExceeded(2.0, "each")

    def names(fn: Callable[[], None]) -> str | None:
        clock.now = 0.0
        with pytest.raises(TimeoutExceeded) as caught:
            Timeout(3.0, sync="thread", name="total", clock=clock).call(fn)
        return caught.value.name

    assert (names(inner_notices), names(inner_is_early)) == ("total", "each")
