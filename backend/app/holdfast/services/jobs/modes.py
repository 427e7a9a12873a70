"""Whether jobs of a session wait for a person."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.services.jobs.errors import ModeLockedError

if TYPE_CHECKING:
    from collections.abc import Generator


class Mode(StrEnum):
    """`confirm`: preview, approval, execution; `auto`: execution at once."""

    CONFIRM = "confirm"
    AUTO = "auto"


class Session:
    """The mode of one session; it cannot change while jobs run. Safe to share between threads."""

    def __init__(self, mode: Mode | str = Mode.CONFIRM) -> None:
        self._mode = _read(mode)
        self._running = 0
        self._lock = threading.Lock()

    @property
    def mode(self) -> Mode:
        """The mode now."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        wanted = _read(mode)
        with self._lock:
            if self._running:
                raise ModeLockedError(self._mode, self._running)
            self._mode = wanted

    @property
    def locked(self) -> bool:
        """Whether jobs run."""
        return self._running > 0

    def lock(self) -> None:
        """Count one more job that runs."""
        with self._lock:
            self._running += 1

    def unlock(self) -> None:
        """Count one less. RuntimeError when none runs."""
        with self._lock:
            if not self._running:
                raise RuntimeError("no job of this session runs: unlock() once for each lock()")
            self._running -= 1

    @contextmanager
    def running(self) -> Generator[None]:
        """Lock the mode for a `with` block."""
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def reset(self) -> None:
        """Restore `confirm`. ModeLockedError while jobs run."""
        self.mode = Mode.CONFIRM


def _read(mode: object) -> Mode:
    try:
        return Mode(mode)  # type: ignore[arg-type]  # that is what is found out
    except ValueError:
        faults = Faults("mode")
        faults.add("mode", mode, "is unknown", f"give one of {', '.join(Mode)}")
        faults.finish()
        raise
