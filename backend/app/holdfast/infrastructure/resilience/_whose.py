"""Who is running: a task, or a thread without one."""

from __future__ import annotations

import sys
from threading import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def whose() -> object:
    """Return the running task, or the identity of the thread where no event loop runs."""
    asyncio: Any = sys.modules.get("asyncio")
    try:
        task: object = None if asyncio is None else asyncio.current_task()
    except RuntimeError:
        task = None
    return get_ident() if task is None else task
