"""The package websockets, where it is installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def load() -> Any:
    """Import websockets, or say which extra has it."""
    try:
        from websockets import exceptions
        from websockets.asyncio.client import connect
        from websockets.asyncio.server import serve
    except ImportError as error:
        raise ImportError(
            "a channel needs the package websockets: install holdfast[channel]", name="websockets"
        ) from error
    return SimpleNamespace(connect=connect, serve=serve, exceptions=exceptions)
