"""Known defects of other libraries, each by its name, and that holdfast does not share them."""

import asyncio
import gc
import pickle
import re
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import pybreaker
import pytest
import tenacity

from backend.tests.integration.resilience._redis import CountingRedis, connect
from holdfast import (
    Backoff,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Pipeline,
    Retry,
    RetryBudget,
    RetryGaveUp,
    RetryScheduled,
    Timeout,
    TimeoutExceeded,
    Window,
    abandoned_workers,
    async_httpx_transport,
    circuit_breaker,
    httpx_transport,
    live_breakers,
    remaining,
    retry,
    subscribe,
)
from holdfast.testing import EventRecorder, Script, VirtualClock, fail, hang, succeed

DEFECTS = (
    "circuitbreaker_registry_collision",
    "circuitbreaker_stale_success_closes_open",
    "halfopen_herd",
    "http_retry_helpers (a)",
    "http_retry_helpers (b)",
    "http_retry_helpers (c)",
    "http_retry_helpers (d)",
    "http_retry_helpers (e)",
    "http_retry_helpers (f)",
    "http_retry_helpers (g)",
    "purgatory_traceback_leak",
    "pybreaker_asyncio_unsupported",
    "pybreaker_generator_semantics",
    "pybreaker_lock_serialises",
    "pybreaker_redis (a)",
    "pybreaker_redis (b)",
    "pybreaker_redis (c)",
    "pybreaker_redis (d)",
    "pybreaker_redis (f)",
    "pybreaker_swallows_baseexception",
    "retry_amplification",
    "stamina_hook_cm_leak",
    "tenacity_cancellation_retried",
    "tenacity_generators_not_retried",
    "tenacity_retryerror_unpicklable",
    "tenacity_shared_asyncretrying",
    "timeouts_do_not_bound",
    "wall_clock_backwards",
)
CLOSED, OPEN = CircuitState.CLOSED, CircuitState.OPEN


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_has_one_test(defect: str) -> None:
    """A defect is named by the docstring of exactly one test, and no test names another one."""
    tests = [value for name, value in globals().items() if name.startswith("test_")]
    named = Counter(
        found[1] for test in tests if (found := re.match(r"([a-z_]+(?: \([a-g]\))?): ", test.__doc__))
    )
    assert named[defect] == 1
    assert set(named) == set(DEFECTS)


def tripped(**settings: Any) -> CircuitBreaker:
    """Return a breaker that one failure has opened, for 5 s."""
    given: dict[str, Any] = {"window": Window.consecutive(1), "open_for": 5.0, "open_jitter": 0.0, **settings}
    breaker = CircuitBreaker("dependency", **given)
    breaker.admit().failure()
    return breaker


def quietly(call: Callable[[], object]) -> None:
    """Make a call that may fail as dependencies do, or be refused."""
    try:
        call()
    except (ConnectionError, CircuitOpenError):
        pass


# The library circuitbreaker, and purgatory


def test_breakers_of_the_same_name_are_all_seen() -> None:
    """circuitbreaker_registry_collision: two functions called alike are both listed, until they are gone."""
    gc.collect()
    before = len(live_breakers())

    def make() -> Callable[[], None]:
        @circuit_breaker(window=Window.consecutive(1))
        def get_user() -> None:
            raise ConnectionError

        return get_user

    first, second = make(), make()
    quietly(first)
    ours = live_breakers()[before:]
    assert [breaker.state for breaker in ours] == [OPEN, CLOSED]
    assert {breaker.name for breaker in ours} == {f"{__name__}.{first.__qualname__}"}
    del first, second, ours
    gc.collect()
    assert len(live_breakers()) == before


