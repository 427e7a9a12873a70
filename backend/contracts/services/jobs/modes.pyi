"""Whether jobs of a session wait for a person."""

from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum

class Mode(StrEnum):
    """`confirm`: preview, approval, execution; `auto`: execution at once."""

    CONFIRM = "confirm"
    AUTO = "auto"

class Session:
    """The mode of one session; it cannot change while jobs run. Safe to share between threads."""

    def __init__(self, mode: Mode | str = ...) -> None: ...
    @property
    def mode(self) -> Mode:
        """The mode now."""
    @mode.setter
    def mode(self, mode: Mode | str) -> None: ...
    @property
    def locked(self) -> bool:
        """Whether jobs run."""
    def lock(self) -> None:
        """Count one more job that runs."""
    def unlock(self) -> None:
        """Count one less. RuntimeError when none runs."""
    @contextmanager
    def running(self) -> Generator[None]:
        """Lock the mode for a `with` block."""
    def reset(self) -> None:
        """Restore `confirm`. ModeLockedError while jobs run."""
