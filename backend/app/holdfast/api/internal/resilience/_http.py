"""What all routes share: how they fail, what they declare, how they read a body and pages of a list."""

from __future__ import annotations

import asyncio
import logging
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.routing import Match

from holdfast.api.internal.resilience._text import Fact, Text
from holdfast.api.internal.resilience.problems import _MEDIA_TYPE as MEDIA_TYPE
from holdfast.api.internal.resilience.problems import _phrase as phrase
from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.api.internal.resilience.problems import _response_of as response_of
from holdfast.infrastructure.resilience.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from fastapi.responses import Response
    from starlette.types import Receive, Scope, Send

    from holdfast.api.internal.resilience._quick import Quick
    from holdfast.api.internal.resilience.problems import Problem

_log = logging.getLogger("holdfast.api")
_T = TypeVar("_T")
_Model = TypeVar("_Model", bound=BaseModel)

BODY_BYTES = 4096
_BODY_SECONDS = 10.0
_SHOWN = 200
_MORE = ("allowed", "suggestion")
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Route(APIRoute):
    """A route that answers its errors itself, so that it does so in any application it is mounted into."""

    quick: Quick | None = None

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        super().__init__(path, endpoint, **settings)
        self._end = path.rpartition("}")[2]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell whether a request is for this route; most are not by their path's end, which is seen soonest."""
        return super().matches(scope) if scope["path"].endswith(self._end) else (Match.NONE, {})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with errors as problems and the headers of every answer."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return _marked(await handle(request))
            except Exception as error:
                return failed(request, error)

        return guarded

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, if possible the quick way."""
        if self.quick is not None and self.quick.suits(scope):
            await self.quick.answer(scope, receive, send, failed)
        else:
            await super().handle(scope, receive, send)


def _marked(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def failed(request: Request, error: Exception) -> Response:
    """Return what an error is answered with; one that nobody should see is logged."""
    return _marked(_failed(request, error))


def _failed(request: Request, error: Exception) -> Response:
    response = response_of(_refused(error) if isinstance(error, ConfigurationError) else error)
    if response is not None:
        return response
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    failed = response_of(problem(500, "This is a fault of the server; its log says more."))
    assert failed is not None  # noqa: S101  # a problem always has an answer
    return failed


def _refused(error: ConfigurationError) -> Problem:
    errors = [
        {
            "path": fault.path,
            "value": _shown(fault.value),
            "problem": fault.problem,
            "remedy": fault.remedy,
            **{name: found for name in _MORE if (found := getattr(fault, name, None))},
        }
        for fault in error.faults
    ]
    return problem(422, f"{error.subject} is refused; nothing has changed.", errors=errors[:_SHOWN])


def _shown(value: object) -> object:
    """Return a value as JSON can hold it: short, and no NaN."""
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and isfinite(value)):
        return value
    return (value if isinstance(value, str) else repr(value))[:_SHOWN]


class HoldfastFault(BaseModel):
    """One thing that is wrong with a request: where, and what; for a configuration the value and the remedy too."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Fact]  # pyright: ignore[reportIncompatibleVariableOverride]

    path: Text
    problem: Text
    value: Fact = None
    remedy: Text | None = None


class HoldfastProblem(BaseModel):
    """An error as RFC 9457 describes it; `errors` lists every fault of a request."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Fact]  # pyright: ignore[reportIncompatibleVariableOverride]

    type: Text
    title: Text
    status: int = Field(ge=100, le=599)
    detail: Text
    errors: list[HoldfastFault] = Field(default=[], max_length=200)


_SAID = {
    401: "No key, or one that is not known",
    403: "The key may not operate; or there are no keys, and the client is not on this machine",
    404: "There is nothing of that name",
    408: "The body did not come in time",
    409: "One is running already",
    413: f"The body has more than {BODY_BYTES} bytes",
    415: "The body is not application/json",
    422: "What was sent is wrong; `errors` lists every fault",
    429: "Too many validations by this key; Retry-After says when to come back",
    503: "Not available at the moment",
}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declare the errors of a route."""
    schema = {"$ref": f"#/components/schemas/{HoldfastProblem.__name__}"}
    return {
        status: {
            "description": _SAID.get(status, phrase(status)),
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in sorted(statuses)
    }


def facts_of(role: str, *, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Declare who may use a route, and the JSON body that it reads by itself."""
    if body is None:
        return {"x-role": role}
    content = {"application/json": {"schema": body}}
    return {"x-role": role, "requestBody": {"required": True, "content": content}}


async def raw(request: Request) -> bytes:
    """Read a JSON body; one that is too long is refused as soon as that is known."""
    return await raw_of(request, BODY_BYTES)


async def raw_of(request: Request, most: int) -> bytes:
    """Read a JSON body that has so many bytes at most."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page of another site can make a browser send other types without being asked.
        raise problem(415, "Send the body with Content-Type: application/json, even an empty one.")
    return await bounded(request, most, _BODY_SECONDS)


async def bounded(request: Request, most: int, seconds: float) -> bytes:
    """Read a body that has so many bytes at most, and comes in so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await _bounded(request, most)
    except TimeoutError:
        raise problem(408, f"The body did not come within {seconds:g} s.") from None


async def _bounded(request: Request, most: int) -> bytes:
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said[:_SHOWN]) > most:
        raise _too_long(most)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise _too_long(most)
    return bytes(body)


def _too_long(most: int) -> Problem:
    return problem(413, f"The body may have {most} bytes.")


def parsed(model: type[_Model]) -> Callable[[Request], Awaitable[_Model]]:
    """Return a dependency that reads the body into a model; no body is an empty object."""

    async def read(request: Request) -> _Model:
        return parse(model, await raw(request) or b"{}")

    return read


def parse(model: type[_Model], body: bytes) -> _Model:
    """Read a model from JSON, or report every fault as one of the request."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        faults: Sequence[Any] = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"])} for fault in faults]
        ) from None


class Page(BaseModel):
    """Which part of a list."""

    offset: int
    limit: int

    def of(self, items: Sequence[_T]) -> dict[str, Any]:
        """Return that part, and how much there is in all."""
        part = items[self.offset : self.offset + self.limit]
        return {"items": part, "total": len(items), "offset": self.offset, "limit": self.limit}


_MOST_ITEMS = 200
_FARTHEST = 1_000_000


FIRST_PAGE = Page(offset=0, limit=50)


async def page(
    offset: Annotated[int, Query(ge=0, le=_FARTHEST, description="How many to skip.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MOST_ITEMS, description="How many to return at most.")] = 50,
) -> Page:
    """Read which part of a list is asked for."""
    return Page(offset=offset, limit=limit)