def test_what_began_before_the_trip_has_no_say(virtual_clock: VirtualClock) -> None:
    """circuitbreaker_stale_success_closes_open: a late success does not close, a late failure does not prolong."""
    breaker = CircuitBreaker("dependency", window=Window.consecutive(5), open_for=30.0, open_jitter=0.0)
    slow = Script(succeed(after=0.2), fail(after=0.5), fail(after=0.01))
    call = breaker(slow.coroutine_function())

    async def main() -> None:
        late_success, late_failure = asyncio.create_task(call()), asyncio.create_task(call())
        await asyncio.sleep(0)
        await asyncio.gather(*(call() for _ in range(5)), return_exceptions=True)
        opened_until = virtual_clock.monotonic() + (breaker.retry_after or 0)
        assert breaker.state is OPEN
        assert await late_success == "ok"
        assert breaker.state is OPEN
        with pytest.raises(ConnectionError):
            await late_failure
        assert virtual_clock.monotonic() + (breaker.retry_after or 0) == pytest.approx(opened_until)

    virtual_clock.run(main())
    assert breaker.state is OPEN


@pytest.mark.parametrize("probes", [1, 3])
def test_half_open_admits_so_many_and_no_more(virtual_clock: VirtualClock, probes: int) -> None:
    """halfopen_herd: of 200 callers right after the time open, exactly `half_open_calls` reach the dependency."""
    breaker = tripped(half_open_calls=probes)
    down = Script(fail(after=0.05))
    call = breaker(down.coroutine_function())

    async def main() -> list[Any]:
        return await asyncio.gather(*(call() for _ in range(200)), return_exceptions=True)

    virtual_clock.advance(5.0)
    outcomes = Counter[type[Any]](map(type, virtual_clock.run(main())))
    assert outcomes == {ConnectionError: probes, CircuitOpenError: 200 - probes}
    assert down.calls == probes


def test_rejections_keep_nothing() -> None:
    """purgatory_traceback_leak: each rejection is an error of its own with a short traceback; memory stays flat."""
    call = tripped(open_for=86_400.0, open_cap=86_400.0)(Script(succeed()).function())

    def handler() -> CircuitOpenError:
        payload = bytearray(10_000)
        with pytest.raises(CircuitOpenError) as caught:
            call()
        assert payload
        return caught.value

    def length(error: BaseException) -> int:
        entry, entries = error.__traceback__, 0
        while entry is not None:
            entry, entries = entry.tb_next, entries + 1
        return entries

    first, last = handler(), handler()
    assert first is not last
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(300):
            last = handler()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()
    assert length(last) == length(first) <= 3


# Helpers for HTTP


def delays(recorder: EventRecorder) -> list[float]:
    return [event.delay for event in recorder.of(RetryScheduled)]


def test_strategies_have_no_memory(virtual_clock: VirtualClock, event_recorder: EventRecorder) -> None:
    """http_retry_helpers (a): every request's first retry waits as long as the first one's did."""
    policy = Retry(4, wait=Backoff(base=1.0, jitter="none"))
    for _ in range(8):
        quietly(policy(Script(fail()).function()))
    assert delays(event_recorder) == [1.0, 2.0, 4.0] * 8


@pytest.mark.parametrize("jitter", ["full", "equal", "decorrelated", "none"])
def test_jitter_stays_below_the_cap(
    virtual_clock: VirtualClock, event_recorder: EventRecorder, jitter: Any
) -> None:
    """http_retry_helpers (b): no delay is longer than the cap, whatever the jitter."""
    policy = Retry(1001, wait=Backoff(base=0.5, cap=1.0, jitter=jitter), random=Random(1))
    quietly(policy(Script(fail()).function()))
    assert len(delays(event_recorder)) == 1000
    assert max(delays(event_recorder)) <= 1.0


