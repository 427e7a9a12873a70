"""How a job lies in DynamoDB: its head, its steps in groups, their definitions, and what is too large for either."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import payload
from holdfast.infrastructure.store.state import (
    Attempt,
    JobEvent,
    JobState,
    NewJob,
    OutboxState,
    StepRecord,
    StepState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.infrastructure.store.state import NewStep

GROUP = 128
"""How many steps lie in one item: 10,000 are 79 items, which one transaction can change."""
MOST_STEPS = 10_000
INLINE = 256
"""More bytes than this lie apart. With all else of 10,000 steps, what is not stays below what a transaction takes."""
LARGEST = 350_000
"""How many bytes an item takes; DynamoDB's own limit is 400 KB, with all names."""

_SPEC = tuple(field.name for field in fields(NewJob))


class Apart(bytes):
    """A result or payload that lies apart: its bytes are its name there."""

    __slots__ = ()


class ApartText(str):
    """An error that lies apart."""

    __slots__ = ()


def name_of(data: bytes) -> str:
    """Return the name under which bytes lie apart: the same for the same bytes."""
    return sha256(data).hexdigest()


def pack(value: Any) -> bytes:
    """Return JSON, compressed."""
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 1)


def unpack(data: bytes) -> Any:
    """Return what `pack` was given."""
    return json.loads(zlib.decompress(data))


def pack_exact(value: Any) -> bytes:
    """Return what users gave, so that it comes back equal: `Decimal` too."""
    return zlib.compress(payload.encode(value), 1)


def unpack_exact(data: bytes) -> Any:
    """Return what `pack_exact` was given."""
    return payload.decode(zlib.decompress(data))


def spec(new: NewJob) -> dict[str, Any]:
    """Return a job as it was submitted, as plain values."""
    return {name: getattr(new, name) for name in _SPEC} | {"settings": dict(new.settings)}


def new_job(said: dict[str, Any]) -> NewJob:
    """Return what `spec` was given."""
    return NewJob(**{name: said[name] for name in _SPEC if name in said})


def definition(step: NewStep, apart: Callable[[bytes], str]) -> list[Any]:
    """Return what never changes of a step."""
    return [
        step.key,
        _bytes(step.payload) if len(step.payload) <= INLINE else {"v": apart(step.payload)},
        step.line,
        list(step.depends_on),
        step.must_succeed,
        step.timeout,
        step.target,
    ]


def defined(job: NewJob, position: int, said: Sequence[Any]) -> StepRecord:
    """Return a step that nothing has happened to yet."""
    key, data, line, depends_on, must_succeed, timeout, target = said
    return StepRecord(
        job=job.id,
        origin=job.origin or job.id,
        position=position,
        key=key,
        line=line,
        payload=_unbytes(data) or b"",
        state=StepState.PENDING,
        must_succeed=must_succeed,
        timeout=timeout,
        target=target,
        depends_on=tuple(depends_on),
    )


def moved(step: StepRecord, apart: Callable[[bytes], str]) -> StepRecord:
    """Return a step of which what is large lies apart; `apart` keeps bytes and returns their name."""
    result, error, history = step.result, step.error, step.history
    if result is not None and len(result) > INLINE and not isinstance(result, Apart):
        result = Apart(apart(result).encode())
    if any(len(one.error) > INLINE for one in history):
        history = tuple(replace(one, error=_moved(one.error, apart)) for one in history)
    error = _moved(error, apart)
    if (result, error, history) == (step.result, step.error, step.history):
        return step
    return replace(step, result=result, error=error, history=history)


def row(step: StepRecord, waits: int, outbox: Sequence[Any] | None) -> Any:
    """Return what changes of a step; a number for one that only waits for so many others."""
    if step.state is StepState.PENDING and not (step.fence or step.attempts or step.error or step.due_at):
        return waits
    return [
        step.state.value,
        step.fence,
        step.attempts,
        int(step.begun),
        step.worker,
        step.due_at,
        step.started_at,
        step.finished_at,
        _bytes(step.result),
        _text(step.error),
        [_attempt(one) for one in step.history],
        waits,
        outbox,
    ]


def changed(said: Sequence[Any]) -> tuple[dict[str, Any], int, Sequence[Any] | None]:
    """Return what a row says: the changes of its step, what that waits for, and how its write-back is."""
    (
        state,
        fence,
        attempts,
        begun,
        worker,
        due_at,
        started_at,
        finished_at,
        result,
        error,
        history,
        waits,
        out,
    ) = said
    changes = {
        "state": StepState(state),
        "fence": fence,
        "attempts": attempts,
        "begun": bool(begun),
        "worker": worker,
        "due_at": due_at,
        "started_at": started_at,
        "finished_at": finished_at,
        "result": _unbytes(result),
        "error": _untext(error),
        "history": tuple(map(_attempt_of, history)),
    }
    return changes, waits, out


def outbox_facts(said: Sequence[Any]) -> dict[str, Any]:
    """Return how a write-back is."""
    state, attempts, due_at, error = said
    return {"state": OutboxState(state), "attempts": attempts, "due_at": due_at, "error": error}


def event(one: JobEvent) -> list[Any]:
    """Return an event as plain values."""
    return [one.seq, one.at, one.kind, one.state, list(one.positions), dict(one.data)]


def event_of(job: str, said: Sequence[Any]) -> JobEvent:
    """Return what `event` was given."""
    seq, at, kind, state, positions, data = said
    return JobEvent(job=job, seq=seq, at=at, kind=kind, state=state, positions=tuple(positions), data=data)


def state_of(said: str) -> JobState:
    """Return a job's state."""
    return JobState(said)


def _attempt(one: Attempt) -> dict[str, Any]:
    return {
        "number": one.number,
        "worker": one.worker,
        "started_at": one.started_at,
        "ended_at": one.ended_at,
        "outcome": one.outcome,
        "error": _text(one.error),
    }


def _attempt_of(said: dict[str, Any]) -> Attempt:
    facts: dict[str, Any] = {**said, "error": _untext(said["error"])}
    return Attempt(**facts)


def _moved(text: str, apart: Callable[[bytes], str]) -> str:
    if len(text) <= INLINE or isinstance(text, ApartText):
        return text
    return ApartText(apart(text.encode("utf-8", "surrogatepass")))


def _bytes(data: bytes | None) -> Any:
    if isinstance(data, Apart):
        return {"v": data.decode()}
    return None if data is None else data.decode("latin-1")


def _unbytes(said: Any) -> bytes | None:
    if said is None:
        return None
    return said.encode("latin-1") if isinstance(said, str) else Apart(said["v"].encode())


def _text(text: str) -> Any:
    return {"v": str(text)} if isinstance(text, ApartText) else text


def _untext(said: Any) -> str:
    return said if isinstance(said, str) else ApartText(said["v"])
