"""Text as an answer can hold it: names and messages come from anywhere, and UTF-8 has no lone surrogates."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainSerializer

from holdfast.infrastructure.resilience._frozen import is_dict, is_list


def sendable(text: str) -> str:
    """Return text with a question mark for what is no character, as exports and events have it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def sendable_facts(value: Any) -> Any:
    """Return facts with all their text sendable."""
    if isinstance(value, str):
        return sendable(value)
    if is_dict(value):
        return {sendable_facts(key): sendable_facts(one) for key, one in value.items()}
    if is_list(value):
        return [sendable_facts(one) for one in value]
    return value


Text = Annotated[str, PlainSerializer(sendable, return_type=str, when_used="json")]
Fact = Annotated[Any, PlainSerializer(sendable_facts, return_type=Any, when_used="json")]
Facts = Annotated[
    dict[str, Any], PlainSerializer(sendable_facts, return_type=dict[str, Any], when_used="json")
]
