"""The dashboard's page, and the events that keep it up to date."""

from __future__ import annotations

import secrets  # noqa: TID251  # a nonce must not be foreseen, whatever the library's chance is
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated

from fastapi import Header, Query
from fastapi.responses import HTMLResponse, Response

from holdfast.api.internal.resilience import _http
from holdfast.api.internal.resilience._streams import EventStream

if TYPE_CHECKING:
    from holdfast.api.internal.resilience._context import Context

_FARTHEST = 2**53
_HOME = "holdfast.api.internal.resilience"
_NONCE = "{{nonce}}"
_Number = Annotated[
    int | None, Query(ge=0, le=_FARTHEST, description="The number of the last event one has.")
]
_Last = Annotated[int | None, Header(ge=0, le=_FARTHEST, description="As `after`, which it precedes.")]


class Events:
    """The route of the events."""

    def __init__(self, context: Context) -> None:
        self._context = context
        stream = {"description": "Server-sent events", "content": {"text/event-stream": _STREAM}}
        context.reads(
            "/events",
            self.follow_events,
            None,
            422,
            503,
            response_class=EventStream,
            responses={200: stream},
        )

    async def follow_events(self, after: _Number = None, last_event_id: _Last = None) -> Response:
        """Follow the events: `id` is the number, `event` the kind, `data` the entry; a `gap`: some are lost."""
        feed = self._context.operations.feed
        number = last_event_id if last_event_id is not None else after
        return EventStream(self._context.streams, feed, feed.last if number is None else number)


class Page:
    """The route of the page."""

    def __init__(self, context: Context) -> None:
        self._text: str | None = None
        context.visiting.get(
            "/dashboard",
            response_class=HTMLResponse,
            responses=_http.answers(403),
            openapi_extra=_http.facts_of("open"),
        )(self.get_dashboard)

    def get_dashboard(self) -> Response:
        """Return the page; it asks for a key by itself."""
        if self._text is None:
            self._text = files(_HOME).joinpath("dashboard.html").read_text(encoding="utf-8")
        nonce = secrets.token_urlsafe(16)
        return HTMLResponse(self._text.replace(_NONCE, nonce), headers=_headers(nonce))


_STREAM = {"schema": {"type": "string"}}


def _headers(nonce: str) -> dict[str, str]:
    allowed = (
        "default-src 'none'",
        f"script-src 'nonce-{nonce}'",
        f"style-src 'nonce-{nonce}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {"Content-Security-Policy": "; ".join(allowed), "X-Frame-Options": "DENY"}
