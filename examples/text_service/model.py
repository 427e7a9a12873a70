"""The flaky upstream: a language model behind HTTP, here a few lines of arithmetic that can be told to misbehave.

`POST /v1/<operation>` answers; `PUT /faults` says how the next answers go wrong; `GET /counts` says what came in.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path
from pydantic import BaseModel, Field

GOOD = {"calm", "clear", "fine", "good", "great", "kind", "love", "strong"}
BAD = {"angry", "awful", "bad", "broken", "hate", "poor", "sad", "weak"}


class Prompt(BaseModel):
    """What is asked."""

    text: str = Field(max_length=20_000)
    question: str = Field(default="", max_length=500)


class Faults(BaseModel):
    """How operations go wrong: answer `status` instead (0: do not), after `delay` seconds, for the next `times` calls.

    `operations`: which ones; empty: all.
    """

    status: int = Field(default=0, ge=0, le=599)
    delay: float = Field(default=0, ge=0, le=60)
    times: int = Field(default=1_000_000, ge=0)
    operations: set[str] = set()


def sentences(text: str) -> list[str]:
    """Split a text into its sentences."""
    return [part.strip() + "." for part in text.split(".") if part.strip()]


def answer(operation: str, prompt: Prompt) -> str:
    """Return what the model says."""
    parts = sentences(prompt.text)
    words = {word.strip(".,;:!?").lower() for word in prompt.text.split()}
    match operation:
        case "summarize":
            return " ".join(parts[:2])
        case "sentiment":
            good, bad = len(words & GOOD), len(words & BAD)
            return "positive" if good > bad else "negative" if bad > good else "neutral"
        case "key_points":
            return "\n".join(f"- {part}" for part in sorted(parts, key=len, reverse=True)[:3])
        case "questions":
            return "\n".join(f"Why: {part.rstrip('.')}?" for part in parts[:3])
        case "qa":
            asked = {word.strip("?").lower() for word in prompt.question.split()}
            return max(parts, key=lambda part: len(asked & set(part.lower().rstrip(".").split())), default="")
        case _:
            raise HTTPException(404, f"no operation is called {operation!r}")


def create_model() -> FastAPI:
    """Return the upstream as an application of its own."""
    app = FastAPI(title="A flaky model", openapi_url=None)
    counts: Counter[str] = Counter()
    faults = Faults(times=0)

    @app.put("/faults")
    async def set_faults(new: Faults) -> Faults:
        nonlocal faults
        faults = new
        return new

    @app.get("/counts")
    async def get_counts() -> dict[str, int]:
        return dict(counts)

    @app.post("/v1/{operation}")
    async def complete(operation: Annotated[str, Path(max_length=50)], prompt: Prompt) -> dict[str, Any]:
        counts[operation] += 1
        if faults.times > 0 and (not faults.operations or operation in faults.operations):
            faults.times -= 1
            await asyncio.sleep(faults.delay)
            if faults.status:
                raise HTTPException(faults.status, "the model is not well")
        return {"text": answer(operation, prompt)}

    return app