class Service:
    """A server's answers, one for each request; the last one stays. An error is raised."""

    def __init__(self, *answers: httpx.Response | type[httpx.TransportError]) -> None:
        self._answers = list(answers)
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(request.read())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers)
        raise answer("as scripted", request=request)

    async def serve(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self(request)


def client(service: Service, policy: Retry) -> httpx.Client:
    return httpx.Client(
        transport=httpx_transport(policy, transport=httpx.MockTransport(service)), base_url="http://service"
    )


BUSY = httpx.Response(503, headers={"Retry-After": "3"})
DOWN, FINE = httpx.Response(503), httpx.Response(200)


def test_http_defaults_are_safe(virtual_clock: VirtualClock, event_recorder: EventRecorder) -> None:
    """http_retry_helpers (c): Retry-After is honoured, a POST is not repeated, connection errors are retried."""
    hinted = Service(BUSY, FINE)
    with client(hinted, Retry()) as http:
        assert http.get("/").status_code == 200
    [delay] = delays(event_recorder)
    assert 3.0 <= delay <= 8.0

    posted = Service(DOWN)
    with client(posted, Retry()) as http:
        assert http.post("/", content=b"x").status_code == 503
    assert len(posted.bodies) == 1

    refused = Service(httpx.ConnectError, FINE)
    with client(refused, Retry()) as http:
        assert http.get("/").status_code == 200
    assert len(refused.bodies) == 2


def test_decorrelated_delays_are_each_calls_own(
    virtual_clock: VirtualClock, event_recorder: EventRecorder
) -> None:
    """http_retry_helpers (d): threads that share a strategy do not share its previous delay."""
    wait = Backoff(base=0.1, cap=10.0, jitter="decorrelated")

    def caller(number: int) -> Callable[[], None]:
        policy = Retry(20, wait=wait, random=Random(number), name=f"caller {number}")
        return lambda: quietly(policy(Script(fail(after=0.1 * number)).function()))

    def delays_by_name() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {f"caller {number}": [] for number in range(1, 5)}
        for event in event_recorder.of(RetryScheduled):
            found[event.name].append(event.delay)
        event_recorder.clear()
        return found

    for number in range(1, 5):
        caller(number)()
    alone = delays_by_name()
    virtual_clock.run_threads(*(caller(number) for number in range(1, 5)))
    assert delays_by_name() == alone
    assert [len(each) for each in alone.values()] == [19] * 4


@pytest.mark.parametrize("deadline", [None, 30.0])
def test_no_server_makes_a_caller_wait_for_hours(
    virtual_clock: VirtualClock, event_recorder: EventRecorder, deadline: float | None
) -> None:
    """http_retry_helpers (e): a Retry-After of years ends the call at once, with a deadline or without."""
    service = Service(httpx.Response(503, headers={"Retry-After": "99999999"}))
    with client(service, Retry(3, deadline=deadline)) as http:
        assert http.get("/").status_code == 503
    assert (len(service.bodies), virtual_clock.elapsed) == (1, 0.0)
    assert len(event_recorder.of(RetryGaveUp)) == 1


def test_a_retry_is_never_immediate_by_default(
    virtual_clock: VirtualClock, event_recorder: EventRecorder
) -> None:
    """http_retry_helpers (f): with the default settings retries are spread over a time that grows."""
    for _ in range(200):
        quietly(Retry(3, random=None)(Script(fail()).function()))
    first, second = (
        [event.delay for event in event_recorder.of(RetryScheduled) if event.attempt == n] for n in (1, 2)
    )
    assert 0 < sum(first) / 200 < sum(second) / 200
    assert min(first) >= 0
    assert max(first) <= 0.05
    assert len(set(first)) > 190


def test_a_body_that_is_gone_is_not_sent_again(virtual_clock: VirtualClock) -> None:
    """http_retry_helpers (g): a one-shot body is sent once, and the caller gets the server's answer."""

    def chunks() -> Iterator[bytes]:
        yield b"x"

    async def async_chunks() -> AsyncIterator[bytes]:
        yield b"x"

    service = Service(DOWN)
    with client(service, Retry()) as http:
        assert http.put("/", content=chunks()).status_code == 503
    assert service.bodies == [b"x"]

    async def main() -> int:
        transport = async_httpx_transport(Retry(), transport=httpx.MockTransport(service.serve))
        async with httpx.AsyncClient(transport=transport) as http:
            return (await http.put("http://service/", content=async_chunks())).status_code

    assert virtual_clock.run(main()) == 503
    assert service.bodies == [b"x", b"x"]


# The library pybreaker


def test_awaited_failures_count(virtual_clock: VirtualClock) -> None:
    """pybreaker_asyncio_unsupported: `fail_max` awaited failures open the breaker of an async function."""
    breaker = CircuitBreaker("dependency", fail_max=3, reset_timeout=60)
    down = Script(fail())
    call = breaker(down.coroutine_function())

    async def main() -> list[Any]:
        return [await asyncio.gather(call(), return_exceptions=True) for _ in range(50)]

    virtual_clock.run(main())
    assert (down.calls, breaker.state, breaker.rejected) == (3, OPEN, 47)


def test_streams_are_guarded_as_blocks() -> None:
    """pybreaker_generator_semantics: generators are refused; in a block, stopping early is neutral, failing counts."""
    breaker = CircuitBreaker("dependency", fail_max=3)

    def rows() -> Generator[int, None, str]:
        with breaker:
            yield from range(10)
        return "total=10"

    async def failing() -> AsyncIterator[int]:
        async with breaker:
            yield 1
            raise ConnectionError

    for generator in (rows, failing):
        with pytest.raises(TypeError, match="generator"):
            breaker(generator)

    for _ in range(5):
        stream = rows()
        assert next(stream) == 0
        stream.close()
    assert (breaker.state, breaker.fail_counter) == (CLOSED, 0)

    def outer() -> Iterator[Any]:
        yield (yield from rows())

    assert list(outer())[-1] == "total=10"

    async def consume() -> int:
        return sum([number async for number in failing()])

    for _ in range(3):
        with pytest.raises(ConnectionError):
            asyncio.run(consume())
    assert breaker.state is OPEN


def test_calls_overlap() -> None:
    """pybreaker_lock_serialises: 20 threads are inside one breaker at once, and it can be closed meanwhile."""
    breaker = CircuitBreaker("dependency")
    everybody = threading.Barrier(20, timeout=30)

    @breaker
    def call() -> None:
        everybody.wait()
        breaker.close()
        everybody.wait()

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not everybody.broken


@pytest.fixture
def namespace(redis_url: str) -> Iterator[str]:
    """Give a namespace of Redis that nobody else uses, and empty it afterwards."""
    name = f"holdfast-test-{uuid4().hex}"
    yield name
    redis: Any
    with connect(redis_url) as redis:
        for key in redis.scan_iter(f"{name}:*"):
            redis.delete(key)


def replica(redis: CountingRedis, namespace: str, **settings: Any) -> CircuitBreaker:
    """Return a breaker as one of several processes has it, over pybreaker's storage."""
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, redis, namespace=namespace)
    return CircuitBreaker("dependency", state_storage=storage, **settings)


