"""Notice that a file changed, once it has stopped changing."""

from __future__ import annotations

import threading
from pathlib import Path

from holdfast.infrastructure.resilience._bus import log_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.infrastructure.resilience.clock import Clock

    Look = tuple[int, int, int] | None


class FileWatch:
    """Looks at a file now and then, and calls `changed` when it is different and was the same twice."""

    def __init__(self, path: str | Path, changed: Callable[[], object]) -> None:
        self._path = Path(path)
        self._changed = changed
        self._known = self._seen = self._state()
        self._stop = threading.Event()

    def _state(self) -> Look:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def look(self) -> None:
        """Look once: a file that is being written, or replaced, is left alone until two looks see the same."""
        state = self._state()
        settled, self._seen = state == self._seen, state
        if settled and state != self._known:
            # Known from now on, whatever comes of it: a bad file is reported once.
            self._known = state
            try:
                self._changed()
            except Exception as error:
                log_once(f"the watch of {self._path}", error)

    def start(self, clock: Clock, interval: float) -> None:
        """Look every `interval` seconds in a daemon thread."""

        def run() -> None:
            while not clock.wait(self._stop, interval):
                self.look()

        threading.Thread(target=run, name="holdfast configuration watch", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
