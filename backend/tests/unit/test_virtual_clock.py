"""The virtual clock: when time jumps, in which order things wake, and what is really waited for."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from holdfast.infrastructure.resilience.clock import SYSTEM, current_clock, use_clock
from holdfast.testing import VirtualClock, no_wait
from holdfast.testing._coordinator import Coordinator, Participant, _is_ready
from holdfast.testing._loop import VirtualLoop

Log = list[tuple[str, float]]
HOUR = 3600.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@contextmanager
def at_most(seconds: float) -> Generator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_real_time_in_which_nobody_looked_is_not_counted() -> None:
    """However long the machine lets this process stand still, one look at it counts as one."""
    coordinator = Coordinator(now=0.0, patience=0.1)
    before = coordinator._real()  # noqa: SLF001  # what nobody sees from outside
    time.sleep(0.1)
    assert coordinator._real() - before == pytest.approx(0.015)  # noqa: SLF001


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which threads are ready to run")
def test_who_has_much_to_compute_is_waited_for() -> None:
    """Time does not pass the one that runs on beyond its turn while it is ready to, as on a machine that is busy."""
    clock, log = VirtualClock(patience=0.01), list[tuple[str, float]]()

    def compute() -> None:
        started = time.process_time()
        while time.process_time() < started + 0.25:
            pass
        log.append(("computed", clock.elapsed))

    def wait() -> None:
        clock.sleep(5.0)
        log.append(("waited", clock.elapsed))

    clock.run_threads(compute, wait)
    assert log == [("computed", 0.0), ("waited", 5.0)]


def test_a_thread_that_runs_is_told_from_one_that_waits() -> None:
    """A thread is ready while it computes, not while it waits; on systems that do not say, never."""
    done, begun = threading.Event(), threading.Event()

    def compute() -> None:
        begun.set()
        while not done.is_set():
            pass

    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: (threading.current_thread(), done.wait())[0])
        computing = pool.submit(compute)
        begun.wait()
        threads = {thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")}
        seen = {thread: any(_is_ready(thread) for _ in range(100)) for thread in threads}
        done.set()
    assert not computing.exception()
    assert seen[waiting.result()] is False
    assert sum(seen.values()) == (1 if sys.platform == "linux" else 0)


def sleeper(clock: VirtualClock, log: Log, name: str, *durations: float) -> Callable[[], str]:
    def sleep() -> str:
        for seconds in durations:
            clock.sleep(seconds)
            log.append((name, clock.elapsed))
        return name

    return sleep


# Readings


def test_a_new_clock_shows_its_start() -> None:
    """`monotonic` starts at `start`, `time` adds `epoch`, nothing has elapsed."""
    clock = VirtualClock(5.0, epoch=100.0)

    assert (clock.monotonic(), clock.time(), clock.elapsed, clock.sleeps) == (5.0, 105.0, 0.0, ())


def test_the_wall_clock_steps_alone(clock: VirtualClock) -> None:
    """A step moves `time`, forwards or backwards, and neither `monotonic` nor what sleeps."""
    before = clock.time()

    clock.step_wall_clock(-HOUR)
    clock.sleep(1)

    assert clock.time() == before - HOUR + 1
    assert clock.elapsed == 1.0


@pytest.mark.parametrize("patience", [0, -1, float("inf"), float("nan")])
def test_patience_is_a_finite_number_above_zero(patience: float) -> None:
    """Any other patience is refused."""
    with pytest.raises(ValueError, match="patience"):
        VirtualClock(patience=patience)


# Sleeping alone


def test_a_lone_sleep_jumps(clock: VirtualClock) -> None:
    """A sleep where nothing else is on the clock takes exactly its time, and no real time."""
    with at_most(2):
        clock.sleep(10_000)
        clock.sleep(0.25)

    assert clock.elapsed == 10_000.25
    assert clock.sleeps == (10_000, 0.25)


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_no_time_is_no_sleep(clock: VirtualClock, seconds: float) -> None:
    """A sleep of zero or less returns at once, on any kind of loop too."""
    clock.sleep(seconds)
    clock.run(clock.asleep(seconds))
    asyncio.run(clock.asleep(seconds))

    assert clock.elapsed == 0.0
    assert clock.sleeps == (seconds, seconds, seconds)


def test_advance_moves_time(clock: VirtualClock) -> None:
    """`advance` lets time pass and is no sleep; time cannot go back."""
    clock.advance(5)
    clock.advance(0)

    assert (clock.elapsed, clock.sleeps) == (5.0, ())
    for seconds in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="cannot advance"):
            clock.advance(seconds)


def test_an_endless_sleep_of_a_lone_thread_is_an_error() -> None:
    """A thread that nothing can wake gets a RuntimeError instead of hanging."""
    clock = VirtualClock(patience=0.001)

    with at_most(10), pytest.raises(RuntimeError, match="everything waits"):
        clock.sleep(float("inf"))


def test_sleeps_of_ordinary_threads_add_up() -> None:
    """Threads that do not take part jump on their own; nothing hangs and no sleep is shortened."""
    clock, log = VirtualClock(patience=0.4), Log()
    threads = [threading.Thread(target=sleeper(clock, log, "abc"[n], *[1.0] * 5)) for n in range(3)]

    with at_most(1.5):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(log) == 15
    assert clock.elapsed >= 5.0
    assert [at for _, at in log] == sorted(at for _, at in log)


# Event loops


def test_a_loop_jumps_from_timer_to_timer(clock: VirtualClock) -> None:
    """Ten thousand seconds of sleeps take far below a second."""

    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(10)
        return asyncio.get_running_loop().time()

    with at_most(2):
        assert clock.run(main()) == clock.monotonic() == 11_000.0


def test_timers_wake_in_order_of_time_then_of_setting(clock: VirtualClock) -> None:
    """Earlier timers come first; those of the same instant in the order in which they were set."""
    log: Log = []

    async def task(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        log.append((name, clock.elapsed))

    async def main() -> None:
        names = [(f"{seconds}:{n}", seconds) for n in range(20) for seconds in (3.0, 1.0, 2.0)]
        await asyncio.gather(*(task(*name) for name in names))

    clock.run(main())

    assert log == [(f"{seconds}:{n}", seconds) for seconds in (1.0, 2.0, 3.0) for n in range(20)]


def test_asleep_and_asyncio_sleep_are_the_same_time(clock: VirtualClock) -> None:
    """On the clock's loop both wait on its timers; `sleeps` remembers only what was asked of the clock."""
    log: Log = []

    async def main() -> None:
        async def other() -> None:
            await asyncio.sleep(1)
            log.append(("other", clock.elapsed))

        task = asyncio.create_task(other())
        await clock.asleep(2)
        log.append(("main", clock.elapsed))
        await task

    clock.run(main())

    assert log == [("other", 1.0), ("main", 2.0)]
    assert clock.sleeps == (2,)