def test_a_success_does_not_ask_redis(virtual_clock: VirtualClock, redis_url: str, namespace: str) -> None:
    """pybreaker_redis (a): a success of a closed breaker sends nothing, but for one look a second."""
    with connect(redis_url) as redis:
        call = replica(redis, namespace)(Script(succeed()).function())
        call()
        redis.commands.clear()
        for _ in range(100):
            call()
        assert redis.commands == []


@pytest.mark.parametrize("answers", ["str", "bytes"])
def test_both_kinds_of_clients_work(
    virtual_clock: VirtualClock, redis_url: str, namespace: str, answers: str
) -> None:
    """pybreaker_redis (b): a client that decodes its answers is no reason to crash: calls pass, failures open."""
    with connect(redis_url, decode=answers == "str") as redis:
        breaker = replica(redis, namespace, fail_max=2)
        script = Script(succeed(), fail())
        call = breaker(script.function())
        assert call() == "ok"
        for _ in range(3):
            quietly(call)
        assert (breaker.state, script.calls) == (OPEN, 3)


def test_redis_may_be_down_from_the_start(virtual_clock: VirtualClock) -> None:
    """pybreaker_redis (c): a storage that cannot be reached leaves a breaker that goes by what it knows itself."""

    class Unreachable:
        """A storage whose server refuses connections, whatever is asked of it or told to it."""

        def __getattr__(self, name: str) -> Any:
            raise ConnectionRefusedError

        def __setattr__(self, name: str, value: object) -> None:
            raise ConnectionRefusedError

    breaker = CircuitBreaker("dependency", fail_max=2, reset_timeout=5, state_storage=Unreachable())
    call = breaker(Script(succeed(), fail(), fail(), succeed()).function())
    assert call() == "ok"
    quietly(call)
    quietly(call)
    assert breaker.state is OPEN
    virtual_clock.advance(5.0)
    assert call() == "ok"
    assert breaker.state is CLOSED


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
def test_the_time_open_is_whole(
    virtual_clock: VirtualClock, redis_url: str, namespace: str, phase: float
) -> None:
    """pybreaker_redis (d): a breaker over Redis stays open as long as it was told, at whatever part of a second."""
    virtual_clock.advance(phase)
    with connect(redis_url) as redis:
        breaker = replica(redis, namespace, fail_max=1, reset_timeout=0.9)
        call = breaker(Script(fail(), succeed()).function())
        quietly(call)
        virtual_clock.advance(0.85)
        with pytest.raises(CircuitOpenError):
            call()
        virtual_clock.advance(0.0625)
        assert call() == "ok"


