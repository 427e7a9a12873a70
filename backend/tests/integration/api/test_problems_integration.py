"""Policies in a user's application: their errors become answers that clients can act on."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from holdfast.api.internal.resilience.problems import Problem, install_problems, problem_of
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import (
    BulkheadFullError,
    CallRejectedError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    ConfigurationError,
    HoldfastError,
    RateLimitedError,
    RetryBudgetExhausted,
    ThrottledError,
    TimeoutExceeded,
)
from holdfast.infrastructure.resilience.states import CircuitState

SECRET_NAME = "db-7.internal"


def every_error() -> Iterator[type[HoldfastError]]:
    waiting: list[type[HoldfastError]] = [HoldfastError]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting += kind.__subclasses__()


ANSWERS: dict[type[HoldfastError], int | None] = {
    HoldfastError: None,
    ConfigurationError: None,
    CallRejectedError: 503,
    CircuitOpenError: 503,
    RetryBudgetExhausted: 503,
    BulkheadFullError: 503,
    ConcurrencyLimitedError: 503,
    ThrottledError: 503,
    RateLimitedError: 429,
    TimeoutExceeded: 504,
}


def make(kind: type[HoldfastError], after: float | None = None) -> HoldfastError:
    if issubclass(kind, CallRejectedError):
        return kind(SECRET_NAME, after)
    if issubclass(kind, TimeoutExceeded):
        return kind(3.0, SECRET_NAME)
    return kind() if kind is HoldfastError else ConfigurationError(SECRET_NAME, ())


def ask(app: FastAPI, path: str, **options: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get(path, **options)

    return asyncio.run(go())


def app_raising(error: Exception) -> FastAPI:
    app = FastAPI()
    install_problems(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    return app


def test_every_error_has_its_answer_here() -> None:
    """The table of this file knows every error of a policy; those of channels and stores are the application's."""
    policies = {kind for kind in every_error() if issubclass(kind, CallRejectedError | TimeoutExceeded)}
    assert set(ANSWERS) == policies | {HoldfastError, ConfigurationError}


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_errors_of_policies_are_answered(kind: type[HoldfastError]) -> None:
    """Refusals are 503 or 429, timeouts 504, each with a problem that names nobody; the rest is the application's."""
    response = ask(app_raising(make(kind, 2.1)), "/")
    assert (ANSWERS[kind] or 500) == response.status_code
    assert SECRET_NAME not in response.text
    if ANSWERS[kind] is None:
        assert problem_of(make(kind)) is None
        return
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail"} == set(body)
    assert ("about:blank", response.status_code, response.reason_phrase) == (
        body["type"],
        body["status"],
        body["title"],
    )


@pytest.mark.parametrize(
    ("after", "header"),
    [
        (None, None),
        (0.0, "1"),
        (0.2, "1"),
        (1.0, "1"),
        (1.01, "2"),
        (59.5, "60"),
        (float("inf"), None),
        (1e9, "86400"),
    ],
)
@pytest.mark.parametrize("kind", [CircuitOpenError, RateLimitedError])
def test_retry_after_is_rounded_up(
    kind: type[CallRejectedError], after: float | None, header: str | None
) -> None:
    """Who comes back after the whole seconds of Retry-After does not come too early; an unknown time is not told."""
    response = ask(app_raising(kind(SECRET_NAME, after)), "/")
    assert header == response.headers.get("retry-after")


def test_a_real_breaker_in_an_application() -> None:
    """A breaker that opens in a handler turns its clients away with the time that is left of it."""
    breaker = CircuitBreaker(SECRET_NAME, fail_max=1, reset_timeout=30.0)
    app = FastAPI()
    install_problems(app)

    @app.get("/")
    @breaker
    async def fail() -> None:
        raise HTTPException(502, "the upstream is down", headers={"X-Upstream": "down"})

    first, second = ask(app, "/"), ask(app, "/")
    assert (
        first.status_code,
        first.json()["detail"],
        first.headers["x-upstream"],
    ) == (502, "the upstream is down", "down")
    assert (second.status_code, second.headers["retry-after"]) == (503, "30")
    assert breaker.state is CircuitState.OPEN


def test_faults_of_a_request_are_listed() -> None:
    """A request that does not validate is told every fault, not what it sent."""
    app = FastAPI()
    install_problems(app)

    @app.get("/items/{number}")
    async def item(number: int, size: float) -> float:
        return number * size

    response = ask(app, "/items/hunter2", params={"size": "hunter3"})
    body = response.json()
    assert (response.status_code, body["detail"]) == (422, "The request has 2 faults.")
    assert [fault["path"] for fault in body["errors"]] == ["path.number", "query.size"]
    assert "hunter" not in response.text


def test_http_errors_are_problems() -> None:
    """What the framework answers by itself is a problem too, with its headers; structured details are kept."""
    app = app_raising(HTTPException(409, {"busy": True}))
    conflict, missing = ask(app, "/"), ask(app, "/nothing")
    assert (
        conflict.status_code,
        conflict.json()["detail"],
        conflict.json()["errors"],
    ) == (409, "Conflict", {"busy": True})
    assert (missing.status_code, missing.json()["title"]) == (404, "Not Found")


def test_answers_without_a_body_stay_without() -> None:
    """A status that has no body gets none."""
    response = ask(app_raising(HTTPException(304)), "/")
    assert (response.status_code, response.content) == (304, b"")


def test_an_application_raises_problems_of_its_own() -> None:
    """A problem is answered as it says, with its headers and members; one of them may be its type."""
    facts: dict[str, Any] = {"type": "urn:tea", "handle": 1}
    error = Problem(418, "I'm a Teapot", "Short and stout.", headers={"X-Tea": "yes"}, **facts)
    response = ask(app_raising(error), "/")
    assert response.json() == {
        "type": "urn:tea",
        "title": "I'm a Teapot",
        "status": 418,
        "detail": "Short and stout.",
        "handle": 1,
    }
    assert (response.status_code, response.headers["x-tea"]) == (418, "yes")
    assert str(error) == "418 I'm a Teapot: Short and stout."


def test_a_limit_that_cannot_be_asked_is_no_fault_of_the_client() -> None:
    """A rate limit whose store does not answer is 503, with the seconds until it is asked again."""
    answer = ask(app_raising(RateLimitedError(SECRET_NAME, 0.75, True)), "/")  # as errors take facts
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