def test_a_timeout_fires_at_its_virtual_time(clock: VirtualClock) -> None:
    """`asyncio.timeout` and `wait_for` measure the clock's time."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await asyncio.sleep(HOUR)
        assert clock.elapsed == 3.0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 4)
        assert clock.elapsed == 7.0
        async with asyncio.timeout(3):
            await asyncio.sleep(2.5)

    clock.run(main())

    assert clock.elapsed == 9.5


def test_a_sleeping_task_can_be_cancelled(clock: VirtualClock) -> None:
    """Cancelling ends `asleep` at once, and its timer does not move time any more."""

    async def main() -> None:
        task = asyncio.create_task(clock.asleep(HOUR))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)

    clock.run(main())

    assert clock.elapsed == 2.0


def test_timers_are_exact_at_any_size_of_time() -> None:
    """Where floats are coarse a timer still fires, once, at its time."""
    clock = VirtualClock(1.7e9, patience=0.01)
    log: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(1.7e9, lambda: log.append(loop.time()))
        for seconds in (0.1, 1e-6, 7.3, 1e-9):
            due = loop.time() + seconds
            await asyncio.sleep(seconds)
            assert loop.time() == due

    with at_most(2):
        clock.run(main())

    assert log == [1.7e9]


def test_timers_of_almost_the_same_instant_keep_their_instants(clock: VirtualClock) -> None:
    """No timer fires early, however close it is to another one."""
    log: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for when in (1001.0, 1001.0 + 2**-33, 1001.0 + 2**-32):
            loop.call_at(when, lambda: log.append(loop.time()))
        await asyncio.sleep(2)

    clock.run(main())

    assert log == [1001.0, 1001.0 + 2**-33, 1001.0 + 2**-32]


def test_a_year_is_one_jump(clock: VirtualClock) -> None:
    """A timer beyond the longest wait of a selector is reached."""
    with at_most(2):
        clock.run(asyncio.sleep(365 * 86_400))

    assert clock.elapsed == 365 * 86_400


def test_run_cleans_up_as_asyncio_run_does(clock: VirtualClock) -> None:
    """Tasks that are left are cancelled, generators closed, and what they still wait for passes."""
    log: Log = []

    async def background() -> None:
        try:
            await asyncio.sleep(HOUR)
        finally:
            await asyncio.sleep(1)
            log.append(("cancelled", clock.elapsed))

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(1)
            log.append(("closed", clock.elapsed))

    kept: list[object] = []

    async def main() -> str:
        kept.append(asyncio.create_task(background()))
        generator = numbers()
        kept.append(generator)
        await anext(generator)
        return "done"

    assert clock.run(main()) == "done"
    assert log == [("cancelled", 1.0), ("closed", 2.0)]


def test_run_raises_what_the_coroutine_raises(clock: VirtualClock) -> None:
    """An error of the coroutine comes out of `run`, and the clock can go on."""

    async def main() -> None:
        await asyncio.sleep(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        clock.run(main())

    clock.run(asyncio.sleep(1))
    assert clock.elapsed == 2.0


def test_run_is_refused_inside_a_running_loop(clock: VirtualClock) -> None:
    """As `asyncio.run`, `run` needs a thread whose loop does not run."""

    async def main() -> None:
        inner = asyncio.sleep(1)
        try:
            with pytest.raises(RuntimeError, match="running event loop"):
                clock.run(inner)
        finally:
            inner.close()

    clock.run(main())


def test_the_loop_runs_in_debug_mode(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    """The debug mode of asyncio works, and sees a callback that sleeps on the clock as slow."""

    async def slow() -> None:
        clock.sleep(5)

    async def main() -> None:
        await asyncio.gather(*(asyncio.sleep(n) for n in range(5)))
        await asyncio.to_thread(clock.sleep, 1)
        assert not caplog.records
        await asyncio.create_task(slow())

    with asyncio.Runner(debug=True, loop_factory=clock.loop) as runner:
        runner.run(main())

    assert clock.elapsed == 10.0
    assert any("took 5.000 seconds" in record.getMessage() for record in caplog.records)


def test_debug_mode_refuses_timers_from_other_threads(clock: VirtualClock) -> None:
    """The checks of asyncio's debug mode hold for timers too."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            await asyncio.to_thread(loop.call_later, 1, print)

    with asyncio.Runner(debug=True, loop_factory=clock.loop) as runner:
        runner.run(main())


