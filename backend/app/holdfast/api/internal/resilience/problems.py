"""Errors of policies as HTTP answers: 503, 429, 504 with Retry-After, and a problem+json body (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from holdfast.api.internal.resilience._text import sendable_facts
from holdfast.infrastructure.resilience.errors import CallRejectedError, RateLimitedError, TimeoutExceeded

_MEDIA_TYPE = "application/problem+json"

# A day: whoever is told to wait longer has been told enough.
_LONGEST = 86_400
_MOST_FAULTS = 50
_UNAVAILABLE = "Something that this answer depends on is not available at the moment."
_LIMITED = "There are too many requests at the moment."
_LATE = "Something that this answer depends on did not answer in time."
_NONE: Mapping[str, str] = MappingProxyType({})


class Problem(Exception):
    """An answer that is an error: status, title, detail, and members of its own."""

    def __init__(
        self, status: int, title: str, detail: str, *, headers: Mapping[str, str] = _NONE, **members: Any
    ) -> None:
        super().__init__(status, title, detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.headers = headers
        self.members: Mapping[str, Any] = members

    def __str__(self) -> str:
        """Say what is answered."""
        return f"{self.status} {self.title}: {self.detail}"


def problem_of(error: BaseException) -> Problem | None:
    """Return how a policy's error is answered: open, full, shed 503; limited 429; timed out 504; None for others."""
    if isinstance(error, CallRejectedError):
        limited = isinstance(error, RateLimitedError) and not error.store_down
        status, detail = (429, _LIMITED) if limited else (503, _UNAVAILABLE)
        return _problem(status, detail, headers=_retry_after(error.retry_after))
    if isinstance(error, TimeoutExceeded):
        return _problem(504, _LATE)
    return None


def install_problems(app: FastAPI) -> None:
    """Let an application answer errors of policies, validation errors and HTTP errors as problem+json."""
    for kind in (Problem, CallRejectedError, TimeoutExceeded, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)


def _problem(status: int, detail: str, *, headers: Mapping[str, str] = _NONE, **members: Any) -> Problem:
    """Return a problem whose title is the status's own phrase, as RFC 9457 asks of those without a type."""
    return Problem(status, _phrase(status), detail, headers=headers, **members)


def _phrase(status: int) -> str:
    """Return the _phrase of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _retry_after(seconds: float | None) -> dict[str, str]:
    """Return the header in whole seconds, rounded up, at least 1; none where the time is not known."""
    if seconds is None or not math.isfinite(seconds):
        return {}
    return {"Retry-After": str(min(_LONGEST, max(1, math.ceil(seconds))))}


def _response_of(error: BaseException) -> Response | None:
    """Return the answer to any error that an application may show; None for one that nobody should see."""
    if isinstance(error, Problem):
        return _response(error)
    if isinstance(error, RequestValidationError):
        return _response(_invalid(error.errors()))
    if isinstance(error, HTTPException):
        return _of_http(error)
    found = problem_of(error)
    return None if found is None else _response(found)


def _response(found: Problem) -> Response:
    own = {"title": found.title, "status": found.status, "detail": found.detail}
    body = {"type": "about:blank", **found.members, **own}
    return JSONResponse(sendable_facts(body), found.status, dict(found.headers), media_type=_MEDIA_TYPE)


def _of_http(error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    if error.status_code in {204, 205, 304} or error.status_code < HTTPStatus.OK:
        return Response(status_code=error.status_code, headers=headers)
    detail: object = error.detail
    said = detail if isinstance(detail, str) else _phrase(error.status_code)
    members = {} if isinstance(detail, str) else {"errors": detail}
    return _response(_problem(error.status_code, said, headers=headers, **members))


def _invalid(errors: Sequence[Any]) -> Problem:
    """Return the problem that lists each fault of a request, but not what was sent."""
    faults = [{"path": ".".join(map(str, one["loc"])), "problem": str(one["msg"])} for one in errors]
    many = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return _problem(422, f"The request has {many}.", errors=faults[:_MOST_FAULTS])


async def _answer(_: Request, error: Exception) -> Response:
    response = _response_of(error)
    assert response is not None  # noqa: S101  # installed for nothing else
    return response