def test_failures_of_all_replicas_open_together(
    virtual_clock: VirtualClock, redis_url: str, namespace: str
) -> None:
    """pybreaker_redis (f): `fail_max` is for all processes: the last failure opens, whoever made the others."""
    with connect(redis_url) as redis:
        replicas = [replica(redis, namespace, fail_max=6) for _ in range(3)]
        down = Script(fail())
        calls = [breaker(down.function()) for breaker in replicas]
        for turn in range(6):
            assert OPEN not in [breaker.state for breaker in replicas]
            quietly(calls[turn % 3])
        assert OPEN in [breaker.state for breaker in replicas]
        virtual_clock.advance(1.0)
        for call in calls:
            quietly(call)
        assert ([breaker.state for breaker in replicas], down.calls) == ([OPEN] * 3, 6)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_ends_of_the_program_pass_untouched(kind: type[BaseException]) -> None:
    """pybreaker_swallows_baseexception: what is no Exception passes as it is, counts nothing and replaces nothing."""
    breaker = CircuitBreaker("dependency", fail_max=1, throw_new_error_on_trip=True)
    wanted = kind(3)

    @breaker
    def call() -> None:
        raise wanted

    for _ in range(3):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value is wanted
    with pytest.raises(SystemExit):
        breaker.call(sys.exit, 3)
    assert (breaker.state, breaker.fail_counter) == (CLOSED, 0)


# retry


def test_layers_do_not_multiply(virtual_clock: VirtualClock) -> None:
    """retry_amplification: three layers of four attempts over one budget are next to no extra load in an outage."""
    budget = RetryBudget(ratio=0.1, min_per_second=0.0)
    layer = Retry(4, wait=0.0, budget=budget)
    down = Script(fail())
    service = layer(layer(layer(down.function())))
    for _ in range(100):
        quietly(service)
    assert 100 <= down.calls <= 100 * 1.5


def test_hooks_are_called_once_each(virtual_clock: VirtualClock) -> None:
    """stamina_hook_cm_leak: after any number of calls, hooks ran once per retry; no call sees those of others."""
    before, events = list[int](), list[RetryScheduled]()
    policy = Retry(2, wait=0.0, before_sleep=lambda state: before.append(state.attempt_number))
    with subscribe(events.append, RetryScheduled):
        for calls in (1, 10, 100, 500):
            while len(before) < calls:
                policy.call(Script(fail(), succeed()))
            assert (len(before), len(events)) == (calls, calls)


def test_cancellation_is_not_retried(virtual_clock: VirtualClock) -> None:
    """tenacity_cancellation_retried: predicates see `Exception` only; a timeout around a retry and Ctrl-C end it."""
    seen = list[BaseException]()

    def everything(error: BaseException) -> bool:
        seen.append(error)
        return True

    rules: tuple[Any, ...] = (
        everything,
        tenacity.retry_if_not_exception_type(ValueError),
        tenacity.retry_always,
    )
    for on in rules:
        slow = Script(succeed(after=0.3))
        work = Retry(4, wait=0.3, on=on)(slow.coroutine_function())

        async def main(work: Callable[[], Any] = work) -> None:
            async with asyncio.timeout(0.1):
                await work()

        with pytest.raises(TimeoutError):
            virtual_clock.run(main())
        for kind in (KeyboardInterrupt, SystemExit, GeneratorExit):
            ended = Script(fail(kind))
            with pytest.raises(kind):
                Retry(4, wait=0.3, on=on).call(ended)
            assert ended.calls == 1
        assert slow.calls == 1
    assert seen == []