def test_an_ordinary_loop_jumps_at_once(clock: VirtualClock) -> None:
    """On a loop that is not the clock's, `asleep` jumps, lets other tasks run, and can be cancelled."""
    log: Log = []

    async def task(name: str, seconds: float) -> None:
        await clock.asleep(seconds)
        log.append((name, clock.elapsed))

    async def main() -> None:
        await asyncio.gather(task("a", 5), task("b", 3))
        late = asyncio.create_task(task("c", 1))
        await asyncio.sleep(0)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late

    with at_most(2):
        asyncio.run(main())

    assert log == [("a", 8.0), ("b", 8.0)]
    assert clock.elapsed == 9.0


def test_the_loop_of_another_clock_is_an_ordinary_loop(clock: VirtualClock) -> None:
    """Two clocks do not wait for each other."""
    other = VirtualClock()

    other.run(clock.asleep(5))

    assert (clock.elapsed, other.elapsed) == (5.0, 0.0)


def test_a_sync_sleep_in_a_coroutine_blocks_its_loop(clock: VirtualClock) -> None:
    """As in real life: what was due meanwhile runs afterwards, late."""
    log: Log = []

    async def main() -> None:
        asyncio.get_running_loop().call_later(1, lambda: log.append(("timer", clock.elapsed)))
        clock.sleep(5)
        log.append(("main", clock.elapsed))
        clock.advance(2)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    clock.run(main())

    assert log == [("main", 5.0), ("timer", 7.0)]


# Threads


