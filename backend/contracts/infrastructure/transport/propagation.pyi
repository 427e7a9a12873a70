"""Deadlines and attempts across processes: what a client says in headers, and how a server takes it to heart."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

TIMEOUT_HEADER: str = "holdfast-timeout-ms"
ATTEMPT_HEADER: str = "holdfast-attempt"

_Scope: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Application: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

def outgoing_headers() -> dict[str, str]:
    """Return the headers for a request that is sent now, for clients that are not behind our httpx transports.

    `holdfast-timeout-ms`: milliseconds left of the deadline, if there is one. `holdfast-attempt`: the number of the
    attempt, if a retry of a named pipeline is around the caller.
    """

def caller_attempt() -> int | None:
    """Return which attempt of its own the client of this request said it makes, from 1; None if it said nothing."""

class PropagationMiddleware:
    """ASGI middleware that makes the headers of a request the context of the work for it.

    `remaining()` is what the client has left; a request with nothing left is answered with 504 and does not reach the
    application. Where the client retries, named pipelines here leave it to the client. With `cancel` the work is
    cancelled when the time is over, and answered with 504 if no response has begun. Headers that make no sense are
    ignored. Only for clients that may decide how long to work for them.
    """

    def __init__(self, app: _Application, *, cancel: bool = False) -> None: ...
    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None: ...
