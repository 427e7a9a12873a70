"""How orders say that they ended: one JSON object each, of which nothing is believed unread."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from holdfast.infrastructure.store.state import StepState
from holdfast.services.jobs.graphs._json import is_object

_ENDS = {state.value: state for state in (StepState.SUCCEEDED, StepState.FAILED, StepState.TIMED_OUT)}
_LONGEST = 65_536
_ERROR = 2000


@dataclass(frozen=True, slots=True)
class Said:
    """What a result says."""

    state: StepState
    error: str
    data: bytes


def read(data: bytes) -> Said:
    """Return what a result says; what cannot be read is a failure that says so."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return _malformed("it is no JSON", data)
    if not is_object(said):
        return _malformed("it is no object", data)
    status = said.get("status")
    state = _ENDS.get(status) if isinstance(status, str) else None
    if state is None:
        return _malformed(f"its status is {status!r}; one of {', '.join(_ENDS)} was expected", data)
    error = said.get("error")
    return Said(state, _short(error) if isinstance(error, str) else "", _kept(data))


def write(state: StepState, **facts: Any) -> bytes:
    """Return a result."""
    return json.dumps({"status": state.value, **facts}).encode()


def _malformed(why: str, data: bytes) -> Said:
    return Said(StepState.FAILED, _short(f"malformed result: {why}"), _kept(data))


def _kept(data: bytes) -> bytes:
    return data if len(data) <= _LONGEST else b""


def _short(text: str) -> str:
    return text if len(text) <= _ERROR else f"{text[:_ERROR]}…"
