"""How routes of jobs fail, what they declare, and how they read what is submitted."""

from __future__ import annotations

import functools
import inspect
import json
import logging
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from holdfast.api.internal.resilience import _http as _common
from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.infrastructure.resilience._frozen import is_dict, is_list
from holdfast.infrastructure.store.payload import PayloadError
from holdfast.infrastructure.store.state import (
    ConflictError,
    IllegalTransition,
    NotFoundError,
    StoreUnavailableError,
    SubmissionError,
    TenantNotFoundError,
)
from holdfast.services.jobs.errors import (
    HandlerNotFoundError,
    NotApprovedError,
    NotConfirmedError,
    NotEndedError,
)
from holdfast.services.jobs.sources import SourceError, SourceUnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from holdfast.api.internal.resilience.problems import Problem

_log = logging.getLogger("holdfast.api")
_Model = TypeVar("_Model", bound=BaseModel)

_SUBMISSION_SECONDS = 60.0


class Route(_common.Route):
    """A route that answers the errors of jobs as problems."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        super().__init__(path, _told(endpoint), **settings)
        # What else is allowed for this path, by routes of their own.
        self.allowed = set(self.methods or ())

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; one of another method is told all that are allowed."""
        try:
            await super().handle(scope, receive, send)
        except HTTPException as error:
            if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
                error.headers = {"Allow": ", ".join(sorted(self.allowed))}
            raise


def _told(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return an endpoint that raises a problem for each error that clients may see."""

    @functools.wraps(endpoint)
    def call(*args: Any, **given: Any) -> Any:
        try:
            return endpoint(*args, **given)
        except Exception as error:
            told = problem_of(error)
            if told is None:
                raise
            raise told from error

    @functools.wraps(endpoint)
    async def acall(*args: Any, **given: Any) -> Any:
        try:
            return await endpoint(*args, **given)
        except Exception as error:
            told = problem_of(error)
            if told is None:
                raise
            raise told from error

    return acall if inspect.iscoroutinefunction(endpoint) else call


def problem_of(error: Exception) -> Problem | None:
    """Return how an error of jobs or their store is answered; None for what is no business of jobs."""
    answer = next((one for kinds, one in _ANSWERS if isinstance(error, kinds)), None)
    return None if answer is None else answer(error)


def _not_found(error: NotFoundError) -> Problem:
    return problem(404, f"There is no {error.kind} {_short(error.which)}.")


def _not_confirmed(error: NotConfirmedError) -> Problem:
    said = f"{error.repeats} calls may be made again: send that number as `confirm`."
    return problem(409, said, repeats=error.repeats)


def _not_known(error: HandlerNotFoundError) -> Problem:
    said = f"This server does not know the handler {_short(error.reference)}: give it to the server."
    return problem(409, said)


def _conflict(error: Exception) -> Problem:
    return problem(409, _sentence(error))


def _no_tenant(error: Exception) -> Problem:
    return problem(404, _sentence(error))


def _not_submitted(error: SubmissionError) -> Problem:
    return refused([{"path": "rows", "problem": one} for one in error.faults], error.more)


def _wrong(error: Exception) -> Problem:
    return refused([{"path": "body", "problem": str(error)}])


def _unreadable(error: SourceUnreadableError) -> Problem:
    # Where the file is, is nobody's business.
    return problem(409, f"The file that the rows came from {error.args[1]}.")


def refused(errors: list[dict[str, Any]], more: int = 0) -> Problem:
    """Return the problem that lists what is wrong with a request; `more`: how many there are that are not listed."""
    shown = errors[:_MOST_FAULTS]
    more += len(errors) - len(shown)
    count = len(shown) + more
    said = "1 fault" if count == 1 else f"{count} faults"
    members: dict[str, Any] = {"more": more} if more else {}
    return problem(422, f"The request has {said}; nothing has changed.", errors=shown, **members)


def members(found: Problem) -> dict[str, Any]:
    """Return what is sent of a problem."""
    own = {"title": found.title, "status": found.status, "detail": found.detail}
    return {"type": "about:blank", **found.members, **own}


_MOST_FAULTS = 200
_MOST_TEXT = 200


def _unavailable(error: StoreUnavailableError) -> Problem:
    # Where the store is, is nobody's business.
    _log.warning("the store of jobs does not answer: %s", error)
    doubt = "" if error.certain else " The change may have been made: look before you repeat it."
    return problem(503, f"The store of jobs does not answer.{doubt}", headers={"Retry-After": "1"})


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _short(value: object) -> str:
    return repr(value)[:_MOST_TEXT]


_ANSWERS: tuple[tuple[tuple[type[Exception], ...], Callable[[Any], Problem]], ...] = (
    ((NotFoundError,), _not_found),
    ((TenantNotFoundError,), _no_tenant),
    ((NotConfirmedError,), _not_confirmed),
    ((HandlerNotFoundError,), _not_known),
    ((ConflictError, IllegalTransition, NotApprovedError, NotEndedError), _conflict),
    ((SubmissionError,), _not_submitted),
    ((SourceUnreadableError,), _unreadable),
    ((SourceError, PayloadError), _wrong),
    ((StoreUnavailableError,), _unavailable),
)

_SAID = {
    404: "There is none of that id in this tenant, or no such tenant",
    409: "What is asked for cannot follow the state in which it is",
    413: "The body has more bytes than it may have",
    415: "The body is not of the type that is declared",
    503: "The store does not answer; Retry-After says when to come back",
}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declare the errors of a route."""
    declared = _common.answers(*statuses)
    for status, said in _SAID.items():
        if status in declared:
            declared[status]["description"] = said
    return declared


def body_of(body: Any) -> dict[str, Any]:
    """Declare a body: that of a model as JSON, or the content that is given."""
    content: dict[str, Any] = body if is_dict(body) else {"application/json": {"schema": _schema(body)}}
    return {"required": True, "content": content}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a model that stands alone: without references to definitions."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def whole(part: Any) -> Any:
        if is_list(part):
            return [whole(one) for one in part]
        if not is_dict(part):
            return part
        name = str(part.get("$ref", "")).rpartition("/")[2]
        return whole(definitions[name]) if name else {key: whole(one) for key, one in part.items()}

    found: dict[str, Any] = whole(schema)
    return found


async def submitted(request: Request, kind: str, most: int) -> bytes:
    """Read a body of a type, of so many bytes at most."""
    said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if said != kind:
        # A page of another site can make a browser send some other types without being asked.
        raise problem(415, f"Send the body with Content-Type: {kind}.")
    return await _common.bounded(request, most, _SUBMISSION_SECONDS)


def parsed_json(body: bytes) -> Any:
    """Return what JSON says, its numbers exact; or report that it is none."""
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refused([{"path": "body", "problem": f"is no JSON: {error}"}]) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}")


def checked(model: type[_Model], values: Any, *, where: str = "body") -> _Model:
    """Read a model from values, or report every fault as one of the request."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": (where, *one["loc"])} for one in faults]) from None


def strictly(model: type[_Model], most: int = _common.BODY_BYTES) -> Callable[[Request], Any]:
    """Return a dependency that reads a JSON body of `most` bytes into a model; no body is an empty object."""

    async def read(request: Request) -> _Model:
        return checked(model, parsed_json(await _common.raw_of(request, most) or b"{}"))

    return read
