"""The text service: five operations over the model, each under what the configuration gives it.

    uvicorn --factory examples.text_service.model:create_model --port 9000
    uvicorn --factory examples.text_service.service:create_service --port 8000

then POST to /v1/summarize, and open http://127.0.0.1:8000/internal/resilience/dashboard.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import httpx
from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, Field

from holdfast import cache, fallback, outgoing_headers, watch_degraded, with_operation_resilience
from holdfast.api.internal.resilience.app import Operations, create_router
from holdfast.api.internal.resilience.problems import Problem, install_problems

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

MODEL = "http://127.0.0.1:9000"
Operation = Literal["summarize", "sentiment", "key_points", "questions", "qa"]


class Question(BaseModel):
    """A text, and for `qa` a question about it."""

    text: str = Field(min_length=1, max_length=20_000)
    question: str = Field(default="", max_length=500)


class Answer(BaseModel):
    """What the service says; `degraded`: the model did not answer, something simpler or older did."""

    operation: Operation
    result: str
    degraded: bool


async def ask(client: httpx.AsyncClient, operation: str, question: Question) -> str:
    """Ask the model. Its errors are httpx's: the policies know which of them pass."""
    response = await client.post(f"/v1/{operation}", json=question.model_dump(), headers=outgoing_headers())
    response.raise_for_status()
    text: str = response.json()["text"]
    return text


def content(client: httpx.AsyncClient, question: Question) -> tuple[str, str]:
    """Return what makes two calls the same."""
    return question.text, question.question


def first_sentence(error: Exception | None, client: httpx.AsyncClient, question: Question) -> str:
    """Answer without the model: better than nothing, and marked."""
    return question.text.split(".")[0].strip() + "."


# Outermost answers last: a result that was kept, then what the configuration gives the operation, then the fallback.
@fallback(call=first_sentence, pass_args=True)
@cache(300, key=content, stale_if_error=3600)
@with_operation_resilience("summarize")
async def summarize(client: httpx.AsyncClient, question: Question) -> str:
    """Make a text short."""
    return await ask(client, "summarize", question)


@with_operation_resilience("sentiment", fallback="neutral")
async def sentiment(client: httpx.AsyncClient, question: Question) -> str:
    """Say whether a text is positive, negative or neutral."""
    return await ask(client, "sentiment", question)


@fallback(call=first_sentence, pass_args=True)
@cache(300, key=content)
@with_operation_resilience("key_points")
async def key_points(client: httpx.AsyncClient, question: Question) -> str:
    """List what matters in a text."""
    return await ask(client, "key_points", question)


@with_operation_resilience("questions", fallback="What is this text about?")
async def questions(client: httpx.AsyncClient, question: Question) -> str:
    """Ask what a reader might ask."""
    return await ask(client, "questions", question)


# No fallback: a wrong answer to a question is worse than none, so the caller gets 503 with Retry-After.
@cache(300, key=content, stale_if_error=3600)
@with_operation_resilience("qa")
async def qa(client: httpx.AsyncClient, question: Question) -> str:
    """Answer a question about a text."""
    return await ask(client, "qa", question)


OPERATIONS = {
    "summarize": summarize,
    "sentiment": sentiment,
    "key_points": key_points,
    "questions": questions,
    "qa": qa,
}


def client_of(request: Request) -> httpx.AsyncClient:
    """Return the application's client of the model."""
    client: httpx.AsyncClient = request.app.state.client
    return client


def create_service(*, model: str | None = None, operations: Operations | None = None) -> FastAPI:
    """Return the service; `model` is the upstream's address, by default `MODEL_URL` or port 9000 here."""
    operations = operations or Operations()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        base = model or os.environ.get("MODEL_URL", MODEL)
        async with httpx.AsyncClient(base_url=base, timeout=10) as client:
            app.state.client = client
            yield
        operations.close()

    app = FastAPI(title="Text service", lifespan=lifespan)
    install_problems(app)
    app.include_router(create_router(operations), prefix="/internal/resilience")

    @app.post("/v1/{operation}")
    async def answer(
        operation: Operation, question: Question, client: Annotated[httpx.AsyncClient, Depends(client_of)]
    ) -> Answer:
        with watch_degraded() as watch:
            try:
                result = await OPERATIONS[operation](client, question)
            except httpx.HTTPError as error:
                raise Problem(502, "Bad Gateway", f"The model failed to answer {operation}.") from error
        return Answer(operation=operation, result=result, degraded=watch.degraded)

    return app
