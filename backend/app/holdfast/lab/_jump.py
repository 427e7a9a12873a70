"""An event loop that jumps to its next timer without asking anybody."""

from __future__ import annotations

import selectors
from typing import Any

from holdfast.testing._coordinator import Coordinator
from holdfast.testing._loop import VirtualLoop


class _Jump(selectors.DefaultSelector):
    """Where a loop would wait for its next timer, move the clock there."""

    def __init__(self, loop: JumpLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits for something that can no longer happen")
        if timeout > 0:
            self.loop.coordinator.now = self.loop._scheduled[0].when()
        return []


class JumpLoop(VirtualLoop):
    """The test kit's loop without its care for sockets and unknown threads: a third of the cost per timer."""

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(coordinator)
        inner: Any = self
        pipe = inner._selector.get_key(inner._ssock)
        inner._selector.close()
        inner._selector = _Jump(self)
        inner._selector.register(pipe.fileobj, pipe.events, pipe.data)
