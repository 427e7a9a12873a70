"""Deadlines and attempts across processes: what a client says in headers, and how a server takes it to heart."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from holdfast.infrastructure.resilience import _nested
from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._tries import restore
from holdfast.infrastructure.resilience.deadline import _Scope as _DeadlineScope
from holdfast.infrastructure.resilience.deadline import remaining
from holdfast.infrastructure.resilience.errors import TimeoutExceeded
from holdfast.infrastructure.resilience.retry import current_attempt
from holdfast.infrastructure.resilience.timeout import Timeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any, TypeAlias

    _Scope: TypeAlias = MutableMapping[str, Any]
    _Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
    _Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    _Application: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

TIMEOUT_HEADER: str = "holdfast-timeout-ms"
ATTEMPT_HEADER: str = "holdfast-attempt"

_DIGITS = 12  # 30,000 years in milliseconds
_MILLISECONDS = 1000.0
_PROBLEM = (
    b'{"type":"about:blank","title":"Gateway Timeout","status":504,'
    b'"detail":"the deadline of the request has passed"}'
)

_caller_attempt: ContextVar[int | None] = ContextVar("holdfast_caller_attempt", default=None)


def outgoing_headers() -> dict[str, str]:
    """Return the headers for a request that is sent now, for clients that are not behind our httpx transports.

    `holdfast-timeout-ms`: milliseconds left of the deadline, if there is one. `holdfast-attempt`: the number of the
    attempt, if a retry of a named pipeline is around the caller.
    """
    return _headers(retried=_nested.is_retried())


def _headers(*, retried: bool) -> dict[str, str]:
    """Return the headers; `retried`: whether who sends the request would send it again."""
    found: dict[str, str] = {}
    left = remaining()
    if left is not None:
        found[TIMEOUT_HEADER] = str(max(0, int(left * _MILLISECONDS)))
    if retried:
        found[ATTEMPT_HEADER] = str(current_attempt())
    return found


def caller_attempt() -> int | None:
    """Return which attempt of its own the client of this request said it makes, from 1; None if it said nothing."""
    return _caller_attempt.get()


class PropagationMiddleware:
    """ASGI middleware that makes the headers of a request the context of the work for it.

    `remaining()` is what the client has left; a request with nothing left is answered with 504 and does not reach the
    application. Where the client retries, named pipelines here leave it to the client. With `cancel` the work is
    cancelled when the time is over, and answered with 504 if no response has begun. Headers that make no sense are
    ignored. Only for clients that may decide how long to work for them.
    """

    __slots__ = ("_app", "_cancel")

    def __init__(self, app: _Application, *, cancel: bool = False) -> None:
        if not callable(app):
            raise TypeError(f"{app!r} is no ASGI application: give what takes scope, receive and send")
        self._app = app
        self._cancel = cancel

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        attempt, milliseconds = _number(scope, ATTEMPT_HEADER), _number(scope, TIMEOUT_HEADER)
        if not attempt:
            await self._serve(milliseconds, scope, receive, send)
            return
        mark = _nested.Mark(self)
        said, retried = _caller_attempt.set(attempt), _nested.retried_by.set(mark)
        try:
            await self._serve(milliseconds, scope, receive, send)
        finally:
            mark.over = True
            restore(_nested.retried_by, retried)
            restore(_caller_attempt, said)

    async def _serve(self, milliseconds: int | None, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if milliseconds is None:
            await self._app(scope, receive, send)
        elif milliseconds == 0:
            await _refuse(send)
        else:
            await self._within(milliseconds / _MILLISECONDS, scope, receive, send)

    async def _within(self, seconds: float, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if self._cancel:
            await self._cancelled_after(seconds, scope, receive, send)
            return
        deadline = _DeadlineScope(ambient.monotonic() + seconds)
        try:
            await self._app(scope, receive, send)
        finally:
            deadline.end()

    async def _cancelled_after(self, seconds: float, scope: _Scope, receive: _Receive, send: _Send) -> None:
        begun: list[bool] = []

        async def watched(message: MutableMapping[str, Any]) -> None:
            begun.append(True)
            await send(message)

        bound, until = Timeout(seconds, name="request"), ambient.monotonic() + seconds
        try:
            async with bound:
                await self._app(scope, receive, watched)
        except TimeoutExceeded:
            if begun or ambient.monotonic() < until:
                raise
            await _refuse(send)


def _number(scope: _Scope, header: str) -> int | None:
    """Return what a header says, if it says a number, and only one."""
    values = [value for name, value in scope["headers"] if name.lower() == header.encode()]
    fine = len(values) == 1 and values[0].isdigit() and len(values[0]) <= _DIGITS
    return int(values[0]) if fine else None


async def _refuse(send: _Send) -> None:
    head = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(_PROBLEM)).encode())]
    await send({"type": "http.response.start", "status": 504, "headers": head})
    await send({"type": "http.response.body", "body": _PROBLEM})
