"""Uses that type checkers accept, and the types that they must find. Nothing here is run."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, assert_type

import httpx

from holdfast import (
    Attempt,
    CallRejectedError,
    CircuitBreaker,
    CircuitBreakers,
    CircuitOpened,
    CircuitOpenError,
    CircuitState,
    Event,
    Permit,
    Pipeline,
    Retry,
    RetryBudget,
    RetryScheduled,
    Subscription,
    Timeout,
    TimeoutExceeded,
    Verdict,
    Window,
    breaker_of,
    circuit_breaker,
    classify,
    current_attempt,
    httpx_transport,
    remaining,
    retry,
    subscribe,
    timeout,
)

pipeline = Pipeline(Timeout(5), Retry(4), CircuitBreaker("payments"), Timeout(1))
shared = CircuitBreaker("shared")


@retry
def bare(url: str, *, tries: int = 1) -> bytes:
    return url.encode() * tries


@retry(attempts=5, wait=0.5, on=ConnectionError, budget=RetryBudget())
def with_settings(url: str, *, tries: int = 1) -> bytes:
    return url.encode() * tries


@retry()
async def async_bare(url: str) -> bytes:
    return url.encode()


@circuit_breaker
def guarded(*numbers: int) -> int:
    return sum(numbers)


@circuit_breaker(window=Window.calls(50), slow_call_duration=1.0, exclude=(KeyError,))
async def guarded_async(number: int, /) -> list[int]:
    return [number]


@timeout(2.0)
def bounded(number: int) -> str:
    return str(number)


@Timeout(2.0, sync="thread")
def in_thread(number: int) -> str:
    return str(number)


@retry
@circuit_breaker(name="inner")
@timeout(1.0)
async def stacked(number: int, unit: str = "s") -> str:
    return f"{number} {unit}"


@pipeline
def through_pipeline(first: int, second: str) -> tuple[int, str]:
    return first, second


class Client:
    """A client with decorated methods of every kind."""

    @retry
    def fetch(self, number: int) -> str:
        return str(number)

    @retry(attempts=2)
    @shared
    async def fetch_async(self, number: int) -> str:
        return str(number)

    @staticmethod
    @circuit_breaker
    def of_nobody(number: int) -> str:
        return str(number)

    @classmethod
    @pipeline
    def of_class(cls, number: int) -> str:
        return f"{cls.__name__} {number}"

    @property
    @retry
    def size(self) -> int:
        return 1


def signatures() -> None:
    """What is decorated keeps its parameters, by position and by name, and its result."""
    assert_type(bare("x"), bytes)
    assert_type(bare(url="x", tries=2), bytes)
    assert_type(with_settings("x", tries=2), bytes)
    assert_type(guarded(1, 2, 3), int)
    assert_type(bounded(1), str)
    assert_type(in_thread(number=1), str)
    assert_type(through_pipeline(1, second="x"), tuple[int, str])


async def async_signatures() -> None:
    """What is awaited is the function's own result."""
    assert_type(await async_bare("x"), bytes)
    assert_type(await guarded_async(1), list[int])
    assert_type(await stacked(1, unit="ms"), str)
    assert_type(await Client().fetch_async(1), str)


def methods() -> None:
    """Methods stay methods."""
    client = Client()
    assert_type(client.fetch(1), str)
    assert_type(client.fetch(number=1), str)
    assert_type(Client.fetch(client, 1), str)
    assert_type(Client.of_nobody(1), str)
    assert_type(Client.of_class(1), str)
    assert_type(client.size, int)


def plain(number: int, *, unit: str = "s") -> str:
    return f"{number} {unit}"


async def plain_async(number: int) -> str:
    return str(number)


async def calls() -> None:
    """`policy.call` takes the function's arguments and gives its result, or an awaitable of it."""
    assert_type(Retry().call(plain, 1, unit="ms"), str)
    assert_type(shared.call(plain, 1), str)
    assert_type(pipeline.call(plain, number=1), str)
    assert_type(await Timeout(1).call(plain_async, 1), str)
    assert_type(CircuitBreakers(key=plain).call(plain, 1), str)
    assert_type(Retry(3).call(len, "abc"), int)


def decorators() -> None:
    """With settings, `retry` and `timeout` are policies; a policy is a decorator."""
    assert_type(retry(attempts=2), Retry)
    assert_type(timeout(1.0), Timeout)
    assert_type(Pipeline(retry(), timeout(1.0), shared).policies[0].name, str | None)
    assert_type(breaker_of(guarded), CircuitBreaker)
    as_decorator: Callable[[Callable[[int], str]], Callable[[int], str]] = Retry()
    assert_type(as_decorator(bounded)(1), str)


async def blocks() -> None:
    """Blocks give what their contracts say: a permit, the deadline, attempts."""
    with shared as permit:
        assert_type(permit, Permit)
    async with shared as permit:
        assert_type(permit.probe, bool)
    with Timeout(1) as deadline:
        assert_type(deadline, float)
    for attempt in Retry():
        with attempt as same:
            assert_type(same, Attempt)
    async for attempt in Retry():
        with attempt:
            assert_type(attempt.number, int)
    either: list[AbstractContextManager[Permit] | AbstractAsyncContextManager[Permit]] = [shared]
    either.clear()


def facts() -> None:
    """What can be asked, and what may be missing from the answer."""
    assert_type(shared.state, CircuitState)
    assert_type(shared.retry_after, float | None)
    assert_type(shared.export_state(), dict[str, Any])
    assert_type(remaining(), float | None)
    assert_type(current_attempt(), int)
    assert_type(classify(ConnectionError()), Verdict)
    try:
        guarded(1)
    except CircuitOpenError as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.state, CircuitState)
    except TimeoutExceeded as error:
        assert_type(error.seconds, float)
    except CallRejectedError as error:
        assert_type(error.name, str)


def on_retry(event: RetryScheduled) -> None:
    assert_type(event.delay, float)


def on_anything(event: Event) -> None:
    if isinstance(event, CircuitOpened):
        assert_type(event.open_for, float)
    else:
        assert_type(event.name, str)


def subscriptions() -> None:
    """A subscriber is given the kinds of event that it asked for, and may take more."""
    assert_type(subscribe(on_retry, RetryScheduled), Subscription)
    subscribe(on_anything)
    subscribe(on_anything, RetryScheduled, CircuitOpened)
    subscribe(lambda event: assert_type(event.delay, float), RetryScheduled)
    subscribe(list[Event]().append, names=frozenset({"payments"}))


def transports() -> None:
    """A transport is one of httpx's."""
    with httpx.Client(transport=httpx_transport(pipeline)) as client:
        assert_type(client.get("http://localhost"), httpx.Response)
