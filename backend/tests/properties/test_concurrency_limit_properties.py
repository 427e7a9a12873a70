"""Concurrency limit: bounds that hold for every history, and where the limit settles beside a simulated server."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.concurrency_limit import AIMD, ConcurrencyLimit, Gradient2
from holdfast.infrastructure.resilience.errors import ConcurrencyLimitedError
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.testing.clock import VirtualClock

ALGORITHMS = st.one_of(
    st.builds(
        Gradient2,
        smoothing=st.floats(0.01, 1.0),
        queue=st.integers(1, 100),
        tolerance=st.floats(1.0, 4.0),
        long_window=st.integers(10, 1000),
    ),
    st.builds(AIMD, backoff=st.floats(0.1, 0.99)),
)
# What happens next, and to which of the calls in flight: begin, succeed, fail, be cancelled; seconds that pass.
STEPS = st.lists(
    st.tuples(st.sampled_from("bbbbbsssfc"), st.integers(0, 1000), st.sampled_from((0.0, 0.01, 1.0, 100.0))),
    max_size=200,
)


@settings(deadline=None)
@given(ALGORITHMS, STEPS, st.integers(1, 30), st.integers(0, 30), st.integers(0, 30))
def test_bounds_hold_for_every_history(
    algorithm: Gradient2 | AIMD, steps: list[tuple[str, int, float]], low: int, above: int, more: int
) -> None:
    """The limit stays within its bounds, admission within the limit, and every place comes back."""
    clock = VirtualClock()
    with use_clock(clock):
        limit = ConcurrencyLimit(
            algorithm=algorithm, min_limit=low, initial=low + above, max_limit=low + above + more
        )
        out: list[Permit] = []
        for what, which, passed in steps:
            before = limit.limit
            if what == "b":
                admit(limit, out)
            elif out:
                permit = out.pop(which % len(out))
                clock.advance(passed)
                {"s": permit.success, "f": permit.failure, "c": permit.neutral}[what]()
            assert low <= limit.limit <= low + above + more
            assert limit.running == len(out)
            assert what != "f" or limit.limit <= before
            assert what != "c" or limit.limit == before
        for permit in out:
            permit.neutral()
        assert limit.running == 0


def admit(limit: ConcurrencyLimit, out: list[Permit]) -> None:
    """Begin a call: it is admitted just where there is room."""
    room = len(out) < limit.limit
    try:
        out.append(limit.admit())
    except ConcurrencyLimitedError:
        assert not room
    else:
        assert room


class Server:
    """So many workers that take `service` seconds for each call, first come, first served; full, it refuses."""

    def __init__(self, clock: VirtualClock, workers: int, service: float, queue: float) -> None:
        self.clock = clock
        self.workers = workers
        self.service = service
        self.queue = queue
        self.busy = self.most = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def answer(self) -> None:
        """Answer one call."""
        if len(self.waiting) >= self.queue:
            raise ConnectionRefusedError
        self.most = max(self.most, self.busy + len(self.waiting) + 1)
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        self.serve()
        await turn
        await self.clock.asleep(self.service)
        self.busy -= 1
        self.serve()

    def serve(self) -> None:
        """Let those who wait begin, as far as there are workers."""
        while self.waiting and self.busy < self.workers:
            self.busy += 1
            self.waiting.popleft().set_result(None)


class Trial:
    """Many clients that always want more than the server can, and what the limit makes of it."""

    def __init__(self, limit: Callable[[], ConcurrencyLimit], workers: int, queue: float = 1e9) -> None:
        self.clock = VirtualClock()
        self.server = Server(self.clock, workers, 0.05, queue)
        self.make = limit
        self.latencies: list[float] = []
        self.limits: list[int] = []

    def run(self, *phases: tuple[float, int]) -> list[tuple[float, float]]:
        """Return mean limit and mean latency in the second half of each phase: seconds, and workers during them."""
        with use_clock(self.clock):
            return self.clock.run(self._main(phases))

    async def _main(self, phases: tuple[tuple[float, int], ...]) -> list[tuple[float, float]]:
        limit = self.make()
        answer = limit(_function(self.server))
        clients = [asyncio.create_task(self._client(limit, answer)) for _ in range(45)]
        found = [await self._phase(seconds, workers) for seconds, workers in phases]
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        assert limit.running == 0
        return found

    async def _phase(self, seconds: float, workers: int) -> tuple[float, float]:
        self.server.workers = workers
        self.server.serve()
        await self.clock.asleep(seconds / 2)
        self.latencies.clear()
        self.limits.clear()
        await self.clock.asleep(seconds / 2)
        return sum(self.limits) / len(self.limits), sum(self.latencies) / len(self.latencies)

    async def _client(self, limit: ConcurrencyLimit, answer: Callable[[], Any]) -> None:
        while True:
            begin, allowed = self.clock.monotonic(), limit.limit
            try:
                await answer()
            except (ConcurrencyLimitedError, ConnectionRefusedError):
                await self.clock.asleep(0.03)
            else:
                self.latencies.append(self.clock.monotonic() - begin)
                self.limits.append(allowed)


def _function(server: Server) -> Callable[[], Any]:
    async def answer() -> None:
        await server.answer()

    return answer


SERVICE = 0.05


def near(found: tuple[float, float], workers: int, limit: tuple[float, float], slower: float) -> None:
    """Check the mean limit, in multiples of the workers, and the mean latency, in multiples of the service time."""
    mean, latency = found
    low, high = limit
    assert low * workers <= mean <= high * workers + 4
    assert latency <= slower * SERVICE


PHASES = ((10.0, 10), (10.0, 5), (10.0, 20))


def test_gradient2_settles_at_the_server_s_capacity() -> None:
    """With a tolerance of 1 the limit is that of the workers and a short queue; it follows when they halve and double.

    The average drifts upwards as long as there is a queue, so the longer it lasts, the more of it is taken as normal.
    """
    spec = Gradient2(tolerance=1.0, queue=2)
    trial = Trial(lambda: ConcurrencyLimit(algorithm=spec, initial=5), 10)
    full, half, double = trial.run(*PHASES)
    near(full, 10, (1.0, 1.2), 1.4)
    near(half, 5, (0.9, 1.6), 2.2)
    near(double, 20, (1.0, 1.5), 1.6)


@pytest.mark.parametrize(("workers", "slower"), [(5, 3.0), (20, 2.2)])
def test_gradient2_tolerates_half_as_much_again(workers: int, slower: float) -> None:
    """By default latency may be half above the average: the limit is 1.5 times the workers, the queue and the drift."""
    trial = Trial(lambda: ConcurrencyLimit(initial=5), 10)
    full, changed = trial.run((10.0, 10), (10.0, workers))
    near(full, 10, (1.0, 1.75), 2.2)
    near(changed, workers, (1.2, 2.1), slower)
    assert (changed[0] > full[0]) is (workers > 10)


@pytest.mark.parametrize("algorithm", [Gradient2(), AIMD()])
@pytest.mark.parametrize("initial", [1, 20, 60])
def test_a_bound_on_latency_holds_the_limit_from_anywhere(algorithm: Gradient2 | AIMD, initial: int) -> None:
    """With `max_healthy_latency` the limit settles near the workers, also where it began in the middle of a queue."""
    trial = Trial(
        lambda: ConcurrencyLimit(algorithm=algorithm, initial=initial, max_healthy_latency=1.5 * SERVICE), 10
    )
    for found, workers in zip(trial.run(*PHASES), (10, 5, 20), strict=True):
        near(found, workers, (0.8, 1.6), 1.7)


def test_without_a_bound_the_average_drifts() -> None:
    """Begun in a queue and never out of it, Gradient2 takes the queue for normal; the bound is what stops that."""
    (free,) = Trial(lambda: ConcurrencyLimit(initial=20), 10).run((20.0, 10))
    (bound,) = Trial(lambda: ConcurrencyLimit(max_healthy_latency=2 * SERVICE), 10).run((20.0, 10))
    assert free[0] > 40
    near(bound, 10, (0.9, 2.0), 2.1)


def test_aimd_settles_where_the_server_refuses() -> None:
    """A server that takes its workers' worth of calls and a queue of 5 keeps the limit just below that."""
    trial = Trial(lambda: ConcurrencyLimit(algorithm=AIMD(), initial=5), 10, queue=5)
    for found, workers in zip(trial.run(*PHASES), (10, 5, 20), strict=True):
        near((found[0] - 5, found[1]), workers, (0.7, 1.1), 2.1)


def test_no_more_calls_reach_the_server_than_the_limit_ever_was() -> None:
    """The server never sees more calls at once than the highest limit that there was."""
    trial = Trial(lambda: ConcurrencyLimit(algorithm=AIMD(), initial=5, max_limit=12), 100)
    trial.run((10.0, 100))
    assert trial.server.most == 12