def test_generators_are_refused() -> None:
    """tenacity_generators_not_retried: decorating a generator function of either kind raises TypeError."""

    def numbers() -> Iterator[int]:
        yield 1

    async def async_numbers() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, async_numbers):
        for decorate in (retry, retry(attempts=5), Retry(), Pipeline(Retry(), Timeout(1)), circuit_breaker):
            with pytest.raises(TypeError, match=f"{function.__name__}.*generator"):
                decorate(function)


def test_errors_can_be_pickled(virtual_clock: VirtualClock) -> None:
    """tenacity_retryerror_unpicklable: what a retry raises is the original error, and it travels with its note."""
    with pytest.raises(ConnectionError) as caught:
        Retry(2, wait=0.0).call(Script(fail(ConnectionError("db"))))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.args) == (ConnectionError, ("db",))
    assert copy.__notes__ == caught.value.__notes__
    assert "2 attempts" in copy.__notes__[0]
    for error in (CircuitOpenError("dependency", 1.5), TimeoutExceeded(2.0, "bound")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.args, str(again)) == (type(error), error.args, str(error))


def test_one_retry_serves_many_tasks(virtual_clock: VirtualClock) -> None:
    """tenacity_shared_asyncretrying: calls that share a policy at the same time each make their own attempts."""
    policy = Retry(3, wait=0.001)
    attempts, looped = Counter[int](), Counter[int]()

    async def down(number: int) -> None:
        attempts[number] += 1
        await asyncio.sleep(0.001 * (1 + number % 3))
        raise ConnectionError(number)

    async def loop(number: int) -> None:
        async for attempt in policy:
            with attempt:
                looped[number] += 1
                await asyncio.sleep(0.001 * (1 + number % 3))
                raise ConnectionError(number)

    async def main() -> list[Any]:
        calls = [policy.call(down, number) for number in range(12)]
        loops = [loop(number) for number in range(12)]
        return await asyncio.gather(*calls, *loops, return_exceptions=True)

    outcomes = virtual_clock.run(main())
    assert [(type(error), error.args) for error in outcomes] == [
        (ConnectionError, (n,)) for n in range(12)
    ] * 2
    assert set(attempts.values()) == set(looped.values()) == {3}
    assert len(attempts) == len(looped) == 12


def test_deadlines_bound(virtual_clock: VirtualClock) -> None:
    """timeouts_do_not_bound: a hung attempt ends on time, async or in a thread; other sync code is told its time."""
    hung = Script(hang())
    with pytest.raises(TimeoutExceeded):
        virtual_clock.run(Retry(3, deadline=0.2).call(hung.coroutine_function()))
    assert (hung.calls, round(virtual_clock.elapsed, 3)) == (1, 0.2)

    left = list[float | None]()

    def cooperative() -> None:
        left.append(remaining())
        virtual_clock.sleep(0.15)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        Retry(5, wait=0.0, deadline=0.2).call(cooperative)
    assert left == [pytest.approx(0.2), pytest.approx(0.05)]

    release = threading.Event()
    before, start = abandoned_workers(), virtual_clock.elapsed
    with pytest.raises(TimeoutExceeded):
        Timeout(0.2, sync="thread").call(release.wait, 60)
    assert round(virtual_clock.elapsed - start, 3) == 0.2
    assert abandoned_workers() == before + 1
    release.set()


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_the_wall_clock_plays_no_part(virtual_clock: VirtualClock, step: float) -> None:
    """wall_clock_backwards: a step of the wall clock neither keeps a breaker open nor opens it early."""
    breaker = tripped()
    call = breaker(Script(succeed()).function())
    virtual_clock.step_wall_clock(step)
    virtual_clock.advance(4.75)
    with pytest.raises(CircuitOpenError):
        call()
    virtual_clock.advance(0.25)
    assert call() == "ok"
