"""The frames of a channel: commands `{request_id, action, payload}`, replies `{request_id, success, data, error}`."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, NamedTuple

from holdfast.infrastructure.transport._json import dump, load

FAILED = "failed"
BUSY = "busy"
# Not begun: nothing of these is remembered, a command that is sent again is looked at again.
MALFORMED = "malformed_command"
UNKNOWN = "unknown_action"
REUSED = "key_reused"
# Executed, but there is no result to show.
FORGOTTEN = "forgotten"
NOT_JSON = "not_json"
TOO_LARGE = "too_large"
BAD_REPLY = "malformed_reply"

_LONGEST_ID = 128
_LONGEST_NAME = 200
_LONGEST_MESSAGE = 1_000


class Command(NamedTuple):
    """A command as it arrived; `digest` tells it from another one with the same id."""

    request_id: str
    action: str
    payload: Any
    digest: bytes


class Reply(NamedTuple):
    """A reply as it arrived; `kind` and `message` say what failed."""

    request_id: str
    success: bool
    data: Any
    kind: str
    message: str


class BadFrame(Exception):
    """A frame that is none; `request_id`, if it has one all the same."""

    def __init__(self, problem: str, request_id: str | None = None) -> None:
        super().__init__(problem)
        self.request_id = request_id


def command(request_id: str, action: str, payload: object) -> str:
    """Return the frame of a command."""
    body = dump(f"the payload of {action!r}", payload)
    return f'{{"request_id":{dump("id", request_id)},"action":{dump("action", action)},"payload":{body}}}'


def success(request_id: str, action: str, data: object) -> str:
    """Return the frame of a reply with a result."""
    body = dump(f"the result of {action!r}", data)
    return f'{{"request_id":{dump("id", request_id)},"success":true,"data":{body},"error":null}}'


def failure(request_id: str, kind: str, message: str) -> str:
    """Return the frame of a reply without a result."""
    error = {"kind": kind, "message": message[:_LONGEST_MESSAGE]}
    return dump("error", {"request_id": request_id, "success": False, "data": None, "error": error})


def read_command(frame: str | bytes) -> Command:
    """Return the command in a frame. BadFrame."""
    fields, request_id = _read(frame)
    action = fields.get("action")
    if not isinstance(action, str) or not 0 < len(action) <= _LONGEST_NAME:
        raise BadFrame(f"action is no text of 1 to {_LONGEST_NAME} characters", request_id)
    payload = fields.get("payload")
    return Command(request_id, action, payload, digest(action, payload))


def digest(action: str, payload: object) -> bytes:
    """Return what is the same for the same command."""
    return sha256(json.dumps([action, payload], sort_keys=True).encode()).digest()


def read_reply(frame: str | bytes) -> Reply:
    """Return the reply in a frame. BadFrame."""
    fields, request_id = _read(frame)
    succeeded, error = fields.get("success"), fields.get("error")
    if not isinstance(succeeded, bool):
        raise BadFrame("success is neither true nor false", request_id)
    if succeeded and error is not None:
        raise BadFrame("the reply is a success with an error", request_id)
    return Reply(request_id, succeeded, fields.get("data"), *_error(error))


def _error(error: Any) -> tuple[str, str]:
    """Return kind and message of an error; peers that are not ours may send plain text."""
    kind, message = FAILED, error
    if isinstance(error, dict):
        kind, message = error.get("kind", FAILED), error.get("message")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    text = message if isinstance(message, str) else "no reason given"
    return str(kind)[:_LONGEST_NAME], text[:_LONGEST_MESSAGE]  # pyright: ignore[reportUnknownArgumentType]


def _read(frame: str | bytes) -> tuple[dict[str, Any], str]:
    if isinstance(frame, bytes):
        raise BadFrame("it is binary: send JSON as text")
    try:
        fields: Any = load(frame)
    except ValueError as error:
        raise BadFrame(f"it is no JSON ({error})") from None
    if not isinstance(fields, dict):
        raise BadFrame("it is no object")
    request_id: Any = fields.get("request_id")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(request_id, str) or not 0 < len(request_id) <= _LONGEST_ID:
        raise BadFrame(f"request_id is no text of 1 to {_LONGEST_ID} characters")
    return fields, request_id  # pyright: ignore[reportUnknownVariableType]
