"""One breaker under real threads and tasks at once: exactly so many probes, and not one outcome lost."""

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial

import pytest

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window
from holdfast.testing import VirtualClock

THREADS, TASKS, ROUNDS = 8, 200, 200
# Far more than any step takes: a deadlock ends the test, a slow machine does not.
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def switching_often() -> Iterator[None]:
    """Let threads take turns all the time, so that races are lost that could be lost."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def race(*actions: Callable[[], None]) -> None:
    """Run every action in a thread of its own, all starting together; raise the first error."""
    start, errors = threading.Barrier(len(actions)), list[BaseException]()

    def body(action: Callable[[], None]) -> None:
        try:
            start.wait(PATIENCE)
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Herd:
    """Eight threads and 200 tasks that call one breaker at the same moment, round after round.

    Whoever is admitted stays inside until everybody has been admitted or refused.
    """

    def __init__(self, breaker: CircuitBreaker, clock: VirtualClock) -> None:
        self.breaker = breaker
        self.clock = clock
        self.healthy = True
        self.admitted: list[str] = []
        self.refused: list[CircuitOpenError] = []
        self.rounds: list[tuple[int, int]] = []
        self.states: list[CircuitState] = []
        self._ready = threading.Barrier(THREADS + 1, action=self._prepare)
        self._tried = threading.Barrier(THREADS + 1, action=self._note)
        self._ended = threading.Barrier(THREADS + 1, action=self._look)
        self._thread_call, self._task_call = self._functions()

    def _functions(
        self,
    ) -> tuple[Callable[[], None], Callable[[asyncio.Event], Coroutine[object, object, None]]]:
        @self.breaker
        def in_thread() -> None:
            self.admitted.append("thread")
            self._tried.wait(PATIENCE)
            self._answer()

        @self.breaker
        async def in_task(everybody_tried: asyncio.Event) -> None:
            self.admitted.append("task")
            await everybody_tried.wait()
            self._answer()

        async def try_in_task(everybody_tried: asyncio.Event) -> None:
            try:
                await in_task(everybody_tried)
            except CircuitOpenError as error:
                self.refused.append(error)
            except ConnectionError:
                pass

        return in_thread, try_in_task

    def _answer(self) -> None:
        if not self.healthy:
            raise ConnectionError

    def _prepare(self) -> None:
        self.admitted.clear()
        self.refused.clear()
        self.clock.advance(self.breaker.retry_after or 0.0)

    def _note(self) -> None:
        self.rounds.append((len(self.admitted), len(self.refused)))

    def _look(self) -> None:
        self.states.append(self.breaker.state)
        if self.breaker.state is CircuitState.CLOSED:
            self.breaker.open()

    def thread(self) -> None:
        """Take part in every round as a thread."""
        for _ in range(ROUNDS):
            self._ready.wait(PATIENCE)
            try:
                self._thread_call()
            except CircuitOpenError as error:
                self.refused.append(error)
                self._tried.wait(PATIENCE)
            except ConnectionError:
                pass
            self._ended.wait(PATIENCE)

    def tasks(self) -> None:
        """Take part in every round as tasks of one event loop."""
        asyncio.run(self._tasks())

    async def _tasks(self) -> None:
        for _ in range(ROUNDS):
            self._ready.wait(PATIENCE)
            everybody_tried = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for _ in range(TASKS):
                    group.create_task(self._task_call(everybody_tried))
                await asyncio.sleep(0)
                self._tried.wait(PATIENCE)
                everybody_tried.set()
            self._ended.wait(PATIENCE)


@pytest.mark.parametrize(
    ("probes", "healthy"), [(1, False), (3, True), (10, False)], ids=["1, down", "3, recovering", "10, down"]
)
def test_exactly_so_many_probes_are_admitted(probes: int, healthy: bool) -> None:  # noqa: FBT001  # a column
    """In each of 200 rounds exactly `half_open_calls` of 8 threads and 200 tasks come through, the rest are refused."""
    clock = VirtualClock()
    breaker = CircuitBreaker("dependency", half_open_calls=probes, open_jitter=0.0, clock=clock)
    breaker.open()
    herd = Herd(breaker, clock)
    herd.healthy = healthy

    race(herd.tasks, *[herd.thread] * THREADS)

    assert herd.rounds == [(probes, THREADS + TASKS - probes)] * ROUNDS
    assert herd.states == [CircuitState.CLOSED if healthy else CircuitState.OPEN] * ROUNDS
    assert breaker.rejected == ROUNDS * (THREADS + TASKS - probes)


WINDOWS = {
    "seconds": Window.seconds(10.0),
    "calls": Window.calls(50_000),
    "consecutive": Window.consecutive(50_000),
}
CALLS = 1_500


def hammer(breaker: CircuitBreaker, fails: Callable[[int], bool]) -> None:
    """Let 8 threads make 1500 calls each, alternately through a function and a permit."""

    @breaker
    def fetch(number: int) -> None:
        if fails(number):
            raise ConnectionError

    def by_function(number: int) -> None:
        try:
            fetch(number)
        except ConnectionError:
            pass

    def by_permit(number: int) -> None:
        permit = breaker.admit()
        if fails(number):
            permit.failure()
        else:
            permit.success()

    def work() -> None:
        for number in range(CALLS):
            (by_permit if number % 5 == 0 else by_function)(number)

    race(*[work] * THREADS)


@pytest.mark.parametrize("slow", [None, 5.0], ids=["plain", "with slow calls"])
@pytest.mark.parametrize("kind", ["seconds", "calls"])
def test_no_outcome_is_lost(kind: str, slow: float | None) -> None:
    """After 8 threads at once the window holds every success and every failure, each once."""
    with use_clock(VirtualClock()):
        breaker = CircuitBreaker(
            "dependency", window=WINDOWS[kind], min_calls=1_000_000, slow_call_duration=slow
        )
        hammer(breaker, lambda number: number % 3 == 0)
        counts = breaker.counts
    assert (counts.calls, counts.failures, counts.slow) == (THREADS * CALLS, THREADS * CALLS // 3, 0)


@pytest.mark.parametrize("slow", [None, 5.0], ids=["plain", "with slow calls"])
def test_no_failure_in_a_row_is_lost(slow: float | None) -> None:
    """Failures of 8 threads at once are one row, which the first success ends."""
    with use_clock(VirtualClock()):
        breaker = CircuitBreaker("dependency", window=WINDOWS["consecutive"], slow_call_duration=slow)
        hammer(breaker, lambda number: True)
        assert breaker.counts.failures == THREADS * CALLS
        breaker.admit().success()
        assert breaker.counts.failures == 0


@pytest.mark.parametrize("kind", sorted(WINDOWS))
def test_it_opens_once_however_many_fail(kind: str) -> None:
    """Whichever thread makes the last failure that it takes: the breaker opens, and refuses from then on."""
    with use_clock(VirtualClock()):
        for _ in range(20):
            window = {**WINDOWS, "calls": Window.calls(100), "consecutive": Window.consecutive(100)}[kind]
            breaker = CircuitBreaker("dependency", window=window, min_calls=100, open_jitter=0.0)
            made = list[int]()
            race(*[partial(call_until_refused, breaker, made)] * THREADS)
            assert breaker.state is CircuitState.OPEN
            assert 100 <= len(made) < 100 + THREADS


def call_until_refused(breaker: CircuitBreaker, made: list[int]) -> None:
    """Call a dependency that is down, and note each call."""
    while True:
        try:
            permit = breaker.admit()
        except CircuitOpenError:
            return
        made.append(1)
        permit.failure(ConnectionError())
