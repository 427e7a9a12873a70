"""Uses that type checkers must refuse: each marked line, for the marked reason. Nothing here is run."""

# A mark on a line that is not refused is an error itself.
# pyright: reportUnnecessaryTypeIgnoreComment=true

import httpx

from backend.tests.typing.accepted_uses import (
    Client,
    async_bare,
    bare,
    guarded,
    guarded_async,
    on_retry,
    pipeline,
    plain,
    plain_async,
    shared,
    stacked,
    through_pipeline,
    with_settings,
)
from holdfast import (
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakers,
    CircuitOpened,
    CircuitState,
    Pipeline,
    Retry,
    RetryBudget,
    RetryConfig,
    Timeout,
    Window,
    async_httpx_transport,
    breaker_of,
    circuit_breaker,
    explain,
    httpx_transport,
    remaining,
    retry,
    subscribe,
    timeout,
)


async def arguments() -> None:
    """Arguments that the function itself would not take."""
    bare(1)  # type: ignore[arg-type]
    bare()  # type: ignore[call-arg]
    bare("x", 2)  # type: ignore[call-arg]
    bare("x", retries=2)  # type: ignore[call-arg]
    with_settings("x", tries="2")  # type: ignore[arg-type]
    guarded("1")  # type: ignore[arg-type]
    await guarded_async(number=1)  # type: ignore[call-arg]
    through_pipeline(1)  # type: ignore[call-arg]
    await stacked("1")  # type: ignore[arg-type]
    Client().fetch("1")  # type: ignore[arg-type]
    Client().fetch(1, 2)  # type: ignore[call-arg]
    Client.of_nobody("1")  # type: ignore[arg-type]


async def results() -> None:
    """Results taken for something else."""
    text: str = bare("x")  # type: ignore[assignment]
    later: bytes = async_bare("x")  # type: ignore[assignment]
    await bare("x")  # type: ignore[misc]
    number: int = await stacked(1)  # type: ignore[assignment]
    repr((text, later, number))


async def calls() -> None:
    """`policy.call` with what the function would not take, or does not give."""
    Retry().call(plain)  # type: ignore[call-arg]
    Retry().call(plain, "1")  # type: ignore[arg-type]
    shared.call(plain, 1, units="ms")  # type: ignore[call-arg]
    pipeline.call(plain(1), 1)  # type: ignore[arg-type]
    number: int = Timeout(1).call(plain, 1)  # type: ignore[assignment]
    text: str = Timeout(1).call(plain_async, 1)  # type: ignore[assignment]
    repr((number, text))


def settings() -> None:
    """Settings that there are not, of the wrong type, or by position."""
    Retry(attempts="3")  # type: ignore[arg-type]
    Retry(3, 0.5)  # type: ignore[call-arg]
    Retry(tries=3)  # type: ignore[call-arg]
    Retry(budget=0.1)  # type: ignore[arg-type]
    Retry(wait="1s")  # type: ignore[arg-type]
    retry(attempts="3")  # type: ignore[call-overload]
    retry(deadline="soon")(plain)  # type: ignore[call-overload]
    retry(3)  # type: ignore[call-overload]
    RetryConfig(3)  # type: ignore[call-arg]
    CircuitBreaker(failure_rate="half")  # type: ignore[arg-type]
    CircuitBreaker("x", 0.5)  # type: ignore[call-arg]
    CircuitBreaker(window=100)  # type: ignore[arg-type]
    CircuitBreaker(exclude=ValueError)  # type: ignore[arg-type]
    CircuitBreakerConfig(0.5)  # type: ignore[call-arg]
    circuit_breaker("payments")  # type: ignore[call-overload]
    circuit_breaker(fail_max="5")  # type: ignore[call-overload]
    CircuitBreakers(key="host")  # type: ignore[arg-type]
    Timeout()  # type: ignore[call-arg]
    Timeout("2")  # type: ignore[arg-type]
    Timeout(2, sync="hard")  # type: ignore[arg-type]
    timeout(bare)  # type: ignore[arg-type]
    Window.calls("100")  # type: ignore[arg-type]
    Window.minutes(1)  # type: ignore[attr-defined]
    RetryBudget(tokens=10)  # type: ignore[call-arg]
    RetryBudget.aws(ratio=0.1)  # type: ignore[call-arg]


def composition() -> None:
    """Pipelines of what is no policy, and questions to what has no answer."""
    Pipeline(3)  # type: ignore[arg-type]
    Pipeline(retry)  # type: ignore[arg-type]
    Pipeline([Retry()])  # type: ignore[arg-type]
    pipeline(1)  # type: ignore[arg-type]
    pipeline.add(Retry())  # type: ignore[attr-defined]
    breaker_of(shared.name)  # type: ignore[arg-type]
    explain()  # type: ignore[call-arg]


def facts() -> None:
    """What is only to be read is not written, and what may be missing is not taken for granted."""
    shared.state = CircuitState.OPEN  # type: ignore[misc]
    shared.name = "other"  # type: ignore[misc]
    repr((remaining() or None) + 1)  # type: ignore[operator]
    repr(shared.retry_after + 1)  # type: ignore[operator]
    shared.admit().success("done")  # type: ignore[call-arg]
    shared.admit().failure("error")  # type: ignore[arg-type]
    shared.counts.failures + "1"  # type: ignore[operator]


def subscriptions() -> None:
    """A subscriber for one kind of event is not given another."""
    subscribe(on_retry, CircuitOpened)  # type: ignore[arg-type]
    subscribe(lambda event: event.delay, CircuitOpened)  # type: ignore[attr-defined]
    subscribe(on_retry, "RetryScheduled")  # type: ignore[arg-type]


def transports() -> None:
    """A transport is for the client of its kind."""
    httpx.AsyncClient(transport=httpx_transport(pipeline))  # type: ignore[arg-type]
    async_httpx_transport(pipeline, transport=httpx.HTTPTransport())  # type: ignore[arg-type]
    httpx_transport(retry)  # type: ignore[arg-type]
    httpx_transport(pipeline, retry_methods={"GET"})  # type: ignore[arg-type]
