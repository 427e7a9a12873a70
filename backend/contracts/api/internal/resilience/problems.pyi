"""Errors of policies as HTTP answers: 503, 429, 504 with Retry-After, and a problem+json body (RFC 9457)."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

class Problem(Exception):
    """An answer that is an error: status, title, detail, and members of its own."""

    status: int
    title: str
    detail: str
    headers: Mapping[str, str]
    members: Mapping[str, Any]
    def __init__(
        self, status: int, title: str, detail: str, *, headers: Mapping[str, str] = ..., **members: Any
    ) -> None: ...

def problem_of(error: BaseException) -> Problem | None:
    """Return how a policy's error is answered: open, full, shed 503; limited 429; timed out 504; None for others."""

def install_problems(app: FastAPI) -> None:
    """Let an application answer errors of policies, validation errors and HTTP errors as problem+json."""
