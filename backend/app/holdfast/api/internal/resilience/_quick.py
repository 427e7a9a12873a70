"""Answers to what is asked most often: a GET without a query, in which there is nothing to parse.

They are what the route would answer, to the byte, without FastAPI's general way there, which costs more than they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Request
from pydantic import TypeAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastapi import FastAPI
    from fastapi.routing import APIRoute
    from starlette.types import Receive, Scope, Send

    Failed = Callable[[Request, Exception], Any]


class Quick:
    """Asks a route's endpoint and sends what it returns; `given` are its parameters that are no part of the path."""

    def __init__(
        self,
        app: FastAPI,
        route: APIRoute,
        *,
        check: Callable[[Request], object] | None,
        given: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> None:
        self._app = app
        self._endpoint: Callable[..., Any] = route.endpoint
        self._adapter: TypeAdapter[Any] = TypeAdapter(route.response_model)
        self._check = check
        self._given = {name: value for name, value in given.items() if value is not Request}
        self._request = next((name for name, value in given.items() if value is Request), None)
        self._headers = [
            (name.lower().encode(), value.encode())
            for name, value in {"Content-Type": "application/json", **headers}.items()
        ]

    def suits(self, scope: Scope) -> bool:
        """Return whether a request is one: also not if its application is another, whose dependencies nobody knows."""
        return (
            not scope["query_string"]
            and scope["method"] == "GET"
            and scope.get("app") is self._app
            and not self._app.dependency_overrides
        )

    async def answer(self, scope: Scope, receive: Receive, send: Send, failed: Failed) -> None:
        """Answer a request; `failed` returns what an error is answered with."""
        request = Request(scope, receive)
        try:
            body = await self._body(request)
        except Exception as error:
            await failed(request, error)(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(body)), *self._headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _body(self, request: Request) -> bytes:
        if self._check is not None:
            self._check(request)
        given = {**self._given, **request.path_params}
        if self._request is not None:
            given[self._request] = request
        found = self._adapter.validate_python(await self._endpoint(**given), from_attributes=True)
        return self._adapter.dump_json(found)
