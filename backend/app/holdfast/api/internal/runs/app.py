"""The API of runs as a router to mount into any FastAPI application, and as an application of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from holdfast.api.internal.jobs import _http
from holdfast.api.internal.resilience import _http as _common
from holdfast.api.internal.resilience._guard import Guard, tenant
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.api.internal.resilience.problems import Problem, install_problems
from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.api.internal.runs import _models
from holdfast.infrastructure.store.blob import BlobStore
from holdfast.infrastructure.store.state import NotFoundError, TenantNotFoundError
from holdfast.services.jobs.graphs import _keys
from holdfast.services.jobs.graphs.http import SignedUrls, UrlRefusedError
from holdfast.services.jobs.graphs.ports import ResultListener
from holdfast.services.jobs.graphs.request import RequestRefusedError
from holdfast.services.jobs.graphs.runs import RunAnswer, Runs
from holdfast.services.jobs.graphs.secrets import SecretsError

PREFIX: str = "/internal/runs"

_VERSION = "1"
_BODY = {
    "application/json": {
        "schema": {
            "type": "object",
            "description": "A request, or an envelope around one: base64, an event of a webhook, a message of SNS.",
        }
    }
}
_SECONDS = 60.0
_ID_HEADERS = ("x-github-delivery", "idempotency-key", "x-amz-sns-message-id")

_RunId = Annotated[str, Path(min_length=1, max_length=64, description="The run's id.")]
_OrderName = Annotated[str, Path(min_length=1, max_length=100, description="The order's name.")]
_Token = Annotated[str, Path(min_length=1, max_length=4000, description="What was signed.")]


def create_router(
    runs: Runs | Mapping[str, Runs], *, keys: ApiKeys | None = None, body_bytes: int = 16_777_216
) -> APIRouter:
    """Return the router; mount it under a prefix of your choice. `runs`: those of "default", or by tenant.

    `keys` by default come from the environment: a key opens the runs of its tenant; clients without keys, on this
    machine, those of "default". `body_bytes`: what a submission may have.
    """
    known = {"default": runs} if isinstance(runs, Runs) else dict(runs)
    return _Routes(known, Guard(ApiKeys.from_environ() if keys is None else keys), body_bytes).router


def create_blob_router(
    blobs: BlobStore,
    urls: SignedUrls,
    listener: ResultListener | None = None,
    *,
    body_bytes: int = 16_777_216,
) -> APIRouter:
    """Return the router for addresses that `urls` signs, whose base is where you mount it: no key is asked for.

    A blob is written once: the same bytes again are welcome, others are refused with 412. `listener` hears of results.
    """
    return _Blobs(blobs, urls, listener, body_bytes).router


def create_app(
    runs: Runs | Mapping[str, Runs],
    *,
    keys: ApiKeys | None = None,
    prefix: str = "/internal/runs",
    body_bytes: int = 16_777_216,
) -> FastAPI:
    """Return an application that serves the router, its OpenAPI document and nothing else."""
    app = FastAPI(title="holdfast runs", version=_VERSION, openapi_url=None)
    router = create_router(runs, keys=keys, body_bytes=body_bytes)
    app.include_router(router, prefix=prefix)

    def get_openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    guard = Guard(ApiKeys.from_environ() if keys is None else keys)
    made = APIRouter(route_class=_http.Route, dependencies=[Depends(guard.read)])
    made.get("/openapi.json", include_in_schema=False)(get_openapi)
    app.include_router(made, prefix=prefix)
    install_problems(app)
    return app


class _Routes:
    """The routes of runs."""

    def __init__(self, runs: Mapping[str, Runs], guard: Guard, body_bytes: int) -> None:
        self._runs, self._body_bytes = runs, body_bytes
        self.router = APIRouter(
            route_class=_http.Route,
            tags=["runs"],
            generate_unique_id_function=lambda route: f"runs_{route.name}",
        )
        known = {"model": _models.Submitted, "description": "The run that this delivery started before"}
        self._add(
            "POST",
            "/runs",
            self.submit_run,
            guard.operate,
            _models.Submitted,
            *(400, 405, 408, 409, 413),
            code=201,
            also={200: known},
            body={"requestBody": {"required": True, "content": _BODY}},
        )
        self._add("GET", "/runs", self.list_runs, guard.read, list[_models.RunListed], 422)
        self._add("GET", "/runs/{run}", self.get_run, guard.read, _models.RunShown)
        self._add("POST", "/runs/{run}/cancel", self.cancel_run, guard.operate, _models.RunShown, 409)
        self._add(
            "POST", "/runs/{run}/retry", self.retry_run, guard.operate, _models.Submitted, 409, 422, code=201
        )
        self._add("GET", "/runs/{run}/orders/{order}/log", self.get_log, guard.read, None)
        _allow(self.router)

    def _add(
        self,
        method: str,
        path: str,
        endpoint: Any,
        allowed: Any,
        model: Any,
        *faults: int,
        code: int = 200,
        also: Mapping[int | str, dict[str, Any]] = MappingProxyType({}),
        body: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.router.add_api_route(
            path,
            _told(endpoint),
            methods=[method],
            response_model=model,
            status_code=code,
            dependencies=[Depends(allowed)],
            responses={**_http.answers(401, 403, 404, 503, *faults), **also},
            openapi_extra={"x-role": "read" if method == "GET" else "operate", **body},
        )

    def _of(self, request: Request) -> Runs:
        name = tenant(request)
        if name not in self._runs:
            raise TenantNotFoundError(name)
        return self._runs[name]

    async def submit_run(self, request: Request, response: Response) -> dict[str, Any]:
        """Store a run, whole or not at all, and trigger it; the same delivery again gives the first answer.

        The delivery's id is that of the headers X-GitHub-Delivery, Idempotency-Key or x-amz-sns-message-id.
        """
        runs = self._of(request)
        body = await _common.bounded(request, self._body_bytes, _SECONDS)
        delivery = next((found for name in _ID_HEADERS if (found := request.headers.get(name))), None)
        answer = await asyncio.to_thread(runs.submit, body, delivery_id=delivery)
        return _submitted(answer, response)

    def list_runs(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200, description="So many at most.")] = 50,
    ) -> Any:
        """Return runs, newest first."""
        return self._of(request).find(limit=limit)

    def get_run(self, request: Request, run: _RunId) -> Any:
        """Return a run and its orders."""
        return self._of(request).status(run)

    def cancel_run(self, request: Request, run: _RunId) -> Any:
        """Cancel what has not begun; what runs is ended by its target."""
        return self._of(request).cancel(run)

    def retry_run(
        self,
        request: Request,
        response: Response,
        run: _RunId,
        order: Annotated[
            str | None, Query(max_length=100, description="This one and what fell with it.")
        ] = None,
    ) -> dict[str, Any]:
        """Do what has not succeeded again, as a new run; with an Idempotency-Key the same call is the same run."""
        runs, delivery = self._of(request), request.headers.get("idempotency-key")
        if order is None:
            return _submitted(runs.rerun(run, delivery_id=delivery), response)
        return _submitted(runs.retry(run, order, delivery_id=delivery), response)

    def get_log(self, request: Request, run: _RunId, order: _OrderName) -> Response:
        """Return what an order wrote; there is nothing before it has ended."""
        said = self._of(request).log(run, order)
        return Response(said, media_type="text/plain; charset=utf-8")


class _Blobs:
    """The routes of signed addresses."""

    def __init__(
        self, blobs: BlobStore, urls: SignedUrls, listener: ResultListener | None, body_bytes: int
    ) -> None:
        self._blobs, self._urls, self._listener, self._body_bytes = blobs, urls, listener, body_bytes
        self.router = APIRouter(route_class=_http.Route, include_in_schema=False)
        self.router.get("/{token}")(_told(self.get_blob))
        self.router.put("/{token}")(_told(self.put_blob))
        _allow(self.router)

    def get_blob(self, token: _Token) -> Response:
        """Return a blob."""
        return Response(
            self._blobs.get(self._urls.opened("GET", token)), media_type="application/octet-stream"
        )

    async def put_blob(self, request: Request, token: _Token) -> Response:
        """Store a blob, once."""
        key = self._urls.opened("PUT", token)
        data = await _common.bounded(request, self._body_bytes, _SECONDS)
        first = await asyncio.to_thread(self._blobs.put, key, data)
        if not first and await asyncio.to_thread(self._blobs.get, key) != data:
            raise problem(412, "There is something else at this address already; nothing has changed.")
        if self._listener is not None and _keys.read_result(key) is not None:
            await asyncio.to_thread(self._listener.stored, key)
        return Response(status_code=201 if first else 200)


def _submitted(answer: RunAnswer, response: Response) -> dict[str, Any]:
    if not answer.created:
        response.status_code = 200
    names = ("run_id", "trace_id", "flow_id", "done_endpoint", "search_tag", "comment", "created")
    return {name: getattr(answer, name) for name in names}


def _told(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return an endpoint whose refusals are problems; `Route` knows the errors of jobs."""
    import functools
    import inspect

    @functools.wraps(endpoint)
    def call(*args: Any, **given: Any) -> Any:
        try:
            return endpoint(*args, **given)
        except Exception as error:
            told = _problem_of(error)
            if told is None:
                raise
            raise told from error

    @functools.wraps(endpoint)
    async def acall(*args: Any, **given: Any) -> Any:
        try:
            return await endpoint(*args, **given)
        except Exception as error:
            told = _problem_of(error)
            if told is None:
                raise
            raise told from error

    return acall if inspect.iscoroutinefunction(endpoint) else call


def _problem_of(error: Exception) -> Problem | None:
    """Return how a refusal is answered; None for what `Route` knows, or nobody does."""
    if isinstance(error, RequestRefusedError):
        faults = [{"path": "body", "problem": fault} for fault in error.faults]
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        headers = {"Allow": "POST"} if error.status == 405 else {}  # noqa: PLR2004
        said = f"The request has {count}; no run was started."
        return problem(error.status, said, headers=headers, errors=faults[:200])
    if isinstance(error, NotFoundError):
        return problem(404, f"There is no such {error.kind}.")
    if isinstance(error, UrlRefusedError | SecretsError):
        text = str(error)
        return problem(403 if isinstance(error, UrlRefusedError) else 503, f"{text[:1].upper()}{text[1:]}.")
    return None


def _allow(router: APIRouter) -> None:
    """Have each route say all methods of its path to whoever uses another."""
    routes: list[Any] = list(router.routes)
    for one in routes:
        one.allowed = {method for other in routes if other.path == one.path for method in other.methods}