def test_threads_interleave_in_exact_order(clock: VirtualClock) -> None:
    """Threads that sleep differently wake at their times; at the same instant, who fell asleep first."""
    log: Log = []

    results = clock.run_threads(
        sleeper(clock, log, "a", 1, 1, 1, 1, 1, 1),
        sleeper(clock, log, "b", 2, 2, 2),
        sleeper(clock, log, "c", 3, 3),
    )

    assert results == ["a", "b", "c"]
    assert log == [
        *[("a", 1.0), ("b", 2.0), ("a", 2.0), ("c", 3.0), ("a", 3.0), ("b", 4.0), ("a", 4.0)],
        *[("a", 5.0), ("c", 6.0), ("b", 6.0), ("a", 6.0)],
    ]


def test_threads_run_one_at_a_time_in_their_order(clock: VirtualClock) -> None:
    """Without any sleep the functions run one after another."""
    log: list[str] = []

    def function(name: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(50):
                log.append(name)
                SYSTEM.sleep(0.0001)

        return run

    clock.run_threads(*(function(name) for name in "abc"))

    assert log == ["a"] * 50 + ["b"] * 50 + ["c"] * 50


def test_no_function_is_no_thread(clock: VirtualClock) -> None:
    """`run_threads()` without functions returns an empty list."""
    assert clock.run_threads() == []


def test_the_first_error_is_raised_when_all_have_ended(clock: VirtualClock) -> None:
    """What fails first, in the clock's time, comes out; the others still run to their end."""
    log: Log = []

    def failing(seconds: float) -> Callable[[], str]:
        def fail() -> str:
            clock.sleep(seconds)
            raise KeyError(seconds)

        return fail

    with pytest.raises(KeyError, match="1"):
        clock.run_threads(failing(2), failing(1), sleeper(clock, log, "c", 3))

    assert log == [("c", 3.0)]


def test_an_event_wakes_a_thread_at_the_instant_it_is_set(clock: VirtualClock) -> None:
    """`wait` ends when another thread has set the event, at that time."""
    event = threading.Event()

    def waiter() -> tuple[bool, float]:
        return clock.wait(event, 60), clock.elapsed

    def setter() -> tuple[bool, float]:
        clock.sleep(5)
        event.set()
        return True, clock.elapsed

    with at_most(2):
        assert clock.run_threads(waiter, waiter, setter) == [(True, 5.0)] * 3


def test_a_wait_ends_at_its_timeout(clock: VirtualClock) -> None:
    """If nobody sets the event in time, `wait` says so at its timeout."""
    event = threading.Event()

    def waiter() -> tuple[bool, float]:
        return clock.wait(event, 3), clock.elapsed

    def late() -> tuple[bool, float]:
        clock.sleep(5)
        event.set()
        return clock.wait(event), clock.elapsed

    assert clock.run_threads(waiter, late) == [(False, 3.0), (True, 5.0)]


def test_a_wait_without_time_returns_at_once(clock: VirtualClock) -> None:
    """An event that is set, or a timeout of zero or less, needs no waiting."""
    event = threading.Event()

    assert [clock.wait(event, 0), clock.wait(event, -1)] == [False, False]
    event.set()
    assert [clock.wait(event), clock.wait(event, 5)] == [True, True]
    assert clock.elapsed == 0.0


def test_a_lone_wait_jumps_to_its_timeout(clock: VirtualClock) -> None:
    """Where nobody sets the event, time passes."""
    assert clock.wait(threading.Event(), HOUR) is False
    assert clock.elapsed == HOUR


def test_a_wait_where_no_thread_could_set_the_event_takes_no_time() -> None:
    """A process with one thread need not be patient."""
    script = (
        "import threading; from holdfast.testing import VirtualClock;"
        "clock = VirtualClock(patience=60); print(clock.wait(threading.Event(), 5), clock.elapsed)"
    )
    with at_most(20):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "False 5.0\n"


def test_an_ordinary_thread_has_real_time_to_set_an_event() -> None:
    """Before `wait` jumps, threads that do not take part have the clock's patience to set the event."""
    clock, event = VirtualClock(patience=5), threading.Event()
    timer = threading.Timer(0.02, event.set)

    timer.start()
    with at_most(4):
        assert clock.wait(event, 1) is True
    timer.join()

    assert clock.elapsed == 0.0


def test_an_ordinary_thread_that_does_not_set_an_event_is_not_waited_for_longer() -> None:
    """When the patience is over, time jumps to the timeout."""
    clock, event, other = VirtualClock(patience=0.02), threading.Event(), threading.Event()
    thread = threading.Thread(target=other.wait)
    thread.start()

    with at_most(2):
        assert clock.wait(event, 60) is False
    other.set()
    thread.join()

    assert clock.elapsed == 60.0


def test_a_worker_that_hangs_does_not_run_away_with_the_time(clock: VirtualClock) -> None:
    """After a timed-out wait the thread that made the clock goes on, while a worker sleeps for a year."""
    done = threading.Event()

    def work() -> None:
        clock.sleep(365 * 86_400)
        done.set()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for n, worker in enumerate(workers, 1):
        worker.start()
        assert clock.wait(done, 2) is False
        clock.sleep(0.5)
        assert clock.elapsed == 2.5 * n
    with at_most(5):
        for worker in workers:
            worker.join()


def test_the_thread_that_made_the_clock_is_given_time_again_and_again(clock: VirtualClock) -> None:
    """Though a hanging worker ran away while it was busy elsewhere, the next one is waited for on time."""

    def hang() -> threading.Thread:
        worker = threading.Thread(target=clock.sleep, args=[365 * 86_400], daemon=True)
        worker.start()
        return worker

    first = hang()
    assert clock.wait(threading.Event(), 2) is False
    assert clock.elapsed == 2.0
    first.join()
    before = clock.elapsed
    second = hang()
    assert clock.wait(threading.Event(), 2) is False
    assert clock.elapsed == before + 2.0
    second.join()


def test_a_worker_that_ends_in_time_wakes_who_waits(clock: VirtualClock) -> None:
    """A pool thread sleeps on the clock, sets the event, and the waiting thread sees the worker's time."""

    def sleep_and_set(event: threading.Event) -> None:
        clock.sleep(1)
        event.set()

    with ThreadPoolExecutor(1) as pool, at_most(2):
        for n in range(1, 6):
            done = threading.Event()
            pool.submit(sleep_and_set, done)
            assert clock.wait(done, 10) is True
            assert clock.elapsed == float(n)


def test_advance_wakes_in_order_what_was_due(clock: VirtualClock) -> None:
    """A thread that advances lets the others wake at their own times, before it goes on itself."""
    log: Log = []

    def advancing() -> str:
        clock.advance(10)
        log.append(("advanced", clock.elapsed))
        return "advanced"

    clock.run_threads(advancing, sleeper(clock, log, "a", 4, 4, 4), sleeper(clock, log, "b", 6, 4))

    assert log == [("a", 4.0), ("b", 6.0), ("a", 8.0), ("advanced", 10.0), ("b", 10.0), ("a", 12.0)]
    assert 10 not in clock.sleeps


def test_a_thread_that_waits_for_another_ones_lock_is_not_waited_for() -> None:
    """A thread blocked by something outside the clock delays the others in real time, and hangs nothing."""
    clock, lock, log = VirtualClock(patience=0.01), threading.Lock(), Log()

    def holder() -> None:
        with lock:
            clock.sleep(5)
            log.append(("holder", clock.elapsed))

    def other() -> None:
        with lock:
            log.append(("other", clock.elapsed))

    with at_most(5):
        clock.run_threads(holder, other)

    assert log == [("holder", 5.0), ("other", 5.0)]


def test_threads_inside_threads(clock: VirtualClock) -> None:
    """A thread that waits for threads of its own holds nobody up."""
    log: Log = []

    def outer() -> str:
        clock.sleep(1)
        return "".join(clock.run_threads(sleeper(clock, log, "x", 1, 2), sleeper(clock, log, "y", 2)))

    with at_most(2):
        results = clock.run_threads(outer, sleeper(clock, log, "z", 1.5, 1.0, 2.5))

    assert results == ["xy", "z"]
    assert log == [("z", 1.5), ("x", 2.0), ("z", 2.5), ("y", 3.0), ("x", 4.0), ("z", 5.0)]


def test_a_thread_takes_part_again_after_a_loop_in_it(clock: VirtualClock) -> None:
    """A thread whose loop has ended runs, and time stands still for the others."""

    def thread() -> float:
        clock.run(asyncio.sleep(1))
        SYSTEM.sleep(0.05)
        return clock.elapsed

    def other() -> float:
        clock.sleep(2)
        return clock.elapsed

    assert clock.run_threads(thread, other) == [1.0, 2.0]


def test_the_end_of_an_executor_takes_no_time(clock: VirtualClock) -> None:
    """While a loop joins the threads of its executor, time stands still for the others."""

    def thread() -> float:
        clock.run(asyncio.to_thread(SYSTEM.sleep, 0.001))
        return clock.elapsed

    def other() -> float:
        clock.sleep(2)
        return clock.elapsed

    assert clock.run_threads(other, thread) == [2.0, 0.0]


# Loops and threads together


def test_loops_and_threads_share_the_time() -> None:
    """Two loops and a thread wake in the order of their times, at once."""
    clock, log = VirtualClock(patience=30), Log()

    async def tasks(name: str, *durations: float) -> None:
        async def task(seconds: float) -> None:
            await clock.asleep(seconds)
            log.append((name, clock.elapsed))

        await asyncio.gather(*(task(seconds) for seconds in durations))

    with at_most(2.5):
        clock.run_threads(
            lambda: clock.run(tasks("loop", 1, 3, 5)),
            sleeper(clock, log, "thread", 2, 2),
            lambda: clock.run(tasks("another", 2.5, 4.5)),
        )

    assert log == [
        *[("loop", 1.0), ("thread", 2.0), ("another", 2.5), ("loop", 3.0), ("thread", 4.0)],
        *[("another", 4.5), ("loop", 5.0)],
    ]


def test_a_callback_from_a_thread_comes_before_time_moves(clock: VirtualClock) -> None:
    """What a thread hands to a loop runs at that instant, though the thread goes to sleep right away."""
    log: Log = []
    loops: Future[asyncio.AbstractEventLoop] = Future()

    async def main() -> None:
        loops.set_result(asyncio.get_running_loop())
        await asyncio.sleep(100)

    def thread() -> None:
        clock.sleep(1)
        for _ in range(50):
            loops.result().call_soon_threadsafe(lambda: log.append(("callback", clock.elapsed)))
            clock.sleep(1)

    with at_most(5):
        clock.run_threads(lambda: clock.run(main()), thread)

    assert log == [("callback", float(n)) for n in range(1, 51)]


def test_jobs_of_the_executor_sleep_on_the_clock(clock: VirtualClock) -> None:
    """`to_thread` takes part: jobs and tasks wake in the order of their times."""
    log: Log = []

    async def main() -> None:
        async def task() -> None:
            await asyncio.sleep(2.5)
            log.append(("task", clock.elapsed))

        jobs = [asyncio.to_thread(sleeper(clock, log, f"job {n}", n)) for n in (3, 1, 2)]
        assert await asyncio.gather(*jobs, task()) == ["job 3", "job 1", "job 2", None]

    with at_most(2):
        clock.run(main())

    assert log == [("job 1", 1.0), ("job 2", 2.0), ("task", 2.5), ("job 3", 3.0)]


def test_a_busy_job_is_really_waited_for(clock: VirtualClock) -> None:
    """While a job of the executor works, no timeout that it could meet fires."""

    async def main() -> str:
        async with asyncio.timeout(1):
            for _ in range(20):
                await asyncio.to_thread(SYSTEM.sleep, 0.005)
        return "done"

    assert clock.run(main()) == "done"
    assert clock.elapsed == 0.0


def test_a_job_that_has_ended_holds_up_nobody() -> None:
    """Time jumps at once when the loop has heard of the end of its jobs."""
    clock = VirtualClock(patience=1)

    async def main() -> None:
        for _ in range(3):
            await asyncio.to_thread(SYSTEM.sleep, 0.001)
            await asyncio.sleep(1)

    with at_most(5):
        clock.run(main())

    assert clock.elapsed == 3.0


def test_a_job_that_outlives_its_loop_holds_up_nobody() -> None:
    """The loop's end is the end of what the clock knows of its jobs."""
    clock, event = VirtualClock(patience=1), threading.Event()

    async def main(pool: ThreadPoolExecutor) -> None:
        asyncio.get_running_loop().run_in_executor(pool, event.wait)

    with ThreadPoolExecutor(1) as pool:
        clock.run(main(pool))
        with at_most(5):
            clock.sleep(5)
        event.set()

    assert clock.elapsed == 5.0


def test_jobs_queue_for_a_thread() -> None:
    """Jobs for which no thread is free wait in the queue, while time passes for those that run."""
    clock, log = VirtualClock(patience=0.2), Log()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as pool:
            jobs = [loop.run_in_executor(pool, sleeper(clock, log, name, 5)) for name in "abcd"]
            await asyncio.gather(*jobs)

    with at_most(1.5):
        clock.run(main())

    assert sorted(log) == [("a", 5.0), ("b", 5.0), ("c", 10.0), ("d", 10.0)]


@pytest.mark.parametrize(("waits", "begins"), [(False, 0.0), (True, 10.0)], ids=["free", "queued"])
def test_a_job_of_a_free_thread_is_waited_for_before_it_begins(*, waits: bool, begins: float) -> None:
    """A thread that begins late, on a busy machine, finds no time passed; what may be queued is not waited for."""
    clock, began = VirtualClock(patience=0.04), list[float]()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        job, forget = loop.watch_job(lambda: began.append(clock.elapsed), waits=waits)

        def late() -> None:
            SYSTEM.sleep(0.2)
            job()

        thread = threading.Thread(target=late)
        thread.start()
        await asyncio.sleep(10)
        thread.join()
        forget()

    clock.run(main())
    assert began == [begins]


def test_an_abandoned_job_wakes_at_its_time(clock: VirtualClock) -> None:
    """A timeout leaves its job behind; the job sleeps on, and the end of the loop waits for it."""
    log: Log = []

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.to_thread(sleeper(clock, log, "job", HOUR))
        log.append(("timeout", clock.elapsed))
        await asyncio.sleep(1)
        log.append(("main", clock.elapsed))

    with at_most(5):
        clock.run(main())

    assert log == [("timeout", 2.0), ("main", 3.0), ("job", HOUR)]


def test_a_job_that_waits_for_the_loop_is_not_waited_for() -> None:
    """A job blocked by an event that only a later callback sets delays the loop, and hangs nothing."""
    clock, event = VirtualClock(patience=0.01), threading.Event()

    async def main() -> bool:
        asyncio.get_running_loop().call_later(5, event.set)
        return await asyncio.to_thread(event.wait)

    with at_most(5):
        assert clock.run(main()) is True
    assert clock.elapsed == 5.0


def test_an_executor_that_refuses_leaves_nothing_behind() -> None:
    """A job that could not be handed over holds up nobody."""
    clock = VirtualClock(patience=5)

    async def main() -> None:
        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            asyncio.get_running_loop().run_in_executor(pool, print)
        await asyncio.sleep(5)

    with at_most(4):
        clock.run(main())


def test_a_callback_during_a_sync_sleep_does_not_cut_it_short(clock: VirtualClock) -> None:
    """A loop that sleeps synchronously hears of its jobs afterwards."""

    async def main() -> None:
        job = asyncio.get_running_loop().run_in_executor(None, clock.sleep, 1)
        await asyncio.sleep(0.5)
        clock.sleep(5)
        assert clock.elapsed == 5.5
        await job

    clock.run(main())

    assert clock.elapsed == 5.5


# The outside


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        await asyncio.sleep(5)
        writer.write(line.upper())
        await writer.drain()
    writer.close()


def test_sockets_work_on_the_loop(clock: VirtualClock) -> None:
    """A server and a client talk over a real socket; only the server's pauses take time."""

    async def main() -> list[bytes]:
        server = await asyncio.start_server(shout, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            replies: list[bytes] = []
            for line in (b"one\n", b"two\n"):
                writer.write(line)
                async with asyncio.timeout(6):
                    replies.append(await reader.readline())
            writer.close()
            await writer.wait_closed()
            return replies

    with at_most(5):
        assert clock.run(main()) == [b"ONE\n", b"TWO\n"]
    assert clock.elapsed == 10.0


def test_a_socket_has_real_time_before_a_timeout() -> None:
    """While a socket is open, a timer waits for the clock's patience: the other side may be slow."""
    clock = VirtualClock(patience=5)

    async def main(ours: socket.socket) -> bytes:
        async with asyncio.timeout(1):
            return await asyncio.get_running_loop().sock_recv(ours, 10)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        timer = threading.Timer(0.02, theirs.send, [b"late"])
        timer.start()
        with at_most(4):
            assert clock.run(main(ours)) == b"late"
        timer.join()

    assert clock.elapsed == 0.0


def test_a_silent_socket_is_timed_out() -> None:
    """When the patience is over, time jumps to the timeout."""
    clock = VirtualClock(patience=0.02)

    async def main(ours: socket.socket) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.get_running_loop().sock_recv(ours, 10)

    ours, theirs = socket.socketpair()
    with ours, theirs, at_most(2):
        ours.setblocking(False)
        clock.run(main(ours))

    assert clock.elapsed == 30.0


def test_an_ordinary_thread_may_call_back() -> None:
    """A loop without any timer waits for a thread that does not take part."""
    clock = VirtualClock(patience=0.01)

    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        timer = threading.Timer(0.3, loop.call_soon_threadsafe, [future.set_result, "called"])
        timer.start()
        return await future

    assert clock.run(main()) == "called"


def test_a_process_is_waited_for(clock: VirtualClock) -> None:
    """A child process and its pipes are the outside, as sockets are."""

    async def main() -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print('out')", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.strip()

    assert clock.run(main()) == b"out"
    assert clock.elapsed == 0.0


# When everything waits


def test_a_loop_that_waits_for_nothing_is_an_error() -> None:
    """A future that nobody can resolve is a RuntimeError, and the loop still cleans up."""
    clock, log = VirtualClock(patience=0.01), Log()

    async def main() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append(("cleaned up", clock.elapsed))

    with at_most(10), pytest.raises(RuntimeError, match="so does this event loop"):
        clock.run(main())

    assert log == [("cleaned up", 0.0)]
    clock.run(asyncio.sleep(1))
    assert clock.elapsed == 1.0


def test_threads_that_wait_for_each_other_are_an_error() -> None:
    """Each of the threads that wait for ever is woken with an error."""
    clock, first, second = VirtualClock(patience=0.01), threading.Event(), threading.Event()
    ends: list[str] = []

    def waiting(mine: threading.Event, other: threading.Event) -> Callable[[], None]:
        def wait() -> None:
            try:
                clock.wait(other)
                mine.set()
            except RuntimeError as error:
                ends.append(str(error))
                raise

        return wait

    with at_most(10), pytest.raises(RuntimeError, match="everything waits"):
        clock.run_threads(waiting(first, second), waiting(second, first))

    assert ["thread 0" in end or "thread 1" in end for end in ends] == [True, True]


def test_a_thread_that_never_comes_back_is_an_error() -> None:
    """A thread stuck outside the clock makes `run_threads` give up after a bounded real time."""
    clock, never = VirtualClock(patience=0.0005), threading.Event()

    try:
        with at_most(10), pytest.raises(RuntimeError, match="not on the clock"):
            clock.run_threads(never.wait)
    finally:
        never.set()


def test_what_was_given_up_does_not_hold_up_the_clock() -> None:
    """After such an error the clock serves others."""
    clock, never = VirtualClock(patience=0.0005), threading.Event()

    def stuck() -> None:
        never.wait()
        clock.sleep(5)

    try:
        with pytest.raises(RuntimeError, match="not on the clock"):
            clock.run_threads(stuck)
        with at_most(2):
            clock.run_threads(lambda: clock.sleep(1), lambda: clock.sleep(2))
    finally:
        never.set()

    assert clock.elapsed >= 2.0


# no_wait


def test_no_wait_gives_the_clock_that_jumps() -> None:
    """Inside the block the common clock is a virtual one; afterwards it is what it was."""
    with no_wait() as clock, at_most(1):
        assert current_clock() is clock
        current_clock().sleep(HOUR)
        assert clock.sleeps == (HOUR,)

    assert current_clock() is SYSTEM


def test_no_wait_nests(clock: VirtualClock) -> None:
    """Each block has a clock of its own."""
    with use_clock(clock), no_wait() as inner:
        current_clock().sleep(5)

    assert (clock.elapsed, inner.elapsed) == (0.0, 5.0)


def test_who_is_woken_while_it_looks_at_its_event_runs_on() -> None:
    """A thread whose turn comes just when it has seen that its event is not set goes on."""
    coordinator, me, other = Coordinator(0.0, 0.05), Participant("one"), Participant("other")

    class Seen(threading.Event):
        def is_set(self) -> bool:
            coordinator.run(me)
            return super().is_set()

    coordinator.enter(other)
    coordinator.block(me, 3.0, Seen())
    coordinator.await_turn(me)
    assert (me.until, coordinator.now) == (None, 0.0)
